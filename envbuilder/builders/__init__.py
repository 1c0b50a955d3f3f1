"""Every builder, by name."""

from __future__ import annotations

from envbuilder.builders import apptainer, venv
from envbuilder.builders.base import Builder

BUILDERS: dict[str, Builder] = {"apptainer": apptainer, "venv": venv}
