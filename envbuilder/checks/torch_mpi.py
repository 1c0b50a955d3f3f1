"""Rungs 2 and 4: whether PyTorch is linked with the environment's MPI, and whether its ranks train over it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.mpi import ranks_with
from envbuilder.checks.parallel import results
from envbuilder.checks.reading import Facts, part, set_variables, word
from envbuilder.evidence import Evidence, Expectation, MpiExpectation, RankEvidence

_ANY_MPI = re.compile(r"^lib(mpi|mpich)[\w+-]*\.so")
_HELPERS = re.compile(r"^libmpi(_gtl|fort|cxx|_cxx|_mpifh|_usempi)")
_REMEDY = (
    "build PyTorch from source with USE_MPI=1 and the MPI's compilers (recipe pytorch-mpi); its CMake only warns where it "
    "finds no MPI"
)
_FEATURES = frozenset({"mpi4py", "torch", "torch-mpi"})


def _linked(expectation: Expectation, evidence: Evidence) -> Finding:
    facts = part(evidence, "torch_mpi")
    if isinstance(facts, (Failed, NotRun)):
        return facts
    mpi = expectation.mpi
    if mpi is None:
        return NotRun("the lock names no MPI library")
    way = _way(facts, lambda name: name == mpi.soname)
    said = f"is_mpi_available() is {facts.get('available') is True}"
    told = f"backends: {', '.join(facts.get('backends', ())) or 'none'}; {_flag(facts)}"
    if facts.get("available") is True and way:
        return Passed(f"{said}; {' needs '.join(way)}; {told}")
    return _not_linked(facts, mpi, bool(way), said, told)


def _not_linked(facts: Facts, mpi: MpiExpectation, linked: bool, said: str, told: str) -> Failed:
    """What is wrong where torch.distributed does not say that it has MPI, or PyTorch is not linked with this one."""
    other = _way(facts, lambda name: bool(_ANY_MPI.match(name)) and not _HELPERS.match(name))
    if linked:
        return Failed(
            f"PyTorch is linked with {mpi.soname}, and torch.distributed has no MPI ({said})",
            "build with USE_DISTRIBUTED=1, and look for what patches torch.distributed",
            told,
        )
    if other:
        return Failed(
            f"PyTorch is linked with {other[-1]} ({' needs '.join(other)}), and the environment's MPI is {mpi.soname} "
            f"({mpi.name} {mpi.version})",
            "build PyTorch anew with the compilers of the environment's MPI",
            f"{said}; {told}",
        )
    if facts.get("available") is True:
        return Failed(
            f"libtorch does not need the MPI library: {said}, and none of PyTorch's {len(facts.get('libraries', ()))} mapped "
            f"libraries leads to {mpi.soname}; what answers to 'mpi' was put there from outside",
            f"find what sets _MPI_AVAILABLE or ProcessGroupMPI in torch.distributed.distributed_c10d; {_REMEDY}",
            told,
        )
    return Failed(f"PyTorch was built without MPI: {said}, {_flag(facts)}", _REMEDY, told)


def _flag(facts: Facts) -> str:
    return f"USE_MPI={facts['use_mpi']}" if facts.get("use_mpi") else "the build does not tell USE_MPI"


def _way(facts: Facts, wanted: Callable[[str], bool]) -> list[str]:
    """The shortest way by DT_NEEDED from a library of PyTorch to one that is wanted, by their names; [] if there is none."""
    objects = facts.get("objects")
    if not isinstance(objects, Mapping):
        return []
    by_name = {str(one.get("soname") or _short(path)): path for path, one in objects.items()}
    waiting = [[str(path)] for path in facts.get("libraries", ())]
    seen = {way[0] for way in waiting}
    while waiting:
        way = waiting.pop(0)
        for name in map(str, objects.get(way[-1], {}).get("needs", ())):
            if wanted(name):
                return [_short(path) for path in way] + [name]
            path = str(by_name.get(name, ""))
            if path and path not in seen:
                seen.add(path)
                waiting.append([*way, path])
    return []


def _short(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _shared(expectation: Expectation, evidence: Evidence) -> Finding:
    mpi, ranks = expectation.mpi, _ranks(expectation, evidence)
    if mpi is None:
        return NotRun("the lock names no MPI library")
    if not isinstance(ranks, list):
        return ranks
    for rank in ranks:
        failed = _other_library(rank, mpi)
        if failed is not None:
            return failed
    return Passed(
        f"{word(len(ranks), 'rank')}: PyTorch and mpi4py call {_ours(ranks[0])} ({mpi.soname}), which is mapped once"
    )


def _ranks(expectation: Expectation, evidence: Evidence) -> list[RankEvidence] | Failed | NotRun:
    """All ranks, once they are in PyTorch's group of MPI; or why they are not."""
    ranks = ranks_with(evidence, "torch_mpi")
    if isinstance(ranks, NotRun):
        return ranks
    for rank in ranks:
        if rank.facts["torch_mpi"].get("available") is not True:
            return Failed(f"rank {rank.rank}: PyTorch was built without MPI: is_mpi_available() is False", _REMEDY)
    left_out = next(
        (rank.facts["torch_mpi"]["left_out"] for rank in ranks if rank.facts["torch_mpi"].get("left_out")), ""
    )
    if left_out:
        return NotRun(str(left_out))
    if len(ranks) != expectation.ranks:
        return NotRun(f"{len(ranks)} of {expectation.ranks} ranks were there; see ranks-started")
    return ranks


