"""Reads specs in Spack's syntax, strictly.

The grammar is the one that Spack's documentation describes (its page "Spec Syntax"); what Spack takes beyond that is refused
where it is more likely a slip than a wish: empty ranges, names that are missing, a constraint that is given twice. Mistakes
point at the character.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from envbuilder.spec import DEPTYPES, FLAGS, PLACES, PLAIN, Edge, Flag, Spec, Variant
from envbuilder.spec_versions import EXTENT, Misspelt
from envbuilder.spec_versions import read as read_versions

_IDENTIFIER = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_WORD = re.compile(_IDENTIFIER)
_NAME = re.compile(rf"(?:{_IDENTIFIER}\.)*{_IDENTIFIER}")
_SIGN = re.compile(r"\+\+|~~|--|\+|~|-")
_ASSIGN = re.compile(r":==|:=|==|=")
_HASH = re.compile(r"[A-Za-z0-9]+")
_VIRTUALS = re.compile(rf"(?P<virtuals>{_IDENTIFIER}(?:,{_IDENTIFIER})*)=")
_SPACE = re.compile(r"[ \t\r\n]*")
_BOOLEAN = {"true": True, "false": False}
_LONGEST = 4000
_ATTRIBUTES = ("deptypes", "virtuals", "when")


def read(text: str) -> Spec:
    """The spec in a text; raises `Misspelt`."""
    if len(text) > _LONGEST:
        raise Misspelt(_LONGEST, f"more than {_LONGEST} characters", "write several specs")
    reader = _Reader(text)
    spec = reader.spec()
    if reader.at < len(text):
        reader.refuse_stranger()
    return spec


@dataclass(slots=True)
class _Node:
    """What has been read of one package so far; `found` holds fields of a `Spec`."""

    found: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    flags: dict[str, Flag] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.found or self.variants or self.flags)

    def build(self, edges: tuple[Edge, ...] = ()) -> Spec:
        return Spec(
            **self.found,
            variants=tuple(self.variants[name] for name in sorted(self.variants)),
            flags=tuple(self.flags[name] for name in sorted(self.flags)),
            edges=edges,
        )


class _Reader:
    """Reads a spec from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def spec(self) -> Spec:
        """The whole: the root with its direct dependencies, then each transitive one with its own."""
        self._space()
        if self.at == len(self.text):
            raise Misspelt(0, "the spec is empty", "write a package's name, such as py-mpi4py")
        root = self._node()
        direct = self._direct()
        below: list[Edge] = []
        while self._peek() == "^":
            at = self.at
            edge, node = self._edge("^")
            own = self._direct()
            below.append(self._single(replace(edge, spec=node.build(tuple(own))), below, at))
        return root.build((*direct, *below))

    def refuse_stranger(self) -> None:
        """Whatever stands here cannot be part of a spec."""
        letter = self.text[self.at]
        if _WORD.match(letter) or letter == "-":
            word = _WORD.match(self.text, self.at)
            name = word.group() if word else letter
            if self.text[self.at + len(name) :].lstrip()[:1] == "=":
                raise Misspelt(self.at + len(name), "a space before '='", f"write {name}=VALUE without spaces")
            raise Misspelt(
                self.at, f"a second package, {name!r}, begins here", f"write a dependency as ^{name} or %{name}"
            )
        raise Misspelt(self.at, f"{letter!r} has no meaning here", "see Spack's spec syntax; quote values that hold it")

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _space(self) -> bool:
        match = _SPACE.match(self.text, self.at)
        before, self.at = self.at, match.end() if match else self.at
        return self.at > before

    def _direct(self) -> list[Edge]:
        edges: list[Edge] = []
        while self._peek() == "%":
            at = self.at
            sigil = "%%" if self.text.startswith("%%", self.at) else "%"
            edge, node = self._edge(sigil)
            edges.append(self._single(replace(edge, spec=node.build()), edges, at))
        return edges

    @staticmethod
    def _single(edge: Edge, others: list[Edge], at: int) -> Edge:
        """A package may be named again to provide another virtual, or under another condition; else it was a slip."""
        for other in others:
            if edge.spec.name and edge.spec.name == other.spec.name and edge.when == other.when:
                if not edge.virtuals or not other.virtuals or set(edge.virtuals) & set(other.virtuals):
                    raise Misspelt(
                        at, f"{edge.spec.name} is asked for twice", "write all that is asked of it in one place"
                    )
                if edge.spec != other.spec:
                    raise Misspelt(
                        at, f"{edge.spec.name} is asked for in two ways", "write the same for each of its virtuals"
                    )
        return edge

    def _edge(self, sigil: str) -> tuple[Edge, _Node]:
        start = self.at
        self.at += len(sigil)
        edge = replace(self._attributes(), sigil=sigil) if self._peek() == "[" else Edge(sigil=sigil, spec=Spec())
        self._space()
        bound = _VIRTUALS.match(self.text, self.at)
        if bound and not self.text.startswith("=", bound.end()):
            if edge.virtuals:
                raise Misspelt(self.at, "the virtuals are named twice", "write them before the '=' or in the brackets")
            self.at = bound.end()
            edge = replace(edge, virtuals=tuple(sorted(set(bound["virtuals"].split(",")))))
            if not _WORD.match(self._peek()):
                raise Misspelt(self.at - 1, "a package's name must follow '='", f"write it as {sigil}mpi=cray-mpich")
        if not (_WORD.match(self._peek()) or self._peek() == "/"):
            raise Misspelt(
                min(self.at, len(self.text) - 1) if self.at > start + len(sigil) else start,
                f"a package's name must follow {sigil!r}",
                f"write it as {sigil}cray-mpich@8.1",
            )
        node = self._node()
        if "name" not in node.found and "hash" not in node.found:
            raise Misspelt(start, f"a package's name must follow {sigil!r}", f"write it as {sigil}cray-mpich@8.1")
        return edge, node

    def _attributes(self) -> Edge:
        """What stands in the brackets of a dependency, on an edge that leads nowhere yet."""
        start = self.at
        self.at += 1
        found: dict[str, tuple[str, int]] = {}
        while True:
            self._space()
            if self._peek() == "]":
                break
            word = _WORD.match(self.text, self.at)
            if self.at == len(self.text) or word is None or word.group() not in _ATTRIBUTES:
                known = f"known are {', '.join(_ATTRIBUTES)}; close with ]"
                if self.at == len(self.text):
                    raise Misspelt(start, "the bracket is not closed", known)
                raise Misspelt(self.at, "not an attribute of a dependency", known)
            if word.group() in found:
                raise Misspelt(self.at, f"{word.group()} is given twice", "keep one")
            found[word.group()] = self._attribute(word.end(), word.group())
        if not found:
            raise Misspelt(start, "empty brackets", f"leave them out, or name {', '.join(_ATTRIBUTES)}")
        self.at += 1
        return _edge(found)

    def _attribute(self, start: int, name: str) -> tuple[str, int]:
        """The value of an attribute and where it begins."""
        if self.text[start : start + 1] != "=":
            raise Misspelt(
                min(start, len(self.text) - 1), f"'=' must follow {name}", f"write {name}=VALUE without spaces"
            )
        quote = self.text[start + 1 : start + 2]
        if quote and quote in "'\"":
            end = self.text.find(quote, start + 2)
            if end < 0:
                raise Misspelt(start + 1, "the quote is not closed", f"close it with {quote}")
            self.at = end + 1
            value, at = self.text[start + 2 : end], start + 2
            inner = next((place for place, letter in enumerate(value) if letter in "'\""), -1)
            if inner >= 0:
                raise Misspelt(at + inner, "quotes within quotes", "write a condition that needs none")
        else:
            match = PLAIN.match(self.text, start + 1)
            value, at = (match.group() if match else ""), start + 1
            self.at = at + len(value)
        if not value and self.text[at : at + 1] not in ("", "]", " ", "'", '"'):
            raise Misspelt(at, f"{self.text[at]!r} cannot begin a value", "quote the whole value")
        if not value.strip():
            raise Misspelt(
                start, f"a value must follow {name}=", f"write {name}=VALUE; quote it unless it is a plain word"
            )
        return value, at

    def _node(self) -> _Node:
        node = _Node()
        spaced = True
        while self.at < len(self.text):
            letter = self._peek()
            if letter in "^%":
                break
            if letter == "@":
                self._version(node)
            elif letter in "+~" or (letter == "-" and spaced):
                self._switch(node)
            elif letter == "/":
                self._hash(node)
            elif _WORD.match(letter):
                if not self._word(node):
                    break
            else:
                break
            spaced = self._space()
        return node

    def _version(self, node: _Node) -> None:
        at = self.at
        if "versions" in node.found:
            raise Misspelt(at, "a second version of one package", "write one: @1.2:1.4,1.6")
        match = EXTENT.match(self.text, at + 1)
        end = match.end() if match else at + 1
        slash = self.text.find("/", at + 1, end)
        if slash >= 0 and not self.text.startswith("git.", at + 1):  # a hash follows
            end = slash
        try:
            node.found["versions"] = read_versions(self.text[at + 1 : end])
        except Misspelt as wrong:
            near = at if end == at + 1 else at + 1 + wrong.at
            raise Misspelt(min(near, len(self.text) - 1), wrong.what, wrong.instead) from wrong
        self.at = end

    def _switch(self, node: _Node) -> None:
        sign = _SIGN.match(self.text, self.at)
        assert sign is not None  # noqa: S101 - for the type checker
        word = _WORD.match(self.text, sign.end())
        if word is None:
            raise Misspelt(self.at, f"a variant's name must follow {sign.group()!r}", f"write it as {sign.group()}mpi")
        name = word.group()
        self._once(node, name, self.at)
        node.variants[name] = Variant(name=name, value=sign.group()[0] == "+", inherited=len(sign.group()) == 2)
        self.at = word.end()
        if self._peek() and self._peek() in ".=:":
            raise Misspelt(
                self.at, f"{self._peek()!r} cannot follow {sign.group()}{name}", f"write {name}=VALUE without the sign"
            )

    def _hash(self, node: _Node) -> None:
        match = _HASH.match(self.text, self.at + 1)
        if match is None:
            raise Misspelt(self.at, "a hash must follow '/'", "write it as /qmt35td")
        if "hash" in node.found:
            raise Misspelt(self.at, "a second hash of one package", "keep one")
        node.found["hash"] = match.group()
        self.at = match.end()

    def _word(self, node: _Node) -> bool:
        """A name or `key=value`; false if neither belongs to this package."""
        name = _NAME.match(self.text, self.at)
        assert name is not None  # noqa: S101 - for the type checker
        assign = _ASSIGN.match(self.text, name.end())
        if assign is not None:
            self._value(node, name.group(), assign.group(), assign.end())
            return True
        if not node.empty:
            return False
        *above, last = name.group().split(".")
        node.found["name"] = last
        if above:
            node.found["namespace"] = ".".join(above)
        self.at = name.end()
        return True

    def _value(self, node: _Node, name: str, sign: str, start: int) -> None:
        at = self.at
        if "." in name:
            raise Misspelt(at, f"{name!r} cannot be a variant's name", "write a name without dots")
        value = self._text(name, start)
        if name in PLACES or name == "arch":
            self._place(node, name, sign, value, at)
        elif name in FLAGS:
            if sign not in ("=", "=="):
                raise Misspelt(at + len(name), f"{name} takes '=' or '=='", f"write {name}='...'")
            if name in node.flags:
                raise Misspelt(at, f"{name} is given twice", f"write {name}='...' once, with all flags in it")
            node.flags[name] = Flag(name=name, value=value, inherited=sign.endswith("=="))
        else:
            self._once(node, name, at)
            node.variants[name] = _variant(name, sign, value, start)

    def _place(self, node: _Node, name: str, sign: str, value: str, at: int) -> None:
        if sign != "=":
            raise Misspelt(at + len(name), f"{name} takes '=' alone", f"write {name}={value}")
        values = {name: value}
        if name == "arch":
            triple = value.split("-")
            if len(triple) != 3:
                raise Misspelt(at, "arch needs platform, os and target", "write arch=linux-sles15-zen2, or target=zen2")
            values = dict(zip(PLACES, triple, strict=True))
        for key, one in values.items():
            if key in node.found:
                raise Misspelt(at, f"{key} is given twice", "keep one")
            node.found[key] = one

    def _once(self, node: _Node, name: str, at: int) -> None:
        if name in node.variants:
            raise Misspelt(at, f"the variant {name} is given twice", "keep one")

    def _text(self, name: str, start: int) -> str:
        quote = self.text[start : start + 1]
        if quote in ("'", '"') and quote:
            end = self.text.find(quote, start + 1)
            if end < 0:
                raise Misspelt(start, "the quote is not closed", f"close it with {quote}")
            value = self.text[start + 1 : end]
            if "\\" in value:
                raise Misspelt(start, "a backslash in quotes", "write it without; use the other kind of quotes")
            self.at = end + 1
        else:
            match = PLAIN.match(self.text, start)
            value = match.group() if match else ""
            self.at = start + len(value)
        if not value.strip():
            if self.at < len(self.text) and self.at == start and not self.text[start].isspace():
                raise Misspelt(start, f"{self.text[start]!r} cannot begin a value", "quote the whole value")
            raise Misspelt(start - 1, "a value must follow '='", f"write it as {name}=VALUE, without a space")
        if self.at < len(self.text) and not self.text[self.at].isspace():
            raise Misspelt(
                self.at, f"{self.text[self.at]!r} cannot follow a value", "quote the whole value, or put a space there"
            )
        return value


