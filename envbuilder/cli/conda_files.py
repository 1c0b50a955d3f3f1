"""The commands for files of conda's world: `export environment.yml`, and `recipes import`."""

from __future__ import annotations

import os
import re
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from envbuilder import conda, conda_files, store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, InputError


def export(arguments: Namespace, console: Console) -> int:
    """`envbuilder export environment.yml`: the lock of an environment, or one in a folder, for conda's own programs."""
    from envbuilder.document import to_yaml, write_atomically

    folder = Path(arguments.subject)
    if not (folder / "lock.json").is_file():
        found = store.find(opened(arguments.site), arguments.subject)
        folder = Path(found.prefix) / "share" / "envbuilder"
        if not (folder / "lock.json").is_file():
            raise InputError(f"{found.identifier} has no lock in its tree", hint="give the folder of a lock")
    lock = store.read_lock(folder)
    compiled = ", ".join(lock.distribution(name) for name in lock.sources)
    if compiled:
        console.warning(f"{compiled}: compiled here against the machine's MPI; elsewhere pip takes what is published")
    text = f"# Written by envbuilder from the lock {lock.digest[:12]}\n{to_yaml(conda_files.environment_yml(lock))}"
    if not arguments.output:
        console.result(text.rstrip("\n"))
        return FINE
    write_atomically(_free(arguments.output), text)
    console.result(arguments.output)
    return FINE


def take(arguments: Namespace, console: Console) -> int:
    """`envbuilder recipes import`: a recipe from an environment.yml or a lock file of others; nothing is overwritten."""
    from envbuilder import recipe
    from envbuilder.document import load_yaml, read_text, to_yaml, write_atomically

    file = Path(arguments.file)
    node = load_yaml(read_text(file, "file"), str(file))
    stem = re.sub(r"\.(ya?ml|lock)$", "", file.name)
    name = arguments.name or re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")
    if not re.fullmatch(recipe.NAME, name):
        raise InputError(f"{name[:80]!r} cannot be a recipe's name", hint="name it: --name mine")
    path = _free(arguments.output or f"{name}.yaml")
    keys = set(node.value) if isinstance(node.value, dict) else set()
    if "version" in keys and keys & {"package", "packages"}:
        taken = conda_files.from_lock(_held(file, arguments.environment), name)
    else:
        taken = conda_files.from_environment(node, name)
    text = f"# Written by envbuilder from {file.name}\n{to_yaml(taken.recipe)}"
    recipe.parse(text, str(path))
    write_atomically(path, text)
    for line in taken.left_out:
        console.warning(f"not in the recipe: {line}")
    console.note(
        f"look at it, then: envbuilder build ./{path} --builder conda" if not path.is_absolute() else f"see {path}"
    )
    console.result(str(path))
    return FINE


def _held(file: Path, environment: str) -> dict[str, Any]:
    """What a lock file holds for this machine's platform."""
    from envbuilder.builders import conda as builder

    asked = {
        "file": str(file.absolute()), "environment": environment, "platform": conda.platform(os.uname().machine),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="envbuilder-lockfile-") as folder:
        return builder.read_lock_file(asked, Path(folder))


def _free(name: str) -> Path:
    """A path that may be written: nothing is there, and its folder is."""
    path = Path(name)
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already", hint="give another with -o, or remove it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"there is no folder {path.absolute().parent}", hint="make it, or give another with -o")
    return path
