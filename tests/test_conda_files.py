"""Files of conda's world: what becomes of an environment.yml, of lock files, and of a lock that is written for conda."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from rattler import BuildString, LockFile, PackageRecord, RepoDataRecord
from rattler.lock import LockChannel, LockPlatform

from envbuilder import conda, conda_files, recipe
from envbuilder.cli import main
from envbuilder.document import load_yaml, to_yaml
from envbuilder.errors import InputError
from envbuilder.lock import Lock

ENVIRONMENT = """\
name: training
channels: [conda-forge, https://conda.example.org/mine]
dependencies:
  - python=3.12
  - numpy=1.26
  - hdf5=1.14.3=mpi_mpich_h1
  - scipy==1.11.4
  - h5py >=3.10,<4
  - compilers
  - pip
  - pip:
      - torch==2.13.0
      - mlperf-logging
variables: {OMP_PROC_BIND: "true"}
prefix: /home/somebody/envs/training
"""
CONDA_LOCK = """\
version: 1
metadata:
  content_hash: {linux-64: abc}
  channels: [{url: conda-forge, used_env_vars: []}]
  platforms: [linux-64]
  sources: [environment.yml]
package:
- {name: python, version: 3.12.1, manager: conda, platform: linux-64, dependencies: {}, category: main, optional: false,
   url: "https://conda.example.org/conda-forge/linux-64/python-3.12.1-h0_1_cpython.conda",
   hash: {md5: 8e5ee3d2cc5e5a2b2b9c0d5e8a2c8f11, sha256: "0000000000000000000000000000000000000000000000000000000000000001"}}
- {name: zlib, version: 1.3.1, manager: conda, platform: linux-64, dependencies: {}, category: main, optional: false,
   url: "https://conda.example.org/conda-forge/linux-64/zlib-1.3.1-hb_2.conda",
   hash: {md5: 8e5ee3d2cc5e5a2b2b9c0d5e8a2c8f11, sha256: "0000000000000000000000000000000000000000000000000000000000000003"}}
- {name: six, version: 1.16.0, manager: pip, platform: linux-64, dependencies: {}, category: main, optional: false,
   url: "https://files.example.org/six-1.16.0-py2.py3-none-any.whl",
   hash: {sha256: "0000000000000000000000000000000000000000000000000000000000000002"}}
"""


def taken(text: str) -> conda_files.Taken:
    return conda_files.from_environment(load_yaml(text, "environment.yml"), "training")


def test_an_environment_yml_becomes_a_recipe_that_is_read() -> None:
    found = taken(ENVIRONMENT)

    parsed = recipe.parse(to_yaml(found.recipe), "training.yaml")
    assert parsed.conda.channels == ("conda-forge", "https://conda.example.org/mine")
    assert parsed.conda.packages == (
        "numpy 1.26.*", "hdf5 ==1.14.3 mpi_mpich_h1", "scipy ==1.11.4", "h5py >=3.10,<4", "compilers",
    )  # fmt: skip
    assert parsed.packages == ("torch==2.13.0", "mlperf-logging")
    assert parsed.variants[0].python == "==3.12.*"
    assert [(one.set, one.to) for one in parsed.environment] == [("OMP_PROC_BIND", "true")]
    assert found.left_out == ("environment.yml:15:9: prefix",)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("python=3.12", "==3.12.*"), ("python=3.12.1", "==3.12.*"), ("python==3.11.7", "==3.11.*"), ("python", ">=3.10"),
        ("python>=3.10,<3.13", ">=3.10,<3.13"), ("python 3.12.*", None), ("python-dateutil", ">=3.10"),
    ],
)  # fmt: skip
def test_which_python(line: str, allowed: str | None) -> None:
    text = f"dependencies:\n  - {line}\n"
    if allowed is None:
        with pytest.raises(InputError, match=r"environment\.yml:2:5: which Python"):
            taken(text)
    else:
        assert taken(text).recipe["variants"][0]["python"] == allowed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- numpy\n", "environment.yml:1:1: not an environment.yml"),
        ("dependencies: numpy\n", "environment.yml:1:1: not an environment.yml"),
        ("name: x\n", "environment.yml:1:1: not an environment.yml"),
        ("dependencies: [conda-forge::numpy]\n", "environment.yml:1:16: 'conda-forge::numpy' names a channel"),
        ("dependencies: ['numpy[build=x]']\n", "names a channel or conditions"),
        ("dependencies: ['$(touch canary)']\n", "is no conda package"),
        ("dependencies: [{npm: [x]}]\n", "only `pip:` with a list"),
        ("dependencies: [{pip: x}]\n", "only `pip:` with a list"),
        ("dependencies: [{pip: ['-r other.txt']}]\n", "'-r other.txt' is no requirement"),
        ("dependencies: [{pip: ['--index-url https://x']}]\n", "is no requirement"),
        ("dependencies: [{pip: ['x @ https://example.org/x.whl']}]\n", "is no requirement"),
        ("dependencies: [{pip: ['./here']}]\n", "is no requirement"),
        ("channels: ['../x']\ndependencies: []\n", "environment.yml:1:12: '../x' is no channel"),
    ],
)
def test_what_no_recipe_can_hold_is_refused_at_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        taken(text)

    assert said in str(error.value)
    assert error.value.hint


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True).filter(lambda name: name not in ("python", "pip")),
            st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}", fullmatch=True),
            st.sampled_from(["", "py312_0", "h1_2"]),
        ),
        max_size=5,
    )
)
def test_exact_packages_come_through_with_nothing_added(packages: list[tuple[str, str, str]]) -> None:
    lines = [f"{name}=={version}" if not build else f"{name}={version}={build}" for name, version, build in packages]
    found = taken(json.dumps({"dependencies": lines}))

    assert found.recipe.get("conda", {}).get("packages", []) == [
        f"{name} =={version} {build}".rstrip() for name, version, build in packages
    ]


def _pixi(path: Path) -> None:
    """A lock file as py-rattler writes it."""
    platform = LockPlatform("linux-64")
    made = LockFile([platform])
    made.set_channels("default", [LockChannel("https://conda.example.org/conda-forge/")])
    for name, version, build in (("python", "3.12.1", "h0_1_cpython"), ("zlib", "1.3.1", "hb_2")):
        record = PackageRecord(name, version, BuildString(build), 1, "linux-64", sha256=bytes(32))
        base = "https://conda.example.org/conda-forge/"
        file = f"{name}-{version}-{build}.conda"
        made.add_conda_package("default", platform, RepoDataRecord(record, file, f"{base}linux-64/{file}", base))
    made.add_pypi_package(
        "default", platform, "six", "1.16.0", "https://files.example.org/six-1.16.0-py2.py3-none-any.whl"
    )
    made.to_path(path)


@pytest.mark.parametrize("kind", ["pixi.lock", "conda-lock.yml"])
def test_a_lock_file_of_others_becomes_a_recipe_of_what_it_pins(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conda, "platform", lambda _: "linux-64")
    if kind == "pixi.lock":
        _pixi(tmp_path / kind)
    else:
        (tmp_path / kind).write_text(CONDA_LOCK)

    code = main(["recipes", "import", kind, "--name", "mine"])

    assert code == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip() == "mine.yaml"
    parsed = recipe.parse((tmp_path / "mine.yaml").read_text(), "mine.yaml")
    assert parsed.conda.packages == ("zlib ==1.3.1 hb_2",)
    assert parsed.packages == ("six==1.16.0",)
    assert parsed.variants[0].python == "==3.12.*"
    assert len(parsed.conda.channels) == 1
    # nothing is overwritten
    assert main(["recipes", "import", kind, "--name", "mine"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "environment", "said"),
    [("linux-aarch64", "default", "it is not for linux-aarch64"), ("linux-64", "gpu", "it has no environment gpu")],
)
def test_a_lock_file_for_something_else_is_refused(  # noqa: PLR0917 - fixtures
    platform: str, environment: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conda, "platform", lambda _: platform)
    _pixi(tmp_path / "pixi.lock")

    assert main(["recipes", "import", "pixi.lock", "--environment", environment]) == 2

    assert said in capsys.readouterr().err
    assert not (tmp_path / "pixi.yaml").exists()


def test_a_lock_file_that_is_none_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pixi.lock").write_text("version: 99\npackages: []\n")

    assert main(["recipes", "import", "pixi.lock"]) == 2

    said = capsys.readouterr().err
    assert "pixi.lock" in said
    assert "Traceback" not in said


def _lock(*records: dict[str, Any]) -> Lock:
    parsed = recipe.parse(json.dumps(samples.RECIPE), "r.yaml")
    made = samples.locked(samples.request(parsed))
    bodies = {**made.bodies, **({conda.BODY: conda.body("linux-64", records)} if records else {})}
    return Lock(request=made.request, site="s", partition="p", created_by={}, bodies=bodies)


def _record(name: str, **more: Any) -> dict[str, Any]:
    url = f"https://conda.example.org/linux-64/{name}-1.0-h0_1.conda"
    return {"name": name, "version": "1.0", "build": "h0_1", "url": url, "sha256": "0" * 64, **more}


def test_a_lock_of_the_index_alone_is_written_with_its_python_and_pip() -> None:
    made = conda_files.environment_yml(_lock())

    python, pip, listed = made["dependencies"]
    assert (python, pip) == ("python=3.12", "pip")
    assert "mpi4py==1" in listed["pip"]
    assert made["channels"] == ["conda-forge"]


def test_what_conda_brings_is_not_asked_of_pip_as_well() -> None:
    lock = _lock(_record("python"), _record("numpy", distributions={"numpy": "1.0", "mpi4py": "1"}), _record("pip"))

    made = conda_files.environment_yml(lock)

    assert made["dependencies"][:3] == ["python=1.0=h0_1", "numpy=1.0=h0_1", "pip=1.0=h0_1"]
    listed = [one["pip"] for one in made["dependencies"] if isinstance(one, dict)]
    assert not any(line.startswith(("mpi4py", "numpy")) for line in (listed[0] if listed else []))


def test_what_is_written_is_read_again() -> None:
    made = conda_files.environment_yml(_lock(_record("python"), _record("zlib")))

    found = taken(to_yaml(made))

    assert found.recipe["conda"]["packages"] == ["zlib ==1.0 h0_1"]
    assert "mpi4py==1" in found.recipe["packages"]


def test_the_lock_in_a_folder_is_written_as_environment_yml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = _lock()
    (tmp_path / "lock.json").write_text(json.dumps(lock.envelope()))
    for name, text in lock.bodies.items():
        (tmp_path / name).write_text(text)

    assert main(["export", "environment.yml", str(tmp_path)]) == 0

    said = capsys.readouterr()
    assert "dependencies:" in said.out
    assert "compiled here against the machine's MPI" in said.err
