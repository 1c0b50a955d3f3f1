"""What one process sees beside the faults of the zoo: a lock that says something else than the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from launching import Subject, failures, judged, launch

pytestmark = pytest.mark.real


def test_another_version_than_the_lock_s(mpi4py_env: Path, tmp_path: Path) -> None:
    locked = Subject(
        prefix=mpi4py_env,
        features=("mpi4py",),
        imports=("mpi4py.MPI",),
        packages={"mpi4py": "3.1.6", "six": "1.17.0"},
    )

    outcomes = judged(locked, launch(locked, "single", tmp_path / "control"))

    assert "the lock says 3.1.6" in failures(outcomes)["versions"]
    assert "six 1.17.0 is in the lock and the interpreter does not find it" in outcomes["versions"].witnessed
