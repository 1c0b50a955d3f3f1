"""Slurm, its accounting and their daemons."""

from __future__ import annotations

import os
import socket
import stat
import subprocess

from testbed import daemons, login
from testbed.layout import DEFAULT_PORT, NODES, PORTS_EACH, Layout, TestbedError, is_root, user, write

# name: (longest job, what one job may have at most); a job over it is refused at once instead of waiting for ever
QOS = {
    "standard": ("1-00:00:00", "node=1024"),
    "short": ("00:20:00", "node=32"),
    "long": ("4-00:00:00", "node=64"),
    "largescale": ("12:00:00", "node=5860"),
    "taskfarm": ("1-00:00:00", "node=16"),
    "lowpriority": ("1-00:00:00", "node=2048"),
    "gpu-shd": ("12:00:00", "node=1"),
    "gpu-exc": ("12:00:00", "node=2"),
    "serial": ("1-00:00:00", "node=1"),
}
ACCOUNT = "z19"
_READY = {"idle", "allocated", "mixed", "completing"}


def port(layout: Layout) -> int:
    """The first of this testbed's ports: the one it was given, or had before, or the first free row of them."""
    known = layout.etc / "port"
    given = os.environ.get("ENVBUILDER_TESTBED_PORT")
    if given:
        base = int(given)
    elif known.exists():
        return int(known.read_text())
    else:
        rows = range(DEFAULT_PORT, 30000, PORTS_EACH)
        base = next(row for row in rows if not any(daemons.listening(row + each) for each in range(20)))
    write(known, f"{base}\n")
    return base


def configure(layout: Layout) -> None:
    """All files that the daemons read."""
    base = port(layout)
    places = {
        "HOST": socket.gethostname(),
        "USER": user().pw_name,
        "PORT_CTLD": str(base),
        "PORT_SLURMD": str(base + 1),
        "PORT_DBD": str(base + 5),
        "PORT_DB": str(base + 6),
        "PORT_SRUN": f"{base + 100}-{base + PORTS_EACH - 1}",
        "NODES": "\n".join(_node_lines(base)),
        "GPUS": _gpu_devices(layout),
    }
    for name in ("slurm.conf", "gres.conf", "job_submit.lua"):
        write(layout.etc / name, layout.template(name, **places))
    write(layout.etc / "slurmdbd.conf", layout.template("slurmdbd.conf", **places), 0o600)
    for name in ("task-prolog", "node"):
        write(layout.etc / name, layout.template(name), 0o755)
    for folder in (layout.base / "state", layout.log, layout.run, *(layout.base / "spool" / n.name for n in NODES)):
        folder.mkdir(parents=True, exist_ok=True)


def _node_lines(base: int) -> list[str]:
    host = "" if is_root() else f" NodeHostname={socket.gethostname()}"
    return [
        f"NodeName={node.name}{host} NodeAddr={node.address} Port={base + 11 + number} {node.hardware} State=UNKNOWN"
        for number, node in enumerate(NODES)
    ]


def _gpu_devices(layout: Layout) -> str:
    """Four character devices, which is all that Slurm asks of a GPU's file."""
    if not is_root():
        return "/dev/null,/dev/zero,/dev/full,/dev/urandom"
    layout.run.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        path = layout.run / f"gpu{number}"
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return f"{layout.run}/gpu[0-3]"


def start(layout: Layout) -> None:
    """Everything that is not running, in the order in which they need each other."""
    base = port(layout)
    conf = {"SLURM_CONF": str(layout.etc / "slurm.conf")}
    _munge(layout)
    _database(layout, base)
    daemons.start(layout, "slurmdbd", "slurmdbd", "-D", env=conf)
    daemons.wait_for("slurmdbd", lambda: daemons.listening(base + 5), layout, "slurmdbd")
    _accounts(layout)
    daemons.start(layout, "slurmctld", "slurmctld", "-D", "-f", conf["SLURM_CONF"], env=conf)
    daemons.wait_for("slurmctld", lambda: daemons.listening(base), layout, "slurmctld")
    for node in NODES:
        _slurmd(layout, node.name, home=node.home)
    _resume(layout)
    try:
        daemons.wait_for(
            "five nodes", lambda: len(ready_nodes(layout)) == len(NODES), layout, f"slurmd-{NODES[-1].name}"
        )
    except TestbedError as error:
        why = _slurm(layout, ["sinfo", "-h", "-R"]).stdout.strip()
        raise TestbedError(f"{error}\nnodes that take no jobs, and why:\n{why}" if why else str(error)) from error


def _resume(layout: Layout) -> None:
    """Let nodes take jobs again that Slurm drained, which it remembers: a disk that was full once, a job that did not end."""
    for name, state in _states(layout).items():
        if state.startswith("drain"):
            _slurm(layout, ["scontrol", "update", f"nodename={name}", "state=resume"])


