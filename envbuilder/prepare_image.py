"""From a name on the command line to what an image needs: its layers, the target that they are, the artefacts of its lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from envbuilder import (
    base_image,
    container,
    elf,
    host,
    host_mpi,
    image,
    layers,
    modules,
    offline,
    places,
    prepare,
    runtime,
    sif_header,
    store,
)
from envbuilder.base_image import BaseImage
from envbuilder.builders.base import Layers
from envbuilder.console import Console
from envbuilder.document import read_text
from envbuilder.errors import HostError, InputError
from envbuilder.host_mpi import HostMpi
from envbuilder.lock import Lock
from envbuilder.partition import Partition
from envbuilder.prepare import Choice, Prepared
from envbuilder.site import Site
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
    refuse_foreign(base, os.uname().machine)
    program = runtime.find(env, str(site.container.runtime))
    runtime.refuse_compression(program, wish.compression or DEFAULT_COMPRESSION)
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
    around = surroundings(site, target, wish.mpi, env, console)
    made = Layers(
        name=base.name,
        digest=kept.digest,
        sif=kept.sif,
        build_sif=kept.build_sif,
        runtime=program,
        compression=wish.compression or DEFAULT_COMPRESSION,
        recipe=read_text(choice.found.origins[0].path, "recipe"),
        path=env.get("PATH", ""),
        host_mpi=around.host_mpi,
        mpiexec=around.mpiexec,
        container=around.container,
    )
    found = prepare.prepared_for(choice, target, env, verb)
    return replace(found, place=replace(found.place, layers=made))


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What an image meets on a partition: see `Layers`."""

    host_mpi: HostMpi | None
    mpiexec: str
    container: Mapping[str, Any]


def surroundings(site: Site, image_target: Target, mpi: str, env: Mapping[str, str], console: Console) -> Surroundings:
    """What the target's partition has for an image, whose ranks use the MPI of the `host` or the `image`.

    Raises `HostError` for what does not fit.
    """
    partition = site.partition(image_target.partition)
    loaded = modules.load(site, partition)
    there = loaded.effect.apply(env) if loaded else env
    own = _host_mpi(partition, there) if image_target.mpi else None
    swapped = host_mpi.found(own, image_target, there) if mpi == "host" else None
    return Surroundings(
        host_mpi=swapped,
        mpiexec=own.mpiexec if own and not host_mpi.compatible(own, image_target.mpi) else "",
        container=_container(site, partition, swapped, image_target, console),
    )


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


def refuse_foreign(base: BaseImage, here: str) -> None:
    """Raise `HostError` for a local base, file or folder, that is for another CPU architecture than `here`."""
    if base.kind != "local":
        return
    path = Path(base.start)
    if path.is_file():
        sif_header.refuse_foreign(path, here)
        return
    programs = (path / "usr/bin" / name for name in ("env", "dash", "bash", "busybox"))
    facts = next((elf.read(one) for one in programs if one.is_file() and not one.is_symlink()), None)
    machine = facts.machine if facts else ""
    if facts and host_mpi.MACHINES.get(here, (machine, 0))[0] != machine:
        raise HostError(
            f"{path} is a root file system for {machine}, and this machine is {here}",
            hint=f"build the image on a machine with that architecture, or take a base for {here}",
        )


def _container(
    site: Site, partition: Partition, swapped: HostMpi | None, target: Target, console: Console
) -> dict[str, Any]:
    """What the site has the image get; says so where it names binds for other MPIs and none for this one."""
    one, key = site.container, ""
    if swapped is not None:
        mpi = swapped.mpi
        key = container.fitting(one, mpi.name, mpi.version, str(partition.fabric))
        if one.mpi and not key:
            console.note(
                f"site {site.name} does not say what {mpi.name} {mpi.version} needs in an image beside the libraries that it "
                "is linked with: `envbuilder sites trace-binds` finds out"
            )
    found = container.facts(one, key)
    # what is not here may be on the nodes: whoever enters the image looks
    binds = (places.expanded(bind, os.environ) for name in ("binds", "optional_binds") for bind in found.get(name, ()))
    host_mpi.refuse_misfits((container.ends(bind)[0] for bind in binds), target)
    return found


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
