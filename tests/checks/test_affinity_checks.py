"""CPUs and threads of ranks: what is no fault must pass, whatever the machine; what is one must be named."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from made import judged, process, rank, run

from envbuilder import catalog, job, launcher
from envbuilder.evidence import Outcome

AFFINITY, THREADS = "cpu-affinity", "cpu-threads"
HEALTHY_RANK = {name: fact for name, fact in rank(0).items() if name != "torch"}


def seen(
    number: int,
    cpus: str = "0-3",
    *,
    size: int = 2,
    end: str = "",
    around: str = "",
    cpuset: str = "",
    quota: float = 0,
    host: str = "node1",
    computing: dict[str, int] | None = None,
    own: dict[str, str] | None = None,
    **variables: str,
) -> dict[str, Any]:
    """The facts of a rank; its CPUs after MPI_Init and at the `end`, and what was `around` to be given out."""
    facts: dict[str, Any] = {name: {**fact} if isinstance(fact, dict) else fact for name, fact in HEALTHY_RANK.items()}
    facts["world"] |= {"rank": number, "size": size, "host": host}
    facts["affinity"] = {
        "host": host,
        "cpus": cpus,
        "around": around or cpus,
        "cpuset": cpuset,
        "quota": quota,
        "variables": {**variables, **(own or {})},
    }
    facts["threads"] = {"cpus": end or cpus, "count": 9, "computing": computing or {}, "own": own or {}}
    return facts


def judge(*facts: dict[str, Any], launcher: str = "hydra", asked: int = 0) -> dict[str, Outcome]:
    """The outcomes of the two checks."""
    processes = [process("ranks", number, one) for number, one in enumerate(facts)]
    done = run("ranks", *processes, launcher=launcher)
    outcomes = judged(done, features=("mpi4py",), ranks=len(facts), cpus_per_rank=asked)
    return {name: outcomes[name] for name in (AFFINITY, THREADS)}


def alarms(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: one.cause for name, one in outcomes.items() if one.status != "pass"}


def several(count: int, **same: Any) -> list[dict[str, Any]]:
    return [seen(number, size=count, **same) for number in range(count)]


# no fault


def listed(count: int) -> str:
    return f"0-{count - 1}" if count > 1 else "0"


@pytest.mark.parametrize(("cpus", "ranks"), list(itertools.product((1, 2, 3, 4, 8, 64, 256), (1, 2, 3, 4, 9, 64))))
def test_a_default_install_raises_no_alarm_on_any_machine(cpus: int, ranks: int) -> None:
    """Nothing binds and nobody set a number: verify sets one for OpenMP, TensorFlow takes all CPUs in each rank."""
    own = {"OMP_NUM_THREADS": str(max(1, cpus // ranks))}
    for computing in ({}, {"torch": max(1, cpus // ranks)}, {"tensorflow": 0}, {"tensorflow": cpus, "torch": cpus}):
        for quota in (0, 0.5, 2):
            facts = several(ranks, cpus=listed(cpus), computing=computing, own=own, quota=quota)
            assert alarms(judge(*facts)) == {}, (computing, quota)


@pytest.mark.parametrize(("cpus", "ranks"), list(itertools.product((2, 4, 64), (1, 2, 3, 4))))
def test_without_verify_s_own_number_neither(cpus: int, ranks: int) -> None:
    facts = several(ranks, cpus=listed(cpus), computing={"torch": cpus, "tensorflow": 0})

    assert alarms(judge(*facts)) == {}


HEALTHY: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "two ranks with all CPUs each, said by a variable: exactly two threads a CPU": (
        several(2, cpus="0-1", OMP_NUM_THREADS="2", computing={"torch": 2}),
        {},
    ),
    "four ranks on two CPUs, two threads each": (several(4, cpus="0-1", OMP_NUM_THREADS="2"), {}),
    "one thread each, whatever the number of ranks": (several(64, cpus="0-1", OMP_NUM_THREADS="1"), {}),
    "the whole launch was confined by taskset": (several(2, cpus="0", around="0", computing={"torch": 1}), {}),
    "ranks of a control group with one CPU on a large host": (several(2, cpus="3", around="0-63", cpuset="3"), {}),
    "bound to a core each, hardware threads included": (
        [seen(0, "0,64", around="0-127"), seen(1, "1,65", around="0-127")],
        {},
    ),
    "bound to hardware threads of one core": ([seen(0, "0", around="0-127"), seen(1, "64", around="0-127")], {}),
    "Open MPI binds two ranks to a core each; verify's own number is for the whole machine": (
        [seen(n, str(n), around="0-27", computing={"torch": 14}, own={"OMP_NUM_THREADS": "14"}) for n in (0, 1)],
        {"launcher": "openmpi"},
    ),
    "three ranks over two sockets": (
        [seen(n, "0-3" if n % 2 == 0 else "4-7", size=3, around="0-7", computing={"tensorflow": 0}) for n in range(3)],
        {},
    ),
    "a rank for each core, all of the node": (
        [seen(n, str(n), size=8, around="0-7", OMP_NUM_THREADS="1") for n in range(8)],
        {"launcher": "srun", "asked": 1},
    ),
    "OpenMP binds inside the ranks' own CPUs": (
        [
            seen(n, f"{2 * n}-{2 * n + 1}", end=str(2 * n), around="0-7", computing={"torch": 1}, OMP_PROC_BIND="true")
            for n in (0, 1)
        ],
        {},
    ),
    "srun gave what the profile asks for": (
        [
            seen(n, f"{64 * n}-{64 * n + 63}", around="0-255", SLURM_CPUS_PER_TASK="64", OMP_NUM_THREADS="64")
            for n in (0, 1)
        ],
        {"launcher": "srun", "asked": 64},
    ),
    "the profile counts cores, the mask has both hardware threads of each": (
        [
            seen(
                n,
                f"{16 * n}-{16 * n + 15},{128 + 16 * n}-{128 + 16 * n + 15}",
                around="0-255",
                SLURM_CPUS_PER_TASK="16",
            )
            for n in (0, 1)
        ],
        {"launcher": "srun", "asked": 16},
    ),
    "Slurm without a plug-in that binds: every rank has the whole node": (
        several(2, cpus="0-127", SLURM_CPUS_PER_TASK="64", computing={"tensorflow": 0}),
        {"launcher": "srun", "asked": 64},
    ),
    "a virtual node that claims more CPUs than there are": (
        several(2, cpus="0-1", SLURM_CPUS_PER_TASK="64", SLURM_CPUS_ON_NODE="256", computing={"tensorflow": 0}),
        {"launcher": "srun", "asked": 64},
    ),
    "--overcommit in a job of one CPU, whose daemon sees the whole node": (
        several(2, cpus="5", around="0-127", SLURM_CPUS_ON_NODE="1"),
        {"launcher": "srun"},
    ),
    "two nodes with the same CPUs": (
        [seen(n, "0-3", size=2, host=f"node{n}", OMP_NUM_THREADS="4") for n in (0, 1)],
        {},
    ),
    "a number for nested teams": (several(2, OMP_NUM_THREADS="2,4"), {}),
    "a number that is none": (several(2, OMP_NUM_THREADS="auto"), {}),
    "a quota and a number that fits it": (several(2, cpus="0-63", quota=2, OMP_NUM_THREADS="1"), {}),
    "nothing could be read": (several(2, cpus="", around=""), {}),
}


@pytest.mark.parametrize("name", list(HEALTHY))
def test_what_is_no_fault(name: str) -> None:
    facts, how = HEALTHY[name]

    assert alarms(judge(*facts, **how)) == {}


# faults


def test_two_ranks_on_one_cpu() -> None:
    outcomes = judge(seen(0, "0", around="0-3"), seen(1, "0", around="0-3"))

    assert outcomes[AFFINITY].cause == "ranks 0 and 1 on node1 all run on CPU 0, while no rank uses CPUs 1-3"
    assert "--cpu-bind=cores" in outcomes[AFFINITY].remedy
    assert "-bind-to core" in outcomes[AFFINITY].remedy
    assert outcomes[THREADS].status == "pass"


def test_two_of_four_ranks_share() -> None:
    cpus = ("0", "1", "2", "0")

    outcomes = judge(*(seen(n, one, size=4, around="0-3") for n, one in enumerate(cpus)))

    assert alarms(outcomes) == {AFFINITY: "ranks 0 and 3 on node1 all run on CPU 0, while no rank uses CPU 3"}


def test_one_of_two_nodes_is_wrong() -> None:
    facts = [
        *(seen(n, str(n), size=4, host="nid1", around="0-7") for n in (0, 1)),
        *(seen(n, "0", size=4, host="nid2", around="0-7") for n in (2, 3)),
    ]

    assert "ranks 2 and 3 on nid2 all run on CPU 0" in judge(*facts)[AFFINITY].cause


def test_both_ranks_on_one_socket_with_threads_for_two() -> None:
    facts = several(2, cpus="0-63", around="0-127", computing={"tensorflow": 0})

    assert "all run on CPUs 0-63, while no rank uses CPUs 64-127" in judge(*facts)[AFFINITY].cause
    assert judge(*several(2, cpus="0-63", around="0-127"))[AFFINITY].status == "pass", "nothing computes in threads"


def test_a_job_with_cpus_to_spare_on_a_larger_node() -> None:
    """Of a node of 128 the job has four, and two of them are used."""
    facts = several(2, cpus="0", around="0-127", SLURM_CPUS_ON_NODE="4")

    assert "while no rank uses CPUs 1-3" in judge(*facts, launcher="srun")[AFFINITY].cause


def test_openmp_that_binds_in_each_rank() -> None:
    facts = several(2, cpus="0-3", end="0-1", computing={"torch": 2}, OMP_PROC_BIND="close", OMP_NUM_THREADS="2")

    outcome = judge(*facts)[AFFINITY]

    assert "all run on CPUs 0-1, while no rank uses CPUs 2-3; set in the rank: OMP_PROC_BIND=close" in outcome.cause
    assert outcome.remedy.startswith("unset OMP_PROC_BIND")


@pytest.mark.parametrize("told", ["1", ""])
def test_fewer_cpus_than_the_launch_profile_gives(told: str) -> None:
    more = {"SLURM_CPUS_PER_TASK": told} if told else {}
    facts = [seen(n, str(n), around="0-127", **more) for n in (0, 1)]

    outcome = judge(*facts, launcher="srun", asked=64)[AFFINITY]

    assert outcome.cause == (
        "rank 0 on node1 may run on 1 CPU (0), and the launch profile of the partition gives each rank 64; "
        f"{'SLURM_CPUS_PER_TASK=1' if told else 'SLURM_CPUS_PER_TASK is not set'} in the rank"
    )
    assert "SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in outcome.remedy
    assert "--hint=nomultithread" in outcome.remedy


def test_fewer_although_srun_was_told() -> None:
    """The variable is the batch script's, and says nothing of the step."""
    facts = [seen(n, str(n), around="0-127", SLURM_CPUS_PER_TASK="64") for n in (0, 1)]

    assert "rank 0 on node1 may run on 1 CPU" in judge(*facts, launcher="srun", asked=64)[AFFINITY].cause


