from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made import LIBRARY, PREFIX, causes, judged, process, rank, run, single

from envbuilder import checks
from envbuilder.evidence import Outcome

LIB = f"{PREFIX}/lib/python3.11/site-packages/torch/lib"
FEATURES = ("mpi4py", "torch", "torch-mpi")
NAMES = {"torch-has-mpi", "torch-mpi-library", "torch-mpi-backend"}
GROUP = {"registered": "mpi", "kind": "ProcessGroupMPI", "says": "mpi", "size": 2}

Facts = dict[str, Any]
Fault = Callable[[Facts], object]


def built(*needs: str, **changes: Any) -> Facts:
    """What a healthy build tells, where libtorch_cpu.so needs these libraries."""
    cpu = f"{LIB}/libtorch_cpu.so"
    objects = {
        f"{LIB}/libtorch_python.so": {"soname": "libtorch_python.so", "needs": ["libtorch_cpu.so", "libc.so.6"]},
        cpu: {"soname": "libtorch_cpu.so", "needs": [*needs, "libc.so.6"]},
        "/usr/lib/libc.so.6": {"soname": "libc.so.6", "needs": []},
    }
    told = {"available": True, "backends": ["gloo", "mpi"], "use_mpi": "ON", "objects": objects}
    return {**told, "libraries": [f"{LIB}/libtorch_python.so", cpu], **changes}


def worker(number: int, size: int = 2) -> Facts:
    """The facts of one healthy rank."""
    facts = rank(number, size)
    facts["torch_mpi"] = {
        "available": True,
        "libraries": {f"{LIB}/libtorch_cpu.so": LIBRARY, f"{LIB}/libc10.so": ""},
        "group": {**GROUP, "rank": number},
        "collectives": {
            "floats": {"count": 256, "wrong": 0, "first_wrong": -1, "seen": 0.375, "right": 0.375},
            "gathered": {"seen": [0, 1], "right": [0, 1]},
            "broadcast": {"seen": 1, "right": 1},
        },
    }
    facts["torch"]["group"] = {**GROUP, "rank": number}
    return facts


def alone(facts: Facts | None, **changes: Any) -> Outcome:
    """What the one process is judged to have."""
    told = {**single(), **({"torch_mpi": facts} if facts is not None else {})}
    outcomes = judged(run("single", process("single", 0, told)), **{"features": FEATURES, **changes})
    return outcomes["torch-has-mpi"]


def together(*facts: Facts, **changes: Any) -> dict[str, Outcome]:
    """What the ranks are judged to have."""
    ranks = [process("ranks", number, one) for number, one in enumerate(facts)]
    outcomes = judged(run("ranks", *ranks, asked=2), **{"features": FEATURES, **changes})
    return {name: outcome for name, outcome in outcomes.items() if name in NAMES}


def test_healthy() -> None:
    outcomes = {"torch-has-mpi": alone(built("libmpi.so.12")), **together(worker(0), worker(1))}

    assert {name: outcome.cause for name, outcome in outcomes.items() if outcome.status != "pass"} == {}
    assert set(outcomes) == NAMES
    assert "libtorch_cpu.so needs libmpi.so.12; backends: gloo, mpi; USE_MPI=ON" in outcomes["torch-has-mpi"].witnessed
    assert f"2 ranks: PyTorch and mpi4py call {LIBRARY} (libmpi.so.12)" in outcomes["torch-mpi-library"].witnessed
    assert "DistributedDataParallel over mpi (ProcessGroupMPI)" in outcomes["torch-mpi-backend"].witnessed


def test_recipes_without_it_are_not_asked() -> None:
    asked = {check.name for check in checks.CHECKS if check.features <= {"mpi4py", "torch", "onednn"}}

    assert not NAMES & asked


# the build


def through(library: str) -> Facts:
    """A build that reaches the MPI through another library."""
    facts = built("libwrapper.so.1")
    facts["objects"]["/opt/libwrapper.so.1.0"] = {"soname": "libwrapper.so.1", "needs": [library]}
    return facts


