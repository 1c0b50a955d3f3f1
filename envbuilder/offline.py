"""Build where there is no network: collect what a lock takes into a bundle, and take it from there.

The environment that is built from a bundle is the one that the same lock gives with a network: the same files decide it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envbuilder import artefacts, pip_config, told
from envbuilder import bundle as bundle_format
from envbuilder.bundle import Bundle, Written
from envbuilder.checkout import Cache, Part
from envbuilder.console import Console
from envbuilder.document import to_json
from envbuilder.download import Network
from envbuilder.errors import InputError
from envbuilder.lock import Artefact, Lock
from envbuilder.prepare import Prepared, refuse_stale
from envbuilder.target import Target
from envbuilder.wish import Wish

_CREDENTIALS = re.compile(r'://[^/\s"]*@')


def bundle(prepared: Prepared, lock: Lock, output: Path, console: Console, env: Mapping[str, str]) -> Written:
    """Fetch every file that the lock takes on this target, and write it all to one file.

    Raises `HostError` for a file that cannot be had, and `InputError` for a lock that does not fit; what was fetched is kept.
    """
    _refuse_credentials(lock)
    if lock.spack().needed:
        raise InputError(
            "Spack fetches its sources itself, so they are not in a bundle",
            hint="give Spack a mirror (`spack mirror create`), and build where it sees that; on a site that builds on its "
            "nodes, inside a job",
        )
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else f"cannot be written: {output.parent} is no folder"
        raise InputError(f"{output} {what}", hint="name a file in a folder that is there: -o FILE")
    wanted = artefacts.needed(lock, prepared.target)
    place = fetch(prepared, lock, console, env)
    files = {artefact: artefacts.kept(place, artefact) for artefact in wanted}
    with console.step(f"write {output.name}") as tick:
        return bundle_format.write(output, lock, files, tick)


def fetch(prepared: Prepared, lock: Lock, console: Console, env: Mapping[str, str]) -> Path:
    """Have every file that the lock takes on this target in the store, and return the folder of them.

    Raises `HostError` for a file that cannot be had; what was fetched is kept.
    """
    wanted = artefacts.needed(lock, prepared.target)
    missing = [artefact for artefact in wanted if not artefacts.is_kept(prepared.store, artefact)]
    if len(missing) < len(wanted):
        console.note(f"{len(wanted) - len(missing)} of {len(wanted)} files were fetched before")
    network = Network(pip=prepared.place.pip, env=env, mirrors=tuple(prepared.site.mirrors.values()))
    mirrors = prepared.site.mirrors
    cache = Cache(store=prepared.store, network=network, mirrors=mirrors, waiting=console.note)
    commits = told.commits(lock)
    for number, artefact in enumerate(missing, 1):
        found = replace(artefact, url=told.located(artefact, prepared.place.pip, mirrors))
        _fetch(found, commits.get(artefact.sha256, ()), cache, console, (number, len(missing)))
    return artefacts.folder(prepared.store.root)


def default_name(lock: Lock) -> str:
    """What a bundle is called unless it is given a name."""
    return f"{lock.recipe}-{lock.version}-{lock.digest[:12]}.bundle.tar"


def wish(asked: Wish, given: Bundle) -> Wish:
    """What was asked for, with what only the bundle says: the recipe, its version, the partition.

    Raises `InputError` when it is for another kind of machine.
    """
    lock = given.lock
    arch = str(lock.request["target"].get("arch"))
    if arch != os.uname().machine:
        raise InputError(
            f"{given.path} is for {arch}, and this machine is {os.uname().machine}",
            hint=f"make one on a machine of this kind: envbuilder bundle {lock.recipe}@{lock.version}",
        )
    return replace(
        asked,
        recipe=asked.recipe or f"{lock.recipe}@{lock.version}",
        partition=asked.partition or (lock.partition if asked.site == lock.site else ""),
    )


def take(prepared: Prepared, given: Bundle, console: Console) -> Prepared:
    """The same, with the artefacts of a bundle at hand and the network off.

    Raises `InputError` when the bundle is damaged, lacks a file, or its lock does not answer this request; nothing of it is
    in the store then.
    """
    _refuse_other_request(prepared, given)
    _refuse_lacking(artefacts.needed(given.lock, prepared.target), given, prepared.target)
    with console.step(f"check {given.path.name}", number=1, of=2) as tick:
        bundle_format.verify(given, tick)
    with console.step(f"unpack {len(given.artefacts())} files", number=2, of=2) as tick:
        place = bundle_format.unpack(given, prepared.store, console.note, tick)
    return replace(prepared, place=replace(prepared.place, artefacts=place))


def _fetch(
    artefact: Artefact, made_of: tuple[Part, ...], cache: Cache, console: Console, position: tuple[int, int]
) -> None:
    with console.step(f"fetch {artefact.file}", number=position[0], of=position[1]) as tick:

        def far(done: int, total: int) -> None:
            tick(f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB")

        told.obtain(artefact, made_of, cache, far)


def _refuse_credentials(lock: Lock) -> None:
    """A bundle is made to be handed on."""
    for name, text in {"lock.json": to_json(lock.envelope()), **lock.bodies}.items():
        for line in text.splitlines():
            if _CREDENTIALS.search(line):
                raise InputError(
                    f"{name} holds a user or a password: {pip_config.redact(line.strip())[:200]}",
                    hint="keep them in pip's index-url or ~/.netrc, and write the lock anew",
                )


def _refuse_other_request(prepared: Prepared, given: Bundle) -> None:
    lock, request, path = given.lock, prepared.request, given.path
    if (lock.recipe, lock.version) != (request.recipe, request.version):
        raise InputError(
            f"{path} holds {lock.recipe}@{lock.version}, not {request.recipe}@{request.version}",
            hint=f"leave RECIPE out, or write {lock.recipe}@{lock.version}",
        )
    theirs, ours = lock.request["target"], prepared.target.identity()
    if any(theirs.get(key) != ours[key] for key in ("python", "soabi")):
        raise InputError(
            f"{path} is for Python {theirs.get('python')} ({theirs.get('soabi')}), and the Python here is "
            f"{prepared.target.python.version} ({ours['soabi']}, {prepared.target.python.path})",
            hint=f"name another: --python {theirs.get('python')}; or make a bundle for this one, with --python there, too",
        )
    refuse_stale(
        prepared,
        lock,
        str(path),
        f"it was locked for {lock.site}/{lock.partition}; name that by --site and --partition, or make the bundle anew "
        f"where the request is the same: envbuilder bundle {lock.recipe}@{lock.version}",
    )


def _refuse_lacking(wanted: tuple[Artefact, ...], given: Bundle, target: Target) -> None:
    """A file that this machine takes and the bundle has not: it was made with another C library, or by another hand."""
    has = given.artefacts()
    lacking = [artefact for artefact in wanted if (artefact.file, artefact.sha256) not in has]
    if lacking:
        names = "".join(f"\n    {artefact.file} ({artefact.package} {artefact.version})" for artefact in lacking)
        raise InputError(
            f"{given.path} lacks what is installed here ({target.python.soabi}, {target.libc}):{names}",
            hint=f"make it anew on a machine like this one: envbuilder bundle {given.lock.recipe}@{given.lock.version}",
        )