def _munge(layout: Layout) -> None:
    layout.munge.mkdir(mode=0o755, parents=True, exist_ok=True)
    private = layout.munge / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    key = private / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
    socket_ = layout.munge / "munge.sock"
    daemons.start(
        layout,
        "munged",
        "munged",
        "--foreground",
        # the folder may lie below one that the group can write
        "--force",
        f"--key-file={key}",
        f"--socket={socket_}",
        f"--pid-file={private}/munged.pid",
        f"--log-file={private}/munged.log",
        f"--seed-file={private}/munged.seed",
    )

    def answers() -> bool:
        return subprocess.run(["munge", "-n", "-S", socket_], capture_output=True, check=False).returncode == 0

    daemons.wait_for("munge", answers, layout, "munged")


def _database(layout: Layout, base: int) -> None:
    data, path = layout.base / "db", layout.run / "mysql.sock"
    if not (data / "mysql").exists():
        name = user().pw_name
        asked = ["mariadb-install-db", "--no-defaults", f"--user={name}", f"--datadir={data}", "--skip-test-db"]
        _must([*asked, "--auth-root-authentication-method=normal"])
    daemons.start(
        layout,
        "mariadbd",
        "mariadbd",
        "--no-defaults",
        f"--user={user().pw_name}",
        f"--datadir={data}",
        f"--socket={path}",
        f"--pid-file={layout.run}/mariadbd.pid",
        "--bind-address=127.0.0.1",
        f"--port={base + 6}",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
        # nobody will miss a test's last second of accounting after a crash
        "--innodb-flush-log-at-trx-commit=0",
    )
    client = ["mariadb", "--no-defaults", "-S", str(path), "-u", "root", "-e"]

    def answers() -> bool:
        return subprocess.run([*client, "select 1"], capture_output=True, check=False).returncode == 0

    daemons.wait_for("the database", answers, layout, "mariadbd")
    statements = (
        "create database if not exists slurm_acct_db",
        "create user if not exists slurm@'127.0.0.1' identified by 'testbed'",
        "grant all on slurm_acct_db.* to slurm@'127.0.0.1'",
    )
    _must([*client, "; ".join(statements)])


def _accounts(layout: Layout) -> None:
    """The budget, the user and the qualities of service. Before slurmctld starts, or it would know none of them."""
    name, all_qos = user().pw_name, ",".join(QOS)
    commands = [
        "add cluster archer2",
        f"add qos {all_qos}",
        *(
            f"modify qos {qos} set MaxWall={longest} MaxTRESPerJob={most} Flags=DenyOnLimit"
            for qos, (longest, most) in QOS.items()
        ),
        f"add account {ACCOUNT}",
        f"add user {name} account={ACCOUNT}",
        f"modify user {name} where account={ACCOUNT} set qos={all_qos}",
    ]
    done = layout.base / "db" / "envbuilder-testbed-accounts"
    said = "\n".join(commands) + "\n"
    if done.exists() and done.read_text() == said:
        return
    for command in commands:
        # 1 also means that there is nothing to add or to modify
        _must(["sacctmgr", "-i", *command.split()], layout=layout, fine=(0, 1))
    known = _must(["sacctmgr", "-nP", "show", "assoc", f"user={name}", "format=account,qos"], layout=layout)
    if not any(line.startswith(f"{ACCOUNT}|") and "gpu-exc" in line for line in known.splitlines()):
        raise TestbedError(f"the accounts could not be set up; sacctmgr shows:\n{known}")
    write(done, said)


def _slurmd(layout: Layout, name: str, *, home: bool) -> None:
    command = [
        *login.on_node(layout, name, home=home),
        "slurmd",
        "-D",
        "-N",
        name,
        "-f",
        str(layout.etc / "slurm.conf"),
    ]
    daemons.start(layout, f"slurmd-{name}", *command, env={"SLURM_CONF": str(layout.etc / "slurm.conf")})


def ready_nodes(layout: Layout) -> set[str]:
    """The nodes that take jobs, or already run one; one that does not answer has a star at its state."""
    return {name for name, state in _states(layout).items() if state in _READY}


def _states(layout: Layout) -> dict[str, str]:
    """The state of each node by `sinfo`, whose own filter takes a drained node for an idle one."""
    if not daemons.listening(port(layout)):
        return {}
    shown = _slurm(layout, ["sinfo", "-h", "-N", "-o", "%N %T"])
    return dict(line.split() for line in shown.stdout.splitlines())


def stop(layout: Layout) -> None:
    """End the jobs, then the daemons in the reverse order."""
    if daemons.pid_of(layout, "slurmctld") is not None and daemons.listening(port(layout)):
        _slurm(layout, ["scancel", "-u", user().pw_name])
        for _ in range(40):
            if not _slurm(layout, ["squeue", "-h"]).stdout.strip():
                break
            subprocess.run(["sleep", "0.1"], check=False)
    running = daemons.started(layout)
    daemons.stop(layout, [name for name in running if name.startswith("slurmd-")])
    for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
        daemons.stop(layout, [name] if name in running else [], patience=20)


def _slurm(layout: Layout, command: list[str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SLURM_CONF": str(layout.etc / "slurm.conf")}
    return subprocess.run(
        ["timeout", "20", *command], env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def _must(command: list[str], *, layout: Layout | None = None, fine: tuple[int, ...] = (0,)) -> str:
    if layout:
        done = _slurm(layout, command)
    else:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode not in fine:
        raise TestbedError(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-800:]}")
    return done.stdout
