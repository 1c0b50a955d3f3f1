"""What pytest says of the zoo at the end of a session, and keeps of it for the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

KEPT = "envbuilder/zoo"  # in pytest's own cache


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The two figures, where entries of the zoo were judged."""
    rows = list(results(terminalreporter.stats))
    if not rows:
        return
    terminalreporter.section("zoo")
    for line in figures(rows):
        terminalreporter.write_line(line)
    cache = getattr(config, "cache", None)
    if cache is not None:
        cache.set(KEPT, rows)


def results(stats: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """The judged entries of a session, workers included: their reports carry them as properties."""
    for reports in stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                seconds = round(report.duration, 1)
                yield from ({**value, "seconds": seconds} for name, value in report.user_properties if name == "zoo")


def figures(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Faults that were caught under their right names, and false alarms."""
    faults = [row for row in rows if row["kind"] == "fault"]
    healthy = [row for row in rows if row["kind"] == "healthy"]
    named = [row for row in faults if row["right"]]
    alarms = [row for row in healthy if not row["right"]]
    lines = [
        f"faults caught with the right check, cause and remedy: {_share(named, faults)}",
        f"false alarms on healthy entries: {_share(alarms, healthy)}",
    ]
    lines += [
        f"  not as it must be: {row['name']}: {'; '.join(row['wrong'])}"
        for row in (*faults, *alarms)
        if not row["right"]
    ]
    return lines


def _share(some: list[dict[str, Any]], all_of_them: list[dict[str, Any]]) -> str:
    if not all_of_them:
        return "none was tried"
    return f"{len(some)} of {len(all_of_them)} ({len(some) / len(all_of_them):.0%})"
