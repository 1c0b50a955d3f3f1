"""From an environment that failed to its causes: its newest build, its newest verify, and what they wrote.

Checks that failed name their own cause; the logs of probes and builds are read for the causes in the catalogue.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from envbuilder import store
from envbuilder.causes import CAUSES
from envbuilder.environment import Environment
from envbuilder.errors import UnknownName
from envbuilder.store import Store
from envbuilder.symptoms import Finding, Line, Reading, read

_LOG_NAME = re.compile(r"(?P<stamp>\d{8}T\d{6}Z)-[a-z]+-(?P<name>.+)-\d+\.log")
_STAMP = re.compile(r"\d{8}T\d{6}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedCheck:
    """A check of the newest verify that failed, in its own words."""

    check: str
    cause: str
    remedy: str
    witnessed: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A log that was read."""

    log: str
    lines: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What is known of a failure. `state` says what was looked at; `last` and `last_of` serve where nothing is known."""

    subject: str
    state: str
    seen: tuple[Seen, ...]
    checks: tuple[FailedCheck, ...]
    findings: tuple[Finding, ...]
    last: tuple[Line, ...] = ()
    last_of: str = ""
    well: bool = False

    @property
    def named(self) -> bool:
        """Whether a cause is named, or nothing had failed; a hint alone explains no failure."""
        return self.well or bool(self.checks) or any(not finding.cause.hint for finding in self.findings)


def of_log(source: IO[bytes], name: str) -> Diagnosis:
    """The causes that a log shows."""
    return _joined(name, "", [(name, read(source, CAUSES))], ())


def of_environment(place: Store, name: str) -> Diagnosis:
    """The causes behind the newest build and verify of an environment, or behind a build that failed.

    Raises `UnknownName` where there is neither.
    """
    try:
        environment = store.find(place, name)
    except UnknownName:
        logs = _build_logs(place, name)
        if "/" in name or not logs:
            raise
        state = "no environment of that name was built; this is the log of the newest attempt"
        return _joined(name, state, [_read_file(logs[-1])], ())
    return _of_built(place, environment)


def _of_built(place: Store, environment: Environment) -> Diagnosis:
    runs = _runs(place, environment.identifier)
    run = runs[-1] if runs else None
    outcomes = _outcomes(run) if run else None
    failed = [one for one in outcomes or () if one.get("status") == "fail"]
    left = [one for one in outcomes or () if one.get("status") == "not-run"]
    verified = _newest(run.name if run else "")
    later = [
        log
        for log in _build_logs(place, f"{environment.recipe}@{environment.version}")
        if _newest(log.name) > max(verified, _stamp_of(environment.created))
    ]
    readings: list[tuple[str, Reading]] = []
    if run is not None and (outcomes is None or failed or left):
        readings += [*_of_run(run)]
    readings += [_read_file(log) for log in later[-1:]]
    state = _state(run, outcomes, failed, left)
    checks = tuple(_check(one) for one in failed)
    told = _joined(environment.identifier, state, readings, checks)
    passed = bool(outcomes) and not failed and not left
    return replace(told, well=passed and not told.findings)


def _state(run: Path | None, outcomes: list[dict[str, Any]] | None, failed: list[Any], left: list[Any]) -> str:
    if run is None:
        return "it was built and never verified: envbuilder verify"
    if outcomes is None:
        return f"the newest verify did not come to its end: {run}"
    if failed:
        return f"the newest verify: {len(failed)} of {len(outcomes)} checks failed: {run}"
    if left:
        return f"the newest verify: nothing failed, {len(left)} of {len(outcomes)} checks were not run: {run}"
    return f"the newest verify passed: {run}"


def _joined(
    subject: str, state: str, readings: list[tuple[str, Reading]], checks: tuple[FailedCheck, ...]
) -> Diagnosis:
    """One account of several logs; a cause that two of them show is told once."""
    findings: dict[str, Finding] = {}
    for log, reading in readings:
        for finding in reading.findings:
            findings.setdefault(finding.cause.name, replace(finding, log=log))
    speaking = [(log, reading) for log, reading in readings if reading.last]
    return Diagnosis(
        subject=subject,
        state=state,
        seen=tuple(Seen(log=log, lines=one.lines, size=one.size) for log, one in readings),
        checks=checks,
        findings=tuple(sorted(findings.values(), key=lambda one: (one.cause.hint, bool(one.follows_from)))),
        last=speaking[-1][1].last if speaking else (),
        last_of=speaking[-1][0] if speaking else "",
    )


def _check(outcome: dict[str, Any]) -> FailedCheck:
    return FailedCheck(**{name: str(outcome.get(name, "")) for name in ("check", "cause", "remedy", "witnessed")})


def _read_file(path: Path) -> tuple[str, Reading]:
    with path.open("rb") as source:
        return str(path), read(source, CAUSES)


def _of_run(run: Path) -> Iterator[tuple[str, Reading]]:
    """The logs of a run, then what the probes wrote of exceptions that they caught."""
    for log in sorted(run.glob("*.log")) + sorted(run.glob("*.out")):
        yield _read_file(log)
    for path in sorted(run.glob("*.json")):
        if re.fullmatch(r"[a-z]+\.\d+\.json", path.name) and (trace := _trace(path)):
            yield str(path), read(io.BytesIO(trace.encode("utf-8", "replace")), CAUSES)


def _trace(path: Path) -> str:
    document = _json(path)
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return ""
    return "\n".join(str(error.get(part, "")) for part in ("traceback", "kind", "message"))


def _outcomes(run: Path) -> list[dict[str, Any]] | None:
    found = _json(run / "outcomes.json")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else None


def _json(path: Path) -> Any:
    """What a file holds, or nothing where it is missing or damaged: evidence may be cut short."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _runs(place: Store, identifier: str) -> list[Path]:
    folder = place.path("runs", identifier)
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _build_logs(place: Store, name: str) -> list[Path]:
    """The logs of a recipe's builds (of one version, if it is named), oldest first."""
    folder = place.path("logs")
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _LOG_NAME.fullmatch(path.name)
        if match and name in (match["name"], match["name"].partition("@")[0]):
            found.append(path)
    return found


def _newest(name: str) -> str:
    match = _STAMP.match(name)
    return match.group() if match else ""


def _stamp_of(created: str) -> str:
    """The time of a manifest, written as in the names of logs; it is when a build ended."""
    return re.sub(r"[-:]", "", created)[:15]
