from __future__ import annotations

import math
from typing import Any

import pytest
from made import LIBRARY, causes, judged, process, rank, run

from envbuilder.evidence import Outcome, RankEvidence


def processes(*facts: dict[str, Any]) -> list[RankEvidence]:
    return [process("ranks", number, one) for number, one in enumerate(facts)]


def judge(*facts: dict[str, Any], **changes: Any) -> dict[str, Outcome]:
    return judged(run("ranks", *processes(*facts), asked=2), **changes)


def test_healthy() -> None:
    outcomes = judge(rank(0), rank(1))

    assert {name: outcome.cause for name, outcome in outcomes.items() if outcome.status != "pass"} == {}
    assert len(outcomes) == 9


def test_noise_of_the_launcher_is_no_fault() -> None:
    done = run("ranks", *processes(rank(0), rank(1)), output="hwloc: cannot read /sys\nPID 1 EXIT CODE: 9 (signal 9)")

    assert causes(judged(done)) == {}


def test_each_missing_part_is_noticed() -> None:
    for name in rank(0):
        if name in {"process", "environment"}:  # they serve the wording of failures
            continue
        short = rank(1)
        del short[name]
        outcomes = judge(rank(0), short)
        if name != "libraries_at_end":  # those of the start are judged then
            assert {outcome.status for outcome in outcomes.values()} != {"pass"}, name


def test_no_rank_at_all() -> None:
    outcomes = judged(run("ranks", asked=2, code=127, output="mpiexec: not found"))

    assert "no rank left evidence: the launcher (hydra) ended with exit code 127" in causes(outcomes)["ranks-started"]
    assert "mpiexec: not found" in outcomes["ranks-started"].witnessed
    assert {outcome.status for outcome in outcomes.values()} == {"fail", "not-run"}


DEATHS = {
    "hydra": (9, "=   BAD TERMINATION\n=   PID 101 RUNNING AT node1\n=   EXIT CODE: 9\n"),
    "openmpi": (137, "mpirun noticed that process rank 1 with PID 101 on node node1 exited on signal 9 (Killed)."),
    "srun": (137, "srun: error: node1: task 1: Killed\nsrun: launch/slurm: _step_signal"),
}


@pytest.mark.parametrize("launcher", list(DEATHS))
def test_a_rank_that_died_before_any_left_evidence(launcher: str) -> None:
    code, output = DEATHS[launcher]

    said = judged(run("ranks", asked=2, code=code, output=output, launcher=launcher))["ranks-started"]

    assert "no rank left evidence: one was killed by SIGKILL" in said.cause
    assert "sitecustomize" in said.remedy


@pytest.mark.parametrize("launcher", list(DEATHS))
def test_a_rank_that_died(launcher: str) -> None:
    code, output = DEATHS[launcher]
    dead = [process("ranks", n, rank(n), phase="torch step 3: backward", finished=False) for n in (0, 1)]

    cause = causes(judged(run("ranks", *dead, code=code, output=output)))["ranks-started"]

    assert cause.startswith("rank 1 in phase 'torch step 3: backward' was killed by SIGKILL")
    assert "the launcher then ended rank 0" in cause


@pytest.mark.parametrize("output", [DEATHS["hydra"][1], "=   PID 100 RUNNING AT node1\n=   EXIT CODE: 1\n"])
def test_a_death_that_another_rank_reports_as_an_exception(output: str) -> None:
    """Whichever the launcher notices first: the rank a turn behind, without a word of its own, is the culprit."""
    early, late = rank(1), rank(0)
    early["process"]["turn"], late["process"]["turn"] = 6, 7
    dead = process("ranks", 1, early, phase="torch step 3: forward", finished=False)
    told = {"kind": "RuntimeError", "message": "connection closed by peer", "traceback": ""}
    other = process("ranks", 0, late, phase="torch step 3: backward", finished=False, error=told)

    cause = causes(judged(run("ranks", dead, other, code=1, output=output)))["ranks-started"]

    assert cause.startswith("rank 1 in phase 'torch step 3: forward' ")