def test_srun_was_told_another_number_on_a_node_that_shows_nothing() -> None:
    facts = several(2, cpus="0-1", SLURM_CPUS_PER_TASK="4")

    assert "SLURM_CPUS_PER_TASK=4 in the rank" in judge(*facts, launcher="srun", asked=64)[AFFINITY].cause


def test_threads_that_a_variable_makes() -> None:
    outcome = judge(*several(2, cpus="0-1", OMP_NUM_THREADS="64", computing={"torch": 2}))[THREADS]

    assert outcome.cause == "OMP_NUM_THREADS=64 in each of 2 ranks on node1: 128 threads for CPUs 0-1"
    assert outcome.remedy.startswith("set OMP_NUM_THREADS=1,")


def test_just_above_two_threads_a_cpu() -> None:
    assert judge(*several(2, cpus="0-3", OMP_NUM_THREADS="4"))[THREADS].status == "pass"
    assert "10 threads for CPUs 0-3" in judge(*several(2, cpus="0-3", OMP_NUM_THREADS="5"))[THREADS].cause


def test_a_variable_that_tensorflow_reads() -> None:
    facts = several(2, cpus="0-3", OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="16", computing={"tensorflow": 16})

    assert "TF_NUM_INTRAOP_THREADS=16 in each of 2 ranks" in judge(*facts)[THREADS].cause


