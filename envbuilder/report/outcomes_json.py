"""Outcomes for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from envbuilder import __version__, host
from envbuilder.errors import FINE
from envbuilder.report import Verified

SCHEMA = 1


def document(verified: Sequence[Verified]) -> dict[str, Any]:
    """One object for all environments of a verify; `cost` is in seconds."""
    return {
        "schema": SCHEMA,
        "envbuilder": __version__,
        "host": host.identity(),
        "passed": all(one.exit_code == FINE for one in verified),
        "environments": [_one(one) for one in verified],
    }


def _one(verified: Verified) -> dict[str, Any]:
    environment, verdict = verified.environment, verified.verdict
    result: dict[str, Any] = {
        "environment": environment.identifier,
        "digest": environment.digest,
        "site": environment.site,
        "partition": environment.partition,
        "passed": verified.exit_code == FINE,
        "why_not": verified.why,
        "outcomes": [],
    }
    if verdict is not None:
        overhead = verdict.seconds - verdict.probe_seconds
        result |= {
            "outcomes": [asdict(outcome) for outcome in verdict.outcomes],
            "cost": {
                "seconds": round(verdict.seconds, 3),
                "probes": round(verdict.probe_seconds, 3),
                "static": round(verdict.static_seconds, 3),
                "added": round(overhead, 3),
            },
            "evidence": str(verdict.control),
        }
    return result
