"""From a name on the command line to what an image needs: its layers, the target that they are, the artefacts of its lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envbuilder import base_image, host, host_mpi, image, layers, modules, offline, prepare, runtime, store
from envbuilder.builders.base import Layers
from envbuilder.console import Console
from envbuilder.document import read_text
from envbuilder.errors import HostError, InputError
from envbuilder.lock import Lock
from envbuilder.partition import Partition
from envbuilder.prepare import Choice, Prepared
from envbuilder.target import Mpi, Target

DEFAULT_BASE = "debian-12"
DEFAULT_COMPRESSION = "gzip"


def prepared(choice: Choice, env: Mapping[str, str], console: Console, verb: str) -> Prepared:
    """What a wish for an image comes to; its layers are made where they are missing.

    Raises `HostError` for what this machine or the base lacks, `InputError` for what cannot be.
    """
    wish, site, recipe = choice.wish, choice.site, choice.found.recipe
    if recipe.base is not None:
        raise InputError(
            f"{recipe.name} stands on a module of the site, which no image has", hint="leave --builder out"
        )
    base = base_image.find(wish.base or DEFAULT_BASE, env)
    program = runtime.find(env)
    place = store.locate(env, site.paths.root)
    log = place.new_log(verb, f"{recipe.name}-image")
    kept = layers.have(base, layers.Means(program=program, place=place, console=console, log=log, env=env))
    partition = site.partition(choice.partition)
    with console.step(f"look at {base.name}"):
        seen = image.look(
            image.Asked(program=program, image=kept.build_sif, python=str(base.python)),
            with_mpi="mpi" in recipe.needs,
            mpi_wheel=str(partition.mpi.package),
            mark=kept.build_digest,
        )
    _refuse_misfit(choice, seen, base.name)
    gpu = partition.gpu
    target = replace(
        seen, site=site.name, partition=choice.partition, gpu=gpu.vendor, gpu_arch=gpu.arch, toolkit=gpu.toolkit
    )
    loaded = modules.load(site, partition)
    there = loaded.effect.apply(env) if loaded else env
    own = _host_mpi(partition, there) if target.mpi else None
    swapped = host_mpi.found(own, target, there) if wish.mpi == "host" else None
    made = Layers(
        name=base.name,
        digest=kept.digest,
        sif=kept.sif,
        build_sif=kept.build_sif,
        runtime=program,
        compression=wish.compression or DEFAULT_COMPRESSION,
        recipe=read_text(choice.found.origins[0].path, "recipe"),
        path=env.get("PATH", ""),
        host_mpi=swapped,
        mpiexec=own.mpiexec if own and not host_mpi.compatible(own, target.mpi) else "",
    )
    found = prepare.prepared_for(choice, target, env, verb)
    return replace(found, place=replace(found.place, layers=made))


def with_artefacts(found: Prepared, lock: Lock, console: Console, env: Mapping[str, str]) -> Prepared:
    """The same with every file that the lock takes at hand: an image is built without a network."""
    if found.place.artefacts is not None:
        return found
    return replace(found, place=replace(found.place, artefacts=offline.fetch(found, lock, console, env)))


def _refuse_misfit(choice: Choice, target: Target, base: str) -> None:
    if any(host.fits(target.python.version, row.python) for row in choice.rows):
        return
    wanted = "; ".join(f"{row.version} needs Python {row.python}" for row in choice.rows)
    raise HostError(
        f"{choice.found.recipe.name} does not fit {base}, which has Python {target.python.version}: {wanted}",
        hint="choose another base (--base) or another version",
    )


def _host_mpi(partition: Partition, env: Mapping[str, str]) -> Mpi | None:
    """The MPI of the host, under the partition's modules; None where it has none of its own."""
    found = host.find_mpi(partition, env)
    return found if found is not None and found.provider == "system" else None


def export(source: Path, target: Path) -> None:
    """Copy an image to a file of the user's, which is whole or not there."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, part)
        part.chmod(0o755)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
