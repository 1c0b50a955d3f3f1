"""What the file of an image says of itself, read without a runtime and without running anything of it.

The layout is that of github.com/apptainer/sif, version 1 of the format: a header, descriptors of fixed size, their data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from envbuilder.errors import HostError

_MAGIC = b"SIF_MAGIC\0"
_LAUNCH = 32
# The codes of the format, and what `uname -m` calls the same.
_ARCHITECTURES = {
    "01": "i686", "02": "x86_64", "03": "arm", "04": "aarch64", "05": "ppc64", "06": "ppc64le", "11": "s390x",
    "12": "riscv64",
}  # fmt: skip
_DESCRIPTOR = 585
_METADATA = "inspect-metadata.json"
_MOST = 1_000_000


def architecture(path: Path) -> str:
    """The CPU architecture that an image is for, as `uname -m` calls it; empty for what is no SIF or does not say."""
    try:
        with path.open("rb") as source:
            header = source.read(128)
    except OSError:
        return ""
    if header[_LAUNCH : _LAUNCH + len(_MAGIC)] != _MAGIC:
        return ""
    at = _LAUNCH + len(_MAGIC) + 3
    return _ARCHITECTURES.get(header[at : at + 2].decode("ascii", "replace"), "")


def refuse_foreign(path: Path, here: str) -> None:
    """Raise `HostError` for an image that is for another CPU architecture than `here`."""
    there = architecture(path)
    # i686 programs run on x86_64
    if there and there != here and (there, here) != ("i686", "x86_64"):
        raise HostError(
            f"{path} is an image for {there}, and this machine is {here}",
            hint=f"build it on a machine with {here}: images are built for the machine that builds them",
        )


def labels(path: Path) -> dict[str, str]:
    """The labels that Apptainer keeps in the file beside the file system; empty where there are none to be read."""
    try:
        with path.open("rb") as source:
            return {str(key): str(value) for key, value in _metadata(source).items()}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return {}


def _metadata(source: BinaryIO) -> Any:
    for name, offset, size in _objects(source):
        if name == _METADATA and size <= _MOST:
            source.seek(offset)
            return json.loads(source.read(size))["data"]["attributes"]["labels"]
    return {}


def _objects(source: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each object in use."""
    header = source.read(128)
    if header[_LAUNCH : _LAUNCH + len(_MAGIC)] != _MAGIC:
        return
    # after the magic: version and architecture (3 each), identifier (16), two moments (8 each); then six numbers
    _, total, start, length, _, _ = struct.unpack_from("<6q", header, _LAUNCH + len(_MAGIC) + 38)
    source.seek(start)
    table = source.read(min(length, _DESCRIPTOR * total))
    for at in range(0, len(table) - _DESCRIPTOR + 1, _DESCRIPTOR):
        # type (4), used (1), three numbers (4 each), offset, size, size with padding, two moments, two owners (8 each), name
        used = table[at + 4]
        offset, size = struct.unpack_from("<2q", table, at + 17)
        name = table[at + 73 : at + 73 + 128].split(b"\0", 1)[0].decode("utf-8", "replace")
        if used:
            yield name, offset, size
