"""The commands that compare: diff (locks, trees, what was witnessed) and parity (the worlds of one recipe)."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder import catalog, compare, proof, store
from envbuilder.cli.place import opened
from envbuilder.compare import Difference
from envbuilder.console import Console
from envbuilder.errors import FINE, SAID_NO, InputError

if TYPE_CHECKING:
    from envbuilder.lock import Lock


def diff(arguments: Namespace, console: Console) -> int:
    """`envbuilder diff`: exit code 0 for equal, 1 for different."""
    if arguments.witnessed:
        return _witnessed(arguments, console)
    first, second = (_lock_or_tree(name, arguments) for name in (arguments.first, arguments.second))
    if isinstance(first, Path) and isinstance(second, Path):
        found = compare.trees(first, second)
    elif not isinstance(first, Path) and not isinstance(second, Path):
        found = compare.locks(first, second)
    else:
        raise InputError("a lock cannot be compared with a tree", hint="give two locks, or two environments")
    if console.json:
        console.document({"equal": not found, "differences": [asdict(difference) for difference in found]})
    elif found:
        console.result("\n".join(_line(difference) for difference in found))
    else:
        console.done("no difference")
    return SAID_NO if found else FINE


def parity(arguments: Namespace, console: Console) -> int:
    """`envbuilder parity`: the newest environment of each builder, and a Spack environment if one is named; builds nothing."""
    from envbuilder import parity as comparing
    from envbuilder.builders import NAMES
    from envbuilder.document import load_json
    from envbuilder.report import parity_table

    found = catalog.find_recipe(arguments.recipe, os.environ)
    site, _ = catalog.find_site(arguments.site, os.environ)
    if arguments.partition:
        site.partition(arguments.partition)
    place = opened(arguments.site)
    newest = {}
    for environment in sorted(store.environments(place), key=lambda one: one.created):
        fits = (environment.recipe, environment.site) == (found.recipe.name, site.name)
        fits = fits and arguments.partition in ("", environment.partition)
        if fits and found.version in ("", environment.version) and not environment.pack:
            newest[environment.builder] = environment
    worlds = []
    for _, environment in sorted(newest.items()):
        path = proof.path_of(place, environment)
        worlds.append(comparing.of_environment(environment, proof.load(path) if path.is_file() else None))
    if arguments.spack:
        path = Path(arguments.spack) / "spack.lock"
        if not path.is_file():
            raise InputError(f"{path} is not there", hint=f"run: spack -e {arguments.spack} concretize")
        worlds.append(comparing.of_spack(load_json(path, "lock of Spack"), arguments.spack))
    missing = tuple(comparing.missing(worlds, sorted(NAMES), arguments.recipe))
    if len(worlds) < 2:
        lines = "\n".join(f"    {line}" for line in missing)
        raise InputError(
            f"{len(worlds)} of {arguments.recipe} at {site.name}: there is nothing to compare it with\n{lines}",
            hint="make another, and ask again",
        )
    rows = comparing.rows(worlds)
    if console.json:
        console.document(parity_table.document(arguments.recipe, worlds, rows, missing))
    else:
        console.result(parity_table.render(worlds, rows, missing, colour=console.results_in_colour))
    return FINE


def _witnessed(arguments: Namespace, console: Console) -> int:
    """Exit code 1 where results differ that should be the same bits."""
    from envbuilder import witnessed

    place = opened(arguments.site)
    first, second = (witnessed.last(place, store.find(place, name)) for name in (arguments.first, arguments.second))
    found = witnessed.compared(first, second)
    if console.json:
        console.document({**asdict(found), "unexplained": list(found.unexplained)})
        return SAID_NO if found.unexplained else FINE
    if found.differences:
        console.result("\n".join(_line(difference) for difference in found.differences))
    if found.equal:
        console.done(f"{found.equal} results of training are equal, bit for bit")
    elif not found.unequal:
        console.note("neither trained: there are no results to compare")
    for name in found.unequal:
        console.warning(f"{name} differs: {found.explained[name] or 'the same kernels ran on the same versions'}")
    return SAID_NO if found.unexplained else FINE


def _line(one: Difference) -> str:
    return f"{one.kind:8} {one.what}: {one.first or '-'} -> {one.second or '-'}"


def _lock_or_tree(name: str, arguments: Namespace) -> Lock | Path:
    path = Path(name)
    if (path / "lock.json").is_file():
        return store.read_lock(path)
    if (path / "pyvenv.cfg").is_file() or (path / "conda-meta").is_dir():
        return path.resolve()
    return Path(store.find(opened(arguments.site), name).prefix)
