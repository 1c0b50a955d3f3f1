"""Workflows for CI services that build, prove, sign and publish images: the templates of `containers/ci`."""

from __future__ import annotations

import re

from envbuilder import __version__, places
from envbuilder.errors import InputError

# A name, with a version perhaps; it becomes a word of a shell and a part of an address.
_RECIPE = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}(@[A-Za-z0-9][A-Za-z0-9._+-]{0,60})?")


def text(service: str, recipes: tuple[str, ...]) -> str:
    """The workflow for a service (`github`, `gitlab`); raises `InputError` for what is no recipe's name."""
    for name in recipes:
        if not _RECIPE.fullmatch(name):
            raise InputError(
                f"{name[:80]!r} is not the name of a recipe",
                hint="a workflow names recipes as NAME or NAME@VERSION; your own are found by ENVBUILDER_RECIPE_PATH",
            )
    template = (places.data_root() / "containers" / "ci" / f"{service}.yml").read_text(encoding="utf-8")
    quoted = ", ".join(f'"{name}"' for name in dict.fromkeys(recipes))
    return template.replace("@RECIPES@", quoted).replace("@VERSION@", __version__)
