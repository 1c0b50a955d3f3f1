"""Look at an entry of the zoo, and compare what the verdict says with what it must say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launching import Subject, judged, launch, launch_apart

from envbuilder.evidence import Outcome
from zoo.base import REFUSAL, Case, Fault, Healthy, Look, Names, Start, Words

FEATURES: Mapping[Start, tuple[str, ...]] = {
    "mpi4py_env": ("mpi4py",),
    "torch_env": ("mpi4py", "torch", "onednn"),
    "tensorflow_env": ("mpi4py", "tensorflow", "onednn"),
    "tensorflow_2_13_env": ("mpi4py", "tensorflow", "onednn"),
    "horovod_env": ("mpi4py", "tensorflow", "onednn", "horovod"),
    "torch_horovod_env": ("mpi4py", "torch", "onednn", "horovod"),
    "mpi4py_image": ("mpi4py",),
}
IMPORTS: Mapping[Start, tuple[str, ...]] = {
    "mpi4py_env": ("mpi4py.MPI",),
    "torch_env": ("numpy", "torch", "mpi4py.MPI"),
    "tensorflow_env": ("numpy", "tensorflow", "mpi4py.MPI"),
    "tensorflow_2_13_env": ("numpy", "tensorflow", "mpi4py.MPI"),
    "horovod_env": ("numpy", "tensorflow", "mpi4py.MPI", "horovod.tensorflow"),
    "torch_horovod_env": ("numpy", "torch", "mpi4py.MPI", "horovod.torch"),
    "mpi4py_image": ("mpi4py.MPI",),
}


@dataclass(frozen=True)
class Seen:
    """The outcomes by check, and the exit code of the command (0 or 1 for a probe alone, as the command's would be)."""

    outcomes: Mapping[str, Outcome]
    code: int

    def failed(self) -> dict[str, str]:
        """The failed checks with their causes."""
        return {name: one.cause for name, one in self.outcomes.items() if one.status == "fail"}


def look(start: Start, prefix: Path, case: Case, how: Look, control: Path) -> Seen:
    """What verify, or a probe and its checks, make of a case."""
    if how.by == "verify":
        return _verify(prefix, case, how)
    if how.by == "refused":
        return _refused(prefix, case)
    subject = Subject(
        prefix=case.prefix or (case.copy.prefix if case.copy else prefix),
        features=(*FEATURES[start], *case.features),
        imports=IMPORTS[start],
        ranks=how.ranks,
    )
    if how.apart:
        run = launch_apart(subject, control, how.ranks)
    else:
        run = launch(
            subject, how.by, control, env=case.variables, timeout=how.timeout, started=how.started, mpiexec=case.mpiexec
        )
    outcomes = judged(subject, run)
    return Seen(outcomes, int(any(one.status == "fail" for one in outcomes.values())))


def _verify(prefix: Path, case: Case, how: Look) -> Seen:
    home = case.copy.home if case.copy else prefix.parent.parent
    env = {**os.environ, "ENVBUILDER_HOME": str(home), **case.variables}
    name = case.copy.identifier if case.copy else prefix.name
    command = [*how.before, sys.executable, "-m", "envbuilder", "verify", name, "--json", *how.options]
    if how.ranks != 2:
        command += ["--ranks", str(how.ranks)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    (one,) = json.loads(done.stdout)["environments"]
    return Seen({row["check"]: Outcome(**_known(row)) for row in one["outcomes"]}, done.returncode)


def _refused(prefix: Path, case: Case) -> Seen:
    """The error message of a command as an outcome, its hint as the remedy; none where it was not refused."""
    home = case.copy.home if case.copy else prefix.parent.parent
    env = {**os.environ, "ENVBUILDER_HOME": str(home), **case.variables}
    words = case.command or ("verify", case.copy.identifier if case.copy else prefix.name)
    command = [sys.executable, "-m", "envbuilder", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    _, error, told = done.stderr.partition("error: ")
    cause, _, remedy = told.partition("\n  hint: ")
    said = Outcome(check=REFUSAL, rung=0, title="", status="fail", cause=cause.strip(), remedy=remedy.strip())
    return Seen({REFUSAL: said} if error else {}, done.returncode)


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name in Outcome.__slots__}


def mistakes(entry: Fault | Healthy, case: Case, seen: Seen) -> list[str]:
    """What the verdict gets wrong, one sentence each; nothing where it says what it must."""
    if isinstance(entry, Healthy):
        alarms = [f"{name}: {one.status}: {one.cause}" for name, one in seen.outcomes.items() if one.status != "pass"]
        return alarms or ([] if seen.outcomes and seen.code == 0 else [f"exit code {seen.code}, no check was made"])
    return list(_unnamed(entry, case, seen))


def _unnamed(fault: Fault, case: Case, seen: Seen) -> Iterator[str]:
    failed = seen.failed()
    if seen.code != fault.code:
        yield f"exit code {seen.code}"
    for names in fault.names:
        yield from _wrong(names, case, seen)
    if fault.alone:
        yield from (f"{name} fails, too" for name in failed.keys() - {names.check for names in fault.names})
    yield from (f"{name} fails, too" for name in fault.passing if name in failed)
    for name in fault.not_run:
        if seen.outcomes[name].status != "not-run":
            yield f"{name} was made"


def _wrong(names: Names, case: Case, seen: Seen) -> Iterator[str]:
    outcome = seen.outcomes.get(names.check)
    if outcome is None or outcome.status != "fail":
        state = "is not asked for" if outcome is None else f"is {outcome.status} ({outcome.cause or outcome.witnessed})"
        yield f"{names.check} {state}; what fails: {seen.failed() or 'nothing'}"
        return
    for kind in ("cause", "remedy", "witnessed"):
        text, wanted = getattr(outcome, kind), getattr(names, kind)
        yield from (f"{names.check}: {kind} lacks {word!r}: {text}" for word in _lacking(wanted, text, case))


def _lacking(wanted: Words, text: str, case: Case) -> Iterator[str]:
    for one in wanted:
        choices = [word.format(**case.told) for word in ((one,) if isinstance(one, str) else one)]
        if not any(word in text for word in choices):
            yield " or ".join(choices)


def summary(entry: Fault | Healthy, seen: Seen, wrong: list[str]) -> dict[str, Any]:
    """What a session keeps of a judged entry."""
    first = entry.names[0].check if isinstance(entry, Fault) else ""
    outcome = seen.outcomes.get(first)
    return {
        "name": entry.name,
        "kind": "fault" if isinstance(entry, Fault) else "healthy",
        "right": not wrong,
        "caught": outcome is not None and outcome.status == "fail",
        "check": first,
        "failed": sorted(seen.failed()),
        "cause": outcome.cause if outcome is not None else "",
        "remedy": outcome.remedy if outcome is not None else "",
        "wrong": wrong,
    }
