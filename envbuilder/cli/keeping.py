"""The commands that look after the store: envs list, show, rm, and gc."""

from __future__ import annotations

from argparse import Namespace

from envbuilder import proof, store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.environment import Environment
from envbuilder.errors import FINE


def list_environments(arguments: Namespace, console: Console) -> int:
    """`envbuilder envs list`."""
    place = opened(arguments.site)
    found = store.environments(place)
    if console.json:
        console.document([_listed(place, environment) for environment in found])
        return FINE
    if not found:
        console.note(f"no environment in {place.root}")
    for environment in found:
        entry = _listed(place, environment)
        mark = "*" if entry["current"] else " "
        console.result(
            f"{mark} {environment.identifier}  {environment.site}/{environment.partition}  "
            f"{environment.created[:16]}  {'proven ' + entry['proven'][:16] if entry['proven'] else 'no proof'}"
        )
    return FINE


def show(arguments: Namespace, console: Console) -> int:
    """`envbuilder envs show`."""
    place = opened(arguments.site)
    environment = store.find(place, arguments.environment)
    if console.json:
        console.document({**environment.to_document(), **_listed(place, environment)})
        return FINE
    mpi = environment.mpi
    image = environment.image
    place_of_it = (
        {"image": f"{image['file']} (sha256 {image['sha256'][:12]}, on {image['base']}, MPI of the {image['mpi']})"}
        if image
        else {
            "pack": f"{environment.pack['file']} (sha256 {environment.pack['sha256'][:12]}), seen at {environment.tree}"
        }
        if environment.pack
        else {"tree": environment.prefix, "activate": f"source {environment.prefix}/bin/activate"}
    )
    lines = {
        "environment": environment.identifier,
        **place_of_it,
        "digest": environment.digest,
        "lock": environment.lock_digest,
        "built": f"{environment.created} by {environment.created_by} in {environment.seconds:.1f} s",
        "for": f"{environment.site}/{environment.partition}",
        "python": f"{environment.python['version']} ({environment.python['path']})",
        "mpi": f"{mpi['name']} ({mpi['provider']}), {mpi['soname']} at {mpi['library']}" if mpi else "none",
        "features": ", ".join(environment.features),
        "proven": _listed(place, environment)["proven"] or "no",
    }
    console.result("\n".join(f"{key:12} {value}" for key, value in lines.items()))
    console.result("\n".join(f"    {name} {version}" for name, version in sorted(environment.packages.items())))
    return FINE


def remove(arguments: Namespace, console: Console) -> int:
    """`envbuilder envs rm`: all names are looked up before anything is removed."""
    place = opened(arguments.site)
    doomed = [store.find(place, name) for name in arguments.environments]
    for environment in doomed:
        with store.guarded(place, f"env-{environment.identifier}", console.note):
            store.withdraw(place, environment.identifier)
        console.done(f"removed {environment.identifier}")
    if console.json:
        console.document({"removed": [environment.identifier for environment in doomed]})
    return FINE


def gc(arguments: Namespace, console: Console) -> int:
    """`envbuilder gc`."""
    place = opened(arguments.site)
    doomed = store.collect(place, dry_run=arguments.dry_run)
    if console.json:
        console.document({"removed": [str(path) for path in doomed], "dry_run": arguments.dry_run})
        return FINE
    for path in doomed:
        console.result(str(path))
    console.done(f"{len(doomed)} {'would be' if arguments.dry_run else 'were'} removed")
    return FINE


def _listed(place: store.Store, environment: Environment) -> dict[str, str]:
    found = sorted(place.path("proofs", environment.identifier).glob("*.json"))
    proven = max((proof.load(path).made.isoformat() for path in found), default="")
    current = store.current(place, environment.recipe) == environment.identifier
    return {
        "identifier": environment.identifier,
        "recipe": environment.recipe,
        "version": environment.version,
        "prefix": environment.prefix,
        "created": environment.created,
        "current": "yes" if current else "",
        "proven": proven,
    }
