"""What a lock of Spack (`spack.lock`) says: every package that was concretized, and which of them an environment needs.

Its form is Spack's own (documentation, "Environments": roots, and concrete specs by hash); only what is used here is read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envbuilder.errors import InputError

BODY = "spack.lock"
# how Spack is told to name the folders of packages; that of a tree is shorter, and can stand in their place
PROJECTION = "{architecture.platform}-{architecture.os}-{architecture.target}/{name}-{version}-{hash}"
_NEEDED = {"link", "run"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A concrete package: `hash` is Spack's own of all that decides it, `prefix` the folder of an external, if one is known."""

    name: str
    version: str
    hash: str
    parameters: Mapping[str, Any]
    platform: str
    os: str
    target: str
    external: bool
    prefix: str

    @property
    def folder(self) -> str:
        """Where it is below the root of the packages, by `PROJECTION`."""
        return f"{self.platform}-{self.os}-{self.target}/{self.name}-{self.version}-{self.hash}"

    @property
    def identity(self) -> str:
        """Version and hash, which with the name say which package it is; of an external its version and place."""
        return f"{self.version} external {self.prefix}".rstrip() if self.external else f"{self.version} {self.hash}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Solved:
    """`needed` is what there is at run time (what the roots link with and run, themselves first), `count` of all packages."""

    needed: tuple[Package, ...]
    count: int

    def named(self, name: str) -> Package | None:
        """The package of that name among the needed ones."""
        return next((one for one in self.needed if one.name == name), None)

    @property
    def built(self) -> tuple[Package, ...]:
        """The needed ones that Spack installs."""
        return tuple(one for one in self.needed if not one.external)


@functools.lru_cache(maxsize=16)
def parse(text: str, file: str) -> Solved:
    """The lock of a text; raises `InputError` when it is none."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}", hint="write it anew with `envbuilder lock`") from error
    return read(document, file)


def read(document: Any, file: str) -> Solved:
    """The lock of a document; raises `InputError` when it is none, or not a whole one."""
    try:
        if document["_meta"]["file-type"] != "spack-lockfile":
            raise InputError(
                f"{file}: not a lock of Spack", hint="name the folder of an environment that was concretized"
            )
        specs = dict(document["concrete_specs"])
        needed = tuple(_package(specs[mark]) for mark in _closure(document["roots"], specs))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not a whole lock of Spack: {error}", hint="run spack concretize again") from error
    return Solved(needed=needed, count=len(specs))


def _closure(roots: Any, specs: Mapping[str, Any]) -> Iterator[str]:
    waiting, seen = [root["hash"] for root in roots], set[str]()
    while waiting:
        mark = waiting.pop()
        if mark in seen:
            continue
        seen.add(mark)
        yield mark
        edges = specs[mark].get("dependencies", ())
        waiting += [edge["hash"] for edge in edges if _NEEDED & set(edge["parameters"]["deptypes"])]


def _package(spec: Mapping[str, Any]) -> Package:
    target = spec["arch"]["target"]
    external = spec.get("external")
    return Package(
        name=str(spec["name"]),
        version=str(spec["version"]),
        hash=str(spec["hash"]),
        parameters=spec["parameters"],
        platform=str(spec["arch"]["platform"]),
        os=str(spec["arch"]["platform_os"]),
        target=str(target["name"] if isinstance(target, Mapping) else target),
        external=external is not None,
        prefix=str((external or {}).get("path") or ""),
    )
