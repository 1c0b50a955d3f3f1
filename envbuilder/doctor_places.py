"""The part of the doctor that judges what a site file says of images and of installed packages: programs and places."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from envbuilder.container import Container, ends, fits
from envbuilder.doctor_stack import Row, judged, not_run
from envbuilder.externals import External
from envbuilder.partition import Partition
from envbuilder.survey import Answer, Stack
from envbuilder.target import Mpi

_LOOK = "a look"


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """What was looked at.

    `runtime` is the program that runs images, `there` maps each path that the file names to whether it is there, `compilers`
    each program of an external to what it says that it is ("" for one that does not answer).
    """

    runtime: Answer = field(default_factory=Answer)
    there: Mapping[str, bool] = field(default_factory=dict)
    compilers: Mapping[str, str] = field(default_factory=dict)


def paths(container: Container, partitions: Mapping[str, Partition]) -> Iterator[str]:
    """Every path that is to be looked for, as the file writes it."""
    sides = [(container.binds, container.optional_binds)]
    sides += [(side.binds, side.optional_binds) for side in container.mpi.values()]
    for must, may in sides:
        yield from (ends(str(bind))[0] for bind in (*must, *may))
    for partition in partitions.values():
        yield from (str(one.prefix) for one in partition.externals if one.prefix)


def container(
    said: Container, partitions: Mapping[str, Partition], stacks: Mapping[str, Stack], seen: Places
) -> Iterator[Row]:
    """The rows of what the site says of images."""
    if said.runtime:
        found = seen.runtime
        how = f"{said.runtime} --version"
        yield judged(("", "container.runtime"), str(said.runtime), bool(found.text), found.text or found.why, how)
    if said.binds or said.optional_binds:
        yield _binds("container.binds", said.binds, said.optional_binds, seen)
    for key, side in said.mpi.items():
        name = f"container.mpi.{key}"
        users = [one for one, stack in stacks.items() if _has(stack.mpi, str(key), str(partitions[one].fabric))]
        if not side.binds and not side.optional_binds:
            continue
        if not users:
            why = "none of the partitions that were looked into has this MPI on this network"
            yield not_run(("", name), _count(side.binds, side.optional_binds), why)
        else:
            yield _binds(name, side.binds, side.optional_binds, seen)


def externals(name: str, partition: Partition, seen: Places, *, excused: str = "") -> Iterator[Row]:
    """The rows of a partition's installed packages; `excused` is why they need not be here."""
    for one in partition.externals:
        place = (name, f"externals.{one.name}")
        wrong, right = _external(one, seen)
        if not wrong and not right:
            yield not_run(place, str(one.spec), "the file names neither its folder nor its programs")
        elif wrong and excused:
            yield not_run(place, str(one.spec), f"{excused} (here: {'; '.join(wrong)})")
        else:
            how = "a look; --version of its programs" if one.compilers else _LOOK
            yield judged(place, str(one.spec), not wrong, "; ".join(wrong or right), how)


def _external(one: External, seen: Places) -> tuple[list[str], list[str]]:
    """What is wrong with an installed package, and what is as the file says."""
    wrong, right = [], []
    prefix = str(one.prefix)
    if prefix and seen.there.get(prefix):
        right.append(f"{prefix} is there")
    elif prefix:
        wrong.append(f"there is no {prefix}")
    version = _version(one)
    for program in map(str, one.compilers.values()):
        says = seen.compilers.get(program, "")
        if not says:
            wrong.append(f"{program} is not there, or fails")
        elif version and not re.search(rf"(?<![\d.]){re.escape(version)}(?![\d])", says):
            wrong.append(f"{program} says {says}")
        else:
            right.append(says)
    return wrong, right


def _version(one: External) -> str:
    """The one version that a spec names, or nothing."""
    found = re.match(r"[^@\s]+@=?([\w.]+)(?=[\s+~%^]|$)", str(one.spec))
    return found[1] if found else ""


def _has(mpi: Mpi | str | None, key: str, fabric: str) -> bool:
    return isinstance(mpi, Mpi) and fits(key, mpi.name, mpi.version, fabric)


def _binds(name: str, must: Sequence[str], may: Sequence[str], seen: Places) -> Row:
    """What must be there is; of what may be there something is, or the list is another machine's."""
    missing = [one for one in must if not seen.there.get(ends(str(one))[0])]
    here = [one for one in may if seen.there.get(ends(str(one))[0])]
    good = not missing and bool(here or not may)
    said = [f"{', '.join(map(str, missing))}: not there"] if missing else []
    said += [f"{len(here)} of {len(may)} optional are there"] if may else []
    return judged(("", name), _count(must, may), good, "; ".join(said) or "all are there", _LOOK)


def _count(must: Sequence[str], may: Sequence[str]) -> str:
    said = ((len(must), "bind"), (len(may), "optional bind"))
    return ", ".join(f"{number} {what}{'' if number == 1 else 's'}" for number, what in said if number)
