"""Versions as Spack orders them, and the version specifiers of its specs (`@1.2:1.4,=1.7.1`).

The order is the one that Spack's packaging guide describes under "Version ordering", the specifiers are those of its page on
the spec syntax. What the guide leaves open was asked of a real Spack: `tests/spack/versions.json` holds its verdicts.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

# in ascending order; each is greater than every number
INFINITE = ("stable", "trunk", "head", "master", "main", "develop")
_BEFORE = {"alpha": 0, "beta": 1, "rc": 2}
_FINAL = (3, 0)
_TOP = (3, 0)
_NO_END = ((4, 0),)

NUMBER = r"[A-Za-z0-9]+(?:(?:[.-]|_+)[A-Za-z0-9]+)*"
_PARTS = re.compile(r"[0-9]+|[A-Za-z]+")
_COMMIT = r"[0-9a-f]{40}"
_REFERENCE = re.compile(
    rf"(?P<ref>git\.[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?|{_COMMIT})(?:=(?P<as>{NUMBER}))?$"
)
# what can stand in a specifier; where it ends, something else of the spec begins
EXTENT = re.compile(r"[A-Za-z0-9_.:,=/-]*")

Part = tuple[int, int | str]
Key = tuple[tuple[Part, ...], tuple[int, int]]


class Misspelt(Exception):
    """What is wrong with a text, at which character (from 0), and what to write instead."""

    def __init__(self, at: int, what: str, instead: str) -> None:
        super().__init__(what)
        self.at = at
        self.what = what
        self.instead = instead


@functools.lru_cache(maxsize=4096)
def key(version: str) -> Key:
    """What a version is ordered by: the parts of the release, and what comes before it (`rc1`) or the release itself.

    Text is less than numbers, numbers are less than `develop` and its like; `1.2rc1` comes before `1.2`.
    """
    parts = _PARTS.findall(version)
    if len(parts) > 2 and parts[-1].isdigit() and parts[-2] in _BEFORE:
        return tuple(map(_part, parts[:-2])), (_BEFORE[parts[-2]], int(parts[-1]))
    if len(parts) > 1 and parts[-1] in _BEFORE:
        return tuple(map(_part, parts[:-1])), (_BEFORE[parts[-1]], -1)
    return tuple(map(_part, parts)), _FINAL


def compare(one: str, other: str) -> int:
    """-1, 0 or 1, as the first version is less than the second, equal or greater."""
    a, b = key(one), key(other)
    return (a > b) - (a < b)


def _part(text: str) -> Part:
    if text.isdigit():
        return (1, int(text))
    return (2, INFINITE.index(text)) if text in INFINITE else (0, text)


def _after(version: str) -> Key:
    """The least version that a range which ends in this one does not hold: `:1.5` ends before 1.6."""
    release, before = key(version)
    if before != _FINAL:
        return release, (before[0], before[1] + 1)
    return (*release[:-1], _next(release[-1])), _FINAL


def _next(part: Part) -> Part:
    rank, value = part
    if isinstance(value, str):
        last = value[-1]
        return (rank, f"{value}A" if last == "z" else f"{value[:-1]}{'a' if last == 'Z' else chr(ord(last) + 1)}")
    return _TOP if (rank, value + 1) == (2, len(INFINITE)) else (rank, value + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One entry of a specifier: the range `low:high` (either may be empty), or exactly `low`.

    With `ref`, a git reference (`git.main`, or a commit); `low` is then the version it counts as, if it says one.
    """

    low: str = ""
    high: str = ""
    exact: bool = False
    ref: str = ""

    def __str__(self) -> str:
        if self.ref:
            return f"{self.ref}={self.low}" if self.low else self.ref
        if self.exact:
            return f"={self.low}"
        return self.low if self.low == self.high and self.low else f"{self.low}:{self.high}"

    @property
    def start(self) -> Key:
        """The least version in it."""
        return key(self.low) if self.low else ((), (-1, 0))

    @property
    def end(self) -> Key:
        """The least version behind it; that of a single version is the version itself."""
        if self.exact:
            return self.start
        return _after(self.high) if self.high else (_NO_END, _FINAL)

    def within(self, other: Span) -> bool:
        """Whether all that it holds is held by the other, too."""
        if other.ref:
            return self.ref == other.ref and self.low == other.low
        if self.ref and not self.low:
            return not other.low and not other.high
        if other.exact:
            return self.exact and not self.ref and self.start == other.start
        return other.start <= self.start and (self.start < other.end if self.exact else self.end <= other.end)

    def meets(self, other: Span) -> bool:
        """Whether a version can be in both."""
        if self.exact or self.ref:
            return self.within(other)
        if other.exact or other.ref:
            return other.within(self)
        return max(self.start, other.start) < min(self.end, other.end)


