"""Carry out a plan: the verb that has effects.

Killed at any moment, the store shows the old environment or the new one: the tree is built at its final, unpublished path and
becomes visible by the rename of its manifest. What was downloaded or compiled is kept, so the next run goes on from there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from envbuilder import __version__, host, image, inventory, pip_config, places, process, store, told
from envbuilder.checkout import Cache, Part
from envbuilder.console import Console, Tick
from envbuilder.document import write_atomically
from envbuilder.download import Network
from envbuilder.effect import Loaded
from envbuilder.environment import Environment
from envbuilder.errors import CommandFailed, EnvbuilderError, HostError, StoreError
from envbuilder.lock import Artefact, Lock
from envbuilder.plan import SEALED_AT, Action, Fetch, Forget, Move, Plan, Product, Remove, Run, Seal, Step, Write
from envbuilder.process import Command
from envbuilder.site import Site
from envbuilder.store import Store
from envbuilder.target import Target

# What uv and pip say of an artefact whose hash differs, or that breaks before its hash is known.
_DAMAGED = (
    "hash mismatch", "hashes do not match", "do not match the hashes", "bad crc", "failed to extract", "invalid zip",
    "corrupt", "invalid gzip",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to build, from what, for whom to see."""

    plan: Plan
    lock: Lock
    target: Target
    site: Site
    store: Store
    builder: str
    asked_by_version: bool
    log: Path
    caches: str
    site_file: Path


def build(job: Job, console: Console) -> Environment:
    """The environment of a plan: found if it is there, else built and published.

    Concurrent builds of one environment do the work once. Raises `CommandFailed`, `HostError` (disk full, no network) or
    `StoreError`; nothing is published then, and the next run resumes.
    """
    identifier = job.plan.identifier
    with store.guarded(job.store, f"env-{identifier}", console.note):
        manifest = job.store.manifest(identifier)
        if manifest.is_file() and job.plan.prefix.is_dir():
            environment = _following(job, store.find(job.store, identifier))
            store.point(job.store, environment, store.names(environment, asked_by_version=job.asked_by_version))
            return environment
        started = time.monotonic()
        with _explained(job.log):
            execute(job.plan, job.store, console, job.log, mirrors=job.site.mirrors)
            environment = _described(job, time.monotonic() - started)
        store.publish(job.store, environment, store.names(environment, asked_by_version=job.asked_by_version))
    return environment


@dataclass(frozen=True, kw_only=True, slots=True)
class _Means:
    """What every step is carried out with."""

    plan: Plan
    log: Path
    cache: Cache


def execute(plan: Plan, place: Store, console: Console, log: Path, *, mirrors: Mapping[str, str] | None = None) -> None:
    """Carry out the steps in order; a product that is there already is skipped."""
    means = _Means(plan=plan, log=log, cache=_cache(place, mirrors or {}, console))
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


def _cache(place: Store, mirrors: Mapping[str, str], console: Console) -> Cache:
    """How source archives and commits come into the store."""
    network = Network(pip=pip_config.read(os.environ), env=os.environ, mirrors=tuple(mirrors.values()))
    return Cache(store=place, network=network, mirrors=mirrors, waiting=console.note)


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
    installed = sum(1 for _ in step.watch.glob("python*/site-packages/*.dist-info"))
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
        case Fetch(url=url, sha256=sha256, path=path, parts=parts):
            wanted = Artefact(package="", version="", file=path.name, url=url, sha256=sha256)
            made_of = tuple(Part(path=below, url=place, commit=commit) for below, place, commit in parts)
            told.obtain(wanted, made_of, means.cache)
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
    about = image.finished(job.plan.image) if job.plan.image else None
    found, mpi = _stock(job, about)
    python = job.target.python
    return Environment(
        identifier=job.plan.identifier,
        builder=job.builder,
        recipe=job.lock.recipe,
        version=job.lock.version,
        site=job.site.name,
        partition=job.target.partition,
        prefix=str(job.plan.prefix),
        digest=job.plan.digest,
        lock_digest=job.lock.digest,
        python={"path": python.path, "version": python.version, "soabi": python.soabi},
        features=tuple(job.lock.request["features"]),
        imports=tuple(job.lock.request["imports"]),
        packages=job.lock.packages(),
        records=found.records,
        written=found.written,
        mpi=mpi,
        settings=tuple(job.lock.request["settings"]),
        data=tuple(job.lock.request.get("data", ())),
        caches=job.caches,
        max_proof_age_hours=job.site.proof.max_age_hours,
        modules=_kept_modules(job.target.modules),
        gpu=_gpu(job),
        base=asdict(job.target.central) if job.target.central else None,
        site_file=str(job.site_file),
        scheduler=_scheduler(job.site),
        gpus=_gpus(job.site),
        signers=_signers(job.site),
        preloads=_preloads(job.site),
        created=store.now(),
        created_by=f"envbuilder {__version__}",
        seconds=round(seconds, 3),
        image=about,
    )


