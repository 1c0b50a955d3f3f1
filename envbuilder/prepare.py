"""From a name on the command line to a plan: find the recipe and the site, look at the machine, lock, plan.

Each function is one arrow of the house's line and can be called alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from envbuilder import (
    catalog,
    conda,
    host,
    host_memo,
    manifest,
    modes,
    modules,
    pip_config,
    scheduler,
    store,
)
from envbuilder import lock as lock_format
from envbuilder.builders import builder
from envbuilder.builders.base import LockOptions, Workplace
from envbuilder.builders.venv import caches
from envbuilder.catalog import FoundRecipe
from envbuilder.effect import Loaded
from envbuilder.errors import HostError, InputError
from envbuilder.fit import misfit
from envbuilder.lock import Lock
from envbuilder.partition import Partition
from envbuilder.places import Origin
from envbuilder.plan import Plan
from envbuilder.recipe import Variant
from envbuilder.request import Request, concrete, specs, with_conda, with_spack
from envbuilder.site import Site
from envbuilder.source import patch_files
from envbuilder.store import Store
from envbuilder.target import Python, Target
from envbuilder.wish import Wish
from envbuilder.work import Work

_CONDA = "conda"
_SPACK = "spack"
# what is tried where nobody asks for a Python, newest first
_PYTHONS = ("3.14", "3.13", "3.12", "3.11", "3.10", "3.9", "3.8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A wish that was found possible: site, target and request, with the files that it came from."""

    wish: Wish
    site: Site
    target: Target
    request: Request
    origins: tuple[Origin, ...]
    place: Workplace
    store: Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a wish comes to by the files alone: recipe, site, partition, and the rows that can work there."""

    wish: Wish
    found: FoundRecipe
    site: Site
    site_origin: Origin
    partition: str
    rows: tuple[Variant, ...]


def choose(wish: Wish, env: Mapping[str, str]) -> Choice:
    """Find the recipe, the site and the partition; nothing of the machine is looked at.

    Raises `InputError` for what is wrong or impossible.
    """
    site, site_origin = catalog.find_site(wish.site, env)
    found = catalog.find_recipe(wish.recipe, env)
    if wish.on:
        found = catalog.put_on(found, wish.on)
    partition = _partition(found, wish, site)
    rows = _possible(found, site, partition, wish)
    return Choice(wish=wish, found=found, site=site, site_origin=site_origin, partition=partition, rows=rows)


def prepare(wish: Wish, env: Mapping[str, str], verb: str, *, choice: Choice | None = None) -> Prepared:
    """Find everything that a wish names on this machine; `choice` is what it comes to by the files, if that is known.

    Raises `InputError` for what is wrong or impossible and `HostError` for what this machine lacks.
    """
    choice = choice or choose(wish, env)
    found, site = choice.found, choice.site
    partition = site.partition(choice.partition)
    base = str(found.recipe.base.module) if found.recipe.base else ""
    loaded = modules.load(site, partition, (base,) if base else ())
    if wish.builder == _CONDA:
        python = _conda_python(choice)
    else:
        _, python = _choose(found, wish, choice.rows, partition.python.command, loaded)
    target = host_memo.target(
        store.locate(env, site.paths.root).root,
        site,
        choice.partition,
        python,
        with_mpi="mpi" in found.recipe.needs,
        modules=loaded,
        base=base,
    )
    return prepared_for(choice, target, env, verb)


def prepared_for(choice: Choice, target: Target, env: Mapping[str, str], verb: str) -> Prepared:
    """The same for a target that was found elsewhere, such as in a job on the nodes.

    Raises `InputError` when none of the rows can work there.
    """
    wish, found, site, site_origin = choice.wish, choice.found, choice.site, choice.site_origin
    partition = site.partition(choice.partition)
    variant = next((row for row in choice.rows if host.fits(target.python.version, row.python)), choice.rows[0])
    request = concrete(found.recipe, variant, partition, target)
    if wish.builder == _CONDA:
        virtual = conda.virtual_packages(partition, target.arch, _glibc(site, partition, target, env))
        request = with_conda(request, found.recipe, variant, target, virtual)
    elif wish.builder == _SPACK:
        request = with_spack(request, _spack_document(choice, variant, target))
    place = store.locate(env, site.paths.root)
    modes.make_root(place.root, site.paths.readable_by)
    return Prepared(
        wish=wish,
        site=site,
        target=target,
        request=request,
        origins=(*found.origins, *_patches(found), site_origin),
        place=Workplace(
            root=place.root,
            pip=pip_config.read(env),
            site=site,
            log=place.new_log(verb, f"{request.recipe}@{request.version}"),
        ),
        store=place,
    )


def _patches(found: FoundRecipe) -> tuple[Origin, ...]:
    """The files beside the recipe that decide what is compiled."""
    sources = found.recipe.sources.values()
    return tuple(Origin(name="", path=path) for source in sources for path in patch_files(source))


def lock_directory(prepared: Prepared) -> Path:
    """Where the store keeps the lock of this request."""
    request = prepared.request
    layers = prepared.place.layers
    world = layers.name if layers else _CONDA if request.conda else _SPACK if request.spack else ""
    partition = f"{prepared.target.partition}.{world}" if world else prepared.target.partition
    return prepared.store.lock_directory(request.recipe, request.version, prepared.target.site, partition)


def existing_lock(directory: Path) -> Lock | None:
    """The lock in a directory, or None where there is none yet; raises `InputError` for a damaged one."""
    aside = directory.with_name(f".{directory.name}.old")
    if not (directory / lock_format.ENVELOPE).is_file() and not aside.is_dir():
        return None
    return store.read_lock(directory)


def fresh_lock(prepared: Prepared, directory: Path, options: LockOptions) -> Lock:
    """Resolve the request and write the lock; versions of a previous lock are kept where they still fit."""
    lock = builder(prepared.wish.builder).lock(prepared.request, prepared.target, options, prepared.place)
    store.write_lock(directory, lock)
    return lock


def lock(prepared: Prepared, waiting: Callable[[str], None]) -> tuple[Lock, tuple[str, ...]]:
    """The lock of a request from the store, resolved if there is none or if it is stale, and why it was stale."""
    directory = lock_directory(prepared)
    request = prepared.request
    name = f"lock-{request.recipe}@{request.version}-{directory.name}"
    with store.guarded(prepared.store, name, waiting):
        old = existing_lock(directory)
        reasons = lock_format.stale(old, request.to_document()) if old else ()
        if old is not None and not reasons:
            return old, ()
        return fresh_lock(prepared, directory, LockOptions(previous=comparable(old, prepared))), reasons


def comparable(old: Lock | None, prepared: Prepared) -> Lock | None:
    """A lock whose versions are worth keeping: one for the same Python and MPI. Another Python's would hold us back."""
    return old if old is not None and old.request["target"] == prepared.request.target else None


