"""The testbed for tests: bring it up, and know where things are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).resolve().with_name("testbed")

# where packages come from and how they are reached is this machine's business, in the testbed as well
PASSED_ON = ("PIP_", "UV_")
PASSED_ON_NAMES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CI", "TERM"}


@dataclass(frozen=True)
class Testbed:
    """A testbed that is up.

    `root` holds what imitates the machine's file system, `home` is not there on compute nodes, `work` is. `env` are the
    variables of a process that was started from a login shell: the default modules are loaded in it.
    """

    __test__ = False

    root: Path
    home: Path
    work: Path
    slurm_conf: Path
    module_path: Path
    tcl_init: Path
    env: dict[str, str]

    def on_login_node(self, *command: str) -> tuple[str, ...]:
        """The arguments that run a command on the login node: its hostname, its home, its modules, nothing of the caller's."""
        return (sys.executable, str(PROGRAM), "login", "--dir", str(self.root.parent), "--", *command)


def passed_on() -> dict[str, str]:
    """The caller's variables that hold in the testbed too."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED_ON) or name.upper() in PASSED_ON_NAMES
    }


def up() -> Testbed:
    """Bring it up, or find it up. Safe to call from several processes at once: the program takes a lock."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "up", "--json"], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    said = json.loads(done.stdout)
    return Testbed(
        root=Path(said["TESTBED_ROOT"]),
        home=Path(said["TESTBED_HOME"]),
        work=Path(said["TESTBED_WORK"]),
        slurm_conf=Path(said["SLURM_CONF"]),
        module_path=Path(said["TESTBED_MODULEPATH"]),
        tcl_init=Path(said["TESTBED_TCL_INIT"]),
        env={**passed_on(), **said["env"]},
    )


def missing() -> list[str]:
    """The Debian packages that the testbed needs and that are not installed."""
    done = subprocess.run([sys.executable, str(PROGRAM), "missing"], capture_output=True, text=True, check=False)
    return done.stdout.split()
