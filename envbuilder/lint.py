"""Lint: what is wrong with a recipe or a site, found without building anything."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from envbuilder import catalog, described, request, site_rules
from envbuilder import site as site_format
from envbuilder.activation import Activation, Setting, script
from envbuilder.document import read_text, where
from envbuilder.errors import EnvbuilderError
from envbuilder.fit import misfit
from envbuilder.partition import Partition
from envbuilder.places import Origin
from envbuilder.recipe import Recipe
from envbuilder.site import Site


def lint_recipe(origin: Origin, env: Mapping[str, str]) -> list[str]:
    """Every mistake in a recipe: of form, of its layers, and of rendering every variant for a made-up machine.

    The machines are one that has everything, and each partition of each known site that a variant fits.
    """
    try:
        recipe, _ = catalog.merged(origin, env)
    except EnvbuilderError as error:
        return _lines(error)
    places = [("lint", "lint", Partition(features=("cpu", "mpi"))), *_partitions(env)]
    mistakes = [line for row in recipe.variants for place in places for line in _rendering(recipe, row.version, place)]
    return [*dict.fromkeys(mistakes), *_settings(recipe)]


def lint_site(origin: Origin) -> list[str]:
    """Every mistake in a site: of form, and facts that contradict each other."""
    try:
        return site_rules.mistakes(site_format.parse(read_text(origin.path, "site"), str(origin.path)))
    except EnvbuilderError as error:
        return _lines(error)


def _partitions(env: Mapping[str, str]) -> list[tuple[str, str, Partition]]:
    """Every partition of every known site; a site with mistakes has its own report."""
    found: list[tuple[str, str, Partition]] = []
    for origin in catalog.sites(env):
        with suppress(EnvbuilderError):
            site = _site(str(origin.path), os.stat(origin.path).st_mtime_ns)
            found += [(str(site.name), name, partition) for name, partition in site.partitions.items()]
    return found


@functools.cache
def _site(path: str, _changed: int) -> Site:
    return site_format.parse(read_text(Path(path), "site"), path)


def _rendering(recipe: Recipe, version: str, place: tuple[str, str, Partition]) -> list[str]:
    """Render a variant for a partition as its facts describe it; that it does not fit there is no mistake."""
    site, name, partition = place
    target = described.target(site, name, partition)
    facts = described.facts(site, name, partition)
    try:
        if not misfit(recipe, recipe.variant(version), partition, facts):
            request.concrete(recipe, recipe.variant(version), partition, target)
            request.specs(recipe, recipe.variant(version), target)
    except EnvbuilderError as error:
        return _lines(error)
    return []


def _settings(recipe: Recipe) -> list[str]:
    """Variables that activation cannot set, because the shell or activation itself owns them."""
    mistakes = []
    for setting in recipe.environment:
        name = setting.set or setting.unset
        chosen = Activation(
            prefix=Path("/prefix"),
            name="lint",
            settings=(Setting(name=name, value=None, why=setting.why),),
            caches=Path("/caches"),
            prepend_path=(),
        )
        try:
            script(chosen)
        except EnvbuilderError as error:
            mistakes.append(f"{where(name)}environment: {error.message}")
    return mistakes


def _lines(error: EnvbuilderError) -> list[str]:
    lines = error.message.splitlines()
    return [*lines[:-1], f"{lines[-1]}; {error.hint}" if error.hint else lines[-1]]
