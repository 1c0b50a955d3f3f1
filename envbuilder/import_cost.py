"""What importing costs the host: the calls that open files or ask for them, as strace(1) sees them in every process.

A tree on a parallel file system pays for each such call with a message to its metadata server. In an image or a packed tree the
same calls end in the mounted file, and the host's file systems see but those that leave it: those of the runtime before the
command starts, and what the command looks for in folders that are bound. Which mount a path is on says /proc/self/mountinfo,
read on the host and where the command runs. Failed calls count too: the server is asked all the same.
"""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from envbuilder import gate, packed, process
from envbuilder.environment import Environment
from envbuilder.errors import HostError, VerifyError
from envbuilder.process import Command

OPENS = frozenset({"open", "openat", "openat2", "creat"})
ASKS = frozenset(
    {"stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"}
)
# File systems of no disk. An overlay is one only where an image is laid out by it; on the host it may be the very root.
_PSEUDO = re.compile(r"proc|sysfs|(dev)?tmpfs|devpts|cgroup2?|mqueue|debugfs|tracefs|securityfs|bpf|ramfs|nsfs")
_MOUNTED = re.compile(r"squashfs|fuse\.squashfuse(_ll)?|overlay|fuse\.fuse-overlayfs")
_CALL = re.compile(r'^(\d+) +([a-z0-9_]+)\((?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_EXEC = re.compile(r'^(\d+) +execve\("((?:[^"\\]|\\.)*)"')
_TIMEOUT_SECONDS = 900.0

Mounts = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Numbers of calls that open (`opens`) and that ask for (`asks`) a path; those that reach a file system of the host."""

    opens: int = 0
    asks: int = 0
    host_opens: int = 0
    host_asks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What it cost to start (until the environment's interpreter runs) and then to import; wall times in seconds.

    `seconds` is that of the whole without strace, in a warm cache.
    """

    environment: str
    form: str
    imports: tuple[str, ...]
    seconds: float
    starting: Calls
    importing: Calls


def measure(environment: Environment) -> Cost:
    """The cost of the imports of an environment's recipe; raises `HostError` without strace, `VerifyError` where they fail."""
    strace = packed.needed("strace", "strace")
    python = str(Path(environment.tree, "bin", "python"))
    code = "; ".join(f"import {name}" for name in environment.imports)
    # a tree that may be written to has bytecode after its first import, as an image has from the start
    patch = {**gate.patch(environment, os.environ), "PYTHONDONTWRITEBYTECODE": None}
    words = gate.words(environment)
    inside = mounts(_run((*words, "cat", "/proc/self/mountinfo"), patch))
    host = mounts(Path("/proc/self/mountinfo").read_text())
    _run((*words, python, "-c", code), patch)
    started = time.monotonic()
    _run((*words, python, "-c", code), patch)
    seconds = time.monotonic() - started
    with tempfile.TemporaryDirectory(prefix="envbuilder-trace-") as folder:
        trace = Path(folder, "trace")
        traced = (strace, "-f", "-y", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(trace))
        _run((*traced, *words, python, "-c", code), patch)
        lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    starting, importing = counted(lines, python, host, inside)
    form = "image" if environment.image else "packed" if environment.pack else "tree"
    return Cost(
        environment=environment.identifier,
        form=form,
        imports=environment.imports,
        seconds=round(seconds, 3),
        starting=starting,
        importing=importing,
    )


def waiting(calls: int, ranks: int, rate: float) -> float:
    """Seconds that a metadata server of so many operations per second is busy with the calls of all ranks, at the least."""
    return calls * ranks / rate


def counted(lines: Iterable[str], python: str, host: Mounts, inside: Mounts) -> tuple[Calls, Calls]:
    """The calls before and after the process became `python`; what starts after that is part of it."""
    before, after = Calls(), Calls()
    others: set[str] = set()
    own: set[str] = set()
    for line in lines:
        pid = line.split(" ", 1)[0]
        became = _EXEC.match(line)
        entered = became is not None and became[2] == python and "ENOENT" not in line
        if entered or (own and pid not in others):
            own.add(pid)
        if pid not in own:
            others.add(pid)
        call = _CALL.match(line)
        if call is None or call[2] not in OPENS | ASKS or not call[4]:
            continue
        path = posixpath.normpath(posixpath.join(call[3] or "/", call[4]))
        if pid in own:
            after = _with(after, call[2], on_host(path, inside, mounted=True))
        else:
            before = _with(before, call[2], on_host(path, host, mounted=False))
    return before, after


def mounts(text: str) -> Mounts:
    """The kind of file system at each mount point, of a /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    found = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 4 and right:
            found[re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])] = right.split()[0]
    return found


def on_host(path: str, table: Mounts, *, mounted: bool) -> bool:
    """Whether a path is on a file system of the host; `mounted` where an image or a pack may be laid out."""
    while path not in table and path != "/":
        path = posixpath.dirname(path)
    kind = table.get(path, "")
    return not (_PSEUDO.fullmatch(kind) or (mounted and _MOUNTED.fullmatch(kind)))


def _with(calls: Calls, name: str, host: bool) -> Calls:
    if name in OPENS:
        return replace(calls, opens=calls.opens + 1, host_opens=calls.host_opens + host)
    return replace(calls, asks=calls.asks + 1, host_asks=calls.host_asks + host)


def _run(argv: tuple[str, ...], patch: Mapping[str, str | None]) -> str:
    done = process.capture(Command(argv=argv, env=patch), timeout=_TIMEOUT_SECONDS)
    if done.code != 0:
        last = "\n".join(f"    {line}" for line in done.output.strip().splitlines()[-6:])
        if "ptrace" in done.output:
            raise HostError(f"strace may not look at processes here:\n{last}", hint="ask for ptrace to be allowed")
        raise VerifyError(f"the imports failed:\n{last}", hint="see `envbuilder verify`")
    return done.output
