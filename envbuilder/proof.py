"""Proofs: the record of a verify that passed, as an in-toto statement with the test-result predicate.

A proof is bound to the environment's digest, to the tree as it lay on the disk, to the host, to the variables that decide
which code runs, and to a moment. Unsigned it guards against mistakes, not against forgers (see `envbuilder.signature`).

Formats: in-toto Statement v1 and its test-result predicate v0.1 (github.com/in-toto/attestation).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from envbuilder import signature
from envbuilder.container import ends
from envbuilder.document import load_json, to_json
from envbuilder.environment import Environment
from envbuilder.errors import StoreError
from envbuilder.evidence import Outcome
from envbuilder.store import Store

SCHEMA = 1
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
# The second subject of the proof of an image: its file, signature and all, as it runs and as a registry names it.
IMAGE = "image.sif"

# Variables that choose libraries or kernels: a proof made under one value says nothing about another.
_LOADED = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME")
_DECISIVE = (*_LOADED, "TF_ENABLE_ONEDNN_OPTS", "HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS")
_DECISIVE_PREFIXES = ("DNNL_", "MPI4PY_", "MPICH_", "ONEDNN_")
DECISIVE = (_DECISIVE, _DECISIVE_PREFIXES)
_HARMLESS = ("DNNL_VERBOSE", "ONEDNN_VERBOSE")

# The host's name may change with the network; everything else of a host's identity must be as it was.
_HOST_KEYS = ("machine", "cluster", "kernel", "arch", "libc", "cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What a proof is bound to, besides the environment: partition, host, tree, decisive variables, the host's files.

    `libraries` and `modulefiles` map files outside of the tree to marks (`marks`); `partition` is empty on a machine whose
    batch system has not put us on any.
    """

    partition: str
    host: Mapping[str, str]
    tree: str
    variables: Mapping[str, str]
    libraries: Mapping[str, str]
    modulefiles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """A proof as read from the store. `made` is the moment of the verify, with its time zone.

    `host_libraries` maps each library outside of the tree that it needs to its soname, GNU build-id and the links by which
    it is found. `image` is the sha256 of the file of the image, `image_key` that of the public key which its signature fits;
    each is "" where there is none. `signed_by` is known only once the gate has looked.
    """

    environment: str
    digest: str
    site: str
    partition: str
    made: datetime
    circumstances: Circumstances
    checks: tuple[Mapping[str, str], ...]
    ranks: int
    host_libraries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    signed_by: str = ""
    image: str = ""
    image_key: str = ""


