"""Rung 4: were the ranks that were asked for really there, as one world, to the end."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from envbuilder.checks.affinity import CHECKS as AFFINITY
from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.horovod import RANKS as HOROVOD
from envbuilder.checks.mpi import CHECKS as MPI
from envbuilder.checks.mpi_support import CHECKS as MPI_SUPPORT
from envbuilder.checks.parallel import CHECKS as PARALLEL
from envbuilder.checks.reading import ending, number, said, set_variables, signal_name, signal_number, tail, word
from envbuilder.checks.torch_mpi import RANKS as TORCH_MPI
from envbuilder.evidence import Evidence, Expectation, ProbeRun, RankEvidence

_LAUNCHER_REMEDY = (
    "use the mpiexec that belongs to the MPI library, or srun with the --mpi plugin that the library understands"
)
_FAULTS = {
    "Segmentation fault": signal.SIGSEGV,
    "Illegal instruction": signal.SIGILL,
    "Bus error": signal.SIGBUS,
    "Floating": signal.SIGFPE,
}
# how gloo, Horovod, gRPC and the system say that the other side has gone
_LOST = re.compile(
    r"connection (?:closed|reset|refused|aborted|timed out)|broken pipe|\bpeers?\b|HorovodInternalError|socket closed|gloo",
    re.IGNORECASE,
)
_AT_START = (
    "start Python alone in the environment: something runs at its start-up, such as sitecustomize or a .pth file"
)
_DEAD_RANK = re.compile(r"(?:process rank|error: [^:\n]+: task) (\d+)")
_DEAD_PID = re.compile(r"\bPID (\d+) (?:RUNNING AT|on node)")


def _started(expectation: Expectation, evidence: Evidence) -> Finding:
    run = evidence.runs.get("ranks")
    if run is None:
        return NotRun("the probe of several ranks was not run")
    for judge in (_none, _errors, _absent, _hung, _died, _lonely, _fewer, _crowded):
        failed = judge(expectation, run)
        if failed is not None:
            return failed
    hosts = {str(rank.facts["world"].get("host", "")) for rank in run.ranks}
    return Passed(f"{word(len(run.ranks), 'rank')} in one world on {word(len(hosts), 'host')}, {run.seconds:.1f} s")


def _world(rank: RankEvidence) -> Mapping[str, Any]:
    world = rank.facts.get("world")
    return world if isinstance(world, Mapping) else {}


def _process(rank: RankEvidence) -> Mapping[str, Any]:
    process = rank.facts.get("process")
    return process if isinstance(process, Mapping) else {}


def _none(_: Expectation, run: ProbeRun) -> Failed | None:
    if run.ranks:
        return None
    signal = signal_number(run)
    if signal and run.code >= 0:  # it is a rank that the launcher says this of
        return Failed(
            f"no rank left evidence: one was killed by {signal_name(signal)} before its probe began",
            _AT_START,
            tail(run),
        )
    return Failed(
        f"no rank left evidence: the launcher ({run.launcher}) {ending(run)}",
        "run the launcher by hand with a trivial program; its last lines are below",
        tail(run),
    )


def _errors(_: Expectation, run: ProbeRun) -> Failed | None:
    """A Python exception in a rank; the others were then aborted, so it comes before all other findings.

    Unless a rank that left nothing was a turn behind and the exception is of the kind that the death of another makes:
    that rank died first. One that is behind without that was still at work when the launcher ended it.
    """
    failed = [rank for rank in run.ranks if rank.error is not None]
    if not failed:
        return None
    first = min(failed, key=lambda rank: (_turn(rank), rank.rank))
    vanished = [rank for rank in run.ranks if rank.error is None and not rank.finished]
    error = first.error or {}
    behind = [rank for rank in vanished if _turn(rank) < _turn(first)]
    if not run.timed_out and behind and (any(_fault(rank) for rank in behind) or _LOST.search(said(error))):
        return None
    hint = set_variables(first.facts)
    return Failed(
        f"rank {first.rank} ended in phase '{first.phase}' with {said(error)}" + (f" ({hint})" if hint else ""),
        "read the traceback; if it names MPI, check with what mpi4py was built",
        str(error.get("traceback", "")),
    )


def _turn(rank: RankEvidence) -> int:
    """How many phases a rank had announced."""
    return int(number(_process(rank).get("turn", 0)))


def _named(ranks: list[RankEvidence]) -> str:
    return ", ".join(f"rank {rank.rank} in phase '{rank.phase}'" for rank in ranks)


def _absent(_: Expectation, run: ProbeRun) -> Failed | None:
    """Ranks that left nothing at all, in a launch that did not end well: they died, or hang, before the probe began."""
    absent = sorted(set(range(run.asked)) - {rank.rank for rank in run.ranks})
    if not absent or (run.code == 0 and not run.timed_out):
        return None
    who = ", ".join(f"rank {number}" for number in absent)
    signal = signal_number(run)
    how = f"was killed by {signal_name(signal)}" if signal else "ended"
    if run.timed_out:
        how = f"hung, until the time-out after {run.seconds:.0f} s,"
    others = f"; the launcher ended the others: {_named(list(run.ranks))}" if run.ranks else ""
    return Failed(
        f"{who} {how} before its probe began{others}",
        _AT_START,
        tail(run),
    )


def _hung(_: Expectation, run: ProbeRun) -> Failed | None:
    if not run.timed_out:
        return None
    waiting = [rank for rank in run.ranks if not rank.finished]
    if not waiting:
        late = [rank for rank in run.ranks if rank.phase != "done"]
        where = _named(late) if late else "the launcher, after all ranks were done"
        return Failed(
            f"time-out after {run.seconds:.0f} s: every rank wrote its evidence, then this hung: {where}",
            "look at how the MPI library ends (MPI_Finalize)",
            tail(run),
        )
    turns = {rank.rank: number(_process(rank).get("turn")) for rank in waiting}
    fewest = min(turns.values())
    culprits = [rank for rank in waiting if turns[rank.rank] == fewest] if len(set(turns.values())) > 1 else waiting
    others = [rank for rank in waiting if rank not in culprits]
    behind = f"; waiting for it: {_named(others)}" if others else ""
    return Failed(
        f"time-out after {run.seconds:.0f} s: {_named(culprits)} hung{behind}",
        "if all ranks hang in one phase, look at the network that MPI or gloo chose; a slow machine needs --timeout",
        tail(run),
    )


def _died(_: Expectation, run: ProbeRun) -> Failed | None:
    missing = [rank for rank in run.ranks if not rank.finished and rank.error is None]
    if not missing:
        if run.code != 0 and not run.timed_out:
            return Failed(
                f"every rank wrote its evidence, and then the launcher {ending(run)}: a process crashed while it was "
                f"ending ({_named(list(run.ranks))})",
                "look at the last lines of the log",
                tail(run),
            )
        return None
    faulty = [rank for rank in missing if _fault(rank)]
    number_of_signal = _fault(faulty[0]) if faulty else signal_number(run)
    if not number_of_signal and all(rank.phase == "MPI_Init" for rank in missing):
        return Failed(
            f"MPI_Init failed in rank {', '.join(str(rank.rank) for rank in missing)}: {_parties(run)} do not go together, "
            "or MPI found no transport that works",
            _LAUNCHER_REMEDY,
            tail(run),
        )
    dead = faulty[:1] or _dead(run, missing)
    how = f"was killed by {signal_name(number_of_signal)}" if number_of_signal else "ended without leaving evidence"
    others = [rank for rank in missing if rank not in dead]
    along = f"; the launcher then ended {_named(others)}" if others else ""
    hint = set_variables(dead[0].facts)
    return Failed(
        f"{_named(dead)} {how} (the launcher ended with exit code {run.code}){along}" + (f" ({hint})" if hint else ""),
        "look for the reason in the log: SIGKILL is often memory, SIGSEGV or SIGILL a library made for another machine",
        tail(run),
    )


def _fault(rank: RankEvidence) -> int:
    """The signal that a rank said it dies of; 0 if none. One that aborts may only have lost its connection to another."""
    told = str(rank.facts.get("fault", ""))
    return next((int(sign) for words, sign in _FAULTS.items() if words in told), 0)


def _dead(run: ProbeRun, missing: list[RankEvidence]) -> list[RankEvidence]:
    """Of the ranks without evidence the one that died first: the launcher names its process or its rank."""
    pids = {int(pid) for pid in _DEAD_PID.findall(run.output)}
    by_pid = [rank for rank in missing if _process(rank).get("pid") in pids]
    ranks = {int(told) for told in _DEAD_RANK.findall(run.output)}
    by_rank = [rank for rank in missing if rank.rank in ranks]
    return by_pid[:1] or by_rank or missing


def _lonely(expectation: Expectation, run: ProbeRun) -> Failed | None:
    """Processes that are each a world of their own: launcher and library do not speak the same start-up protocol."""
    sizes = [int(number(_world(rank).get("size", 0))) for rank in run.ranks]
    if run.asked < 2 or len(sizes) < 2 or set(sizes) != {1}:
        return None
    if expectation.image and not any(_process(rank).get("launcher") for rank in run.ranks):
        return Failed(
            f"{len(sizes)} processes were started and each is a world of one: the variables of the launcher ({run.launcher}), "
            "such as PMI_RANK, do not reach into the image",
            "let the launcher's variables in: unset APPTAINER_CLEANENV and SINGULARITY_CLEANENV, and start the ranks by "
            "`envbuilder run`, which gives no --cleanenv",
        )
    return Failed(
        f"{len(sizes)} processes were started and each is a world of one: {_parties(run)} do not speak the same start-up "
        "protocol",
        _LAUNCHER_REMEDY,
    )


def _parties(run: ProbeRun) -> str:
    """The launcher and the library of a launch, as the processes see them."""
    told = sorted({str(_process(rank).get("launcher") or "no variable") for rank in run.ranks})
    library = str(run.ranks[0].facts.get("mpi", {}).get("library_version", "MPI"))
    return f"the launcher ({run.launcher}; the processes see {', '.join(told)}) and the MPI library ({library})"


def _fewer(expectation: Expectation, run: ProbeRun) -> Failed | None:
    numbers = sorted(rank.rank for rank in run.ranks)
    sizes = {int(number(_world(rank).get("size", 0))) for rank in run.ranks}
    mpi_ranks = sorted(int(number(_world(rank).get("rank", -1))) for rank in run.ranks)
    asked = expectation.ranks
    if len(run.ranks) == asked and sizes == {asked} and mpi_ranks == list(range(asked)):
        return None
    processes = "1 process" if len(run.ranks) == 1 else f"{len(run.ranks)} processes"
    return Failed(
        f"{word(asked, 'rank')} asked for, and {processes} seen (ranks {numbers}; MPI says size "
        f"{', '.join(map(str, sorted(sizes)))})",
        "check the launcher's options, the slots of the node and the size of the allocation",
        tail(run),
    )


def _crowded(expectation: Expectation, run: ProbeRun) -> Failed | None:
    """Ranks that all landed on fewer nodes than were asked for: nothing of the network was tried."""
    hosts = sorted({str(_world(rank).get("host", "")) for rank in run.ranks})
    if expectation.nodes <= 1 or len(hosts) == expectation.nodes:
        return None
    return Failed(
        f"{expectation.nodes} nodes asked for, and the ranks are on {', '.join(hosts)}",
        "check the launcher's options: one started with --nodes=1, or without the job's nodes, fills the first node",
        tail(run),
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="ranks-started",
        rung=4,
        title="as many ranks as asked for, in one world, to the end",
        source="ranks",
        judge=_started,
        features=frozenset({"mpi4py"}),
        witnesses="Each process writes its own file; mpi4py's rank and size in each of them, beside what the launcher says.",
        mistakes="mpiexec of one MPI with the library of another starts n processes that are each rank 0 of 1, and all of "
        "them succeed. The exit code of a launcher does not say who died, or where.",
        fails="Fewer ranks or nodes than asked for; worlds of one; a rank that raised, died (which, by which signal, in which "
        "phase) or hung (which, in which phase).",
    ),
    *MPI,
    *MPI_SUPPORT,
    *AFFINITY,
    *PARALLEL,
    *TORCH_MPI,
    *HOROVOD,
)
