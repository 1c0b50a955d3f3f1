"""The command that packs a tree."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from envbuilder import store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, InputError


def pack(arguments: Namespace, console: Console) -> int:
    """`envbuilder pack`: the packed form of an environment, an environment of its own."""
    from envbuilder import pack as packing
    from envbuilder import prepare_image

    output = Path(arguments.output) if arguments.output else None
    if output is not None and (not output.absolute().parent.is_dir() or output.is_dir()):
        raise InputError(f"-o: {output} cannot be written", hint="give a file in a folder that exists")
    place = opened(arguments.site)
    made = packing.pack(place, store.find(place, arguments.environment), arguments.compression, console)
    about = made.pack or {}
    if output is not None:
        prepare_image.export(Path(about["file"]), output)
    if console.json:
        console.document({"environment": made.to_document()})
        return FINE
    console.done(f"{made.identifier}: {about['size'] / 1e6:.1f} MB, sha256 {about['sha256']}")
    name = next(iter(reversed(store.names(made, asked_by_version=False))))
    name = name if store.current(place, name) == made.identifier else made.identifier
    console.note(f"prove it: envbuilder verify {name}; run in it: envbuilder run {name} -- CMD")
    console.result(str(output or about["file"]))
    return FINE


def import_cost(arguments: Namespace, console: Console) -> int:
    """`envbuilder import-cost`: what the imports of environments cost the host's file systems, side by side."""
    from dataclasses import asdict

    from envbuilder import import_cost as cost
    from envbuilder.report import import_table

    place = opened(arguments.site)
    found = []
    for environment in [store.find(place, name) for name in arguments.environments]:
        if not environment.imports:
            raise InputError(
                f"{environment.identifier}: its recipe names no imports", hint="add `imports` to the recipe"
            )
        with console.step(f"import {', '.join(environment.imports)} in {environment.identifier}"):
            found.append(cost.measure(environment))
    if console.json:
        console.document({"environments": [asdict(one) for one in found]})
    else:
        console.result(import_table.render(found))
        if arguments.rate:
            console.result(f"\nseconds of a server with {arguments.rate} operations per second:")
            console.result(import_table.modelled(found, arguments.rate))
    return FINE
