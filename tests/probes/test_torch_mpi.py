"""torch.distributed over MPI, for real: on the published build, which has none, and on specimens that say they have it."""

from __future__ import annotations

from pathlib import Path

import mpi_by_globals
import pytest
from launching import Subject, assert_all_pass, failures, judged, launch
from mpi_by_globals import linked, put_in

from envbuilder.evidence import Outcome

pytestmark = pytest.mark.real

FEATURES = ("mpi4py", "torch", "onednn", "torch-mpi")
BUILT, LIBRARY, BACKEND = "torch-has-mpi", "torch-mpi-library", "torch-mpi-backend"


def subject(prefix: Path, ranks: int = 2) -> Subject:
    return Subject(prefix=prefix, features=FEATURES, imports=("numpy", "torch", "mpi4py.MPI"), ranks=ranks)


@pytest.fixture
def kept(test_home: Path) -> Path:
    return test_home / "specimens" / "torch-mpi"


def alone(given: Subject, folder: Path, env: dict[str, str] | None = None) -> dict[str, Outcome]:
    return judged(given, launch(given, "single", folder / "single", env=env))


def ranks(given: Subject, folder: Path, env: dict[str, str] | None = None) -> dict[str, Outcome]:
    return judged(given, launch(given, "ranks", folder / "ranks", env=env))


def test_the_published_build_has_no_mpi(torch_env: Path, tmp_path: Path) -> None:
    """As verify --keep-going sees it: the ranks agree to leave out what not all of them have."""
    outcomes = ranks(subject(torch_env), tmp_path)

    assert set(failures(outcomes)) == {LIBRARY, BACKEND}
    assert "rank 0: PyTorch was built without MPI" in outcomes[BACKEND].cause
    assert outcomes["ranks-started"].status == "pass"
    assert outcomes["torch-gradients-equal"].status == "not-run"


def test_a_group_by_globals_trains_over_mpi_and_libtorch_calls_none(
    torch_env: Path, kept: Path, tmp_path: Path
) -> None:
    outcomes = ranks(subject(torch_env), tmp_path, put_in(tmp_path / "site", kept, torch_env))

    assert set(failures(outcomes)) == {LIBRARY}
    assert "binds functions of MPI; what answers to 'mpi' is not PyTorch's" in outcomes[LIBRARY].cause
    assert "2 ranks: DistributedDataParallel over mpi (ProcessGroupMPI)" in outcomes[BACKEND].witnessed
    assert "bit for bit on 2 ranks" in outcomes["torch-gradients-equal"].witnessed
    assert "equal bit for bit" in outcomes["torch-gradients-reference"].witnessed


def test_what_looks_like_a_build_with_mpi(torch_env: Path, kept: Path, tmp_path: Path) -> None:
    given = subject(linked(torch_env, tmp_path / "copy"))
    env = put_in(tmp_path / "site", kept, torch_env)

    single = alone(given, tmp_path, env)
    assert_all_pass(single)
    assert "libtorch.so needs libmpi.so.12" in single[BUILT].witnessed

    outcomes = ranks(given, tmp_path, env)
    assert_all_pass(outcomes)
    assert f"PyTorch and mpi4py call {given.prefix}/lib/libmpi.so.12 (libmpi.so.12)" in outcomes[LIBRARY].witnessed
    assert "provides multiple (mpi4py started it and asked for multiple)" in outcomes["mpi-threads"].witnessed


def test_an_older_build_starts_and_ends_mpi_itself(torch_env: Path, kept: Path, tmp_path: Path) -> None:
    """Before 2.1 it did not ask whether MPI runs, so it must come first; mpi4py joins."""
    given = subject(linked(torch_env, tmp_path / "copy", version="2.0.1"))

    outcomes = ranks(given, tmp_path, put_in(tmp_path / "site", kept, torch_env))

    assert_all_pass(outcomes)
    assert "provides serialized (torch started it and asked for serialized)" in outcomes["mpi-threads"].witnessed


def test_linked_with_another_mpi(torch_env: Path, kept: Path, tmp_path: Path) -> None:
    """The mpich wheel has a library of the MPI-5 ABI beside the one that mpi4py is linked with."""
    given = subject(linked(torch_env, tmp_path / "copy", mpi="libmpi_abi.so.1"))
    env = put_in(tmp_path / "site", kept, torch_env)

    causes = failures(alone(given, tmp_path, env))
    assert set(causes) == {BUILT}
    assert "PyTorch is linked with libmpi_abi.so.1 (libtorch.so needs libmpi_abi.so.1), and the" in causes[BUILT]


def test_a_group_that_is_gloo_s(torch_env: Path, kept: Path, tmp_path: Path) -> None:
    """What was asked for as mpi is a group of one over gloo: it trains, and get_backend says mpi."""
    then = """
first = module.init_process_group
def init(backend, **options):
    from torch.distributed import HashStore
    first("gloo", store=HashStore(), rank=0, world_size=1)
module.init_process_group = init
module.get_backend = lambda group=None: "mpi"
"""
    env = put_in(tmp_path / "site", kept, torch_env, then=then)

    causes = failures(ranks(subject(torch_env), tmp_path, env))

    assert causes[BACKEND] == "rank 0: the default process group was asked for as mpi and is gloo (ProcessGroupGloo)"


def test_the_specimen_is_called_what_it_is() -> None:
    assert "put in by Python globals" in (mpi_by_globals.__doc__ or "")
