"""What both the environment and the builds inside it are installed with: uv, from bodies of the lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from envbuilder import artefacts, host
from envbuilder import lock as lock_format
from envbuilder.builders.base import Workplace
from envbuilder.lock import Artefact, Lock
from envbuilder.plan import Run
from envbuilder.target import Target


def new_venv(target: Target, prefix: Path, *, layer: bool = False) -> tuple[str, ...]:
    """The command that makes an empty virtual environment."""
    return (
        host.uv(), "venv", "--relocatable", "--no-project", "--python", target.python.path,
        *(("--system-site-packages",) if layer else ()), str(prefix),
    )  # fmt: skip


def sync(title: str, prefix: Path, body: Path, total: int) -> Run:
    """The step that installs a body into it."""
    site_packages = prefix / "lib"
    return Run(
        title=title,
        argv=(
            host.uv(),
            "pip",
            "sync",
            "--python",
            str(prefix / "bin" / "python"),
            "--no-build",
            str(body),
        ),
        # many indexes forbid caching; what uv has was checked against its hash when it came
        cache_first=("--offline",),
        watch=site_packages,
        total=total,
    )


def taken(
    lock: Lock,
    body: str,
    target: Target,
    place: Workplace,
    *,
    without: frozenset[str] = frozenset(),
    kept: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The body to install from: addresses as found from here, or the files of a bundle and nothing else.

    `without` are the normalised names of what is compiled here, `kept` the packages of it that are there (`kept_package`).
    """
    import tomli_w

    if place.artefacts is not None:
        document = artefacts.body(lock, body, target, place.artefacts, without=without)
    else:
        document = local(lock, body, place, without=without)
    return tomli_w.dumps({**document, "packages": [*document["packages"], *kept]})


def kept_package(folder: Path, name: str, version: str) -> dict[str, Any] | None:
    """The package of a body that a wheel is which was compiled before, and kept in that folder; None where there is none."""
    try:
        sums = [line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    wheels = [
        {"name": file, "url": (folder / file).absolute().as_uri(), "hashes": {"sha256": mark}}
        for mark, file in sums
        if file.endswith(".whl")
    ]
    return {"name": name, "version": version, "wheels": wheels} if len(wheels) == 1 else None


def local(lock: Lock, body: str, place: Workplace, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A body with the addresses that work from here, without some distributions.

    A file of the same name in one of pip's own find-links folders, or a mirror of the site, is taken instead of the
    address; the hash in the lock decides either way.
    """
    document = lock_format.document(lock.bodies[body], body)
    kept = [package for package in document["packages"] if package["name"] not in without]
    for package in kept:
        for file in (*package.get("wheels", ()), *((package["sdist"],) if "sdist" in package else ())):
            if "url" in file:
                file["url"] = artefacts.located(file["url"], place.pip, place.site)
    return {**document, "packages": kept}


def address(artefact: Artefact, place: Workplace) -> str:
    """Where a file of the lock is found from here."""
    if place.artefacts is not None:
        return artefacts.address(place.artefacts, artefact)
    return artefacts.located(artefact.url, place.pip, place.site)
