"""Environments that a real Spack builds: a whole one is proven, and each broken one is named.

Spack is in no package index, so these tests need to be given one: `SPACK_ROOT` is a folder with its sources that works
(with an interpreter that has clingo: `SPACK_PYTHON`; with packages and mirrors in its `etc/spack`). The MPI is the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from breaking import Verdict, copied, flip

from envbuilder import elf

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(
        "SPACK_ROOT" not in os.environ, reason="no Spack here: set SPACK_ROOT to a folder with its sources"
    ),
    pytest.mark.skipif(not shutil.which("mpicc"), reason="no MPI of a system here, which Spack could take: no mpicc"),
]
ENVBUILDER = (sys.executable, "-m", "envbuilder")


def environment(home: Path) -> dict[str, str]:
    """The variables of a user who has Spack on the PATH, and takes the machine's MPI."""
    spack = Path(os.environ["SPACK_ROOT"]) / "bin"
    env = {**os.environ, "ENVBUILDER_HOME": str(home), "PATH": f"{spack}:{os.environ['PATH']}"}
    for name in ("ENVBUILDER_SITE_PATH", "SPACK_DISABLE_LOCAL_CONFIG", "SPACK_USER_CACHE_PATH"):
        env.pop(name, None)
    return env


def run(home: Path, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ENVBUILDER, *map(str, words)],
        env={**environment(home), **variables},
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def home(test_home: Path) -> Path:
    """A store of its own, where Spack keeps what it built for the next run."""
    return test_home / "spack"


@pytest.fixture(scope="module")
def tree(home: Path) -> Path:
    done = run(home, "build", "mpi4py", "--builder", "spack")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def manifest(tree: Path) -> dict[str, Any]:
    found = json.loads((tree.parent.parent / "manifests" / f"{tree.name}.json").read_text())
    assert isinstance(found, dict)
    return found


def test_what_spack_built_is_proven_on_two_ranks(home: Path, tree: Path) -> None:
    done = run(home, "verify", tree.name, "--json", "--ranks", "2")
    verdict = Verdict(done.returncode, json.loads(done.stdout)["environments"][0]["outcomes"], done.stderr)

    verdict.assert_passes()
    seen = {one["check"]: one["witnessed"] for one in verdict.outcomes}
    assert "libmpi" in seen["mpi-library"]
    assert {"files-intact", "distributions", "interpreter", "ranks-started", "libraries-resolve"} <= set(seen)
    about = manifest(tree)
    assert (about["builder"], about["mpi"]["provider"]) == ("spack", "system")
    assert about["packages"].keys() >= {"mpi4py"}
    assert about["spack"]["mpich"].split()[1] == "external"
    ran = run(
        home, "run", tree.name, "--", "python", "-c", "import mpi4py.MPI, sys; print(mpi4py.MPI.__file__, sys.prefix)"
    )
    assert ran.stdout.split() == [str(next(tree.glob("lib/python*/site-packages/mpi4py/MPI.*.so"))), str(tree)]


def test_the_tree_does_not_need_what_spack_keeps(home: Path, tree: Path) -> None:
    kept = str(home / "spack")
    for path in tree.rglob("*"):
        if path.is_symlink():
            assert not os.path.realpath(path).startswith(kept), path
        elif path.suffix == ".so":
            facts = elf.read(path)
            assert facts is not None
            assert kept not in f"{facts.rpath} {facts.runpath}", (path, facts)
    assert not (home / "spack" / "environments" / tree.name).exists()


def test_a_flipped_byte_is_found_though_no_record_tells(tree: Path, tmp_path: Path) -> None:
    copy = copied(tree, tmp_path)
    copy.verify("--ranks", "2").assert_passes()
    flip(copy.one("lib/python*/site-packages/mpi4py/MPI.*.so"))

    copy.verify("--ranks", "2").assert_fails("files-intact", "MPI.")


def test_another_mpi_is_named(tree: Path, tmp_path: Path) -> None:
    """The machine's library under its soname and another build-id, as another build of it that comes first."""
    about = manifest(tree)["mpi"]
    mark = bytes.fromhex(about["build_id"])
    content = Path(about["library"]).read_bytes()
    assert content.count(mark) == 1
    (tmp_path / about["soname"]).write_bytes(content.replace(mark, mark[::-1]))

    verdict = copied(tree, tmp_path).verify("--ranks", "2", "--keep-going", LD_LIBRARY_PATH=str(tmp_path))
    verdict.assert_fails("mpi-library", about["soname"], str(tmp_path))
    verdict.assert_fails("no-shadowing-libraries", about["soname"], str(tmp_path))


def test_what_was_damaged_in_spacks_own_folder_is_not_copied(home: Path, tree: Path, tmp_path: Path) -> None:
    again = recipe(tmp_path, "damaged", "py-mpi4py@4:")
    (kept,) = (home / "spack" / "opt").glob("**/site-packages/mpi4py/MPI.*.so")
    before, was = kept.read_bytes(), kept.stat()
    try:
        flip(kept)
        os.utime(kept, ns=(was.st_atime_ns, was.st_mtime_ns))
        refused = run(home, "build", again, "--builder", "spack")
    finally:
        kept.write_bytes(before)
        os.utime(kept, ns=(was.st_atime_ns, was.st_mtime_ns))

    assert refused.returncode == 3
    assert "compare what Spack keeps with what it installed: failed" in refused.stderr
    assert not list((home / "manifests").glob("damaged-*.json"))


def recipe(folder: Path, name: str, spec: str) -> Path:
    path = folder / name / "recipe.yaml"
    path.parent.mkdir()
    document = {
        "schema": 1, "name": name, "summary": "s", "needs": ["cpu", "mpi"], "specs": [spec],
        "variants": [{"version": "1", "python": ">=3.8"}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return path


def test_specs_without_an_answer_are_told_in_spacks_words(home: Path, tmp_path: Path) -> None:
    refused = run(home, "lock", recipe(tmp_path, "odd", "py-mpi4py@4: ^mpich@3.1"), "--builder", "spack")

    assert refused.returncode == 3
    assert "Spack finds no answer to py-mpi4py@4:" in refused.stderr
