"""What importing costs in several environments, side by side, for people."""

from __future__ import annotations

from collections.abc import Sequence

from envbuilder.import_cost import Cost, waiting

RANKS = (1, 16, 64, 256, 1024, 4096)
_HEADS = ("environment", "form", "seconds", "opens", "asks", "host: opens", "asks", "before it starts: opens", "asks")


def render(costs: Sequence[Cost]) -> str:
    """The table; `host` are the calls that a file system of the host sees."""
    return _aligned([_HEADS, *map(_row, costs)])


def modelled(costs: Sequence[Cost], rate: float) -> str:
    """The table of the seconds that a metadata server is busy when so many ranks start at once (see docs/start-up.md)."""
    heads = ("ranks", *(f"{one.form} {one.environment}" for one in costs))
    rows = [(str(ranks), *(f"{waiting(_whole(one), ranks, rate):.2f} s" for one in costs)) for ranks in RANKS]
    return _aligned([heads, *rows])


def _whole(one: Cost) -> int:
    """All calls of one rank that a file system of the host sees, from its start to the end of its imports."""
    return sum(part.host_opens + part.host_asks for part in (one.starting, one.importing))


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _row(one: Cost) -> tuple[str, ...]:
    now, before = one.importing, one.starting
    numbers = (now.opens, now.asks, now.host_opens, now.host_asks, before.host_opens, before.host_asks)
    return (one.environment, one.form, f"{one.seconds:.2f}", *map(str, numbers))
