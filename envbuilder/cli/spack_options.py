"""The options of the commands towards Spack."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Verb = Callable[..., argparse.ArgumentParser]


def add_export(parts: Any, verb: Verb) -> argparse.ArgumentParser:
    """`export spack`, without the option for a site."""
    spack = verb(parts, "spack", "export", "write an environment for Spack, with the site's externals", module="spack")
    spack.add_argument("recipe", metavar="RECIPE", help="a recipe's name, name@version, or the path of a recipe.yaml")
    spack.add_argument("--partition", default="", help="a partition of the site (default: the site's own choice)")
    spack.add_argument(
        "--lock", default="", metavar="DIR", help="take the versions of the lock in DIR (default: the store's, if any)"
    )
    spack.add_argument("-o", "--output", default="", metavar="DIR", help="write the folder DIR (default: RECIPE.spack)")
    return spack


def add_import(parts: Any, verb: Verb) -> None:
    """`sites import-spack`."""
    take = verb(
        parts, "import-spack", "take", "write a first site file from a centre's configuration of Spack", module="spack"
    )
    take.add_argument(
        "folder",
        metavar="DIR",
        help="the folder of packages.yaml and compilers.yaml, or a system's folder of Benchpark",
    )
    take.add_argument("--name", default="", help="the site's name (default: that of the folder)")
    take.add_argument("-o", "--output", default="", metavar="FILE", help="write FILE (default: NAME.yaml)")


def add_parity(verbs: Any, verb: Verb, site: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    """`parity`, without the option for JSON."""
    parity = verb(
        verbs, "parity", "parity", "compare what the builders, and Spack, made of one recipe", module="comparing"
    )
    parity.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or name@version")
    parity.add_argument("--partition", default="", help="only environments for this partition (default: any)")
    parity.add_argument("--spack", default="", metavar="DIR", help="a Spack environment that was concretized")
    site(parity)
    return parity
