"""How the checks read evidence: which process, how it ended, which part of its facts, which variables were set."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from typing import Any

from envbuilder.checks.base import Failed, NotRun
from envbuilder.evidence import Evidence, ProbeRun, RankEvidence

Facts = Mapping[str, Any]

_LOADER = ("LD_LIBRARY_PATH", "LD_PRELOAD", "MPI4PY_LIBMPI", "MPI4PY_MPIABI")
_SIGNALLED = (
    re.compile(r"KILLED BY SIGNAL: (\d+)"),
    re.compile(r"exited on signal (\d+)"),
    re.compile(r"\(signal (\d+)\)"),
    re.compile(r"EXIT CODE: (\d+)"),
)
_KILLED = re.compile(r"\btask \d+: (Killed|Segmentation fault|Aborted|Bus error|Terminated)")
_BY_NAME = {"Killed": 9, "Segmentation fault": 11, "Aborted": 6, "Bus error": 7, "Terminated": 15}


def only(evidence: Evidence) -> RankEvidence | Failed | NotRun:
    """The process of the `single` probe, or why there is none that can be read."""
    run = evidence.runs.get("single")
    if run is None:
        return NotRun("the probe of one process was not run")
    if not run.ranks:
        return Failed(
            f"the probe left no evidence: its process {ending(run)} before it could write any",
            "read the last lines of the probe's log",
            tail(run),
        )
    return run.ranks[0]


def part(evidence: Evidence, name: str) -> Facts | Failed | NotRun:
    """One part of the facts of the `single` probe; an error in that part is a failure with the error's own words."""
    rank = only(evidence)
    if not isinstance(rank, RankEvidence):
        return rank
    found = rank.facts.get(name)
    if not isinstance(found, Mapping):
        run = evidence.runs["single"]
        why = "" if rank.finished else f": its process {ending(run)} in phase '{rank.phase}'"
        return NotRun(f"the probe did not come to its part '{name}'{why}")
    if isinstance(found.get("error"), Mapping):
        return Failed(f"{name} ended with {said(found['error'])}", "read the traceback in the evidence file")
    return found


def said(error: Mapping[str, Any]) -> str:
    """An exception in one line."""
    message = str(error.get("message", "")).strip().splitlines()
    return f"{error.get('kind', 'an error')}: {message[0] if message else ''}"


def ending(run: ProbeRun) -> str:
    """How a launch ended, as a verb phrase with the subject left out."""
    if run.timed_out:
        return f"was still running after {run.seconds:.0f} s and was ended"
    number = signal_number(run)
    if number:
        return f"was killed by {signal_name(number)}"
    return f"ended with exit code {run.code}"


def signal_number(run: ProbeRun) -> int:
    """The signal that ended a process of this launch, from its exit code or the launcher's words; 0 if none is told."""
    if run.code < 0:
        return -run.code
    for pattern in _SIGNALLED:
        match = pattern.search(run.output)
        if match:
            number = int(match.group(1))
            return number - 128 if number > 128 else number if _is_signal(number) else 0
    named = _KILLED.search(run.output)
    if named:
        return _BY_NAME[named.group(1)]
    return run.code - 128 if 128 < run.code < 128 + 65 else 0


def _is_signal(number: int) -> bool:
    """Whether an "exit code" that a launcher prints may be a signal: MPICH's prints either under this name."""
    return number in {4, 6, 7, 8, 9, 11, 15}


def signal_name(number: int) -> str:
    """The name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tail(run: ProbeRun, lines: int = 8) -> str:
    """The last lines of a launch's output."""
    return "\n".join(run.output.strip().splitlines()[-lines:])


def set_variables(facts: Facts, names: Iterable[str] = _LOADER) -> str:
    """Which of these variables were set in a process, with their values, ready to stand in a sentence; "" if none."""
    environment = facts.get("environment")
    if not isinstance(environment, Mapping):
        return ""
    return ", ".join(f"{name}={environment[name]}" for name in names if environment.get(name))


def inside(path: str, *roots: str) -> bool:
    """Whether a path lies in one of the roots (as text; both come from the probe and are absolute)."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots if root)


def number(value: Any) -> float:
    """A number of the evidence; NaN and infinities travel as strings, and what is no number is NaN."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def word(count: int, noun: str) -> str:
    """A count with its noun, in the plural where it is due."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
