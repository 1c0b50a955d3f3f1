"""The host's MPI in an image: which of its libraries are bound there, and why it may not work.

Programs compiled against MPICH run with any MPI of MPICH's ABI (Cray MPICH, Intel MPI, MVAPICH): the host's library is bound
under the name that the image's programs look for, with what it needs itself, before the image's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuilder import elf, linking
from envbuilder.errors import HostError
from envbuilder.target import Mpi, Target

# Where the host's libraries are bound.
FOLDER = "/opt/envbuilder/host"
# Implementations with MPICH's ABI (mpich.org/abi); the names are those of `envbuilder.host`.
_MPICH_ABI = ("mpich", "cray-mpich", "intel-mpi")
# What libraries of an architecture say in their ELF header.
MACHINES = {"x86_64": ("EM_X86_64", 64), "aarch64": ("EM_AARCH64", 64)}
# The C library is one with its loader, and the C++ library serves what is in the image, too: both stay the image's.
STAY = re.compile(r"(ld-linux.*|lib(c|m|pthread|dl|rt|resolv|util|nsl|anl|mvec|stdc\+\+|gcc_s|thread_db))\.so.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMpi:
    """The host's MPI as an image will have it: `library` is its path there, `binds` maps files of the host to theirs there."""

    library: str
    binds: Mapping[str, str]
    mpi: Mpi

    def expectation(self) -> dict[str, str]:
        """The library that every rank must have mapped, as a manifest holds it."""
        keys = ("provider", "name", "version", "soname", "build_id", "sha256", "mpiexec")
        return {**{key: str(getattr(self.mpi, key)) for key in keys}, "library": self.library}

    def identity(self) -> dict[str, Any]:
        """What it adds to the identity of an environment."""
        return {**self.mpi.identity(), "library": self.mpi.library, "binds": dict(self.binds)}


def compatible(host: Mpi | None, image: Mpi | None) -> str:
    """Why the MPI of a host cannot take the place of an image's, or nothing."""
    if image is None:
        return "the image has no MPI"
    if host is None or host.provider != "system":
        return "the host has no MPI of its own (no mpicc on the PATH, or the site offers none)"
    if image.name not in _MPICH_ABI or host.name not in _MPICH_ABI:
        return (
            f"the host's {host.name} {host.version} and the image's {image.name} {image.version} have different ABIs: only "
            "MPICH and its kin can stand in for each other"
        )
    return ""


def too_new(library: str, needed: frozenset[str], libc: str) -> str:
    """Why a library of the host cannot be loaded under an image's C library (`glibc 2.36`), or nothing."""
    has = _numbers(libc)
    wants = max((_numbers(one) for one in needed if re.fullmatch(r"GLIBC_[0-9.]+", one)), default=())
    if wants <= has:
        return ""
    version = ".".join(map(str, wants))
    return f"the host's {library} needs glibc {version}, and the image has {libc.removeprefix('glibc ')}"


def found(mpi: Mpi | None, image: Target, env: Mapping[str, str]) -> HostMpi:
    """The host's MPI for an image; raises `HostError` with the reason where it cannot be."""
    why = compatible(mpi, image.mpi)
    if why:
        raise HostError(
            f"the host's MPI cannot be bound: {why}", hint="leave --mpi host out: the image has an MPI of its own"
        )
    if mpi is None or image.mpi is None:
        raise AssertionError("told above")
    facts = elf.read(Path(mpi.library))
    needed = linking.outside({Path(mpi.library): facts}, linking.linker(env), Path("/nonexistent")) if facts else {}
    name = image.mpi.soname or "libmpi.so.12"
    target = f"{FOLDER}/{name}"
    binds = {mpi.library: target}
    for path, told in needed.items():
        soname = told["soname"] or os.path.basename(path)
        if not STAY.fullmatch(soname):
            binds.setdefault(path, f"{FOLDER}/{soname}")
    refuse_misfits(binds, image)
    return HostMpi(library=target, binds=binds, mpi=mpi)


def refuse_misfits(files: Iterable[str], image: Target) -> None:
    """Raise `HostError` for a library among files of the host that an image cannot load: a newer C library, another CPU."""
    for path in files:
        facts = elf.read(Path(path)) if os.path.isfile(path) else None
        if facts is None:
            continue
        if (facts.machine, facts.bits) != MACHINES.get(image.arch, (facts.machine, facts.bits)):
            raise HostError(
                f"{path} of the host cannot be bound: it is for {facts.machine}, {facts.bits} bits, the image for {image.arch}",
                hint="take the library that the site has for this architecture",
            )
        why = too_new(path, elf.versions_needed(Path(path)), image.libc)
        if why:
            raise HostError(f"the host's MPI cannot be bound: {why}", hint="take a newer base: --base NAME")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text))
