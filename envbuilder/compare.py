"""Compare two locks, or two trees, and say what differs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuilder import lock as lock_format
from envbuilder.host import sha256
from envbuilder.lock import Lock

# Files in which the path of the tree stands by intent; they are compared with the path replaced.
_WITH_PREFIX = ("bin/activate",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that differs: where it is, what kind (`added`, `removed`, `changed`), and both values."""

    what: str
    kind: str
    first: str
    second: str


def locks(first: Lock, second: Lock) -> tuple[Difference, ...]:
    """What differs between two locks: the request, then every body's versions and hashes."""
    found = [
        Difference(what=f"request.{line.partition(': ')[0]}", kind="changed", first=old, second=new)
        for line in lock_format.stale(first, second.request)
        for old, _, new in [line.partition(": ")[2].partition(" -> ")]
    ]
    for body in sorted(set(first.bodies) | set(second.bodies)):
        found += mappings(body, _artefacts(first, body), _artefacts(second, body))
    return tuple(found)


def trees(first: Path, second: Path) -> tuple[Difference, ...]:
    """What differs between two trees: names, kinds, bytes, link targets. Bytecode is left out."""
    return tuple(mappings("", _tree(first), _tree(second)))


def _artefacts(lock: Lock, body: str) -> dict[str, str]:
    if body not in lock.bodies:
        return {}
    versions = lock.packages(body)
    marks: dict[str, list[str]] = {name: [] for name in versions}
    for artefact in lock.artefacts(body):
        marks[artefact.package].append(artefact.sha256[:12])
    return {name: f"{version} ({', '.join(sorted(marks[name]))})" for name, version in versions.items()}


def _tree(root: Path) -> dict[str, str]:
    return dict(_entries(root))


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            yield relative, _mark(path, relative, str(root))


def _mark(path: str, relative: str, root: str) -> str:
    if os.path.islink(path):
        return f"link to {os.readlink(path)}"
    if relative in _WITH_PREFIX:
        # quoted where the path has a space, bare where it has none
        text = Path(path).read_text(errors="replace").replace("'", "").replace(root.replace("'", ""), "@PREFIX@")
        return f"but for the path, sha256 {hashlib.sha256(text.encode()).hexdigest()}"
    executable = "executable " if os.access(path, os.X_OK) else ""
    return f"{executable}sha256 {sha256(Path(path))}"


def mappings(place: str, first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[Difference]:
    """What differs between two mappings; `place` stands before each name."""
    for name in sorted(set(first) | set(second)):
        old, new = first.get(name), second.get(name)
        if old == new:
            continue
        kind = "added" if old is None else "removed" if new is None else "changed"
        what = f"{place}: {name}" if place else name
        yield Difference(what=what, kind=kind, first=_short(old), second=_short(new))


def _short(value: str | None) -> str:
    return "" if value is None else value if len(value) <= 120 else f"{value[:117]}..."
