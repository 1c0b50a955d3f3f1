"""The modes of files: those in the store are the same whoever makes them; the store's own folder says who may look inside.

A umask belongs to the process, so what the caller had is remembered here: for a new store's folder, and for the commands that
we become.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

UMASK = 0o022
# What `paths.readable_by` of a site means for the store's folder.
READABLE_BY: Mapping[str, int] = MappingProxyType({"owner": 0o700, "group": 0o750, "all": 0o755})

_callers: ContextVar[int | None] = ContextVar("callers umask", default=None)


@contextmanager
def steady() -> Iterator[None]:
    """Whatever the caller's umask, what is made meanwhile can be read by all who may enter the store."""
    before = os.umask(UMASK)
    token = _callers.set(before)
    try:
        yield
    finally:
        _callers.reset(token)
        os.umask(before)


@contextmanager
def of_caller() -> Iterator[None]:
    """The caller's umask again."""
    umask = _callers.get()
    if umask is None:
        yield
        return
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def make_root(root: Path, readable_by: str) -> None:
    """Make the store's folder if it is not there: as the site says, else as the caller's umask says.

    One that cannot be made is the business of what is written into it.
    """
    if root.exists():
        return
    with suppress(OSError), of_caller():
        root.mkdir(parents=True)
        if readable_by:
            root.chmod(READABLE_BY[readable_by])
