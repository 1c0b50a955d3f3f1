"""What conda packages a tree has: conda-meta/*.json, which say of every file who brought it and what is in it.

Of files that conda installed these records are the truth, not the RECORD of a Python distribution: that was written before the
package was finished, and before its prefix was put in.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "conda-meta"
# stands before a package's name where names of Python distributions stand, too
KIND = "conda:"
LINK = "hex="


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A conda package in a tree: `file` is its record's name, `digest` that file's sha256.

    `paths` maps its files to hash (`sha256=`, as in a RECORD; `LINK` for a symbolic link, "" where none counts) and size.
    """

    name: str
    version: str
    build: str
    file: str
    digest: str
    paths: dict[str, tuple[str, int | None]]

    @property
    def owner(self) -> str:
        """Its name beside those of Python distributions."""
        return f"{KIND}{self.name}"


def installed(prefix: Path) -> tuple[tuple[Installed, ...], tuple[str, ...]]:
    """The packages, and in words the records that cannot be read."""
    found, unreadable = [], []
    for path in sorted((prefix / FOLDER).glob("*.json")):
        try:
            content = path.read_bytes()
            found.append(_package(path.name, content))
        except OSError as error:
            unreadable.append(f"{FOLDER}/{path.name}: {error.strerror}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            unreadable.append(f"{FOLDER}/{path.name}: {type(error).__name__}: {error}"[:160])
    return tuple(found), tuple(unreadable)


def _package(file: str, content: bytes) -> Installed:
    document = json.loads(content)
    return Installed(
        name=str(document["name"]),
        version=str(document["version"]),
        build=str(document["build"]),
        file=f"{FOLDER}/{file}",
        digest=hashlib.sha256(content).hexdigest(),
        paths=dict(_paths(document["paths_data"]["paths"])),
    )


def _paths(entries: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[str, int | None]]]:
    for entry in entries:
        path, kind = str(entry["_path"]), entry.get("path_type")
        mark = entry.get("sha256_in_prefix") or entry.get("sha256")
        if kind == "directory":
            continue
        if kind == "softlink":
            yield path, (LINK, None)
        elif "__pycache__/" in path or not mark:  # Python writes bytecode again where a source's time changed
            yield path, ("", None)
        else:
            encoded = base64.urlsafe_b64encode(bytes.fromhex(mark)).rstrip(b"=").decode()
            # the size is that of the file before its prefix was put in
            yield path, (f"sha256={encoded}", None if entry.get("prefix_placeholder") else entry.get("size_in_bytes"))