def test_an_exception_of_its_own_is_the_cause_though_another_rank_was_behind() -> None:
    """The launcher ended the slower one while it was still at the step before."""
    early, late = rank(0), rank(1)
    early["process"]["turn"], late["process"]["turn"] = 5, 6
    ended = process("ranks", 0, early, phase="torch step 2: backward", finished=False)
    told = {"kind": "OSError", "message": "no space left", "traceback": "Traceback"}
    other = process("ranks", 1, late, phase="torch step 3: forward", finished=False, error=told)

    cause = causes(judged(run("ranks", ended, other, code=1, output=DEATHS["hydra"][1])))["ranks-started"]

    assert cause.startswith("rank 1 ended in phase 'torch step 3: forward' with OSError: no space left")


def test_a_rank_that_left_no_word() -> None:
    dead = process("ranks", 1, {}, phase="collectives", finished=False)

    cause = causes(judged(run("ranks", process("ranks", 0, rank(0)), dead, code=3)))["ranks-started"]

    assert "rank 1 in phase 'collectives' ended without leaving evidence (the launcher ended with exit code 3)" in cause


def test_a_crash_after_the_evidence() -> None:
    cause = causes(judged(run("ranks", *processes(rank(0), rank(1)), code=139)))["ranks-started"]

    assert "every rank wrote its evidence, and then the launcher was killed by SIGSEGV" in cause


def test_a_rank_that_hangs() -> None:
    slow = rank(1)
    slow["process"]["turn"] = 7
    hung = [process("ranks", n, f, phase=p, finished=False) for n, f, p in ((0, rank(0), "wait"), (1, slow, "work"))]

    cause = causes(judged(run("ranks", *hung, timed_out=True, code=-15)))["ranks-started"]

    assert cause == "time-out after 9 s: rank 1 in phase 'work' hung; waiting for it: rank 0 in phase 'wait'"


def test_a_hang_in_finalize() -> None:
    hung = [process("ranks", 0, rank(0)), process("ranks", 1, rank(1), phase="finalize")]

    cause = causes(judged(run("ranks", *hung, timed_out=True)))["ranks-started"]

    assert "then this hung: rank 1 in phase 'finalize'" in cause


def test_fewer_ranks() -> None:
    assert "2 ranks asked for, and 1 process seen" in causes(judge(rank(0, size=1)))["ranks-started"]
    assert "MPI says size 3" in causes(judge(rank(0, size=3), rank(1, size=3)))["ranks-started"]


def test_worlds_of_one() -> None:
    cause = causes(judge(rank(0, size=1), rank(0, size=1)))["ranks-started"]

    assert "each is a world of one: the launcher (hydra; the processes see PMI_RANK)" in cause


def other_library(facts: dict[str, Any], path: str, sha: str) -> dict[str, Any]:
    library = {**facts["mpi"]["libraries"][0], "path": path, "realpath": path, "sha256": sha}
    facts["mpi"].update(implementation=path, owner=path, libraries=[library], library_version="Intel MPI 2021")
    facts["libraries_at_end"] = [library]
    return facts


def test_another_library_on_one_rank() -> None:
    wrong = other_library(rank(1), "/opt/impi/libmpi.so.12", "ff" * 32)
    wrong["environment"] = {"LD_LIBRARY_PATH": "/opt/impi", "OMP_NUM_THREADS": "1"}

    outcome = judge(rank(0), wrong)["mpi-library"]

    assert outcome.cause == (
        f"rank 1 uses /opt/impi/libmpi.so.12 (Intel MPI 2021), and not {LIBRARY} (mpich 5.0.2); "
        "set in the rank: LD_LIBRARY_PATH=/opt/impi"
    )
    assert outcome.remedy.startswith("unset LD_LIBRARY_PATH")


def test_the_same_library_elsewhere() -> None:
    """A container has the host's library at another path."""
    facts = [other_library(rank(n), "/host/libmpi.so.12", rank(0)["mpi"]["libraries"][0]["sha256"]) for n in (0, 1)]

    assert judge(*facts)["mpi-library"].status == "pass"


def test_a_changed_library() -> None:
    facts = [other_library(rank(n), LIBRARY, "ff" * 32) for n in (0, 1)]

    assert "is not the file that was there" in causes(judge(*facts))["mpi-library"]


def test_two_libraries() -> None:
    facts = rank(1)
    facts["libraries_at_end"] = [
        *facts["libraries_at_end"],
        {**facts["libraries_at_end"][0], "realpath": "/usr/lib/libmpich.so.12"},
    ]

    cause = causes(judge(rank(0), facts))["mpi-library"]

    assert "rank 1 has 2 MPI libraries mapped" in cause
    assert "/usr/lib/libmpich.so.12" in cause


