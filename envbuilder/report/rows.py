"""What the doctor found, as a table for people and as data for machines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from envbuilder.doctor_stack import Row

SCHEMA = 1
_STYLES = {"pass": "green", "fail": "bold red", "not-run": "yellow"}
_WIDTH = 140


def render(title: str, rows: Sequence[Row], *, colour: bool, width: int = _WIDTH) -> str:
    """The table, and below it each failure with what the file says, what was found and how."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sink = io.StringIO()
    console = Console(file=sink, width=width, force_terminal=colour, no_color=not colour, highlight=False)
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for heading in ("part", "field", "outcome", "the file says", "found, or why not"):
        table.add_column(heading, overflow="fold")
    for part, of_it in groupby(rows, key=lambda row: row.partition):
        for number, row in enumerate(of_it):
            first = (part or "site") if number == 0 else ""
            state = Text(row.status, style=_STYLES[row.status])
            table.add_row(first, row.field, state, Text(_short(row.says)), Text(_short(row.found)))
    console.print(table)
    for row in rows:
        if row.status == "fail":
            console.print(Text(_failure(row)))
    counts = {state: sum(row.status == state for row in rows) for state in _STYLES}
    console.print(Text(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['not-run']} not run"))
    return sink.getvalue()


def document(site: str, file: str, hostname: str, rows: Sequence[Row], exit_code: int) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "schema": SCHEMA,
        "site": site,
        "file": file,
        "hostname": hostname,
        "passed": exit_code == 0,
        "exit_code": exit_code,
        "rows": [asdict(row) for row in rows],
    }


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."


def _failure(row: Row) -> str:
    place = f"partitions.{row.partition}.{row.field}" if row.partition else row.field
    return f"\n{place}\n  says:  {row.says}\n  found: {row.found}\n  how:   {row.how}"
