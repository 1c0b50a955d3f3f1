"""pytorch-rocm and the shipped archer2.yaml on the testbed: what is chosen, compiled, refused, and what verify says of it.

The wheels are stand-ins (`testbed.rocm_index`) and there is no GPU, so nothing here can be proven, and nothing may be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from breaking import injected
from filelock import FileLock
from testbed import machine, rocm_index

from envbuilder import pip_config

pytestmark = pytest.mark.real

# notes every program that the process starts and every address that it asks for
AUDIT = """
import sys

def hook(event, arguments):
    if event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system", "socket.connect", "socket.getaddrinfo"):
        with open({notes!r}, "a") as sink:
            print(event, str(arguments)[:200].replace(chr(10), " "), file=sink)

sys.addaudithook(hook)
"""
SRUN = ("srun", "--account=z19", "--partition=gpu", "--qos=gpu-shd", "--gpus=1", "--time=5", "--quiet")


@dataclass(frozen=True)
class Rocm:
    """A user on the testbed with a store of its own, whose pip finds the stand-ins."""

    testbed: machine.Testbed
    store: Path
    links: Path

    def variables(self, links: Path | None = None) -> dict[str, str]:
        """What the user has set. The machine's own folders of wheels stay."""
        folders = [str(links or self.links), *pip_config.read(os.environ).find_links]
        told = {"ENVBUILDER_SITE": "archer2", "ENVBUILDER_ACCOUNT": "z19", "ENVBUILDER_HOME": str(self.store)}
        return {**told, "PIP_FIND_LINKS": " ".join(folders)}

    def run(self, *words: str, links: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run envbuilder on the login node."""
        settings = [f"{name}={value}" for name, value in self.variables(links).items()]
        command = self.testbed.on_login_node("env", *settings, sys.executable, "-m", "envbuilder", *words)
        return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    def on_a_gpu_node(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run envbuilder in a job on a node with (what the testbed calls) GPUs."""
        settings = [f"{name}={value}" for name, value in {**self.variables(), **more}.items()]
        command = [*SRUN, "env", *settings, sys.executable, "-m", "envbuilder", *words]
        return subprocess.run(
            command,
            env=self.testbed.env,
            cwd=self.testbed.work,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def built(self, *words: str, links: Path | None = None) -> Built:
        """An environment that was built just now."""
        done = self.run("build", *words, links=links)
        assert done.returncode == 0, done.stderr
        prefix = Path(done.stdout.strip())
        return Built(prefix, json.loads((self.store / "manifests" / f"{prefix.name}.json").read_text()), done.stderr)


@dataclass(frozen=True)
class Built:
    """A tree, its manifest, and what was said while it was built."""

    prefix: Path
    manifest: dict[str, Any]
    said: str

    @property
    def torch(self) -> Path:
        (folder,) = self.prefix.glob("lib/python*/site-packages/torch")
        return folder


@pytest.fixture(scope="module")
def rocm(testbed: machine.Testbed) -> Iterator[Rocm]:
    """A new store; only what was compiled and fetched before is kept between runs, in one that the tests share."""
    if rocm_index.missing():
        pytest.skip(rocm_index.missing())
    _needs_python(testbed, "3.11.7")
    kept = testbed.work / "envbuilder-rocm-tests"
    store = Path(tempfile.mkdtemp(dir=testbed.work))
    for name in ("wheels", "cache"):
        (kept / name).mkdir(parents=True, exist_ok=True)
        (store / name).symlink_to(kept / name)
    yield Rocm(testbed, store, rocm_index.make(kept))
    shutil.rmtree(store, ignore_errors=True)


def _needs_python(testbed: machine.Testbed, version: str) -> None:
    if not (testbed.root / "opt/cray/pe/python" / version).is_dir() and not os.environ.get("CI"):
        pytest.skip(f"this machine has no interpreter for cray-python/{version}")


@pytest.fixture(scope="module")
def alone(rocm: Rocm) -> FileLock:
    """Two stores share one folder of compiled wheels here, which the product's own guards do not know."""
    return FileLock(rocm.links.parent / "lock")


@pytest.fixture(scope="module")
def today(rocm: Rocm, alone: FileLock) -> Built:
    with alone:
        return rocm.built("pytorch-rocm")


@pytest.fixture(scope="module")
def history(rocm: Rocm, alone: FileLock) -> Built:
    _needs_python(rocm.testbed, "3.9.13.1")
    with alone:
        return rocm.built("pytorch-rocm", "--partition", "gpu-rocm5")


@pytest.fixture(scope="module")
def wrong(rocm: Rocm, alone: FileLock, today: Built) -> Built:
    """The negative control: the same version and name, locked and installed as it should be, compiled for another GPU."""
    links, locked = rocm_index.make(rocm.links.parent, rocm_index.WRONG), rocm.store / "lock-of-wrong"
    done = rocm.run("lock", "pytorch-rocm", "-o", str(locked), links=links)
    assert done.returncode == 0, done.stderr
    with alone:
        return rocm.built("pytorch-rocm", "--lock", str(locked), links=links)


def needs(path: Path) -> str:
    return subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    (one,) = json.loads(done.stdout)["environments"]
    return {outcome["check"]: outcome for outcome in one["outcomes"]}


def failures(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["cause"] for name, one in found.items() if one["status"] == "fail"}


# What is built


def test_the_current_partition_and_its_toolkit_choose(today: Built, testbed: machine.Testbed) -> None:
    about = today.manifest

    assert (about["partition"], about["version"]) == ("gpu", "2.9.1")
    assert about["packages"]["torch"] == "2.9.1+rocm6.3"
    assert {"rocm/6.3.4", "PrgEnv-gnu/8.4.0", "cray-python/3.11.7", "craype-x86-milan"} <= set(
        about["modules"]["loaded"]
    )
    assert about["modules"]["effect"]["set"]["ROCM_PATH"] == f"{testbed.root}/opt/rocm-6.3.4"
    wheels_are = {"vendor": "amd", "arch": "gfx90a", "toolkit": "rocm@6.3.4", "wheel_toolkit": "rocm@6.3"}
    assert about["gpu"] == wheels_are
    assert about["python"]["version"].startswith("3.11.")
    # nothing of its own; the site's facts end one day, and with them all
    assert "archer2/gpu are those of" not in today.said


def test_the_partition_of_last_year_gets_what_it_had(history: Built) -> None:
    about = history.manifest

    assert (about["partition"], about["version"]) == ("gpu-rocm5", "1.13.1")
    assert about["packages"]["torch"] == "1.13.1+rocm5.2"
    assert about["packages"]["numpy"].startswith("1.")
    assert {"rocm/5.2.3", "cray-python/3.9.13.1", "cpe/22.12"} <= set(about["modules"]["loaded"])
    assert about["gpu"]["toolkit"] == "rocm@5.2.3"
    assert about["gpu"]["wheel_toolkit"] == "rocm@5.2"
    assert about["python"]["version"].startswith("3.9.")
    assert "2026-04-22" in history.said


@pytest.mark.parametrize("built", ["today", "history"])
def test_mpi4py_is_compiled_against_the_site_s_mpi_and_activation_brings_the_toolkit(
    built: str, request: pytest.FixtureRequest, testbed: machine.Testbed
) -> None:
    made: Built = request.getfixturevalue(built)
    version = {"today": "8.1.27", "history": "8.1.23"}[built]

    (extension,) = made.prefix.glob("lib/python*/site-packages/mpi4py/MPI.*.so")
    assert "[libmpi_gnu_91.so.12]" in needs(extension)
    assert f"/mpich/{version}/" in made.manifest["mpi"]["library"]
    assert made.manifest["mpi"]["provider"] == "system"
    # a shell in which nothing is loaded
    script = f'. "{made.prefix}/bin/activate" && echo "$ROCM_PATH" "${{LD_LIBRARY_PATH%%:*}}" && python -c "import torch; print(torch.__doc__)"'
    bare = {"HOME": str(testbed.home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where, first = done.stdout.splitlines()[0].split()
    assert where == made.manifest["modules"]["effect"]["set"]["ROCM_PATH"]
    assert "rocm" in made.manifest["gpu"]["toolkit"]
    assert any(
        f"{where}/lib" == entry for entry in made.manifest["modules"]["effect"]["paths"]["LD_LIBRARY_PATH"]["before"]
    )
    assert first.startswith(str(testbed.root))
    assert "STAND-IN" in done.stdout


# What is refused


@pytest.mark.parametrize(
    ("words", "reasons", "fits"),
    [
        ("pytorch-rocm@1.13.1 --partition gpu", ["index tag rocm5.2", "rocm@6.3.4", "ABI tag cp311"], "pytorch-rocm@2.9.1"),
        ("pytorch-rocm@2.9.1 --partition gpu-rocm5", ["index tag rocm6.3", "rocm@5.2.3", "ABI tag cp39"], "pytorch-rocm@1.13.1"),
        ("pytorch-cuda --partition gpu", ["a build for NVIDIA GPUs", "gpu=amd"], "use pytorch-rocm"),
        ("pytorch-cpu --partition gpu", ["a CPU build", "gpu=amd"], "use pytorch-rocm"),
        ("pytorch-rocm --partition cpu", ["no AMD GPU", "gpu=none"], "--partition gpu"),
        ("pytorch-cuda", ["cpu: these nodes have no NVIDIA GPU", "gpu: a build for NVIDIA GPUs"], "use pytorch-rocm"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_loaded_or_fetched(
    testbed: machine.Testbed, tmp_path: Path, words: str, reasons: list[str], fits: str
) -> None:
    done, touched = _watched(testbed, tmp_path, words)

    assert done.returncode == 2
    for word in (*reasons, fits):
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert touched == []
    assert not (tmp_path / "store").exists()


def test_what_can_work_does_load_modules(testbed: machine.Testbed, tmp_path: Path) -> None:
    """The control of the test above: the same machine, asked for something possible, and found without its modules."""
    done, touched = _watched(testbed, tmp_path, "pytorch-rocm --partition gpu-rocm5")

    assert done.returncode not in (0, 2)
    assert "module" in done.stderr
    assert any("bash" in line for line in touched)


def _watched(testbed: machine.Testbed, folder: Path, words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A build where modules cannot be loaded and nothing can be fetched: how it ended, which programs and addresses it tried."""
    notes, home = folder / "notes", folder / "home"
    home.mkdir()
    env = {
        **{name: value for name, value in testbed.env.items() if not name.startswith("PIP_")},
        "HOME": str(home),  # the testbed is there for those who log in to its own home
        "PYTHONPATH": injected(folder / "site", AUDIT.format(notes=str(notes))),
        "ENVBUILDER_SITE": "archer2",
        "ENVBUILDER_HOME": str(folder / "store"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    }
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "build", *words.split()],
        env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done, notes.read_text().splitlines() if notes.exists() else []


# What verify says


def test_the_static_checks_pass_and_the_stand_in_is_found_out(rocm: Rocm, today: Built) -> None:
    done = rocm.run("verify", today.prefix.name, "--json", "--keep-going")
    found = outcomes(done)

    assert done.returncode == 1
    static = {name: one["status"] for name, one in found.items() if one["rung"] == 0}
    assert len(static) >= 9
    assert set(static.values()) == {"pass"}, found
    assert found["gpu-code"]["witnessed"].endswith("each for gfx90a; together for gfx90a")
    module = f"{rocm.testbed.root}/opt/rocm-6.3.4/lib/libamdhip64.so"
    assert (
        f"rocm@6.3.4 for wheels built for rocm@6.3: libamdhip64.so from {module}" in found["gpu-libraries"]["witnessed"]
    )
    assert "nothing but GPU libraries, see gpu-libraries" in found["no-shadowing-libraries"]["witnessed"]
    failed = failures(found)
    assert "a stand-in of envbuilder's testbed without any computing in it" in failed["torch-backends"]
    assert "no torch.cuda" in failed["gpu-device"]
    trained = {one["status"] for name, one in found.items() if name.startswith("torch-") and one["rung"] > 2}
    assert trained == {"not-run"}


def test_there_is_no_proof_and_the_gate_refuses(rocm: Rocm, today: Built) -> None:
    assert rocm.run("verify", today.prefix.name).returncode == 1

    assert not [*rocm.store.glob("proofs/**/*.json")]
    done = rocm.on_a_gpu_node("gate", today.prefix.name)
    assert done.returncode == 1
    assert "has no proof for archer2/gpu" in done.stderr


def test_a_wheel_for_another_gpu_fails_and_is_named(rocm: Rocm, wrong: Built) -> None:
    done = rocm.run("verify", wrong.prefix.name, "--json")
    found = outcomes(done)

    assert done.returncode == 1
    library = (wrong.torch / "lib" / "libtorch_hip.so").relative_to(wrong.prefix)
    assert failures(found) == {"gpu-code": f"{library} has device code for gfx908, gfx90a is needed"}
    assert "gfx90a" in found["gpu-code"]["remedy"]
    assert {one["status"] for one in found.values() if one["rung"] > 0} == {"not-run"}


def test_a_library_of_another_build_on_the_path_fails_and_both_are_named(
    rocm: Rocm, today: Built, tmp_path: Path
) -> None:
    """The module has no MIOpen here, so a folder of the user's comes before the wheel's."""
    other = rocm_index.library(tmp_path / "rocm" / "libMIOpen.so", "another")

    found = outcomes(rocm.on_a_gpu_node("verify", today.prefix.name, "--json", LD_LIBRARY_PATH=str(other.parent)))

    cause = failures(found)["gpu-libraries"]
    assert list(failures(found)) == ["gpu-libraries"]
    for words in ("another libMIOpen.so first", str(other), str(today.torch / "lib" / "libMIOpen.so"), "rocm@6.3"):
        assert words in cause
    assert "LD_LIBRARY_PATH" in found["gpu-libraries"]["remedy"]


def test_a_copy_of_the_very_library_passes(rocm: Rocm, today: Built, tmp_path: Path) -> None:
    shutil.copy(today.torch / "lib" / "libMIOpen.so", tmp_path)

    found = outcomes(rocm.on_a_gpu_node("verify", today.prefix.name, "--json", LD_LIBRARY_PATH=str(tmp_path)))

    assert found["gpu-libraries"]["status"] == "pass"


def test_the_environment_s_own_module_comes_before_another_rocm(rocm: Rocm, today: Built) -> None:
    older = f"{rocm.testbed.root}/opt/rocm-5.2.3/lib"

    found = outcomes(rocm.on_a_gpu_node("verify", today.prefix.name, "--json", LD_LIBRARY_PATH=older))

    assert found["gpu-libraries"]["status"] == "pass"
    assert "rocm-6.3.4/lib/libamdhip64.so" in found["gpu-libraries"]["witnessed"]
    assert older not in found["gpu-libraries"]["witnessed"]


# The stand-ins


def test_the_stand_ins_are_the_same_bytes_each_time_and_say_what_they_are(rocm: Rocm, tmp_path: Path) -> None:
    again = rocm_index.make(tmp_path)

    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in rocm.links.iterdir()
    }
    assert all(rocm_index.BUILD_TAG in path.name for path in again.iterdir())


def test_the_stand_in_s_libraries_are_found_as_pytorch_s_are(today: Built) -> None:
    told = needs(today.torch / "lib" / "libtorch_hip.so")

    assert "(RUNPATH)            Library runpath: [$ORIGIN]" in told
    assert "[libamdhip64.so]" in told
    notes = ["readelf", "-n", *today.torch.glob("lib/*.so")]
    assert subprocess.run(notes, capture_output=True, text=True, check=True).stdout.count("Build ID") == 3
