"""PyTorch from source against the Cray-named MPI: the whole compile (slow), and a small C++ package on the same path."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_archer2 import ASKED, Archer2, outcomes
from testbed.machine import Testbed

from envbuilder import catalog, lint, places
from envbuilder.probes import elf

pytestmark = pytest.mark.real

RECIPE = Path(__file__).parent / "recipes" / "pytorch-mpi-debian"
ADDRESS = "https://source.example.org/pool"
SONAME = "libmpi_gnu_91.so.12"

SETUP = """
import socket
from setuptools import Extension, setup
open("compiled.py", "w").write(f"host = {socket.gethostname()!r}\\n")
print("MPI support: ON")
setup(name="compiled", version="1.0", py_modules=["compiled"], ext_modules=[Extension("world", ["world.cpp"])])
"""
WORLD = """
#include <Python.h>
#include <mpi.h>
#include <string>
static PyObject* version(PyObject*, PyObject*) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    MPI_Get_library_version(text, &length);
    return PyUnicode_FromString(std::string(text, length).c_str());
}
static PyMethodDef methods[] = {{"version", version, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "world", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit_world() { return PyModule_Create(&module) }
"""


@pytest.fixture(scope="module")
def archer2(testbed: Testbed) -> Archer2:
    return Archer2(testbed)


@pytest.fixture
def folder(testbed: Testbed) -> Iterator[Path]:
    """A folder that the compute nodes see."""
    made = Path(tempfile.mkdtemp(dir=testbed.work))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def _mirrored(folder: Path, address: str) -> Path:
    """The shipped archer2.yaml with a mirror in `folder` of what lies at `address`."""
    text = (places.data_root() / "sites" / "archer2.yaml").read_text()
    path = folder / "archer2.yaml"
    path.write_text(f'{text}\nmirrors:\n  "{address}": "file://{folder}"\n')
    return path


def _packed(path: Path, files: dict[str, str]) -> str:
    """The sha256 of an archive of these files."""
    with tarfile.open(path, "w:gz") as sink:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"compiled-1.0/{name}")
            entry.size = len(text.encode())
            sink.addfile(entry, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _small(folder: Path, minutes: int) -> Path:
    """A recipe of a C++ package that calls MPI, changed by a patch on its way, as PyTorch's is."""
    sha256 = _packed(folder / "compiled-1.0.tar.gz", {"setup.py": SETUP, "world.cpp": WORLD})
    made = folder / "small"
    made.mkdir()
    document = {
        "schema": 1,
        "name": "small",
        "summary": "A small package in C++",
        "needs": ["mpi"],
        "imports": ["world"],
        "variants": [{"version": "1.0"}],
        "sources": {
            "compiled": {
                "archive": {"url": f"{ADDRESS}/compiled-1.0.tar.gz", "sha256": sha256},
                "name": "compiled",
                "version": "1.0",
                "why": "nobody else has it",
                "build_requires": ["pip>=23", "setuptools>=68", "wheel>=0.41"],
                "env": {"CC": "{{ mpi.cxx }}", "CXX": "{{ mpi.cxx }}", "LDSHARED": "{{ mpi.cxx }} -shared"},
                "patches": [
                    {
                        "replace": "PyModule_Create(&module) }",
                        "by": "PyModule_Create(&module); }",
                        "in": "world.cpp",
                        "why": "it lacks a semicolon",
                    }
                ],
                "fail_if_log": [{"pattern": "MPI support: OFF", "why": "it would be without MPI"}],
                "jobs": {"memory_gib": 1, **({"minutes": minutes} if minutes else {})},
                "resume": True,
            }
        },
    }
    (made / "recipe.yaml").write_text(json.dumps(document, indent=1))
    return made


@pytest.mark.parametrize(("minutes", "where"), [(0, "ln"), (3, "nid00")])
def test_a_small_package_is_compiled_against_the_site_s_mpi_where_its_recipe_wants_it(
    minutes: int, where: str, archer2: Archer2, folder: Path
) -> None:
    """On the login node, or in a job without a network."""
    site = _mirrored(folder, ADDRESS)
    store = {"ENVBUILDER_HOME": str(folder / "store")}
    made = _small(folder, minutes)

    tree = archer2.build(str(made), "--site", str(site), "--partition", "cpu", **store)

    code = "import compiled, world; print(compiled.host); print(world.version())"
    said = subprocess.run([tree / "bin/python", "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    host, version = said.stdout.splitlines()[:2]
    assert host.startswith(where)
    assert "MPICH" in version
    (extension,) = tree.rglob("world*.so")
    assert SONAME in elf.needed(str(extension))


def test_the_debian_layer_is_a_good_recipe() -> None:
    found = catalog.find_recipe(str(RECIPE), {})

    assert found.recipe.features == ("mpi4py", "torch", "onednn", "torch-mpi")
    assert [patch.file for patch in found.recipe.sources["torch"].patches] == [
        "patches/system-libraries.patch",
        "patches/precompiled-headers.patch",
    ]
    assert lint.lint_recipe(found.origins[0], os.environ) == []


def test_what_pytorch_drops_with_a_word_ends_the_build() -> None:
    """The lines are PyTorch's own, of builds without MPI, gloo and oneDNN."""
    import re

    said = (
        "CMake Warning at cmake/Dependencies.cmake:1163 (message):\n  Not compiling with MPI.  Suppress this warning with",
        "--     USE_MPI               : OFF",
        "--   USE_DISTRIBUTED       : 0",
        "--     USE_GLOO              : OFF",
        "--   USE_MKLDNN            : OFF",
        "--   USE_NUMPY             : OFF",
    )
    fine = ("--     USE_MPI               : 1", "--     USE_GLOO              : ON", "--   USE_MKLDNN_CBLAS      : OFF")
    for name in ("pytorch-mpi", str(RECIPE)):
        rules = catalog.find_recipe(name, {}).recipe.sources["torch"].fail_if_log
        for text in said:
            assert any(re.search(rule.pattern, line) for rule in rules for line in text.splitlines()), (name, text)
        assert not [line for line in fine for rule in rules if re.search(rule.pattern, line)], name


@pytest.mark.slow
def test_pytorch_1_13_1_is_compiled_and_proven_over_the_mpi_of_the_machine(archer2: Archer2, folder: Path) -> None:
    """Half an hour on two free cores. The source is found beside the variable's path; see the recipe for what it needs."""
    source = os.environ.get("ENVBUILDER_TEST_PYTORCH_SOURCE", "")
    if not source:
        pytest.skip("ENVBUILDER_TEST_PYTORCH_SOURCE names no pytorch_1.13.1+dfsg.orig.tar.xz")
    shutil.copy(source, folder)
    archive = catalog.find_recipe(str(RECIPE), {}).recipe.sources["torch"].archive
    assert archive
    site = _mirrored(folder, archive.url.rpartition("/")[0])
    python = archer2.testbed.root / "opt/cray/pe/python/3.11.7/bin/python3"
    words = ("--site", str(site), "--partition", "cpu", "--python", str(python))

    done = archer2.run("build", str(RECIPE), *words, timeout=7200)
    assert done.returncode == 0, done.stderr
    tree = Path(done.stdout.strip())
    verified = archer2.run("verify", tree.name, "--partition", "cpu", *ASKED, "--json")

    assert verified.returncode == 0, verified.stderr + verified.stdout
    assert {one["status"] for one in outcomes(verified.stdout).values()} == {"pass"}
    (library,) = tree.rglob("libtorch_cpu.so")
    assert SONAME in elf.needed(str(library))
    sys.stdout.write(verified.stdout)