def decisive(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that decide which code runs."""
    return {
        name: env[name]
        for name in sorted(env)
        if name not in _HARMLESS and (name in _DECISIVE or name.startswith(_DECISIVE_PREFIXES)) and env[name]
    }


def tree_fingerprint(prefix: Path) -> str:
    """A digest of names, sizes and modification times of the tree (bytecode left out): what can be known in 0.1 s.

    It notices what is added, removed, replaced or edited; an edit that also forges the time needs a full verify.
    """
    state = hashlib.sha256()
    for line in sorted(_entries(str(prefix), "")):
        state.update(line.encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def host_files(environment: Environment) -> tuple[str, ...]:
    """The files outside of the tree that it cannot do without: the interpreter and the system's MPI library.

    Those of an image are what is bound into it.
    """
    mpi = environment.mpi
    if environment.image:
        return (*environment.image["binds"], *_site_libraries(environment.image.get("container") or {}))
    return (environment.python["path"], *((mpi["library"],) if mpi is not None and mpi["provider"] == "system" else ()))


def _site_libraries(site: Mapping[str, Any]) -> tuple[str, ...]:
    """The libraries that a site binds by name; folders change all the time."""
    binds = (ends(bind)[0] for name in ("binds", "optional_binds") for bind in site.get(name, ()))
    return tuple(source for source in binds if ".so" in os.path.basename(source))


def ways(host_libraries: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """The libraries of the host and the links that lead to them: what must stay as it is for the same code to run."""
    return tuple(
        dict.fromkeys(
            way for path, facts in host_libraries.items() for way in (path, *facts.get("found", "").split(":")) if way
        )
    )


def marks(files: Iterable[str]) -> dict[str, str]:
    """Size and time of files: what tells in no time that one was changed or is gone."""
    found = {}
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found[path] = "missing"
        else:
            found[path] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def statement(
    environment: Environment,
    circumstances: Circumstances,
    outcomes: tuple[Outcome, ...],
    host_libraries: Mapping[str, Mapping[str, str]],
    *,
    made: str,
    ranks: int,
    image_key: str = "",
) -> dict[str, Any]:
    """The in-toto statement of a verify whose outcomes all passed; `image_key` is the mark of the key that the image fits."""
    subjects = [{"name": environment.identifier, "digest": {"sha256": environment.digest}}]
    if environment.image:
        subjects.append({"name": IMAGE, "digest": {"sha256": environment.image["sha256"]}})
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PREDICATE,
        "predicate": {
            "result": "PASSED",
            "configuration": [{"name": "lock", "digest": {"sha256": environment.lock_digest}}],
            "passedTests": [outcome.check for outcome in outcomes],
            "envbuilder": {
                "schema": SCHEMA,
                "site": environment.site,
                "partition": circumstances.partition,
                "made": made,
                "ranks": ranks,
                "host": dict(circumstances.host),
                "tree": circumstances.tree,
                "variables": dict(circumstances.variables),
                "libraries": dict(circumstances.libraries),
                "modulefiles": dict(circumstances.modulefiles),
                "hostLibraries": {path: dict(facts) for path, facts in host_libraries.items()},
                **({"imageKey": image_key} if image_key else {}),
                "checks": [
                    {"check": outcome.check, "outcome": outcome.status, "witnessed": outcome.witnessed}
                    for outcome in outcomes
                ],
            },
        },
    }


def path_of(place: Store, environment: Environment, partition: str = "") -> Path:
    """Where the proof of an environment on a partition is kept; by default on the one that it is for."""
    return place.path("proofs", environment.identifier, f"{environment.site}.{partition or environment.partition}.json")


def save(
    place: Store, environment: Environment, partition: str, document: Mapping[str, Any], key: Path | None = None
) -> Path:
    """Write the proof for a partition, signed if there is a key; it replaces the one before."""
    path = path_of(place, environment, partition)
    signature.keep(path, to_json(document), key)
    return path


def load(path: Path) -> Proof:
    """The proof in a file; raises `StoreError` when it is damaged or not a proof."""
    document = load_json(path, "proof")
    try:
        predicate = document["predicate"]
        ours = predicate["envbuilder"]
        if (document["_type"], document["predicateType"]) != (STATEMENT, PREDICATE) or ours["schema"] != SCHEMA:
            raise StoreError(f"{path}: not a proof of this version", hint="verify again")
        if predicate["result"] != "PASSED" or {check["outcome"] for check in ours["checks"]} != {"pass"}:
            raise StoreError(f"{path}: not the proof of a verify that passed", hint="verify again")
        subject, *files = document["subject"]
        return Proof(
            environment=subject["name"],
            digest=subject["digest"]["sha256"],
            site=ours["site"],
            partition=ours["partition"],
            made=_moment(ours["made"]),
            circumstances=Circumstances(
                host=_texts(ours["host"]),
                tree=str(ours["tree"]),
                variables=_texts(ours["variables"]),
                libraries=_texts(ours["libraries"]),
                modulefiles=_texts(ours.get("modulefiles", {})),
                partition=str(ours["partition"]),
            ),
            checks=tuple(ours["checks"]),
            ranks=int(ours["ranks"]),
            host_libraries={path: _texts(facts) for path, facts in ours.get("hostLibraries", {}).items()},
            image=next((str(one["digest"]["sha256"]) for one in files if one["name"] == IMAGE), ""),
            image_key=str(ours.get("imageKey", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: this proof is damaged: {error!r}", hint="verify again") from error


def withdraw(place: Store, environment: Environment, circumstances: Circumstances) -> bool:
    """Remove the proof after a verify that failed under the same variables; whether there was one to remove."""
    path = path_of(place, environment, circumstances.partition)
    with suppress(StoreError):
        if not path.is_file() or load(path).circumstances.variables != circumstances.variables:
            return False
    path.unlink(missing_ok=True)
    signature.path_of(path).unlink(missing_ok=True)
    return True


def same_host(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """What differs between two hosts' identities, in words; empty for the same host."""
    return tuple(
        f"{key} was {then.get(key, 'unknown')} and is {now.get(key, 'unknown')}"
        for key in _HOST_KEYS
        if then.get(key) != now.get(key)
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise TypeError("not a mapping of texts")
    return value


def _entries(folder: str, path: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name == "__pycache__":
                continue
            name = f"{path}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path, name)
            elif entry.is_symlink():
                yield f"{name} -> {os.readlink(entry.path)}\n"
            else:
                status = entry.stat(follow_symlinks=False)
                yield f"{name} {status.st_size} {status.st_mtime_ns}\n"
