"""Every builder, by name; a build imports its own."""

from __future__ import annotations

from importlib import import_module

from envbuilder.builders.base import Builder

NAMES = ("apptainer", "conda", "spack", "venv")


def builder(name: str) -> Builder:
    """The builder of that name; raises `KeyError` for none of `NAMES`."""
    if name not in NAMES:
        raise KeyError(name)
    module: Builder = import_module(f"envbuilder.builders.{name}")
    return module
