"""A wish: what the user asked for, as written on the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What the user asked for, as written: the recipe, the site and partition, the Python, the builder.

    For an image, `base` is what it starts from, `mpi` whose MPI its ranks use (`image` or `host`), `compression` how it is
    packed. `on` is a module of the site that the recipe is put on, instead of what it extends.
    """

    recipe: str
    site: str = "local"
    partition: str = ""
    python: str = ""
    builder: str = "venv"
    on: str = ""
    base: str = ""
    mpi: str = ""
    compression: str = ""
