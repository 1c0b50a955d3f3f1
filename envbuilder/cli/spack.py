"""The commands towards Spack: export spack, sites import-spack."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder.console import Console
from envbuilder.errors import FINE, EnvbuilderError, InputError
from envbuilder.wish import Wish

if TYPE_CHECKING:
    from envbuilder.lock import Lock
    from envbuilder.prepare import Choice


_READ = ("spack.yaml", "packages.yaml", "compilers.yaml", "modules.yaml", "system_definition.yaml", "variables.yaml")


def export(arguments: Namespace, console: Console) -> int:
    """`envbuilder export spack`: a folder with an environment for Spack; nothing of the machine is looked at."""
    from envbuilder import described, prepare, request, spack_environment
    from envbuilder.document import to_yaml, write_atomically

    folder = Path(arguments.output or f"{arguments.recipe.rpartition('/')[2]}.spack").absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already", hint="remove it, or name another folder: -o DIR")
    wish = Wish(recipe=arguments.recipe, site=arguments.site, partition=arguments.partition)
    choice = prepare.choose(wish, os.environ)
    recipe, variant = choice.found.recipe, choice.rows[0]
    if not recipe.specs:
        raise InputError(f"{recipe.name} has no `specs`, which are what Spack is told", hint="add them to the recipe")
    partition = choice.site.partition(choice.partition)
    lock = _lock(choice, arguments.lock)
    if lock is not None and lock.version != variant.version:
        variant = recipe.variant(lock.version)
    target = described.target(str(choice.site.name), choice.partition, partition)
    made = spack_environment.environment(recipe, request.specs(recipe, variant, target), partition, lock)
    what = f"{recipe.name}@{variant.version} on {choice.site.name}/{choice.partition}"
    head = [f"# Written by envbuilder: {what}" + ("" if lock is None else f", versions of the lock {lock.digest[:12]}")]
    head += [f"# unknown: {line}" for line in made.unknown]
    for name, text in made.files.items():
        write_atomically(folder / name, text)
    write_atomically(folder / "spack.yaml", "\n".join(head) + "\n" + to_yaml(made.document))
    for line in made.unknown:
        console.warning(f"not known of {choice.site.name}/{choice.partition}: {line}")
    if lock is None:
        console.note("no lock: Spack chooses the versions of what the specs leave open")
    console.note(f"then: spack -e {folder} concretize")
    console.result(str(folder))
    return FINE


def _lock(choice: Choice, given: str) -> Lock | None:
    """The lock that is named, else the one that the store has for this recipe there, if any."""
    from envbuilder import prepare, store

    recipe = choice.found.recipe
    if given:
        lock = store.read_lock(Path(given))
        if lock.recipe != recipe.name:
            raise InputError(f"{given}: the lock is of {lock.recipe}, not of {recipe.name}", hint="name another")
        return lock
    try:
        place = store.locate(os.environ, choice.site.paths.root)
    except EnvbuilderError:  # the site's root names variables that only its users have
        return None
    for row in choice.rows:
        folder = place.lock_directory(recipe.name, row.version, str(choice.site.name), choice.partition)
        found = prepare.existing_lock(folder)
        if found is not None:
            return found
    return None


def take(arguments: Namespace, console: Console) -> int:
    """`envbuilder sites import-spack`: a first site file from a centre's configuration of Spack; nothing is overwritten."""
    import re
    from datetime import datetime, timezone

    from envbuilder import site, spack_config, spack_site
    from envbuilder.document import load_yaml, read_text, write_atomically
    from envbuilder.recipe import NAME

    folder = Path(arguments.folder)
    name = arguments.name or re.sub(r"[^a-z0-9._-]+", "-", folder.absolute().name.lower()).strip("._-")
    if not re.fullmatch(NAME, name):
        raise InputError(f"{name[:80]!r} cannot be a site's name", hint="name it: --name mycluster")
    path = Path(arguments.output or f"{name}.yaml")
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already", hint="give another with -o, or remove it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"there is no folder {path.absolute().parent}", hint="make it, or give another with -o")
    files = {one: _file(folder, one) for one in _READ}
    documents = {one: load_yaml(read_text(file, "configuration"), str(file)) for one, file in files.items() if file}
    if not {"spack.yaml", "packages.yaml", "compilers.yaml"} & set(documents):
        hint = "name the folder that holds packages.yaml or compilers.yaml"
        if (folder / "system.py").is_file():
            hint = "system.py is a program: let `benchpark system init --dest DIR` write its files, and name DIR"
        raise InputError(f"{folder}: there is no configuration of Spack", hint=hint)
    centre = spack_config.read(documents)
    text = spack_site.render(name, str(folder), centre, datetime.now(timezone.utc).date())
    site.parse(text, str(path))
    write_atomically(path, text)
    guesses, unknown = text.count("# guess:"), text.count("# unknown:")
    console.note(f"{len(centre.externals)} externals of {', '.join(documents)}")
    console.note(f"{guesses} guesses and {unknown} unknowns are marked in it: check and fill them in")
    console.note(f"then: envbuilder lint {path} && envbuilder sites doctor {path.absolute()}")
    console.result(str(path))
    return FINE


def _file(folder: Path, name: str) -> Path | None:
    """Where a file of the configuration lies, in the folder or where Benchpark has it."""
    places = (folder / name, folder / "auxiliary_software_files" / name)
    return next((path for path in places if path.is_file()), None)
