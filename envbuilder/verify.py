"""Verify one environment: gather evidence rung by rung, cheapest first, and let the checks judge it.

The control directory is the protocol between this side and the probes (see `envbuilder.probes`), and afterwards the archived
evidence: `input.json`, the probes themselves, each process's evidence, logs, `evidence.json` and `outcomes.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from envbuilder import host, image_signature, launcher, process, sif_header
from envbuilder.activation import CACHES
from envbuilder.checks import CHECKS, judge
from envbuilder.document import to_json, write_atomically
from envbuilder.errors import HostError
from envbuilder.evidence import EVIDENCE_SCHEMA, RUNGS, Evidence, Expectation, ProbeRun, RankEvidence, Verdict
from envbuilder.process import Command, EnvPatch, patched
from envbuilder.witness import Witness

_TAIL_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Inside:
    """How an environment in an image is entered and looked at.

    `words` come before a command of one process, `words_of_ranks` before that of a rank; with `mpiexec_inside` the launcher
    is a program of the image. `static` has the image's own Python look at its files.
    """

    words: tuple[str, ...]
    words_of_ranks: tuple[str, ...]
    mpiexec_inside: bool
    static: Callable[[], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to verify and how: `env` activates the environment, `timeout` is in seconds for each probe.

    `control` is the control directory, created here; with `keep_going` later rungs are climbed after a failure. `srun` is
    the launcher of an allocation with its arguments; where there is none, `mpiexec` starts the ranks.
    """

    expectation: Expectation
    env: EnvPatch
    python: Path
    mpiexec: Path | None
    control: Path
    timeout: float
    keep_going: bool = False
    steps: int = 8
    image: Inside | None = None
    srun: tuple[str, ...] = ()


@dataclass(slots=True)
class _Ladder:
    """What has been gathered so far, and why the rest was not."""

    evidence: Evidence = field(default_factory=Evidence)
    reasons: dict[str, str] = field(default_factory=dict)


def verify(request: Request, *, progress: Callable[[str], None]) -> Verdict:
    """The verdict on one environment. A failed rung stops the gathering of dearer evidence, unless `keep_going`."""
    started = time.monotonic()
    _lay_out(request)
    progress("files and libraries")
    static = _static(request)
    ladder = _Ladder(evidence=Evidence(static=static.quick))
    try:
        if "files" not in static.quick:
            ladder.reasons |= dict.fromkeys(("static", "single", "ranks"), "the image is not the one that is wanted")
        _stop_if_failed(request, ladder, "static")
        _climb(request, ladder, "single", 1, progress)
        progress("reading files")
        ladder.evidence = Evidence(static=static.whole(), runs=ladder.evidence.runs)
    finally:
        static.abandon()
    _stop_if_failed(request, ladder, "static")
    _climb(request, ladder, "ranks", request.expectation.ranks, progress)
    outcomes = judge(request.expectation, ladder.evidence, ladder.reasons)
    write_atomically(request.control / "evidence.json", to_json(asdict(ladder.evidence)))
    write_atomically(request.control / "outcomes.json", to_json([asdict(outcome) for outcome in outcomes]))
    return Verdict(
        outcomes=outcomes,
        evidence=ladder.evidence,
        control=request.control,
        seconds=time.monotonic() - started,
        static_seconds=sum(ladder.evidence.static["seconds"].values()),
        probe_seconds=sum(run.seconds for run in ladder.evidence.runs.values()),
    )


def _climb(request: Request, ladder: _Ladder, probe: str, ranks: int, progress: Callable[[str], None]) -> None:
    """Launch a probe, unless there is a reason not to; files are still being read while the first one runs."""
    if probe in ladder.reasons:
        return
    progress(f"{probe} probe, {ranks} process{'es' if ranks > 1 else ''}")
    try:
        run = _launched(request, probe, ranks, progress)
    except HostError as error:  # a launcher or an interpreter that is gone must not take along what was seen before
        ladder.reasons[probe] = str(error)
        return
    ladder.evidence = Evidence(static=ladder.evidence.static, runs={**ladder.evidence.runs, probe: run})
    _stop_if_failed(request, ladder, probe)


class _FromInside:
    """The static facts of an image or a packed tree: of its file, and of what is in it only if it is the one wanted."""

    def __init__(self, expected: Mapping[str, Any], key: str, look: Callable[[], dict[str, Any]]) -> None:
        seen: dict[str, Any] = {}
        try:
            path = Path(expected["file"])
            seen = {"sha256": host.sha256(path), "size": path.stat().st_size}
            seen["lock"] = sif_header.labels(path).get("envbuilder.lock", "")
        except OSError as error:
            seen = {"error": str(error.strerror)}
        same = seen.get("sha256") == expected["sha256"]
        if key and "error" not in seen:
            seen["signature"] = image_signature.look(expected["runtime"], Path(expected["file"]), Path(key))
            same = same and bool(seen["signature"].get("holds"))
        self.quick: dict[str, Any] = {"seconds": {}, **(look() if same else {}), "image": seen}

    def whole(self) -> dict[str, Any]:
        """All facts; they were gathered at once."""
        return self.quick

    def abandon(self) -> None:
        """Nothing is going on."""


def _static(request: Request) -> Witness | _FromInside:
    file = request.expectation.image or request.expectation.pack
    if request.image is None or file is None:
        return Witness(request.expectation, patched(request.env))
    return _FromInside(file, request.expectation.image_key, request.image.static)


