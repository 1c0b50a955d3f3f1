"""Look at what a machine does today of the things that environments stand on, for `drift` to compare.

Nothing is changed. The modules of each list are loaded once for all environments that asked for them; when their effect is
not what it was they are loaded again, because a variable that differs from one login to the next says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from envbuilder import catalog, drift, elf, gate, host, linking, modules, proof, witness
from envbuilder.drift import Change, Today
from envbuilder.effect import Effect, Loaded
from envbuilder.environment import Environment
from envbuilder.errors import EnvbuilderError, InputError
from envbuilder.partition import Partition
from envbuilder.process import patched
from envbuilder.proof import Circumstances, Proof
from envbuilder.site import Site
from envbuilder.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What the gate would say of one proof here, host and partition aside: `reasons` is empty where it would open."""

    environment: str
    partition: str
    made: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found for one environment."""

    environment: Environment
    changes: tuple[Change, ...]
    standings: tuple[Standing, ...]
    unseen: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Capture:
    """What loading one list of modules came to."""

    loaded: Loaded | None = None
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unkept: tuple[str, ...] = ()
    volatile: frozenset[str] = frozenset()
    unseen: str = ""


class Machine:
    """This machine, for any number of environments of a store."""

    def __init__(self, place: Store, env: Mapping[str, str]) -> None:
        self._place = place
        self._env = env
        self._captures: dict[tuple[str, str, tuple[str, ...]], _Capture] = {}

    def look(self, environment: Environment) -> Report:
        """What differs for one environment, what the gate says of its proofs, and what could not be looked at."""
        proofs, unseen = self._proofs(environment)
        notes: list[str] = []
        if environment.image or environment.pack:
            seen_by = (
                "it is an image: what is bound into it is looked at by the gate, and nothing else of the host by anyone"
                if environment.image
                else f"it is packed: ask for {environment.pack['of'] if environment.pack else ''}, of which it was made"
            )
            return Report(environment=environment, changes=(), standings=(), unseen=(*unseen, seen_by), notes=())
        capture = _Capture()
        if environment.modules:
            capture = self._capture(environment, notes)
        if capture.unseen:
            unseen.append(capture.unseen)
        if not proofs and not unseen:
            notes.append("it has no proof, so of the host's libraries only its MPI is known")
        effect = capture.loaded.effect if capture.loaded else Effect()
        today = Today(
            loaded=capture.loaded,
            failed=capture.failed,
            unkept=capture.unkept,
            volatile=capture.volatile,
            interpreter=_interpreter(environment, effect),
            files=_files(environment, proofs),
            marks=_marks(proofs),
            elsewhere=self._elsewhere(environment, proofs),
            site=self._site(environment),
        )
        standings: tuple[Standing, ...] = ()
        if not Path(environment.prefix).is_dir():
            unseen.append(f"its tree is gone ({environment.prefix}): what it needs of the host is unknown")
        elif proofs:
            # where modules are missing, what they did is what it was built with
            base = _base(proofs, effect)
            today = replace(today, taken=_taken(environment, base))
            standings = tuple(_standing(one, environment, base) for one in proofs)
        changes, more = drift.compare(environment, proofs, replace(today, unseen=tuple(unseen)))
        return Report(
            environment=environment, changes=changes, standings=standings, unseen=tuple(more), notes=tuple(notes)
        )

    def _proofs(self, environment: Environment) -> tuple[tuple[Proof, ...], list[str]]:
        found, unseen = [], []
        for path in sorted(self._place.path("proofs", environment.identifier).glob("*.json")):
            try:
                found.append(proof.load(path))
            except EnvbuilderError as error:
                unseen.append(error.message)
        return tuple(found), unseen

    def _capture(self, environment: Environment, notes: list[str]) -> _Capture:
        """What the modules that it was built with do today."""
        then = environment.modules or {}
        asked = tuple(map(str, then["asked"]))
        try:
            site, origin = catalog.site_of(environment, self._env)
            partition = site.partition(environment.partition)
        except EnvbuilderError as error:
            return _Capture(unseen=f"its site cannot be read: {error.message}")
        if site.modules.system == "none" and then["system"] != "none":
            return _Capture(unseen=f"{origin.path} says that there is no module system")
        base = environment.base
        wanted = (*partition.modules, *((str(base["module"]),) if base else ()))
        if wanted != asked:
            notes.append(
                f"{origin.path} asks for other modules now ({', '.join(wanted)}); compared are those it was built with"
            )
        key = (str(origin.path), environment.partition, asked)
        if key not in self._captures:
            self._captures[key] = _captured(site, partition, asked, Effect.from_document(then["effect"]))
        return self._captures[key]

    def _site(self, environment: Environment) -> str:
        """What names its site: the name where that leads to the file that it was built from, else the file."""
        file = environment.site_file
        with suppress(EnvbuilderError, OSError):
            if not file or os.path.samefile(catalog.site_origin(environment.site, self._env).path, file):
                return environment.site
        return file

    def _elsewhere(self, environment: Environment, proofs: tuple[Proof, ...]) -> str:
        """In what this node differs from those that the proofs were made on, in words."""
        # the cluster has no name outside of a job, and drift is for login nodes
        here = host.identity("unknown" if environment.scheduler else "")
        said: list[str] = []
        for one in proofs:
            then = one.circumstances.host
            known = {**here, **({"cluster": then["cluster"]} if "cluster" in then and "cluster" in here else {})}
            said += proof.same_host(then, known)
        return ", ".join(dict.fromkeys(said))


def _captured(site: Site, partition: Partition, asked: tuple[str, ...], was: Effect) -> _Capture:
    """What a list of modules does today; nothing where some of it cannot be loaded, for that would bury the cause."""
    wanted = replace(partition, modules=asked, promises=())
    try:
        try:
            loaded, failed = modules.attempt(site, wanted)
        except InputError:
            # a variable that an export needs is gone: the comparison names it
            wanted = replace(wanted, exports_after_modules=())
            loaded, failed = modules.attempt(site, wanted)
    except EnvbuilderError as error:
        return _Capture(unseen=error.message)
    if failed or loaded is None:
        kinds = {True: "module-replaced", False: "module-gone"}
        return _Capture(failed={error.module: (kinds[error.replaced], error.said) for error in failed})
    env = loaded.effect.apply(modules.bare())
    unkept = tuple(str(name) for name in partition.promises if not env.get(name))
    volatile: frozenset[str] = frozenset()
    if any(drift.effects(was, loaded.effect)):
        again = modules.load(site, wanted)
        volatile = frozenset(name for name, _, _ in drift.effects(loaded.effect, again.effect)) if again else volatile
    return _Capture(loaded=loaded, unkept=unkept, volatile=volatile)


def _interpreter(environment: Environment, effect: Effect) -> str:
    """The version of the interpreter by its own words; empty where there is none."""
    try:
        return host.ask_python(environment.python["path"], effect.apply(modules.bare())).version
    except EnvbuilderError:
        return ""


def _files(environment: Environment, proofs: tuple[Proof, ...]) -> dict[str, dict[str, str]]:
    mpi = environment.mpi
    own = (mpi["library"],) if mpi is not None and mpi["provider"] == "system" else ()
    found = {}
    for path in dict.fromkeys([*own, *(path for one in proofs for path in one.host_libraries)]):
        try:
            facts = elf.read(Path(path))
        except OSError:
            continue
        # a file that is no library any more has neither
        found[path] = {"soname": facts.soname, "build_id": facts.build_id} if facts else {"soname": "", "build_id": ""}
    return found


def _marks(proofs: Iterable[Proof]) -> dict[str, str]:
    paths = [
        path
        for one in proofs
        for path in (*one.circumstances.modulefiles, *one.circumstances.libraries)
    ]  # fmt: skip
    return proof.marks(dict.fromkeys(paths))


def _base(proofs: tuple[Proof, ...], effect: Effect) -> dict[str, str]:
    """The variables of a job in which today's modules are loaded, under what else decided at the proof."""
    return effect.apply({**modules.bare(), **proofs[-1].circumstances.variables})


def _taken(environment: Environment, base: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What the needs of the tree resolve to now, in a process that is in the environment."""
    prefix = Path(environment.prefix)
    inside = patched(gate.patch(environment, base), base)
    return linking.outside(witness.objects(prefix), linking.linker(inside), prefix)


def _standing(found: Proof, environment: Environment, base: Mapping[str, str]) -> Standing:
    here = gate.circumstances(environment, base, found.circumstances.libraries)
    today: Circumstances = replace(here, host=found.circumstances.host, partition=found.partition)
    now = datetime.now(timezone.utc)
    return Standing(
        environment=environment.identifier,
        partition=found.partition,
        made=found.made.isoformat(),
        reasons=gate.reasons(found, environment, today, now),
    )
