"""The options of the commands that pack a tree and count what imports cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

Verbs = Any
Common = tuple[Callable[[argparse.ArgumentParser], None], ...]


def add(verbs: Verbs, verb: Callable[..., argparse.ArgumentParser], common: Common) -> None:
    """Add them to the parser; `verb` makes a command, `common` are the options that both have."""
    pack = verb(
        verbs,
        "pack",
        "pack",
        "turn the tree of an environment into one file that is mounted for a job",
        module="packing",
    )
    pack.add_argument("environment", metavar="ENV", help="a recipe's name, an environment's identifier, or its path")
    pack.add_argument("-o", "--output", default="", metavar="FILE", help="also write the file to FILE")
    pack.add_argument(
        "--compression", default="gzip", choices=("gzip", "lz4", "zstd"), help="how it is packed (default: gzip)"
    )
    cost = verb(
        verbs, "import-cost", "import_cost", "count what imports ask of the host's file systems", module="packing"
    )
    cost.add_argument("environments", nargs="+", metavar="ENV", help="environments to set side by side")
    cost.add_argument(
        "--rate",
        type=_rate,
        default=0,
        metavar="OPS",
        help="also say how long a metadata server with so many operations per second is busy with N ranks",
    )
    for command in (pack, cost):
        for options in common:
            options(command)


def _rate(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:12]) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000000")
    return int(text)
