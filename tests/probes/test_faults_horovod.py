"""Horovod that is built or started wrong, for real: each must be named. Its wheels are kept in the store of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from breaking import uv
from launching import Subject, assert_all_pass, failures, judged, launch, launch_apart, scratch_copy, sitecustomize

from envbuilder import places
from envbuilder.evidence import Outcome

pytestmark = pytest.mark.real

FEATURES = ("mpi4py", "tensorflow", "onednn", "horovod")


def subject(prefix: Path, ranks: int = 2) -> Subject:
    return Subject(prefix=prefix, features=FEATURES, imports=("horovod.tensorflow",), ranks=ranks)


@pytest.fixture
def horovod(horovod_env: Path) -> Subject:
    return subject(horovod_env)


def ranks(given: Subject, control: Path, env: dict[str, str] | None = None) -> dict[str, Outcome]:
    return judged(given, launch(given, "ranks", control / "control", env=env))


def alone(given: Subject, control: Path) -> dict[str, Outcome]:
    return judged(given, launch(given, "single", control / "single"))


def built(name: str, home: Path, folder: Path, **env: str) -> Subject:
    """The shipped recipe with another build of Horovod; a variable without a value is taken out."""
    shipped = yaml.safe_load((places.data_root() / "recipes/tensorflow-horovod/recipe.yaml").read_text())
    source = shipped["sources"]["horovod"]
    source["env"] = {key: value for key, value in {**source["env"], **env}.items() if value}
    recipe = {
        "schema": 1,
        "name": name,
        "summary": name,
        "extends": "tensorflow-horovod",
        "sources": {"horovod": source},
    }
    (folder / name).mkdir(parents=True)
    (folder / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "build", name],
        env={**os.environ, "ENVBUILDER_HOME": str(home), "ENVBUILDER_RECIPE_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    return subject(Path(done.stdout.strip()))


def test_healthy(horovod: Subject, tmp_path: Path) -> None:
    assert_all_pass(alone(horovod, tmp_path))
    outcomes = ranks(horovod, tmp_path)

    assert_all_pass(outcomes)
    assert f"controller and operations over {horovod.prefix}/lib/libmpi.so.12" in outcomes["horovod-mpi"].witnessed
    assert "bit for bit on 2 ranks" in outcomes["horovod-gradients"].witnessed


def test_three_ranks_are_healthy(horovod_env: Path, tmp_path: Path) -> None:
    """A number that is no power of two: Horovod's mean rounds twice, and the bound holds."""
    assert_all_pass(ranks(subject(horovod_env, ranks=3), tmp_path))


def test_built_without_tensorflow(test_home: Path, tmp_path: Path) -> None:
    """What a build without HOROVOD_WITH_TENSORFLOW=1 leaves where it does not find TensorFlow: it succeeds."""
    without = {"HOROVOD_WITH_TENSORFLOW": "", "HOROVOD_WITHOUT_TENSORFLOW": "1"}
    given = built("horovod-without-tensorflow", test_home, tmp_path / "recipes", **without)

    assert "Horovod was built without TensorFlow" in failures(alone(given, tmp_path))["horovod-built"]

    outcomes = ranks(given, tmp_path)
    assert failures(outcomes)["horovod-mpi"].startswith("rank 0: Horovod was built without TensorFlow")
    assert outcomes["horovod-gradients"].status == "not-run"


@pytest.mark.slow
def test_built_with_gloo_alone(test_home: Path, tmp_path: Path) -> None:
    """The ranks of mpiexec are then n worlds of one, and all of them train."""
    gloo = {
        "HOROVOD_WITH_MPI": "",
        "HOROVOD_WITHOUT_MPI": "1",
        "HOROVOD_WITHOUT_GLOO": "",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_CPU_OPERATIONS": "GLOO",
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # gloo's own files are for an older CMake
    }
    given = built("horovod-gloo", test_home, tmp_path / "recipes", **gloo)

    assert_all_pass(alone(given, tmp_path))
    causes = failures(ranks(given, tmp_path))

    assert set(causes) == {"horovod-mpi", "horovod-gradients"}
    assert (
        "rank 0: Horovod was built without MPI: gloo is what it has; it trains as if it were alone"
        in causes["horovod-mpi"]
    )
    assert "the two ranks differ" in causes["horovod-gradients"]


def test_another_tensorflow_than_it_was_built_for(horovod: Subject, tmp_path: Path) -> None:
    """It loads, with a warning, and even computes: nothing says so later."""
    prefix = scratch_copy(horovod.prefix, tmp_path / "copy")
    uv("pip", "install", "--quiet", "--python", prefix / "bin/python", "tensorflow-cpu==2.13.1")

    cause = failures(alone(subject(prefix), tmp_path))["horovod-built"]

    assert cause == "Horovod was built for TensorFlow 2.13.0, and 2.13.1 is installed"


def test_processes_that_are_each_alone(horovod: Subject, tmp_path: Path) -> None:
    """Started without the launcher, every rank has a Horovod of its own, which works."""
    causes = failures(judged(horovod, launch_apart(horovod, tmp_path / "control", 2)))

    assert "Horovod says rank 0 of 1, MPI says rank 0 of 1, and 2 ranks asked for" in causes["horovod-mpi"]
    assert "each is a world of one" in causes["ranks-started"]


# What DistributedGradientTape does instead of averaging.
TAPES = {
    "sum": ("tape(given, op=module.Sum)", "2 times the right one: summed over the ranks and not averaged"),
    "adasum": ("tape(given, op=module.Adasum)", "differs from"),
    "own-shard": ("given", "the two ranks differ"),
}


@pytest.mark.parametrize("name", list(TAPES))
def test_gradients_that_are_not_averaged(name: str, horovod: Subject, tmp_path: Path) -> None:
    instead, words = TAPES[name]
    code = f"tape = module.DistributedGradientTape\nmodule.DistributedGradientTape = lambda given: {instead}"

    causes = failures(ranks(horovod, tmp_path, sitecustomize(tmp_path / "site", "horovod.tensorflow", code)))

    assert words in causes["horovod-gradients"]
    assert "horovod-mpi" not in causes


def test_an_allreduce_that_lies(horovod: Subject, tmp_path: Path) -> None:
    code = """
    first = module.allreduce
    def lying(tensor, *arguments, **options):
        return first(tensor, *arguments, **options) * (1 + (module.rank() == 1))
    module.allreduce = lying
    """

    causes = failures(ranks(horovod, tmp_path, sitecustomize(tmp_path / "site", "horovod.tensorflow", code)))

    assert (
        "rank 1: Horovod's allreduce of 256 float32 is wrong in 256 elements; element 0 is 0.75"
        in causes["horovod-mpi"]
    )
