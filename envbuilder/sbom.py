"""A bill of materials in CycloneDX 1.6: wheels, compiled sources, conda's and the system's packages, bound libraries.

Nothing in it comes from a clock or from chance: the same contents give the same bytes, its serial number is made from them.
Formats: cyclonedx.org/docs/1.6/json, and for names of packages github.com/package-url/purl-spec.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, urlsplit

from envbuilder import __version__, artefacts, conda, told
from envbuilder import lock as lock_format
from envbuilder.document import digest
from envbuilder.lock import Artefact, Lock
from envbuilder.pip_config import without_credentials
from envbuilder.target import Target

SPECIFICATION = "1.6"
_ROOT = "root"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """A library of the host that is used or bound: its path there, its name, its sha256 ("" where it cannot be read)."""

    path: str
    soname: str
    sha256: str
    version: str = ""
    target: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a bill is made from.

    `sha256` is that of the image's file ("" for a tree), `system` the distribution's packages (`dpkg.packages`) with its
    `release`; `system` is None where they could not be read. `moment` is in seconds since the epoch, or None.
    """

    lock: Lock
    target: Target
    sha256: str
    release: Mapping[str, str]
    system: tuple[Mapping[str, str], ...] | None
    bound: tuple[Bound, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    moment: int | None = None


def document(contents: Contents) -> dict[str, Any]:
    """The bill; raises `InputError` when a wheel of the lock fits nowhere."""
    components = [
        *_python(contents),
        *_conda(contents.lock),
        *_spack(contents.lock),
        *_system(contents),
        *(_bound(one) for one in contents.bound),
    ]
    references = sorted(one["bom-ref"] for one in components)
    moment = contents.moment
    bill: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {
            **({"timestamp": _time(moment)} if moment is not None else {}),
            "tools": {"components": [{"type": "application", "name": "envbuilder", "version": __version__}]},
            "component": _root(contents),
            "properties": _properties(_about(contents)),
        },
        "components": sorted(components, key=lambda one: str(one["bom-ref"])),
        "dependencies": [{"ref": _ROOT, "dependsOn": references}, *({"ref": name} for name in references)],
    }
    return {**bill, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest(bill))}"}


