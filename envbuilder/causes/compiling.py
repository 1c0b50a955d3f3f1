"""Compilers, headers and build systems."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_GCC = "the text of GCC 12"

CAUSES = (
    Cause(
        name="cxx-standard",
        what=(
            "code that is compiled as C++14 includes headers of a PyTorch that asks for C++17 or later, as "
            "Horovod 0.28.1 does"
        ),
        signs=(
            Sign("compatible compiler is required to use PyTorch"),
            Sign("You need C++17 to compile PyTorch"),
        ),
        remedy=(
            "build with PyTorch below 2.1, or raise CMAKE_CXX_STANDARD in its CMakeLists.txt (Horovod: the recipe "
            "pytorch-horovod does)"
        ),
        sources=("horovod/horovod#3996", "horovod/horovod#4014", "the headers of PyTorch 2.13"),
    ),
    Cause(
        name="torch-built-without-mpi",
        what="the build of PyTorch did not find an MPI and goes on without its MPI backend",
        signs=(
            Sign("Not compiling with MPI"),
            Sign("Not able to find MPI, will compile c10d without MPI support"),
        ),
        remedy=(
            "load the MPI module and give CMake its wrappers (CC, CXX, MPI_C_COMPILER), or set USE_MPI=0 where "
            "none is wanted"
        ),
        sources=("pytorch/pytorch#91678", "pytorch/pytorch#30304"),
        explains=("torch-without-mpi",),
        hint=True,
    ),
    Cause(
        name="compiler-killed",
        what="the compiler was killed, almost always because memory ran out",
        signs=(Sign("Killed signal terminated program"), Sign("internal compiler error: Killed")),
        remedy="compile fewer files at once (MAX_JOBS=2, MAKEFLAGS=-j2) or on a node with more memory",
        sources=(_GCC,),
    ),
    Cause(
        name="compiler-missing",
        what="a package is to be compiled, and its compiler is not there",
        says="a package is to be compiled, and there is no {compiler}",
        signs=(
            Sign(
                "No such file or directory: '",
                r"Errno 2\] No such file or directory: '(?P<compiler>\S{0,200}(?:cc|\+\+|CC|clang))'",
            ),
            Sign("failed: No such file or directory", r"command '(?P<compiler>[^'\n]{1,200})' failed: No such file"),
        ),
        remedy="load a compiler (PrgEnv-gnu, gcc) or set CC and CXX; or take a release that has a wheel",
        sources=("the texts of setuptools 82 and earlier",),
    ),
    Cause(
        name="mpi-headers-missing",
        what="a package that is compiled against MPI found no mpi.h",
        signs=(Sign("mpi.h: No such file or directory"), Sign("Cannot compile MPI programs")),
        remedy=(
            "load the MPI module and set MPICC to its wrapper (`cc` on a Cray, else mpicc); run-time packages "
            "have no headers"
        ),
        sources=(_GCC, "the text of mpi4py 4.1"),
    ),
    Cause(
        name="python-headers-missing",
        what="a package is to be compiled, and Python's headers are not installed",
        signs=(Sign("Python.h: No such file or directory"),),
        remedy="use a Python that brings them (a module, or one from uv), or install the system's python3-dev",
        sources=(_GCC,),
    ),
    Cause(
        name="cmake-policy",
        what="the package's CMake files are too old for this CMake",
        signs=(
            Sign("has been removed from CMake", r"Compatibility with CMake < [\d.]{1,9} has been removed from CMake"),
        ),
        remedy="set CMAKE_POLICY_VERSION_MINIMUM=3.5 in the environment of the build, or use CMake 3",
        sources=("the text of CMake 4",),
    ),
    Cause(
        name="git-missing",
        what="a package is fetched with git, which is not there",
        signs=(Sign("Cannot find command 'git'"), Sign("Git executable not found")),
        remedy="load or install git, or name a released file instead of a repository",
        sources=("the text of pip 26",),
    ),
    Cause(
        name="wheel-missing",
        what="setuptools is too old to make wheels by itself, and the package `wheel` is missing",
        signs=(Sign("invalid command 'bdist_wheel'"),),
        remedy="install wheel beside setuptools, or setuptools 70.1 or later",
        sources=("the text of setuptools 58",),
    ),
)
