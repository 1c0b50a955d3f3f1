"""Find known causes in a log, whatever its size and content: one pass, in blocks, with bounded memory.

Each block is searched for the marks of the signs as bytes, which is quick; only lines with a mark are looked at closely.
Colours are taken out first; bytes that are no text do no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from envbuilder.causes.base import Cause, Sign

_BLOCK = 1 << 20
_OVERLAP = 8192  # what a line, and the lines below it, may need to be read across the end of a block
_BEFORE, _AFTER = 1000, 3000  # how much of a long line is looked at, around a mark
_LINES = 3  # how many lines one sign may span
_TRIALS = 20_000  # after so many lines with the mark that do not fit, a sign is given up
_TAIL = 1 << 16
_LAST = 8
_WIDTH = 300

_COLOURS = re.compile(rb"\x1b\[[0-9;?]{0,32}[A-Za-z]|\x1b\][^\x07\n]{0,200}\x07")
_LIKE_ERRORS = re.compile(
    r"error|exception|fatal|fail|abort|traceback|segmentation|core dumped|denied|refused|cannot|not found|killed|panic",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log, with its number from 1."""

    number: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A cause that a log shows: the sentence with its names, the lines that prove it, and what it follows from."""

    cause: Cause
    says: str
    proof: tuple[Line, ...]
    follows_from: str = ""
    log: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was found in a log; `last` are its last lines that look like errors (else its last lines)."""

    lines: int
    size: int
    findings: tuple[Finding, ...]
    last: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class _Hit:
    lines: tuple[Line, ...]
    names: dict[str, str]


@dataclass(slots=True)
class _Search:
    """The signs that are still looked for, by their marks, and where those that were found stand."""

    open: dict[bytes, dict[Sign, re.Pattern[str]]]
    hits: dict[Sign, _Hit] = field(default_factory=dict)
    trials: dict[bytes, int] = field(default_factory=dict)


def read(source: IO[bytes], causes: Sequence[Cause]) -> Reading:
    """Read a log to its end and name the causes that it shows, the likeliest first."""
    search = _Search(_by_mark({sign for cause in causes for sign in (*cause.signs, *cause.also, *cause.unless)}))
    line, size, rest, tail, last_byte = 1, 0, b"", b"", b"\n"
    while block := source.read(_BLOCK):
        size += len(block)
        tail, last_byte = (tail + block)[-_TAIL:], block[-1:]
        data = _plain(rest + block)
        end = _cut(data)
        _look(search, data, end, line)
        line += data.count(b"\n", 0, end)
        rest = data[end:]
    _look(search, rest, len(rest), line)
    line += rest.count(b"\n")
    lines = line - (last_byte == b"\n")
    return Reading(
        lines=lines, size=size, findings=tuple(_ordered(_named(causes, search.hits), causes)), last=_last(tail, lines)
    )


def _by_mark(signs: Iterable[Sign]) -> dict[bytes, dict[Sign, re.Pattern[str]]]:
    grouped: dict[bytes, dict[Sign, re.Pattern[str]]] = {}
    for sign in signs:
        grouped.setdefault(sign.mark.encode(), {})[sign] = re.compile(sign.pattern or re.escape(sign.mark))
    return grouped


def _plain(data: bytes) -> bytes:
    return _COLOURS.sub(b"", data) if b"\x1b" in data else data


def _cut(data: bytes) -> int:
    """Up to where a block is searched now: a line's end, where there is one, with enough left below it."""
    limit = max(0, len(data) - _OVERLAP)
    return data.rfind(b"\n", 0, limit) + 1 or limit


def _look(search: _Search, data: bytes, end: int, first: int) -> None:
    """Search what begins in `data` before `end`; `first` is the number of its first line."""
    for mark, signs in list(search.open.items()):
        stop = end + len(mark) - 1
        at = data.find(mark, 0, stop)
        while at >= 0:
            for sign, hit in _fitting(data, at, signs, first).items():
                search.hits[sign] = hit
                del signs[sign]
            search.trials[mark] = search.trials.get(mark, 0) + 1
            if not signs or search.trials[mark] >= _TRIALS:
                del search.open[mark]
                break
            line_end = data.find(b"\n", at, at + _AFTER)
            at = data.find(mark, line_end if line_end >= 0 else at + _AFTER, stop)


