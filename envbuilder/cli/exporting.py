"""The commands that write what others read: export sbom, containerfile and workflow."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from envbuilder import store
from envbuilder.cli import images
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, InputError
from envbuilder.wish import Wish


def sbom(arguments: Namespace, console: Console) -> int:
    """`envbuilder export sbom`: the bill of materials of an environment, or of an image that lies somewhere."""
    from envbuilder import contents
    from envbuilder import sbom as bill
    from envbuilder.document import to_json

    subject = Path(arguments.subject)
    if "/" in arguments.subject and subject.is_file():
        found = contents.of_file(subject, os.environ)
    else:
        place = opened(arguments.site)
        found = contents.of_environment(place, store.find(place, arguments.subject), os.environ)
    if found.system is None and found.sha256:
        console.warning("the image has no dpkg: the packages of its distribution are not in the bill")
    return _written(to_json(bill.document(found)), arguments.output, console)


def containerfile(arguments: Namespace, console: Console) -> int:
    """`envbuilder export containerfile`: a folder for OCI builders, with the tree of the same lock."""
    from envbuilder import base_image, build, prepare, prepare_image
    from envbuilder.builders import containerfile as oci

    folder = Path(arguments.output or f"{arguments.recipe.rpartition('/')[2]}.oci").absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already", hint="remove it, or name another folder: -o DIR")
    wish = Wish(
        recipe=arguments.recipe,
        site=arguments.site,
        partition=arguments.partition,
        python="",
        builder=images.BUILDER,
        on="",
        base=arguments.base,
    )
    base = base_image.find(arguments.base or prepare_image.DEFAULT_BASE, os.environ)
    oci.start(base, arguments.start)
    found = images.prepared(wish, console, "export")
    if arguments.lock:
        locked = prepare.given_lock(found, Path(arguments.lock))
    else:
        with console.step(f"lock {found.request.recipe}@{found.request.version}", log=found.place.log):
            locked, _ = prepare.lock(found, console.note)
    found = images.with_artefacts(found, locked, console)
    planned = oci.plan(locked, found.target, found.place, base=base, named=arguments.start, folder=folder)
    build.execute(planned, found.store, console, found.place.log, mirrors=found.site.mirrors)
    console.note(f"build it: podman build -t {locked.recipe}:{locked.version} {folder}")
    console.result(str(folder))
    return FINE


def workflow(arguments: Namespace, console: Console) -> int:
    """`envbuilder export workflow`: a workflow that locks, builds, proves, signs and publishes images of these recipes."""
    from envbuilder import workflows

    return _written(workflows.text(arguments.service, tuple(arguments.recipes)), arguments.output, console)


def _written(text: str, output: str, console: Console) -> int:
    """Into a file that is whole or not there, or to the standard output."""
    from envbuilder.document import write_atomically

    if not output:
        console.result(text.rstrip("\n"))
        return FINE
    if not Path(output).absolute().parent.is_dir() or Path(output).is_dir():
        raise InputError(f"-o: {output} cannot be written", hint="give a file in a folder that exists")
    write_atomically(Path(output), text)
    console.result(output)
    return FINE