def _variant(name: str, sign: str, value: str, start: int) -> Variant:
    inherited, only = sign.endswith("=="), sign.startswith(":")
    if value.lower() in _BOOLEAN:
        return Variant(name=name, value=_BOOLEAN[value.lower()], inherited=inherited)
    values = value.split(",")
    if not all(one.strip() for one in values):
        raise Misspelt(start, f"an empty value in the list of {name}", f"write {name}=a,b")
    if "*" in values and len(values) > 1:
        raise Misspelt(start, "'*' stands for any value and cannot be one of several", f"write {name}=*")
    return Variant(name=name, value=tuple(sorted(set(values))), inherited=inherited, only=only)


def _edge(found: dict[str, tuple[str, int]]) -> Edge:
    """The edge that attributes make; each is a text and where it begins."""
    names = {key: _names(*found[key]) for key in ("deptypes", "virtuals") if key in found}
    for name in names.get("deptypes", ()):
        if name not in DEPTYPES:
            raise Misspelt(found["deptypes"][1], f"{name!r} is no type of dependency", f"write {', '.join(DEPTYPES)}")
    when = None
    if "when" in found:
        text, at = found["when"]
        if "," in text:  # Spack 1.1 reads what stands before it, and drops the rest
            raise Misspelt(at + text.index(","), "a comma in a condition", "write a condition without lists")
        try:
            when = read(text)
        except Misspelt as wrong:
            raise Misspelt(at + wrong.at, wrong.what, wrong.instead) from wrong
    return Edge(sigil="", spec=Spec(), when=when, **names)


def _names(text: str, at: int) -> tuple[str, ...]:
    names = text.split(",")
    for name in names:
        if not _WORD.fullmatch(name):
            raise Misspelt(at, f"{name!r} is not a name", "write names joined by commas, without spaces")
        at += len(name) + 1
    return tuple(sorted(set(names)))