def _command(request: Request, kind: launcher.Family, ranks: int, argv: tuple[str, ...]) -> Command:
    """The launch of a probe; that of an image enters it first, or lets each rank enter it."""
    image = request.image
    if image is None:
        return launcher.launch(kind, request.mpiexec, ranks, argv, request.srun)
    if kind == "direct":
        return Command(argv=(*image.words, *argv))
    if image.mpiexec_inside and kind != "srun":
        inner = launcher.launch(kind, request.mpiexec, ranks, argv)
        return replace(inner, argv=(*image.words, *inner.argv))
    return launcher.launch(kind, request.mpiexec, ranks, (*image.words_of_ranks, *argv), request.srun)


def _lay_out(request: Request) -> None:
    """The control directory: the question, and a copy of the probes that will answer it."""
    expectation = request.expectation
    request.control.mkdir(parents=True)
    probes = Path(__file__).parent / "probes"
    shutil.copytree(probes, request.control / "envbuilder_probes", ignore=shutil.ignore_patterns("__pycache__"))
    question = {
        "schema": EVIDENCE_SCHEMA,
        "features": list(expectation.features),
        "imports": list(expectation.imports),
        "ranks": expectation.ranks,
        "steps": request.steps,
        "distributions": sorted({*expectation.packages, *(expectation.base["packages"] if expectation.base else ())}),
        "caches": sorted(CACHES),
        "data": [one["variable"] for one in expectation.data],
        "started_on": {"host": os.uname().nodename, "cpus": ",".join(map(str, sorted(os.sched_getaffinity(0))))},
        "threads": _threads(request, expectation.ranks),
    }
    write_atomically(request.control / "input.json", to_json(question))


def _stop_if_failed(request: Request, ladder: _Ladder, gathered: str) -> None:
    """Say why later evidence is not gathered, if what was just gathered fails."""
    later = {"static": ("single", "ranks"), "single": ("ranks",), "ranks": ()}[gathered]
    reason = ""
    if not request.keep_going:
        known = dict.fromkeys(later, "not gathered yet") | ladder.reasons
        failed = [outcome for outcome in judge(request.expectation, ladder.evidence, known) if outcome.status == "fail"]
        if failed:
            reason = f"rung {failed[0].rung} ({RUNGS[failed[0].rung]}) failed: {failed[0].check}"
    for source in later:
        if reason:
            ladder.reasons.setdefault(source, reason)
    if "ranks" in later and not any(c.source == "ranks" and c.applies(request.expectation) for c in CHECKS):
        ladder.reasons.setdefault("ranks", "no feature of the recipe asks for it")


def _launched(request: Request, probe: str, ranks: int, progress: Callable[[str], None]) -> ProbeRun:
    argv = (str(request.python), "-m", "envbuilder_probes", probe, str(request.control))
    kind: launcher.Family = "direct"
    if probe == "ranks" and request.srun:
        kind = "srun"
    elif ranks > 1 and request.mpiexec is not None:
        kind = "hydra" if request.image and request.image.mpiexec_inside else launcher.family(request.mpiexec)
    command = _command(request, kind, ranks, argv)
    extra = _threads(request, ranks)
    started = time.monotonic()
    done = process.logged(
        # PYTHONSAFEPATH would hide the probes, which python finds in its working directory
        Command(
            argv=command.argv, env={**request.env, **extra, **command.env, "PYTHONSAFEPATH": None}, cwd=request.control
        ),
        request.control / f"{probe}.log",
        timeout=request.timeout,
        tick=lambda: progress(f"{probe} probe: {_phases(request.control, probe)}"),
    )
    return ProbeRun(
        probe=probe,
        launcher=kind,
        asked=ranks,
        code=done.code,
        timed_out=done.timed_out,
        seconds=time.monotonic() - started,
        output=done.output[-_TAIL_CHARACTERS:],
        ranks=tuple(read_evidence(request.control, probe)),
    )


def _threads(request: Request, ranks: int) -> dict[str, str]:
    """The variables with a number of threads that a launch of so many ranks sets."""
    return launcher.threads(patched(request.env), -(-ranks // request.expectation.nodes), host.cores())


def _phases(control: Path, probe: str) -> str:
    phases = [_document(path).get("phase", "") for path in sorted(control.glob(f"{probe}.*.phase.json"))]
    return ", ".join(dict.fromkeys(str(phase) for phase in phases if phase))


def read_evidence(control: Path, probe: str) -> list[RankEvidence]:
    """What the processes of a probe left: their evidence, or for those that never finished the phase they were in."""
    found = []
    for phase_path in sorted(control.glob(f"{probe}.*.phase.json")):
        stem = phase_path.name.removesuffix(".phase.json")
        final, phase = _document(control / f"{stem}.json"), _document(phase_path)
        fault = {} if final else _fault(control / f"{stem}.fault.log")
        found.append(
            RankEvidence(
                probe=probe,
                rank=_number(final.get("rank", phase.get("rank"))),
                phase=str(phase.get("phase", "")),
                finished=final.get("finished") is True,
                seconds=float(final.get("seconds", 0.0)) if isinstance(final.get("seconds"), (int, float)) else 0.0,
                facts={**(_facts(final) or _facts(phase)), **fault},
                error=final["error"] if isinstance(final.get("error"), dict) else None,
            )
        )
    return sorted(found, key=lambda rank: rank.rank)


def _fault(path: Path) -> dict[str, str]:
    """What a process that died said last, as the fact `fault`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {"fault": lines[0]} if lines else {}


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    facts = document.get("facts")
    return facts if isinstance(facts, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _document(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing or damaged: a finding for the checks, not a crash."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
