"""Rung 4: what the MPI of the ranks supports beside messages: memory of GPUs (Cray MPICH), and calls from threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.mpi import ranks_with
from envbuilder.checks.reading import set_variables, word
from envbuilder.evidence import Evidence, Expectation, RankEvidence

_SUPPORT = "MPICH_GPU_SUPPORT_ENABLED"
_GTL = "libmpi_gtl_"
_LEVELS = ("single", "funneled", "serialized", "multiple")
# mpi4py's processes have threads (NumPy's, a framework's), of which one calls MPI; PyTorch's group calls it from a thread of
# its own, and so does Horovod while mpi4py may be calling, too.
_NEEDED = {"mpi4py": "funneled", "torch-mpi": "serialized", "horovod": "multiple"}
_THREAD_VARIABLES = ("MPI4PY_RC_THREADS", "MPI4PY_RC_THREAD_LEVEL", "MPICH_MAX_THREAD_SAFETY")


def _is_cray(expectation: Expectation) -> bool:
    return expectation.mpi is not None and expectation.mpi.name == "cray-mpich"


def _gtl(expectation: Expectation, evidence: Evidence) -> Finding:
    run = evidence.runs.get("ranks")
    # the real library ends the ranks in MPI_Init where it lacks the transport layer: what they had mapped is there then, too
    for rank in run.ranks if run is not None else ():
        if _has(rank, "mpi"):
            failed = _wrong_gtl(rank, expectation.gpu_vendor)
            if failed is not None:
                return failed
    ranks = ranks_with(evidence, "mpi")
    if isinstance(ranks, NotRun):
        return ranks
    loaded, asked = _transport(ranks[0]), _asked(ranks[0])
    if not expectation.gpu_vendor:
        return NotRun("the manifest does not say whether the partition has GPUs: envbuilder build writes it anew")
    if asked:
        return Passed(f"{word(len(ranks), 'rank')}: {_SUPPORT}={asked}, and {loaded} is mapped")
    there = f"{loaded} is mapped and not used" if loaded else f"no {_GTL}* is mapped"
    return Passed(f"{word(len(ranks), 'rank')}: {_SUPPORT} is not set, and {there}")


def _has(rank: RankEvidence, name: str) -> bool:
    found = rank.facts.get(name)
    return isinstance(found, Mapping) and "error" not in found


def _asked(rank: RankEvidence) -> str:
    """The value by which MPI is told to take memory of GPUs; "" where it is not."""
    value = str(rank.facts.get("environment", {}).get(_SUPPORT, "")).strip()
    return "" if value == "0" else value


def _transport(rank: RankEvidence) -> str:
    """The name of the GPU transport layer library that a rank has mapped."""
    listed: tuple[Mapping[str, Any], ...] = (
        *rank.facts.get("libraries_at_end", ()),
        *rank.facts["mpi"].get("libraries", ()),
    )
    names = sorted({str(one.get("path", "")).rsplit("/", 1)[-1] for one in listed})
    return next((name for name in names if name.startswith(_GTL)), "")


def _wrong_gtl(rank: RankEvidence, vendor: str) -> Failed | None:
    asked, loaded = _asked(rank), _transport(rank)
    if asked and vendor == "none":
        return Failed(
            f"rank {rank.rank}: {_SUPPORT}={asked} is set on a partition without GPUs"
            + (f", and {loaded} is mapped" if loaded else f", and no {_GTL}* is mapped: Cray MPICH ends in MPI_Init"),
            f"unset {_SUPPORT}",
        )
    if asked and not loaded:
        return Failed(
            f"rank {rank.rank}: {_SUPPORT}={asked} is set, and Cray's GPU transport layer ({_GTL}*) is not mapped: Cray MPICH "
            "ends in MPI_Init",
            "load craype-accel-* before the build, so that the compiler wrapper links it; or preload the library; or unset "
            f"{_SUPPORT} where MPI moves no GPU memory",
        )
    if loaded and vendor == "none":
        return Failed(
            f"rank {rank.rank}: Cray's GPU transport layer {loaded} is mapped on a partition without GPUs",
            "build the environment anew for this partition, without craype-accel-*; or take away what preloads it",
            set_variables(rank.facts),
        )
    return None


def _threads(expectation: Expectation, evidence: Evidence) -> Finding:
    ranks = ranks_with(evidence, "world")
    if isinstance(ranks, NotRun):
        return ranks
    who = max((name for name in _NEEDED if name in expectation.features), key=lambda name: _LEVELS.index(_NEEDED[name]))
    needed = _NEEDED[who]
    for rank in ranks:
        told = rank.facts["world"].get("thread_level")
        if not isinstance(told, Mapping) or told.get("provided") not in _LEVELS:
            return Failed(f"rank {rank.rank}: the thread level of MPI was not recorded", "verify again")
        if _LEVELS.index(told["provided"]) < _LEVELS.index(needed):
            return _too_low(rank, told, needed, who)
    told = ranks[0].facts["world"]["thread_level"]
    return Passed(
        f"{word(len(ranks), 'rank')}: MPI provides {told['provided']} ({_started(told)}); {needed} is needed by {who}"
    )


def _started(told: Mapping[str, Any]) -> str:
    return f"{told.get('by')} started it" + (f" and asked for {told['asked']}" if told.get("asked") else "")


def _too_low(rank: RankEvidence, told: Mapping[str, Any], needed: str, who: str) -> Failed:
    variables = set_variables(rank.facts, _THREAD_VARIABLES)
    asked = told.get("asked")
    if asked in _LEVELS and _LEVELS.index(asked) >= _LEVELS.index(needed):
        remedy = "use an MPI that is built with support for threads; for Cray MPICH, see MPICH_MAX_THREAD_SAFETY"
    elif told.get("by") == "torch":
        remedy = "use PyTorch 2.1 or newer, which joins an MPI that mpi4py has started with more"
    elif told.get("by") == "mpi4py":
        remedy = (
            "unset MPI4PY_RC_THREADS and MPI4PY_RC_THREAD_LEVEL, and find what sets mpi4py.rc.threads or .thread_level"
        )
    else:
        remedy = "find what starts MPI before mpi4py does, and let it ask for more"
    return Failed(
        f"rank {rank.rank}: MPI provides the thread level {told['provided']}, and {who} needs {needed}; {_started(told)}"
        f"{f' ({variables})' if variables else ''}",
        remedy,
    )


CHECKS: tuple[Check, ...] = (
    Check(
        name="mpi-gtl",
        rung=4,
        title="MPI takes memory of GPUs where that is asked for",
        source="ranks",
        judge=_gtl,
        features=frozenset({"mpi4py"}),
        where=_is_cray,
        only="where the MPI is Cray MPICH",
        witnesses="In each rank: MPICH_GPU_SUPPORT_ENABLED, whether Cray's GPU transport layer (libmpi_gtl_*) is mapped, and "
        "whether the partition has GPUs.",
        mistakes="The compiler wrapper links the layer when an accelerator's module is loaded, and python itself is never "
        "linked with it. On the machine where it was built, everything works.",
        fails="GPU support is asked for and the layer is not mapped, which Cray MPICH ends the ranks for; or it is asked for, "
        "or the layer is mapped, on a partition without GPUs. On one with GPUs the layer may be there unused.",
    ),
    Check(
        name="mpi-threads",
        rung=4,
        title="MPI may be called from as many threads as needed",
        source="ranks",
        judge=_threads,
        features=frozenset({"mpi4py"}),
        witnesses="MPI_Query_thread in each rank, who started MPI there and what it asked for. MPI is started as importing "
        "mpi4py does, with its variables and `mpi4py.rc`; PyTorch before 2.1 can only start it itself.",
        mistakes="mpi4py asks for MPI_THREAD_MULTIPLE and takes what it gets. A level that is too low shows as a hang or a "
        "crash, now and then.",
        fails="Less than what the features need: funneled for mpi4py in a process that has threads, serialized for "
        "PyTorch's process group of MPI, multiple for Horovod beside mpi4py.",
    ),
)
