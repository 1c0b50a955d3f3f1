"""What an image starts from: a description in `containers/`, or a file or folder that is there already.

A description is data like a recipe; `BASE` is the one description of its format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuilder import places
from envbuilder.document import digest, load_yaml, read_text
from envbuilder.errors import InputError, UnknownName
from envbuilder.recipe import NAME
from envbuilder.shape import Field, ListOf, Shape, Table, Whole, Words, read_document, real_date
from envbuilder.source import URL

SCHEMA = 1
PACKAGE = r"[A-Za-z0-9][A-Za-z0-9.+_-]*"
_SUITE = r"[a-z][a-z0-9-]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where what a description says comes from, and the day it was so."""

    title: str
    url: str = ""
    date: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """A base: what it is made from (`start`, of that `kind`), and the system's packages that are put into it.

    `packages` are in every image, `build_packages` only in the layer that compiles. A base of the kind `local` is a file or a
    folder that is taken as it is.
    """

    schema: int
    name: str
    summary: str
    kind: str
    start: str
    source: Origin
    packages: tuple[str, ...] = ()
    build_packages: tuple[str, ...] = ()
    python: str = "python3"

    def identity(self) -> dict[str, Any]:
        """What decides the layers that are made of it."""
        return {
            "kind": self.kind,
            "start": str(self.start),
            "packages": [str(name) for name in self.packages],
            "build_packages": [str(name) for name in self.build_packages],
        }

    @property
    def digest(self) -> str:
        """The sha256 of its identity."""
        return digest(self.identity())


_PACKAGES = Words(doc="A package of the distribution.", pattern=PACKAGE, example="python3")

BASE = Table(
    build=BaseImage,
    doc="A base of images.",
    fields={
        "schema": Field(shape=Whole(doc="The version of this format.", least=SCHEMA, most=SCHEMA), required=True),
        "name": Field(shape=Words(doc="Its name, the name of its file.", pattern=NAME, example="debian-12"), required=True),
        "summary": Field(shape=Words(doc="One line about it."), required=True),
        "kind": Field(
            shape=Words(
                doc="`debootstrap`: a distribution's packages, from where this machine's apt takes them.",
                choices=("debootstrap",),
            ),
            required=True,
        ),
        "start": Field(
            shape=Words(
                doc="The suite.",
                pattern=_SUITE,
                example="bookworm",
            ),
            required=True,
        ),
        "source": Field(
            shape=Table(
                build=Origin,
                doc="Where this comes from.",
                fields={
                    "title": Field(shape=Words(doc="The document, or who looked."), required=True),
                    "url": Field(shape=Words(doc="Its address.", pattern=URL, example="https://docs.example.org/base")),
                    "date": Field(shape=Words(doc="The day it was so.", check=real_date, example="2026-11-21"), required=True),
                },
            ),
            required=True,
        ),
        "packages": Field(shape=ListOf(of=_PACKAGES, doc="Packages of every image.")),
        "build_packages": Field(shape=ListOf(of=_PACKAGES, doc="Packages of the layer that compiles, and of no image.")),
        "python": Field(
            shape=Words(doc="The interpreter's command in it.", pattern=r"[A-Za-z0-9_./+-]+", example="python3")
        ),
    },
)  # fmt: skip


def parse(text: str, file: str) -> BaseImage:
    """The base in a text; raises `InputError` with every mistake in it."""
    base = read_document(BASE, load_yaml(text, file))
    if not isinstance(base, BaseImage):
        raise InputError(f"{file}: not a base of images")
    return base


def find(name: str, env: Mapping[str, str]) -> BaseImage:
    """The base of that name, of a description's path, or the local file or folder at a path.

    Raises `UnknownName`, naming those that there are, or `InputError`.
    """
    if name.endswith((".yaml", ".yml")):
        return parse(read_text(Path(name), "base"), name)
    if "/" in name or name.endswith(".sif"):
        return _local(Path(name))
    for folder in places.directories("containers", env):
        path = folder / f"{name}.yaml"
        if path.is_file():
            return parse(read_text(path, "base"), str(path))
    known = ", ".join(sorted(names(env))) or "none"
    raise UnknownName(
        f"there is no base {name[:80]!r}; known are {known}",
        hint="or give the path of a root file system or of a SIF: --base ./rootfs",
    )


def names(env: Mapping[str, str]) -> set[str]:
    """The names of all described bases."""
    return {path.stem for folder in places.directories("containers", env) for path in folder.glob("*.yaml")}


def shape() -> Shape:
    """The description of the format, for the reference page."""
    return BASE


def _local(path: Path) -> BaseImage:
    """A base that is there; what it holds is looked at when it is used."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder", hint="--base takes a name or a path")
    if path.is_dir() and not (path / "usr").is_dir():
        raise InputError(f"{path}: not a root file system: it has no folder usr", hint="name its top folder")
    return BaseImage(
        schema=SCHEMA,
        name=f"local-{path.absolute().name.removesuffix('.sif').lower()}",
        summary=f"what is at {path}",
        kind="local",
        start=str(path.absolute()),
        source=Origin(title="given on the command line"),
    )
