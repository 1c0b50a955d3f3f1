"""Which file the dynamic linker would take for each library that the objects of a tree need.

The order is ld.so's (man 8 ld.so): DT_RPATH of the object and its loaders where there is no DT_RUNPATH, LD_LIBRARY_PATH,
DT_RUNPATH, the linker's cache, the default folders. One thing cannot be known without running: a library that is already
loaded under the same soname satisfies a need without any search, and wheels rely on that. A need that no search resolves but
that an object of the same tree provides by soname therefore counts as provided inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envbuilder import elf, process
from envbuilder.elf import ElfFacts
from envbuilder.errors import EnvbuilderError
from envbuilder.process import Command

_DEFAULT_FOLDERS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_LOADERS = re.compile(r"ld-linux.*\.so\.\d+|linux-vdso\.so\.\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """An object that needs a library which is nowhere."""

    object: str
    library: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shadowed:
    """A library that LD_LIBRARY_PATH takes from another place than the object was built to find it in."""

    object: str
    library: str
    taken: str
    instead_of: str


@dataclass(slots=True)
class Linker:
    """The search of one machine under one LD_LIBRARY_PATH; remembers which files exist."""

    library_path: tuple[str, ...]
    cache: Mapping[str, str]
    _exists: dict[str, bool] = field(default_factory=dict)

    def resolve(self, library: str, origin: str, facts: ElfFacts, *, with_variable: bool = True) -> str:
        """The path that a need of an object in the folder `origin` resolves to, or "" when no search finds it."""
        if "/" in library:
            return library if self._there(library) else ""
        for folder in self._folders(origin, facts, with_variable=with_variable):
            path = os.path.join(folder, library)
            if self._there(path):
                return path
        # a cache that nobody has made anew names what is gone, too
        known = (self.cache.get(library, ""), *(f"{folder}/{library}" for folder in _DEFAULT_FOLDERS))
        return next((path for path in known if path and self._there(path)), "")

    def _folders(self, origin: str, facts: ElfFacts, *, with_variable: bool) -> Iterator[str]:
        if not facts.runpath:
            yield from _expanded(facts.rpath, origin)
        if with_variable:
            yield from self.library_path
        yield from _expanded(facts.runpath, origin)

    def _there(self, path: str) -> bool:
        if path not in self._exists:
            self._exists[path] = os.path.isfile(path)
        return self._exists[path]


def linker(env: Mapping[str, str]) -> Linker:
    """The linker of this machine, as a process with these variables would meet it."""
    folders = tuple(part or os.getcwd() for part in re.split("[:;]", env.get("LD_LIBRARY_PATH", "")))
    return Linker(library_path=folders if env.get("LD_LIBRARY_PATH") else (), cache=_linker_cache())


def objects(paths: Iterable[Path]) -> dict[Path, ElfFacts]:
    """The ELF objects with a dynamic section among some files."""
    found = {}
    for path in paths:
        facts = elf.read(path) if elf.is_elf(path) else None
        if facts is not None:
            found[path] = facts
    return found


def problems(
    found: Mapping[Path, ElfFacts], search: Linker, is_root: Callable[[Path], bool]
) -> tuple[list[Missing], list[Missing], list[Shadowed]]:
    """What is missing, what only optional objects miss, and what is shadowed among the needs of these objects.

    An object that is no root (extension module, program) and that no root needs is a plug-in: it is opened at will, and
    one whose vendor library is not on this machine (libfabric's providers, for example) is passed over by its opener.
    """
    provided = {facts.soname for facts in found.values()} | {path.name for path in found}
    wanted = _needed_by_roots(found, is_root)
    missing: list[Missing] = []
    optional: list[Missing] = []
    shadowed: list[Shadowed] = []
    for path, facts in found.items():
        origin = os.path.dirname(os.path.realpath(path))
        for library in facts.needed:
            if _LOADERS.fullmatch(library):
                continue
            taken = search.resolve(library, origin, facts)
            if not taken and library not in provided:
                (missing if path in wanted else optional).append(Missing(object=str(path), library=library))
            built_for = search.resolve(library, origin, facts, with_variable=False) if search.library_path else taken
            if taken and built_for and not _same(taken, built_for):
                shadowed.append(Shadowed(object=str(path), library=library, taken=taken, instead_of=built_for))
    return missing, optional, shadowed


def outside(found: Mapping[Path, ElfFacts], search: Linker, prefix: Path) -> dict[str, dict[str, str]]:
    """The libraries of the host that the objects of a tree need, directly or not: path to `soname` and `build_id` (hex).

    Those of the C library and the like are among them: a system upgrade changes what runs. `found` are the links, separated
    by colons, by which the search came to the file: one that leads elsewhere tomorrow changes what runs, too.
    """
    inside = f"{os.path.realpath(prefix)}/"
    told: dict[str, dict[str, str]] = {}
    links: dict[str, set[str]] = {}
    waiting = list(found.items())
    while waiting:
        path, facts = waiting.pop()
        origin = os.path.dirname(os.path.realpath(path))
        for library in facts.needed:
            path_found = search.resolve(library, origin, facts) or "/"
            taken = os.path.realpath(path_found)
            links.setdefault(taken, set()).add(path_found)
            if taken == "/" or taken in told or taken.startswith(inside) or _LOADERS.fullmatch(library):
                continue
            needed = elf.read(Path(taken))
            if needed is not None:
                told[taken] = {"soname": needed.soname, "build_id": needed.build_id}
                waiting.append((Path(taken), needed))
    return {path: {**told[path], "found": ":".join(sorted(links[path] - {path}))} for path in sorted(told)}


def _needed_by_roots(found: Mapping[Path, ElfFacts], is_root: Callable[[Path], bool]) -> set[Path]:
    """The roots and every object that they need, directly or not, by soname or file name."""
    by_name: dict[str, list[Path]] = {}
    for path, facts in found.items():
        for name in {facts.soname or path.name, path.name}:
            by_name.setdefault(name, []).append(path)
    wanted: set[Path] = set()
    waiting = [path for path in found if is_root(path)]
    while waiting:
        path = waiting.pop()
        if path not in wanted:
            wanted.add(path)
            waiting += [other for library in found[path].needed for other in by_name.get(library, ())]
    return wanted


def _same(first: str, second: str) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def _expanded(paths: tuple[str, ...], origin: str) -> Iterator[str]:
    for path in paths:
        yield path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)


def _linker_cache() -> dict[str, str]:
    """Soname to path, as `ldconfig -p` prints the cache; empty where there is no ldconfig."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig"):
        try:
            said = process.capture(Command(argv=(program, "-p")), timeout=60).output
        except EnvbuilderError:
            continue
        entries: dict[str, str] = {}
        for soname, path in re.findall(r"^\s+(\S+) \([^)]*\) => (\S+)$", said, re.MULTILINE):
            entries.setdefault(soname, path)
        return entries
    return {}
