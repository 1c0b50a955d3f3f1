"""Specs: what is wanted of a package and its dependencies, in Spack's terms. Plain data; `str()` writes Spack's syntax.

Spack's documentation, page "Spec Syntax", says what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from envbuilder.spec_versions import Versions

FLAGS = ("cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs")
PLACES = ("platform", "os", "target")
DEPTYPES = ("build", "link", "run", "test")

PLAIN = re.compile(r"[A-Za-z0-9_+*.,:=%^~/\\-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """An option of a package: on or off, or its values; `inherited` by dependencies (`==`), `only` these values (`:=`)."""

    name: str
    value: bool | tuple[str, ...]
    inherited: bool = False
    only: bool = False

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return ("+" if self.value else "~") * (2 if self.inherited else 1) + self.name
        return f"{self.name}{':' if self.only else ''}{'==' if self.inherited else '='}{_quoted(','.join(self.value))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """Flags for a compiler, as one text."""

    name: str
    value: str
    inherited: bool = False

    def __str__(self) -> str:
        return f"{self.name}{'==' if self.inherited else '='}{_quoted(self.value)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One package, or any (no `name`), with what is asked of it; `edges` lead to its dependencies."""

    name: str = ""
    namespace: str = ""
    versions: Versions | None = None
    variants: tuple[Variant, ...] = ()
    flags: tuple[Flag, ...] = ()
    platform: str = ""
    os: str = ""
    target: str = ""
    hash: str = ""
    edges: tuple[Edge, ...] = field(default=())

    def __str__(self) -> str:
        return " ".join(filter(None, (self.node, *(str(edge) for edge in self.edges))))

    @property
    def node(self) -> str:
        """The spec without its dependencies."""
        name = f"{self.namespace}.{self.name}" if self.namespace else self.name
        version = f"@{self.versions}" if self.versions else ""
        switches = "".join(str(one) for one in self.variants if isinstance(one.value, bool))
        others = [str(one) for one in self.variants if not isinstance(one.value, bool)]
        places = [f"{key}={value}" for key, value in zip(PLACES, (self.platform, self.os, self.target)) if value]  # noqa: B905
        mark = f"/{self.hash}" if self.hash else ""
        return " ".join(filter(None, (f"{name}{version}{switches}", *others, *map(str, self.flags), *places, mark)))

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, if the spec speaks of it."""
        return next((one for one in self.variants if one.name == name), None)

    def named(self) -> Iterator[Spec]:
        """The spec and all its dependencies."""
        yield self
        for edge in self.edges:
            yield from edge.spec.named()


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """A dependency: `^` anywhere below, `%` direct, `%%` direct and preferred below; `virtuals` that it is to provide."""

    sigil: str
    spec: Spec
    virtuals: tuple[str, ...] = ()
    deptypes: tuple[str, ...] = ()
    when: Spec | None = None

    def __str__(self) -> str:
        attributes = [f"deptypes={','.join(self.deptypes)}"] if self.deptypes else []
        attributes += [f"when='{self.when}'"] if self.when else []
        edge = f"[{' '.join(attributes)}] " if attributes else ""
        return f"{self.sigil}{edge}{','.join(self.virtuals)}{'=' if self.virtuals else ''}{self.spec}"


def _quoted(value: str) -> str:
    if PLAIN.fullmatch(value) and not value.startswith("="):
        return value
    return f'"{value}"' if "'" in value else f"'{value}'"
