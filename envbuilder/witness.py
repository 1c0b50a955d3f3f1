"""The static witness: what lies in a tree, without importing anything from it.

Gathers plain facts for the checks of rung 0: files against their RECORD and the manifest, owners, distributions, the needs
of ELF objects, the interpreter. Counts are whole; at most `SHOWN` offenders of each kind are listed.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from envbuilder import conda_meta, elf, linking, preload
from envbuilder.elf import ElfFacts
from envbuilder.evidence import Expectation
from envbuilder.gpu_witness import gpu_facts

SHOWN = 20
_BYTECODE = re.compile(r"(?P<folder>.*/|)__pycache__/(?P<module>[^/]+?)\.[^./]+(\.opt-\d)?\.pyc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A line of a RECORD: the file's path relative to the prefix, its distribution, hash (`sha256=...`) and size.

    Files of conda packages are told by conda-meta in the same way.
    """

    path: str
    distribution: str
    hash: str
    size: int | None


@dataclass(slots=True)
class _Tree:
    """What was read of a tree: RECORD lines by path, digests of the RECORDs, versions by their folders, conda packages."""

    recorded: dict[str, list[Recorded]] = field(default_factory=lambda: defaultdict(list))
    records: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unreadable: list[str] = field(default_factory=list)
    conda: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


class Witness:
    """The static facts of an environment, as a process with the variables `env` would meet them; times in seconds.

    Reading every byte of a tree takes longer than all the rest together and needs no attention, so it goes on in threads
    from the start: `quick` has the facts without it (its `files` say that none was compared), `whole` waits for it.
    """

    def __init__(self, expectation: Expectation, env: Mapping[str, str]) -> None:
        started = time.monotonic()
        prefix = Path(expectation.prefix)
        tree = _read_records(prefix)
        self._hashing = _Hashing(prefix, tree, expectation)
        present = sorted(_files(prefix))
        gpu = _gpu(prefix, present, expectation, env)
        self.quick: dict[str, Any] = {
            "records": _records(tree, expectation),
            "files": _compared([]),
            "extra": _listed(_extra(present, tree, expectation)),
            "owners": _listed(_shared(tree)),
            "distributions": _distributions(tree, expectation),
            "interpreter": _interpreter(prefix, expectation, tree),
            "libraries": _libraries(prefix, present, env, frozenset(gpu.get("bundled", ()))),
            "gpu": gpu,
            "count": len(present),
            "seconds": {"quick": round(time.monotonic() - started, 3)},
        }

    def whole(self) -> dict[str, Any]:
        """All facts; waits until every file was read."""
        waited = time.monotonic()
        files = self._hashing.result()
        seconds = {**self.quick["seconds"], "waited": round(time.monotonic() - waited, 3)}
        return {**self.quick, "files": files, "seconds": seconds}

    def abandon(self) -> None:
        """Stop reading, when nobody will ask for the result."""
        self._hashing.abandon()


def witness(expectation: Expectation, env: Mapping[str, str]) -> dict[str, Any]:
    """All static facts at once."""
    return Witness(expectation, env).whole()


def _read_records(prefix: Path) -> _Tree:
    tree = _Tree()
    _read_conda(prefix, tree)
    for folder in sorted(prefix.glob("lib/python*/site-packages/*.dist-info")):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        distribution = re.sub(r"[-_.]+", "-", name).lower()
        tree.versions[distribution].append(version)
        if f"{folder.relative_to(prefix)}/RECORD" in tree.recorded:
            continue
        try:
            content = (folder / "RECORD").read_bytes()
        except OSError as error:
            tree.unreadable.append(f"{folder.name}/RECORD: {error.strerror}")
            continue
        tree.records[distribution] = hashlib.sha256(content).hexdigest()
        for line in _lines(content, folder.parent, prefix, distribution):
            tree.recorded[line.path].append(line)
    return tree


def _read_conda(prefix: Path, tree: _Tree) -> None:
    packages, unreadable = conda_meta.installed(prefix)
    tree.unreadable += unreadable
    for one in packages:
        tree.conda[one.name].append(f"{one.version} {one.build}")
        tree.records[one.owner] = one.digest
        for path, (mark, size) in {one.file: ("", None), **one.paths}.items():
            tree.recorded[path].append(Recorded(path=path, distribution=one.owner, hash=mark, size=size))


def _lines(content: bytes, base: Path, prefix: Path, distribution: str) -> Iterator[Recorded]:
    below = os.path.relpath(base, prefix)
    for row in csv.reader(content.decode("utf-8", "replace").splitlines()):
        if len(row) < 3:
            continue
        path = f"{below}/{row[0]}"
        # normalising is dear, and few lines need it: scripts, which a RECORD reaches by `..`
        if "//" in path or "/." in path or row[0].startswith("/"):
            path = os.path.relpath(os.path.normpath(os.path.join(base, row[0])), prefix)
        size = int(row[2]) if row[2].isdigit() else None
        yield Recorded(path=path, distribution=distribution, hash=row[1], size=size)


