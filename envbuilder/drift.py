"""Drift: what a machine does today that it did not do when an environment was built and proven.

Pure comparison. What the manifest and the proofs hold on one side, `Today` on the other; the results are `Change`s, one for
each module, variable, file or library that differs. `today` looks at the machine, `report.changes` shows the result.

Kernel, C library and CPU are the gate's business and are not repeated here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from envbuilder.effect import Effect, Loaded
from envbuilder.environment import Environment
from envbuilder.proof import Proof, ways

# Files that each kind of node has for itself: those of the operating system. Everything else is taken for shared.
_OF_THE_NODE = re.compile(r"/(lib\w*|usr/lib\w*|usr/bin|bin|etc)/")

TITLES = {
    "module-gone": "module cannot be loaded",
    "module-replaced": "module does not stay loaded",
    "module-version": "module has another version",
    "module-new": "module is loaded that was not",
    "module-missing": "module is not loaded any more",
    "modulefile": "modulefile is not the file that it was",
    "promise": "promised variable has no value",
    "variable": "variable of the modules differs",
    "interpreter": "interpreter differs",
    "library-changed": "library of the host changed",
    "library-gone": "library of the host is gone",
    "library-elsewhere": "library is taken from another place",
    "library-new": "library of the host is taken that was not",
    "file": "file of the host was written anew",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that differs: what it is, what it was and is now, the environments that it touches, and what mends it.

    `kind` is one of `TITLES`; `said` holds the module system's own words; "" stands for "there is none" in `was` and `now`.
    `paths` are the files that it is about, those of before first.
    """

    kind: str
    what: str
    was: str
    now: str
    said: str = ""
    advice: str = ""
    paths: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    mend: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Today:
    """What a machine shows of the things that an environment stands on.

    `loaded` is what its modules do (None where that could not be seen, or where it has none), `failed` maps modules that
    cannot be loaded to the error's kind and words, `unkept` are promised variables without a value, `volatile` variables
    that differ from one login to the next. `files` maps each library of the host that a proof names to soname and build-id
    (it lacks those that are gone), `taken` what the tree's needs resolve to, as `linking.outside` has it. `marks` are those
    of modulefiles and libraries. `elsewhere` says in what this node differs from the one of the proofs, `site` what
    --site must name. `unseen` lists what could not be looked at, and why.
    """

    loaded: Loaded | None = None
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unkept: tuple[str, ...] = ()
    volatile: frozenset[str] = frozenset()
    interpreter: str | None = None
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    taken: Mapping[str, Mapping[str, str]] | None = None
    marks: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str = ""
    site: str = ""
    unseen: tuple[str, ...] = ()


def compare(environment: Environment, proofs: tuple[Proof, ...], today: Today) -> tuple[tuple[Change, ...], list[str]]:
    """What differs for one environment, and what could not be looked at."""
    unseen = list(today.unseen)
    found = [*_modules(environment, today), *_interpreter(environment, today), *_modulefiles(proofs, today)]
    libraries = list(_libraries(environment, proofs, today))
    told = {path for change in (*found, *libraries) for path in change.paths}
    told |= {
        way
        for one in proofs
        for path, facts in one.host_libraries.items()
        if path in told
        for way in ways({path: facts})
    }
    for change in (*libraries, *_rewritten(proofs, today, told)):
        if today.elsewhere and all(_OF_THE_NODE.match(path) for path in change.paths):
            unseen.append(f"{change.what}: it differs here, and this is another kind of node ({today.elsewhere})")
        else:
            found.append(change)
    touched = [_addressed(change, environment, today.site) for change in dict.fromkeys(found)]
    return tuple(touched), list(dict.fromkeys(unseen))