@dataclass(frozen=True, slots=True)
class Versions:
    """A specifier: the versions that any of its entries holds."""

    spans: tuple[Span, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.spans))

    @property
    def single(self) -> str:
        """The version that it names alone (`1.2` or `=1.2`), or nothing."""
        only = self.spans[0] if len(self.spans) == 1 else Span()
        return only.low if only.exact or only.low == only.high else ""

    def holds(self, version: str) -> bool:
        """Whether one version fits."""
        return any(Span(low=version, exact=True).within(span) for span in self.spans)

    def within(self, other: Versions) -> bool:
        """Whether every version that fits here fits there, too."""
        held = other.merged().spans
        return all(any(span.within(one) for one in held) for span in self.merged().spans)

    def meets(self, other: Versions) -> bool:
        """Whether a version can fit both."""
        return any(span.meets(one) for span in self.spans for one in other.spans)

    def merged(self) -> Versions:
        """The same versions in order, ranges that touch made one and what they hold left out."""
        ranges: list[Span] = []
        for span in sorted((one for one in self.spans if not one.exact), key=lambda one: (one.start, one.end)):
            if ranges and not span.ref and not ranges[-1].ref and span.start <= ranges[-1].end:
                if span.end > ranges[-1].end:
                    ranges[-1] = Span(low=ranges[-1].low, high=span.high)
            else:
                ranges.append(span)
        single = {one.start: one for one in self.spans if one.exact and not any(one.within(many) for many in ranges)}
        return Versions(tuple(sorted((*ranges, *single.values()), key=lambda one: (one.start, one.end))))


def exactly(version: str) -> Versions:
    """The specifier of one version alone; raises `Misspelt`."""
    return read(f"={version}")


def read(text: str) -> Versions:
    """The specifier in a text, without its `@`; raises `Misspelt`."""
    if not text:
        raise Misspelt(0, "a version must follow '@'", "write it as @1.2, @1.2:1.4, @:3 or @=1.2.3")
    if text.startswith("git.") or re.match(rf"{_COMMIT}(=|$)", text):
        return Versions((_reference(text),))
    spans, at = [], 0
    for entry in text.split(","):
        spans.append(_span(entry, at))
        at += len(entry) + 1
    return Versions(tuple(spans))


def _reference(text: str) -> Span:
    match = _REFERENCE.match(text)
    if match is None:
        bad = re.match(r"(git\.)?[A-Za-z0-9_./-]*", text)
        at = bad.end() if bad else 0
        raise Misspelt(
            min(at, len(text) - 1), f"{text[:60]!r} is not a git reference", "write it as @git.main or @git.main=1.2"
        )
    return Span(low=match["as"] or "", exact=bool(match["as"]), ref=match["ref"])


def _span(entry: str, at: int) -> Span:
    if not entry:
        raise Misspelt(at, "a version is missing in the list", "write it as @1.2,1.4 without an empty entry")
    if entry.startswith("="):
        _number(entry[1:], at + 1, "a version must follow '@='")
        return Span(low=entry[1:], exact=True)
    low, colon, high = entry.partition(":")
    if low:
        _number(low, at, "")
    if not colon:
        return Span(low=low, high=low)
    if high:
        _number(high, at + len(low) + 1, "")
    span = Span(low=low, high=high)
    if low and high and span.start >= span.end:
        raise Misspelt(at, f"the range {entry} is empty, as {low} comes after {high}", f"write @{high}:{low}")
    return span


def _number(text: str, at: int, missing: str) -> None:
    if text.startswith("git.") or re.match(_COMMIT, text):
        raise Misspelt(at, "a git reference stands alone", "write it as @git.main or @git.main=1.2")
    match = re.match(NUMBER, text)
    end = match.end() if match else 0
    if match and end == len(text):
        return
    if not text:
        raise Misspelt(at - 1, missing, "write it as @=1.2.3")
    wrong = text[end]
    if wrong == "=":
        raise Misspelt(at + end, "'=' cannot follow a version", "write @=1.2 for one version; a space before KEY=VALUE")
    if wrong == ":":
        raise Misspelt(at + end, "a range has two ends only", "write it as @1.2:1.4")
    raise Misspelt(at + end, f"a version cannot have {wrong!r} there", "write letters and digits parted by . - or _")
