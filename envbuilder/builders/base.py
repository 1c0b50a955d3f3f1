"""The builder seam: what every builder can do.

A builder is a module that satisfies this protocol. Only `lock` may touch the network for resolving; only `envbuilder.build`
and `envbuilder.verify` have effects on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from envbuilder.environment import Environment
from envbuilder.lock import Lock
from envbuilder.pip_config import PipConfig
from envbuilder.plan import Plan
from envbuilder.process import EnvPatch
from envbuilder.request import Request
from envbuilder.site import Site
from envbuilder.target import Target

if TYPE_CHECKING:
    from envbuilder.host_mpi import HostMpi
    from envbuilder.runtime import Runtime


@dataclass(frozen=True, kw_only=True, slots=True)
class LockOptions:
    """How a lock is resolved.

    `previous` is a lock whose versions are kept where they still fit, except for the distributions in `upgrade` (all of
    them with `upgrade_all`); `exclude_newer` ignores what was published after that moment.
    """

    previous: Lock | None = None
    upgrade: tuple[str, ...] = ()
    upgrade_all: bool = False
    exclude_newer: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """What an image is built on, and by what.

    `sif` is the layer that the image starts from and `digest` its sha256, `build_sif` the one that compiles; `recipe` the
    text of the recipe that goes into the image. `host_mpi` is the MPI of the host that takes the place of the image's,
    `mpiexec` the host's program that starts its ranks ("": the image's own); `path` is where the runtime finds its tools,
    `container` what the site has images get (`envbuilder.container.facts`).
    """

    name: str
    digest: str
    sif: Path
    build_sif: Path
    runtime: Runtime
    compression: str
    recipe: str
    path: str
    host_mpi: HostMpi | None = None
    mpiexec: str = ""
    container: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """Where a builder works: the store's root, pip's configuration, the site, and the log.

    With `artefacts`, a folder of whole files (see `envbuilder.artefacts`), everything is taken from there and the network
    is off. `layers` is what an image is built on.
    """

    root: Path
    pip: PipConfig
    site: Site
    log: Path
    artefacts: Path | None = None
    layers: Layers | None = None


class Builder(Protocol):
    """What `envbuilder.builders.builder` gives."""

    def missing(self, target: Target) -> str:
        """Why this builder cannot work on a target, or nothing."""

    def lock(self, request: Request, target: Target, options: LockOptions, place: Workplace) -> Lock:
        """The lock that answers a request; raises `CommandFailed` or `InputError`."""

    def plan(
        self, lock: Lock, target: Target, place: Workplace, *, generation: int = 0, prefix: Path | None = None
    ) -> Plan:
        """How to build what a lock says; pure but for looking at files by name.

        `generation` makes another identity of the same inputs; `prefix` another place than the store's.
        """

    def enter(self, environment: Environment, base: Mapping[str, str]) -> EnvPatch:
        """The patch that lets a process with the variables `base` run in the environment."""
