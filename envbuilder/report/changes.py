"""What drift found, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from envbuilder.drift import TITLES, Change

if TYPE_CHECKING:
    from envbuilder.today import Report

SCHEMA = 1
_NOTHING = "(none)"


def render(reports: Sequence[Report], changes: Sequence[Change]) -> str:
    """A block for each change (variables with the same consequence in one), then what the proofs are worth."""
    blocks = [_block(list(same)) for _, same in groupby(changes, key=_consequence)]
    tail = [line for report in reports for line in _worth(report)]
    return "\n\n".join([*blocks, "\n".join(tail)]) + "\n"


def document(reports: Sequence[Report], changes: Sequence[Change], exit_code: int) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "schema": SCHEMA,
        "drift": bool(changes),
        "exit_code": exit_code,
        "changes": [asdict(change) for change in changes],
        "environments": [
            {
                "environment": report.environment.identifier,
                "site": report.environment.site,
                "partition": report.environment.partition,
                "changes": len(report.changes),
                "proofs": [{**asdict(one), "void": bool(one.reasons)} for one in report.standings],
                "unseen": list(report.unseen),
                "notes": list(report.notes),
            }
            for report in reports
        ],
    }


def _consequence(change: Change) -> object:
    """Variables are many and say one thing; everything else stands alone."""
    return (change.touches, change.mend) if change.kind == "variable" else change


def _block(changes: list[Change]) -> str:
    first = changes[0]
    if len(changes) == 1:
        lines = [f"{TITLES[first.kind]}: {first.what}", *_values(first, "  ")]
    else:
        lines = [f"{len(changes)} variables of the modules differ"]
        for change in changes:
            lines += [f"  {change.what}", *_values(change, "    ")]
    lines += [f"    {line}" for line in first.said.splitlines()[:12] if line.strip()]
    if first.advice:
        lines.append(f"  why:     {first.advice}")
    lines.append(f"  touches: {', '.join(first.touches)}")
    lines += [f"  {'mend:' if number == 0 else '     '}    {command}" for number, command in enumerate(first.mend)]
    return "\n".join(lines)


def _values(change: Change, indent: str) -> list[str]:
    return [f"{indent}was:     {change.was or _NOTHING}", f"{indent}is:      {change.now or _NOTHING}"]


def _worth(report: Report) -> Iterator[str]:
    """What the proofs of an environment are worth now."""
    name = report.environment.identifier
    if not report.changes and not report.unseen:
        yield f"{name}: no drift"
    for one in report.standings:
        where = f"the proof for {report.environment.site}/{one.partition}"
        if one.reasons:
            yield f"{name}: {where} is void, the gate refuses:"
            yield from (f"    {reason}" for reason in one.reasons)
        elif report.changes:
            yield f"{name}: {where} was made before that, and the gate does not see it: verify before you rely on it"
    for note in report.notes:
        yield f"{name}: {note}"
    for why in report.unseen:
        yield f"{name}: not looked at: {why}"
