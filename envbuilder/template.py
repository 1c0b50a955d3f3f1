"""Sandboxed Jinja2 expressions in single strings.

A recipe's strings may hold `{{ ... }}`. Only expressions are known: names, attributes, indices, constants,
comparisons, `and`/`or`/`not`, `a if b else c`, `~`, and a handful of filters. There are no calls, statements, comments
or arithmetic, so an expression can neither loop nor grow, and the values it sees are plain text, numbers and mappings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from envbuilder.document import Text, controls, where
from envbuilder.errors import InputError

FILTERS = ("default", "join", "lower", "upper")
MAX_LENGTH = 20_000
MAX_DEPTH = 30

Scope = Mapping[str, Any]

# `{{ variant.version }}`; a brace beside it would begin something else, and some words are no names
_PLAIN = re.compile(
    r"(?<!\{)\{\{ ?(?!(?:and|else|false|if|in|is|loop|none|not|or|self|super|true)\b)"
    r"([a-z][a-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*){0,8}) ?\}\}(?!\})"
)


def render(text: str, scope: Scope) -> str:
    """The text with its expressions replaced; raises `InputError` at the text's own place."""
    if not _has_markup(text):
        return text
    result = _plainly(str(text), scope)
    if result is None:
        result = _by_jinja(text, scope)
    if len(result) > MAX_LENGTH:
        raise InputError(f"{where(text)}{_short(text)} becomes longer than {MAX_LENGTH} characters", hint="shorten it")
    if controls(result):
        raise InputError(f"{where(text)}{_short(text)} becomes a text with control characters", hint="leave them out")
    return Text.at(result, text.mark) if isinstance(text, Text) else result


def _by_jinja(text: str, scope: Scope) -> str:
    import jinja2

    try:
        return str(_compiled(str(text)).render(scope))
    except InputError as error:
        raise InputError(f"{where(text)}{error.message}", hint=error.hint) from error
    except jinja2.UndefinedError as error:
        known = ", ".join(sorted(scope))
        raise InputError(f"{where(text)}in {_short(text)}: {error}", hint=f"known names are {known}") from error
    except (jinja2.TemplateError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where(text)}in {_short(text)}: {error}", hint="see the recipe reference") from error


def problem(text: str) -> str | None:
    """What is wrong with the expressions in a text, judged without a scope; None when nothing is."""
    if not _has_markup(text) or _is_plain(str(text)):
        return None
    import jinja2

    try:
        _compiled(str(text))
    except InputError as error:
        return error.message
    except jinja2.TemplateError as error:
        return f"in {_short(text)}: {error}"
    return None


def _is_plain(text: str) -> bool:
    """Whether all expressions in a text are names with attributes, which need no engine: nearly all are."""
    rest = _PLAIN.sub("", text)
    return not _has_markup(rest) and "\r" not in text and len(text) <= MAX_LENGTH


def _plainly(text: str, scope: Scope) -> str | None:
    """The text with its plain expressions replaced; None where there are others, or where one has no plain value."""
    if not _is_plain(text):
        return None
    pieces, end = [], 0
    for found in _PLAIN.finditer(text):
        value: Any = scope
        for name in found[1].split("."):
            if not isinstance(value, Mapping) or name not in value:
                return None
            value = value[name]
        if not isinstance(value, (str, int, float)):
            return None
        pieces += [text[end : found.start()], str(value)]
        end = found.end()
    return "".join([*pieces, text[end:]])


def _has_markup(text: str) -> bool:
    return "{{" in text or "{%" in text or "{#" in text


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


@cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        """Attributes and items are entries of mappings, never methods, whose text would hold an address in memory."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            return self.getitem(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            known = isinstance(obj, Mapping) and isinstance(argument, str) and argument in obj
            return obj[argument] if known else self.undefined(obj=obj, name=argument)

    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    environment.tests = {name: environment.tests[name] for name in ("defined", "undefined", "none", "in")}
    return environment


@cache
def _compiled(text: str) -> Any:
    if "{#" in text or "{%" in text:
        raise InputError("statements and comments are not allowed in a template", hint="write a plain {{ expression }}")
    if len(text) > MAX_LENGTH:
        raise InputError(f"{len(text)} characters are too many for a template", hint=f"write at most {MAX_LENGTH}")
    environment = _environment()
    try:
        tree = environment.parse(text)
        _refuse_strangers(tree, MAX_DEPTH)
        return environment.from_string(tree)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        # what the parser says of an expression that is nested thousands of levels deep, and int() of so many digits
        raise InputError(f"in {_short(text)}: too long or too deeply nested", hint="write it shorter") from error


def _refuse_strangers(tree: Any, levels: int) -> None:
    from jinja2 import nodes

    allowed = (
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem,
        nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
        nodes.Concat, nodes.List, nodes.Tuple,
    )  # fmt: skip
    if not levels:
        raise InputError(f"nested more than {MAX_DEPTH} levels deep", hint="write a shorter expression")
    for node in tree.iter_child_nodes():
        _refuse_strangers(node, levels - 1)
        if isinstance(node, nodes.Name) and node.name == "self":
            raise InputError("'self' is not a name in a template", hint="see the recipe reference")
        if not isinstance(node, allowed):
            what = type(node).__name__
            raise InputError(
                f"{what} is not allowed in a template",
                hint="only plain expressions are: names, attributes, comparisons, `a if b else c`, and the filters "
                + ", ".join(FILTERS),
            )