def given_lock(prepared: Prepared, directory: Path) -> Lock:
    """A lock that the user names; raises `InputError` when it does not answer this request on this machine."""
    lock = store.read_lock(directory)
    refuse_stale(
        prepared, lock, str(directory), f"write it anew: envbuilder lock {prepared.wish.recipe} -o {directory}"
    )
    return lock


def refuse_stale(prepared: Prepared, lock: Lock, where: str, hint: str) -> None:
    """Raise `InputError` with what differs when a lock, which is at `where`, does not answer this request."""
    reasons = lock_format.stale(lock, prepared.request.to_document())
    if reasons:
        raise InputError(f"{where}: the lock is stale:\n" + "\n".join(f"    {reason}" for reason in reasons), hint=hint)


def plan(prepared: Prepared, lock: Lock, *, generation: int = 0, prefix: Path | None = None) -> Plan:
    """The plan of a lock on this machine."""
    return builder(prepared.wish.builder).plan(
        lock, prepared.target, prepared.place, generation=generation, prefix=prefix
    )


def work(prepared: Prepared, lock: Lock, plan: Plan) -> Work:
    """What carrying out a plan needs to know."""
    site, wish = prepared.site, prepared.wish
    draft = manifest.draft(
        plan,
        lock,
        prepared.target,
        site,
        builder=wish.builder,
        caches=caches(prepared.place),
        site_file=prepared.origins[-1].path.absolute(),
    )
    return Work(plan=plan, draft=draft, mpi=prepared.target.mpi, mirrors=site.mirrors)


def _partition(found: FoundRecipe, wish: Wish, site: Site) -> str:
    """The partition that is meant: the one named, else the first that the recipe fits, those of today before others."""
    if wish.partition:
        site.partition(wish.partition)
        return wish.partition
    today = datetime.now(timezone.utc).date().isoformat()
    names = [str(site.default_partition), *(name for name in site.partitions if name != site.default_partition)]
    names.sort(key=lambda name: not site.partitions[name].current(today))
    for name in names:
        if any(not _misfit(found, row, site, name, wish) for row in _rows(found)):
            return name
    if len(names) == 1 and site.partitions[names[0]].python.version == "":
        return names[0]
    reasons = "\n".join(f"    {name}: {_misfit(found, _rows(found)[0], site, name, wish)}" for name in names)
    raise InputError(
        f"{found.recipe.name} cannot work on {site.name}:\n{reasons}",
        hint=f"see `envbuilder recipes show {found.recipe.name}` and `envbuilder sites show {site.name}`",
    )


def _rows(found: FoundRecipe) -> tuple[Variant, ...]:
    recipe = found.recipe
    if not recipe.variants:
        raise InputError(f"recipe {recipe.name} has no variant", hint="add one under `variants:`")
    return (recipe.variant(found.version),) if found.version else recipe.variants


