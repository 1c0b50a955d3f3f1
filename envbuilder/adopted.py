"""Take an image that was built elsewhere into the store: an environment of this machine that holds that very file.

What it is made of is read out of it: the lock, the base, its MPI. That it is the right one is said by its signature, where a
key is named, and looked at before anything in it is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from envbuilder import (
    catalog,
    contents,
    host,
    image_signature,
    manifest,
    places,
    prepare_image,
    runtime,
    sif_header,
    store,
)
from envbuilder.build import Job
from envbuilder.builders import apptainer, venv
from envbuilder.builders.base import Layers, Workplace
from envbuilder.console import Console
from envbuilder.errors import GateError, InputError
from envbuilder.pip_config import PipConfig
from envbuilder.plan import Plan, Remove, Run, identifier
from envbuilder.runtime import Runtime
from envbuilder.target import Mpi, Target
from envbuilder.wish import Wish
from envbuilder.work import Work

FORMAT = 1


def job(file: Path, wish: Wish, env: Mapping[str, str], console: Console) -> Job:
    """What has to be done to have it; the wish says the site, the partition and whose MPI, and no recipe.

    Raises `GateError` for a signature that is not the one that is wanted, `InputError` for a file that is no image of
    envbuilder's, and what `prepare_image.surroundings` does.
    """
    if not file.is_file():
        raise InputError(f"{file} is no file", hint="fetch it first: apptainer pull FILE oras://...")
    site, origin = catalog.find_site(wish.site, env)
    partition = wish.partition or str(site.default_partition)
    site.partition(partition)
    program = runtime.find(env, str(site.container.runtime))
    sif_header.refuse_foreign(file, os.uname().machine)
    _refuse_unsigned(file, program, image_signature.key(places.expanded(str(site.proof.image_key), env), env))
    seen = contents.ask(program, file, "python3")
    about = seen.about
    target = replace(_target(seen.target, about), site=site.name, partition=partition, libc=seen.libc)
    around = prepare_image.surroundings(site, target, wish.mpi, env, console)
    digest = host.sha256(file)
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "builder": "apptainer",
        "adopted": digest,
        **({"host_mpi": around.host_mpi.identity()} if around.host_mpi else {}),
        **({"container": dict(around.container)} if around.container else {}),
    }
    place = store.locate(env, site.paths.root)
    name = identifier(seen.lock.recipe, seen.lock.version, inputs)
    prefix = place.root / "envs" / name
    layers = Layers(
        name=about["base"]["name"],
        digest=about["base"]["sha256"],
        sif=file,
        build_sif=file,
        runtime=program,
        compression="",
        recipe="",
        path=env.get("PATH", ""),
        host_mpi=around.host_mpi,
        mpiexec=around.mpiexec,
        container=around.container,
    )
    there = prefix / apptainer.SIF
    copy = ("sh", "-c", 'mkdir -p "${2%/*}" && cp --reflink=auto -- "$1" "$2"', "sh", str(file.absolute()), str(there))
    plan = Plan(
        name=f"{seen.lock.recipe}@{seen.lock.version}",
        identifier=name,
        prefix=prefix,
        inputs=inputs,
        steps=(
            Remove(title="clear what an interrupted run left", path=prefix),
            Run(title=f"copy {file.name} into the store", argv=copy),
        ),
        image=apptainer.described(layers, target, there, seen.lock.digest),
    )
    log = place.new_log("import", seen.lock.recipe)
    caches = venv.caches(Workplace(root=place.root, pip=PipConfig(), site=site, log=log))
    draft = manifest.draft(
        plan, seen.lock, target, site, builder="apptainer", caches=caches, site_file=origin.path.absolute()
    )
    work = Work(plan=plan, draft=draft, mpi=target.mpi, mirrors=site.mirrors)
    return Job(work=work, store=place, asked_by_version=False, log=log)


def _refuse_unsigned(file: Path, program: Runtime, public: Path | None) -> None:
    if public is None:
        return
    known = {"program": program.program, "name": program.name, "version": program.version}
    seen = image_signature.look(known, file, public)
    if not seen.get("holds"):
        raise GateError(
            f"{file} is not signed with {public}: {seen.get('error') or seen.get('said')}",
            hint="nothing in it was run; ask whoever published it which key is theirs",
        )


def _target(seen: Target, about: Mapping[str, Any]) -> Target:
    try:
        mpi = about["mpi"]
        return replace(seen, mpi=Mpi(**mpi) if mpi else None)
    except (KeyError, TypeError) as error:
        raise InputError(
            "the image does not say which MPI it has: an older envbuilder built it", hint="build it anew"
        ) from error
