"""The programs of a machine that turn a source into a library: its compilers, and the tools that a build may take from it.

Each says itself what it is. A wrapper, such as Cray's `cc` and `CC` or an MPI's, says what it calls.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace

from envbuilder import process
from envbuilder.partition import Partition
from envbuilder.process import Command
from envbuilder.target import BUILD_TOOLS, Compiler, Mpi, Target

_VERSION = re.compile(r"\d+\.\d+")
_REMARK = re.compile(r"(remark|warning|note)\b", re.IGNORECASE)


def find_compiler(name: str, env: Mapping[str, str] | None = None) -> Compiler | None:
    """The compiler of that name or path, as found in `env`, or None."""
    path = which(name, env)
    version = said(path, env) if path else ""
    return Compiler(path=path, version=version) if path and version else None


def compilers(partition: Partition, env: Mapping[str, str] | None) -> Compiler | None:
    """The C compiler of a partition and the C++ compiler beside it; None without the former."""
    found = find_compiler(partition.compilers.cc, env)
    cxx = find_compiler(partition.compilers.cxx, env) if found else None
    return replace(found, cxx=cxx.path, cxx_version=cxx.version) if found and cxx else found


def wrapping(mpi: Mpi | None, env: Mapping[str, str] | None) -> Mpi | None:
    """The same MPI with what its compiler wrappers say that they call; a wheel's call the partition's compilers."""
    if mpi is None or mpi.provider != "system":
        return mpi
    cc, cxx = (said(command.partition(" ")[0], env) if command else "" for command in (mpi.mpicc, mpi.mpicxx))
    return replace(mpi, cc_version=cc, cxx_version=cxx)


def tools(target: Target) -> dict[str, str]:
    """What the build tools of the machine say they are, where a compilation for that target finds them."""
    env = target.effect.apply({"PATH": target.search_path, "LC_ALL": "C.UTF-8"})
    found = {name: which(name, env) for name in BUILD_TOOLS}
    return {name: said(path, env) for name, path in found.items() if path}


def said(path: str, env: Mapping[str, str] | None) -> str:
    """What a program says that it is, in one line; empty for one that does not say.

    That is not always the first line: some begin with an empty one or with a remark on their age.
    """
    done = process.capture(Command(argv=(path, "--version")), timeout=60, base=env)
    lines = [line.strip() for line in done.output.splitlines() if line.strip()] if done.code == 0 else []
    told = [line for line in lines if not _REMARK.search(line)] or lines
    return next((line for line in told if _VERSION.search(line)), told[0] if told else "")


def which(command: str, env: Mapping[str, str] | None) -> str | None:
    """Where a program is on the PATH of `env`, or None."""
    return shutil.which(command, path=env.get("PATH") if env is not None else None)