def test_a_library_in_between_is_told() -> None:
    outcome = alone(through("libmpi.so.12"))

    assert outcome.status == "pass"
    assert "libtorch_cpu.so needs libwrapper.so.1.0 needs libmpi.so.12" in outcome.witnessed


BUILDS: list[tuple[Facts, tuple[str, ...], str]] = [
    (
        built(available=False, use_mpi="OFF", backends=["gloo"]),
        ("PyTorch was built without MPI: is_mpi_available() is False, USE_MPI=OFF",),
        "USE_MPI=1",
    ),
    (
        built(use_mpi="OFF"),
        (
            "libtorch does not need the MPI library",
            "is_mpi_available() is True",
            "none of PyTorch's 2 mapped libraries leads",
        ),
        "_MPI_AVAILABLE",
    ),
    (
        built("libmpi.so.40"),
        ("linked with libmpi.so.40 (libtorch_cpu.so needs libmpi.so.40), and the environment's MPI is libmpi.so.12",),
        "compilers of the environment's MPI",
    ),
    (through("libmpich.so.12"), ("linked with libmpich.so.12", "libwrapper.so.1.0 needs libmpich.so.12"), "compilers"),
    (
        built("libmpi_gtl_hsa.so.0"),
        ("libtorch does not need the MPI library",),
        "USE_MPI=1",
    ),
    (
        built("libmpi.so.12", available=False),
        ("PyTorch is linked with libmpi.so.12, and torch.distributed has no MPI",),
        "USE_DISTRIBUTED=1",
    ),
    (built(available=False, libraries=[], objects={}), ("PyTorch was built without MPI",), "USE_MPI=1"),
    ({"error": {"kind": "OSError", "message": "gone"}}, ("torch_mpi ended with OSError: gone",), "traceback"),
]


@pytest.mark.parametrize(("facts", "words", "remedy"), BUILDS, ids=[words[0][:60] for _, words, _ in BUILDS])
def test_a_build_that_is_not_what_it_should_be(facts: Facts, words: tuple[str, ...], remedy: str) -> None:
    outcome = alone(facts)

    assert outcome.status == "fail"
    assert all(word in outcome.cause for word in words), outcome.cause
    assert remedy in outcome.remedy


def test_a_flag_that_is_not_told_is_no_evidence() -> None:
    assert alone(built("libmpi.so.12", use_mpi="")).status == "pass"
    assert "the build does not tell USE_MPI" in alone(built(available=False, use_mpi="")).cause


def test_nothing_to_compare_with_is_no_success() -> None:
    assert alone(built("libmpi.so.12"), mpi=None).status == "not-run"
    assert alone(None).status == "not-run"
    assert together(worker(0), worker(1), mpi=None)["torch-mpi-library"].status == "not-run"


# the ranks


def both(key: str, **changes: Any) -> Fault:
    """A group of a rank that is another one."""
    return lambda facts: facts[key]["group"].update(changes)


def calls(*libraries: str) -> Fault:
    return lambda facts: facts["torch_mpi"].update(
        libraries={f"{LIB}/lib{n}.so": one for n, one in enumerate(libraries)}
    )


def wrong(name: str, **changes: Any) -> Fault:
    return lambda facts: facts["torch_mpi"]["collectives"][name].update(changes)


def other_soname(facts: Facts) -> None:
    for listed in (facts["mpi"]["libraries"], facts["libraries_at_end"]):
        listed[:] = [{**listed[0], "soname": "libmpi_gnu_91.so.12"}]


