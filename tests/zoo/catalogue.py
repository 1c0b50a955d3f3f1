"""All entries of the zoo."""

from __future__ import annotations

from zoo import files, healthy, libraries, ranks, training, variables
from zoo.base import Entry, Fault, Healthy

FAULTS: tuple[Fault, ...] = (
    *files.ENTRIES,
    *libraries.ENTRIES,
    *variables.ENTRIES,
    *training.ENTRIES,
    *ranks.ENTRIES,
)
HEALTHY: tuple[Healthy, ...] = healthy.ENTRIES
ENTRIES: tuple[Entry, ...] = (*FAULTS, *HEALTHY)
