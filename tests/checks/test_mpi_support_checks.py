from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import samples
from made import causes, expectation, judged, process, rank, run

from envbuilder.evidence import MpiExpectation, Outcome
from envbuilder.prove import expect

GTL = "/opt/cray/pe/mpich/8.1.27/gtl/lib/libmpi_gtl_hsa.so.0"
SUPPORT = {"MPICH_GPU_SUPPORT_ENABLED": "1"}

Facts = dict[str, Any]


def cray() -> MpiExpectation:
    mpi = expectation().mpi
    assert mpi is not None
    return replace(mpi, name="cray-mpich", version="8.1.27")


def worker(number: int, *, gtl: bool = False, **environment: str) -> Facts:
    """The facts of a rank, with the GPU transport layer mapped or without."""
    facts = rank(number)
    facts["environment"] = environment
    if gtl:
        companion = {**facts["mpi"]["libraries"][0], "path": GTL, "realpath": GTL, "implements": False}
        facts["mpi"]["libraries"] = [*facts["mpi"]["libraries"], companion]
        facts["libraries_at_end"] = facts["mpi"]["libraries"]
    return facts


def together(*facts: Facts, **changes: Any) -> dict[str, Outcome]:
    """What the ranks are judged to have."""
    ranks = [process("ranks", number, one) for number, one in enumerate(facts)]
    return judged(run("ranks", *ranks, asked=2), **{"features": ("mpi4py",), "mpi": cray(), **changes})


def transport(*facts: Facts, vendor: str) -> Outcome:
    return together(*facts, gpu_vendor=vendor)["mpi-gtl"]


def test_only_cray_mpich_is_asked_about_its_transport_layer() -> None:
    assert "mpi-gtl" in together(worker(0), worker(1), gpu_vendor="none")
    assert "mpi-gtl" not in together(worker(0), worker(1), gpu_vendor="none", mpi=expectation().mpi)
    assert "mpi-gtl" not in together(worker(0), worker(1), gpu_vendor="none", mpi=None)


@pytest.mark.parametrize(
    ("gtl", "environment", "vendor", "words"),
    [
        (False, {}, "none", "MPICH_GPU_SUPPORT_ENABLED is not set, and no libmpi_gtl_* is mapped"),
        (False, {"MPICH_GPU_SUPPORT_ENABLED": "0"}, "none", "is not set"),
        (True, SUPPORT, "amd", "MPICH_GPU_SUPPORT_ENABLED=1, and libmpi_gtl_hsa.so.0 is mapped"),
        (True, {}, "amd", "libmpi_gtl_hsa.so.0 is mapped and not used"),
        (False, {}, "amd", "is not set"),
    ],
)
def test_transport_layer_and_support_that_go_together(
    gtl: bool, environment: dict[str, str], vendor: str, words: str
) -> None:
    outcome = transport(worker(0, gtl=gtl, **environment), worker(1, gtl=gtl, **environment), vendor=vendor)

    assert outcome.status == "pass", outcome.cause
    assert words in outcome.witnessed


@pytest.mark.parametrize(
    ("gtl", "environment", "vendor", "words", "remedy"),
    [
        (False, SUPPORT, "amd", "rank 1: MPICH_GPU_SUPPORT_ENABLED=1 is set, and Cray's GPU transport", "craype-accel-*"),
        (False, SUPPORT, "", "(libmpi_gtl_*) is not mapped: Cray MPICH ends in MPI_Init", "preload"),
        (False, SUPPORT, "none", "is set on a partition without GPUs, and no libmpi_gtl_* is mapped", "unset MPICH_GPU_SUPP"),
        (True, SUPPORT, "none", "is set on a partition without GPUs, and libmpi_gtl_hsa.so.0 is mapped", "unset MPICH_GPU"),
        (True, {}, "none", "libmpi_gtl_hsa.so.0 is mapped on a partition without GPUs", "build the environment anew"),
    ],
)  # fmt: skip
def test_transport_layer_and_support_that_do_not(
    gtl: bool, environment: dict[str, str], vendor: str, words: str, remedy: str
) -> None:
    outcome = transport(worker(0), worker(1, gtl=gtl, **environment), vendor=vendor)

    assert outcome.status == "fail"
    assert words in outcome.cause
    assert remedy in outcome.remedy


