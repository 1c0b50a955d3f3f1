"""Outcomes for people: a table by rungs, and below it each failure with its cause, evidence and remedy."""

from __future__ import annotations

import io
from itertools import groupby

from envbuilder.evidence import RUNGS, Outcome
from envbuilder.report import Verified

_STYLES = {"pass": "green", "fail": "bold red", "not-run": "yellow"}
_WIDTH = 120


def render(verified: Verified, *, colour: bool, width: int = _WIDTH) -> str:
    """The table of one environment; colours repeat what the words say."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    verdict = verified.verdict
    if verdict is None:
        return f"{verified.environment.identifier}: could not be verified: {verified.why}\n"
    sink = io.StringIO()
    console = Console(file=sink, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    table = Table(title=Text(verified.environment.identifier), title_justify="left", box=None, pad_edge=False)
    for heading in ("rung", "check", "outcome", "witnessed, or why not"):
        table.add_column(heading, overflow="fold")
    for rung, outcomes in groupby(verdict.outcomes, key=lambda outcome: outcome.rung):
        for number, outcome in enumerate(outcomes):
            first = f"{rung} {RUNGS[rung]}" if number == 0 else ""
            said = outcome.witnessed if outcome.status == "pass" else outcome.cause
            table.add_row(first, outcome.check, Text(outcome.status, style=_STYLES[outcome.status]), Text(said))
    console.print(table)
    for outcome in verdict.outcomes:
        if outcome.status == "fail":
            console.print(Text(_failure(outcome)))
    console.print(Text(_summary(verified)))
    return sink.getvalue()


def _failure(outcome: Outcome) -> str:
    lines = [f"\n{outcome.check} failed: {outcome.title}", f"  cause:    {outcome.cause}"]
    if outcome.witnessed:
        lines.append(f"  evidence: {outcome.witnessed}")
    lines.append(f"  remedy:   {outcome.remedy}")
    return "\n".join(lines)


def _summary(verified: Verified) -> str:
    verdict = verified.verdict
    assert verdict is not None  # noqa: S101 - the caller has looked
    counts = {state: sum(outcome.status == state for outcome in verdict.outcomes) for state in _STYLES}
    proven = "proven" if verdict.exit_code == 0 else "not proven"
    added = verdict.seconds - verdict.probe_seconds
    return (
        f"\n{proven}: {counts['pass']} passed, {counts['fail']} failed, {counts['not-run']} not run; "
        f"{verdict.seconds:.1f} s, of which probes {verdict.probe_seconds:.1f} s and everything else {added:.1f} s\n"
        f"evidence: {verdict.control}"
    )