RANKS: list[tuple[str, Fault, str]] = [
    ("torch-mpi-library", calls("", ""), "rank 1: none of PyTorch's 2 mapped libraries binds functions of MPI"),
    ("torch-mpi-library", calls("/opt/libmpi.so.12", ""), f"rank 1: PyTorch calls /opt/libmpi.so.12, and mpi4py {LIBRARY}"),
    ("torch-mpi-library", calls("/opt/libmpi.so.12", LIBRARY), f"rank 1: PyTorch calls /opt/libmpi.so.12 and {LIBRARY}, and"),
    (
        "torch-mpi-library",
        other_soname,
        f"rank 1: PyTorch and mpi4py call {LIBRARY} (soname libmpi_gnu_91.so.12), and the environment's MPI is libmpi.so.12",
    ),
    (
        "torch-mpi-backend",
        both("torch_mpi", says="gloo", kind="ProcessGroupGloo"),
        "rank 1: the default process group was asked for as mpi and is gloo (ProcessGroupGloo)",
    ),
    ("torch-mpi-backend", both("torch_mpi", kind="Lying"), "rank 1: the default process group was asked for as mpi and is mpi (Lying)"),
    (
        "torch-mpi-backend",
        both("torch_mpi", rank=-1, size=-1),
        "rank 1: the default process group says rank -1 of -1, and MPI says rank 1 of 2",
    ),
    (
        "torch-mpi-backend",
        both("torch", says="gloo", kind="ProcessGroupGloo"),
        "rank 1: the process group of DistributedDataParallel was asked for as mpi and is gloo",
    ),
    (
        "torch-mpi-backend",
        lambda facts: facts["torch"].pop("group"),
        "rank 1: the process group of DistributedDataParallel is not one of MPI's",
    ),
    (
        "torch-mpi-backend",
        wrong("floats", wrong=256, first_wrong=0, seen=0.25),
        "rank 1: torch.distributed's allreduce of 256 float32 is wrong in 256 elements; element 0 is 0.25, right is 0.375",
    ),
    ("torch-mpi-backend", wrong("gathered", seen=[1, 1]), "rank 1: torch.distributed's allgather of the ranks gave [1, 1]"),
    ("torch-mpi-backend", wrong("broadcast", seen=0), "rank 1: torch.distributed's broadcast from the last rank gave 0"),
    ("torch-mpi-backend", lambda facts: facts["torch_mpi"].pop("collectives"), "torch.distributed's allreduce of None"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "fault", "words"), RANKS, ids=[words[:70] for _, _, words in RANKS])
def test_a_rank_that_is_not_over_the_environment_s_mpi(check: str, fault: Fault, words: str) -> None:
    second = worker(1)
    fault(second)

    outcomes = together(worker(0), second)

    assert set(causes(outcomes)) == {check}
    assert words in outcomes[check].cause
    assert outcomes[check].remedy


def test_the_variables_that_lead_elsewhere_are_named() -> None:
    second = worker(1)
    calls("/opt/libmpi.so.12")(second)
    second["environment"] = {"LD_LIBRARY_PATH": "/opt"}

    assert "(LD_LIBRARY_PATH=/opt)" in causes(together(worker(0), second))["torch-mpi-library"]


def test_ranks_that_left_it_out() -> None:
    ranks = [worker(0), worker(1)]
    ranks[1]["torch_mpi"]["available"] = False
    for facts in ranks:
        facts["torch_mpi"]["left_out"] = "torch.distributed has no MPI on all ranks"

    outcomes = together(*ranks)

    assert set(causes(outcomes)) == {"torch-mpi-library", "torch-mpi-backend"}
    assert all(
        cause.startswith("rank 1: PyTorch was built without MPI: is_mpi_available() is False")
        for cause in causes(outcomes).values()
    )


def test_a_rank_that_left_nothing_is_no_success() -> None:
    short, untrained = worker(1), worker(1)
    del short["torch_mpi"]
    del untrained["torch"]

    for outcomes in (together(worker(0)), together(worker(0), short)):
        assert {outcome.status for outcome in outcomes.values()} == {"not-run"}
    assert together(worker(0), untrained)["torch-mpi-backend"].status == "not-run"
