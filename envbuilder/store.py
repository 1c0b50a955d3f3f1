"""The store: where environments, locks, compiled wheels, caches, logs, evidence and proofs live.

envs/ID/                the tree of an environment, at its final path from the start
manifests/ID.json       makes it visible; written last, by rename
current/NAME            which environment a recipe's name (or name@version) means; a symbolic link, replaced by rename
locks/NAME@VERSION/SITE.PARTITION/
wheels/KEY/             compiled wheels, by content
images/KEY.sif          images, by content; an environment with one holds it by a hard link
bases/NAME-KEY.sif      what images are built on
cache/                  uv's cache, run-time caches, and artefacts/SHA256/FILE: whole files, for bundles
logs/  runs/  proofs/   what happened, what was witnessed, what is proven
guards/                 locks between processes (no flock: network file systems lack it)
work/                   scratch; safe to remove when nothing runs
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder.document import controls, load_json, to_json, write_atomically
from envbuilder.environment import Environment
from envbuilder.errors import InputError, StoreError, UnknownName
from envbuilder.places import expanded

if TYPE_CHECKING:
    from envbuilder.lock import Lock

_ENVELOPE = "lock.json"
_BODY = re.compile(r"pylock(\..+)?\.toml|conda\.json|spack\.lock")
_WAIT_NOTICE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Store:
    """A store at a root directory. Properties are paths; nothing is created until something is written."""

    root: Path

    def path(self, *parts: str) -> Path:
        """A path below the root; raises `InputError` for a part that would lead out of it."""
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\0" in part:
                raise InputError(f"{part[:80]!r} cannot be a name in the store")
        return self.root.joinpath(*parts)

    def prefix(self, identifier: str) -> Path:
        """Where the tree of an environment is."""
        return self.path("envs", identifier)

    def manifest(self, identifier: str) -> Path:
        """Where the manifest of an environment is."""
        return self.path("manifests", f"{identifier}.json")

    def lock_directory(self, recipe: str, version: str, site: str, partition: str) -> Path:
        """Where the lock of a variant on a partition is."""
        return self.path("locks", f"{recipe}@{version}", f"{site}.{partition}")

    def new_log(self, verb: str, name: str) -> Path:
        """A path for the log of a run that begins now."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        return self.path("logs", f"{stamp}-{verb}-{name}-{os.getpid()}.log")


def locate(env: Mapping[str, str], site_root: str = "") -> Store:
    """The store: ENVBUILDER_HOME, else the site's `paths.root`, else the user's data directory."""
    chosen = env.get("ENVBUILDER_HOME") or expanded(str(site_root), env)
    if not chosen:
        data = env.get("XDG_DATA_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local", "share")
        chosen = os.path.join(data, "envbuilder")
    if "$" in chosen:
        raise InputError(f"the store's path {chosen!r} names a variable that is not set", hint="set ENVBUILDER_HOME")
    if controls(chosen):
        raise InputError(f"the store's path {chosen!r} is not plain UTF-8 text", hint="set ENVBUILDER_HOME to another")
    return Store(Path(os.path.abspath(chosen)))