def test_ranks_that_ended_in_mpi_init_tell_what_they_had_mapped() -> None:
    """As Cray's library ends them: what survives in the file of the phase is there."""
    facts = {name: value for name, value in worker(0, **SUPPORT).items() if name in ("process", "environment", "mpi")}
    dead = process("ranks", 0, facts, phase="MPI_Init", finished=False)

    outcomes = judged(run("ranks", dead, asked=2, code=255), features=("mpi4py",), mpi=cray(), gpu_vendor="amd")

    assert "rank 0: MPICH_GPU_SUPPORT_ENABLED=1 is set, and Cray's GPU transport layer" in outcomes["mpi-gtl"].cause
    assert outcomes["mpi-threads"].status == "not-run"


def test_what_is_not_known_is_no_success() -> None:
    short = worker(1)
    del short["mpi"]

    assert transport(worker(0), worker(1), vendor="").status == "not-run"
    assert transport(worker(0), short, vendor="none").status == "not-run"


def test_the_gpus_are_those_of_the_partition_that_is_verified() -> None:
    built = samples.environment(partition="gpu", gpus={"cpu": "none", "gpu": "amd"})

    assert expect(built, 2).gpu_vendor == "amd"
    assert expect(built, 2, partition="cpu").gpu_vendor == "none"
    assert expect(samples.environment(), 2).gpu_vendor == ""


# threads


def started(number: int, provided: str, asked: str = "multiple", by: str = "mpi4py") -> Facts:
    facts = rank(number)
    facts["world"]["thread_level"] = {"by": by, "asked": asked, "provided": provided}
    return facts


def level(*facts: Facts, features: tuple[str, ...] = ("mpi4py",)) -> Outcome:
    return together(*facts, features=features)["mpi-threads"]


TORCH, HOROVOD = ("mpi4py", "torch", "torch-mpi"), ("mpi4py", "tensorflow", "horovod")


@pytest.mark.parametrize(
    ("features", "provided", "needed"),
    [
        (("mpi4py",), "funneled", "funneled is needed by mpi4py"),
        (("mpi4py",), "multiple", "funneled is needed by mpi4py"),
        (TORCH, "serialized", "serialized is needed by torch-mpi"),
        (HOROVOD, "multiple", "multiple is needed by horovod"),
    ],
)
def test_a_level_that_is_enough(features: tuple[str, ...], provided: str, needed: str) -> None:
    outcome = level(started(0, provided), started(1, provided), features=features)

    assert outcome.status == "pass", outcome.cause
    assert f"MPI provides {provided} (mpi4py started it and asked for multiple); {needed}" in outcome.witnessed


@pytest.mark.parametrize(
    ("features", "facts", "words", "remedy"),
    [
        (("mpi4py",), started(1, "single"), "provides the thread level single, and mpi4py needs funneled", "built with support"),
        (("mpi4py",), started(1, "single", "single"), "mpi4py started it and asked for single", "MPI4PY_RC_THREAD_LEVEL"),
        (TORCH, started(1, "funneled"), "provides the thread level funneled, and torch-mpi needs serialized", "built with"),
        (HOROVOD, started(1, "serialized"), "and horovod needs multiple; mpi4py started it", "built with support"),
        ((*TORCH, "horovod"), started(1, "serialized", "serialized", "torch"), "torch started it and asked", "PyTorch 2.1"),
        (("mpi4py",), started(1, "single", "", "another library"), "another library started it", "before mpi4py does"),
        (("mpi4py",), started(1, ""), "the thread level of MPI was not recorded", "verify again"),
    ],
)  # fmt: skip
def test_a_level_that_is_too_low(features: tuple[str, ...], facts: Facts, words: str, remedy: str) -> None:
    outcome = level(started(0, "multiple"), facts, features=features)

    assert outcome.status == "fail"
    assert outcome.cause.startswith("rank 1: ")
    assert words in outcome.cause
    assert remedy in outcome.remedy


def test_the_variable_that_asks_for_less_is_named() -> None:
    second = started(1, "single", "single")
    second["environment"] = {"MPI4PY_RC_THREAD_LEVEL": "single"}

    assert "(MPI4PY_RC_THREAD_LEVEL=single)" in level(started(0, "multiple"), second).cause


def test_no_rank_with_a_world_is_no_success() -> None:
    short = rank(1)
    del short["world"]

    assert level(rank(0), short).status == "not-run"
    assert "mpi-threads" not in causes(together(rank(0), short))
