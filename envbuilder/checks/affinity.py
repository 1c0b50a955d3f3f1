"""Rung 4: whether each rank has CPUs of its own to run on, and no more threads than they can carry."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.mpi import ranks_with
from envbuilder.checks.reading import number, word
from envbuilder.evidence import Evidence, Expectation, RankEvidence

# Simultaneous multithreading has two hardware threads on a core; and two ranks on a small machine, each with a framework
# that takes every CPU, are exactly two threads for each. More than that no default explains.
THREADS_OF_A_CPU = 2

_OPENMP_BINDS = ("OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_PLACING = (*_OPENMP_BINDS, "SLURM_CPU_BIND", "I_MPI_PIN_DOMAIN")
_COUNTING = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_DECIDES = {
    "torch": ("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    "tensorflow": ("TF_NUM_INTRAOP_THREADS",),
}
_OWN_CPUS = (
    "give each rank its own: srun --cpus-per-task=N --cpu-bind=cores, mpiexec -bind-to core (Open MPI: --bind-to core); and "
    "take taskset or numactl out of what starts the ranks"
)
_OPENMP = (
    "unset OMP_PROC_BIND, OMP_PLACES and their like, or let the launcher bind the ranks first (srun --cpus-per-task=N "
    "--cpu-bind=cores, mpiexec -bind-to core): OpenMP in each rank begins at the first CPU that the rank may use"
)
_ASK = (
    "say it to srun itself: --cpus-per-task={cpus}, or export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK, for since Slurm 22.05 "
    "srun does not read the job's; --hint=nomultithread where CPUs are counted as cores"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rank:
    """One rank, as the probe saw it.

    `bound` are the CPUs that the launcher left to it, `cpus` those that any of its threads may use in the end, `around`
    those that could have been given to the ranks of its host (`granted`: how many of them the job has, 0 if unknown),
    `quota` how many CPUs' time its control group allows. `told` is how many srun was told. `by` are the threads that each
    framework computes with; `chosen` those of a framework whose number nobody set; `set_to` the most that somebody's
    setting makes, and `setting` that one in words.
    """

    rank: int
    host: str
    bound: frozenset[int]
    cpus: frozenset[int]
    around: frozenset[int]
    granted: int
    quota: float
    told: str
    placing: Mapping[str, str]
    by: Mapping[str, int]
    chosen: Mapping[str, int]
    set_to: int
    setting: str

    @property
    def computing(self) -> int:
        """The threads that it really needs CPUs for; one, where nothing computes in several."""
        return max(1, min(max(self.by.values(), default=1), len(self.bound)))


def _affinity(expectation: Expectation, evidence: Evidence) -> Finding:
    seen = _ranks(evidence)
    if isinstance(seen, NotRun):
        return seen
    slurm = evidence.runs["ranks"].launcher == "srun"
    for ranks in _by_host(seen).values():
        failed = _crowded(ranks, slurm=slurm)
        if failed is None and expectation.cpus_per_rank:
            failed = _fewer(ranks, expectation.cpus_per_rank)
        if failed is not None:
            return failed
    return Passed(_joined([_placed(ranks, expectation.cpus_per_rank) for ranks in _by_host(seen).values()]))


def _threads(expectation: Expectation, evidence: Evidence) -> Finding:
    seen = _ranks(evidence)
    if isinstance(seen, NotRun):
        return seen
    for ranks in _by_host(seen).values():
        failed = _too_many_set(ranks) or _too_many_chosen(ranks, expectation.cpus_per_rank)
        if failed is not None:
            return failed
    return Passed(_joined([_computing(ranks) for ranks in _by_host(seen).values()]))


def _ranks(evidence: Evidence) -> list[_Rank] | NotRun:
    """What the ranks saw, if all of them came to the end of their probe."""
    bound = ranks_with(evidence, "affinity")
    if isinstance(bound, NotRun):
        return bound
    ended = ranks_with(evidence, "threads")
    if isinstance(ended, NotRun):
        return ended
    return [_read(rank) for rank in bound]


def _read(rank: RankEvidence) -> _Rank:
    facts, end = rank.facts["affinity"], rank.facts["threads"]
    variables = {str(name): str(value) for name, value in facts.get("variables", {}).items()}
    own = {str(name): str(value) for name, value in end.get("own", {}).items()}
    told = {name: variables[name] for name in _COUNTING if name in variables and variables[name] != own.get(name)}
    bound = cpus_of(facts.get("cpus", ""))
    allowed = cpus_of(facts.get("cpuset", ""))
    around = cpus_of(facts.get("around", "")) & allowed if allowed else cpus_of(facts.get("around", ""))
    by, chosen, settings = {}, {}, [(_whole(value), f"{name}={value}") for name, value in told.items()]
    for framework, count in end.get("computing", {}).items():
        deciding = _DECIDES.get(framework, ())
        by[framework] = _whole(count) or len(bound)
        if any(name in told for name in deciding):
            continue
        # without the number that the launch set by itself, it would take all that it may use
        ours = any(_whole(own.get(name, "")) == by[framework] for name in deciding)
        if ours or by[framework] <= len(bound):
            chosen[framework] = len(bound) if ours else by[framework]
        else:
            settings.append((by[framework], f"a call for {word(by[framework], 'thread')} of {framework}"))
    set_to, setting = max(settings, default=(0, ""))
    return _Rank(
        rank=rank.rank,
        host=str(facts.get("host", "")),
        bound=bound,
        cpus=cpus_of(end.get("cpus", "")) or bound,
        around=around | bound,
        granted=_whole(variables.get("SLURM_CPUS_ON_NODE", "")),
        quota=number(facts.get("quota", 0)),
        told=variables.get("SLURM_CPUS_PER_TASK", ""),
        placing={name: variables[name] for name in _PLACING if name in variables},
        by=by,
        chosen=chosen,
        set_to=set_to,
        setting=setting,
    )


def _crowded(ranks: list[_Rank], *, slurm: bool) -> Failed | None:
    """Ranks that share CPUs which cannot carry their threads, while the host has others that no rank uses."""
    around = _all(rank.around for rank in ranks)
    used = _all(rank.cpus for rank in ranks)
    spare = sorted(around - used)
    granted = max(rank.granted for rank in ranks) if slurm else 0
    if granted:  # a step daemon may see the whole node, where the job has a part of it
        spare = spare[: max(0, granted - len(used))]
    if not spare:
        return None
    for shared in {rank.cpus: rank for rank in ranks}:
        group = [rank for rank in ranks if rank.cpus <= shared]
        if len(group) > 1 and sum(rank.computing for rank in group) > len(shared):
            return _on_the_same(group, shared, spare)
    return None


def _on_the_same(group: list[_Rank], shared: frozenset[int], spare: list[int]) -> Failed:
    openmp = any(rank.cpus < rank.bound or set(rank.placing) & set(_OPENMP_BINDS) for rank in group)
    return Failed(
        f"ranks {_numbers(rank.rank for rank in group)} on {group[0].host} all run on {_cpus(shared)}, while no rank uses "
        f"{_cpus(spare)}{_set_in(group[0])}",
        _OPENMP if openmp else _OWN_CPUS,
        "; ".join(_where(rank) for rank in group),
    )


def _fewer(ranks: list[_Rank], asked: int) -> Failed | None:
    """A rank with fewer CPUs than the launch profile asks for, unless the node has no more to give."""
    there = len(_all(rank.around for rank in ranks))
    share = min(asked, max(1, there // len(ranks)))
    for rank in ranks:
        if len(rank.bound) < share or (len(rank.bound) < asked and rank.told != str(asked)):
            told = f"SLURM_CPUS_PER_TASK={rank.told}" if rank.told else "SLURM_CPUS_PER_TASK is not set"
            return Failed(
                f"rank {rank.rank} on {rank.host} may run on {word(len(rank.bound), 'CPU')} ({listed(rank.bound)}), and the "
                f"launch profile of the partition gives each rank {asked}; {told} in the rank{_set_in(rank)}",
                _ASK.format(cpus=asked),
                "; ".join(_where(one) for one in ranks),
            )
    return None


def _too_many_set(ranks: list[_Rank]) -> Failed | None:
    """Threads that somebody's setting makes; ranks beyond the number of CPUs are a choice, and have one CPU each."""
    used = _all(rank.cpus for rank in ranks)
    quota = min((rank.quota for rank in ranks if rank.quota > 0), default=0.0)
    cpus = min(len(used), math.ceil(quota)) if quota else len(used)
    total = sum(rank.set_to for rank in ranks)
    if total <= THREADS_OF_A_CPU * max(cpus, len(ranks)):
        return None
    worst = max(ranks, key=lambda rank: rank.set_to)
    limit = f", of which the control group allows {quota:g}" if cpus < len(used) else ""
    name, _, is_variable = worst.setting.partition("=")
    right = max(1, cpus // len(ranks))
    return Failed(
        f"{worst.setting} in {_each(ranks)} on {worst.host}: {total} threads for {_cpus(used)}{limit}",
        f"{f'set {name}={right}' if is_variable else f'ask for {right}'}, as many as a rank has CPUs: in a job "
        "$SLURM_CPUS_PER_TASK, with --cpus-per-task given to srun, too",
        "; ".join(f"rank {rank.rank}: {rank.setting or 'nothing set'}" for rank in ranks),
    )


def _too_many_chosen(ranks: list[_Rank], asked: int) -> Failed | None:
    """A framework that takes every CPU of the node in each rank, where the launch profile says how many a rank gets."""
    for rank in ranks:
        for framework, count in rank.chosen.items():
            if asked and len(ranks) > 1 and count > THREADS_OF_A_CPU * asked:
                return Failed(
                    f"{framework} takes {count} threads in {_each(ranks)} on {rank.host}: nobody set "
                    f"{' or '.join(_DECIDES[framework])}, the ranks may run on {_cpus(rank.bound)}, and the launch profile "
                    f"gives each rank {asked}",
                    f"set {_DECIDES[framework][0]}={asked}, and let the launcher bind: srun --cpus-per-task={asked} "
                    "--cpu-bind=cores",
                )
    return None


def _placed(ranks: list[_Rank], asked: int) -> str:
    masks = {rank.cpus for rank in ranks}
    host = ranks[0].host
    if len(masks) == 1 and len(ranks) > 1:
        told = f"{host}: {_each(ranks)} may use {_cpus(ranks[0].cpus)}"
    else:
        told = f"{host}: {', '.join(_where(rank) for rank in ranks[:4])}{', ...' if len(ranks) > 4 else ''}"
    short = asked and any(len(rank.bound) < asked for rank in ranks)
    return f"{told} (the launch profile gives each {asked}, and the node has fewer)" if short else told


def _computing(ranks: list[_Rank]) -> str:
    first, used = ranks[0], len(_all(rank.cpus for rank in ranks))
    parts = [f"{name} {word(count, 'thread')}" for name, count in first.by.items()]
    said = ", ".join(parts) or first.setting or "no framework, and no variable that sets a number of threads,"
    kept = f", of which the control group allows {first.quota:g}" if 0 < first.quota < used else ""
    most = max(first.chosen.items(), key=lambda item: item[1], default=("", 0))
    free = f"; {most[0]} takes {most[1]} where nobody sets a number" if most[1] * len(ranks) > used else ""
    return f"{first.host}: {said} in {_each(ranks)}, on {word(used, 'CPU')}{kept}{free}"


def _joined(hosts: list[str]) -> str:
    more = f"; and {word(len(hosts) - 3, 'host')} more" if len(hosts) > 3 else ""
    return "; ".join(hosts[:3]) + more


def _all(sets: Iterable[frozenset[int]]) -> frozenset[int]:
    return frozenset(cpu for one in sets for cpu in one)


def _set_in(rank: _Rank) -> str:
    names = ", ".join(f"{name}={value}" for name, value in rank.placing.items())
    return f"; set in the rank: {names}" if names else ""


def _where(rank: _Rank) -> str:
    return f"rank {rank.rank}: {_cpus(rank.cpus)}"


def _each(ranks: list[_Rank]) -> str:
    return "the one rank" if len(ranks) == 1 else f"each of {len(ranks)} ranks"


def _by_host(ranks: Iterable[_Rank]) -> dict[str, list[_Rank]]:
    found: dict[str, list[_Rank]] = defaultdict(list)
    for rank in ranks:
        found[rank.host].append(rank)
    return dict(sorted(found.items()))


def _cpus(cpus: Iterable[int]) -> str:
    found = set(cpus)
    return f"CPU{'' if len(found) == 1 else 's'} {listed(found)}"


def _numbers(ranks: Iterable[int]) -> str:
    found = sorted(ranks)
    shown = ", ".join(map(str, found[:-1])) + f" and {found[-1]}"
    return shown if len(found) <= 8 else f"{', '.join(map(str, found[:8]))} and {len(found) - 8} more"


def _whole(text: Any) -> int:
    """The first number of a setting such as `4` or, for nested teams, `4,2`; 0 where there is none."""
    first = str(text).partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def cpus_of(text: Any) -> frozenset[int]:
    """The CPUs of a list as the kernel writes it, `0-3,8`."""
    found: set[int] = set()
    for part in str(text).split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def listed(cpus: Iterable[int]) -> str:
    """CPUs as the kernel lists them."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


CHECKS: tuple[Check, ...] = (
    Check(
        name="cpu-affinity",
        rung=4,
        title="each rank has CPUs of its own to run on",
        source="ranks",
        judge=_affinity,
        features=frozenset({"mpi4py"}),
        witnesses="In each rank sched_getaffinity after MPI_Init, and that of every thread at the end; the CPUs of what "
        "started the launch, of the control group and of the Slurm step; OMP_PROC_BIND, OMP_PLACES, SLURM_CPU_BIND and "
        "their like.",
        mistakes="Everything runs and is right, only slowly: two ranks on one core, the others idle. A variable such as "
        "SLURM_CPUS_PER_TASK says what was asked for, and not what the rank got.",
        fails="Ranks of a host share too few CPUs for their threads, while others that the launch could use are idle, as "
        "when both are on CPU 0; or a rank has fewer CPUs than the partition's launch profile tells srun to give it. Ranks "
        "that are not bound at all pass, and so do more ranks than CPUs; for a launch that was confined as a whole "
        "(taskset) there are no others.",
    ),
    Check(
        name="cpu-threads",
        rung=4,
        title="the ranks have no more threads than their CPUs can carry",
        source="ranks",
        judge=_threads,
        features=frozenset({"mpi4py"}),
        witnesses="torch.get_num_threads and TensorFlow's intra-op threads after the training, in each rank; "
        "OMP_NUM_THREADS, MKL_NUM_THREADS, OPENBLAS_NUM_THREADS, TF_NUM_INTRAOP_THREADS; the CPUs of all ranks of a host, "
        "and the control group's quota of their time.",
        mistakes="OMP_NUM_THREADS is what was wished: TensorFlow does not read it, and PyTorch with MKL takes no more "
        "threads than there are cores. In a container the mask has all CPUs of the host, where the quota allows the time "
        "of two.",
        fails="What somebody set makes more than two threads for each CPU that the ranks of a host may use (ranks beyond "
        "the number of CPUs have one each): a core has two hardware threads, and two ranks that each take all of a small "
        "machine come to two exactly. Where nobody set a number: a framework takes more than twice the CPUs that the "
        "partition's launch profile gives to a rank. Without such a profile its own choice is told and not judged.",
    ),
)
