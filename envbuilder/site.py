"""Sites: dated facts about a machine.

Read strictly, like recipes; `SITE` is the one description of the format. A site says nothing about packages. Facts that only
the machine knows (is there an MPI, which Python) are written as `detect` and found by `envbuilder.host`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date
from typing import Any

from envbuilder.container import CONTAINER, Container
from envbuilder.document import Node, load_yaml, where
from envbuilder.errors import InputError, UnknownName
from envbuilder.partition import (
    KEY,
    OPTION,
    PARTITION,
    PATH,
    SOURCE,
    VALID_FROM,
    VALID_UNTIL,
    Partition,
)
from envbuilder.preload import PRELOAD, Preload
from envbuilder.recipe import NAME
from envbuilder.shape import Field, ListOf, MapOf, Shape, Switch, Table, Whole, Words, read_document
from envbuilder.source import URL

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a fact comes from: a document, the part of it, and the day it said so (or of its revision)."""

    title: str
    url: str = ""
    revision: str = ""
    date: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Modules:
    """The module system: `init` is sourced where a login shell does not define `module`; `reset` is run first.

    `forbidden` are verbs that break this machine's environment.
    """

    system: str = "none"
    init: str = ""
    reset: str = ""
    forbidden: tuple[str, ...] = ()
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Qos:
    """A quality of service and its limits; 0 is no limit. `options` come with every job in it."""

    partitions: tuple[str, ...] = ()
    max_nodes: int = 0
    max_minutes: int = 0
    options: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheduler:
    """The batch system and its rules: which options every job must have, what jobs inherit, which QoS there are."""

    kind: str = "none"
    required: tuple[str, ...] = ()
    export: str = ""
    login_shell: bool = False
    options: tuple[str, ...] = ()
    srun_options: tuple[str, ...] = ()
    qos: Mapping[str, Qos] = field(default_factory=dict)
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """Where things live; `root` is the store, `caches` what frameworks would write to HOME. Empty: envbuilder's own.

    `readable_by` says who may look into a store that is made here (`envbuilder.modes`); empty: as the user's umask says.
    """

    root: str = ""
    caches: str = ""
    readable_by: str = ""
    home_on_compute: bool = True
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofRules:
    """What the gate asks of a proof at this site: its greatest age in hours, and whether it must be signed, and by whom.

    `allowed_signers` is a file as ssh-keygen(1) describes it, `image_key` the public key that images must be signed with.
    """

    max_age_hours: int = 168
    signed: bool = False
    allowed_signers: str = ""
    image_key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A machine: its partitions, its paths, its mirrors, and where the facts come from."""

    schema: int
    name: str
    summary: str
    partitions: Mapping[str, Partition]
    default_partition: str
    description: str = ""
    valid_from: str = ""
    valid_until: str = ""
    successor: str = ""
    sources: Mapping[str, Source] = field(default_factory=dict)
    detect: Mapping[str, str] = field(default_factory=dict)
    modules: Modules = field(default_factory=Modules)
    scheduler: Scheduler = field(default_factory=Scheduler)
    paths: Paths = field(default_factory=Paths)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    proof: ProofRules = field(default_factory=ProofRules)
    container: Container = field(default_factory=Container)
    allowed_preloads: tuple[Preload, ...] = ()

    def partition(self, name: str) -> Partition:
        """The partition of that name; raises `UnknownName`, naming those that there are."""
        if name not in self.partitions:
            raise UnknownName(
                f"site {self.name} has no partition {name!r}", hint=f"it has {', '.join(sorted(self.partitions))}"
            )
        return self.partitions[name]

    def expired(self, today: date, partition: str = "") -> str:
        """A warning when the facts of the site, or of one of its partitions, are no longer valid, else nothing."""
        said = []
        if self.valid_until and today.isoformat() > self.valid_until:
            successor = f"; its successor is {self.successor}" if self.successor else ""
            said.append(f"the facts of site {self.name} were valid until {self.valid_until}{successor}")
        chosen = self.partitions.get(partition)
        # a partition that ends with its site has nothing to add
        if (
            chosen is not None
            and not chosen.current(today.isoformat())
            and not (said and chosen.valid_until == self.valid_until)
        ):
            span = f"{chosen.valid_from or 'the beginning'} to {chosen.valid_until or 'now'}"
            said.append(f"the facts of {self.name}/{partition} are those of {span}")
        return "; ".join(said)


_SOURCE = Table(
    build=Source,
    doc="Where facts come from.",
    fields={
        "title": Field(shape=Words(doc="The document."), required=True),
        "url": Field(shape=Words(doc="Its address.", pattern=URL, example="https://docs.example.org/gpu")),
        "revision": Field(
            shape=Words(doc="The revision that was read.", pattern=r"[0-9A-Za-z._-]+", example="7a5396d")
        ),
        "date": Field(shape=Words(doc="The day of that revision.", pattern=r"[0-9]{4}(-[0-9]{2}){0,2}", example="2026-06-24")),
    },
)  # fmt: skip

_MODULES = Table(
    build=Modules,
    doc="The module system.",
    fields={
        "system": Field(
            shape=Words(
                doc="`lmod`, `tcl` (environment-modules), or `none`.",
                choices=("lmod", "tcl", "none"),
            ),
            required=True,
        ),
        "init": Field(
            shape=Words(
                doc="A script that defines `module`, where a login shell does not.",
                pattern=PATH,
                example="/etc/profile.d/lmod.sh",
            )
        ),
        "reset": Field(
            shape=Words(doc="The verb that goes back to the site's own modules.", pattern=r"[a-z_]+", example="restore")
        ),
        "forbidden": Field(
            shape=ListOf(of=Words(doc="A verb.", pattern=r"[a-z_]+", example="purge"), doc="Verbs that break things here.")
        ),
        "source": SOURCE,
    },
)  # fmt: skip

_OPTIONS = Words(doc="An option.", pattern=OPTION, example="--exclusive")

_QOS = Table(
    build=Qos,
    doc="A quality of service.",
    fields={
        "partitions": Field(
            shape=ListOf(
                of=Words(doc="A partition of the scheduler.", pattern=KEY),
                doc="Where it can be asked for; empty: everywhere.",
            )
        ),
        "max_nodes": Field(shape=Whole(doc="The most nodes of a job; 0: no limit.", most=1_000_000)),
        "max_minutes": Field(shape=Whole(doc="The longest job in minutes; 0: no limit.", most=1_000_000)),
        "options": Field(shape=ListOf(of=_OPTIONS, doc="Options that every job in it must have.")),
        "why": Field(shape=Words(doc="What it is for.")),
    },
)

_SCHEDULER = Table(
    build=Scheduler,
    doc="The batch system and its rules.",
    fields={
        "kind": Field(shape=Words(doc="Which it is.", choices=("none", "slurm")), required=True),
        "required": Field(
            shape=ListOf(
                of=Words(doc="An option.", choices=("account", "partition", "qos", "time")),
                doc="What every job must say.",
            )
        ),
        "export": Field(shape=Words(doc="What jobs inherit (--export).", choices=("none", "all"))),
        "login_shell": Field(
            shape=Switch(doc="Whether `module` is there in a job only when its shell is a login shell.")
        ),
        "options": Field(shape=ListOf(of=_OPTIONS, doc="Options of every job.")),
        "srun_options": Field(shape=ListOf(of=_OPTIONS, doc="Options of every launch; some work on srun alone.")),
        "qos": Field(
            shape=MapOf(of=_QOS, keys=KEY, doc="The qualities of service by name; the first that holds a job is taken.")
        ),
        "source": SOURCE,
    },
)

_PATHS = Table(
    build=Paths,
    doc="Where things live on this machine.",
    fields={
        "root": Field(
            shape=Words(
                doc="The store; `$NAME` and `${NAME/from/to}` of the user's environment are expanded.",
                pattern=PATH,
                example="/data/$USER",
            )
        ),
        "readable_by": Field(
            shape=Words(
                doc="Who may look into a new store: its `owner`, the `group` of its folder, `all`; else as the umask says.",
                choices=("owner", "group", "all"),
            )
        ),
        "caches": Field(
            shape=Words(doc="Where run-time caches go instead of HOME.", pattern=PATH, example="/scratch/$USER")
        ),
        "home_on_compute": Field(shape=Switch(doc="Whether compute nodes have HOME.")),
        "source": SOURCE,
    },
)

SITE = Table(
    build=Site,
    doc="An envbuilder site: dated facts about one machine.",
    fields={
        "schema": Field(shape=Whole(doc="The version of this format.", least=SCHEMA, most=SCHEMA), required=True),
        "name": Field(shape=Words(doc="The site's name, the name of its file.", pattern=NAME, example="local"), required=True),
        "summary": Field(shape=Words(doc="One line about the machine."), required=True),
        "description": Field(shape=Words(doc="What a newcomer should know.", multiline=True)),
        "valid_from": VALID_FROM,
        "valid_until": VALID_UNTIL,
        "successor": Field(shape=Words(doc="The site that follows it.", pattern=NAME, example="local")),
        "sources": Field(
            shape=MapOf(of=_SOURCE, keys=KEY, doc="Where the facts come from, by the keys that `source` names.")
        ),
        "detect": Field(
            shape=MapOf(
                of=Words(doc="A pattern, as in file names.", example="ln0[1-4]"),
                keys=r"hostname|domain|cluster",
                doc="How to know that one is on this machine: `hostname`, `domain`, or `cluster` (the scheduler's name).",
            )
        ),
        "modules": Field(shape=_MODULES),
        "scheduler": Field(shape=_SCHEDULER),
        "paths": Field(shape=_PATHS),
        "mirrors": Field(
            shape=MapOf(
                of=Words(doc="The local address.", pattern=URL, example="file:///srv/mirror"),
                keys=URL,
                doc="Addresses that this machine replaces, upstream to local, by longest prefix.",
            )
        ),
        "proof": Field(
            shape=Table(
                build=ProofRules,
                doc="What the gate asks of a proof here.",
                fields={
                    "max_age_hours": Field(shape=Whole(doc="The greatest age of a proof, in hours.", least=1, most=8760)),
                    "signed": Field(shape=Switch(doc="Whether a proof must be signed.")),
                    "allowed_signers": Field(
                        shape=Words(doc="The file that says whose signature counts.", pattern=PATH, example="/etc/ssh/signers")
                    ),
                    "image_key": Field(
                        shape=Words(
                            doc="The public key (PEM) that images must be signed with.",
                            pattern=PATH,
                            example="/etc/ssl/images.pem",
                        )
                    ),
                },
            )
        ),
        "container": Field(shape=CONTAINER),
        "allowed_preloads": Field(
            shape=ListOf(of=PRELOAD, doc="Libraries that LD_PRELOAD may name here; any other fails a verify.")
        ),
        "default_partition": Field(
            shape=Words(doc="The partition that is meant when none is named.", pattern=NAME, example="host"), required=True
        ),
        "partitions": Field(
            shape=MapOf(of=PARTITION, keys=NAME, doc="The classes of nodes, by name."), required=True
        ),
    },
)  # fmt: skip


def parse(text: str, file: str) -> Site:
    """The site in a text; raises `InputError` with every mistake in it."""
    return from_node(load_yaml(text, file))


def from_node(node: Node) -> Site:
    """The site in a document; raises `InputError`."""
    site = read_document(SITE, node)
    if not isinstance(site, Site):
        raise InputError(f"{node.mark}: not a site")
    if site.default_partition not in site.partitions:
        known = ", ".join(sorted(site.partitions)) or "none"
        raise InputError(
            f"{where(site.default_partition)}default_partition: there is no partition {site.default_partition!r}",
            hint=f"the partitions are {known}",
        )
    mistakes = [*_unknown_sources(site), *_contradictions(site)]
    if mistakes:
        raise InputError("\n".join(mistakes))
    return site


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a site."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "envbuilder site", **SITE.schema()}


def shape() -> Shape:
    """The description of the format, for the reference page."""
    return SITE


def cited(value: Any) -> Iterator[tuple[str, ...]]:
    """The `source` of every table of facts below a value."""
    if isinstance(value, Mapping):
        for child in value.values():
            yield from cited(child)
    elif isinstance(value, tuple):
        for child in value:
            yield from cited(child)
    elif is_dataclass(value):
        for entry in fields(value):
            child = getattr(value, entry.name)
            if entry.name == "source":
                yield child
            else:
                yield from cited(child)


def _unknown_sources(site: Site) -> Iterator[str]:
    known = ", ".join(site.sources) or "none"
    for keys in cited(site):
        for key in keys:
            if key not in site.sources:
                yield f"{where(key)}source: {key!r} is not a key of `sources`; known are {known}"


def _contradictions(site: Site) -> Iterator[str]:
    """What each key allows by itself and what does not go together."""
    if site.modules.reset and site.modules.reset in site.modules.forbidden:
        yield f"{where(site.modules.reset)}modules: {site.modules.reset!r} is forbidden here; leave `reset` out"
    for name, partition in site.partitions.items():
        if partition.modules and site.modules.system == "none":
            yield (
                f"{where(partition.modules[0])}partitions.{name}.modules: this site has no module system; "
                "write `modules: {system: lmod}` or leave the list out"
            )
        if partition.launch.launcher == "srun" and site.scheduler.kind == "none":
            place = where(partition.launch.launcher)
            yield f"{place}partitions.{name}.launch: srun needs a batch system; write `scheduler: {{kind: slurm}}`"
