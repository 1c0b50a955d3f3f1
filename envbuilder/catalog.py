"""Find recipes and sites by name or by path, and say where each came from.

A user's directories shadow the shipped ones (`envbuilder.places`); a whole file wins, nothing is merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from envbuilder import recipe as recipe_format
from envbuilder import site as site_format
from envbuilder import source
from envbuilder.document import read_text, where
from envbuilder.environment import Environment
from envbuilder.errors import InputError, UnknownName
from envbuilder.places import Origin, directories
from envbuilder.recipe import Recipe
from envbuilder.site import Site

MAX_LAYERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRecipe:
    """A recipe with its bases merged in, the files it came from (itself first), and the version asked for ("" = any)."""

    recipe: Recipe
    version: str
    origins: tuple[Origin, ...]


def find_recipe(reference: str, env: Mapping[str, str]) -> FoundRecipe:
    """The recipe that `name`, `name@version` or `path[@version]` means; raises `InputError` or `UnknownName`."""
    name, _, version = reference.partition("@") if "/" not in reference else _split_path(reference)
    origin = recipe_origin(name, env)
    return _with_bases(origin, version, env)


def put_on(found: FoundRecipe, module: str) -> FoundRecipe:
    """The recipe as a layer on a module of the site, instead of on what it extends.

    What its bases can do and are checked for stays; what they install is the module's business. Raises `InputError` for a
    module's name that is none.
    """
    if not re.fullmatch(recipe_format.MODULE_FILE, module):
        raise InputError(f"{module[:80]!r} is not the name of a module", hint="write it as pytorch/1.13.1-gpu")
    layer = read_recipe(found.origins[0])
    row = recipe_format.Variant(version=module.rpartition("/")[2], python=">=3.7")
    return FoundRecipe(
        recipe=replace(
            found.recipe,
            packages=layer.packages,
            indexes=layer.indexes,
            sources=layer.sources,
            variants=(row,),
            infeasible=layer.infeasible,
            base=recipe_format.Base(module=module, why="asked for"),
        ),
        version="",
        origins=found.origins,
    )


def find_site(name: str, env: Mapping[str, str]) -> tuple[Site, Origin]:
    """The site of that name, or in that file; raises `InputError` or `UnknownName`."""
    origin = site_origin(name, env)
    site = site_format.parse(read_text(origin.path, "site"), str(origin.path))
    if "/" not in name and site.name != name:
        raise InputError(
            f"{where(site.name)}the site in this file calls itself {site.name!r}", hint=f"write `name: {name}`"
        )
    return site, origin


def site_of(environment: Environment, env: Mapping[str, str]) -> tuple[Site, Origin]:
    """The site that an environment was built for: in the file that it was built from, else by its name."""
    if environment.site_file and Path(environment.site_file).is_file():
        return find_site(environment.site_file, env)
    return find_site(environment.site, env)


def recipes(env: Mapping[str, str]) -> tuple[Origin, ...]:
    """Every recipe that can be named, by name; of those that are shadowed only the first."""
    return _unshadowed(
        Origin(name=path.parent.name, path=path)
        for folder in directories("recipes", env)
        for path in sorted(folder.glob("*/recipe.yaml"))
    )


def sites(env: Mapping[str, str]) -> tuple[Origin, ...]:
    """Every site that can be named, by name."""
    return _unshadowed(
        Origin(name=path.stem, path=path)
        for folder in directories("sites", env)
        for path in sorted(folder.glob("*.yaml"))
    )


def read_recipe(origin: Origin) -> Recipe:
    """The recipe in one file, without its base."""
    recipe = recipe_format.parse(read_text(origin.path, "recipe"), str(origin.path))
    if origin.path.name == "recipe.yaml" and recipe.name != origin.path.parent.name:
        inside = origin.path.resolve().parent.name
        if recipe.name != inside:
            raise InputError(
                f"{where(recipe.name)}the recipe calls itself {recipe.name!r} and its folder {inside!r}",
                hint="give both the same name",
            )
    folder = origin.path.parent
    return replace(recipe, sources={name: source.filled(one, folder) for name, one in recipe.sources.items()})


def merged(origin: Origin, env: Mapping[str, str]) -> tuple[Recipe, tuple[Origin, ...]]:
    """The recipe in a file with its bases merged in, and all the files; raises `InputError` for a circle of bases."""
    recipe = read_recipe(origin)
    origins = [origin]
    layers = [recipe]
    while layers[-1].extends:
        base = layers[-1].extends
        if len(layers) >= MAX_LAYERS or any(base == layer.name for layer in layers):
            chain = " -> ".join([*(layer.name for layer in layers), base])
            raise InputError(f"{where(base)}extends: the layers go round in a circle or too deep: {chain}")
        try:
            below = recipe_origin(str(base), env)
        except UnknownName as error:
            raise InputError(f"{where(base)}extends: {error.message}", hint=error.hint) from error
        origins.append(below)
        layers.append(read_recipe(below))
    result = layers[-1]
    for layer in reversed(layers[:-1]):
        result = recipe_format.layered(layer, result)
    mistakes = recipe_format.feature_mistakes(result)
    if mistakes:
        raise InputError("\n".join(mistakes))
    return result, tuple(origins)


def _with_bases(origin: Origin, version: str, env: Mapping[str, str]) -> FoundRecipe:
    recipe, origins = merged(origin, env)
    if version:
        recipe.variant(version)
    return FoundRecipe(recipe=recipe, version=version, origins=origins)


def _split_path(reference: str) -> tuple[str, str, str]:
    head, slash, last = reference.rpartition("/")
    name, at, version = last.partition("@")
    return f"{head}{slash}{name}", at, version


def recipe_origin(name: str, env: Mapping[str, str]) -> Origin:
    """The file that a recipe's name or path means; raises `UnknownName`."""
    if "/" in name or name.endswith(".yaml"):
        path = Path(name)
        path = path / "recipe.yaml" if path.is_dir() else path
        if not path.is_file():
            raise UnknownName(
                f"there is no recipe file {path}", hint="give the path of a recipe.yaml, or a recipe's name"
            )
        return Origin(name=name, path=path)
    if re.fullmatch(recipe_format.NAME, name):
        for folder in directories("recipes", env):
            path = folder / name / "recipe.yaml"
            if path.is_file():
                return Origin(name=name, path=path)
    raise _unknown("recipe", name, tuple(origin.name for origin in recipes(env)))


def site_origin(name: str, env: Mapping[str, str]) -> Origin:
    """The file that a site's name or path means; raises `UnknownName`."""
    if "/" in name or name.endswith(".yaml"):
        path = Path(name)
        if not path.is_file():
            raise UnknownName(f"there is no site file {path}", hint="give the path of a site file, or a site's name")
        return Origin(name=name, path=path)
    if re.fullmatch(recipe_format.NAME, name):
        for folder in directories("sites", env):
            path = folder / f"{name}.yaml"
            if path.is_file():
                return Origin(name=name, path=path)
    raise _unknown("site", name, tuple(origin.name for origin in sites(env)))


def _unknown(what: str, name: str, known: tuple[str, ...]) -> UnknownName:
    near = get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return UnknownName(f"there is no {what} {name[:80]!r}", hint=f"{guess}known are {', '.join(known)}")


def _unshadowed(found: Iterator[Origin]) -> tuple[Origin, ...]:
    first: dict[str, Origin] = {}
    for origin in found:
        first.setdefault(origin.name, origin)
    return tuple(first[name] for name in sorted(first))
