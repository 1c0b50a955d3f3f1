"""The gate: a command starts if and only if there is a proof that fits this environment, here, today."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from envbuilder import gate_memo, host, image_signature, packed, proof, run_memo, scheduler, signature
from envbuilder.builders import builder
from envbuilder.environment import Environment
from envbuilder.errors import GateError, StoreError
from envbuilder.process import EnvPatch, patched
from envbuilder.proof import Circumstances, Proof
from envbuilder.runtime import Entering
from envbuilder.store import Store

_CLOCK_SKEW = timedelta(minutes=5)


def patch(environment: Environment, base: Mapping[str, str]) -> EnvPatch:
    """What activating the environment does to the variables `base`."""
    return builder(environment.builder).enter(environment, base)


def words(
    environment: Environment, *, binds: Mapping[str, str] | None = None, cwd: str = "", together: bool = False
) -> tuple[str, ...]:
    """What stands before a command that runs in the environment: the way into its image, if it is in one.

    Raises `HostError` where something that is bound into it is gone.
    """
    if environment.pack is not None:
        return packed.words(environment.pack, os.environ, together=together)
    if environment.image is None:
        return ()
    from envbuilder.builders import apptainer

    Path(environment.caches, environment.identifier).mkdir(parents=True, exist_ok=True)
    gpu = gpus_here(environment, os.environ)
    return apptainer.inside(environment, Entering(binds=binds or {}, cwd=cwd, together=together, gpu=gpu))


def gpus_here(environment: Environment, base: Mapping[str, str]) -> str:
    """The vendor of the GPUs of the partition that we are on; of an environment that does not say, that of its own."""
    here = partition(environment, base) or environment.partition
    return environment.gpus.get(here, environment.gpu.get("vendor", ""))


def circumstances(environment: Environment, base: Mapping[str, str], libraries: Iterable[str] = ()) -> Circumstances:
    """Today's circumstances of an environment, as a command that runs in it under `base` would find them.

    `libraries` are the files outside of the tree whose marks count, beside those that it always needs.
    """
    here = scheduler.allocation(base)
    cluster = (here.cluster or here.partition) if here is not None and environment.scheduler else ""
    modules = environment.modules or {}
    return Circumstances(
        partition=partition(environment, base),
        host=host.identity(cluster),
        tree=proof.tree_fingerprint(Path(environment.prefix)),
        variables=proof.decisive(patched(patch(environment, base), base)),
        libraries=proof.marks(dict.fromkeys([*proof.host_files(environment), *libraries])),
        modulefiles=proof.marks(modules.get("files", ())),
    )


def partition(environment: Environment, base: Mapping[str, str]) -> str:
    """The partition of the environment's site that we are on; empty where the site's batch system has put us on none."""
    if not environment.scheduler:
        return environment.partition
    here = scheduler.allocation(base)
    if here is None:
        return ""
    own = environment.partition
    names = [own, *(name for name in environment.scheduler if name != own)]
    if not environment.scheduler.get(own):  # a site that chooses nodes by their features has no name to compare
        return own
    return next((name for name in names if environment.scheduler.get(name) == here.partition), here.partition)


def reasons(found: Proof, environment: Environment, today: Circumstances, now: datetime) -> tuple[str, ...]:
    """Why a proof does not hold, in words; empty when it holds."""
    then = found.circumstances
    said: list[str] = []
    if (found.environment, found.digest) != (environment.identifier, environment.digest):
        said.append("it is the proof of another environment")
    elif environment.image and found.image != environment.image["sha256"]:
        said.append("it is the proof of another file of the image: it was signed or replaced since")
    if (found.site, found.partition) != (environment.site, today.partition):
        said.append(f"it was made on {found.site}/{found.partition}, this is {environment.site}/{today.partition}")
    said += [f"it was made on another host: {difference}" for difference in proof.same_host(then.host, today.host)]
    if then.tree != today.tree:
        said.append("files of the environment changed since it was made")
    said += _changed("the library", then.libraries, today.libraries, show=False)
    said += _changed("the modulefile", then.modulefiles, today.modulefiles, show=False)
    said += _changed("the variable", then.variables, today.variables, show=True)
    limit = timedelta(hours=environment.max_proof_age_hours)
    if now - found.made > limit:
        said.append(f"it is {_age(now - found.made)} old, and {_age(limit)} is the limit")
    if found.made - now > _CLOCK_SKEW:
        said.append("it is dated in the future")
    return tuple(said)


def check(place: Store, environment: Environment, base: Mapping[str, str] | None = None) -> Proof:
    """The proof that lets commands start in an environment now; raises `GateError` saying why not and what mends it."""
    env = os.environ if base is None else base
    here = partition(environment, env)
    path = proof.path_of(place, environment, here)
    if not Path(environment.prefix).is_dir():
        mend = f"envbuilder build {environment.recipe}@{environment.version}"
        raise GateError(f"{environment.identifier}: its tree is gone ({environment.prefix})", hint=mend)
    mend = f"envbuilder verify {shlex.quote(environment.identifier)}"
    if not here:
        raise GateError(
            f"{environment.identifier} is for the nodes of {environment.site}/{environment.partition}, and this is not a job "
            "there",
            hint=f"start it in a job: envbuilder job {shlex.quote(environment.identifier)} -- CMD",
        )
    if here != environment.partition:
        mend += f" --partition {here}"
    if not path.is_file():
        raise GateError(
            f"{environment.identifier} has no proof for {environment.site}/{here}: it was never verified there, or failed"
            f"{_proven_elsewhere(place, environment)}",
            hint=f"run {mend}",
        )
    try:
        found = proof.load(path)
    except StoreError as error:
        raise GateError(error.message, hint=f"run {mend}") from error
    today = circumstances(environment, env, found.circumstances.libraries)
    said = (*reasons(found, environment, today, datetime.now(timezone.utc)), *_key_reasons(found, environment, env))
    try:
        signed_by = signature.signer(path, _signers(environment, env))
    except GateError as error:
        raise GateError(error.message, hint=f"run {mend}") from error
    if not signed_by and environment.signers.get("required") == "yes":
        said = (
            *said,
            f"it is not signed, and {environment.site} wants signed ones (${signature.KEY_VARIABLE} names a key)",
        )
    if said:
        listed = "\n".join(f"    {reason}" for reason in said)
        raise GateError(
            f"the proof of {environment.identifier} does not hold here and now:\n{listed}", hint=f"run {mend}"
        )
    return replace(found, signed_by=signed_by)


def remember(place: Store, environment: Environment, found: Proof, line: str) -> None:
    """Note on what the gate has just opened, with the words it said, for the next time."""
    if environment.signers.get("required") == "yes" or image_key(environment, os.environ):
        return  # whose signature counts is looked up each time
    path = proof.path_of(place, environment, partition(environment, os.environ))
    beside = signature.path_of(path)
    told = found.circumstances
    whole = environment.image or environment.pack
    files = (
        place.manifest(environment.identifier),
        path,
        *((beside,) if beside.is_file() else ()),
        *((Path(whole["file"]),) if whole else ()),
    )
    start = found.made.timestamp()
    gate_memo.remember(
        str(place.root),
        environment.identifier,
        environment.prefix,
        files=(*map(str, files), *told.libraries, *told.modulefiles),
        decisive=(
            (*proof.DECISIVE[0], image_signature.KEY_VARIABLE),
            proof.DECISIVE[1],
        ),
        span=(start - _CLOCK_SKEW.total_seconds(), start + environment.max_proof_age_hours * 3600),
        line=line,
        env=os.environ,
    )


def remember_start(
    place: Store, environment: Environment, found: Proof, start: tuple[str, ...], environs: EnvPatch
) -> None:
    """Note on how a command was started in an image or a packed tree; one in a tree is checked whole each time."""
    if environment.image is None and environment.pack is None:
        return
    remember(place, environment, found, environment.identifier)
    # programs, files, and what is bound, which is written as SOURCE:TARGET
    needed = [word.split(":")[0] for word in start if word.startswith("/")]
    if environment.image is not None:
        needed.append(str(Path(environment.caches, environment.identifier)))
    run_memo.remember(
        str(place.root),
        environment.identifier,
        words=start,
        patch=environs,
        needed=tuple(needed),
        env=os.environ,
    )


def _signers(environment: Environment, env: Mapping[str, str]) -> Path | None:
    """The file of allowed signers: the site's, else the user's own."""
    named = environment.signers.get("file") or env.get(signature.SIGNERS_VARIABLE, "")
    return Path(named).expanduser() if named else None


def image_key(environment: Environment, env: Mapping[str, str]) -> Path | None:
    """The public key that the environment's image must be signed with, if it is in one and somebody names a key."""
    return image_signature.key(environment.signers.get("image_key", ""), env) if environment.image else None


