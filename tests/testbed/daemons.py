"""Start programs that stay, remember exactly which they were, and end only those."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from testbed.layout import Layout, TestbedError, write


def _born(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: a pid alone may long belong to somebody else."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _record(layout: Layout, name: str) -> Path:
    return layout.run / f"{name}.pid.json"


def pid_of(layout: Layout, name: str) -> int | None:
    """The pid of a daemon that we started and that still lives."""
    try:
        known = json.loads(_record(layout, name).read_text())
    except FileNotFoundError:
        return None
    pid = int(known["pid"])
    return pid if known["boot"] == _boot() and _born(pid) == known["born"] else None


def started(layout: Layout) -> list[str]:
    """The names of the daemons that we have a record of."""
    return sorted(path.name.removesuffix(".pid.json") for path in layout.run.glob("*.pid.json"))


def start(layout: Layout, name: str, *command: str, env: dict[str, str] | None = None) -> None:
    """Start a daemon in the foreground mode it has, unless it lives. It keeps no file of ours open."""
    if pid_of(layout, name) is not None:
        return
    layout.run.mkdir(parents=True, exist_ok=True)
    layout.log.mkdir(parents=True, exist_ok=True)
    surroundings = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}
    with (layout.log / f"{name}.out").open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=surroundings,
            cwd="/",
            start_new_session=True,
        )
    # the record comes before anything else can go wrong, so that nothing is started and forgotten
    born = _born(process.pid)
    write(_record(layout, name), json.dumps({"pid": process.pid, "born": born, "boot": _boot(), "command": command}))
    process.returncode = 0  # it outlives us: no warning that it still runs


def stop(layout: Layout, names: Iterable[str], patience: float = 10.0) -> None:
    """End daemons that we started: politely, then not."""
    names = list(names)
    for how in (signal.SIGTERM, signal.SIGKILL):
        for name in names:
            pid = pid_of(layout, name)
            if pid is not None:
                os.kill(pid, how)
        until = time.monotonic() + patience
        while time.monotonic() < until and any(pid_of(layout, name) is not None for name in names):
            time.sleep(0.05)
    for name in names:
        _record(layout, name).unlink(missing_ok=True)


def listening(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: str, ready: Callable[[], bool], layout: Layout, daemon: str, seconds: float = 60.0) -> None:
    """Wait until something is so, and say where to look if it does not come or its daemon dies."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ready():
            return
        if pid_of(layout, daemon) is None:
            raise TestbedError(f"{daemon} ended while {what} was awaited; {_last_words(layout, daemon)}")
        time.sleep(0.1)
    raise TestbedError(f"{what} did not come within {seconds:.0f} s; {_last_words(layout, daemon)}")


def _last_words(layout: Layout, daemon: str) -> str:
    files = [path for path in (layout.log / f"{daemon}.log", layout.log / f"{daemon}.out") if path.exists()]
    said = "\n".join(path.read_text(errors="replace")[-1500:] for path in files)
    return f"its log in {layout.log} ends:\n{said}"
