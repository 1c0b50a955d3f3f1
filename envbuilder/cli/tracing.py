"""`envbuilder sites trace-binds`: what a real run of an MPI program opens, as the binds of a site file."""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder import catalog, modules, store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, CommandFailed, HostError, InputError

if TYPE_CHECKING:
    from envbuilder.partition import Partition
    from envbuilder.trace_binds import Bind, Found
    from envbuilder.traces import Traced

# Launchers whose ranks are no children of theirs; where the tracer goes is the user's to say.
_ELSEWHERE = ("srun", "aprun", "jsrun", "flux")
_MARK = "{}"
_TIMEOUT_SECONDS = 600.0


def trace(arguments: Namespace, console: Console) -> int:
    """`envbuilder sites trace-binds`: run CMD under a tracer, and print what goes under `container` of the site file."""
    from envbuilder import host, process
    from envbuilder.process import Command

    words = list(arguments.command)
    if not words:
        raise InputError("no command after `--`", hint="envbuilder sites trace-binds -- mpiexec -n 2 ./hello")
    if _MARK not in words and os.path.basename(words[0]) in _ELSEWHERE:
        raise InputError(
            f"{words[0]} starts ranks elsewhere, where no tracer of its own sees them",
            hint=f"write {_MARK} where the program begins: {words[0]} -n 2 {_MARK} python hello.py",
        )
    site, _ = catalog.find_site(arguments.site, os.environ)
    partition = site.partition(arguments.partition or str(site.default_partition))
    loaded = modules.load(site, partition)
    env = loaded.effect.apply(os.environ) if loaded else dict(os.environ)
    name, script = _tracer(arguments.tracer, env, console)
    place = opened(arguments.site)
    folder = place.path("runs", "trace-binds", f"{store.now().replace(':', '')}-{os.getpid()}")
    folder.mkdir(parents=True)
    try:
        before = ("sh", "-c", script, "trace", str(folder))
        at = words.index(_MARK) if _MARK in words else 0
        argv = (*words[:at], *before, *words[at + (_MARK in words) :])
        with console.step(f"trace {words[0]} with {name}"):
            log = folder / "output.log"
            done = process.logged(Command(argv=argv), log, timeout=_TIMEOUT_SECONDS, base=env)
        if done.code != 0:
            said = "\n".join(f"    {line}" for line in done.output.strip().splitlines()[-8:])
            how = "ran into the time-out" if done.timed_out else f"ended with exit code {done.code}"
            raise CommandFailed(
                f"the traced command {how}\n{said}", hint="does it run without the tracer?", code=done.code
            )
        found = _judged(folder, name, env)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with console.step("look at the MPI"):
        key = _key(found.library, partition, host.find_mpi(partition, env))
    if console.json:
        console.document(_document(found, key, name))
        return FINE
    console.result("\n".join(_yaml(found, key, name)))
    return FINE


def _tracer(wanted: str, env: dict[str, str], console: Console) -> tuple[str, str]:
    """The tracer's name and the script that starts a command under it."""
    from envbuilder import process, traces
    from envbuilder.process import Command

    if wanted != "ld.so":
        path = shutil.which("strace", path=env.get("PATH"))
        works = (
            path is not None and process.capture(Command(argv=(path, "-o", os.devnull, "true")), timeout=60).code == 0
        )
        if works:
            return "strace", traces.STRACE
        why = "strace is not on the PATH" if path is None else "strace may not trace here"
        if wanted == "strace":
            raise HostError(why, hint="install it (no root is needed to run it), or leave --tracer out")
        console.warning(
            f"{why}: the dynamic linker's own record is taken, which has the libraries, and neither configuration nor sockets"
        )
    return "ld.so", traces.LINKER


def _judged(folder: Path, tracer: str, env: dict[str, str]) -> Found:
    from envbuilder import trace_binds, traces

    read: Callable[[Iterator[str]], Traced] = traces.by_strace if tracer == "strace" else traces.by_linker
    processes = []
    for path in sorted(folder.glob("*/*.*")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            processes.append(read(lines))
    own = tuple(dict.fromkeys(filter(None, (os.getcwd(), env.get("HOME", ""), str(folder)))))
    return trace_binds.judge(processes, trace_binds.EYES, tuple(one for one in own if one != "/"))


def _key(library: str, partition: Partition, found: object) -> str:
    """The key of the site file: the MPI that the partition has, where the ranks used that one."""
    from envbuilder.target import Mpi

    network = f"/{partition.fabric}" if partition.fabric else ""
    if isinstance(found, Mpi) and os.path.realpath(found.library) == library:
        return f"{found.name}@{found.version}{network}"
    raise HostError(
        f"the ranks used {library}, and the partition's MPI is "
        f"{found.library or found.name if isinstance(found, Mpi) else 'none'}",
        hint="start them with the site's own MPI, or name the partition whose modules have it: --partition NAME",
    )


def _document(found: Found, key: str, tracer: str) -> dict[str, object]:
    from dataclasses import asdict

    return {"mpi": key, "tracer": tracer, **asdict(found)}


def _yaml(found: Found, key: str, tracer: str) -> Iterator[str]:
    yield f"# {found.library}, called by {found.ranks} rank{'s' * (found.ranks > 1)}; traced by {tracer}"
    yield "# bound without being named, by `--mpi host`:"
    yield from (f"#   {one.path}: {one.why}" for one in found.by_itself)
    yield from (f"# {note}" for note in found.notes)
    yield "container:"
    yield "  mpi:"
    if not found.binds:
        yield f"    {key}: {{}}  # nothing else was opened"
        return
    yield f"    {key}:"
    yield "      binds:"
    for one in found.binds:
        yield f"        # {one.kind}: {one.why}"
        yield f"        - {_quoted(one)}"


def _quoted(bind: Bind) -> str:
    text = f"{bind.path}:{bind.target}" if bind.target else bind.path
    return text if all(letter.isalnum() or letter in "/._+-:" for letter in text) else json.dumps(text)
