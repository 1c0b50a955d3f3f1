"""What the MPI, the compilers and the build tools of this machine answered, so that the next build need not ask them again.

To know an MPI, a program is compiled and run; that takes longer than all else in a build whose wheels are all there. An
answer holds on its own day only, in the same environment variables, and while the files that it came from are as they were.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from envbuilder import __version__, host
from envbuilder.document import digest, load_json, to_json, write_atomically
from envbuilder.effect import Loaded
from envbuilder.errors import EnvbuilderError
from envbuilder.partition import Partition
from envbuilder.site import Site
from envbuilder.target import BUILD_TOOLS, Compiler, Mpi, Python, System, Target
from envbuilder.toolchain import which

# What differs from one shell to the next and leads no compiler to other files.
_OF_THE_SHELL = {"_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM"}
# Where the loader looks when no variable says where.
_LOADER = "/etc/ld.so.cache"
_SEARCHED = ("LD_LIBRARY_PATH", "LIBRARY_PATH")


def target(
    store: Path,
    site: Site,
    partition_name: str,
    python: Python,
    *,
    with_mpi: bool = True,
    modules: Loaded | None = None,
    base: str = "",
) -> Target:
    """As `host.target`, by what the machine answered before where nothing shows that it would answer otherwise.

    `store` is the root of a store, which need not be there yet.
    """
    env = modules.effect.apply(os.environ) if modules else dict(os.environ)
    partition = site.partition(partition_name)
    path = _path(store, partition, env, with_mpi=with_mpi)
    known = _recall(path, partition, env)
    found = host.target(site, partition_name, python, with_mpi=with_mpi, modules=modules, base=base, known=known)
    if known is None and store.is_dir():
        _remember(path, System(mpi=found.mpi, compiler=found.compiler, tools=found.tools), partition, env)
    return found


def _path(store: Path, partition: Partition, env: Mapping[str, str], *, with_mpi: bool) -> Path:
    variables = {name: value for name, value in sorted(env.items()) if name not in _OF_THE_SHELL}
    question = [__version__, asdict(partition.mpi), asdict(partition.compilers), with_mpi, variables]
    return store / "memos" / f"host-{digest(question)[:24]}.json"


def _recall(path: Path, partition: Partition, env: Mapping[str, str]) -> System | None:
    with suppress(EnvbuilderError, OSError, KeyError, TypeError, ValueError, AttributeError):
        memo = load_json(path, "memo")
        mpi, compiler = memo["mpi"], memo["compiler"]
        system = System(
            mpi=Mpi(**mpi) if mpi else None,
            compiler=Compiler(**compiler) if compiler else None,
            tools=dict(memo["tools"]),
        )
        if memo["day"] == _today() and memo["marks"] == _marks(system, partition, env):
            return system
    return None


def _remember(path: Path, system: System, partition: Partition, env: Mapping[str, str]) -> None:
    # whoever may not write into the store asks again
    with suppress(OSError):
        memo = {**asdict(system), "day": _today(), "marks": _marks(system, partition, env)}
        write_atomically(path, to_json(memo), durable=False)


def _marks(system: System, partition: Partition, env: Mapping[str, str]) -> dict[str, Any]:
    """What a change of an answer would show in: where each program is, and size and time of every file and folder asked."""
    mpi = system.mpi
    commands = {partition.mpi.mpicc, partition.compilers.cc, partition.compilers.cxx, *BUILD_TOOLS}
    names = sorted(command.partition(" ")[0] for command in commands if command)
    found = {name: which(name, env) for name in names}
    folders = [one for name in _SEARCHED for one in env.get(name, "").split(":") if one]
    files = [_LOADER, *folders, *(one for one in found.values() if one)]
    if mpi is not None and mpi.library:
        files += [mpi.library, os.path.dirname(mpi.library), *(one for one in (mpi.mpicxx, mpi.mpiexec) if one)]
    return {"programs": found, "files": {path: _mark(path) for path in files}}


def _mark(path: str) -> str:
    real = os.path.realpath(path)
    try:
        seen = os.stat(real)
    except OSError:
        return "missing"
    return f"{real} {seen.st_size} {seen.st_mtime_ns} {seen.st_ino}"


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()
