"""The login environment: the user's home, the hook in /etc/profile.d, and what a node sees instead of the host's /etc."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

from testbed import modules
from testbed.layout import HOOK, LOGIN_NODE, NODES, Layout, TestbedError, is_root, link, user, write

LMOD = Path("/usr/share/lmod/lmod")


def make(layout: Layout) -> list[str]:
    """The files of it; what could not be made, in words."""
    script = layout.etc / "login.sh"
    write(script, layout.template("login.sh", LMOD=str(LMOD), DEFAULTS=":".join(modules.LOGIN)))
    write(layout.home / ".envbuilder-testbed", f'. "{script}"\n')
    layout.work.mkdir(parents=True, exist_ok=True)
    pip = Path(user().pw_dir) / ".config/pip"
    if pip.is_dir():
        # where this machine's packages come from; gone on the nodes, like the rest of HOME
        link(layout.home / ".config/pip", pip)
    if not is_root():
        return [
            "nodes have the host's name and show HOME: their own namespaces need root",
            f"a login shell is not the testbed's: {HOOK} needs root",
        ]
    _node_etc(layout, script)
    return []


def _node_etc(layout: Layout, script: Path) -> None:
    """Laid over /etc in each node's own mount namespace, so it changes nothing for the host."""
    me = user()
    lines = Path("/etc/passwd").read_text().splitlines()
    fields = [line.split(":") for line in lines]
    for entry in fields:
        if entry[0] == me.pw_name:
            entry[5] = str(layout.home)
    everywhere = layout.node_etc / "all"
    write(everywhere / "passwd", "".join(":".join(entry) + "\n" for entry in fields))
    hosts = Path("/etc/hosts").read_text().rstrip() + "\n"
    write(
        everywhere / "hosts",
        f"{hosts}127.0.16.254 {LOGIN_NODE}\n" + "".join(f"{node.address} {node.name}\n" for node in NODES),
    )
    # HOME need not exist, so the hook names the script itself
    write(everywhere / "profile.d" / HOOK.name, f'. "{script}"\n')
    for name in (LOGIN_NODE, *(node.name for node in NODES)):
        write(layout.node_etc / name / "hostname", f"{name}\n")
        write(layout.node_etc / name / "machine-id", hashlib.sha256(name.encode()).hexdigest()[:32] + "\n")


def on_node(layout: Layout, name: str, *, home: bool) -> list[str]:
    """What to put before a command so that it runs on a node; nothing without root, for then there are no nodes to see."""
    if not is_root():
        return []
    alone = ["unshare", "--uts", "--mount", "--propagation", "private"]
    return [*alone, str(layout.etc / "node"), name, "yes" if home else "no"]


def session(layout: Layout, command: list[str], passed: dict[str, str]) -> list[str]:
    """A login on the login node: a shell, or one command in a login shell."""
    script = "" if is_root() else f'. "{layout.etc}/login.sh"; '
    script += 'exec "$@"' if command else "exec bash -i"
    variables = [f"{name}={value}" for name, value in {**_bare(layout), **passed}.items()]
    shell = ["/bin/bash", "--login", "-c", script, "login", *command]
    return [*on_node(layout, LOGIN_NODE, home=True), "env", "-i", *variables, *shell]


def _bare(layout: Layout) -> dict[str, str]:
    me = user()
    return {
        "HOME": str(layout.home),
        "USER": me.pw_name,
        "LOGNAME": me.pw_name,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
    }


def hook(layout: Layout, *, wanted: bool) -> None:
    """Put the hook into /etc/profile.d or take it back. Several testbeds share it, and it goes with the last one."""
    if not is_root():
        return
    mark = f"# used by {layout.base}"
    old = HOOK.read_text().splitlines() if HOOK.exists() else []
    others = [line for line in old if line.startswith("# used by ") and line != mark]
    users = [*others, mark] if wanted else others
    if users:
        write(HOOK, layout.template("hook.sh") + "\n".join(users) + "\n")
    else:
        HOOK.unlink(missing_ok=True)


def exports(layout: Layout) -> dict[str, str]:
    """What `up` prints for a shell to take over."""
    return {
        "SLURM_CONF": str(layout.etc / "slurm.conf"),
        "TESTBED_DIR": str(layout.base),
        "TESTBED_ROOT": str(layout.root),
        "TESTBED_HOME": str(layout.home),
        "TESTBED_WORK": str(layout.work),
        "TESTBED_LOGIN": str(layout.etc / "login.sh"),
        "TESTBED_MODULEPATH": str(layout.lmod_tree),
        "TESTBED_TCL_INIT": str(layout.tcl / "init/bash"),
    }


def environment(layout: Layout) -> dict[str, str]:
    """The variables of a process that was started from a login shell, taken from a real one."""
    known = layout.run / "login-environment.json"
    if known.exists():
        return dict(json.loads(known.read_text()))
    command = "env -0" if is_root() else f'. "{layout.etc}/login.sh"; env -0'
    done = subprocess.run(
        ["/bin/bash", "--login", "-c", command],
        env=_bare(layout),
        cwd=layout.work,
        capture_output=True,
        check=False,
        timeout=120,
    )
    found = dict(pair.split("=", 1) for pair in os.fsdecode(done.stdout).split("\0") if "=" in pair)
    if "PrgEnv-cray" not in found.get("LOADEDMODULES", ""):
        raise TestbedError(f"a login shell did not load the default modules: {os.fsdecode(done.stderr)[-800:]}")
    for name in ("_", "SHLVL", "PWD", "OLDPWD"):
        found.pop(name, None)
    write(known, json.dumps(found, indent=1, sort_keys=True))
    return found