def test_what_brings_the_second_library_is_named() -> None:
    facts = rank(1)
    second = {**facts["libraries_at_end"][0], "realpath": "/usr/lib/libmpich.so.12", "needed_by": ["/site/ops.so"]}
    own = {**facts["libraries_at_end"][0], "needed_by": ["/x/MPI.so", "/site/ops.so"]}
    facts["libraries_at_end"] = [own, second]

    outcome = judge(rank(0), facts)["mpi-library"]

    assert f"{LIBRARY} (which mpi4py calls) and /usr/lib/libmpich.so.12 (needed by /site/ops.so)" in outcome.cause
    assert outcome.remedy == "build ops.so anew for the MPI of mpi4py"


def test_a_static_mpi_in_another_extension() -> None:
    facts = rank(1)
    inside = {**facts["libraries_at_end"][0], "realpath": "/site/solver.so", "soname": "", "needed_by": []}
    facts["libraries_at_end"] = [*facts["libraries_at_end"], inside]

    assert "/site/solver.so (which has it linked in statically)" in causes(judge(rank(0), facts))["mpi-library"]


def test_a_static_mpi_that_mpi4py_calls() -> None:
    facts = [other_library(rank(n), "/env/bin/python3.11", "ff" * 32) for n in (0, 1)]

    outcome = judge(*facts)["mpi-library"]

    assert outcome.cause == (
        "rank 0: the MPI that mpi4py calls (Intel MPI 2021) was linked statically into /env/bin/python3.11, and is not "
        f"{LIBRARY} (mpich 5.0.2)"
    )
    assert "libmpich.a" in outcome.remedy


def test_companions_of_a_library_are_no_second_one() -> None:
    facts = rank(1)
    companion = {**facts["libraries_at_end"][0], "realpath": "/opt/libmpi_gtl_hsa.so.0", "implements": False}
    facts["libraries_at_end"] = [*facts["libraries_at_end"], companion]

    assert judge(rank(0), facts)["mpi-library"].status == "pass"


def test_a_profiler_in_between_is_told_and_no_fault() -> None:
    facts = rank(1)
    first = rank(0)
    first["mpi"]["owner"] = facts["mpi"]["owner"] = "/opt/darshan/libdarshan.so"

    assert "with /opt/darshan/libdarshan.so in between" in judge(first, facts)["mpi-library"].witnessed


@pytest.mark.parametrize("name", ["integers", "gathered", "broadcast"])
def test_a_wrong_collective(name: str) -> None:
    facts = rank(1)
    facts["collectives"][name]["seen"] = "wrong"

    assert causes(judge(rank(0), facts))["mpi-allreduce"].startswith("rank 1: ")


@pytest.mark.parametrize("key", ["gradient_digest", "last_gradient_digest", "parameter_digest"])
def test_ranks_that_differ(key: str) -> None:
    facts = rank(1)
    facts["torch"][key] = "00"

    assert "the two ranks differ" in causes(judge(rank(0), facts))["torch-gradients-equal"]


def test_a_sum_that_was_not_averaged() -> None:
    facts = rank(0)
    facts["torch"]["first"]["scale"] = 2.0
    facts["torch"]["first"]["reference"]["conv.weight"].update(equal=False, max_ratio=12345.0)

    cause = causes(judge(facts, rank(1)))["torch-gradients-reference"]

    assert "2 times the right one: summed over the ranks and not averaged" in cause


def test_a_reference_that_is_wrong_itself() -> None:
    facts = rank(0)
    facts["torch"]["last"]["reference_truth"]["dense.bias"].update(equal=False, max_ratio=math.nan)

    assert "one process' gradient of dense.bias" in causes(judge(facts, rank(1)))["torch-gradients-reference"]


def test_nan_on_one_rank() -> None:
    facts = rank(1)
    facts["torch"]["losses"][2] = math.nan

    assert "the loss of rank 1 is nan in step 3" in causes(judge(rank(0), facts))["torch-ranks-loss"]


def test_one_rank_has_nothing_to_compare() -> None:
    outcomes = judged(run("ranks", process("ranks", 0, rank(0, size=1))), ranks=1)

    assert outcomes["ranks-started"].status == "pass"
    assert outcomes["torch-gradients-equal"].status == "not-run"