def test_a_call_in_the_program() -> None:
    facts = several(2, cpus="0-3", computing={"torch": 64}, own={"OMP_NUM_THREADS": "2"})

    outcome = judge(*facts)[THREADS]

    assert "a call for 64 threads of torch in each of 2 ranks on node1: 128 threads" in outcome.cause
    assert outcome.remedy.startswith("ask for 2,")


def test_more_than_the_quota_of_a_container_allows() -> None:
    outcome = judge(*several(2, cpus="0-63", quota=2, OMP_NUM_THREADS="32"))[THREADS]

    assert "64 threads for CPUs 0-63, of which the control group allows 2" in outcome.cause
    assert outcome.remedy.startswith("set OMP_NUM_THREADS=1,")


def test_a_framework_that_takes_the_node_where_the_profile_says_a_part() -> None:
    facts = several(4, cpus="0-127", SLURM_CPUS_PER_TASK="32", computing={"tensorflow": 0}, OMP_NUM_THREADS="32")

    outcome = judge(*facts, launcher="srun", asked=32)[THREADS]

    assert outcome.cause.startswith(
        "tensorflow takes 128 threads in each of 4 ranks on node1: nobody set TF_NUM_INTRAOP_THREADS"
    )
    assert "gives each rank 32" in outcome.cause
    assert outcome.remedy.startswith("set TF_NUM_INTRAOP_THREADS=32")


