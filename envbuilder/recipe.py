"""Recipes: what is wanted, with no machine in it.

A recipe is read strictly (see `envbuilder.shape`); its strings may hold template expressions that are rendered later,
against one variant and one partition (`envbuilder.request`). `RECIPE` is the one description of the format: the reader,
the JSON Schema and the reference page all come from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envbuilder import template
from envbuilder.document import Node, Text, load_yaml, where
from envbuilder.errors import InputError
from envbuilder.shape import Field, ListOf, MapOf, Shape, Table, Whole, Words, read_document
from envbuilder.source import PACKAGE, SOURCE, URL, VARIABLE, VERSION, Source, requirement_problem
from envbuilder.source import mistakes as source_mistakes

SCHEMA = 1

NAME = r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?"
MODULE = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
CHANNEL = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}){0,4}|" + URL
SPEC = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}([ ]*[0-9<>=!~*][A-Za-z0-9_.,|<>=!~*+ -]{0,100})?"
MODULE_FILE = r"[A-Za-z0-9][A-Za-z0-9_.+-]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*)*"

FEATURES = ("gpu", "horovod", "mpi4py", "onednn", "tensorflow", "torch", "torch-mpi")
# features whose checks speak of others, too
BESIDE = {"torch-mpi": ("mpi4py", "torch")}
NEEDS = ("cpu", "mpi", "gpu-amd", "gpu-intel", "gpu-nvidia")


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A package index beside the machine's own; it may be out of reach where another place has the files."""

    url: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One buildable version row of a recipe.

    `toolkit` is the GPU toolkit that its files are built for (`rocm>=6.3,<6.4`), `tag` how its index and its versions name
    that (`rocm6.3`).
    """

    version: str
    python: str = ">=3.10"
    packages: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    toolkit: str = ""
    tag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a layer is put on: a module of the site that carries a Python with packages."""

    module: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaPart:
    """What the builder `conda` takes from conda's channels; all the rest comes from the package index."""

    channels: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetting:
    """An environment variable at run time: `set` to `to`, or `unset`, with the reason."""

    why: str
    set: str = ""
    to: str = ""
    unset: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Data that the program reads: the variable that names the folder or file, and what it is."""

    variable: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Infeasible:
    """A condition (`gpu=amd`, or several joined by commas) under which the recipe cannot work, and why."""

    when: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe as written, before any template is rendered; a layer has its base already merged in."""

    schema: int
    name: str
    summary: str
    description: str = ""
    extends: str = ""
    base: Base | None = None
    features: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    not_in_spack: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    packages: tuple[str, ...] = ()
    indexes: tuple[Index, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    conda: CondaPart = field(default_factory=CondaPart)
    environment: tuple[RunSetting, ...] = ()
    data: tuple[Data, ...] = ()
    infeasible: tuple[Infeasible, ...] = ()

    def variant(self, version: str) -> Variant:
        """The row of that version; raises `InputError`, naming the versions that there are."""
        for row in self.variants:
            if row.version == version:
                return row
        known = ", ".join(row.version for row in self.variants)
        raise InputError(f"recipe {self.name} has no variant {version!r}", hint=f"it has {known}")


def _specifier(text: str) -> str | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return f"{text[:80]!r} is not a version specifier (PEP 440)"
    return None


_INDEX = Table(
    build=Index,
    doc="A package index beside the machine's own.",
    fields={
        "url": Field(
            shape=Words(
                doc="The address of the index.", pattern=URL, example="https://example.org/simple", rendered=True
            ),
            required=True,
        ),
        "why": Field(shape=Words(doc="Why it is needed."), required=True),
    },
)

_VARIANT = Table(
    build=Variant,
    doc="One buildable version row; the first that fits the machine is the default, so the newest comes first.",
    fields={
        "version": Field(
            shape=Words(doc="Its version, the key of the row.", pattern=VERSION, example="2.13.0"), required=True
        ),
        "python": Field(
            shape=Words(doc="The Python versions it works with (PEP 440).", check=_specifier, example=">=3.10,<3.14")
        ),
        "packages": Field(shape=ListOf(of=PACKAGE, doc="Requirements of this row alone.")),
        "indexes": Field(shape=ListOf(of=_INDEX, doc="Indexes of this row alone.")),
        "toolkit": Field(
            shape=Words(
                doc="The GPU toolkit that its files are built for, with the versions of it that fit.",
                pattern=r"(rocm|cuda|oneapi)[^;@\[]*",
                check=requirement_problem,
                example="rocm>=6.3,<6.4",
            )
        ),
        "tag": Field(
            shape=Words(doc="How indexes and versions name that toolkit.", pattern=r"[a-z]+[0-9.]*", example="rocm6.3")
        ),
    },
)

_SETTING = Table(
    build=RunSetting,
    doc="An environment variable at run time.",
    one_of=("set", "unset"),
    fields={
        "set": Field(shape=Words(doc="The variable to set.", pattern=VARIABLE, example="OMP_NUM_THREADS")),
        "to": Field(shape=Words(doc="The value it gets.", rendered=True)),
        "unset": Field(shape=Words(doc="The variable to remove.", pattern=VARIABLE, example="OMP_NUM_THREADS")),
        "why": Field(shape=Words(doc="The reason."), required=True),
    },
)

_DATA = Table(
    build=Data,
    doc="Data that the program reads, which every node must be able to.",
    fields={
        "variable": Field(
            shape=Words(doc="The variable that names the folder or file.", pattern=VARIABLE, example="DEEPCAM_DATA"),
            required=True,
        ),
        "why": Field(shape=Words(doc="What it is."), required=True),
    },
)

_INFEASIBLE = Table(
    build=Infeasible,
    doc="A machine on which the recipe cannot work.",
    fields={
        "when": Field(
            shape=Words(
                doc="`key=value` conditions joined by commas; the keys are site, partition, arch, mpi, "
                "provider (of the MPI), gpu, variant.",
                pattern=r"[a-z]+=[A-Za-z0-9._*-]+(, *[a-z]+=[A-Za-z0-9._*-]+)*",
                example="gpu=amd",
            ),
            required=True,
        ),
        "why": Field(shape=Words(doc="Why, and what to use instead."), required=True),
    },
)

_BASE = Table(
    build=Base,
    doc="A module of the site that this recipe is a layer on: its packages are used where they lie, and not installed again.",
    fields={
        "module": Field(
            shape=Words(doc="The module.", pattern=MODULE_FILE, example="pytorch/1.13.1-gpu"),
            required=True,
        ),
        "why": Field(shape=Words(doc="Why it is taken from the site."), required=True),
    },
)

_CONDA = Table(
    build=CondaPart,
    doc="What `--builder conda` takes from conda's channels; the rest of the recipe comes from the package index, beside it.",
    fields={
        "channels": Field(
            shape=ListOf(
                of=Words(doc="A channel: its name or address.", pattern=CHANNEL, example="conda-forge"),
                doc="The channels, the one that wins first; conda-forge if left out.",
            )
        ),
        "packages": Field(
            shape=ListOf(
                of=Words(doc="A package (conda's match spec).", pattern=SPEC, example="numpy >=1.26,<2", rendered=True),
                doc="The packages, beside Python itself.",
            )
        ),
    },
)

RECIPE = Table(
    build=Recipe,
    doc="An envbuilder recipe: what an environment must hold, with no machine in it.",
    fields={
        "schema": Field(shape=Whole(doc="The version of this format.", least=SCHEMA, most=SCHEMA), required=True),
        "name": Field(
            shape=Words(doc="The recipe's name, the name of its folder.", pattern=NAME, example="pytorch-cpu"),
            required=True,
        ),
        "summary": Field(shape=Words(doc="One line: what one gets."), required=True),
        "description": Field(shape=Words(doc="What a user should know before choosing it.", multiline=True)),
        "extends": Field(shape=Words(doc="The recipe that this one is a layer on.", pattern=NAME, example="pytorch-cpu")),
        "base": Field(shape=_BASE),
        "features": Field(
            shape=ListOf(of=Words(doc="A feature.", choices=FEATURES), doc="What it can do; features choose the checks.")
        ),
        "needs": Field(
            shape=ListOf(of=Words(doc="A need.", choices=NEEDS), doc="What a partition must offer.")
        ),
        "specs": Field(
            shape=ListOf(
                of=Words(
                    doc="A spec in Spack's syntax, of a package that is named.", example="py-mpi4py@4:", rendered=True
                ),
                doc="The same wish as Spack specs.",
            )
        ),
        "not_in_spack": Field(
            shape=ListOf(
                of=Words(
                    doc="A distribution.", pattern=r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", example="warmup-scheduler"
                ),
                doc="Distributions of which Spack has no package; an export writes one from the lock.",
            )
        ),
        "imports": Field(
            shape=ListOf(of=Words(doc="A module.", pattern=MODULE, example="torch"), doc="Modules that must import.")
        ),
        "variants": Field(shape=ListOf(of=_VARIANT, doc="The buildable versions, newest first.")),
        "packages": Field(shape=ListOf(of=PACKAGE, doc="Requirements of every variant.")),
        "indexes": Field(shape=ListOf(of=_INDEX, doc="Package indexes beside the machine's own.")),
        "sources": Field(shape=MapOf(of=SOURCE, doc="What is compiled here, by name.")),
        "conda": Field(shape=_CONDA),
        "environment": Field(shape=ListOf(of=_SETTING, doc="Environment variables at run time, each with its reason.")),
        "data": Field(shape=ListOf(of=_DATA, doc="Variables that lead to data: verify reads there, on every node.")),
        "infeasible": Field(shape=ListOf(of=_INFEASIBLE, doc="Where it cannot work, each with its reason.")),
    },
)  # fmt: skip


def parse(text: str, file: str) -> Recipe:
    """The recipe in a text, without its base; raises `InputError` with every mistake in it."""
    return from_node(load_yaml(text, file))


def from_node(node: Node) -> Recipe:
    """The recipe in a document; templates are checked for form, not rendered."""
    _refuse_other_schema(node)
    recipe = read_document(RECIPE, node)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{node.mark}: not a recipe")
    mistakes = [*_template_mistakes(node), *_variant_mistakes(recipe), *_setting_mistakes(recipe)]
    if recipe.specs:
        from envbuilder import spec_text

        mistakes += spec_text.mistakes(recipe.specs)
    mistakes += [line for name, source in recipe.sources.items() for line in source_mistakes(name, source)]
    if mistakes:
        raise InputError("\n".join(mistakes))
    return recipe


def layered(layer: Recipe, base: Recipe) -> Recipe:
    """The layer on its base: lists are joined base first, the layer's variants win if it has any."""
    return Recipe(
        schema=layer.schema,
        name=layer.name,
        summary=layer.summary,
        description=layer.description,
        extends=layer.extends,
        base=layer.base or base.base,
        features=_joined(base.features, layer.features),
        needs=_joined(base.needs, layer.needs),
        specs=_joined(base.specs, layer.specs),
        not_in_spack=_joined(base.not_in_spack, layer.not_in_spack),
        imports=_joined(base.imports, layer.imports),
        variants=layer.variants or base.variants,
        packages=_joined(base.packages, layer.packages),
        indexes=base.indexes + layer.indexes,
        sources={**base.sources, **layer.sources},
        conda=CondaPart(
            channels=_joined(base.conda.channels, layer.conda.channels),
            packages=_joined(base.conda.packages, layer.conda.packages),
        ),
        environment=base.environment + layer.environment,
        data=base.data + layer.data,
        infeasible=base.infeasible + layer.infeasible,
    )


def feature_mistakes(recipe: Recipe) -> list[str]:
    """Features of a whole recipe, its bases merged in, that lack the ones which they stand on."""
    return [
        f"{where(feature)}features: {feature} needs {' and '.join(lacking)} beside it; write `features: "
        f"[{', '.join((*lacking, *recipe.features))}]`"
        for feature in recipe.features
        if (lacking := [other for other in BESIDE.get(feature, ()) if other not in recipe.features])
    ]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a recipe."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "envbuilder recipe", **RECIPE.schema()}


def shape() -> Shape:
    """The description of the format, for the reference page."""
    return RECIPE


def _joined(base: tuple[str, ...], layer: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(base + layer))


def _refuse_other_schema(node: Node) -> None:
    entries = node.value if isinstance(node.value, dict) else {}
    version = entries["schema"].value if "schema" in entries else SCHEMA
    if isinstance(version, int) and version > SCHEMA:
        raise InputError(
            f"{entries['schema'].mark}: schema {version} is newer than this envbuilder (which reads {SCHEMA})",
            hint="upgrade envbuilder: python -m pip install --upgrade envbuilder",
        )


def _template_mistakes(node: Node) -> list[str]:
    if isinstance(node.value, dict):
        return [line for child in node.value.values() for line in _template_mistakes(child)]
    if isinstance(node.value, list):
        return [line for child in node.value for line in _template_mistakes(child)]
    wrong = template.problem(node.value) if isinstance(node.value, Text) else None
    return [f"{node.mark}: {node.path}: {wrong}; only plain {{{{ expressions }}}} are allowed"] if wrong else []


def _variant_mistakes(recipe: Recipe) -> list[str]:
    seen: set[str] = set()
    mistakes = []
    for row in recipe.variants:
        if row.version in seen:
            mistakes.append(f"{where(row.version)}variants: version {row.version} is there twice; keep one")
        seen.add(row.version)
    if not recipe.variants and not recipe.extends:
        mistakes.append(f"{where(recipe.name)}variants: a recipe without a base needs at least one; add `variants:`")
    return mistakes


def _setting_mistakes(recipe: Recipe) -> list[str]:
    return [
        f"{where(setting.unset)}environment: `unset` takes no `to`; remove it"
        for setting in recipe.environment
        if setting.unset and setting.to
    ]
