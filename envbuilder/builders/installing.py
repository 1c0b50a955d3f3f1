"""What both the environment and the builds inside it are installed with: uv, from bodies of the lock."""

from __future__ import annotations

from pathlib import Path

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


def taken(lock: Lock, body: str, target: Target, place: Workplace, *, without: frozenset[str] = frozenset()) -> str:
    """The body to install from: addresses as found from here, or the files of a bundle and nothing else."""
    if place.artefacts is not None:
        return artefacts.body(lock, body, target, place.artefacts, without=without)
    return local(lock, body, place, without=without)


def local(lock: Lock, body: str, place: Workplace, *, without: frozenset[str] = frozenset()) -> str:
    """A body with the addresses that work from here, without the distributions that are compiled here.

    A file of the same name in one of pip's own find-links folders, or a mirror of the site, is taken instead of the
    address; the hash in the lock decides either way.
    """
    import tomli_w
    from packaging.utils import canonicalize_name

    absent = {canonicalize_name(name) for name in without}
    document = lock_format.document(lock.bodies[body], body)
    kept = [package for package in document["packages"] if package["name"] not in absent]
    for package in kept:
        for file in (*package.get("wheels", ()), *((package["sdist"],) if "sdist" in package else ())):
            if "url" in file:
                file["url"] = artefacts.located(file["url"], place.pip, place.site)
    return tomli_w.dumps({**document, "packages": kept})


def address(artefact: Artefact, place: Workplace) -> str:
    """Where a file of the lock is found from here."""
    if place.artefacts is not None:
        return artefacts.address(place.artefacts, artefact)
    return artefacts.located(artefact.url, place.pip, place.site)
