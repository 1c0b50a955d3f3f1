"""What a cause is: how a program says it, in one sentence what it means, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sign:
    """How a log shows something: `mark` is looked for as it stands, then `pattern` from the line that holds it.

    The pattern may run on into the lines below; its named groups fill in the sentence of the cause. Without a pattern the
    mark alone will do.
    """

    mark: str
    pattern: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One cause of failures. A log shows it with any of `signs`, all of `also`, and none of `unless`.

    `what` is one sentence without names; `says` is the same with the names that the signs capture (default: `what`).
    `explains` are causes that follow from this one. A `hint` breaks nothing by itself. `sources` say where the fact is from.
    """

    name: str
    what: str
    signs: tuple[Sign, ...]
    remedy: str
    sources: tuple[str, ...]
    says: str = ""
    also: tuple[Sign, ...] = ()
    unless: tuple[Sign, ...] = ()
    explains: tuple[str, ...] = ()
    hint: bool = False
