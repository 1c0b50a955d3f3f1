"""What the making commands do where the wish is an image."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder.console import Console
from envbuilder.errors import InputError
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
        if arguments.sif and (not Path(arguments.sif).absolute().parent.is_dir() or Path(arguments.sif).is_dir()):
            raise InputError(f"--sif: {arguments.sif} cannot be written", hint="give a file in a folder that exists")
        return
    for option in ("base", "mpi", "compression", "sif"):
        if getattr(arguments, option, ""):
            raise InputError(f"--{option} is for images", hint=f"add --builder {BUILDER}, or leave it out")


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
    from envbuilder import store

    name = store.names(environment, asked_by_version=True)[0]
    console.note(f"prove it: envbuilder verify {name}; run in it: envbuilder run {name} -- CMD")
    console.result(path)
