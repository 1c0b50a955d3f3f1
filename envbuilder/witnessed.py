"""What two environments were seen to do in their last verifies, side by side: versions, libraries, kernels, results.

An image and a tree of one recipe have other system libraries, and mostly another MPI; where the same kernels ran on the same
versions, a training step must still give the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envbuilder.compare import Difference, mappings
from envbuilder.environment import Environment
from envbuilder.errors import InputError
from envbuilder.store import Store

# Sums of two numbers have one order; of more, each MPI has its own.
_ONE_ORDER = 2
_RESULTS = ("gradient_digest", "last_gradient_digest", "parameter_digest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one verify saw, as text by name.

    `libraries` maps sonames outside of the tree and the MPI of the ranks to build-ids (sha256 where there is none), `kernels`
    each primitive of a probe to its implementations, with threads and ranks; `results` the digests of each probe's training.
    """

    packages: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    mpi: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """What differs, how many results are equal bit for bit, which are not, and what explains that ("": nothing does)."""

    differences: tuple[Difference, ...]
    equal: int
    unequal: tuple[str, ...]
    explained: Mapping[str, str]

    @property
    def unexplained(self) -> tuple[str, ...]:
        """The results that should be the same bits and are not."""
        return tuple(name for name in self.unequal if not self.explained[name])


def last(place: Store, environment: Environment) -> Seen:
    """What the newest verify of an environment saw; raises `InputError` where none came to its end."""
    folder = place.path("runs", environment.identifier)
    for run in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        evidence = _evidence(run / "evidence.json")
        if evidence and any(one.get("ranks") for one in evidence["runs"].values()):
            return seen(evidence, environment.packages)
    raise InputError(
        f"no verify of {environment.identifier} came so far that there is something to compare",
        hint=f"envbuilder verify {environment.identifier}",
    )


def seen(evidence: Mapping[str, Any], packages: Mapping[str, str]) -> Seen:
    """The same out of the evidence of a verify (`evidence.Evidence`, as data)."""
    outside = evidence["static"].get("libraries", {}).get("outside", {})
    libraries = {str(one["soname"]): str(one["build_id"]) for one in outside.values()}
    kernels: dict[str, str] = {}
    results: dict[str, str] = {}
    mpi: dict[str, str] = {}
    for probe, run in evidence["runs"].items():
        facts: Mapping[str, Any] = next((one["facts"] for one in run["ranks"] if one["rank"] == 0), {})
        threads = facts.get("environment", {}).get("OMP_NUM_THREADS")
        kernels |= {f"{probe}: OMP_NUM_THREADS": str(threads)} if threads else {}
        kernels |= {f"{probe}: ranks": str(run["asked"])}
        for library in facts.get("libraries_at_end") or ():
            if library.get("implements"):
                mpi[str(library["soname"])] = str(library["build_id"] or library["sha256"])
        for name, training in _trainings(facts):
            results |= {f"{probe}: {name}: {key}": str(training[key]) for key in _RESULTS if key in training}
            primitives = (training.get("onednn") or {}).get("primitives") or {}
            kernels |= {
                f"{probe}: {name}: {primitive}": ", ".join(map(str, used["implementations"]))
                for primitive, used in primitives.items()
            }
    ranks = max((int(run["asked"]) for run in evidence["runs"].values()), default=0)
    return Seen(packages=packages, libraries=libraries, mpi=mpi, kernels=kernels, results=results, ranks=ranks)


def compared(first: Seen, second: Seen) -> Likeness:
    """What differs between two verifies, and whether their results are the same where they must be."""
    groups = ("packages", "libraries", "mpi", "kernels", "results")
    found = {name: tuple(mappings(name, getattr(first, name), getattr(second, name))) for name in groups}
    both = sorted(set(first.results) & set(second.results))
    unequal = tuple(name for name in both if first.results[name] != second.results[name])
    return Likeness(
        differences=tuple(one for group in found.values() for one in group),
        equal=len(both) - len(unequal),
        unequal=unequal,
        explained={name: _why(name.partition(":")[0], found, first.ranks) for name in unequal},
    )


def _why(probe: str, found: Mapping[str, tuple[Difference, ...]], ranks: int) -> str:
    """What lets the results of a probe differ: other versions, other kernels, another order of summation."""
    if any(one.kind == "changed" for one in found["packages"]):
        return "other versions of packages"
    # ranks are not asked for their kernels: they run those of the single process
    if any(one.what.startswith((f"kernels: {probe}:", "kernels: single:")) for one in found["kernels"]):
        return "other kernels, or another number of threads or ranks"
    if probe != "single" and ranks > _ONE_ORDER and found["mpi"]:
        return f"another MPI sums {ranks} ranks in an order of its own"
    return ""


def _trainings(facts: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in facts.items():
        if isinstance(value, dict) and _RESULTS[0] in value:
            yield name, value


def _evidence(path: Path) -> dict[str, Any] | None:
    """The evidence of a verify, or nothing where it was ended before it wrote one."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and {"static", "runs"} <= set(told) else None