def _possible(found: FoundRecipe, site: Site, partition: str, wish: Wish) -> tuple[Variant, ...]:
    """The rows that can work there, by the two files alone; raises `InputError` with the reasons when none can."""
    rows = _rows(found)
    reasons = {row.version: _misfit(found, row, site, partition, wish) for row in rows}
    fitting = tuple(row for row in rows if not reasons[row.version])
    if fitting:
        return fitting
    name = found.recipe.name
    described = "\n".join(f"    {name}@{version}: {reason}" for version, reason in reasons.items())
    others = [row.version for row in found.recipe.variants if not _misfit(found, row, site, partition, wish)]
    elsewhere = [other for other in site.partitions if any(not _misfit(found, row, site, other, wish) for row in rows)]
    hint = "see `envbuilder recipes show`"
    if others:
        hint = f"what fits there: {', '.join(f'{name}@{version}' for version in others)}"
    elif elsewhere:
        hint = f"it fits {', '.join(f'--partition {other}' for other in elsewhere)}"
    raise InputError(f"{name} cannot work on {site.name}/{partition}:\n{described}", hint=hint)


def _choose(
    found: FoundRecipe, wish: Wish, rows: tuple[Variant, ...], command: str, loaded: Loaded | None
) -> tuple[Variant, Python]:
    """The first of the rows for which there is an interpreter, and that."""
    env = loaded.effect.apply(os.environ) if loaded else None
    for row in rows:
        python = host.find_python(row.python, wish.python, command=command, env=env)
        if python is not None:
            return row, python
    described = "; ".join(f"{row.version} needs Python {row.python}" for row in rows)
    asked = f" ({wish.python} was asked for)" if wish.python else ""
    if command and not wish.python:
        has = host.site_python(command, env)
        raise InputError(
            f"{found.recipe.name} cannot use the Python that the modules bring, {has.version} ({has.path}): {described}",
            hint="its wheels have other ABI tags; choose another partition or variant, or another Python module",
        )
    raise HostError(
        f"no Python on this machine fits {found.recipe.name}{asked}: {described}",
        hint="install one (uv python install 3.12, or your system's package) or name one: --python PATH",
    )


def _conda_python(choice: Choice) -> Python:
    """The Python that conda is to bring: the version asked for, else envbuilder's own if it fits, else the newest that does."""
    wanted, name = choice.wish.python, choice.found.recipe.name
    if choice.found.recipe.base:
        raise InputError(f"{name} stands on a module, which conda cannot add to", hint="leave --builder out")
    if wanted and not re.fullmatch(r"3\.[0-9]{1,2}", wanted):
        raise InputError(
            f"--python {wanted}: conda brings the interpreter", hint="name its version, such as --python 3.12"
        )
    for row in choice.rows:
        for minor in (wanted,) if wanted else (host.own_python().minor, *_PYTHONS):
            if host.fits(minor, row.python):
                soabi = f"cpython-{minor.replace('.', '')}-{os.uname().machine}-linux-gnu"
                return Python(path="", version=minor, soabi=soabi, headers=True)
    described = "; ".join(f"{row.version} needs Python {row.python}" for row in choice.rows)
    raise InputError(f"no Python fits {name}: {described}", hint="name another version of it, or leave --python out")


def _spack_document(choice: Choice, variant: Variant, target: Target) -> dict[str, object]:
    """What Spack is asked for, with what the machine has; raises `InputError`."""
    from envbuilder import spack_machine
    from envbuilder.builders.spack import program_of

    recipe = choice.found.recipe
    program_of(target)
    if recipe.base:
        raise InputError(f"{recipe.name} stands on a module, which Spack cannot add to", hint="leave --builder out")
    beside = os.path.join(os.path.dirname(target.compiler.path), "gfortran") if target.compiler else ""
    return spack_machine.document(
        recipe,
        specs(recipe, variant, target),
        choice.site.partition(choice.partition),
        target,
        beside if os.access(beside, os.X_OK) else "",
    )


def _glibc(site: Site, partition: Partition, target: Target, env: Mapping[str, str]) -> str:
    """The C library's version on the nodes of a partition; nothing where they are other machines than the one looked at."""
    same = site.scheduler.kind == "none" or partition.builds_on == "compute" or scheduler.allocation(env)
    found = re.fullmatch(r"glibc ([0-9.]+)", target.libc)
    return found[1] if same and found else ""


def _misfit(found: FoundRecipe, row: Variant, site: Site, partition_name: str, wish: Wish) -> str:
    partition = site.partition(partition_name)
    facts = {
        "site": site.name,
        "partition": partition_name,
        "arch": os.uname().machine,
        "gpu": partition.gpu.vendor,
        "mpi": partition.mpi.name or "any",
        "provider": partition.mpi.provider,
    }
    return misfit(found.recipe, row, partition, facts, own_python=bool(wish.python))
