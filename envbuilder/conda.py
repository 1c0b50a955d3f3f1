"""What a lock says of conda packages: its body `conda.json`, and what is asked of the solver.

The body holds each package as its channel describes it, with its address, its sha256 and the Python distributions that are in
it. Which packages fit is decided by conda's virtual packages, and those are the partition's: what the nodes have, not the
machine that one happens to be on.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from envbuilder.document import to_json
from envbuilder.errors import HostError, InputError
from envbuilder.partition import Partition

BODY = "conda.json"
KIND = "conda-packages"
DEFAULT_CHANNEL = "conda-forge"
# how conda calls a platform, by the kernel's name of its architecture
PLATFORMS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,200}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the solver is asked for: packages (conda's match specs) from channels, for a platform with virtual packages.

    `virtual_packages` maps names to versions; that of `__archspec` is the microarchitecture.
    """

    channels: tuple[str, ...]
    packages: tuple[str, ...]
    platform: str
    virtual_packages: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A conda package of a lock; `distributions` maps normalised names of Python distributions in it to their versions."""

    name: str
    version: str
    build: str
    url: str
    sha256: str
    distributions: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name of its file."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])

    @property
    def identity(self) -> str:
        """Version and build, which with the name say which package it is."""
        return f"{self.version} {self.build}"


def virtual_packages(partition: Partition, arch: str, glibc: str) -> dict[str, str]:
    """Conda's virtual packages on a partition: what its file says, else what follows from its processors and toolkit.

    `glibc` is the C library's version where the nodes are like the machine that was looked at, else "": then the partition has
    to say it. Raises `InputError` when nobody does. An unknown microarchitecture is the oldest of its kind.
    """
    said = {str(name): str(version) for name, version in partition.virtual_packages.items()}
    found = {"__unix": "0", "__linux": "0", "__archspec": str(partition.cpu.target) or arch}
    if glibc:
        found["__glibc"] = glibc
    if partition.gpu.toolkit_name == "cuda":
        # a driver has its own toolkit's version at least
        found["__cuda"] = partition.gpu.toolkit_version
    found |= said
    if "__glibc" not in found:
        raise InputError(
            "the site file does not say which C library the nodes have, and conda packages are chosen by it",
            hint='write under the partition: virtual_packages: {__glibc: "2.31"}, with what `ldd --version` says on a node',
        )
    return dict(sorted(found.items()))


def platform(arch: str) -> str:
    """How conda calls a machine's platform; raises `HostError` for one that it has no packages for."""
    if arch not in PLATFORMS:
        raise HostError(f"conda has no packages for {arch}", hint="take another builder")
    return PLATFORMS[arch]


def generic(virtual: Mapping[str, str]) -> list[list[str]]:
    """The same as the solver takes them: name, version, build."""
    return [
        [name, "1", value] if name == "__archspec" else [name, value, "0"] for name, value in sorted(virtual.items())
    ]


def body(platform: str, packages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a lock's body."""
    return to_json({"kind": KIND, "platform": platform, "packages": [dict(sorted(one.items())) for one in packages]})


def document(text: str, file: str) -> dict[str, Any]:
    """The document of a body, its form checked; raises `InputError`."""
    hint = "write it anew with `envbuilder lock`"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON: {error}", hint=hint) from error
    if not isinstance(found, dict) or found.get("kind") != KIND or not isinstance(found.get("packages"), list):
        raise InputError(f"{file}: not a list of conda packages", hint=hint)
    return found


@functools.lru_cache(maxsize=16)
def records(text: str, file: str) -> tuple[Record, ...]:
    """The packages of a body; raises `InputError` for what no package can be."""
    found = []
    for one in document(text, file)["packages"]:
        try:
            record = Record(
                name=_text(one["name"]),
                version=_text(one["version"]),
                build=_text(one["build"]),
                url=_text(one["url"]),
                sha256=_text(one.get("sha256", "")),
                distributions={_text(name): _text(version) for name, version in one.get("distributions", {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: not a conda package: {str(one)[:80]}", hint="write the lock anew") from error
        if not _NAME.fullmatch(record.name):
            raise InputError(f"{file}: {record.name[:80]!r} is no name of a conda package", hint="write the lock anew")
        found.append(record)
    return tuple(found)


def brought(found: Sequence[Record]) -> dict[str, str]:
    """The Python distributions in conda packages, with their versions."""
    return {name: version for record in found for name, version in record.distributions.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
