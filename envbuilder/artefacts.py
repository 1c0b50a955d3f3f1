"""Which files of a lock a target needs, where they are found from here, and the store's folder of whole files.

A lock may name several wheels of one distribution. The one with the best tag is what the installer takes, in the order that
pip and uv share; of what is compiled here the source counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit

from envbuilder import conda, pip_config, store
from envbuilder import lock as lock_format
from envbuilder.errors import HostError, InputError
from envbuilder.host import sha256
from envbuilder.lock import Artefact, Lock
from envbuilder.pip_config import PipConfig
from envbuilder.site import Site
from envbuilder.store import Store
from envbuilder.target import Python, Target

if TYPE_CHECKING:
    from packaging.pylock import Package
    from packaging.tags import Tag

# What the name of a file may be: it becomes a path.
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]{0,250}")


def needed(lock: Lock, target: Target) -> tuple[Artefact, ...]:
    """Every file that is installed or compiled on the target, by name; raises `InputError` when a wheel fits nowhere."""
    found = [*lock.artefacts(conda.BODY), *chosen(lock, lock_format.MAIN, target, without=compiled(lock))]
    for name in lock.sources:
        found += lock.artefacts(lock_format.source_body(name))
        found += chosen(lock, lock_format.build_body(name), target)
    for artefact in found:
        if not FILE.fullmatch(artefact.file):
            raise InputError(f"the lock names a file {artefact.file[:80]!r}", hint="write the lock anew")
    once = {(artefact.file, artefact.sha256): artefact for artefact in reversed(found)}
    return tuple(artefact for _, artefact in sorted(once.items()))


def compiled(lock: Lock) -> frozenset[str]:
    """The normalised names of the distributions that are compiled here."""
    from packaging.utils import canonicalize_name

    return frozenset(canonicalize_name(lock.distribution(name)) for name in lock.sources)


def chosen(lock: Lock, body: str, target: Target, *, without: frozenset[str] = frozenset()) -> tuple[Artefact, ...]:
    """The one wheel of each distribution of a body that fits the target, but for those in `without`.

    Raises `InputError` for a distribution of which none fits.
    """
    ranks = {tag: rank for rank, tag in enumerate(_tags(target.python))}
    packages = lock_format.parse_body(lock.bodies[body], body).packages
    artefacts = {(one.package, one.sha256): one for one in lock.artefacts(body)}
    return tuple(
        artefacts[package.name, _best(package, ranks, body, target)]
        for package in packages
        if package.name not in without and _is_wanted(package, target.python)
    )


def located(url: str, pip: PipConfig, site: Site) -> str:
    """The address that works from here: a file of the same name in a find-links folder, else the site's mirror."""
    file = unquote(urlsplit(url).path.rpartition("/")[2])
    for link in pip.find_links:
        folder = pip_config.local_path(link)
        if folder is not None and (folder / file).is_file():
            return (folder / file).absolute().as_uri()
    return pip_config.mirrored(url, site.mirrors)


def folder(root: Path) -> Path:
    """Where a store keeps whole files, each below its sha256."""
    return root / "cache" / "artefacts"


def kept(place: Path, artefact: Artefact) -> Path:
    """Where a file is in that folder."""
    return place / artefact.sha256 / artefact.file


def address(place: Path, artefact: Artefact) -> str:
    """The `file://` address of a file in that folder; raises `InputError` when it is not there."""
    path = kept(place, artefact)
    if not path.is_file():
        raise InputError(f"{artefact.file} is missing from {place}", hint="make the bundle anew: envbuilder bundle")
    return path.absolute().as_uri()


def body(
    lock: Lock, name: str, target: Target, place: Path, *, without: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """A body that names nothing but the files to install, each at its address in that folder."""
    document = lock_format.document(lock.bodies[name], name)
    taken = {(one.package, one.version): one for one in chosen(lock, name, target, without=without)}
    packages = []
    for package in document["packages"]:
        artefact = taken.get((package["name"], str(package.get("version"))))
        if artefact is not None:
            (wheel,) = (one for one in package["wheels"] if one["hashes"]["sha256"] == artefact.sha256)
            moved = {key: value for key, value in wheel.items() if key != "path"}
            rest = {key: value for key, value in package.items() if key != "sdist"}
            packages.append({**rest, "wheels": [{**moved, "url": address(place, artefact)}]})
    return {**document, "packages": packages}


def is_kept(place: Store, artefact: Artefact) -> bool:
    """Whether the store has the file, whole."""
    path = kept(folder(place.root), artefact)
    return path.is_file() and sha256(path) == artefact.sha256


def keep(place: Store, artefact: Artefact, fill: Callable[[BinaryIO], None], waiting: Callable[[str], None]) -> Path:
    """Let `fill` write a file, check its sha256, and only then give it its name; what is there whole is left alone.

    Raises `HostError` when it is another file than the one that was locked.
    """
    path = kept(folder(place.root), artefact)
    with store.guarded(place, f"artefact-{artefact.sha256[:16]}", waiting):
        if is_kept(place, artefact):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(".part")  # what a killed process left is written over
        try:
            with open(part, "wb") as sink:
                fill(sink)
                sink.flush()
                os.fsync(sink.fileno())
            _refuse_other(part, artefact)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path


def _refuse_other(path: Path, artefact: Artefact) -> None:
    found = sha256(path)
    if found != artefact.sha256:
        raise HostError(
            f"{artefact.file} is damaged or not the one that was locked, and was refused: its sha256 is {found}, not "
            f"{artefact.sha256}",
            hint="run the same command again; if the file was republished on purpose, lock again with --upgrade",
        )


def _best(package: Package, ranks: dict[Tag, int], body: str, target: Target) -> str:
    """The sha256 of the wheel with the best tag; of equal ones the higher build number wins."""
    from packaging.utils import parse_wheel_filename

    fitting = []
    for wheel in package.wheels or ():
        _, _, build, tags = parse_wheel_filename(wheel.filename)
        rank = min((ranks[tag] for tag in tags if tag in ranks), default=None)
        if rank is not None:
            fitting.append(((-rank, build), str(wheel.hashes["sha256"])))
    if fitting:
        return max(fitting)[1]
    names = ", ".join(wheel.filename for wheel in package.wheels or ()) or "none"
    raise InputError(
        f"{body}: no wheel of {package.name} {package.version} fits {target.python.soabi} with {target.libc}; "
        f"it has: {names}",
        hint="the lock is for another machine: write it anew there with `envbuilder lock`",
    )


def _is_wanted(package: Package, python: Python) -> bool:
    """Whether the package's marker holds; locks for one machine seldom have one."""
    if package.marker is None:
        return True
    here: dict[str, str | AbstractSet[str]] = {
        "python_version": python.minor,
        "python_full_version": python.version,
        "extras": frozenset(),
        "dependency_groups": frozenset(),
    }
    return package.marker.evaluate(here, context="lock_file")


def _tags(python: Python) -> Iterator[Tag]:
    """The tags that fit an interpreter of this machine, best first."""
    from packaging import tags

    major, minor = (int(part) for part in python.version.split(".")[:2])
    platforms = list(tags.platform_tags())
    found = re.match(r"cpython-(\d+[a-z]*)", python.soabi)
    abi = f"cp{found[1]}" if found else f"cp{major}{minor}"
    yield from tags.cpython_tags((major, minor), [abi], platforms)
    yield from tags.compatible_tags((major, minor), f"cp{major}{minor}", platforms)
