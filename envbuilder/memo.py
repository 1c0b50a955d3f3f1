"""What the last build of a wish came to, so that building what is already built costs next to nothing.

A memo holds the digest of every file that was read and a fingerprint of the machine. If all are as they were, so is the
answer; otherwise the memo says nothing and the long way is taken. Beside it is what was carried out, for an environment
that is no longer there: the same plan makes it again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from envbuilder import __version__, pip_config, places
from envbuilder.document import digest, load_json, to_json, write_atomically
from envbuilder.errors import EnvbuilderError
from envbuilder.places import Origin
from envbuilder.store import Store
from envbuilder.target import BUILD_TOOLS
from envbuilder.wish import Wish
from envbuilder.work import Work

# The programs whose change could change the answer; the names that a site can give them are in its file, which is read.
_PROGRAMS = ("cc", "c++", "mpicc", "mpicxx", "spack", *BUILD_TOOLS)


def recall(store: Store, wish: Wish, env: Mapping[str, str]) -> str:
    """The identifier of the environment that this wish came to, or nothing when anything may have changed."""
    with suppress(EnvbuilderError, OSError, KeyError, TypeError, ValueError):
        memo = load_json(_path(store, wish), "memo")
        return str(memo["environment"]) if _holds(memo, env) else ""
    return ""


def recall_work(store: Store, wish: Wish, identifier: str, env: Mapping[str, str]) -> Work | None:
    """What was carried out for the environment that `recall` names; None when it cannot be done again just so."""
    with suppress(EnvbuilderError, OSError, KeyError, TypeError, ValueError, AttributeError):
        kept = load_json(_work_path(store, wish), "memo")
        if kept["envbuilder"] != _ourselves():
            return None
        network = pip_config.uv_network(pip_config.read(env), store.root, mirrors=kept["work"]["mirrors"])
        found = Work.from_document(kept["work"], {key: value for key, value in network.items() if value is not None})
        return found if found.plan.identifier == identifier else None
    return None


def remember(
    store: Store, wish: Wish, work: Work, read: Sequence[Origin], env: Mapping[str, str], *, again: bool
) -> None:
    """Write down what a wish came to; `read` are the files that it was made from (a lock's has no name).

    `again` is whether the same may be done again without another look.
    """
    _work_path(store, wish).unlink(missing_ok=True)
    if again:
        write_atomically(
            _work_path(store, wish), to_json({"envbuilder": _ourselves(), "work": work.to_document()}), durable=False
        )
    library = work.mpi.library if work.mpi else ""
    memo = {
        "environment": work.plan.identifier,
        "day": _today(),
        "host": _fingerprint(env),
        "files": [[origin.name, str(origin.path), _digest(str(origin.path))] for origin in read],
        "libraries": {library: _seen(library)} if library else {},
    }
    write_atomically(_path(store, wish), to_json(memo), durable=False)


def _holds(memo: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    # which partition of a site is meant, and whether its file still holds, depends on the day
    return bool(
        memo["day"] == _today()
        and memo["host"] == _fingerprint(env)
        and all(_same(entry, env) for entry in memo["files"])
        and all(_seen(path) == mark for path, mark in memo["libraries"].items())
    )


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()


def _seen(path: str) -> str:
    """What a change of a file would show in without reading it."""
    found = os.stat(path)
    return f"{os.path.realpath(path)} {found.st_size} {found.st_mtime_ns}"


def _ourselves() -> str:
    """What shows that this is the envbuilder that wrote a plan, in a checkout too: sizes and times of its files."""
    package = Path(places.__file__).parent
    found = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(package.rglob("*.py"))]
    return digest([__version__, found])


def _work_path(store: Store, wish: Wish) -> Path:
    return _path(store, wish).with_suffix(".work.json")


def _path(store: Store, wish: Wish) -> Path:
    here = os.getcwd() if "/" in wish.recipe + wish.site else ""
    return store.path("memos", f"{digest([__version__, asdict(wish), here])[:24]}.json")


def _same(entry: Sequence[str], env: Mapping[str, str]) -> bool:
    """The file has the content it had, and its name still means this file and no other that shadows it."""
    name, path, mark = entry
    return _digest(path) == mark and (not name or places.still_means(name, Path(path), env))


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _fingerprint(env: Mapping[str, str]) -> dict[str, str]:
    """What a change of the machine would show in at no cost: where programs are, and when their files changed."""
    result = {"python": f"{sys.version} {sys.base_prefix}", "arch": os.uname().machine}
    for name in _PROGRAMS:
        path = shutil.which(name, path=env.get("PATH"))
        real = os.path.realpath(path) if path else ""
        result[name] = f"{path} {real} {os.stat(real).st_mtime_ns}" if path else "missing"
    return result
