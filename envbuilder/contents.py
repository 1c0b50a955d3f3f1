"""Look at an environment, or at the file of an image, for its bill of materials."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuilder import dpkg, elf, host, image, lock, proof, runtime
from envbuilder.document import load_json, read_text
from envbuilder.environment import Environment
from envbuilder.errors import HostError, InputError, StoreError
from envbuilder.image import Asked
from envbuilder.lock import Lock
from envbuilder.runtime import Entering, Runtime
from envbuilder.sbom import Bound, Contents
from envbuilder.store import Store
from envbuilder.target import Python, Target

# Where an image has what it says of itself.
ABOUT = "/opt/envbuilder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What an image's own Python told: see `envbuilder.inside.read_contents`."""

    lock: Lock
    target: Target
    release: Mapping[str, str]
    system: tuple[Mapping[str, str], ...] | None
    about: Mapping[str, Any]
    libc: str


def of_environment(place: Store, environment: Environment, env: Mapping[str, str]) -> Contents:
    """The contents of an environment of the store; raises `HostError`, `InputError` or `StoreError`."""
    said = environment.image
    properties = {"environment": environment.identifier, "site": f"{environment.site}/{environment.partition}"}
    if said is None:
        about = Path(environment.prefix, "share", "envbuilder")
        return Contents(
            lock=_kept_lock(about),
            target=_target(environment.python),
            sha256="",
            release=dpkg.release(_text(dpkg.RELEASE)),
            system=None,
            bound=tuple(_of_the_host(place, environment)),
            properties={**properties, "interpreter": environment.python["path"]},
            moment=moment(env),
        )
    file = Path(said["file"])
    program = runtime.find_again(said["runtime"], env)
    sha256 = host.sha256(file) if file.is_file() else ""
    if sha256 != said["sha256"]:
        raise StoreError(f"{file} is not the image that was built", hint="build the environment anew with --rebuild")
    bound = tuple(_library(path, target.removesuffix(":ro")) for path, target in sorted(said["binds"].items()))
    return _of_seen(ask(program, file, said["python"]), sha256, bound, properties, env)


def of_file(file: Path, env: Mapping[str, str]) -> Contents:
    """The contents of an image that lies somewhere; raises `HostError` or `InputError`."""
    seen = ask(runtime.find(env), file, "python3")
    return _of_seen(seen, host.sha256(file), (), {}, env)


def moment(env: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH (reproducible-builds.org), if it is set; raises `InputError` for what is no number."""
    told = env.get("SOURCE_DATE_EPOCH", "")
    if told and not re.fullmatch(r"[0-9]{1,11}", told):
        raise InputError(f"SOURCE_DATE_EPOCH is {told[:40]!r}", hint="give seconds since 1970-01-01, or unset it")
    return int(told) if told else None


def _of_seen(
    seen: Seen, sha256: str, bound: tuple[Bound, ...], properties: Mapping[str, str], env: Mapping[str, str]
) -> Contents:
    return Contents(
        lock=seen.lock,
        target=seen.target,
        sha256=sha256,
        release=seen.release,
        system=seen.system,
        bound=bound,
        properties=properties,
        moment=moment(env),
    )


def ask(program: Runtime, file: Path, python: str) -> Seen:
    """What an image tells of itself; raises `HostError`, or `InputError` where envbuilder did not build it."""
    how = Entering(binds={}, clean=True, cwd="/")
    asked = {"about": ABOUT, "status": str(dpkg.STATUS), "release": str(dpkg.RELEASE)}
    told = image.ask(Asked(program=program, image=file, python=python), "contents", asked, how)
    if told["envelope"] is None:
        raise InputError(f"{file} holds no lock of envbuilder's", hint="it was not built by `envbuilder build`")
    return Seen(
        lock=lock.from_envelope(told["envelope"], told["bodies"], f"{file.name}:{ABOUT}"),
        target=_target(told["python"]),
        release=told["release"],
        system=None if told["packages"] is None else tuple(told["packages"]),
        about=told["about"],
        libc=told["libc"],
    )


def _kept_lock(about: Path) -> Lock:
    """The lock in a tree; older trees have another file beside its bodies."""
    envelope = load_json(about / lock.ENVELOPE, "lock")
    bodies = {name: read_text(about / name, "lock") for name in envelope.get("bodies", {})}
    return lock.from_envelope(envelope, bodies, str(about / lock.ENVELOPE))


def _target(python: Mapping[str, Any]) -> Target:
    """As much of a target as chooses wheels."""
    own = Python(path=python["path"], version=python["version"], soabi=python["soabi"], headers=False)
    return Target(
        site="", partition="", arch=os.uname().machine, libc="", gpu="none", python=own, mpi=None, compiler=None
    )


def _of_the_host(place: Store, environment: Environment) -> Iterator[Bound]:
    """The system's MPI of a tree, and what its proof says was found outside of it."""
    mpi = environment.mpi
    seen: set[str] = set()
    if mpi is not None and mpi["provider"] == "system":
        seen.add(os.path.realpath(mpi["library"]))
        yield _library(mpi["library"], "", version=f"{mpi['name']} {mpi['version']}")
    for path in _proven(place, environment):
        if os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            yield _library(path, "")


def _proven(place: Store, environment: Environment) -> tuple[str, ...]:
    path = proof.path_of(place, environment)
    return tuple(sorted(proof.load(path).host_libraries)) if path.is_file() else ()


def _library(path: str, target: str, version: str = "") -> Bound:
    file = Path(path)
    try:
        facts, sha256 = elf.read(file), host.sha256(file)
    except OSError as error:
        raise HostError(f"{path}, a library of the host, cannot be read: {error.strerror}") from error
    soname = facts.soname if facts is not None and facts.soname else file.name
    return Bound(path=path, soname=soname, sha256=sha256, version=version, target=target)


def _text(path: Path) -> str:
    try:
        return read_text(path, "file")
    except (InputError, OSError, StoreError):
        return ""
