"""A packed tree: one squashfs file, which a command sees at the tree's own prefix while it runs.

A virtual environment cannot move without being another one (scripts, `bin/activate`, what was compiled into it), so the file is
mounted where the tree was built. `envbuilder.workshop.mounted` does it, for one command and what that starts.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import envbuilder
from envbuilder import process
from envbuilder.document import to_json
from envbuilder.errors import HostError
from envbuilder.process import Command, EnvPatch
from envbuilder.runtime import RANKS_ENVIRONMENT

# A folder local to the node, into which packs are extracted instead of being mounted.
VARIABLE = "ENVBUILDER_EXTRACT"
# The name of the pack in the folder of its environment.
FILE = "tree.sqfs"
_ENTRY = "import sys; from envbuilder.inside import main; main(sys.argv[1:])"
_TIMEOUT_SECONDS = 1800.0


def needed(program: str, package: str, hint: str = "") -> str:
    """The path of a program; raises `HostError`, naming the package that has it."""
    found = shutil.which(program)
    if found is None:
        raise HostError(
            f"{program} is not on the PATH", hint=hint or f"install {package}, or load the site's module of it"
        )
    return found


def words(pack: Mapping[str, Any], env: Mapping[str, str], *, together: bool = False) -> tuple[str, ...]:
    """What stands before a command that runs in a packed tree; one of several ranks is started with `together`.

    Where `ENVBUILDER_EXTRACT` names a folder, the pack is extracted there once and laid over the prefix. Raises `HostError`
    for what is missing.
    """
    if not Path(pack["file"]).is_file():
        raise HostError(f"the packed tree is gone: {pack['file']}", hint="envbuilder pack makes it anew")
    chosen = env.get(VARIABLE, "")
    if chosen:
        how = ("bind", str(_extracted(pack, Path(chosen))))
    else:
        if shutil.which("squashfuse_ll") is None:
            needed("squashfuse", "squashfuse", f"install squashfuse, or set {VARIABLE} to a folder local to the node")
        how = ("mount", str(pack["file"]))
    helper = Path(envbuilder.__file__).parent / "workshop" / "mounted.py"
    # ranks in namespaces of their own may not open each other's files through /proc
    ranks = ("env", *(f"{name}={value}" for name, value in RANKS_ENVIRONMENT.items())) if together else ()
    return (sys.executable, "-I", "-S", str(helper), *how, str(pack["prefix"]), "--", *ranks)


def ask(before: tuple[str, ...], question: str, asked: Mapping[str, Any], env: EnvPatch) -> dict[str, Any]:
    """The answer to a question of `envbuilder.inside` where the packed tree is seen; raises `HostError`."""
    with tempfile.TemporaryDirectory(prefix="envbuilder-ask-") as folder:
        Path(folder, "question.json").write_text(to_json(asked))
        entered = (*before, sys.executable, "-I", "-c", _ENTRY, question, folder)
        done = process.capture(Command(argv=entered, env=env), timeout=_TIMEOUT_SECONDS)
        try:
            told = json.loads(Path(folder, "answer.json").read_bytes())
        except (OSError, ValueError) as error:
            last = "\n".join(f"    {line}" for line in done.output.strip().splitlines()[-8:])
            raise HostError(
                f"the packed tree cannot be entered:\n{last}",
                hint=f"set {VARIABLE} to a folder local to the node where FUSE is not open to users",
            ) from error
    if "error" in told:
        raise HostError(f"in the packed tree: {told['error']}", hint=told.get("hint", ""))
    return dict(told["answer"])


def _extracted(pack: Mapping[str, Any], root: Path) -> Path:
    """The pack as a tree in a folder of the node, by content; several ranks may ask at once, and the first has it."""
    target = root / f"envbuilder-{os.geteuid()}" / str(pack["sha256"])
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = target.parent.lstat()
    if status.st_uid != os.geteuid() or target.parent.is_symlink():
        raise HostError(f"{target.parent} is somebody else's", hint=f"let {VARIABLE} name another folder")
    if target.is_dir():
        return target
    program = needed("unsquashfs", "squashfs-tools")
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as scratch:
        tree = Path(scratch, "tree")
        done = process.capture(
            Command(argv=(program, "-no-progress", "-no-xattrs", "-d", str(tree), str(pack["file"])))
        )
        if done.code != 0:
            last = done.output.strip().splitlines()[-1:] or ["nothing"]
            raise HostError(
                f"{pack['file']} cannot be extracted into {target.parent}: {last[0]}", hint="is there room?"
            )
        try:
            os.rename(tree, target)
        except OSError:
            if not target.is_dir():
                raise
    return target
