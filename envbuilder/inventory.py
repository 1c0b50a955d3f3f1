"""What a freshly built tree consists of: the baseline that every later verify compares with."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuilder import conda_meta, elf
from envbuilder.errors import StoreError
from envbuilder.host import sha256
from envbuilder.target import Mpi

_FIRST_FIELD = re.compile(r"^[^,\r\n]+", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """`records`: distribution to sha256 of its RECORD. `written`: every file that no RECORD names, to its sha256.

    A conda package stands among the `records` with its own record in conda-meta. Symbolic links stand in `written` with "".
    """

    records: dict[str, str]
    written: dict[str, str]


def take(prefix: Path, *, whole: bool = False) -> Inventory:
    """The inventory of a tree; bytecode is left out, since Python writes it whenever it likes.

    `whole` puts every file among those `written`: for a tree whose RECORDs do not tell what is in it.
    """
    owned: set[str] = set()
    records: dict[str, str] = {}
    for package in conda_meta.installed(prefix)[0]:
        records[package.owner] = package.digest
        owned.update(f"{prefix}/{path}" for path in (package.file, *package.paths))
    for record in sorted(prefix.glob("lib/python*/site-packages/*.dist-info/RECORD")):
        if str(record) in owned:
            continue
        content = record.read_bytes()
        records[_distribution(record)] = hashlib.sha256(content).hexdigest()
        owned.update(_paths(content, str(record.parent.parent)))
    written = {
        os.path.relpath(path, prefix): "" if os.path.islink(path) else sha256(Path(path))
        for path in _files(str(prefix))
        if whole or path not in owned
    }
    return Inventory(records=records, written=written)


def distributions(prefix: Path) -> dict[str, str]:
    """Normalised names and versions of the Python distributions in a tree, by the names of their metadata's folders."""
    found = {}
    for folder in sorted(prefix.glob("lib/python*/site-packages/*.dist-info")):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found


def refuse_lacking(prefix: Path, spack: Mapping[str, str]) -> None:
    """Raise `StoreError` where a package that Spack built is not in the tree: Spack may leave one out and say nothing."""
    for name, identity in spack.items():
        mark = identity.split(" ")[1]
        if mark == "external":
            continue
        try:
            document = json.loads((prefix / ".spack" / name / "spec.json").read_text(encoding="utf-8"))
            found = str(document["spec"]["nodes"][0]["hash"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            found = "nothing"
        if found != mark:
            raise StoreError(
                f"Spack did not copy {name} {identity} into {prefix}: {found} is there", hint="see the log of the build"
            )


def mpi_library(prefix: Path, mpi: Mpi) -> dict[str, str]:
    """The library that every rank must have mapped: the wheel's, found in the tree, or the system's, as locked."""
    if mpi.provider == "system":
        return {
            key: getattr(mpi, key)
            for key in ("provider", "name", "version", "soname", "library", "build_id", "sha256", "mpiexec")
        }
    for path in sorted((prefix / "lib").glob("libmpi.so.*")):
        facts = elf.read(path)
        if facts is not None and facts.soname == path.name:
            return {
                "provider": "wheel",
                "name": mpi.name,
                "version": "",
                "soname": facts.soname,
                "library": str(path),
                "build_id": facts.build_id,
                "sha256": sha256(path),
                "mpiexec": str(prefix / "bin" / "mpiexec"),
            }
    raise StoreError(
        f"the distribution {mpi.package} brought no libmpi into {prefix / 'lib'}", hint="choose another MPI"
    )


def _paths(record: bytes, base: str) -> list[str]:
    """The absolute paths in a RECORD. Normalising is dear, and only lines with `..` (scripts) need it."""
    text = record.decode()
    quoted = '"' in text
    names = (
        [row[0] for row in csv.reader(text.splitlines()) if row and row[0]] if quoted else _FIRST_FIELD.findall(text)
    )
    return [
        os.path.normpath(f"{base}/{name}") if name.startswith(("/", ".")) or "/." in name else f"{base}/{name}"
        for name in names
    ]


def _distribution(record: Path) -> str:
    name = record.parent.name.removesuffix(".dist-info").rpartition("-")[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _files(folder: str) -> Iterator[str]:
    """Every file and symbolic link below a folder; a tree has tens of thousands, so no file is asked for more than its kind."""
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    yield entry.path
                elif entry.name != "__pycache__":
                    folders.append(entry.path)