def _key_reasons(found: Proof, environment: Environment, env: Mapping[str, str]) -> tuple[str, ...]:
    """Why the signature of the image, as it was proven, is not the one that is wanted now."""
    public = image_key(environment, env)
    wanted = image_signature.mark(public)
    if wanted in ("", found.image_key):
        return ()
    then = "under another key" if found.image_key else "without looking at the image's signature"
    return (f"it was made {then}, and the image must be signed with {public}",)


def _proven_elsewhere(place: Store, environment: Environment) -> str:
    """A clause on the partitions for which there is a proof, if there are any."""
    start = f"{environment.site}."
    found = sorted(
        path.stem.removeprefix(start) for path in place.path("proofs", environment.identifier).glob(f"{start}*.json")
    )
    return f" (there is one for {', '.join(found)})" if found else ""


def _changed(what: str, then: Mapping[str, str], now: Mapping[str, str], *, show: bool) -> list[str]:
    lines = []
    for name in sorted(set(then) | set(now)):
        old, new = then.get(name), now.get(name)
        if old != new:
            values = f": was {_value(old)}, is {_value(new)}" if show else ""
            lines.append(f"{what} {name} changed since it was made{values}")
    return lines


def _value(value: str | None) -> str:
    return "unset" if value is None else repr(value)


def _age(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