def grouped(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The same change of several environments as one that touches them all."""
    found: dict[Change, list[Change]] = {}
    for change in changes:
        found.setdefault(replace(change, touches=(), mend=()), []).append(change)
    return tuple(
        replace(
            key,
            touches=tuple(dict.fromkeys(name for one in same for name in one.touches)),
            mend=tuple(dict.fromkeys(command for one in same for command in one.mend)),
        )
        for key, same in found.items()
    )


def effects(was: Effect, now: Effect) -> Iterator[tuple[str, str, str]]:
    """Variables on which two effects differ: name, what it was, what it is. Of search paths, the entries that differ."""
    for name in sorted({*was.set, *was.unset, *was.paths, *now.set, *now.unset, *now.paths}):
        old, new = _state(was, name), _state(now, name)
        if old == new:
            continue
        if name in was.paths or name in now.paths:
            less, more = [one for one in old if one not in new], [one for one in new if one not in old]
            old, new = (less, more) if less or more else (old, new)
        yield name, ":".join(old), ":".join(new)


def _state(effect: Effect, name: str) -> list[str]:
    """What an effect does to a variable, as entries; empty where it leaves it alone."""
    if name in effect.unset:
        return ["(unset)"]
    if name in effect.set:
        return [effect.set[name]]
    if name not in effect.paths:
        return []
    one = effect.paths[name]
    return [*one.before, *one.after, *(f"(without {entry})" for entry in one.without)]


def _modules(environment: Environment, today: Today) -> Iterator[Change]:
    for module, (kind, said) in today.failed.items():
        advice = "mend `modules` in the site file: `module avail` lists what there is"
        yield Change(kind=kind, what=module, was="loaded", now="", said=said, advice=advice)
    then = environment.modules
    if then is None or today.loaded is None:
        return
    yield from _versions(then, today.loaded)
    was = Effect.from_document(then["effect"])
    differing = [one for one in effects(was, today.loaded.effect) if one[0] not in today.volatile]
    for name in today.unkept:
        old = next((old for variable, old, _ in differing if variable == name), "")
        yield Change(kind="promise", what=name, was=old, now="", advice="the site file promises it")
    for name, old, new in differing:
        if name not in today.unkept:
            yield Change(kind="variable", what=name, was=old, now=new)


def _versions(then: Mapping[str, object], now: Loaded) -> Iterator[Change]:
    """Modules that are there with another version, or only then, or only now."""
    names, asked = _texts(then["loaded"]), _texts(then["asked"])
    was, present = _by_head(names), _by_head(now.names)
    for head in sorted({*was, *present}):
        old, new = was.get(head, ()), present.get(head, ())
        if sorted(old) == sorted(new):
            continue
        kind = "module-version" if old and new else "module-missing" if old else "module-new"
        advice = _asked_as(head, asked)
        if head in asked and old:
            advice += f"; to stay with {old[0]}, write that in the site file"
        yield Change(kind=kind, what=head, was=", ".join(old), now=", ".join(new), advice=advice)


def _asked_as(head: str, asked: Iterable[str]) -> str:
    for request in asked:
        if request == head:
            return f"asked for as {request}, without a version: the default changed"
        if request.startswith(f"{head}/"):
            return f"asked for as {request}"
    return "not asked for: a login or another module loads it"


def _by_head(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        head = name.rpartition("/")[0] or name
        found[head] = (*found.get(head, ()), name)
    return found


def _interpreter(environment: Environment, today: Today) -> Iterator[Change]:
    python = environment.python
    if today.interpreter is not None and today.interpreter != python["version"]:
        path = python["path"]
        yield Change(kind="interpreter", what=path, was=python["version"], now=today.interpreter, paths=(path,))


def _modulefiles(proofs: tuple[Proof, ...], today: Today) -> Iterator[Change]:
    """Modulefiles that are other files than at the proof, whatever they do: the gate holds their marks."""
    for proof in proofs:
        for path, mark in proof.circumstances.modulefiles.items():
            now = today.marks.get(path, mark)
            gone = now == "missing"
            told = gone and any(f"/{module}" in path for module in today.failed)
            if now != mark and not told:
                yield Change(
                    kind="modulefile", what=path, was=_described(mark), now="" if gone else _described(now),
                    advice="its content is judged by what the modules do; the proof is bound to the file",
                )  # fmt: skip


def _described(mark: str) -> str:
    size, _, time = mark.partition(" ")
    if not time.isdigit():
        return mark
    moment = datetime.fromtimestamp(int(time) / 1e9, timezone.utc)
    return f"{size} bytes, written {moment:%Y-%m-%d %H:%M:%S} UTC"


def _libraries(environment: Environment, proofs: tuple[Proof, ...], today: Today) -> Iterator[Change]:
    mpi = environment.mpi
    held: list[Mapping[str, Mapping[str, str]]] = [proof.host_libraries for proof in proofs]
    if mpi is not None and mpi["provider"] == "system":
        held.append({mpi["library"]: {"soname": mpi["soname"], "build_id": mpi["build_id"]}})
    moved: set[str] = set()
    if today.taken is not None:
        for proof in proofs:
            for change in _elsewhere(proof.host_libraries, today.taken):
                moved.update(change.paths)
                yield change
    for libraries in held:
        for path, facts in libraries.items():
            yield from _same_place(path, facts, today, known=path in moved)


def _same_place(path: str, was: Mapping[str, str], today: Today, *, known: bool) -> Iterator[Change]:
    """A library at the path where it was; `known` says that its going was told already."""
    now = today.files.get(path)
    name = was["soname"] or os.path.basename(path)
    if now is None:
        if not known:
            yield Change(kind="library-gone", what=name, was=_library(path, was), now="", paths=(path,))
    elif (now["soname"], now["build_id"]) != (was["soname"], was["build_id"]):
        yield Change(kind="library-changed", what=name, was=_library(path, was), now=_library(path, now), paths=(path,))


def _rewritten(proofs: tuple[Proof, ...], today: Today, told: set[str]) -> Iterator[Change]:
    """Files that proofs are bound to and that have another size or time, beyond what was told of them."""
    for proof in proofs:
        for path, mark in proof.circumstances.libraries.items():
            now = today.marks.get(path, mark)
            if now == mark or path in told:
                continue
            build_id = today.files.get(path, {}).get("build_id", "")
            advice = f"its build-id is still {build_id}; the proof is bound to the file" if build_id else ""
            old, new = _described(mark), "" if now == "missing" else _described(now)
            yield Change(kind="file", what=path, was=old, now=new, advice=advice, paths=(path,))


def _elsewhere(was: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> Iterator[Change]:
    """Sonames that the needs of the tree resolve to other files than at the proof."""
    old, new = _by_soname(was), _by_soname(now)
    for name in sorted({*old, *new}):
        less = [path for path in old.get(name, ()) if path not in new.get(name, ())]
        more = [path for path in new.get(name, ()) if path not in old.get(name, ())]
        if not less and not more:
            continue
        kind = "library-elsewhere" if less and more else "library-gone" if less else "library-new"
        before = ", ".join(_library(path, was[path]) for path in less)
        after = ", ".join(_library(path, now[path]) for path in more)
        advice = "no search finds it now" if kind == "library-gone" else ""
        yield Change(kind=kind, what=name, was=before, now=after, advice=advice, paths=(*less, *more))


def _by_soname(libraries: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, facts in libraries.items():
        found.setdefault(facts["soname"] or os.path.basename(path), []).append(path)
    return found


def _library(path: str, facts: Mapping[str, str]) -> str:
    return f"{path} (build-id {facts['build_id'] or 'none'})"


def _addressed(change: Change, environment: Environment, site: str) -> Change:
    """The change with the environment that it touches and the command that mends it there."""
    name = shlex.quote(environment.identifier)
    mend = f"envbuilder verify {name}"
    if not change.kind.startswith("library") and change.kind not in ("modulefile", "file"):
        mend = rebuild(environment, site)
    return replace(change, touches=(environment.identifier,), mend=(mend,))


def rebuild(environment: Environment, site: str = "") -> str:
    """The command that locks and builds an environment anew for what the machine is today."""
    base = environment.base
    what = (environment.recipe, "--on", base["module"]) if base else (f"{environment.recipe}@{environment.version}",)
    where = ("--site", site or environment.site, "--partition", environment.partition)
    return shlex.join(("envbuilder", "build", *what, *where, "--rebuild"))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()