def _other_library(rank: RankEvidence, mpi: MpiExpectation) -> Failed | None:
    calls: Mapping[str, str] = rank.facts["torch_mpi"].get("libraries", {})
    used = sorted({str(library) for library in calls.values() if library})
    if not used:
        return Failed(
            f"rank {rank.rank}: none of PyTorch's {len(calls)} mapped libraries binds functions of MPI; what answers to 'mpi' "
            "is not PyTorch's",
            _REMEDY,
        )
    ours = _ours(rank)
    if used != [ours]:
        variables = set_variables(rank.facts)
        return Failed(
            f"rank {rank.rank}: PyTorch calls {' and '.join(used)}, and mpi4py {ours or 'none'}"
            f"{f' ({variables})' if variables else ''}",
            "build both with the compilers of one MPI",
        )
    listed = (*rank.facts.get("libraries_at_end", ()), *rank.facts.get("mpi", {}).get("libraries", ()))
    sonames = sorted({str(one.get("soname")) for one in listed if one.get("realpath") == ours})
    if sonames != [mpi.soname]:
        return Failed(
            f"rank {rank.rank}: PyTorch and mpi4py call {ours} (soname {', '.join(sonames) or 'unknown'}), and the "
            f"environment's MPI is {mpi.soname}",
            "build the environment anew for this MPI, or load the modules that it was built with",
        )
    return None


def _ours(rank: RankEvidence) -> str:
    """The library that mpi4py calls in a rank; whether that one is the right one is what mpi-library says."""
    mpi = rank.facts.get("mpi")
    return str(mpi.get("implementation", "")) if isinstance(mpi, Mapping) else ""


def _group(expectation: Expectation, evidence: Evidence) -> Finding:
    ranks = _ranks(expectation, evidence)
    if not isinstance(ranks, list):
        return ranks
    for rank in ranks:
        told = rank.facts["torch_mpi"]
        failed = _not_mpi(rank, told.get("group"), "the default process group")
        failed = failed or results("torch.distributed", rank.rank, told.get("collectives", {}))
        if failed is not None:
            return failed
    trained = ranks_with(evidence, "torch")
    if isinstance(trained, NotRun):
        return trained
    for rank in trained:
        failed = _not_mpi(rank, rank.facts["torch"].get("group"), "the process group of DistributedDataParallel")
        if failed is not None:
            return failed
    group = ranks[0].facts["torch_mpi"]["group"]
    return Passed(
        f"{word(len(ranks), 'rank')}: DistributedDataParallel over {group['says']} ({group['kind']}), rank and size those of "
        "MPI; all-reduce, allgather and broadcast right; for its gradients see torch-gradients-equal and -reference"
    )


def _not_mpi(rank: RankEvidence, group: Facts | None, which: str) -> Failed | None:
    """Another backend than MPI's by the group's own word, or another world than MPI's."""
    if not isinstance(group, Mapping):
        return Failed(f"rank {rank.rank}: {which} is not one of MPI's: it was formed apart", "look for what forms it")
    if group.get("says") != "mpi" or group.get("kind") != "ProcessGroupMPI":
        return Failed(
            f"rank {rank.rank}: {which} was asked for as mpi and is {group.get('says')} ({group.get('kind')})",
            "look for what replaces init_process_group or its backend",
            f"registered as {group.get('registered')}",
        )
    world = rank.facts.get("world", {})
    seen, right = ((one.get("rank"), one.get("size")) for one in (group, world))
    if seen != right:
        return Failed(
            f"rank {rank.rank}: {which} says rank {seen[0]} of {seen[1]}, and MPI says rank {right[0]} of {right[1]}",
            "PyTorch 2.0 says -1 of -1 (pytorch/pytorch#97507): use 2.1 or newer; else start the ranks with the launcher of "
            "this MPI",
        )
    return None


LINKED: tuple[Check, ...] = (
    Check(
        name="torch-has-mpi",
        rung=2,
        title="PyTorch is linked with the environment's MPI",
        source="single",
        judge=_linked,
        features=_FEATURES,
        witnesses="is_mpi_available(), and by ELF the way from PyTorch's own libraries (torch/lib, as mapped) to the soname of "
        "the environment's MPI: DT_NEEDED, through other libraries where there are some in between.",
        mistakes="A build that finds no MPI goes on with a warning, and nothing fails before init_process_group('mpi'). "
        "is_mpi_available() reads a global of a Python module, which anybody can set; USE_MPI in torch.__config__ is a flag.",
        fails="PyTorch was built without MPI; its libraries need no MPI, or another one than the environment's.",
    ),
)

RANKS: tuple[Check, ...] = (
    Check(
        name="torch-mpi-library",
        rung=4,
        title="PyTorch and mpi4py share the environment's MPI",
        source="ranks",
        judge=_shared,
        features=_FEATURES,
        witnesses="In each live rank: the library whose PMPI_Init_thread PyTorch's libraries bind, beside mpi4py's, and its "
        "soname.",
        mistakes="Two extensions that were built on one machine can be linked with two MPIs; each works alone. ldd resolves "
        "with the variables of the shell that runs it.",
        fails="PyTorch binds no MPI, another library than mpi4py, or one with another soname than the lock's.",
    ),
    Check(
        name="torch-mpi-backend",
        rung=4,
        title="torch.distributed communicates over MPI",
        source="ranks",
        judge=_group,
        features=_FEATURES,
        witnesses="What the process groups say of themselves, the default one and that of DistributedDataParallel: their kind, "
        "backend, rank and size, beside those of MPI; an all-reduce, an allgather and a broadcast with known results. The "
        "gradients that were reduced over it are judged by torch-gradients-equal and torch-gradients-reference.",
        mistakes="get_backend() repeats what was asked for. A group of one, or one over gloo, trains as well, and losses fall.",
        fails="A group over another backend, or of another world than MPI's; a wrong result.",
    ),
)
