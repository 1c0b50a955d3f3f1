"""Apptainer or SingularityCE, whichever is here: which flags it takes, and the commands that are run with it.

Always in a user namespace: it is how an ordinary user runs images without a set-user-ID program, and as root it asks for no
capability that a virtual machine or a container may lack.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envbuilder import process
from envbuilder.errors import HostError
from envbuilder.process import Command

PROGRAMS = ("apptainer", "singularity")
_GZIP_LEVEL = 4
# Where an ordinary user's PATH does not lead: debootstrap.
_SYSTEM = "/usr/sbin:/sbin"
# Ranks on one machine that are in different user namespaces may not open each other's files through /proc: UCX then shares
# memory by names in /dev/shm.
RANKS_ENVIRONMENT = {"UCX_POSIX_USE_PROC_LINK": "n"}
# What a process in an image finds its programs by.
INSIDE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """The program, which of the two it is, and what it says of its version."""

    program: str
    name: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entering:
    """How a process enters an image: what is bound (source to target), where it starts, and what it sees.

    With `clean` it sees nothing of the caller's variables and folders; `together` lets the ranks of one host share their
    namespaces, without which shared memory between them fails; `variables` are set in it. `gpu` is the vendor of the
    GPUs whose driver it needs, if any. `site` are the binds of the site, as the runtime takes them, before the others.
    """

    binds: Mapping[str, str]
    site: tuple[str, ...] = ()
    cwd: str = ""
    clean: bool = False
    together: bool = False
    variables: Mapping[str, str] | None = None
    gpu: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How a SIF is built: what is bound meanwhile (source to target), how it is packed, further arguments."""

    compression: str
    binds: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def find(env: Mapping[str, str], wanted: str = "") -> Runtime:
    """The runtime on the PATH, the one that is `wanted` before the other; raises `HostError` without one that answers."""
    for name in sorted(PROGRAMS, key=lambda name: name != wanted):
        path = shutil.which(name, path=env.get("PATH"))
        if path is not None:
            return _asked(path)
    if wanted and wanted not in PROGRAMS:
        raise HostError(
            f"images are run by {wanted} at this site, and neither {' nor '.join(PROGRAMS)} is on the PATH",
            hint="build the image on another machine; the venv builder needs none of them",
        )
    raise HostError(
        "neither apptainer nor singularity is on the PATH",
        hint="load the site's module of it, or install Apptainer (no root is needed); the venv builder needs neither",
    )


def find_again(known: Mapping[str, str], env: Mapping[str, str]) -> Runtime:
    """The runtime that is known from an earlier `find`, if it is there still, else the one on the PATH."""
    if os.access(known["program"], os.X_OK):
        return Runtime(**known)
    return find(env)


def enter(runtime: Runtime, image: Path, how: Entering) -> tuple[str, ...]:
    """The words before a command that let it run in an image."""
    words = [runtime.program, "--silent", "exec", "--userns"]
    if how.clean:
        words += ["--cleanenv", "--no-mount", "home,cwd"]
    if how.together and runtime.name == "apptainer":
        words += ["--sharens"]
    words += {"amd": ["--rocm"], "nvidia": ["--nv"]}.get(how.gpu, [])
    for bind in how.site:
        words += ["--bind", _whole(bind, ",")]
    for source, target in how.binds.items():
        words += ["--bind", f"{_whole(source, ':,')}:{target}"]
    for name, value in (how.variables or {}).items():
        words += ["--env", f"{name}={_whole(value, ',')}"]
    if how.cwd:
        words += ["--pwd", how.cwd]
    return (*words, str(image))


def squashing(compression: str) -> tuple[str, ...]:
    """The words for mksquashfs. Left alone it has gzip try its hardest: several times as long for 5 % less."""
    return ("-comp", compression, *(("-Xcompression-level", str(_GZIP_LEVEL)) if compression == "gzip" else ()))


def quickest(runtime: Runtime) -> str:
    """What packs quickest, for what nobody carries anywhere: lz4 where the runtime lets one choose, else gzip."""
    return "lz4" if _lets_choose(runtime) else "gzip"


def refuse_compression(runtime: Runtime, compression: str) -> None:
    """Raise `HostError` for a compression that the runtime cannot be told."""
    if compression != "gzip" and not _lets_choose(runtime):
        raise HostError(
            f"{runtime.name} {runtime.version} packs with gzip alone; to choose takes Apptainer 1.4 or newer",
            hint="leave --compression out",
        )


def _lets_choose(runtime: Runtime) -> bool:
    """Whether it has `--mksquashfs-args` (github.com/apptainer/apptainer/pull/2707, in 1.4.0); SingularityCE has not."""
    numbers = tuple(int(part) for part in re.findall(r"[0-9]+", runtime.version)[:2])
    return runtime.name == "apptainer" and numbers >= (1, 4)


def build(runtime: Runtime, definition: Path, output: Path, how: Packing) -> tuple[str, ...]:
    """The command that builds a SIF of a definition, with the rights of an ordinary user."""
    bound = (word for source, target in how.binds.items() for word in ("--bind", f"{_whole(source, ':,')}:{target}"))
    squash = ("--mksquashfs-args", " ".join(squashing(how.compression))) if _lets_choose(runtime) else ()
    return (
        runtime.program,
        "build",
        "--fakeroot",
        "--force",
        "--notest",
        *bound,
        *squash,
        *how.arguments,
        str(output),
        str(definition),
    )


def build_environment(scratch: Path, moment: int, path: str) -> dict[str, str]:
    """The variables of a build: its scratch space is ours to remove, and every file is as old as `moment` at most."""
    names = ("TMPDIR", "CACHEDIR")
    return {
        **{f"{maker}_{name}": str(scratch) for maker in ("APPTAINER", "SINGULARITY") for name in names},
        "PATH": f"{path}:{_SYSTEM}",
        "SOURCE_DATE_EPOCH": str(moment),
    }


def _asked(path: str) -> Runtime:
    said = process.capture(Command(argv=(path, "--version")), timeout=60)
    found = re.search(r"\b(apptainer|singularity)\b.*?([0-9]+\.[0-9]+\S*)", said.output, re.IGNORECASE)
    if said.code != 0 or not found:
        last = said.output.strip().splitlines()[-1:] or ["nothing"]
        raise HostError(f"{path} does not say what it is; it says: {last[0][:200]}", hint="is it installed whole?")
    return Runtime(program=path, name=found[1].lower(), version=found[2])


def _whole(text: str, marks: str) -> str:
    """A path or a value that the runtime's options, which know no quoting, do not split."""
    if any(mark in text for mark in marks):
        raise HostError(
            f"{text!r} cannot be given to apptainer: its options are split at {' and '.join(marks)}",
            hint="choose a folder with another name",
        )
    return text
