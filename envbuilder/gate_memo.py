"""What the gate found the last time it opened, so that opening it again costs next to nothing.

A memo holds everything that the gate compared, as it was: the marks of the proof, the manifest, the host's libraries and the
modulefiles; the times of every folder of the tree, and the marks of what decides most (shared libraries, scripts, .pth files);
the variables; this boot of this machine; the job's partition. If all are as they were the gate opens, else the memo says
nothing and the long way is taken. What it cannot notice is a Python file that was edited in place, without being replaced:
the long way does, and so does every verify.

It imports next to nothing, because commands and job scripts wait for it.
"""

from __future__ import annotations

import json
import os
import sys
import time

SCHEMA = 1
_BOOT = "/proc/sys/kernel/random/boot_id"
_JOB = ("SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME")
_ACTIVE = "_ENVBUILDER_ACTIVE"
# headers and documentation decide nothing at run time, and make up half of the folders
_PASSED_OVER = frozenset({"__pycache__", "include", "share"})


def recall(root: str, name: str, env: dict[str, str] | os._Environ[str]) -> str:
    """The line with which the gate opened for an environment (or recipe) in the store at `root`; "" to look anew."""
    try:
        with open(_path(root, meant(root, name)), encoding="utf-8") as source:
            memo = json.load(source)
        fresh = (
            memo["schema"] == SCHEMA
            and memo["here"] == _here(env)
            and memo["variables"] == _variables(env, memo["names"], memo["prefixes"])
            and memo["from"] <= time.time() < memo["until"]
            and all(_mark(path) == mark for path, mark in memo["files"].items())
            and all(os.stat(path).st_mtime_ns == mark for path, mark in memo["folders"].items())
        )
        return str(memo["line"]) if fresh else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def meant(root: str, name: str) -> str:
    """The identifier of the environment that a name in the store at `root` means."""
    pointer = os.path.join(root, "current", name)
    return os.path.basename(os.readlink(pointer)).removesuffix(".json") if os.path.islink(pointer) else name


def remember(
    root: str,
    identifier: str,
    prefix: str,
    *,
    files: tuple[str, ...],
    decisive: tuple[tuple[str, ...], tuple[str, ...]],
    span: tuple[float, float],
    line: str,
    env: dict[str, str] | os._Environ[str],
) -> None:
    """Write down what the gate opened on. `decisive` are names and beginnings of variables, `span` seconds since the epoch."""
    hot, folders = _tree(prefix)
    names, prefixes = decisive
    memo = {
        "schema": SCHEMA,
        "here": _here(env),
        "names": list(names),
        "prefixes": list(prefixes),
        "variables": _variables(env, list(names), list(prefixes)),
        "from": span[0],
        "until": span[1],
        "line": line,
        "files": {path: _mark(path) for path in (*files, *hot)},
        "folders": folders,
    }
    keep(_path(root, identifier), memo)


def keep(path: str, memo: dict[str, object]) -> None:
    """Write a memo at once or not at all: it only saves time, so a failure is none."""
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(part, "w", encoding="utf-8") as sink:
            json.dump(memo, sink)
        os.replace(part, path)
    except OSError:
        if os.path.exists(part):
            os.unlink(part)


def _path(root: str, identifier: str) -> str:
    return os.path.join(root, "memos", f"gate-{identifier}.{os.uname().nodename}.json")


def _here(env: dict[str, str] | os._Environ[str]) -> list[str]:
    """This boot of this machine, this Python and envbuilder, and the partition that a job is in."""
    with open(_BOOT, encoding="ascii") as source:
        boot = source.read().strip()
    return [boot, sys.version, os.path.dirname(__file__), *(env.get(name, "") for name in _JOB)]


def _variables(env: dict[str, str] | os._Environ[str], names: list[str], prefixes: list[str]) -> dict[str, str]:
    start = tuple(prefixes)
    return {
        name: value for name, value in sorted(env.items()) if name == _ACTIVE or name in names or name.startswith(start)
    }


def _mark(path: str) -> str:
    """Size and time; a file that need not be there may be missing, and must stay so."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _tree(prefix: str) -> tuple[list[str], dict[str, int]]:
    """The files that decide most, and every folder with its time."""
    hot: list[str] = []
    folders: dict[str, int] = {}
    waiting = [prefix]
    while waiting:
        folder = waiting.pop()
        folders[folder] = os.stat(folder).st_mtime_ns
        scripts = folder == os.path.join(prefix, "bin")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _PASSED_OVER:
                        waiting.append(entry.path)
                elif scripts or ".so" in entry.name or entry.name.endswith((".pth", "pyvenv.cfg")):
                    hot.append(entry.path)
    return [path for path in hot if os.path.exists(path)], folders
