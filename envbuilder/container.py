"""What a site says of images: the program that runs them there, and what they need of the host inside.

Two kinds of needs: those of every image, such as file systems and sockets; and those of the host's MPI where it takes the place
of the image's, which differ from one MPI and network to the next. Plain data and choices; nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envbuilder.partition import PATH, SOURCE
from envbuilder.shape import Field, ListOf, MapOf, Table, Words
from envbuilder.source import VARIABLE

# `cray-mpich@8.1.27/slingshot10`: the MPI, its version or every one, the network or every one
MPI_KEY = r"[a-z][a-z0-9-]*(@[0-9][0-9A-Za-z.]*)?(/[A-Za-z][A-Za-z0-9_.-]*)?"
# as the runtimes take it: colons and commas separate
BIND = r"(/|~/|\$\{?[A-Z][A-Z0-9_]*)[^\x00:,]*(:/[^\x00:,]*)?"
RUNTIMES = ("apptainer", "singularity", "shifter", "podman-hpc")
# What an image cannot do without, or what it is there for: nothing may be mounted there.
ITS_OWN = (
    "/", "/bin", "/etc", "/lib", "/lib64", "/opt", "/sbin", "/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSide:
    """What one MPI of the host needs in an image: `SOURCE` or `SOURCE:TARGET` to bind, folders of libraries, variables.

    What is in `optional_binds` is bound where it is there; what is in `binds` must be. The MPI's library and what it is linked
    with are bound without being named.
    """

    binds: tuple[str, ...] = ()
    optional_binds: tuple[str, ...] = ()
    library_path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """How images are run at a site: by which program, with what of the host in each, and with what for which MPI."""

    runtime: str = ""
    binds: tuple[str, ...] = ()
    optional_binds: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mpi: Mapping[str, HostSide] = field(default_factory=dict)
    source: tuple[str, ...] = ()


def _binds(doc: str) -> Field:
    return Field(
        shape=ListOf(of=Words(doc="What is bound, and where if elsewhere.", pattern=BIND, example="/opt/cray"), doc=doc)
    )


_ENV = Field(
    shape=MapOf(of=Words(doc="A value."), keys=VARIABLE, doc="Variables inside, where the user has set no other value.")
)

_HOST_SIDE = Table(
    build=HostSide,
    doc="What one MPI of the host needs in an image, beside its library and what that is linked with.",
    fields={
        "binds": _binds("Files and folders of the host that must be there: `SOURCE` or `SOURCE:TARGET`."),
        "optional_binds": _binds("The same, bound where they are there."),
        "library_path": Field(
            shape=ListOf(
                of=Words(doc="A folder, as it is named inside.", pattern=PATH, example="/opt/cray/pe/lib64"),
                doc="Where libraries are looked for inside, after the MPI's own, before those of the image.",
            )
        ),
        "env": _ENV,
        "source": SOURCE,
    },
)

CONTAINER = Table(
    build=Container,
    doc="How images are run here.",
    fields={
        "runtime": Field(shape=Words(doc="The program that runs images here.", choices=RUNTIMES)),
        "binds": _binds("What every image has of the host and must be there: `SOURCE` or `SOURCE:TARGET`."),
        "optional_binds": _binds("The same, bound where they are there."),
        "env": _ENV,
        "mpi": Field(
            shape=MapOf(
                of=_HOST_SIDE,
                keys=MPI_KEY,
                doc="What the host's MPI needs (`--mpi host`), by `NAME`, `NAME@VERSION` and, after a slash, the partition's "
                "`fabric`; the most exact key counts.",
            )
        ),
        "source": SOURCE,
    },
)


def fitting(container: Container, name: str, version: str, fabric: str) -> str:
    """The key of the most exact entry for an MPI on a network; empty where there is none."""
    found = [key for key in container.mpi if fits(key, name, version, fabric)]
    return max(found, key=lambda key: (len(parts(key)[1]), bool(parts(key)[2])), default="")


def fits(key: str, name: str, version: str, fabric: str) -> bool:
    """Whether a key means this MPI on this network; `8.1` is every 8.1.x."""
    wanted, numbers, network = parts(key)
    same = not numbers or version == numbers or version.startswith(f"{numbers}.")
    return wanted == name and same and network in ("", fabric)


def parts(key: str) -> tuple[str, str, str]:
    """Name, version and network of a key, each but the first perhaps empty."""
    mpi, _, network = key.partition("/")
    name, _, version = mpi.partition("@")
    return name, version, network


def facts(container: Container, key: str = "") -> dict[str, Any]:
    """What an image gets, as plain data: that of every image, and that of one MPI; empty where the site says nothing."""
    side = container.mpi[key] if key else HostSide()
    found = {
        "binds": [str(one) for one in (*container.binds, *side.binds)],
        "optional_binds": [str(one) for one in (*container.optional_binds, *side.optional_binds)],
        "library_path": [str(one) for one in side.library_path],
        "env": {str(name): str(value) for name, value in {**container.env, **side.env}.items()},
    }
    return {name: value for name, value in found.items() if value}


def ends(bind: str) -> tuple[str, str]:
    """What is bound, and where to."""
    source, _, target = bind.partition(":")
    return source, target or source


def hides(bind: str) -> bool:
    """Whether a bind would lie over what an image has of its own: its system, or the environment in it."""
    target = ends(bind)[1].rstrip("/") or "/"
    ours = f"{target}/".startswith("/opt/envbuilder/") and not target.startswith("/opt/envbuilder/host/")
    return target in ITS_OWN or ours
