"""Which program compiles C++ with the MPI of a partition."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from envbuilder import host, toolchain
from envbuilder.partition import Compilers, MpiContract, Partition
from envbuilder.target import Mpi


def programs(folder: Path, *names: str) -> dict[str, str]:
    """An environment whose PATH holds programs of these names."""
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho 'compiler 1'\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (("mpicc.mpich", "mpicxx.mpich", "mpicxx"), "mpicxx.mpich"),
        (("mpicc.mpich", "mpicxx"), "mpicxx"),
        (("mpicc.mpich",), ""),
    ],
)
def test_the_wrapper_for_cxx_lies_beside_the_one_for_c(tmp_path: Path, there: tuple[str, ...], found: str) -> None:
    programs(tmp_path, *there)

    assert host._beside(str(tmp_path / "mpicc.mpich"), "mpicxx") == (str(tmp_path / found) if found else "")


@pytest.mark.parametrize(
    ("mpicc", "found"), [("cc", "CC"), ("cc -shared", "CC"), ("mpicc", "")], ids=["cc", "with an option", "a wrapper"]
)
def test_compilers_that_link_with_mpi_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpicc: str, found: str
) -> None:
    env = programs(tmp_path, "cc", "CC", "mpicc")
    monkeypatch.setattr(host, "find_system_mpi", lambda name, _: Mpi(provider="system", name="m", mpicc=name))
    partition = Partition(
        mpi=MpiContract(provider="system", mpicc=mpicc), compilers=Compilers(cc="cc", cxx="CC"), features=("mpi",)
    )

    mpi = host.find_mpi(partition, env)

    assert mpi is not None
    assert mpi.mpicxx == (str(tmp_path / found) if found else "")


def test_a_machine_without_a_cxx_compiler(tmp_path: Path) -> None:
    env = programs(tmp_path, "cc")

    compiler = toolchain.compilers(Partition(compilers=Compilers(cc="cc", cxx="no-such-c++")), env)

    assert compiler is not None
    assert (compiler.path, compiler.cxx) == (str(tmp_path / "cc"), "")


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("turn", [1, -1])
def test_a_library_that_only_helps_mpi_is_not_taken_for_it(
    turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the libraries of a process lie in memory is random, and so is their order."""
    libraries = []
    for soname, code in (
        ("libmpi_gtl_hsa.so.0", "int gtl(void){return 0;}"),
        ("libmpi.so.12", "int MPI_Init(void){return 0;}"),
    ):
        path = tmp_path / soname
        argv = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-x", "c", "-", "-o", str(path)]
        subprocess.run(argv, input=code, text=True, check=True)
        libraries.append(str(path))
    monkeypatch.setattr(host, "_witness_mpi", lambda _path, _env: ("MPICH 4", libraries[::turn]))

    found = host.find_system_mpi("cc")

    assert found is not None
    assert found.soname == "libmpi.so.12"
