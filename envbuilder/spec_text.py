"""Specs in the texts of recipes, sites and commands: read, or refused with the place of the character."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from envbuilder.document import Text, where
from envbuilder.errors import InputError

if TYPE_CHECKING:
    from envbuilder.spec import Spec
    from envbuilder.spec_versions import Misspelt

NAMED = "write it as py-torch@2.9.1 +mpi"


def parse(text: str) -> Spec:
    """The spec in a text; raises `InputError` that points at the character, in its file where the text came from one."""
    from envbuilder import spec_reader
    from envbuilder.spec_versions import Misspelt

    try:
        return spec_reader.read(text)
    except Misspelt as wrong:
        raise InputError(_told(text, wrong), hint=wrong.instead) from wrong


def wish(text: str) -> Spec:
    """The spec of a package that is wanted, which has a name; raises `InputError`."""
    from envbuilder.spec_versions import Misspelt

    spec = parse(text)
    if not spec.name:
        raise InputError(_told(text, Misspelt(0, "a spec must begin with a package's name", "")), hint=NAMED)
    return spec


def wish_problem(text: str) -> str:
    """What is wrong with such a spec, in a line, or nothing."""
    try:
        wish(text)
    except InputError as error:
        return f"{error.message}; {error.hint}"
    return ""


def mistakes(texts: Iterable[str]) -> list[str]:
    """What is wrong with those that hold no expression; the others are judged once they are rendered."""
    return [wrong for text in texts if "{{" not in text and (wrong := wish_problem(text))]


def _told(text: str, wrong: Misspelt) -> str:
    """What is wrong with the spec in a text, and where."""
    place = f"{text.place(wrong.at)}: " if isinstance(text, Text) else where(text)
    shown = text if len(text) <= 160 else f"{text[:160]}..."
    return f"{place}{wrong.what} (character {wrong.at + 1} of {str(shown)!r})"
