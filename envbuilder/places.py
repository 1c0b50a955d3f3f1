"""Where recipes and sites are looked for.

The order is: an explicit path, the directories of ENVBUILDER_RECIPE_PATH or ENVBUILDER_SITE_PATH, the user's configuration
directory, the shipped data. Kept apart from reading them, which costs more than a build that has nothing to do may cost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:/(?P<old>[^/{}]+)/(?P<new>[^/{}]*))?\})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A file that a request was made from: the name it was asked by and its path."""

    name: str
    path: Path


def expanded(text: str, env: Mapping[str, str]) -> str:
    """A path of a site file with `~`, `$NAME`, `${NAME}` and `${NAME/from/to}` (the first `from` becomes `to`) expanded.

    A variable that is not set stays as it is written, for the caller to complain of.
    """

    def value(match: re.Match[str]) -> str:
        found = env.get(match["plain"] or match["name"])
        if found is None:
            return match.group()
        return found.replace(match["old"], match["new"], 1) if match["old"] else found

    home = env.get("HOME", "")
    text = home + text[1:] if home and (text == "~" or text.startswith("~/")) else text
    return _VARIABLE.sub(value, text)


def data_root() -> Path:
    """The folder that holds the shipped `recipes`, `sites` and `containers`: in the wheel, or the checkout's top level."""
    package = Path(__file__).parent
    packed = package / "_data"
    return packed if packed.is_dir() else package.parent


def directories(kind: str, env: Mapping[str, str]) -> tuple[Path, ...]:
    """The directories searched for `recipes`, `sites` or `containers`, first wins."""
    variable = {
        "recipes": "ENVBUILDER_RECIPE_PATH",
        "sites": "ENVBUILDER_SITE_PATH",
        "containers": "ENVBUILDER_CONTAINER_PATH",
    }[kind]
    listed = [Path(entry) for entry in env.get(variable, "").split(os.pathsep) if entry]
    configuration = Path(env.get("XDG_CONFIG_HOME") or Path(env.get("HOME", "/")) / ".config")
    return (*listed, configuration / "envbuilder" / kind, data_root() / kind)


def still_means(name: str, path: Path, env: Mapping[str, str]) -> bool:
    """Whether a recipe's or site's name (or path) leads to this file today."""
    kind = "recipes" if path.name == "recipe.yaml" else "sites"
    if "/" in name or name.endswith(".yaml"):
        return True
    tail = (name, "recipe.yaml") if kind == "recipes" else (f"{name}.yaml",)
    candidates = (folder.joinpath(*tail) for folder in directories(kind, env))
    return next((candidate for candidate in candidates if candidate.is_file()), None) == path
