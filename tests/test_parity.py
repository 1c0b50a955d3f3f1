"""`envbuilder parity`: environments of one recipe beside each other, and beside what Spack solved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import samples

from envbuilder import cli, parity, store
from envbuilder.document import to_json
from envbuilder.environment import Environment
from envbuilder.errors import InputError

ARCH = {"platform": "linux", "platform_os": "sles15", "target": {"name": "zen2"}}


def spec(name: str, version: str, *below: tuple[str, str], **more: Any) -> dict[str, Any]:
    edges = [{"name": one, "hash": one, "parameters": {"deptypes": [kind], "virtuals": []}} for one, kind in below]
    return {
        "name": name,
        "version": version,
        "arch": ARCH,
        "parameters": {},
        "dependencies": edges,
        "hash": name,
        **more,
    }


def spack_lock() -> dict[str, Any]:
    """A lock in the form that Spack 1.1 writes, of what parity reads in it."""
    specs = [
        spec("py-torch", "2.9.1", ("cray-mpich", "link"), ("py-numpy", "run"), ("cmake", "build"), parameters={"mpi": True, "cuda": False}),
        spec("py-numpy", "2.3.4", ("python", "run"), ("py-cython", "build")),
        spec("cray-mpich", "8.1.27", external={"path": "/opt/cray", "module": []}),
        spec("python", "3.11.7", external={"path": "/opt/python", "module": []}),
        spec("cmake", "3.31.9"),
        spec("py-cython", "3.1.3"),
    ]  # fmt: skip
    return {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "roots": [{"hash": "py-torch", "spec": "py-torch@2.9.1"}],
        "concrete_specs": {one["hash"]: one for one in specs},
    }


def venv(**changes: Any) -> Environment:
    packages = {"torch": "2.9.1+cpu", "numpy": "2.3.5", "mpi4py": "4.1.1"}
    return samples.environment(
        **{
            "recipe": "pytorch-cpu",
            "version": "2.9.1",
            "packages": packages,
            "features": ("mpi4py", "torch"),
            **changes,
        }
    )


def verdicts(*worlds: parity.World) -> dict[str, str]:
    return {row.subject: row.verdict for row in parity.rows(worlds)}


def test_what_spack_solved_is_read_without_what_only_builds() -> None:
    world = parity.of_spack(spack_lock(), "x")

    assert dict(world.packages) == {"torch": "2.9.1", "numpy": "2.3.4"}
    assert world.mpi == "cray-mpich 8.1.27 (the site's)"
    assert world.python == "3.11.7"
    assert world.features == ("torch", "torch-mpi")
    assert world.proof.startswith("not-run: ")
    assert "sles15, zen2" in world.cannot[0]


def test_versions_builds_and_what_is_missing_are_told_apart() -> None:
    found = verdicts(parity.of_environment(venv(), None), parity.of_spack(spack_lock(), "x"))

    assert found == {
        "Python": "same", "MPI": "not in all", "features": "differs",
        "torch": "another build", "numpy": "differs", "mpi4py": "not in all",
    }  # fmt: skip
    assert set(verdicts(*[parity.of_environment(venv(), None)] * 2).values()) == {"same"}


def test_what_was_not_verified_is_no_pass() -> None:
    assert parity.of_environment(venv(), None).proof == "not-run: never verified"


@pytest.mark.parametrize(
    "change", [{"_meta": {}}, {"roots": [{"hash": "nowhere"}]}, {"concrete_specs": []}, {"_meta": {"file-type": "x"}}]
)
def test_a_lock_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^x: not a (whole )?lock of Spack"):
        parity.of_spack({**spack_lock(), **change}, "x")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Store:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("ENVBUILDER_SITE_PATH", raising=False)
    return store.locate({"ENVBUILDER_HOME": str(tmp_path / "store")})


def test_the_newest_of_each_builder_is_compared(
    place: store.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved = tmp_path / "solved"
    solved.mkdir()
    (solved / "spack.lock").write_text(to_json(spack_lock()))
    shown = (
        venv(identifier="old", created="2026-11-19T11:00:00.000+00:00", packages={"torch": "2.8.0"}),
        venv(identifier="new", created="2026-11-20T11:00:00.000+00:00"),
        venv(identifier="elsewhere", created="2026-11-21T11:00:00.000+00:00", site="archer2"),
        venv(identifier="other", created="2026-11-21T11:00:00.000+00:00", recipe="mpi4py"),
    )
    for environment in shown:
        store.publish(place, environment, ())
    words = ["parity", "pytorch-cpu", "--site", "local", "--spack", str(solved)]

    assert cli.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["what"]) for one in document["worlds"]] == [
        ("venv", "new"),
        ("spack, solved", str(solved)),
    ]
    assert any(
        "apptainer: no environment; envbuilder build pytorch-cpu --builder apptainer" in one
        for one in document["not_compared"]
    )
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "not-run: never verified" in said
    assert "cannot: solved for sles15, zen2" in said


def test_one_world_alone_is_no_comparison(
    place: store.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.publish(place, venv(), ())

    assert cli.main(["parity", "pytorch-cpu", "--site", "local"]) == 2
    assert "there is nothing to compare it with" in capsys.readouterr().err
    assert cli.main(["parity", "pytorch-cpu", "--site", "local", "--spack", str(tmp_path)]) == 2
    assert "spack.lock is not there" in capsys.readouterr().err
