"""The command line: up, down, status, login, missing."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import cray, daemons, login, machine, modules, slurm
from testbed.layout import NODES, SOURCE, Layout, TestbedError, default_base, is_root

# Debian's package, and a file that tells that it is there
PACKAGES = {
    "munge": "/usr/sbin/munged",
    "slurmctld": "/usr/sbin/slurmctld",
    "slurmd": "/usr/sbin/slurmd",
    "slurm-client": "/usr/bin/sacctmgr",
    "slurm-wlm-basic-plugins": "/usr/lib/x86_64-linux-gnu/slurm-wlm/job_submit_lua.so",
    "slurmdbd": "/usr/sbin/slurmdbd",
    "slurm-wlm-mysql-plugin": "/usr/lib/x86_64-linux-gnu/slurm-wlm/accounting_storage_mysql.so",
    "mariadb-server": "/usr/sbin/mariadbd",
    "mpich": "/usr/bin/mpiexec.mpich",
    "libmpich-dev": "/usr/include/x86_64-linux-gnu/mpich/mpi.h",
    "lmod": "/usr/share/lmod/lmod/init/bash",
    "tcl8.6": "/usr/bin/tclsh8.6",
    "patchelf": "/usr/bin/patchelf",
    "gcc": "/usr/bin/gcc",
    "g++": "/usr/bin/g++",
    "binutils": "/usr/bin/strip",
    "util-linux": "/usr/bin/unshare",
}


def missing() -> list[str]:
    """The Debian packages that the testbed needs and that are not installed."""
    return [package for package, file in PACKAGES.items() if not Path(file).exists()]


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """One at a time for one folder; whoever comes second finds the work done."""
    layout.base.mkdir(parents=True, exist_ok=True)
    with (layout.base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(layout: Layout) -> None:
    """Bring up whatever is not up."""
    lacking = missing()
    if lacking:
        raise TestbedError(f"these Debian packages are needed: {' '.join(lacking)}")
    with _alone(layout):
        digest, state = _digest(), layout.base / "made-from"
        if not state.exists() or state.read_text() != digest:
            _make(layout)
            state.write_text(digest)
        login.hook(layout, wanted=True)
        slurm.start(layout)
        login.environment(layout)


def _make(layout: Layout) -> None:
    (layout.base / "made-from").unlink(missing_ok=True)
    (layout.run / "login-environment.json").unlink(missing_ok=True)
    before = _read_at_start(layout)
    left_out = [*cray.make(layout), *modules.make(layout), *login.make(layout)]
    slurm.configure(layout)
    (layout.base / "left-out").write_text("".join(f"{line}\n" for line in dict.fromkeys(left_out)))
    if _read_at_start(layout) != before:
        slurm.stop(layout)


def _read_at_start(layout: Layout) -> dict[Path, bytes]:
    """What a running daemon or node would not notice if it changed."""
    names = ("slurm.conf", "slurmdbd.conf", "gres.conf", "node")
    files = [*(layout.etc / name for name in names), *layout.node_etc.rglob("*")]
    return {path: path.read_bytes() for path in files if path.is_file()}


def _digest() -> str:
    """What a testbed is made from: these sources, and the host's MPICH, users and name."""
    found = hashlib.sha256(Path("/etc/passwd").read_bytes())
    for path in sorted(SOURCE.rglob("*")):
        if (
            path.is_file()
            and path.name not in {"README.md", "machine.py", "command.py", "rocm_index.py"}
            and path.suffix != ".pyc"
        ):
            found.update(f"{path.relative_to(SOURCE)}\0".encode() + path.read_bytes() + b"\0")
    stat = cray.MPICH_LIBRARY.stat()
    host = Path("/proc/sys/kernel/hostname").read_text()
    found.update(f"{stat.st_size} {stat.st_mtime_ns} {host} {is_root()}".encode())
    return found.hexdigest() + "\n"


def down(layout: Layout, *, purge: bool) -> None:
    """End what `up` started and take back its hook; the folder stays, so that the next `up` is quick."""
    if not layout.base.is_dir():
        return
    with _alone(layout):
        slurm.stop(layout)
        login.hook(layout, wanted=False)
    if purge:
        shutil.rmtree(layout.base)


def status(layout: Layout) -> tuple[list[str], bool]:
    """One line per part, and whether all of them are there."""
    names = ["munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd-{node.name}" for node in NODES)]
    pids = {name: daemons.pid_of(layout, name) for name in names}
    lines = [f"{name}: {'not running' if pid is None else f'pid {pid}'}" for name, pid in pids.items()]
    ready = slurm.ready_nodes(layout) if pids["slurmctld"] is not None else set()
    lines.append(f"nodes that take jobs: {' '.join(sorted(ready)) or 'none'}")
    left_out = layout.base / "left-out"
    lines += [f"left out: {line}" for line in (left_out.read_text().splitlines() if left_out.exists() else [])]
    return lines, None not in pids.values() and len(ready) == len(NODES)


def main(arguments: list[str]) -> int:
    """Run one command; 0 if it did what was asked, 1 if not."""
    parser = argparse.ArgumentParser(prog="testbed", description="A machine that behaves like ARCHER2, for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("up", "bring it up and print its variables"),
        ("down", "end it"),
        ("status", "say what runs; 1 if not all of it does"),
    ):
        each = commands.add_parser(name, help=text)
        each.add_argument("dir", nargs="?", type=Path, default=None, help=f"its folder; by default {default_base()}")
        if name == "up":
            each.add_argument("--json", action="store_true", help="print JSON instead of export lines")
        if name == "down":
            each.add_argument("--purge", action="store_true", help="remove the folder as well")
    each = commands.add_parser("login", help="run a command, or a shell, on the login node")
    each.add_argument("--dir", type=Path, default=None, help="the testbed's folder")
    each.add_argument("argument", nargs="*", help="the command; after -- when it has options")
    commands.add_parser("missing", help="print the Debian packages that are lacking; 1 if any is")
    chosen = parser.parse_args(arguments)
    if chosen.command == "missing":
        lacking = missing()
        sys.stdout.write("".join(f"{package}\n" for package in lacking))
        return 1 if lacking else 0
    try:
        return _obey(chosen, Layout((chosen.dir or default_base()).absolute()))
    except TestbedError as error:
        sys.stderr.write(f"testbed: {error}\n")
        return 1


def _obey(chosen: argparse.Namespace, layout: Layout) -> int:
    if chosen.command == "login":
        command = login.session(layout, chosen.argument, machine.passed_on())
        os.execvp(command[0], command)
    if chosen.command == "down":
        down(layout, purge=chosen.purge)
        return 0
    if chosen.command == "status":
        lines, whole = status(layout)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 0 if whole else 1
    up(layout)
    for line in (layout.base / "left-out").read_text().splitlines():
        sys.stderr.write(f"testbed: left out: {line}\n")
    values = login.exports(layout)
    if chosen.json:
        sys.stdout.write(json.dumps({**values, "env": login.environment(layout)}, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))
    return 0
