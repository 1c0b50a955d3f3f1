"""YAML and JSON read strictly, with addresses, and the canonical digest of a document.

The one place that reads YAML. Only plain data get through: mappings with text keys, lists, text, numbers, booleans,
null. Tags, anchors, aliases, merge keys and duplicate keys are refused, each with file, line and column.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuilder.errors import InputError, StoreError

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NUMBER = 10**18

_YAML_HINT = "look at the indentation, the quotes, the brackets and the colons there"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Text(str):
    """Text that knows where it was written, so that an error found much later can still say so.

    `shift` is how far behind its mark the first character stands (behind a quote); None where characters and columns do not
    go together, in texts of several lines or with escapes.
    """

    __slots__ = ("mark", "shift")
    mark: Mark
    shift: int | None

    @classmethod
    def at(cls, value: str, mark: Mark, shift: int | None = None) -> Text:
        """The text `value`, written at `mark`."""
        text = cls(value)
        text.mark = mark
        text.shift = shift
        return text

    def place(self, offset: int) -> Mark:
        """Where its character number `offset` (from 0) stands, or the whole text where that cannot be told."""
        if self.shift is None:
            return self.mark
        return Mark(self.mark.file, self.mark.line, self.mark.column + self.shift + offset)


def where(value: object) -> str:
    """`file:line:column: ` of a text that knows its place, else nothing."""
    return f"{value.mark}: " if isinstance(value, Text) and hasattr(value, "mark") else ""


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a document with its place and its path (`variants[0].python`).

    `value` is a dict of nodes, a list of nodes, or a scalar; `raw` is the scalar as it was written.
    """

    value: Any
    mark: Mark
    path: str
    raw: str = ""

    def plain(self) -> Any:
        """The value without addresses."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def read_text(path: Path, what: str) -> str:
    """The text of a file from a user; raises `InputError` when it is missing, too large or not UTF-8."""
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: {size} bytes are too many for a {what}", hint=f"at most {MAX_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        place = _place(error.object[: error.start].decode("utf-8"), str(path))
        raise InputError(f"{place}: not UTF-8 text", hint=f"save the {what} as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot read this {what}: {error.strerror}") from error


def load_yaml(text: str, file: str) -> Node:
    """The document in `text`; `file` is the name that errors show. Raises `InputError`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(file, yaml)
    try:
        root = builder.document(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(file, mark.line + 1, mark.column + 1) if mark else Mark(file, 1, 1)
        what = error.problem or error.context or "cannot be parsed"
        raise InputError(f"{place}: not valid YAML: {what}", hint=_YAML_HINT) from error
    except (yaml.YAMLError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else "cannot be parsed"
        raise InputError(f"{_strange(text, file)}: not valid YAML: {first}", hint="remove the character") from error
    if root is None:
        raise InputError(f"{Mark(file, 1, 1)}: the file is empty", hint="see `envbuilder schema` for what it may hold")
    return root


def load_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object that envbuilder wrote earlier; raises `StoreError` when it is damaged or missing."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot read this {what}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{path}: this {what} is damaged: {error}", hint="remove it; the next build makes it anew"
        ) from error
    if not isinstance(document, dict):
        raise StoreError(f"{path}: this {what} is damaged: not a JSON object", hint="remove it")
    return document


def controls(text: str) -> bool:
    """Whether a text holds characters that act on a terminal or end a line: controls, separators, half surrogates."""
    return not text.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def to_json(document: Any, *, ascii_only: bool = False) -> str:
    """The document as people read it: indented JSON with a final newline."""
    return json.dumps(document, indent=2, ensure_ascii=ascii_only) + "\n"


def to_yaml(document: Any) -> str:
    """Plain data as people write it."""
    import yaml

    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100))


