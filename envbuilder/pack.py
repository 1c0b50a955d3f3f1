"""Pack the tree of an environment into one squashfs file: the same bytes each time, and another environment of the store."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from envbuilder import __version__, build, host, packed, store
from envbuilder.console import Console
from envbuilder.document import digest
from envbuilder.environment import Environment
from envbuilder.errors import InputError, StoreError
from envbuilder.plan import SEALED_AT, Plan, Remove, Run, Step, identifier
from envbuilder.runtime import squashing
from envbuilder.store import Store

FORMAT = 1
COMPRESSIONS = ("gzip", "lz4", "zstd")


def pack(place: Store, environment: Environment, compression: str, console: Console) -> Environment:
    """The environment whose tree is the packed one of `environment`; one that is there already is made again and compared.

    Raises `InputError` for what is no tree, `HostError` for a missing program, `CommandFailed` when packing fails; a killed
    one leaves nothing but scratch, which the next removes.
    """
    _refuse(environment)
    packed.needed("mksquashfs", "squashfs-tools")
    started = time.monotonic()
    with store.guarded(place, f"env-{environment.identifier}", console.note):
        work = place.path("work", f"{environment.identifier}.pack")
        log = place.new_log("pack", environment.recipe)
        plan = Plan(
            name=environment.recipe,
            identifier=environment.identifier,
            prefix=work,
            inputs={},
            steps=_steps(environment, work, compression),
        )
        build.execute(plan, place, console, log)
        made = _kept(place, environment, work / packed.FILE, compression, time.monotonic() - started)
        shutil.rmtree(work, ignore_errors=True)
    return made


def _refuse(environment: Environment) -> None:
    if environment.image or environment.pack:
        kind = "an image" if environment.image else "packed"
        raise InputError(f"{environment.identifier} is {kind} already", hint="name the environment of a tree")
    if not Path(environment.prefix).is_dir():
        raise StoreError(
            f"{environment.identifier}: its tree is gone ({environment.prefix})",
            hint=f"envbuilder build {environment.recipe}@{environment.version}",
        )


def _steps(environment: Environment, work: Path, compression: str) -> tuple[Step, ...]:
    tree, prefix = work / "tree", Path(environment.prefix)
    moment = str(SEALED_AT)
    return (
        Remove(title="clear what an interrupted one left", path=work),
        Run(title="make a work folder", argv=("mkdir", "-p", str(work))),
        # no byte is copied, and what is added or removed here is not so there
        Run(title="look at the tree", argv=("cp", "-al", str(prefix), str(tree))),
        Run(
            title="leave bytecode out that goes by the time of its source",
            argv=("find", str(tree), "-type", "d", "-name", "__pycache__", "-prune", "-exec", "rm", "-rf", "{}", "+"),
        ),
        Run(
            title="compile bytecode",
            # some packages bring files that no Python can compile
            argv=(
                "sh", "-c", '"$@" || :', "sh", str(prefix / "bin" / "python"), "-I", "-m", "compileall", "-q", "-j", "0",
                "--invalidation-mode", "unchecked-hash", "-s", str(tree), "-p", str(prefix), str(tree / "lib"),
            ),
            env={"PYTHONHASHSEED": "0"},
        ),
        Run(
            title=f"pack with {compression}",
            argv=(
                # mksquashfs takes either that variable or the options
                "env", "-u", "SOURCE_DATE_EPOCH", "mksquashfs", str(tree), str(work / packed.FILE), "-noappend",
                "-no-progress", "-quiet", "-no-xattrs", "-all-root", "-all-time", moment, "-mkfs-time", moment,
                *squashing(compression),
            ),
        ),
    )  # fmt: skip


def _kept(place: Store, tree: Environment, file: Path, compression: str, seconds: float) -> Environment:
    """The pack in its place in the store, with a manifest of its own."""
    sha256 = host.sha256(file)
    inputs: dict[str, Any] = {"format": FORMAT, "pack": sha256, "tree": tree.digest, "environment": tree.identifier}
    name = identifier(tree.recipe, tree.version, inputs)
    folder = place.prefix(name)
    about: Mapping[str, Any] = {
        "file": str(folder / packed.FILE),
        "sha256": sha256,
        "size": file.stat().st_size,
        "compression": compression,
        "prefix": tree.prefix,
        "of": tree.identifier,
    }
    made = replace(
        tree,
        identifier=name,
        digest=digest(inputs),
        prefix=str(folder),
        pack=about,
        created=store.now(),
        created_by=f"envbuilder {__version__}",
        seconds=round(seconds, 3),
    )
    if not (place.manifest(name).is_file() and _same(folder / packed.FILE, sha256)):
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(file, folder / packed.FILE)
        store.publish(place, made, ())
    bare = store.current(place, tree.recipe) == tree.identifier
    store.point(place, made, store.names(made, asked_by_version=not bare))
    return made


def _same(path: Path, sha256: str) -> bool:
    return path.is_file() and host.sha256(path) == sha256