def _fitting(data: bytes, at: int, signs: dict[Sign, re.Pattern[str]], first: int) -> dict[Sign, _Hit]:
    """Those of the signs that the line with the mark fits, together with the lines below it."""
    start = max(data.rfind(b"\n", 0, at) + 1, at - _BEFORE)
    lines = data[start : at + _AFTER].split(b"\n", _LINES)[:_LINES]
    texts = [line.decode("utf-8", "replace").rstrip("\r") for line in lines]
    whole = "\n".join(texts)
    found = {}
    for sign, pattern in signs.items():
        match = pattern.search(whole)
        if match is not None and match.start() <= len(texts[0]):
            number = first + data.count(b"\n", 0, start)
            covered = texts[: match.group().count("\n") + 1]
            proof = tuple(Line(number + below, shown(text, sign.mark)) for below, text in enumerate(covered))
            names = {name: shown(value) for name, value in match.groupdict().items() if value is not None}
            found[sign] = _Hit(proof, names)
    return found


def shown(text: str, mark: str = "") -> str:
    """A line for people: without what cannot be printed, of a bounded width; of a progress bar the piece with the mark."""
    pieces = text.split("\r")
    piece = next((one for one in pieces if mark and mark in one), pieces[-1] if not mark else text)
    clean = "".join(character if character.isprintable() else " " for character in piece.replace("\t", "    "))
    if len(clean) > _WIDTH:
        begin = max(0, min(clean.find(mark) if mark else 0, len(clean) - _WIDTH) - _WIDTH // 3)
        clean = f"{'...' if begin else ''}{clean[begin : begin + _WIDTH]}..."
    return clean.rstrip()


def _named(causes: Iterable[Cause], hits: dict[Sign, _Hit]) -> Iterator[Finding]:
    for cause in causes:
        found = [hits[sign] for sign in cause.signs if sign in hits]
        if not found or any(sign in hits for sign in cause.unless) or not all(sign in hits for sign in cause.also):
            continue
        best = min(found, key=lambda hit: hit.lines[0].number)
        further = [hits[sign] for sign in cause.also]
        proof = sorted({line.number: line for hit in (best, *further) for line in hit.lines}.items())
        yield Finding(cause=cause, says=_sentence(cause, best.names), proof=tuple(line for _, line in proof))


def _sentence(cause: Cause, names: dict[str, str]) -> str:
    """The sentence with its names; the plain one where the sign that was found names nothing."""
    if not cause.says:
        return cause.what
    try:
        return cause.says.format(**names)
    except KeyError:
        return cause.what


def _ordered(findings: Iterable[Finding], causes: Sequence[Cause]) -> Iterator[Finding]:
    """By line; what follows from another comes after those that stand alone, and what breaks nothing comes last."""
    rank = {cause.name: number for number, cause in enumerate(causes)}
    found = sorted(findings, key=lambda one: (one.proof[0].number, rank[one.cause.name]))
    names = [one.cause.name for one in found]
    told = []
    for one in found:
        why = [other.cause.name for other in found if one.cause.name in other.cause.explains]
        told.append(replace(one, follows_from=min(why, key=names.index)) if why else one)
    yield from sorted(told, key=lambda one: (one.cause.hint, bool(one.follows_from)))


def _last(tail: bytes, lines: int) -> tuple[Line, ...]:
    """The last lines that look like errors; where none does, the last ones."""
    texts = _plain(tail).decode("utf-8", "replace").rstrip("\n").split("\n")
    first = lines - len(texts) + 1
    numbered = [Line(first + offset, shown(text)) for offset, text in enumerate(texts)]
    numbered = [line for line in numbered if line.text.strip()]
    alike = [line for line in numbered if _LIKE_ERRORS.search(line.text)]
    return tuple((alike or numbered)[-_LAST:])