def _files(prefix: Path) -> Iterator[str]:
    """Every file and symbolic link below the prefix, relative to it."""
    start = len(str(prefix)) + 1
    for folder, folders, names in os.walk(prefix):
        below = f"{folder}/"[start:]
        yield from (below + name for name in names)
        yield from (below + name for name in folders if os.path.islink(f"{folder}/{name}"))


def _records(tree: _Tree, expectation: Expectation) -> dict[str, Any]:
    """RECORD files that are not as they were right after the installation."""
    changed = [name for name, mark in tree.records.items() if expectation.records.get(name) not in (None, mark)]
    return {"count": len(tree.records), "changed": _listed(changed), "unreadable": _listed(tree.unreadable)}


class _Hashing:
    """Reads every file that has a known hash, in as many threads as there are cores."""

    def __init__(self, prefix: Path, tree: _Tree, expectation: Expectation) -> None:
        # what Spack relocated is not as its RECORD says: there the manifest knows every file
        recorded = {} if expectation.spack else tree.recorded
        wanted = {path: lines[0].hash for path, lines in recorded.items() if lines[0].hash}
        wanted |= {path: f"hex={mark}" for path, mark in expectation.written.items()}
        items = sorted(wanted.items())
        threads = max(2, len(os.sched_getaffinity(0)))
        self._abandoned = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=threads)
        # Files of one folder are alike, so a stride spreads the large ones; one task per thread keeps the overhead small.
        self._parts = [self._pool.submit(self._states, str(prefix), items[start::threads]) for start in range(threads)]

    def _states(self, prefix: str, items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        buffer = memoryview(bytearray(1 << 23))
        return [
            (path, _state(f"{prefix}/{path}", wanted, buffer)) for path, wanted in items if not self._abandoned.is_set()
        ]

    def result(self) -> dict[str, Any]:
        """Files that are missing, changed or unreadable, against RECORD and against what envbuilder wrote."""
        with self._pool:
            return _compared(sorted(state for part in self._parts for state in part.result()))

    def abandon(self) -> None:
        self._abandoned.set()
        self._pool.shutdown()


def _compared(states: Iterable[tuple[str, str]]) -> dict[str, Any]:
    found = list(states)
    result: dict[str, Any] = {"count": len(found)}
    for kind in ("missing", "changed", "unreadable"):
        result[kind] = _listed([path for path, state in found if state == kind])
    return result


def _state(path: str, wanted: str, buffer: memoryview) -> str:
    """`same`, `missing`, `changed` or `unreadable`; `buffer` is for reading into."""
    kind, _, mark = wanted.partition("=")
    if wanted == "hex=":  # a symbolic link of our own: its being there is all that is asked
        return "same" if os.path.lexists(path) else "missing"
    try:
        state = hashlib.sha256() if kind in ("hex", "sha256") else hashlib.new(kind)
        with open(path, "rb", buffering=0) as source:
            while size := source.readinto(buffer):
                state.update(buffer[:size])
    except FileNotFoundError:
        return "missing"
    except (ValueError, OSError):
        return "unreadable"
    actual = state.hexdigest() if kind == "hex" else base64.urlsafe_b64encode(state.digest()).rstrip(b"=").decode()
    return "same" if actual == mark else "changed"


def _extra(present: Iterable[str], tree: _Tree, expectation: Expectation) -> list[str]:
    """Files that no RECORD names and that envbuilder did not write; bytecode counts where its source is gone."""
    known = set(tree.recorded) | set(expectation.written)
    return [path for path in present if path not in known and not _bytecode_of(path, known)]


def _bytecode_of(path: str, known: set[str]) -> bool:
    match = _BYTECODE.fullmatch(path)
    return match is not None and f"{match['folder']}{match['module']}.py" in known


def _shared(tree: _Tree) -> list[dict[str, Any]]:
    """Files that more than one distribution owns with different content, grouped by the distributions.

    The same script written by two distributions (tensorboard's, for example) is no conflict.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path, lines in tree.recorded.items():
        owners = tuple(sorted({line.distribution for line in lines}))
        if len(owners) > 1 and len({line.hash for line in lines}) > 1 and "__pycache__" not in path:
            groups[owners].append(path)
    return [
        {"distributions": list(owners), "count": len(paths), "example": min(paths)} for owners, paths in groups.items()
    ]


def _distributions(tree: _Tree, expectation: Expectation) -> dict[str, Any]:
    """What is there and what is locked; names of conda packages say that they are conda's."""
    versions = {**tree.versions, **{f"{conda_meta.KIND}{name}": found for name, found in tree.conda.items()}}
    locked = {**expectation.packages, **{f"{conda_meta.KIND}{name}": one for name, one in expectation.conda.items()}}
    found = {name: several[0] for name, several in versions.items()}
    return {
        "count": len(found),
        "missing": sorted(set(locked) - set(found)),
        "additional": sorted(set(found) - set(locked)),
        "twice": sorted(name for name, several in versions.items() if len(several) > 1),
        "other_version": {
            name: {"found": found[name], "locked": version}
            for name, version in locked.items()
            if name in found and not _same_version(found[name], version)
        },
    }


def _same_version(first: str, second: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(first.replace("_", "-")) == Version(second)
    except InvalidVersion:
        return first == second


def _interpreter(prefix: Path, expectation: Expectation, tree: _Tree) -> dict[str, Any]:
    """What pyvenv.cfg says, and whether the interpreter that it names is there; conda's is a package of the tree."""
    if expectation.conda:
        return _conda_interpreter(prefix, expectation, tree)
    try:
        text = (prefix / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError as error:
        return {"error": f"pyvenv.cfg: {error.strerror}"}
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    python = prefix / "bin" / "python"
    return {
        "home": settings.get("home", ""),
        "version": settings.get("version_info", settings.get("version", "")),
        "expected": expectation.python,
        "system_site_packages": settings.get("include-system-site-packages", "").lower() == "true",
        "target": os.path.realpath(python),
        "executable": os.access(python, os.X_OK),
    }


def _conda_interpreter(prefix: Path, expectation: Expectation, tree: _Tree) -> dict[str, Any]:
    """The version in the record of the package, and whether the program is the tree's own."""
    python = prefix / "bin" / "python"
    target = os.path.realpath(python)
    return {
        "home": str(prefix / "bin"),
        "version": "".join(tree.conda.get("python", [])[:1]).partition(" ")[0],
        "expected": expectation.python,
        "system_site_packages": False,
        "target": target,
        "executable": os.access(python, os.X_OK),
        "inside": target.startswith(f"{os.path.realpath(prefix)}/"),
    }


def _libraries(prefix: Path, present: Iterable[str], env: Mapping[str, str], gpu: frozenset[str]) -> dict[str, Any]:
    """The needs of the tree's ELF objects, as the linker would resolve them under `env`.

    GPU libraries (`gpu` by name) that something shadows have a check of their own, which knows when that is right.
    """
    found = linking.objects(_likely(prefix, present))
    search = linking.linker(env)
    missing, optional, shadowed = linking.problems(found, search, lambda path: _is_root(path, prefix))
    # the interpreter lies outside of the tree; another libpython under it changes everything
    interpreter = linking.objects([Path(os.path.realpath(prefix / "bin" / "python"))])
    shadowed = [*linking.problems(interpreter, search, lambda _: True)[2], *shadowed]
    machines: dict[str, int] = defaultdict(int)
    for facts in found.values():
        machines[f"{facts.machine} {facts.bits}"] += 1
    return {
        "objects": len(found),
        "machines": dict(machines),
        "missing": _listed([asdict(one) for one in missing]),
        "optional": _listed([asdict(one) for one in optional]),
        "shadowed": _listed(
            [{**asdict(one), "real": os.path.realpath(one.instead_of)} for one in shadowed if one.library not in gpu]
        ),
        "outside": linking.outside(found, search, prefix),
        "variables": {name: env[name] for name in ("LD_LIBRARY_PATH", "LD_PRELOAD") if env.get(name)},
        "preloads": [_preloaded(entry, search, interpreter) for entry in preload.parts(env.get("LD_PRELOAD", ""))],
    }


def _preloaded(entry: str, search: linking.Linker, program: Mapping[Path, ElfFacts]) -> dict[str, str]:
    """An entry of LD_PRELOAD: the file that it means ("" where there is none, or only the linker can tell), its soname."""
    found = next((search.resolve(entry, str(path.parent), facts) for path, facts in program.items()), "")
    path = os.path.realpath(found) if found and os.path.isfile(found) else ""
    facts = elf.read(Path(path)) if path else None
    return {"entry": entry, "path": path, "soname": facts.soname if facts else ""}


def _gpu(prefix: Path, present: Iterable[str], expectation: Expectation, env: Mapping[str, str]) -> dict[str, Any]:
    """Device code and GPU libraries, where the environment is for GPUs."""
    if not expectation.gpu:
        return {}
    gpu = expectation.gpu
    likely = [path for path in present if _may_be_object(path)]
    return gpu_facts(
        prefix, likely, vendor=gpu["vendor"], arch=gpu["arch"], toolkit=gpu["toolkit"],
        wheel_toolkit=gpu["wheel_toolkit"], env=env, module_folders=expectation.module_folders,
    )  # fmt: skip


def objects(prefix: Path) -> dict[Path, ElfFacts]:
    """The ELF objects of a tree."""
    return linking.objects(_likely(prefix, _files(prefix)))


def _likely(prefix: Path, present: Iterable[str]) -> Iterator[Path]:
    for path in present:
        if _may_be_object(path) and not os.path.islink(prefix / path):
            yield prefix / path


def _may_be_object(path: str) -> bool:
    name = os.path.basename(path)
    return ".so" in name or path.startswith("bin/")


def _is_root(path: Path, prefix: Path) -> bool:
    """What is loaded by itself: programs, and whatever lies among the packages."""
    parts = path.relative_to(prefix).parts
    return parts[0] == "bin" or "site-packages" in parts


def _listed(found: list[Any]) -> dict[str, Any]:
    return {"count": len(found), "first": found[:SHOWN]}
