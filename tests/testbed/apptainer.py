"""A real Apptainer for a Debian that has none: Debian's newer package in a folder of its own, with the C library that it needs.

Nothing of the system is changed but, as root, what images need of it: ranges of user ids for root, and /dev/fuse for everyone.
The program is found by its folder on the PATH. Where `apptainer` is on the PATH already, that one is taken.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

# A program, and the package of Debian that has it.
NEEDED = {
    "mksquashfs": "squashfs-tools",
    "squashfuse": "squashfuse",
    "newuidmap": "uidmap",
    "fakeroot": "fakeroot",
    "debootstrap": "debootstrap",
    "patchelf": "patchelf",
}
_MULTIARCH = "usr/lib/x86_64-linux-gnu"
# What is started, and where it looks for its own files: the starter takes two folders less off its path than Debian has.
_PROGRAMS = ("usr/bin/apptainer", f"{_MULTIARCH}/apptainer/bin/starter")
_LINKS = {"usr/etc": "../etc", "usr/var": "../var", "usr/lib/etc": "../../etc", "usr/lib/var": "../../var"}
_USER_IDS = "root:1000000:65536\n"


def missing() -> list[str]:
    """The packages that are lacking."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]


def have(folder: Path) -> Path:
    """The folder of the program `apptainer`; fetched and unpacked into `folder` the first time, some twenty seconds."""
    _open_the_host()
    found = shutil.which("apptainer")
    if found:
        return Path(found).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "usr/bin/apptainer").exists():
            with tempfile.TemporaryDirectory(prefix="apptainer-", dir=folder.parent) as scratch:
                _unpack(Path(scratch), folder)
    return folder / "usr/bin"


def _open_the_host() -> None:
    if os.getuid() != 0:
        return
    for name in ("/etc/subuid", "/etc/subgid"):
        path = Path(name)
        text = path.read_text() if path.exists() else ""
        if not re.search(r"^root:", text, re.MULTILINE):
            path.write_text(text + _USER_IDS)
    fuse = Path("/dev/fuse")
    if fuse.exists():
        fuse.chmod(0o666)


def _unpack(scratch: Path, folder: Path) -> None:
    """Two packages of a newer Debian, from where this machine's apt takes its own; moved into place when whole."""
    tree, libc = scratch / "tree", scratch / "libc"
    for package, target in zip(_fetched(scratch), (tree, libc), strict=True):
        _run("dpkg-deb", "-x", str(package), str(target))
    libraries = tree / "usr/lib/apptainer-libc"
    libraries.mkdir(parents=True)
    for library in sorted((libc / _MULTIARCH).glob("*.so*")):
        shutil.copy2(library, libraries, follow_symlinks=False)
    there = folder / "usr/lib/apptainer-libc"
    for program in _PROGRAMS:
        # DT_RPATH and not DT_RUNPATH: apptainer starts itself anew under an LD_LIBRARY_PATH of the host's folders
        _run(
            "patchelf", "--set-interpreter", str(there / "ld-linux-x86-64.so.2"), "--force-rpath", "--set-rpath",
            f"{there}:/{_MULTIARCH}", str(tree / program),
        )  # fmt: skip
    for link, target in _LINKS.items():
        (tree / link).symlink_to(target)
    os.rename(tree, folder)
    _run(str(folder / "usr/bin/apptainer"), "--version")


def _fetched(scratch: Path) -> list[Path]:
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    text = sources.read_text() if sources.exists() else Path("/etc/apt/sources.list").read_text()
    address = re.search(r"^(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(\S+)", text, re.MULTILINE)
    assert address, "apt's configuration names no source"
    (scratch / "lists/partial").mkdir(parents=True)
    (scratch / "cache/archives/partial").mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (scratch / "sources.list").write_text(f"deb [signed-by={keys}] {address[1]} sid main\n")
    options = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run(*apt, "update")
    _run(*apt, "download", "apptainer", "libc6", cwd=scratch)
    return [next(scratch.glob(f"{name}_*.deb")) for name in ("apptainer", "libc6")]


def _run(*words: str, cwd: Path | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
