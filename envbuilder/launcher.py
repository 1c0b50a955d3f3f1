"""How processes of a parallel program are started: directly, by the mpiexec of one of the two MPI families, or by srun.

Pure but for `family`, which asks the program itself what it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from envbuilder import process
from envbuilder.process import Command

Family = Literal["direct", "hydra", "openmpi", "srun"]

_LAUNCHERS: dict[Family, Callable[[str, int], tuple[str, ...]]] = {
    "direct": lambda _program, _ranks: (),
    "hydra": lambda program, ranks: (program, "-n", str(ranks)),
    # More ranks than cores is what a laptop has; a slot count is no reason to refuse a proof.
    "openmpi": lambda program, ranks: (program, "--oversubscribe", "-n", str(ranks)),
}


def family(mpiexec: Path) -> Family:
    """What an mpiexec is, by its own words; anything that is not Open MPI takes MPICH's options."""
    said = process.capture(Command(argv=(str(mpiexec), "--version")), timeout=60).output
    return "openmpi" if "Open MPI" in said or "OpenRTE" in said or "prrte" in said.lower() else "hydra"


def launch(
    kind: Family, mpiexec: Path | None, ranks: int, argv: tuple[str, ...], srun: tuple[str, ...] = ()
) -> Command:
    """The command that starts `ranks` processes of `argv`, with the variables that the launcher needs.

    `srun` is Slurm's launcher with its arguments, for that kind.
    """
    if kind == "srun":
        return Command(argv=(*srun, *argv), env=_variables(kind))
    return Command(argv=(*_LAUNCHERS[kind](str(mpiexec or ""), ranks), *argv), env=_variables(kind))


def started_by(env: Mapping[str, str]) -> bool:
    """Whether a launcher started this process as one of its ranks."""
    return any(name in env for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"))


def threads(env: Mapping[str, str], ranks: int, cores: int) -> dict[str, str]:
    """One thread per core over all ranks, unless the user or the recipe decided otherwise."""
    return {} if env.get("OMP_NUM_THREADS") else {"OMP_NUM_THREADS": str(max(1, cores // ranks))}


def cpus_per_rank(srun: Sequence[str]) -> int:
    """The CPUs that srun is told to give each rank; 0 where it is told none, or is given a map of its own to bind by."""
    said = dict(option.split("=", 1) for option in srun if option.startswith("--") and "=" in option)
    cpus, binding = said.get("--cpus-per-task", ""), said.get("--cpu-bind", "")
    mapped = ":" in binding or "rank" in binding  # map_cpu:..., mask_cpu:..., rank
    return int(cpus) if cpus.isdecimal() and not mapped else 0


def _variables(kind: Family) -> dict[str, str]:
    if kind == "openmpi" and os.geteuid() == 0:
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if kind == "srun":
        # a job that was submitted with --export=none would hand that on, and the ranks would lack everything
        return {"SLURM_EXPORT_ENV": "ALL"}
    return {}
