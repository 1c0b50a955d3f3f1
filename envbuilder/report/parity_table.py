"""Parity for people and for machines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from envbuilder.parity import Row, World

SCHEMA = 1
_STYLES = {"same": "green", "another build": "yellow", "not in all": "yellow", "differs": "bold red"}
_WIDTH = 140


def render(worlds: Sequence[World], rows: Sequence[Row], missing: Sequence[str], *, colour: bool) -> str:
    """The table, and below it of each world how it is proven and what it cannot give."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sink = io.StringIO()
    console = Console(file=sink, width=_WIDTH, force_terminal=colour, no_color=not colour, highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("", *(one.name for one in worlds), ""):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.subject, *row.values, Text(row.verdict, style=_STYLES[row.verdict]))
    console.print(table)
    for one in worlds:
        console.print(Text(f"\n{one.name}: {one.what}\n    {one.proof}"))
        for line in one.cannot:
            console.print(Text(f"    cannot: {line}"))
    for line in missing:
        console.print(Text(f"\nnot compared: {line}"))
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in _STYLES}
    console.print(Text("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())))
    return sink.getvalue()


def document(recipe: str, worlds: Sequence[World], rows: Sequence[Row], missing: Sequence[str]) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "schema": SCHEMA,
        "recipe": recipe,
        "worlds": [asdict(one) for one in worlds],
        "rows": [asdict(one) for one in rows],
        "not_compared": list(missing),
    }
