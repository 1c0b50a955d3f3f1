"""What an image starts from: a description in `containers/`, or a file or folder that is there already.

A description is data like a recipe; `BASE` is the one description of its format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
# The name of an image in a registry, with a tag or a digest.
OCI = r"[a-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9](@sha256:[0-9a-f]{64})?"
_SUITE = r"[a-z][a-z0-9-]*"
# Where an image comes from, and its digest as each kind of registry writes it.
_SCHEME = r"(docker|oras|library)://"
_REFERENCE = rf"{_SCHEME}[A-Za-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{{64}})?"
_FIXED = re.compile(rf"{_SCHEME}[^@]+@sha256:[0-9a-f]{{64}}|library://[^@]+:sha256\.[0-9a-f]{{64}}")
MANAGERS = ("apt", "dnf", "zypper")


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
    folder that is taken as it is. `manager` installs the packages; of a debootstrap, `components` are those of the distribution
    that they are in, `keyring` the file that it is checked with. `tried` says where it was tried. `oci` is what the same base
    is called in registries, for Containerfiles.
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
    manager: str = "apt"
    components: tuple[str, ...] = ()
    keyring: str = ""
    tried: str = ""
    oci: str = ""

    def identity(self) -> dict[str, Any]:
        """What decides the layers that are made of it."""
        return {
            "kind": self.kind,
            "start": str(self.start),
            "packages": [str(name) for name in self.packages],
            "build_packages": [str(name) for name in self.build_packages],
            # what came later counts where it is not what it was before
            **({"manager": str(self.manager)} if self.manager != "apt" else {}),
            **({"components": [str(name) for name in self.components]} if self.components else {}),
        }

    @property
    def fixed(self) -> bool:
        """Whether it names the very bytes: an image of a registry does so by its digest alone."""
        return self.kind != "image" or _FIXED.fullmatch(str(self.start)) is not None

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
                doc="`debootstrap`: a distribution's packages, from where this machine's apt takes them. `image`: a "
                "registry's image.",
                choices=("debootstrap", "image"),
            ),
            required=True,
        ),
        "start": Field(
            shape=Words(
                doc="The suite; or the image's address, to which `--base NAME@sha256:...` adds the digest.",
                pattern=rf"{_SUITE}|{_REFERENCE}",
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
        "manager": Field(shape=Words(doc="What installs packages.", choices=MANAGERS)),
        "components": Field(
            shape=ListOf(
                of=Words(doc="A component of the distribution.", pattern=_SUITE, example="universe"),
                doc="Components of the distribution beside `main` that have the packages.",
            )
        ),
        "keyring": Field(
            shape=Words(
                doc="The file below /usr/share/keyrings that a debootstrap is checked with.",
                pattern=PACKAGE,
                example="debian-archive-keyring.gpg",
            )
        ),
        "tried": Field(shape=Words(doc="Where an image on it was built and verified; left out: nowhere.")),
        "oci": Field(
            shape=Words(
                doc="What the same base is called in OCI registries, for Containerfiles.",
                pattern=OCI,
                example="docker.io/library/debian:bookworm",
            )
        ),
    },
)  # fmt: skip


def parse(text: str, file: str) -> BaseImage:
    """The base in a text; raises `InputError` with every mistake in it."""
    base = read_document(BASE, load_yaml(text, file))
    if not isinstance(base, BaseImage):
        raise InputError(f"{file}: not a base of images")
    if ("://" in base.start) != (base.kind == "image"):
        wanted = "the address of an image, as docker://HOST/NAME" if base.kind == "image" else "a suite, as bookworm"
        raise InputError(f"{file}: start: {str(base.start)!r} is not what the kind {base.kind} starts from: {wanted}")
    return base


def find(name: str, env: Mapping[str, str]) -> BaseImage:
    """The base of that name, of a description's path, the image at an address, or the local file or folder at a path.

    `NAME@sha256:...` gives the digest of the image that a description names. Raises `UnknownName`, naming those that there are,
    or `InputError`; also for an image without a digest, which could be another one tomorrow.
    """
    if re.match(_SCHEME, name):
        return _refuse_unfixed(_at(name), name)
    plain, _, digest_of_it = name.partition("@")
    if plain.endswith((".yaml", ".yml")):
        return _refuse_unfixed(_with(parse(read_text(Path(plain), "base"), plain), digest_of_it), plain)
    if "/" in name or name.endswith(".sif"):
        return _local(Path(name))
    for folder in places.directories("containers", env):
        path = folder / f"{plain}.yaml"
        if path.is_file():
            return _refuse_unfixed(_with(parse(read_text(path, "base"), str(path)), digest_of_it), plain)
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


def _at(address: str) -> BaseImage:
    """The image at an address, taken as it is."""
    if not re.fullmatch(rf"{_REFERENCE}|library://\S+:sha256\.[0-9a-f]{{64}}", address):
        raise InputError(
            f"--base: {address[:120]!r} is not an image's address", hint="write it as docker://HOST/NAME@sha256:DIGEST"
        )
    last = re.split(r"[:@]", address.rpartition("/")[2])[0].lower()
    return BaseImage(
        schema=SCHEMA,
        name=f"image-{last}",
        summary=f"the image {address}",
        kind="image",
        start=address,
        source=Origin(title="given on the command line"),
    )


def _with(base: BaseImage, digest_of_it: str) -> BaseImage:
    """The base with the digest of its image, in the place of a tag or another digest."""
    if not digest_of_it:
        return base
    if base.kind != "image" or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest_of_it):
        what = "is no image of a registry" if base.kind != "image" else f"{digest_of_it[:80]!r} is not a digest"
        raise InputError(
            f"--base: {base.name}: {what}", hint="an image's digest is written as sha256:64 hexadecimal digits"
        )
    scheme, _, rest = str(base.start).partition("://")
    host, slash, image = rest.partition("@")[0].rpartition("/")
    return replace(base, start=f"{scheme}://{host}{slash}{image.partition(':')[0]}@{digest_of_it}")


def _refuse_unfixed(base: BaseImage, name: str) -> BaseImage:
    if not base.fixed:
        raise InputError(
            f"{name} names no digest, and the image behind a tag may be another one tomorrow",
            hint=f"give it: --base {name.partition('@')[0]}@sha256:..., as the registry or `skopeo inspect` says",
        )
    return base


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
