"""What the last build of a wish came to, so that building what is already built costs next to nothing.

A memo holds the digest of every file that was read and a fingerprint of the machine. If all are as they were, so is the
answer; otherwise the memo says nothing and the long way is taken.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from envbuilder import __version__, places
from envbuilder.document import digest, load_json, to_json, write_atomically
from envbuilder.errors import EnvbuilderError
from envbuilder.places import Origin
from envbuilder.store import Store
from envbuilder.target import BUILD_TOOLS
from envbuilder.wish import Wish

# The programs whose change could change the answer; the names that a site can give them are in its file, which is read.
_PROGRAMS = ("cc", "c++", "mpicc", "mpicxx", *BUILD_TOOLS)


def recall(store: Store, wish: Wish, env: Mapping[str, str]) -> str:
    """The identifier of the environment that this wish came to, or nothing when anything may have changed."""
    with suppress(EnvbuilderError, OSError, KeyError, TypeError, ValueError):
        memo = load_json(_path(store, wish), "memo")
        identifier = str(memo["environment"])
        fresh = (
            memo["host"] == _fingerprint(env)
            and all(_same(entry, env) for entry in memo["files"])
            and store.manifest(identifier).is_file()
            and store.prefix(identifier).is_dir()
        )
        return identifier if fresh else ""
    return ""


def remember(store: Store, wish: Wish, identifier: str, read: Sequence[Origin], env: Mapping[str, str]) -> None:
    """Write down what a wish came to; `read` are the files that it was made from (a lock's has no name)."""
    files = [[origin.name, str(origin.path), _digest(str(origin.path))] for origin in read]
    memo = {"environment": identifier, "host": _fingerprint(env), "files": files}
    write_atomically(_path(store, wish), to_json(memo))


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
