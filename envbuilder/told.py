"""Sources that a recipe names itself, an archive or a commit: what the lock says of them, and how their files are had.

No resolver knows them. Their bodies have the form of the others (PEP 751), so that bundles, offline builds and `diff` need to
know nothing of them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from envbuilder import artefacts, checkout, download, pip_config
from envbuilder import lock as lock_format
from envbuilder.checkout import Cache, Part
from envbuilder.errors import InputError
from envbuilder.lock import Artefact, Lock
from envbuilder.source import Git, Source

Tick = Callable[[int, int], None]


def _silent(_done: int, _total: int) -> None:
    """Says nothing of how far it is."""


def body(source: Source, cache: Cache, previous: Lock | None, name: str, *, upgrade: bool) -> str:
    """The lock body of a source.

    Raises `InputError` when a tag means another commit than in the previous lock, unless that is what is asked for, and what
    `checkout.settled` raises.
    """
    import tomli_w
    from packaging.utils import canonicalize_name

    said: dict[str, Any] = {}
    if source.archive is not None:
        said = {"archive": {"url": str(source.archive.url), "hashes": {"sha256": str(source.archive.sha256)}}}
    if source.git is not None:
        parts = checkout.settled(source.git, cache)
        if not upgrade:
            _refuse_moved(source.git, parts[0], previous, name)
        said = _commit(source.git, parts, _kept(parts, source, cache))
    package = {"name": canonicalize_name(source.name), "version": str(source.version), **said}
    return tomli_w.dumps({"lock-version": "1.0", "created-by": "envbuilder", "packages": [package]})


def parts(text: str, file: str) -> tuple[Part, ...]:
    """The commits that a body names, the whole first; none for another kind of source."""
    (package, *_) = lock_format.document(text, file)["packages"]
    vcs = package.get("vcs")
    if not isinstance(vcs, Mapping):
        return ()
    below = package.get("tool", {}).get("envbuilder", {}).get("submodules", [])
    try:
        whole = Part(path="", url=str(vcs["url"]), commit=str(vcs["commit-id"]))
        found = (whole, *(Part(path=str(one["path"]), url=str(one["url"]), commit=str(one["commit"])) for one in below))
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: not a whole commit: {error}", hint="write the lock anew") from error
    return tuple(checkout.checked(part) for part in found)


def commits(lock: Lock) -> dict[str, tuple[Part, ...]]:
    """The commits behind each artefact that is made from some, by its sha256."""
    found = {}
    for name in lock.sources:
        file = lock_format.source_body(name)
        (artefact,) = lock.artefacts(file)
        if artefact.is_commit:
            found[artefact.sha256] = parts(lock.bodies[file], file)
    return found


def located(artefact: Artefact, pip: pip_config.PipConfig, mirrors: Mapping[str, str]) -> str:
    """The address of a source archive that works from here: a find-links folder has it by its name, else the site's mirror."""
    for link in pip.find_links:
        folder = pip_config.local_path(link)
        if folder is not None and (folder / artefact.file).is_file():
            return (folder / artefact.file).absolute().as_uri()
    return pip_config.mirrored(artefact.url, mirrors)


def obtain(artefact: Artefact, made_of: tuple[Part, ...], cache: Cache, tick: Tick = _silent) -> Path:
    """The file in the store, fetched or made from its commits if it is not there; raises `HostError`."""

    def fill(sink: BinaryIO) -> None:
        if made_of:
            checkout.write(made_of, cache, sink)
        else:
            download.fetch(artefact.url, sink, cache.network, tick)

    return artefacts.keep(cache.store, artefact, fill, cache.waiting)


def _commit(git: Git, found: tuple[Part, ...], sha256: str) -> dict[str, Any]:
    whole, *below = found
    revision = {"requested-revision": str(git.tag)} if git.tag else {}
    ours: dict[str, Any] = {"sha256": sha256}
    if below:
        ours["submodules"] = [asdict(part) for part in below]
    vcs = {"type": "git", "url": whole.url, **revision, "commit-id": whole.commit}
    return {"vcs": vcs, "tool": {"envbuilder": ours}}


def _kept(found: tuple[Part, ...], source: Source, cache: Cache) -> str:
    """Make the tar of these commits, keep it in the store, and return its sha256."""
    with tempfile.TemporaryFile() as whole:
        checkout.write(found, cache, whole)
        whole.seek(0)
        state = hashlib.sha256()
        while block := whole.read(1 << 20):
            state.update(block)
        whole.seek(0)
        artefact = made(source.name, source.version, found[0].commit, state.hexdigest())
        artefacts.keep(cache.store, artefact, lambda sink: shutil.copyfileobj(whole, sink), cache.waiting)
    return artefact.sha256


def made(name: str, version: str, commit: str, sha256: str) -> Artefact:
    """The artefact that a commit becomes."""
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    stem = f"{canonicalize_name(name)}-{Version(version)}"
    return Artefact(package=str(name), version=str(version), file=f"{stem}-{commit[:12]}.tar", url="", sha256=sha256)


def _refuse_moved(git: Git, now: Part, previous: Lock | None, name: str) -> None:
    file = lock_format.source_body(name)
    if previous is None or not git.tag or file not in previous.bodies:
        return
    before = parts(previous.bodies[file], file)
    asked = previous.request["sources"].get(name, {}).get("git") or {}
    same = asked.get("tag") == git.tag and asked.get("url") == git.url
    if before and same and before[0].commit != now.commit:
        raise InputError(
            f"{pip_config.redact(now.url)}: the tag {git.tag} was moved since it was locked: from {before[0].commit} to "
            f"{now.commit}",
            hint=f"look at what changed; if it is meant: envbuilder lock {previous.recipe} --upgrade {name}",
        )
