"""The programs that a login shell leads to: interpreter, compilers, MPI, and the GPUs that this node has."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from envbuilder import host, toolchain
from envbuilder.errors import EnvbuilderError
from envbuilder.first_site import Programs
from envbuilder.survey import gpus
from envbuilder.target import Compiler, Mpi, Python

# Cray's wrappers first: where they are, they are what one compiles with
_COMPILERS = {"cc": ("cc", "gcc"), "cxx": ("CC", "c++", "g++"), "fc": ("ftn", "gfortran")}
_WRAPPERS = ("mpicc", "cc")
_RUNTIMES = ("apptainer", "singularity")


def programs_of(env: Mapping[str, str]) -> Programs:
    """What there is in an environment; what fails is left out."""
    python: Python | None = None
    with suppress(EnvbuilderError):
        python = host.site_python("python3", env)
    compilers: dict[str, Compiler] = {}
    for kind, names in _COMPILERS.items():
        for name in names:
            found = toolchain.find_compiler(name, env)
            if found is not None:
                compilers[kind] = found
                break
    mpi, wrapper = _mpi(env)
    vendor, arch = gpus(env)
    return Programs(
        python=python,
        mpi=mpi,
        mpicc=wrapper,
        compilers=compilers,
        gpu_vendor=vendor,
        gpu_arch=arch,
        runtime=next((name for name in _RUNTIMES if toolchain.which(name, env)), ""),
    )


def _mpi(env: Mapping[str, str]) -> tuple[Mpi | None, str]:
    """The MPI of the first wrapper that makes a program which runs, Cray's `cc` among them."""
    names = reversed(_WRAPPERS) if env.get("CRAYPE_DIR") else _WRAPPERS
    for name in names:
        with suppress(EnvbuilderError):
            found = host.find_system_mpi(name, env)
            if found is not None:
                return found, name
    return None, ""