def test_evidence_that_is_not_there() -> None:
    short = seen(1)
    del short["threads"]

    outcomes = judge(seen(0), short)

    assert outcomes[AFFINITY].status == outcomes[THREADS].status == "not-run"
    assert "rank 1 left no facts about 'threads'" in outcomes[THREADS].cause


def test_what_is_told_of_a_good_one() -> None:
    facts = [seen(n, f"{2 * n}-{2 * n + 1}", around="0-3", computing={"torch": 2}) for n in (0, 1)]

    assert judge(*facts)[AFFINITY].witnessed == "node1: rank 0: CPUs 0-1, rank 1: CPUs 2-3"
    assert judge(*facts)[THREADS].witnessed == "node1: torch 2 threads in each of 2 ranks, on 4 CPUs"
    free = several(4, cpus="0-7", computing={"tensorflow": 0})
    assert "tensorflow takes 8 where nobody sets a number" in judge(*free)[THREADS].witnessed
    many = [seen(n, size=6, host=f"node{n}") for n in range(6)]
    assert judge(*many)[AFFINITY].witnessed.endswith("; and 3 hosts more")


# what the launch profile says


def test_the_cpus_of_a_rank_in_the_words_for_srun() -> None:
    assert launcher.cpus_per_rank(("srun", "--nodes=1", "--cpus-per-task=16", "--hint=nomultithread")) == 16
    assert launcher.cpus_per_rank(("srun", "--cpus-per-task=16", "--cpu-bind=verbose,cores")) == 16
    assert launcher.cpus_per_rank(("srun", "--cpus-per-task=7", "--cpu-bind=verbose,map_cpu:49,57")) == 0
    assert launcher.cpus_per_rank(("srun", "--cpus-per-task=7", "--cpu-bind=rank")) == 0
    assert launcher.cpus_per_rank(("srun", "--nodes=1")) == launcher.cpus_per_rank(()) == 0


@pytest.mark.parametrize(("name", "partition", "cpus"), [("archer2", "cpu", 64), ("lumi", "gpu", 0)])
def test_the_cpus_of_a_rank_at_shipped_sites(name: str, partition: str, cpus: int) -> None:
    site, _ = catalog.find_site(name, os.environ)
    here = site.partitions.get(partition) or next(one for one in site.partitions.values() if one.gpu.count)
    shape = job.shape_for(here, nodes=1, ranks=max(2, here.gpu.count), minutes=10)

    assert launcher.cpus_per_rank(job.srun(site, here, shape)) == cpus