def digest(document: Any) -> str:
    """The sha256, in hex, of the canonical form of a JSON-able document (sorted keys, no spaces, UTF-8)."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_jsonable)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()


def write_atomically(path: Path, text: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new, never a part; raises OSError.

    What is `durable` outlives a failure of the machine, too, which takes a while on some file systems.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as sink:
            sink.write(text)
            if durable:
                sink.flush()
                os.fsync(sink.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _place(before: str, file: str) -> Mark:
    """The place right behind a text."""
    return Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _shift(event: Any) -> int | None:
    """See `Text`; the length in the file is compared with that of the value."""
    start, end = event.start_mark, event.end_mark
    quotes = 1 if event.style in ("'", '"') else 0
    one_to_one = start.line == end.line and end.column - start.column == len(event.value) + 2 * quotes
    return quotes if one_to_one and event.style not in ("|", ">") else None


def _strange(text: str, file: str) -> Mark:
    """The place of the first character that YAML does not allow; the parser gives none."""
    for at, letter in enumerate(text):
        if letter in "\ufffe\uffff" or (letter not in "\t\n\r\x85" and unicodedata.category(letter) in ("Cc", "Cs")):
            return _place(text[:at], file)
    return _place("", file)


def _jsonable(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


class _Builder:
    """Turns the event stream of the parser into nodes, and refuses what is not plain data."""

    def __init__(self, file: str, yaml: Any) -> None:
        self._file = file
        self._yaml = yaml
        self._constructor = yaml.SafeLoader("")

    def document(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refuse(event, "a second document in one file", "keep one document per file")
            elif isinstance(event, self._yaml.NodeEvent):
                root = self._node(event, events, "", 0)
        return root

    def _node(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._refuse(event, f"nested more than {MAX_DEPTH} levels deep", "flatten it")
        if isinstance(event, self._yaml.AliasEvent) or event.anchor is not None:
            raise self._refuse(event, "anchors and aliases are not allowed", "write the value out where it is needed")
        if isinstance(event, self._yaml.ScalarEvent):
            return self._scalar(event, path)
        if event.tag is not None and event.tag != "!":
            raise self._refuse(event, f"the tag {event.tag!r} is not allowed", "write plain data")
        if isinstance(event, self._yaml.SequenceStartEvent):
            return self._sequence(event, events, path, depth)
        return self._mapping(event, events, path, depth)

    def _sequence(self, start: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        items: list[Node] = []
        for event in events:
            if isinstance(event, self._yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, f"{path}[{len(items)}]", depth + 1))
        return Node(items, self._mark(start), path)

    def _mapping(self, start: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        entries: dict[str, Node] = {}
        for event in events:
            if isinstance(event, self._yaml.MappingEndEvent):
                break
            key = self._key(event)
            if key in entries:
                first = entries[key].mark
                raise self._refuse(event, f"the key {key!r} is written twice (first on line {first.line})", "keep one")
            entries[key] = self._node(next(events), events, f"{path}.{key}" if path else key, depth + 1)
        return Node(entries, self._mark(start), path)

    def _key(self, event: Any) -> str:
        if not isinstance(event, self._yaml.ScalarEvent):
            raise self._refuse(event, "a key must be plain text", "write a name")
        if event.value == "<<":
            raise self._refuse(event, "merge keys are not allowed", "write the entries out")
        if event.anchor is not None or event.tag not in (None, "!"):
            raise self._refuse(event, "a key must be plain text", "write a name")
        if controls(event.value):
            raise self._refuse(event, f"the key {event.value[:40]!r} has control characters", "write a plain name")
        return str(event.value)

    def _scalar(self, event: Any, path: str) -> Node:
        mark = self._mark(event)
        if event.tag not in (None, "!"):
            raise self._refuse(event, f"the tag {event.tag!r} is not allowed", "write plain data")
        value = self._resolved(event) if event.implicit[0] else event.value
        text = Text.at(value, mark, _shift(event)) if isinstance(value, str) else value
        return Node(text, mark, path, event.value)

    def _resolved(self, event: Any) -> Any:
        """What YAML makes of an unquoted scalar; dates stay text, since no field of ours is a date type."""
        tag = self._constructor.resolve(self._yaml.ScalarNode, event.value, (True, False))
        kind = tag.rpartition(":")[2]
        if kind not in ("int", "float", "bool", "null"):
            return event.value
        node = self._yaml.ScalarNode(tag, event.value)
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, OverflowError, self._yaml.YAMLError) as error:
            raise self._refuse(event, f"{event.value[:40]!r} cannot be read as {kind}", "quote it") from error
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise self._refuse(event, f"{event.value[:40]!r} is too large a number", "quote it if it is text")
        return value

    def _mark(self, event: Any) -> Mark:
        return Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _refuse(self, event: Any, what: str, instead: str) -> InputError:
        return InputError(f"{self._mark(event)}: {what}", hint=instead)
