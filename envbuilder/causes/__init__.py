"""The causes that `envbuilder doctor` knows, by where they lie. Of two in one line, the one listed first comes first."""

from __future__ import annotations

from envbuilder.causes import compiling, gpu, jobs, libraries, machine, modules, mpi, network, packages, ranks
from envbuilder.causes.base import Cause, Sign

AREAS: dict[str, tuple[Cause, ...]] = {
    "Jobs": jobs.CAUSES,
    "Modules and shells": modules.CAUSES,
    "The machine": machine.CAUSES,
    "The network": network.CAUSES,
    "Python packages": packages.CAUSES,
    "Compiling": compiling.CAUSES,
    "Shared libraries": libraries.CAUSES,
    "MPI": mpi.CAUSES,
    "Ranks that look for each other": ranks.CAUSES,
    "GPUs": gpu.CAUSES,
}
CAUSES: tuple[Cause, ...] = tuple(cause for causes in AREAS.values() for cause in causes)

__all__ = ["AREAS", "CAUSES", "Cause", "Sign"]
