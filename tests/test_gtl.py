"""Cray's GPU transport layer in live ranks, on the testbed's Cray-named MPI.

The layer is a stand-in with the right name and nothing in it, and this MPI is Debian's: the real one ends in MPI_Init where
the layer is missing. What the ranks have mapped is real.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from launching import Subject, assert_all_pass, failures, judged, launch
from test_archer2 import Archer2
from testbed.machine import Testbed

from envbuilder.environment import Environment
from envbuilder.evidence import Expectation, Outcome
from envbuilder.prove import expect

pytestmark = pytest.mark.real

SUPPORT = {"MPICH_GPU_SUPPORT_ENABLED": "1"}


@dataclass(frozen=True, kw_only=True)
class OnPartition(Subject):
    """An environment, held to what its manifest says of a partition."""

    told: Expectation

    def expectation(self) -> Expectation:
        """What the product expects."""
        return self.told


def ranks(tree: Path, partition: str, folder: Path, env: dict[str, str]) -> dict[str, Outcome]:
    """What two ranks on this machine make of an environment, as if it were a node of that partition."""
    manifest = tree.parent.parent / "manifests" / f"{tree.name}.json"
    environment = Environment.from_document(json.loads(manifest.read_text()), str(manifest))
    told = expect(environment, 2, partition=partition)
    subject = OnPartition(prefix=tree, features=("mpi4py",), imports=("mpi4py.MPI",), told=told)
    launcher = shutil.which("mpiexec.mpich") or shutil.which("mpiexec.hydra")
    assert launcher
    return judged(subject, launch(subject, "ranks", folder / "control", env=env, mpiexec=Path(launcher)))


@pytest.fixture(scope="module")
def trees(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """mpi4py for the CPU nodes, and a copy of it that needs the layer, as `cc` links it where an accelerator's module is."""
    cpu = Archer2(testbed).build("mpi4py", "--partition", "cpu")
    store = tmp_path_factory.mktemp("store")
    (store / "manifests").mkdir()
    shutil.copy(cpu.parent.parent / "manifests" / f"{cpu.name}.json", store / "manifests")
    gpu = store / "envs" / cpu.name
    shutil.copytree(cpu, gpu, symlinks=True)
    (extension,) = gpu.glob("lib/python*/site-packages/mpi4py/MPI*.so")
    subprocess.run(["patchelf", "--add-needed", "libmpi_gtl_hsa.so.0", extension], check=True)
    return {"cpu": cpu, "gpu": gpu}


@pytest.mark.parametrize(
    ("built", "env", "words"),
    [
        ("cpu", {}, "MPICH_GPU_SUPPORT_ENABLED is not set, and no libmpi_gtl_* is mapped"),
        ("gpu", {}, "libmpi_gtl_hsa.so.0 is mapped and not used"),
        ("gpu", SUPPORT, "MPICH_GPU_SUPPORT_ENABLED=1, and libmpi_gtl_hsa.so.0 is mapped"),
    ],
)
def test_what_goes_together(
    built: str, env: dict[str, str], words: str, trees: dict[str, Path], tmp_path: Path
) -> None:
    outcomes = ranks(trees[built], built, tmp_path, env)

    assert_all_pass(outcomes)
    assert words in outcomes["mpi-gtl"].witnessed


@pytest.mark.parametrize(
    ("built", "partition", "env", "words"),
    [
        ("cpu", "gpu", SUPPORT, "is set, and Cray's GPU transport layer (libmpi_gtl_*) is not mapped"),
        ("gpu", "cpu", {}, "Cray's GPU transport layer libmpi_gtl_hsa.so.0 is mapped on a partition without GPUs"),
        ("cpu", "cpu", SUPPORT, "MPICH_GPU_SUPPORT_ENABLED=1 is set on a partition without GPUs"),
    ],
    ids=["asked-and-missing", "on-a-cpu-partition", "asked-on-a-cpu-partition"],
)
def test_what_does_not(  # noqa: PLR0917 - the parameters of one case
    built: str, partition: str, env: dict[str, str], words: str, trees: dict[str, Path], tmp_path: Path
) -> None:
    causes = failures(ranks(trees[built], partition, tmp_path, env))

    assert set(causes) == {"mpi-gtl"}
    assert words in causes["mpi-gtl"]