def environments(store: Store) -> tuple[Environment, ...]:
    """Every visible environment, oldest first; damaged manifests raise `StoreError`."""
    folder = store.path("manifests")
    found = [_read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []
    return tuple(sorted(found, key=lambda environment: (environment.created, environment.identifier)))


def find(store: Store, name: str) -> Environment:
    """The environment that an identifier, a recipe's name, `name@version` or the path of a tree means.

    Raises `UnknownName`, naming what there is.
    """
    if "/" in name:
        return _find_by_path(store, Path(name))
    for path in (_manifest_or_none(store, name), _pointer_or_none(store, name)):
        if path is not None and path.is_file():
            return _read(path)
    matching = [environment for environment in environments(store) if environment.identifier.startswith(name)]
    if name and (len(matching) == 1 or (matching and all(environment.recipe == name for environment in matching))):
        return matching[-1]
    known = ", ".join(environment.identifier for environment in environments(store)) or "none"
    raise UnknownName(
        f"there is no environment {name[:80]!r}", hint=f"build it: envbuilder build {name[:80]}; built are {known}"
    )


def current(store: Store, name: str) -> str:
    """The identifier that a recipe's name points to now, or nothing."""
    path = _pointer_or_none(store, name)
    with suppress(OSError):
        if path is not None:
            return Path(os.readlink(path)).name.removesuffix(".json")
    return ""


def publish(store: Store, environment: Environment, names: tuple[str, ...]) -> None:
    """Make a finished environment visible, then let its names point to it; each by one rename."""
    write_atomically(store.manifest(environment.identifier), to_json(environment.to_document()))
    point(store, environment, names)


def names(environment: Environment, *, asked_by_version: bool) -> tuple[str, ...]:
    """The names that a build gives an environment: `name@version`, and the bare name unless a version was asked for.

    Those of an image end in `.sif`, or in `.host-mpi.sif` where it is run with the host's MPI; those of a packed tree in
    `.pack`.
    """
    kind = {"": "", "image": ".sif", "host": ".host-mpi.sif"}[environment.image["mpi"] if environment.image else ""]
    kind = ".pack" if environment.pack else kind
    versioned, bare = f"{environment.recipe}@{environment.version}{kind}", f"{environment.recipe}{kind}"
    return (versioned,) if asked_by_version else (versioned, bare)


def point(store: Store, environment: Environment, names: tuple[str, ...]) -> None:
    """Let these names mean this environment."""
    for name in names:
        pointer = store.path("current", name)
        target = os.path.join("..", "manifests", f"{environment.identifier}.json")
        if os.path.islink(pointer) and os.readlink(pointer) == target:
            continue
        pointer.parent.mkdir(parents=True, exist_ok=True)
        temporary = pointer.with_name(f".{name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        os.symlink(target, temporary)
        os.replace(temporary, pointer)


def withdraw(store: Store, identifier: str) -> None:
    """Make an environment invisible, then remove its tree. Its proofs and evidence are removed with it."""
    store.manifest(identifier).unlink(missing_ok=True)
    for folder in ("envs", "proofs", "runs"):
        shutil.rmtree(store.path(folder, identifier), ignore_errors=True)
    with suppress(OSError):
        for pointer in store.path("current").iterdir():
            if os.path.islink(pointer) and not pointer.exists():
                pointer.unlink(missing_ok=True)


def read_lock(directory: Path) -> Lock:
    """The lock in a directory; raises `InputError` when it is damaged, edited, or not a lock."""
    _recover_lock(directory)
    envelope_path = directory / _ENVELOPE
    if not envelope_path.is_file():
        raise UnknownName(f"{directory} holds no lock ({_ENVELOPE})", hint="write one: envbuilder lock RECIPE -o DIR")
    try:
        envelope = load_json(envelope_path, "lock")
        bodies = {
            path.name: path.read_text(encoding="utf-8")
            for path in sorted(directory.iterdir())
            if _BODY.fullmatch(path.name)
        }
    except (StoreError, UnicodeDecodeError) as error:
        raise InputError(f"{error}", hint="write it anew with `envbuilder lock`") from error
    from envbuilder import lock as lock_format

    return lock_format.from_envelope(envelope, bodies, str(envelope_path))


def write_lock(directory: Path, lock: Lock) -> None:
    """Write a lock; the old one is there, whole, until the new one takes its place."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    _recover_lock(directory)
    fresh = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, text in lock.bodies.items():
        (fresh / name).write_text(text, encoding="utf-8")
    (fresh / _ENVELOPE).write_text(to_json(lock.envelope()), encoding="utf-8")
    aside = _aside(directory)
    if directory.exists():
        _refuse_foreign(directory)
        os.rename(directory, aside)
    os.rename(fresh, directory)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def guarded(store: Store, name: str, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `name` between processes; `waiting` is told once when another process holds it.

    The lock is a file that exists, with its holder's host and process in it: it works on file systems without flock, and a
    holder that was killed on this machine is noticed at once. A holder killed on another machine must be cleared by hand;
    the message says how.
    """
    from filelock import SoftFileLock, Timeout

    path = store.path("guards", f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    guard = SoftFileLock(str(path), poll_interval=0.1)
    try:
        guard.acquire(timeout=_WAIT_NOTICE_SECONDS)
    except Timeout:
        waiting(f"another process works on {name}; waiting for it (its lock is {path})")
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


def collect(store: Store, *, dry_run: bool) -> tuple[Path, ...]:
    """Remove what nothing needs any more, and return it: trees without a manifest, scratch, old environments of a name.

    What a running build uses is guarded and left alone.
    """
    kept = {Path(os.readlink(pointer)).name.removesuffix(".json") for pointer in _pointers(store)}
    doomed: list[Path] = []
    for environment in environments(store):
        if environment.identifier not in kept and not _is_guarded(store, f"env-{environment.identifier}"):
            doomed.append(store.prefix(environment.identifier))
            if not dry_run:
                withdraw(store, environment.identifier)
    # where packed trees are mounted, in namespaces that cannot be seen from here
    places = {Path(one.pack["prefix"]) for one in environments(store) if one.pack}
    doomed += [
        tree
        for tree in _children(store.path("envs"))
        if not store.manifest(tree.name).is_file()
        and tree not in doomed
        and not (tree in places and not _children(tree))
        and not _is_guarded(store, f"env-{tree.name}")
    ]
    doomed += [scratch for scratch in _children(store.path("work")) if not _is_guarded(store, f"wheel-{scratch.name}")]
    doomed += [image for image in _children(store.path("images")) if _is_left(store, image)]
    # where Spack worked for a build that failed
    doomed += [
        folder
        for folder in _children(store.path("spack", "environments"))
        if not _is_guarded(store, f"env-{folder.name}")
    ]
    for path in () if dry_run else doomed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return tuple(doomed)


def _is_left(store: Store, image: Path) -> bool:
    """Whether no environment holds this image by a link of its own, and no build is about to."""
    return image.stat().st_nlink == 1 and not _is_guarded(store, f"wheel-{image.name}")


def _children(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.iterdir())) if folder.is_dir() else ()


def _pointers(store: Store) -> tuple[Path, ...]:
    return tuple(path for path in _children(store.path("current")) if path.is_symlink())


def _is_guarded(store: Store, name: str) -> bool:
    """Whether a living process holds the lock; taking it is the only honest way to know."""
    from filelock import SoftFileLock, Timeout

    path = store.path("guards", f"{name}.lock")
    if not path.exists():
        return False
    guard = SoftFileLock(str(path))
    try:
        guard.acquire(timeout=0.2)
    except Timeout:
        return True
    guard.release()
    return False


def _read(path: Path) -> Environment:
    return Environment.from_document(load_json(path, "manifest"), str(path))


def _manifest_or_none(store: Store, name: str) -> Path | None:
    return store.manifest(name) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*", name) else None


def _pointer_or_none(store: Store, name: str) -> Path | None:
    return store.path("current", name) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+!@_-]*", name) else None


def _find_by_path(store: Store, path: Path) -> Environment:
    wanted = os.path.realpath(path)
    for environment in environments(store):
        if os.path.realpath(environment.prefix) == wanted:
            return environment
    raise UnknownName(f"{path} is not the tree of an environment in {store.root}", hint="see `envbuilder envs list`")


def _aside(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.old")


def _recover_lock(directory: Path) -> None:
    """Put the old lock back where a writer was killed between its two renames."""
    aside = _aside(directory)
    if aside.is_dir() and not directory.exists():
        os.rename(aside, directory)


def _refuse_foreign(directory: Path) -> None:
    """A directory that holds anything but a lock is not ours to replace."""
    strangers = [path.name for path in directory.iterdir() if path.name != _ENVELOPE and not _BODY.fullmatch(path.name)]
    if strangers:
        raise InputError(
            f"{directory} holds more than a lock ({', '.join(sorted(strangers)[:3])})",
            hint="give a folder of its own: -o DIR",
        )


def now() -> str:
    """The time now, UTC, ISO 8601 to the millisecond."""
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
