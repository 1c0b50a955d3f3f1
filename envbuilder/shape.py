"""Shapes: one description of a document that reads it strictly, exports its JSON Schema and documents it.

A shape reads a `Node` into plain frozen data. Problems are collected, not raised one by one, so that a user sees all
the mistakes of a file at once, each with file, line, column, path, what is wrong and what to write instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

from envbuilder.document import Node, Text, controls
from envbuilder.errors import InputError

# what a text of several lines may hold beside what one line may
_BREAKS = {ord(letter): " " for letter in "\n\t"}


class Problems:
    """The mistakes found in one document."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, node: Node, message: str, instead: str) -> None:
        """Note a mistake at a node; `instead` says what to write."""
        path = f"{node.path}: " if node.path else ""
        self.found.append(f"{node.mark}: {path}{message}; {instead}")

    def raise_if_any(self) -> None:
        """Raise one `InputError` that lists every mistake."""
        if self.found:
            raise InputError("\n".join(self.found))


class Shape(Protocol):
    """What every shape can do."""

    @property
    def doc(self) -> str:
        """What the value means, in one sentence."""

    def read(self, node: Node, problems: Problems) -> Any:
        """The value of the node, or None after noting a problem."""

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of this shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Text; with `pattern` it must match wholly, with `choices` it must be one of them.

    `check` returns what is wrong with a text, or nothing. With `rendered` a text may hold template expressions, and is then
    judged when it is rendered.
    """

    doc: str = ""
    pattern: str | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[str], str | None] | None = None
    example: str = ""
    multiline: bool = False
    rendered: bool = False

    def read(self, node: Node, problems: Problems) -> Text | None:
        """The text with its place."""
        if not isinstance(node.value, str):
            problems.add(node, f"must be text, not {_kind(node)}", _quote(node))
            return None
        wrong = self._wrong(node.value)
        if wrong:
            problems.add(node, wrong, f"write for example {self.example!r}" if self.example else "see the reference")
            return None
        return node.value if isinstance(node.value, Text) else Text.at(node.value, node.mark)

    def _wrong(self, value: str) -> str | None:
        if controls(value.translate(_BREAKS) if self.multiline else value):
            return "must not contain control characters or line breaks"
        if self.choices and value not in self.choices:
            return f"{value!r} is not one of {', '.join(self.choices)}{_near(value, self.choices)}"
        if self.rendered and "{{" in value:
            return None
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return f"{value[:80]!r} is not of the required form"
        return self.check(value) if self.check else None

    def schema(self) -> dict[str, Any]:
        """A JSON Schema string."""
        result: dict[str, Any] = {"type": "string"}
        if self.pattern is not None:
            result["pattern"] = rf"^({self.pattern}|.*\{{\{{.*)$" if self.rendered else f"^({self.pattern})$"
        if self.choices:
            result["enum"] = list(self.choices)
        return _described(result, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A whole number between `least` and `most`."""

    doc: str = ""
    least: int = 0
    most: int = 1_000_000

    def read(self, node: Node, problems: Problems) -> int | None:
        """The number."""
        if not isinstance(node.value, int) or isinstance(node.value, bool):
            problems.add(node, f"must be a whole number, not {_kind(node)}", f"write a number from {self.least}")
            return None
        if not self.least <= node.value <= self.most:
            problems.add(node, f"{node.raw[:40]} is out of range", f"write a number from {self.least} to {self.most}")
            return None
        return node.value

    def schema(self) -> dict[str, Any]:
        """A JSON Schema integer."""
        return _described({"type": "integer", "minimum": self.least, "maximum": self.most}, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Switch:
    """Yes or no, written `true` or `false`."""

    doc: str = ""

    def read(self, node: Node, problems: Problems) -> bool | None:
        """The truth value."""
        if not isinstance(node.value, bool):
            problems.add(node, f"must be true or false, not {_kind(node)}", "write true or false, without quotes")
            return None
        return node.value

    def schema(self) -> dict[str, Any]:
        """A JSON Schema boolean."""
        return _described({"type": "boolean"}, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOf:
    """A list whose items all have one shape; read as a tuple."""

    of: Shape
    doc: str = ""
    at_least: int = 0

    def read(self, node: Node, problems: Problems) -> tuple[Any, ...] | None:
        """The items, without those that were wrong."""
        if not isinstance(node.value, list):
            problems.add(node, f"must be a list, not {_kind(node)}", "write one item per line, each after a dash")
            return None
        if len(node.value) < self.at_least:
            problems.add(node, f"needs at least {self.at_least} item(s)", "add one")
        items = (self.of.read(item, problems) for item in node.value)
        return tuple(item for item in items if item is not None)

    def schema(self) -> dict[str, Any]:
        """A JSON Schema array."""
        result: dict[str, Any] = {"type": "array", "items": self.of.schema()}
        if self.at_least:
            result["minItems"] = self.at_least
        return _described(result, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MapOf:
    """A mapping from names (matching `keys` wholly) to values of one shape."""

    of: Shape
    keys: str = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    doc: str = ""

    def read(self, node: Node, problems: Problems) -> dict[str, Any] | None:
        """The entries, without those that were wrong."""
        if not isinstance(node.value, dict):
            problems.add(node, f"must be a mapping, not {_kind(node)}", "write `name: value` lines")
            return None
        result: dict[str, Any] = {}
        for key, child in node.value.items():
            if not re.fullmatch(self.keys, key):
                problems.add(child, f"the key {key[:80]!r} is not of the required form", "use a plain name")
                continue
            value = self.of.read(child, problems)
            if value is not None:
                result[key] = value
        return result

    def schema(self) -> dict[str, Any]:
        """A JSON Schema object with free keys."""
        return _described(
            {
                "type": "object",
                "patternProperties": {f"^({self.keys})$": self.of.schema()},
                "additionalProperties": False,
            },
            self,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One key of a table: the shape of its value, and whether it must be there."""

    shape: Shape
    required: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A mapping with known keys, read into `build(**values)`; unknown keys are mistakes.

    A field's `name` is the attribute it becomes, where that differs from the key. `one_of` lists keys of which exactly
    one must be there.
    """

    build: Callable[..., Any]
    fields: Mapping[str, Field]
    doc: str = ""
    one_of: tuple[str, ...] = field(default=())

    def read(self, node: Node, problems: Problems) -> Any:
        """The built value, or None when a required key is missing or wrong."""
        if not isinstance(node.value, dict):
            problems.add(node, f"must be a mapping, not {_kind(node)}", f"its keys are {', '.join(self.fields)}")
            return None
        before = len(problems.found)
        self._report_strangers(node, problems)
        values = {
            spec.name or key: spec.shape.read(node.value[key], problems)
            for key, spec in self.fields.items()
            if key in node.value
        }
        return self.build(**values) if len(problems.found) == before else None

    def _report_strangers(self, node: Node, problems: Problems) -> None:
        for key, child in node.value.items():
            if key not in self.fields:
                near = _near(key, tuple(self.fields))
                problems.add(child, f"unknown key {key[:80]!r}{near}", f"known are {', '.join(self.fields)}")
        for key, spec in self.fields.items():
            if spec.required and key not in node.value:
                problems.add(node, f"the key {key!r} is missing", f"add `{key}: ...`")
        present = [key for key in self.one_of if key in node.value]
        if self.one_of and len(present) != 1:
            problems.add(node, f"needs exactly one of {', '.join(self.one_of)}, has {len(present)}", "keep one")

    def schema(self) -> dict[str, Any]:
        """A JSON Schema object with known keys."""
        result: dict[str, Any] = {
            "type": "object",
            "properties": {key: spec.shape.schema() for key, spec in self.fields.items()},
            "required": [key for key, spec in self.fields.items() if spec.required],
            "additionalProperties": False,
        }
        if self.one_of:
            result["oneOf"] = [{"required": [key]} for key in self.one_of]
        return _described(result, self)


def real_date(text: str) -> str | None:
    """What is wrong with a date that has the form of one, or nothing."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return f"{text!r} is not a date"
    return None


def read_document(shape: Shape, node: Node) -> Any:
    """The value of a whole document; raises `InputError` with every mistake in it."""
    problems = Problems()
    value = shape.read(node, problems)
    problems.raise_if_any()
    return value


def _described(schema: dict[str, Any], shape: Shape) -> dict[str, Any]:
    if shape.doc:
        schema["description"] = shape.doc
    return schema


def _kind(node: Node) -> str:
    match node.value:
        case None:
            return "empty"
        case bool():
            return f"the truth value {node.raw}"
        case int() | float():
            return f"the number {str(node.value)[:40]}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "text"


def _quote(node: Node) -> str:
    if isinstance(node.value, (list, dict)):
        return "write a single value"
    if node.value is None:
        return "write a value or leave the key out"
    return f'quote it: "{node.raw[:40]}"'


def _near(word: str, known: tuple[str, ...]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
