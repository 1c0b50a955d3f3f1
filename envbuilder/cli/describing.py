"""The commands that describe: lint, schema, recipes, sites."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from envbuilder import catalog
from envbuilder import recipe as recipe_format
from envbuilder import site as site_format
from envbuilder.console import Console
from envbuilder.document import read_text, to_yaml
from envbuilder.errors import BAD_INPUT, FINE, EnvbuilderError
from envbuilder.partition import Partition
from envbuilder.places import Origin
from envbuilder.request import plain
from envbuilder.site import Site


def lint(arguments: Namespace, console: Console) -> int:
    """`envbuilder lint`: every mistake of every file at once; exit code 2 when there is one."""
    from envbuilder.lint import lint_recipe, lint_site

    recipes, sites = _chosen(arguments.names) if arguments.names else (
        catalog.recipes(os.environ), catalog.sites(os.environ)
    )  # fmt: skip
    mistakes: dict[str, list[str]] = {}
    for origin in recipes:
        mistakes[str(origin.path)] = lint_recipe(origin, os.environ)
    for origin in sites:
        mistakes[str(origin.path)] = lint_site(origin)
    found = [line for lines in mistakes.values() for line in lines]
    if console.json:
        console.document({"files": mistakes, "mistakes": len(found)})
    elif found:
        console.result("\n".join(found))
        console.error(f"{len(found)} mistake(s) in {sum(bool(lines) for lines in mistakes.values())} file(s)")
    else:
        console.done(f"{len(mistakes)} file(s), no mistake")
    return BAD_INPUT if found else FINE


def schema(arguments: Namespace, console: Console) -> int:
    """`envbuilder schema recipe|site`."""
    console.document({"recipe": recipe_format, "site": site_format}[arguments.kind].json_schema())
    return FINE


def list_recipes(_arguments: Namespace, console: Console) -> int:
    """`envbuilder recipes list`."""
    rows = []
    for origin in catalog.recipes(os.environ):
        recipe, _ = catalog.merged(origin, os.environ)
        versions = [str(row.version) for row in recipe.variants]
        rows.append(
            {"name": origin.name, "versions": versions, "summary": str(recipe.summary), "file": str(origin.path)}
        )
    if console.json:
        console.document(rows)
    else:
        console.result("\n".join(f"{row['name']:20} {', '.join(row['versions']):16} {row['summary']}" for row in rows))
    return FINE


def show_recipes(arguments: Namespace, console: Console) -> int:
    """`envbuilder recipes show`: with its bases merged in."""
    found = catalog.find_recipe(arguments.name, os.environ)
    document = {**plain(asdict(found.recipe)), "files": [str(origin.path) for origin in found.origins]}
    _show(document, console)
    return FINE


def list_sites(_arguments: Namespace, console: Console) -> int:
    """`envbuilder sites list`, with until when the facts hold and the partitions."""
    today = datetime.now(timezone.utc).date().isoformat()
    rows = []
    for origin in catalog.sites(os.environ):
        site, _ = catalog.find_site(str(origin.path), os.environ)
        rows.append(
            {
                "name": origin.name,
                "summary": str(site.summary),
                "valid": _validity(site, today),
                "partitions": {str(name): _validity(one, today) for name, one in site.partitions.items()},
                "file": str(origin.path),
            }
        )
    if console.json:
        console.document(rows)
    else:
        console.result("\n".join(_site_line(row) for row in rows))
    return FINE


def _site_line(row: dict[str, Any]) -> str:
    names = (f"{name} (expired)" if told.startswith("expired") else name for name, told in row["partitions"].items())
    return f"{row['name']:20} {row['valid']:18} {row['summary']} [{', '.join(names)}]"


def _validity(facts: Site | Partition, today: str) -> str:
    """Until when facts hold, in a word or two; nothing where they have no end."""
    if facts.valid_until and today > facts.valid_until:
        return f"expired {facts.valid_until}"
    if facts.valid_from and today < facts.valid_from:
        return f"from {facts.valid_from}"
    return f"until {facts.valid_until}" if facts.valid_until else ""


def show_sites(arguments: Namespace, console: Console) -> int:
    """`envbuilder sites show`."""
    site, origin = catalog.find_site(arguments.name, os.environ)
    _show({**plain(asdict(site)), "file": str(origin.path)}, console)
    return FINE


def _show(document: dict[str, object], console: Console) -> None:
    if console.json:
        console.document(document)
        return
    console.result(to_yaml({key: value for key, value in document.items() if value not in ("", [], {})}))


def _chosen(names: list[str]) -> tuple[tuple[Origin, ...], tuple[Origin, ...]]:
    """Files by what is in them: a file with `partitions` is a site's; anything else is taken for a recipe's."""
    recipes: list[Origin] = []
    sites: list[Origin] = []
    for name in names:
        path = Path(name)
        if path.is_file() and _looks_like_site(path):
            sites.append(Origin(name=name, path=path))
        elif path.is_file():
            recipes.append(Origin(name=name, path=path))
        else:
            recipes.append(catalog.recipe_origin(name, os.environ))
    return tuple(recipes), tuple(sites)


def _looks_like_site(path: Path) -> bool:
    try:
        return any(line.startswith("partitions:") for line in read_text(path, "file").splitlines())
    except EnvbuilderError:
        return False
