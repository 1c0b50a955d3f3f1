"""Plans: the ordered steps of a build, as plain data with several readers.

The executor (`envbuilder.build`), the printer and the shell-script writer (`envbuilder.report`) read the same steps. A step
never holds a secret: addresses and certificates of indexes are in `Plan.network`, which the readers treat apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from envbuilder.document import digest
from envbuilder.effect import Effect
from envbuilder.target import Python

# 1980-01-01, the earliest moment that a zip archive can hold: what is made twice is the same file, times included.
SEALED_AT = 315532800


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Run a program. `env` is set for it; with `clean` it sees nothing else but what the modules do.

    `cache_first` names options with which the program is content with what was fetched before; if that fails it is run
    without them. `watch` is a directory in which the paths that match `counted` tell how far it is, of `total`.
    """

    title: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    clean: bool = False
    cache_first: tuple[str, ...] = ()
    watch: Path | None = None
    counted: str = "python*/site-packages/*.dist-info"
    total: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """Write a text file, with its folders."""

    title: str
    path: Path
    text: str
    executable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Remove:
    """Remove a file or a tree, if it is there."""

    title: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Rename within one file system: the moment at which something becomes visible."""

    title: str
    source: Path
    target: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """Write `SHA256SUMS` of the files in a folder and set their times, or (`check`) compare the files with it."""

    title: str
    folder: Path
    check: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """Have a file with this sha256 in the store: from `url`, or made from commits (`parts`: path, address, commit of each)."""

    title: str
    url: str
    sha256: str
    path: Path
    parts: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget:
    """Remove the files of one name from the metadata of every distribution in a tree, and from their RECORDs."""

    title: str
    prefix: Path
    name: str


Action = Run | Write | Remove | Move | Seal | Fetch | Forget


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """Steps whose result is kept: they are skipped when `path` exists. A product may be made on the way to another.

    `makes` is the distribution of which it is a wheel, `scratch` a folder that is removed when it cannot be made.
    """

    title: str
    path: Path
    actions: tuple[Step, ...]
    makes: str = ""
    scratch: Path | None = None

    def every(self) -> Iterator[Action]:
        """Every action in order."""
        for action in self.actions:
            if isinstance(action, Product):
                yield from action.every()
            else:
                yield action


Step = Action | Product

# The fields of actions that a document holds as text and as lists.
_PATHS = {"cwd", "folder", "path", "prefix", "source", "target", "watch"}
_TUPLES = {"argv", "cache_first", "parts"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How one environment is built at `prefix`.

    `inputs` is what its identity is made from; every program runs with the `effect` of the site's `modules`.
    `image` describes the image that it builds, if it does (`environment.Environment.image`), `python` the interpreter that it
    brings, where that is not the target's.
    """

    name: str
    identifier: str
    prefix: Path
    inputs: Mapping[str, Any]
    steps: tuple[Step, ...]
    network: Mapping[str, str] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    effect: Effect = field(default_factory=Effect)
    image: Mapping[str, Any] = field(default_factory=dict)
    python: Python | None = None

    @property
    def digest(self) -> str:
        """The sha256 of everything that the environment is made from."""
        return digest(self.inputs)

    def actions(self) -> Iterator[Action]:
        """Every action in order, those of products included."""
        for step in self.steps:
            if isinstance(step, Product):
                yield from step.every()
            else:
                yield step

    def to_document(self) -> dict[str, Any]:
        """Plain data, without the network settings."""
        return {
            "name": self.name,
            "environment": self.identifier,
            "prefix": str(self.prefix),
            "inputs": dict(self.inputs),
            **({"modules": list(self.modules), "effect": self.effect.to_document()} if self.effect else {}),
            "steps": [step_document(step) for step in self.steps],
        }


def step_document(step: Step) -> dict[str, Any]:
    """One step as plain data; `digest` is that of everything that the step does."""
    if isinstance(step, Product):
        document: dict[str, Any] = {
            "do": "product",
            "title": step.title,
            "path": str(step.path),
            "steps": [step_document(action) for action in step.actions],
        }
    else:
        values = {key: _plain(value) for key, value in asdict(step).items()}
        document = {"do": type(step).__name__.lower(), **values}
    return {**document, "digest": digest(document)}


def from_document(document: Mapping[str, Any], network: Mapping[str, str]) -> Plan:
    """The plan of a document, if all its products are there: they are left out of its steps, since they would be skipped.

    Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` for a damaged one, and where a product is missing.
    """
    steps = []
    for step in document["steps"]:
        if step["do"] != "product":
            steps.append(_action(step))
        elif not Path(step["path"]).exists():
            raise ValueError(f"{step['path']} is missing")
    return Plan(
        name=str(document["name"]), identifier=str(document["environment"]), prefix=Path(document["prefix"]),
        inputs=document["inputs"], steps=tuple(steps), network=network,
    )  # fmt: skip


def _action(document: Mapping[str, Any]) -> Action:
    (kind,) = (one for one in get_args(Action) if one.__name__.lower() == document["do"])
    values = {key: document[key] for key in kind.__dataclass_fields__}
    for key in _PATHS & set(values):
        values[key] = None if values[key] is None else Path(values[key])
    for key in _TUPLES & set(values):
        values[key] = tuple(tuple(one) if isinstance(one, list) else one for one in values[key])
    return kind(**values)  # type: ignore[no-any-return]


def identifier(recipe: str, version: str, inputs: Mapping[str, Any]) -> str:
    """The environment's identifier: recipe, version, and twelve digits of the digest of its inputs."""
    return f"{recipe}-{version}-{digest(inputs)[:12]}"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
