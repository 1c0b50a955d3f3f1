"""Carry out a plan: the verb that has effects.

Killed at any moment, the store shows the old environment or the new one: the tree is built at its final, unpublished path and
becomes visible by the rename of its manifest. What was downloaded or compiled is kept, so the next run goes on from there.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from envbuilder import host, inventory, manifest, pip_config, process, store
from envbuilder.console import Console, Tick
from envbuilder.document import write_atomically
from envbuilder.environment import Environment
from envbuilder.errors import CommandFailed, EnvbuilderError, HostError, StoreError
from envbuilder.plan import SEALED_AT, Action, Fetch, Forget, Move, Plan, Product, Remove, Run, Seal, Step, Write
from envbuilder.process import Command
from envbuilder.store import Store
from envbuilder.work import Work

# What uv and pip say of an artefact whose hash differs, or that breaks before its hash is known.
_DAMAGED = (
    "hash mismatch", "hashes do not match", "do not match the hashes", "bad crc", "failed to extract", "invalid zip",
    "corrupt", "invalid gzip",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to build, where, for whom to see."""

    work: Work
    store: Store
    asked_by_version: bool
    log: Path


def build(job: Job, console: Console) -> Environment:
    """The environment of a plan: found if it is there, else built and published.

    Concurrent builds of one environment do the work once. Raises `CommandFailed`, `HostError` (disk full, no network) or
    `StoreError`; nothing is published then, and the next run resumes.
    """
    identifier = job.work.plan.identifier
    with store.guarded(job.store, f"env-{identifier}", console.note):
        manifest = job.store.manifest(identifier)
        if manifest.is_file() and job.work.plan.prefix.is_dir():
            environment = _following(job, store.find(job.store, identifier))
            store.point(job.store, environment, store.names(environment, asked_by_version=job.asked_by_version))
            return environment
        started = time.monotonic()
        with _explained(job.log):
            execute(job.work.plan, job.store, console, job.log, mirrors=job.work.mirrors)
            environment = _described(job, time.monotonic() - started)
        store.publish(job.store, environment, store.names(environment, asked_by_version=job.asked_by_version))
    return environment


@dataclass(frozen=True, kw_only=True, slots=True)
class _Means:
    """What every step is carried out with."""

    plan: Plan
    log: Path
    store: Store
    mirrors: Mapping[str, str]
    waiting: Callable[[str], None]


def execute(plan: Plan, place: Store, console: Console, log: Path, *, mirrors: Mapping[str, str] | None = None) -> None:
    """Carry out the steps in order; a product that is there already is skipped."""
    means = _Means(plan=plan, log=log, store=place, mirrors=mirrors or {}, waiting=console.note)
    todo = [step for step in plan.steps if not (isinstance(step, Product) and step.path.exists())]
    shown = sum(isinstance(step, (Product, Run)) for step in todo)
    number = 0
    for step in todo:
        number += isinstance(step, (Product, Run))
        if isinstance(step, Product):
            with store.guarded(place, f"wheel-{step.path.name}", console.note):
                _make(step, means, console, (number, shown))
        elif isinstance(step, Run):
            with console.step(step.title, number=number, of=shown, log=log) as tick:
                _run(step, plan, log, tick)
        else:
            _act(step, means)


def _fetch(step: Fetch, means: _Means) -> None:
    """Have a source in the store: an archive, or one made from commits."""
    from envbuilder import told
    from envbuilder.checkout import Cache, Part
    from envbuilder.download import Network
    from envbuilder.lock import Artefact

    network = Network(pip=pip_config.read(os.environ), env=os.environ, mirrors=tuple(means.mirrors.values()))
    cache = Cache(store=means.store, network=network, mirrors=means.mirrors, waiting=means.waiting)
    wanted = Artefact(package="", version="", file=step.path.name, url=step.url, sha256=step.sha256)
    made_of = tuple(Part(path=below, url=place, commit=commit) for below, place, commit in step.parts)
    told.obtain(wanted, made_of, cache)


def _make(product: Product, means: _Means, console: Console, position: tuple[int, int]) -> None:
    """Make a product, unless another process made it while we waited for the guard."""
    if product.path.exists():
        return
    with console.step(product.title, number=position[0], of=position[1], log=means.log) as tick:
        try:
            _all(product.actions, means, tick)
        except BaseException:  # a half-built image is large, and may be what fills the disk
            if product.scratch is not None:
                shutil.rmtree(product.scratch, ignore_errors=True)
            raise


def _all(actions: Iterable[Step], means: _Means, tick: Tick) -> None:
    """Carry out the steps of a product; another one among them is skipped if it is there."""
    for action in actions:
        if isinstance(action, Product):
            if not action.path.exists():
                _all(action.actions, means, tick)
        elif isinstance(action, Run):
            said = action.title
            _run(action, means.plan, means.log, lambda words, title=said: tick(f"{title} {words}".strip()))  # type: ignore[misc]
        else:
            _act(action, means)


def _run(step: Run, plan: Plan, log: Path, tick: Tick) -> None:
    command = Command(argv=step.argv, env=_environment(step, plan), cwd=step.cwd)
    base = plan.effect.apply({} if step.clean else os.environ)
    if step.cache_first:
        cached = replace(command, argv=(*command.argv, *step.cache_first))
        if process.logged(cached, log, base=base, redact=pip_config.redact).code == 0:
            return
    done = process.logged(command, log, base=base, tick=lambda: tick(_how_far(step)), redact=pip_config.redact)
    if done.code != 0:
        output = pip_config.redact(done.output)
        raise CommandFailed(
            f"{step.title}: failed\n{_last_lines(output)}\n  full log: {log}",
            hint="nothing was published; when the cause is mended, the same command resumes",
            code=done.code,
            output=output,
        )