def purl(kind: str, name: str, version: str, namespace: str = "", **qualifiers: str) -> str:
    """A package URL: every part percent-encoded but for what the specification leaves alone."""
    where = f"{quote(namespace, safe='')}/" if namespace else ""
    said = "&".join(f"{key}={quote(value, safe='.-_~:/')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{where}{quote(name, safe='.-_~:')}@{quote(version, safe='.-_~:')}{'?' if said else ''}{said}"


def _root(contents: Contents) -> dict[str, Any]:
    lock = contents.lock
    return {
        "type": "container" if contents.sha256 else "application",
        "bom-ref": _ROOT,
        "name": lock.recipe,
        "version": lock.version,
        **({"hashes": [_hash(contents.sha256)]} if contents.sha256 else {}),
    }


def _about(contents: Contents) -> dict[str, str]:
    read = "none" if contents.system is None else str(len(contents.system))
    return {
        "lock": f"sha256:{contents.lock.digest}",
        "python": contents.target.python.version,
        "distribution": contents.release.get("name", ""),
        "distribution-packages-read": read,
        **contents.properties,
    }


def _python(contents: Contents) -> Iterator[dict[str, Any]]:
    lock = contents.lock
    compiled = artefacts.compiled(lock)
    for wheel in artefacts.chosen(lock, lock_format.MAIN, contents.target, without=compiled):
        yield {
            "type": "library",
            "bom-ref": f"pypi:{wheel.package}",
            "name": wheel.package,
            "version": wheel.version,
            "purl": purl("pypi", wheel.package, wheel.version),
            "hashes": [_hash(wheel.sha256)],
            **_fetched(wheel, "distribution"),
            "properties": _properties({"file": wheel.file}),
        }
    for name in lock.sources:
        (artefact,) = lock.artefacts(lock_format.source_body(name))
        yield _compiled(lock, name, artefact)


def _conda(lock: Lock) -> Iterator[dict[str, Any]]:
    """Conda's packages; the Python distributions in them are no components of their own."""
    for one in lock.artefacts(conda.BODY):
        version, _, build = one.version.partition(" ")
        folder = urlsplit(one.url).path.split("/")[-2:-1]
        kind = "tar.bz2" if one.file.endswith(".tar.bz2") else "conda"
        yield {
            "type": "library",
            "bom-ref": f"conda:{one.package}",
            "name": one.package,
            "version": version,
            "purl": purl("conda", one.package, version, build=build, subdir="".join(folder), type=kind),
            "hashes": [_hash(one.sha256)],
            **_fetched(one, "distribution"),
            "properties": _properties({"file": one.file}),
        }


def _spack(lock: Lock) -> Iterator[dict[str, Any]]:
    """What Spack has there at run time, its own packages and the externals; there is no kind of package URL for Spack's."""
    for one in lock.spack().needed:
        yield {
            "type": "library",
            "bom-ref": f"spack:{one.name}",
            "name": one.name,
            "version": one.version,
            "purl": purl("generic", one.name, one.version),
            "properties": _properties(
                {"spack-hash": one.hash, "from": f"external {one.prefix}" if one.external else "built by Spack"}
            ),
        }


def _compiled(lock: Lock, name: str, artefact: Artefact) -> dict[str, Any]:
    """What is compiled here: known by its source; the wheel differs with the machine's compiler."""
    source = lock.request["sources"][name]
    parts = told.parts(lock.bodies[lock_format.source_body(name)], name)
    changes = [_patch(one) for one in source.get("patches", ())]
    pedigree: dict[str, Any] = {
        **({"commits": [{"uid": one.commit, "url": _address(one.url)} for one in parts]} if parts else {}),
        **({"patches": changes} if changes else {}),
        "notes": f"compiled from source, because {source['why']}",
    }
    package = (
        purl("pypi", artefact.package, artefact.version)
        if source.get("sdist")
        else purl("generic", artefact.package, artefact.version, download_url=_address(artefact.url))
    )
    return {
        "type": "library",
        "bom-ref": f"source:{artefact.package}",
        "name": artefact.package,
        "version": artefact.version,
        "purl": package,
        "pedigree": pedigree,
        **_fetched(artefact, "vcs" if artefact.is_commit else "source-distribution"),
        "properties": _properties({"source": artefact.file, "source-sha256": artefact.sha256}),
    }


def _patch(patch: Mapping[str, Any]) -> dict[str, Any]:
    """A diff of the recipe, or a replacement told as one."""
    if patch.get("file"):
        text = patch["text"]
    else:
        old = "".join(f"-{line}\n" for line in patch["replace"].splitlines())
        new = "".join(f"+{line}\n" for line in patch["by"].splitlines())
        text = f"--- a/{patch['path']}\n+++ b/{patch['path']}\n{old}{new}"
    return {
        "type": "unofficial",
        "diff": {"text": {"contentType": "text/x-diff", "content": text}},
        "resolves": [{"type": "defect", "description": patch["why"]}],
    }


def _system(contents: Contents) -> Iterator[dict[str, Any]]:
    system, version = contents.release.get("id", ""), contents.release.get("version", "")
    for package in contents.system or ():
        yield {
            "type": "library",
            "bom-ref": f"deb:{package['name']}:{package['arch']}",
            "name": package["name"],
            "version": package["version"],
            "purl": purl(
                "deb",
                package["name"],
                package["version"],
                namespace=system,
                arch=package["arch"],
                distro=f"{system}-{version}" if system and version else "",
            ),
            "properties": _properties({"source-package": f"{package['source']} {package['source_version']}"}),
        }


def _bound(library: Bound) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"host:{library.path}",
        "name": library.soname,
        **({"version": library.version} if library.version else {}),
        **({"hashes": [_hash(library.sha256)]} if library.sha256 else {}),
        "scope": "required",
        "properties": _properties({"of-the-host": library.path, "bound-to": library.target}),
    }


def _fetched(artefact: Artefact, kind: str) -> dict[str, Any]:
    """Where it is to be had, unless that is a folder of some machine."""
    address = _address(artefact.url)
    if not address:
        return {}
    return {"externalReferences": [{"type": kind, "url": address, "hashes": [_hash(artefact.sha256)]}]}


def _address(url: str) -> str:
    shown = without_credentials(url)
    return shown if urlsplit(shown.removeprefix("git+")).scheme in ("http", "https", "ssh") else ""


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"envbuilder:{name}", "value": value} for name, value in sorted(values.items()) if value]


def _time(moment: int) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
