"""From what the ranks of a traced MPI program opened to what an image needs of the host for that MPI, each with its reason.

Three kinds of libraries: those of the program itself (an image has its own), those that the MPI library is linked with (bound
without being named, `envbuilder.host_mpi`), and those that were opened later: plug-ins and what these need. Only the last are
for a site file, with the configuration that was read and the sockets that were connected to once MPI was there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from envbuilder import elf
from envbuilder.elf import ElfFacts
from envbuilder.errors import HostError
from envbuilder.host_mpi import FOLDER, STAY
from envbuilder.traces import Traced

# Folders in which every linker looks: a library there is bound by itself, a plug-in's own folder whole.
_COMMON = re.compile(r"(/usr)?(/local)?/lib(32|64)?(/[a-z0-9_]+-linux-gnu)?")
# What a runtime mounts in every image, and what is of no use in another file system.
_EVERYWHERE = re.compile(r"/(dev|proc|sys|tmp|var/tmp|home)(/.*)?")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a name, not a file of ours
# What every image has, or gets from the runtime: the system's tables of users, hosts, languages and libraries.
_OF_A_SYSTEM = re.compile(
    r"/etc/(passwd|group|hosts|hostname|resolv\.conf|nsswitch\.conf|host\.conf|gai\.conf|services|protocols|localtime|locale\.\w+"
    r"|ld\.so\.\w+|ssl|os-release|default|environment)(/.*)?|/usr/share/(zoneinfo|locale|i18n)(/.*)?|/usr/lib(64)?/locale(/.*)?"
    r"|.*/gconv(/.*)?|/(var/)?run/nscd(/.*)?"
)
_SYSTEMS_LIBRARY = re.compile(r"libnss_.*\.so.*")
# Where Python's own libraries and those of its packages lie.
_PYTHON = re.compile(r"/python3?(\.\d+)?/|/site-packages/|/dist-packages/|\.cpython-|\.abi3\.so")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind:
    """One thing that is bound: a `library`, a `folder` of plug-ins, a `file`, a `socket`; why; and where to, if elsewhere."""

    path: str
    kind: str
    why: str
    target: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a trace came to: the library that is called, how many ranks, what needs no name, what does, and what to know."""

    library: str
    ranks: int
    by_itself: tuple[Bind, ...] = ()
    binds: tuple[Bind, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Eyes:
    """How files are looked at: the ELF facts of a path (None for what is none), whether it is an MPI, its real path."""

    facts: Callable[[str], ElfFacts | None]
    is_mpi: Callable[[str], bool]
    real: Callable[[str], str] = os.path.realpath


def _facts_of(path: str) -> ElfFacts | None:
    try:
        return elf.read(Path(path))
    except OSError:
        return None


EYES = Eyes(facts=_facts_of, is_mpi=lambda path: elf.defines(Path(path), "MPI_Init"))


def judge(processes: Iterable[Traced], eyes: Eyes, own: tuple[str, ...]) -> Found:
    """What the ranks among processes need; `own` are folders of the user's, which an image sees anyway.

    Raises `HostError` where no process opened an MPI.
    """
    ranks = [(one, mpi) for one in processes if (mpi := _mpi_of(one, eyes))]
    if not ranks:
        raise HostError(
            "no process opened a shared MPI library",
            hint="trace a program that calls MPI, such as: mpiexec -n 2 python -c 'from mpi4py import MPI'",
        )
    used = sorted({eyes.real(mpi) for _, mpi in ranks})
    if len(used) > 1:
        raise HostError(f"the ranks use several MPI libraries: {', '.join(used)}", hint="trace one program at a time")
    whole = [_judged(one, mpi, eyes, own) for one, mpi in ranks]
    return replace(
        whole[0],
        ranks=len(ranks),
        by_itself=_first_of_each(bind for one in whole for bind in one.by_itself),
        binds=_first_of_each(bind for one in whole for bind in one.binds),
        notes=tuple(dict.fromkeys(note for one in whole for note in one.notes)),
    )


def _mpi_of(process: Traced, eyes: Eyes) -> str:
    names = (path for path in process.files if re.match(r"lib[a-z]*mpi[a-z0-9_]*\.so", os.path.basename(path)))
    return next((path for path in names if eyes.is_mpi(path)), "")


def _judged(process: Traced, mpi: str, eyes: Eyes, own: tuple[str, ...]) -> Found:
    libraries = {path: facts for path in process.files if (facts := eyes.facts(path)) is not None}
    needs = _needs(libraries)
    program = {process.program, *(path for path in libraries if _PYTHON.search(path) and path != mpi)}
    roots = [*process.wanted, *(name for path in program if (facts := eyes.facts(path)) for name in facts.needed)]
    of_program = _reached(_named(roots, libraries), needs, stop=mpi) | (program & set(libraries))
    of_mpi = _reached([mpi], needs)
    later = [path for path in libraries if path not in of_program | of_mpi and not _system(path)]
    openers = {need: path for path in reversed(later) for need in needs[path]}
    return Found(
        library=eyes.real(mpi),
        ranks=1,
        by_itself=tuple(_linked(mpi, of_mpi, needs, libraries)),
        binds=_first_of_each(
            [
                *_plug_ins(later, openers, {_folder(path, eyes) for path in of_mpi}, eyes),
                *_files(process, mpi, libraries, own),
                *_sockets(process),
            ]
        ),
        notes=tuple(_notes(process)),
    )


def _needs(libraries: Mapping[str, ElfFacts]) -> dict[str, list[str]]:
    return {path: _named(facts.needed, libraries) for path, facts in libraries.items()}


def _named(names: Iterable[str], libraries: Mapping[str, ElfFacts]) -> list[str]:
    wanted = set(names)
    return [path for path, facts in libraries.items() if {facts.soname, os.path.basename(path)} & wanted]


def _reached(start: Iterable[str], needs: Mapping[str, list[str]], stop: str = "") -> set[str]:
    found: set[str] = set()
    waiting = [path for path in start if path != stop]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [need for need in needs.get(path, ()) if need != stop]
    return found


def _linked(
    mpi: str, of_mpi: set[str], needs: Mapping[str, list[str]], libraries: Mapping[str, ElfFacts]
) -> Iterator[Bind]:
    for path in libraries:
        name = libraries[path].soname or os.path.basename(path)
        if path not in of_mpi or STAY.fullmatch(name):
            continue
        users = [os.path.basename(user) for user in sorted(of_mpi) if path in needs[user]]
        why = "the MPI library" if path == mpi else f"needed by {', '.join(users)}"
        yield Bind(path=path, kind="library", why=why)


def _plug_ins(later: list[str], openers: Mapping[str, str], of_mpi: set[str], eyes: Eyes) -> Iterator[Bind]:
    """Libraries that were opened while the program ran: those of a folder of their own by that folder.

    Some look for plug-ins where they were compiled to, others beside themselves: `of_mpi` are the folders of those libraries.
    """
    for path in later:
        name, folder = os.path.basename(path), _folder(path, eyes)
        if _alone(path):
            opener = openers.get(path)
            why = f"needed by {os.path.basename(opener)}" if opener else "opened by name, as plug-ins are"
            yield Bind(path=f"{folder}/{name}", kind="library", why=why, target=f"{FOLDER}/{name}")
            continue
        inside = ", ".join(os.path.basename(one) for one in later if _folder(one, eyes) == folder)
        yield Bind(path=folder, kind="folder", why=f"plug-ins that were opened: {inside}")
        if os.path.dirname(folder) in of_mpi:
            beside = f"{FOLDER}/{os.path.basename(folder)}"
            yield Bind(
                path=folder, kind="folder", why="the same, beside the library that may look there", target=beside
            )


def _files(process: Traced, mpi: str, libraries: Mapping[str, ElfFacts], own: tuple[str, ...]) -> Iterator[Bind]:
    """Configuration: what was read once the MPI library was there, and folders that were listed."""
    after = process.files[process.files.index(mpi) :]
    for path in after:
        if path not in libraries and not _seen_anyway(path, own):
            yield Bind(path=path, kind="file", why="read after the MPI library was loaded")
    for path in process.folders:
        if path.startswith(("/etc/", "/var/", "/opt/", "/run/")) and not _seen_anyway(path, own):
            yield Bind(path=path, kind="folder", why="listed by the program")


def _sockets(process: Traced) -> Iterator[Bind]:
    for path in process.sockets:
        if path.startswith("/") and not _EVERYWHERE.fullmatch(path) and not _OF_A_SYSTEM.fullmatch(path):
            yield Bind(path=path, kind="socket", why="a socket that was connected to: PMI, or a daemon such as munge")


def _notes(process: Traced) -> Iterator[str]:
    if not process.whole:
        yield "configuration that was read and sockets that were connected to are not in this record: see what it needs by hand"
        return
    if any(path.startswith(_SHARED_MEMORY) for path in process.files):
        yield f"{_SHARED_MEMORY} was used, which every image has from the host; its ranks must see each other in it"
    if not any(path.startswith("/") for path in process.sockets):
        how = "over an address of the network or" if process.internet else "over"
        yield f"no socket of the file system was connected to: PMI came {how} an inherited descriptor, which needs no bind"


def _seen_anyway(path: str, own: tuple[str, ...]) -> bool:
    mine = any(path == folder or path.startswith(f"{folder}/") for folder in own)
    return bool(mine or _PYTHON.search(path) or _EVERYWHERE.fullmatch(path) or _OF_A_SYSTEM.fullmatch(path))


def _system(path: str) -> bool:
    return bool(
        _SYSTEMS_LIBRARY.fullmatch(os.path.basename(path)) or _OF_A_SYSTEM.fullmatch(path) or _PYTHON.search(path)
    )


def _alone(path: str) -> bool:
    return _COMMON.fullmatch(os.path.dirname(path)) is not None


def _folder(path: str, eyes: Eyes) -> str:
    return eyes.real(os.path.dirname(path))


def _first_of_each(binds: Iterable[Bind]) -> tuple[Bind, ...]:
    found: dict[tuple[str, str], Bind] = {}
    for bind in binds:
        found.setdefault((bind.path, bind.target), bind)
    return tuple(found.values())