def _environment(step: Run, plan: Plan) -> dict[str, str | None]:
    """The patch for a step's program: nothing but what the plan says decides what it makes."""
    if step.clean:
        return dict(step.env)
    return {**dict.fromkeys(pip_config.FOREIGN), **pip_config.linked(os.environ), **plan.network, **step.env}


def _how_far(step: Run) -> str:
    if step.watch is None or not step.total:
        return ""
    installed = sum(1 for _ in step.watch.glob(step.counted))
    return f"{min(installed, step.total)} of {step.total} packages"


def _act(action: Action, means: _Means) -> None:
    """The actions that are no program: files fetched, written, removed, renamed, sealed."""
    match action:
        case Write(path=path, text=text, executable=executable):
            # nobody looks at it before the manifest is there, and the rest of the tree is uv's
            write_atomically(path, text, mode=0o755 if executable else 0o644, durable=False)
        case Remove(path=path):
            _remove(path)
        case Move(source=source, target=target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
        case Fetch() as fetch:
            _fetch(fetch, means)
        case Forget(prefix=prefix, name=name):
            _forget(prefix, name)
        case Seal(folder=folder, check=True):
            _check_seal(folder)
        case Seal(folder=folder):
            _seal(folder)
        case Run():
            raise AssertionError(f"{action.title} is a program ({means.log})")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # what was killed a moment ago may still be writing there
        for _ in range(20):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                    raise
                time.sleep(0.2)
            else:
                return
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _forget(prefix: Path, name: str) -> None:
    """Remove a file from all metadata. RECORD is replaced, not edited: it may be a hard link into uv's cache."""
    for file in prefix.glob(f"lib/python*/site-packages/*.dist-info/{name}"):
        record = file.parent / "RECORD"
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        write_atomically(record, "".join(line for line in lines if f"/{name}," not in line), durable=False)
        file.unlink()


def _seal(folder: Path) -> None:
    """Write the sums, and give every file one fixed time: uv writes the time of a local wheel into what it installs."""
    write_atomically(folder / "SHA256SUMS", _sums(folder))
    for path in folder.iterdir():
        os.utime(path, (SEALED_AT, SEALED_AT))


def _sums(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    return "".join(f"{host.sha256(path)}  {path.name}\n" for path in files)


def _check_seal(folder: Path) -> None:
    """Compare the files of a kept wheel with their sums; a damaged one is set aside, so that the next run makes it anew."""
    try:
        recorded = (folder / "SHA256SUMS").read_text()
    except OSError:
        recorded = ""
    if recorded == _sums(folder):
        return
    aside = folder.with_name(f".{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)
    raise StoreError(
        f"a kept wheel was changed after it was made: {folder}",
        hint="it was removed; run the same command again to make it anew",
    )


def _last_lines(output: str) -> str:
    return "\n".join(f"    {line}" for line in output.strip().splitlines()[-process.TAIL_LINES :])


def _described(job: Job, seconds: float) -> Environment:
    """The manifest of a tree that was just built."""
    about = None
    if job.work.plan.image:
        from envbuilder import image

        about = image.finished(job.work.plan.image)
        found, mpi = image.stock(about, job.work.mpi)
    else:
        found = inventory.take(job.work.plan.prefix, whole=bool(job.work.draft.spack))
        mpi = inventory.mpi_library(job.work.plan.prefix, job.work.mpi) if job.work.mpi else None
    packages = job.work.draft.packages
    if job.work.draft.spack:  # its packages have names of their own; the tree tells which distributions they brought
        inventory.refuse_lacking(job.work.plan.prefix, job.work.draft.spack)
        packages = inventory.distributions(job.work.plan.prefix)
    return replace(
        job.work.draft,
        packages=packages,
        records=found.records,
        written=found.written,
        mpi=mpi,
        image=about,
        created=store.now(),
        seconds=round(seconds, 3),
    )


def _following(job: Job, found: Environment) -> Environment:
    """An environment that is there already, with the facts of the site file that it was asked for by this time."""
    now = replace(found, **{name: getattr(job.work.draft, name) for name in manifest.OF_THE_SITE})
    if now != found:
        store.publish(job.store, now, ())
    return now


@contextmanager
def _explained(log: Path) -> Iterator[None]:
    """Turn the failures that a user can mend into one clear message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(log) from error
        raise StoreError(
            f"{error.filename or 'the store'}: {error.strerror}", hint="check the store's permissions"
        ) from error
    except CommandFailed as error:
        raise _mendable(error, log) from error


def _mendable(error: CommandFailed, log: Path) -> EnvbuilderError:
    said = error.output.lower()
    if "no space left on device" in said or "disk quota exceeded" in said:
        return _disk_full(log)
    if any(mark in said for mark in _DAMAGED):
        return CommandFailed(
            f"an artefact is damaged or not the one that was locked, and was refused\n{error.message}",
            hint="nothing was installed; if the file was republished on purpose, lock again with --upgrade",
        )
    if any(
        mark in said for mark in ("error sending request", "failed to fetch", "connection", "dns error", "timed out")
    ):
        return HostError(
            f"the network gave out while artefacts were fetched\n{error.message}",
            hint="what was fetched is kept; run the same command again when the network is back",
        )
    return error


def _disk_full(log: Path) -> HostError:
    return HostError(
        f"no space is left on the disk of the store; nothing was published (full log: {log})",
        hint="free space (`envbuilder gc` helps) or set ENVBUILDER_HOME to another disk, then run the same command again",
    )


__all__ = ["Job", "Step", "build", "execute"]
