"""The commands that make things: build, lock, bundle, plan."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder import store
from envbuilder.cli import images, on_nodes
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.document import to_yaml
from envbuilder.errors import FINE, SAID_NO, CommandFailed, InputError
from envbuilder.wish import Wish

_SHOWN = 4

if TYPE_CHECKING:
    from datetime import datetime

    from envbuilder.bundle import Bundle
    from envbuilder.environment import Environment
    from envbuilder.lock import Lock
    from envbuilder.plan import Plan
    from envbuilder.prepare import Prepared
    from envbuilder.store import Store
    from envbuilder.work import Work


def build(arguments: Namespace, console: Console) -> int:
    """`envbuilder build`: lock, plan, carry out, publish."""
    images.refuse_options(arguments)
    wish, given = _from_bundle(arguments) if arguments.offline else (_wish(arguments), None)
    if arguments.explain_cache:
        return _explain_cache(wish, arguments, console)
    environment, reused = (None, False) if arguments.rebuild or arguments.lock or given else _as_before(wish, console)
    if environment is None:
        environment, reused = _build(wish, arguments, console, given)
    image = images.exported(environment, arguments.sif)
    if console.json:
        console.document({"environment": environment.to_document(), "reused": reused})
        return FINE
    how = "is built already" if reused else f"was built in {environment.seconds:.1f} s"
    console.done(f"{environment.identifier} {how}")
    if image:
        images.finish(environment, image, console)
        return FINE
    name = f"{environment.recipe}@{environment.version}" if _asks_by_version(wish) else environment.recipe
    console.note(f"prove it: envbuilder verify {name}; activate it: source {environment.prefix}/bin/activate")
    console.result(environment.prefix)
    return FINE


def _explain_cache(wish: Wish, arguments: Namespace, console: Console) -> int:
    from dataclasses import asdict

    from envbuilder import kept_wheels, prepare

    if arguments.offline:
        raise InputError(
            "--explain-cache and --offline exclude each other", hint="give the lock of the bundle: --lock DIR"
        )
    if images.wanted(wish):
        raise InputError("--explain-cache is for trees", hint="leave --builder out; the same sources are compiled")
    if wish.builder == "spack":
        raise InputError("Spack keeps what it built by its own hashes", hint="ask it: spack find --long")
    prepared, _ = on_nodes.prepared(wish, arguments, console, "build")
    found = kept_wheels.explain(prepare.plan(prepared, _lock(prepared, arguments, console)))
    if console.json:
        console.document({"wheels": [asdict(one) for one in found]})
        return FINE
    lines = [] if found else ["nothing is compiled"]
    for one in found:
        if one.kept:
            lines.append(f"{one.wheel}: kept, and used, since all that decides it is the same ({one.path})")
        elif one.nearest:
            lines.append(f"{one.wheel}: compiled anew; from the nearest kept one ({one.nearest}) differ")
            lines += [f"    {difference}" for difference in one.differences]
        else:
            lines.append(f"{one.wheel}: compiled anew; none is kept")
    console.result("\n".join(lines))
    return FINE


def lock(arguments: Namespace, console: Console) -> int:
    """`envbuilder lock`: resolve and write, or (`--check`) only say whether what is there is stale."""
    from envbuilder import prepare
    from envbuilder.builders.base import LockOptions

    prepared, _ = on_nodes.prepared(_wish(arguments), arguments, console, "lock")
    directory = Path(arguments.output) if arguments.output else prepare.lock_directory(prepared)
    if arguments.check:
        return _check_lock(directory, prepared, console)
    options = LockOptions(
        previous=prepare.comparable(prepare.existing_lock(directory), prepared),
        upgrade=tuple(arguments.upgrade),
        upgrade_all=arguments.upgrade_all,
        exclude_newer=_moment(arguments.exclude_newer),
    )
    with console.step(f"resolve {prepared.request.recipe}@{prepared.request.version}", log=prepared.place.log):
        locked = prepare.fresh_lock(prepared, directory, options)
    if console.json:
        console.document({"lock": str(directory), "digest": locked.digest, "packages": locked.packages()})
    else:
        console.note(f"{len(locked.packages())} packages, digest {locked.digest[:12]}")
        console.result(str(directory))
    return FINE


def bundle(arguments: Namespace, console: Console) -> int:
    """`envbuilder bundle`: fetch everything that a lock takes, and write it to one file."""
    from dataclasses import asdict

    from envbuilder import offline

    prepared, _ = on_nodes.prepared(_wish(arguments), arguments, console, "bundle")
    _say_what_was_found(prepared, console)
    locked = _lock(prepared, arguments, console)
    output = Path(arguments.output or offline.default_name(locked))
    made = offline.bundle(prepared, locked, output, console, os.environ)
    if console.json:
        files = [asdict(member) for member in made.members]
        about = {"bundle": str(made.path), "lock": locked.digest, "sha256": made.sha256, "size": made.size}
        console.document({**about, "files": files})
        return FINE
    console.done(f"{len(made.members)} files, {made.size / 1e6:.1f} MB, sha256 {made.sha256}")
    console.note(f"build from it: envbuilder build --offline {made.path.name}")
    console.result(str(made.path))
    return FINE


def plan(arguments: Namespace, console: Console) -> int:
    """`envbuilder plan`: the steps of a build, for people, for machines or for a shell."""
    from envbuilder import prepare
    from envbuilder.report import plan_script, plan_text

    prepared, _ = on_nodes.prepared(_wish(arguments), arguments, console, "plan")
    locked = _lock(prepared, arguments, console)
    if arguments.script:
        identifier = prepare.plan(prepared, locked).identifier
        here = prepare.plan(prepared, locked, prefix=Path.cwd() / identifier)
        console.result(plan_script.render(here))
        return FINE
    planned = prepare.plan(prepared, locked)
    if console.json:
        console.document(planned.to_document())
    else:
        console.result(plan_text.render(planned))
    return FINE


def target(arguments: Namespace, console: Console) -> int:
    """`envbuilder target`: what a recipe would be built for, found here and now."""
    from envbuilder import prepare
    from envbuilder.request import plain

    prepared = prepare.prepare(_wish(arguments), os.environ, "target")
    request = prepared.request
    document = {"recipe": request.recipe, "version": request.version, "target": prepared.target.to_document()}
    if console.json:
        console.document(plain(document))
    else:
        console.result(to_yaml(plain(document)).rstrip("\n"))
    return FINE


def _wish(arguments: Namespace) -> Wish:
    return Wish(
        recipe=arguments.recipe,
        site=arguments.site,
        partition=arguments.partition,
        python=arguments.python,
        builder=arguments.builder,
        on=arguments.on,
        base=getattr(arguments, "base", ""),
        mpi=getattr(arguments, "mpi", ""),
        compression=getattr(arguments, "compression", ""),
    )


def _from_bundle(arguments: Namespace) -> tuple[Wish, Bundle]:
    from envbuilder import bundle, offline

    if arguments.lock:
        raise InputError("--lock and --offline exclude each other: a bundle has a lock", hint="leave one of them out")
    given = bundle.read(Path(arguments.offline))
    return offline.wish(_wish(arguments), given), given


def _asks_by_version(wish: Wish) -> bool:
    return "@" in wish.recipe.rpartition("/")[2]


def _as_before(wish: Wish, console: Console) -> tuple[Environment | None, bool]:
    """The environment of an earlier build, where nothing can have changed since, and whether it was there still."""
    from envbuilder import memo

    place = opened(wish.site)
    identifier = memo.recall(place, wish, os.environ)
    if not identifier:
        return None, False
    by_version = _asks_by_version(wish)
    if place.manifest(identifier).is_file() and place.prefix(identifier).is_dir():
        environment = store.find(place, identifier)
        store.point(place, environment, store.names(environment, asked_by_version=by_version))
        return environment, True
    work = memo.recall_work(place, wish, identifier, os.environ)
    return (_again(work, place, console, by_version=by_version), False) if work else (None, False)


def _again(work: Work, place: Store, console: Console, *, by_version: bool) -> Environment | None:
    """Do what was done before; None where it cannot be done any more, which the long way will explain or mend."""
    from envbuilder import build as builder

    log = place.new_log("build", work.plan.name)
    console.note(f"{work.plan.name}: recipe, site, lock and machine are as they were; the plan is, too")
    try:
        return builder.build(builder.Job(work=work, store=place, asked_by_version=by_version, log=log), console)
    except CommandFailed as error:
        console.note(f"not as before: {error.message.splitlines()[0]}")
        return None


def _build(wish: Wish, arguments: Namespace, console: Console, given: Bundle | None) -> tuple[Environment, bool]:
    from datetime import datetime, timezone

    from envbuilder import build as builder
    from envbuilder import memo, prepare
    from envbuilder.places import Origin
    from envbuilder.plan import Product

    if images.wanted(wish):
        prepared, nodes = images.prepared(wish, console, "build"), None
    elif given is not None:
        prepared, nodes = prepare.prepare(wish, os.environ, "build"), None
    else:
        prepared, nodes = on_nodes.prepared(wish, arguments, console, "build")
    warning = prepared.site.expired(datetime.now(timezone.utc).date(), prepared.target.partition)
    if warning:
        console.warning(warning)
    _say_what_was_found(prepared, console)
    if given is not None:
        from envbuilder import offline

        prepared = offline.take(prepared, given, console)
    locked = given.lock if given is not None else _lock(prepared, arguments, console)
    if images.wanted(wish):
        prepared = images.with_artefacts(prepared, locked, console)
    planned = prepare.plan(prepared, locked)
    old = store.current(prepared.store, f"{locked.recipe}@{locked.version}")
    if arguments.rebuild:
        planned = _anew(prepared, locked, planned)
    existed = prepared.store.manifest(planned.identifier).is_file()
    if nodes is not None and not existed:
        return on_nodes.build(prepared, locked, nodes, console, rebuild=arguments.rebuild), False
    work = prepare.work(prepared, locked, planned)
    compiles = any(isinstance(step, Product) and not step.path.exists() for step in planned.steps)
    environment = builder.build(
        builder.Job(work=work, store=prepared.store, asked_by_version=_asks_by_version(wish), log=prepared.place.log),
        console,
    )
    if arguments.rebuild and old and old != environment.identifier and old.startswith(planned.name.replace("@", "-")):
        store.withdraw(prepared.store, old)
    # what modules do can change without a file we know of
    if not (arguments.lock or given or images.wanted(wish)) and prepared.target.modules is None:
        if compiles and not arguments.rebuild:  # what was compiled is there now, and is planned otherwise
            work = prepare.work(prepared, locked, prepare.plan(prepared, locked))
        envelope = Origin(name="", path=prepare.lock_directory(prepared) / "lock.json")
        memo.remember(
            prepared.store,
            wish,
            work,
            [*prepared.origins, envelope],
            os.environ,
            again=not (warning or arguments.rebuild),
        )
    return environment, existed


def _anew(prepared: Prepared, locked: Lock, planned: Plan) -> Plan:
    """A plan of another identity for the same inputs, with nothing taken from the cache."""
    from envbuilder import prepare
    from envbuilder.fetched import forget

    forget(prepared, locked)
    generation = 0
    while prepared.store.manifest(planned.identifier).exists():
        generation += 1
        planned = prepare.plan(prepared, locked, generation=generation)
    return planned


def _say_what_was_found(prepared: Prepared, console: Console) -> None:
    from envbuilder import pip_config

    target = prepared.target
    if target.modules and target.modules.names:
        console.note(f"modules: {', '.join(target.modules.names)}")
    if prepared.request.tag and not target.toolkit:
        console.warning(
            f"the site file does not say which toolkit {target.site}/{target.partition} has: {prepared.request.tag} was taken "
            f"with {prepared.request.recipe}@{prepared.request.version}; name another version if it is not the one"
        )
    mpi = "no MPI" if target.mpi is None else f"{target.mpi.name} ({target.mpi.provider})"
    console.note(
        f"{prepared.request.recipe}@{prepared.request.version} on {target.site}/{target.partition}: "
        f"Python {target.python.version}, {mpi}, {target.compiler.version if target.compiler else 'no C compiler'}"
    )
    for line in pip_config.notes(prepared.place.pip):
        console.note(line)


def _lock(prepared: Prepared, arguments: Namespace, console: Console) -> Lock:
    from envbuilder import prepare

    if arguments.lock:
        return prepare.given_lock(prepared, Path(arguments.lock))
    with console.step(f"lock {prepared.request.recipe}@{prepared.request.version}", log=prepared.place.log):
        locked, reasons = prepare.lock(prepared, console.note)
    for reason in reasons[:_SHOWN]:
        console.note(f"the lock was stale: {reason}")
    if len(reasons) > _SHOWN:
        console.note(f"and {len(reasons) - _SHOWN} more differences")
    return locked


def _check_lock(directory: Path, prepared: Prepared, console: Console) -> int:
    from envbuilder import lock as lock_format

    locked = store.read_lock(directory)
    reasons: Sequence[str] = lock_format.stale(locked, prepared.request.to_document())
    if console.json:
        console.document({"lock": str(directory), "fresh": not reasons, "reasons": list(reasons)})
    elif reasons:
        console.error(f"the lock in {directory} is stale", f"envbuilder lock {prepared.wish.recipe} writes it anew")
        console.result("\n".join(reasons))
    else:
        console.done(f"the lock in {directory} is fresh")
    return SAID_NO if reasons else FINE


def _moment(text: str) -> datetime | None:
    """A date (`2026-01-31`: the beginning of that day, UTC) or a moment in ISO 8601."""
    from datetime import datetime, timezone

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise InputError(f"--exclude-newer: {text[:40]!r} is not a date", hint="write it as 2026-01-31") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
