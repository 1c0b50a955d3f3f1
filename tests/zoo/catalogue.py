"""All entries of the zoo."""

from __future__ import annotations

from zoo import (
    affinity,
    declared,
    files,
    healthy,
    horovod,
    images,
    libraries,
    mpis,
    ranks,
    torch_mpi,
    training,
    trust,
    variables,
)
from zoo.base import Entry, Fault, Healthy

FAULTS: tuple[Fault, ...] = (
    *files.ENTRIES,
    *libraries.ENTRIES,
    *mpis.ENTRIES,
    *variables.ENTRIES,
    *declared.ENTRIES,
    *training.ENTRIES,
    *ranks.ENTRIES,
    *affinity.ENTRIES,
    *horovod.ENTRIES,
    *torch_mpi.ENTRIES,
    *images.ENTRIES,
    *trust.ENTRIES,
)
HEALTHY: tuple[Healthy, ...] = (
    *healthy.ENTRIES,
    *declared.HEALTHY,
    *affinity.HEALTHY,
    *torch_mpi.HEALTHY,
    *images.HEALTHY,
    *trust.HEALTHY,
)
ENTRIES: tuple[Entry, ...] = (*FAULTS, *HEALTHY)
