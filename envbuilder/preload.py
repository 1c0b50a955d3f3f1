"""Libraries that a site loads into every process (LD_PRELOAD), such as a counter of programs: which it allows, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envbuilder.partition import SOURCE
from envbuilder.shape import Field, Table, Words

# a path may hold the linker's own words, such as $LIB
LIBRARY = r"(/[^\s:]*/)?[A-Za-z0-9_.+-]+\.so[A-Za-z0-9_.-]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preload:
    """One that is allowed: `library` is a soname or the name of a file, wherever it lies, or the path of one file."""

    library: str
    why: str
    source: tuple[str, ...] = ()


PRELOAD = Table(
    build=Preload,
    doc="A library that LD_PRELOAD may name.",
    fields={
        "library": Field(
            shape=Words(
                doc="Its soname or file name, wherever it lies; or a path, for that file alone.",
                pattern=LIBRARY,
                example="libxalt_init.so",
            ),
            required=True,
        ),
        "why": Field(shape=Words(doc="What it is for, and who wants it in every process."), required=True),
        "source": SOURCE,
    },
)


def parts(value: str) -> tuple[str, ...]:
    """The entries of an LD_PRELOAD, which spaces or colons separate (ld.so(8))."""
    return tuple(part for part in re.split(r"[\s:]+", value) if part)


def reason(seen: Mapping[str, str], allowed: Iterable[Mapping[str, str]]) -> str | None:
    """Why the site allows a preloaded library; None if it does not.

    `seen` has the `entry` as LD_PRELOAD names it, the real `path` of the file and its `soname`.
    """
    names = {seen["entry"].rpartition("/")[2], seen["soname"]}
    for one in allowed:
        if one["library"] in (names if "/" not in one["library"] else (seen["entry"], seen["path"])):
            return one["why"]
    return None
