"""The words and variables with which a command was started in an image or a packed tree, so that the next starts at once.

A memo holds as long as the gate's own does (`envbuilder.gate_memo`), the caller's variables are the same but for those that say
which rank it is, and all that is bound is there. Like that module it imports next to nothing, which is why it becomes the
command itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from envbuilder import gate_memo

try:  # where hashlib has it from; hashlib itself also loads OpenSSL, which takes as long as all the rest
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

SCHEMA = 1
# Variables that differ between starts and ranks, and decide nothing here by their value; whether they are there counts.
_OWN = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "PMI_RANK", "PMI_FD", "PMI_PORT", "PMI_ID", "PMIX_RANK", "MPI_LOCALRANKID",
                  "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_TASK_PID"})  # fmt: skip


def start(words: list[str], env: Mapping[str, str]) -> None:
    """Become the command of `run ENV -- CMD` if it is known how; else do nothing."""
    root = env.get("ENVBUILDER_HOME")
    if not root or len(words) < 4 or words[0] != "run" or words[2] != "--" or words[1].startswith("-"):
        return
    found = recall(root, words[1], env)
    if found is None:
        return
    before, patch = found
    settled = {**env, **{name: value for name, value in patch.items() if value is not None}}
    for name, value in patch.items():
        if value is None:
            settled.pop(name, None)
    try:
        os.execvpe(before[0], [*before, *words[3:]], settled)
    except OSError:
        return  # the long way says what is wrong


def recall(root: str, name: str, env: Mapping[str, str]) -> tuple[list[str], dict[str, str | None]] | None:
    """What stands before a command and the patch of its variables, or None where either may be different now."""
    try:
        with open(_path(root, gate_memo.meant(root, name)), encoding="utf-8") as source:
            memo = json.load(source)
        if (memo["schema"], memo["of"]) != (SCHEMA, _digest(env)) or not all(map(os.path.exists, memo["needed"])):
            return None
        if not gate_memo.recall(root, name, dict(env)):
            return None
        return list(memo["words"]), dict(memo["patch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(
    root: str,
    identifier: str,
    *,
    words: tuple[str, ...],
    patch: Mapping[str, str | None],
    needed: tuple[str, ...],
    env: Mapping[str, str],
) -> None:
    """Write down how a command was started; `needed` are the files and folders that must be there."""
    memo = {
        "schema": SCHEMA,
        "of": _digest(env),
        "words": list(words),
        "patch": dict(patch),
        "needed": list(needed),
    }
    gate_memo.keep(_path(root, identifier), memo)


def _path(root: str, identifier: str) -> str:
    return os.path.join(root, "memos", f"run-{identifier}.{os.uname().nodename}.json")


def _digest(env: Mapping[str, str]) -> str:
    """The mark of the caller's variables; without their values, which may be secret."""
    state = blake2b(digest_size=32)
    for name in sorted(env):
        value = "" if name in _OWN else env[name]
        state.update(f"{name}={value}\0".encode("utf-8", "surrogateescape"))
    return str(state.hexdigest())
