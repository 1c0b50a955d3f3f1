"""Where everything of one testbed lies. Plain values; nothing is touched here."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
HOOK = Path("/etc/profile.d/zz-envbuilder-testbed.sh")
DEFAULT_PORT = 17600
PORTS_EACH = 400


class TestbedError(Exception):
    """The testbed cannot do what was asked; the text says why and what to do."""

    __test__ = False


@dataclass(frozen=True)
class Node:
    """One virtual node: a name, an address of its own on the loopback, and whether it mounts the home directories."""

    name: str
    address: str
    hardware: str
    home: bool = False


LOGIN_NODE = "ln01"
STANDARD = "Sockets=2 CoresPerSocket=64 ThreadsPerCore=2 RealMemory=256000"
GPU = "Sockets=1 CoresPerSocket=32 ThreadsPerCore=2 RealMemory=512000 Gres=gpu:4"

NODES = (
    Node("nid001001", "127.0.16.1", STANDARD),
    Node("nid001002", "127.0.16.2", STANDARD),
    Node("nid200001", "127.0.16.3", GPU),
    Node("nid200002", "127.0.16.4", GPU),
    # the data analysis nodes are the ones behind `serial`; they do mount the home directories
    Node("dvn01", "127.0.16.5", STANDARD, home=True),
)


@dataclass(frozen=True)
class Layout:
    """The folders of one testbed; `root` below it is what imitates the file system of the machine."""

    base: Path

    def __post_init__(self) -> None:
        # the path goes into mount options, Lua strings and shell files; `${HOME/home/work}` replaces the first "home"
        if not re.fullmatch(r"/[A-Za-z0-9._/-]+", str(self.base)) or "home" in str(self.base):
            raise TestbedError(
                f"{self.base}: the testbed's folder may hold only letters, digits and ._/-, and not the word 'home'"
            )
        if len(str(self.base)) > 70:
            raise TestbedError(f"{self.base}: too long a path, sockets below it could not be bound")

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def home(self) -> Path:
        return self.root / "home/z19/z19/user"

    @property
    def work(self) -> Path:
        return self.root / "work/z19/z19/user"

    @property
    def cray(self) -> Path:
        return self.root / "opt/cray/pe"

    @property
    def lmod_tree(self) -> Path:
        return self.root / "opt/modulefiles"

    @property
    def tcl(self) -> Path:
        return self.root / "opt/tcl-modules"

    @property
    def etc(self) -> Path:
        return self.base / "etc"

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def log(self) -> Path:
        return self.base / "log"

    @property
    def cache(self) -> Path:
        return self.base / "cache"

    @property
    def munge(self) -> Path:
        return self.base / "munge"

    @property
    def node_etc(self) -> Path:
        """What a node sees differently in its /etc: its user's home, the node names, the login hook."""
        return self.base / "node-etc"

    def fill(self, text: str, **more: str) -> str:
        """A template with its places filled in."""
        known = {"DIR": str(self.base), "ROOT": str(self.root), "HOME": str(self.home), "WORK": str(self.work), **more}
        return re.sub(r"@([A-Z_]+)@", lambda found: known.get(found[1], found[0]), text)

    def template(self, name: str, **more: str) -> str:
        """A file of `files/`, filled in."""
        return self.fill((SOURCE / "files" / name).read_text(), **more)


def is_root() -> bool:
    """Whether namespaces and the login hook are to be had."""
    return os.getuid() == 0


def user() -> pwd.struct_passwd:
    """Who runs the testbed; the environment's HOME may already be the testbed's."""
    return pwd.getpwuid(os.getuid())


def default_base() -> Path:
    """~/.cache/envbuilder-testbed, or below /var/tmp where that path has the word "home" in it."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path(user().pw_dir) / ".cache")
    chosen = Path(cache) / "envbuilder-testbed"
    return Path(f"/var/tmp/envbuilder-testbed-{os.getuid()}") if "home" in str(chosen) else chosen


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """A file with this text, replaced in one step, and left alone where it says so already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink() and path.is_file() and path.read_text() == text and path.stat().st_mode & 0o777 == mode:
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.chmod(mode)
    beside.replace(path)


def link(path: Path, target: Path | str) -> None:
    """A symbolic link to this target, replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and str(path.readlink()) == str(target):
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.symlink_to(target)
    beside.replace(path)
