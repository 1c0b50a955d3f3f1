"""Parity: what the worlds that one recipe was taken to hold beside each other, and what each cannot give. Pure.

A world is an environment of the store, or a Spack environment that was solved elsewhere (`spack.lock`). Of the latter nothing
was witnessed: it says what is meant to be built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envbuilder import spack_lock
from envbuilder.environment import Environment
from envbuilder.proof import Proof
from envbuilder.spack_config import MPIS
from envbuilder.spack_lock import Package

SPACK = "spack"
SOLVED = "spack, solved"
# what of Spack's variants a feature of recipes is, by package
_FEATURES = {
    "mpi4py": ("py-mpi4py", ""),
    "torch": ("py-torch", ""),
    "torch-mpi": ("py-torch", "mpi"),
    "onednn": ("py-torch", "mkldnn"),
    "tensorflow": ("py-tensorflow", ""),
    "horovod": ("py-horovod", ""),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One way in which a recipe became an environment; `proof` says how it is proven, or why it is not."""

    name: str
    what: str
    version: str
    python: str
    packages: Mapping[str, str]
    features: tuple[str, ...]
    mpi: str
    proof: str
    cannot: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing in every world (`-` where it is not), and whether all have the same, another build of it, or another."""

    subject: str
    values: tuple[str, ...]
    verdict: str


def of_environment(environment: Environment, proof: Proof | None) -> World:
    """The world of an environment of the store."""
    mpi = environment.mpi
    checks = ", ".join(str(one["check"]) for one in proof.checks) if proof else ""
    return World(
        name=environment.builder,
        what=environment.identifier,
        version=environment.version,
        python=environment.python.get("version", ""),
        packages={_plain(name): version for name, version in environment.packages.items()},
        features=tuple(sorted(environment.features)),
        mpi=f"{mpi.get('name', '')} ({mpi.get('provider', '')})" if mpi else "-",
        proof=f"proven {proof.made.date()} by {len(proof.checks)} checks: {checks}"
        if proof
        else "not-run: never verified",
    )


def of_spack(document: Mapping[str, Any], what: str) -> World:
    """The world of a `spack.lock`; raises `InputError` when it is none."""
    solved = spack_lock.read(document, what)
    found = {one.name: one for one in solved.needed}
    places = sorted({f"{one.os}, {one.target}" for one in solved.built})
    versions = {name: one.version for name, one in found.items()}
    mpi = next((name for name in MPIS if name in found), "")
    whose = "the site's" if mpi and found[mpi].external else "built by Spack"
    return World(
        name=SOLVED,
        what=what,
        version=versions.get("py-torch", versions.get("py-tensorflow", versions.get("py-mpi4py", ""))),
        python=versions.get("python", "-"),
        packages={_plain(name[3:]): version for name, version in versions.items() if name.startswith("py-")},
        features=tuple(sorted(_features(found))),
        mpi=f"{mpi} {versions[mpi]} ({whose})" if mpi else "-",
        proof="not-run: solved, not built here; features are those that its variants ask for, and nothing was witnessed",
        cannot=(
            f"solved for {'; '.join(places)}: the C library is that of the host which solved it",
            "it was neither built nor verified, and nothing gates what runs in it: envbuilder build --builder spack",
        ),
    )


def rows(worlds: Sequence[World]) -> tuple[Row, ...]:
    """Everything that can be compared, what differs first."""
    found = [
        _row("Python", [one.python for one in worlds]),
        _row("MPI", [one.mpi for one in worlds]),
        _row("features", [", ".join(one.features) or "-" for one in worlds]),
    ]
    names = sorted({name for one in worlds for name in one.packages})
    packages = [_row(name, [one.packages.get(name, "-") for one in worlds]) for name in names]
    order = {"differs": 0, "not in all": 1, "another build": 2, "same": 3}
    return (*found, *sorted(packages, key=lambda row: order[row.verdict]))


def missing(worlds: Sequence[World], builders: Sequence[str], recipe: str) -> Iterator[str]:
    """Which worlds there could be and are not, with the command that makes them."""
    there = {one.name for one in worlds}
    for builder in builders:
        if builder == SPACK and SOLVED in there:
            continue
        if builder not in there:
            yield f"{builder}: no environment; envbuilder build {recipe} --builder {builder}"
    if SPACK not in there and SOLVED not in there:
        yield f"{SOLVED}: none was named; envbuilder export spack {recipe}, spack concretize, then --spack DIR"


def _row(subject: str, values: list[str]) -> Row:
    bare = {value.partition("+")[0] for value in values}
    if len(set(values)) == 1:
        verdict = "same"
    elif "-" in values:
        verdict = "not in all"
    else:
        verdict = "another build" if len(bare) == 1 else "differs"
    return Row(subject=subject, values=tuple(values), verdict=verdict)


def _features(found: Mapping[str, Package]) -> Iterator[str]:
    for feature, (package, variant) in _FEATURES.items():
        if package in found and (not variant or found[package].parameters.get(variant) is True):
            yield feature
    if any(
        found[one].parameters.get(gpu) is True for one in found if one.startswith("py-") for gpu in ("cuda", "rocm")
    ):
        yield "gpu"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
