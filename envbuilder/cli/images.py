"""What the making commands do where the wish is an image."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder import store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, InputError
from envbuilder.wish import Wish

if TYPE_CHECKING:
    from envbuilder.environment import Environment
    from envbuilder.lock import Lock
    from envbuilder.prepare import Prepared

BUILDER = "apptainer"


def wanted(wish: Wish) -> bool:
    """Whether the wish is an image."""
    return wish.builder == BUILDER


def refuse_options(arguments: Namespace) -> None:
    """Raise `InputError` for options that only an image has, before an hour of work rather than after."""
    if arguments.builder == BUILDER:
        refuse_unwritable(arguments.sif)
        return
    for option in ("base", "mpi", "compression", "sif"):
        if getattr(arguments, option, ""):
            raise InputError(f"--{option} is for images", hint=f"add --builder {BUILDER}, or leave it out")


def refuse_unwritable(file: str) -> None:
    """Raise `InputError` for a `--sif` that no image can be written to."""
    if file and (not Path(file).absolute().parent.is_dir() or Path(file).is_dir()):
        raise InputError(f"--sif: {file} cannot be written", hint="give a file in a folder that exists")


def prepared(wish: Wish, console: Console, verb: str) -> Prepared:
    """What the wish comes to, with its layers."""
    from envbuilder import prepare, prepare_image

    return prepare_image.prepared(prepare.choose(wish, os.environ), os.environ, console, verb)


def with_artefacts(found: Prepared, locked: Lock, console: Console) -> Prepared:
    """The same with all that the lock takes at hand."""
    from envbuilder import prepare_image

    return prepare_image.with_artefacts(found, locked, console, os.environ)


def exported(environment: Environment, file: str) -> str:
    """The path of the environment's image, which is put where the user wants it; nothing for a tree."""
    if environment.image is None:
        return ""
    if file:
        from envbuilder import prepare_image

        prepare_image.export(Path(environment.image["file"]), Path(file))
    return file or str(environment.image["file"])


def finish(environment: Environment, path: str, console: Console) -> None:
    """Say what to do with the image that is at a path."""
    name = store.names(environment, asked_by_version=True)[0]
    console.note(f"prove it: envbuilder verify {name}; run in it: envbuilder run {name} -- CMD")
    console.result(path)


def take(arguments: Namespace, console: Console) -> int:
    """`envbuilder import`: an image that was built elsewhere becomes an environment of this store."""
    from envbuilder import adopted, build

    wish = Wish(
        recipe="", site=arguments.site, partition=arguments.partition, builder=BUILDER, mpi=arguments.mpi
    )  # fmt: skip
    file = Path(arguments.file)
    with console.step(f"look into {file.name}"):
        todo = adopted.job(file, wish, os.environ, console)
    environment = build.build(todo, console)
    if console.json:
        console.document({"environment": environment.to_document()})
        return FINE
    console.done(f"{environment.identifier} holds {file}")
    finish(environment, str(environment.image["file"]) if environment.image else "", console)
    return FINE


def sign(arguments: Namespace, console: Console) -> int:
    """`envbuilder sign`: the image of an environment is replaced by a signed one; a proof of it must be made anew."""
    from dataclasses import replace

    from envbuilder import image_signature, runtime
    from envbuilder.host import sha256

    place = opened(arguments.site)
    environment = store.find(place, arguments.environment)
    if environment.image is None:
        raise InputError(f"{environment.identifier} is not in an image", hint=f"build it with --builder {BUILDER}")
    refuse_unwritable(arguments.sif)
    file = Path(environment.image["file"])
    with store.guarded(place, f"env-{environment.identifier}", console.note), console.step(f"sign {file.name}"):
        if not file.is_file() or sha256(file) != environment.image["sha256"]:
            raise InputError(
                f"{file} is not the image that was built: it is not signed", hint="build it anew with --rebuild"
            )
        program = runtime.find_again(environment.image["runtime"], os.environ)
        target, digest = image_signature.signed(program, file, Path(arguments.key))
        signed = replace(environment, image={**environment.image, "file": str(target), "sha256": digest})
        store.publish(place, signed, ())
        if target != file:
            file.unlink()
    path = exported(signed, arguments.sif)
    if console.json:
        console.document({"environment": environment.identifier, "image": path, "sha256": digest})
        return FINE
    console.done(f"{environment.identifier} is signed; its image has the sha256 {digest}")
    console.note(
        f"prove it: envbuilder verify {environment.identifier}, with ENVBUILDER_IMAGE_KEY naming the public key"
    )
    console.result(path)
    return FINE
