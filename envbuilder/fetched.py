"""Forget what was fetched or compiled for a lock, so that it is fetched and compiled again.

An environment's files are hard links into uv's cache: what damages a file of the tree damages the cache too, and a rebuild
must not take it from there.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from envbuilder import conda, host, process, spack_lock
from envbuilder.lock import Lock
from envbuilder.plan import Product
from envbuilder.process import Command

if TYPE_CHECKING:
    from envbuilder.prepare import Prepared


def forget(prepared: Prepared, locked: Lock) -> None:
    """Drop the cache entries of every package of the lock, and the wheels compiled for it."""
    from envbuilder import prepare

    for step in prepare.plan(prepared, locked).steps:
        if isinstance(step, Product):
            shutil.rmtree(step.path, ignore_errors=True)
            for inner in step.actions:
                if isinstance(inner, Product):  # a compilation that would go on
                    inner.path.unlink(missing_ok=True)
    names = sorted(
        name for body in locked.bodies if body not in (conda.BODY, spack_lock.BODY) for name in locked.packages(body)
    )
    for name in ("pkgs.proven.json", "repodata.distributions.json"):
        prepared.store.path("cache", "conda", name).unlink(missing_ok=True)
    for record in locked.conda():
        for path in prepared.store.path("cache", "conda", "pkgs").glob(
            f"{record.name}-{record.version}-{record.build}*"
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    cache = prepared.store.path("cache", "uv")
    if cache.is_dir():
        process.checked(
            Command(argv=(host.uv(), "cache", "clean", "--cache-dir", str(cache), *names), env={"UV_NO_CONFIG": "1"})
        )