def _stock(job: Job, about: Mapping[str, Any] | None) -> tuple[inventory.Inventory, Mapping[str, str] | None]:
    """What the tree consists of, and the MPI library that ranks must have mapped."""
    mpi = job.target.mpi
    if about:
        return image.stock(about, mpi)
    prefix = job.plan.prefix
    return inventory.take(prefix), inventory.mpi_library(prefix, mpi) if mpi else None


def _following(job: Job, found: Environment) -> Environment:
    """An environment that is there already, with the facts of the site file that it was asked for by this time."""
    now = replace(
        found,
        site=job.site.name,
        partition=job.target.partition,
        site_file=str(job.site_file),
        scheduler=_scheduler(job.site),
        gpus=_gpus(job.site),
        signers=_signers(job.site),
        preloads=_preloads(job.site),
        max_proof_age_hours=job.site.proof.max_age_hours,
    )
    if now != found:
        store.publish(job.store, now, ())
    return now


def _kept_modules(loaded: Loaded | None) -> Mapping[str, Any] | None:
    """What loading the modules did, with the modulefiles it came from."""
    return {**loaded.identity(), "files": list(loaded.files)} if loaded else None


def _gpu(job: Job) -> Mapping[str, str]:
    """The GPUs that the environment is for, if the recipe computes on them."""
    target = job.target
    if "gpu" not in job.lock.request["features"]:
        return {}
    tag = re.fullmatch(r"([a-z]+)([0-9].*)", _toolkit_tag(str(job.lock.request.get("tag", ""))))
    wheels = f"{tag[1]}@{tag[2]}" if tag else ""
    return {"vendor": target.gpu, "arch": target.gpu_arch, "toolkit": target.toolkit, "wheel_toolkit": wheels}


def _scheduler(site: Site) -> dict[str, str]:
    if site.scheduler.kind == "none":
        return {}
    return {str(name): str(partition.scheduler.partition) for name, partition in site.partitions.items()}


def _gpus(site: Site) -> dict[str, str]:
    return {str(name): str(partition.gpu.vendor) for name, partition in site.partitions.items()}


def _signers(site: Site) -> dict[str, str]:
    rules = site.proof
    file = places.expanded(str(rules.allowed_signers), os.environ)
    image_key = places.expanded(str(rules.image_key), os.environ)
    said = {"required": "yes" if rules.signed else "no", "file": file} if rules.signed or file else {}
    return {**said, **({"image_key": image_key} if image_key else {})}


def _preloads(site: Site) -> tuple[dict[str, str], ...]:
    return tuple({"library": str(one.library), "why": str(one.why)} for one in site.allowed_preloads)


def _toolkit_tag(tag: str) -> str:
    """`cuda12.6` for `cu126`; other tags are spelt out already."""
    return f"cuda{tag[2:-1]}.{tag[-1]}" if re.fullmatch(r"cu[0-9]{3}", tag) else tag


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
