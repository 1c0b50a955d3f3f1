"""Locks: exactly which artefacts, with hashes, answer a request.

A lock is a small envelope (`lock.json`) beside native bodies that are left as the resolver wrote them: `pylock.toml`
(PEP 751) for the environment, `conda.json` (`envbuilder.conda`) for what conda brings below it, `spack.lock`
(`envbuilder.spack_lock`) where Spack brings everything, and for each distribution that is compiled here
`pylock.source-NAME.toml` (its sdist, archive or commit) and `pylock.build-NAME.toml` (its build requirements).
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from envbuilder import conda, spack_lock
from envbuilder.document import controls, digest
from envbuilder.errors import InputError
from envbuilder.spack_lock import Solved

if TYPE_CHECKING:
    from packaging.pylock import Package, Pylock

SCHEMA = 1
KIND = "envbuilder-lock"
ENVELOPE = "lock.json"
MAIN = "pylock.toml"
_SOURCE = "pylock.source-"
_SHOWN = 160


def source_body(name: str) -> str:
    """The name of the body that says where a source comes from."""
    return f"{_SOURCE}{name}.toml"


def build_body(name: str) -> str:
    """The name of the body that holds the build requirements of a source."""
    return f"pylock.build-{name}.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """A file that will be downloaded: the distribution it belongs to, its name, address (or path) and sha256."""

    package: str
    version: str
    file: str
    url: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel; else it is a source."""
        return self.file.endswith(".whl")

    @property
    def is_commit(self) -> bool:
        """Whether it is made from a commit of a repository, rather than fetched."""
        return self.url.startswith("git+")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """An envelope and its bodies (file name to text). Equal digests mean equal content."""

    request: Mapping[str, Any]
    site: str
    partition: str
    created_by: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    bodies: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """The sha256 of what decides the result: the request and the bodies; not who made it, nor when."""
        return digest({"request": self.request, "bodies": self._hashes()})

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.request["recipe"])

    @property
    def version(self) -> str:
        """The variant's version."""
        return str(self.request["version"])

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of what is compiled here."""
        return tuple(sorted(self.request["sources"]))

    def distribution(self, name: str) -> str:
        """The distribution that is compiled from a source, as the recipe writes it."""
        source = self.request["sources"][name]
        return str(source.get("sdist") or source["name"])

    def envelope(self) -> dict[str, Any]:
        """The document of `lock.json`."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "created_by": dict(self.created_by),
            "site": self.site,
            "partition": self.partition,
            "options": dict(self.options),
            "request": dict(self.request),
            "bodies": {name: f"sha256:{mark}" for name, mark in self._hashes().items()},
        }

    def packages(self, body: str = MAIN) -> dict[str, str]:
        """Normalised distribution names and versions in a body; those of the environment with what no resolver knows.

        In the body of conda packages, their names with version and build; in Spack's, with version and hash.
        """
        if body == conda.BODY:
            return {record.name: record.identity for record in self.conda()}
        if body == spack_lock.BODY:
            return {package.name: package.identity for package in self.spack().needed}
        found = {str(package.name): str(package.version) for package in self._parsed(body).packages}
        if body == MAIN:
            for name in self.sources:
                if not self.request["sources"][name].get("sdist"):
                    found |= self.packages(source_body(name))
            found |= conda.brought(self.conda())
            found |= {one.name[3:]: one.version for one in self.spack().needed if one.name.startswith("py-")}
        return found

    def conda(self) -> tuple[conda.Record, ...]:
        """The conda packages of the environment."""
        text = self.bodies.get(conda.BODY)
        return conda.records(text, conda.BODY) if text is not None else ()

    def spack(self) -> Solved:
        """What Spack concretized; nothing where it brings nothing."""
        text = self.bodies.get(spack_lock.BODY)
        return spack_lock.parse(text, spack_lock.BODY) if text is not None else Solved(needed=(), count=0)

    def artefacts(self, body: str = MAIN) -> tuple[Artefact, ...]:
        """Every file that a body names."""
        if body == conda.BODY:
            return tuple(
                Artefact(package=one.name, version=one.identity, file=one.file, url=one.url, sha256=one.sha256)
                for one in self.conda()
            )
        if body == spack_lock.BODY:  # Spack fetches its own sources, by the sums in its packages
            return ()
        return tuple(artefact for package in self._parsed(body).packages for artefact in _files(package))

    def _parsed(self, body: str) -> Pylock:
        return parse_body(self.bodies[body], body)

    def _hashes(self) -> dict[str, str]:
        return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(self.bodies.items())}


def from_envelope(envelope: Mapping[str, Any], bodies: Mapping[str, str], file: str) -> Lock:
    """The lock of an envelope and its bodies.

    Raises `InputError` when it is of another kind or a newer schema, when a body is missing or was edited, or when an
    artefact has no hash.
    """
    _refuse_strange(envelope, file)
    try:
        lock = Lock(
            request=_mapping(envelope, "request"),
            site=str(envelope["site"]),
            partition=str(envelope["partition"]),
            created_by=_mapping(envelope, "created_by"),
            options=_mapping(envelope, "options"),
            bodies=dict(bodies),
        )
        _refuse_incomplete(lock.request)
        recorded = _mapping(envelope, "bodies")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: not a whole lock: {error}", hint="write it anew with `envbuilder lock`") from error
    actual = {name: f"sha256:{mark}" for name, mark in lock._hashes().items()}  # noqa: SLF001 - its own constructor
    for name in sorted(set(recorded) | set(actual)):
        if recorded.get(name) != actual.get(name):
            what = "is missing" if name not in actual else "was edited after it was locked"
            raise InputError(f"{file}: {name} {what}", hint=f"write the lock anew: envbuilder lock {lock.recipe}")
    for name in sorted({*actual, *_wanted(lock)}):
        if name not in actual:
            raise InputError(f"{file}: {name} is missing", hint=f"write the lock anew: envbuilder lock {lock.recipe}")
        _refuse_unhashed(lock, name, file)
    _refuse_sourceless(lock, file)
    _refuse_two_owners(lock, file)
    return lock


def document(text: str, file: str) -> dict[str, Any]:
    """The TOML document of a body, not yet judged; raises `InputError`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not TOML: {error}", hint="write it anew with `envbuilder lock`") from error


@functools.lru_cache(maxsize=64)
def parse_body(text: str, file: str) -> Pylock:
    """A PEP 751 lock file; raises `InputError`."""
    from packaging.pylock import Pylock, PylockValidationError

    try:
        return Pylock.from_dict(document(text, file))
    except PylockValidationError as error:
        raise InputError(
            f"{file}: not a lock file (PEP 751): {error}", hint="write it anew with `envbuilder lock`"
        ) from error


def stale(lock: Lock, request: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between the request that a lock answers and the request of today; empty when it is fresh."""
    return tuple(_differences(dict(lock.request), dict(request), ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and _tables(old) and _tables(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{path}[{number}]")
    elif old != new:
        yield f"{path}: {_shown(old)} -> {_shown(new)}"


def _tables(value: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    return "nothing" if value is None else _short(value)


def _short(value: Any) -> str:
    """A text as one line: a patch is too long to show."""
    text = str(value)
    return text if len(text) <= _SHOWN and "\n" not in text else f"{text[:_SHOWN]!r}..."


def _files(package: Package) -> Iterator[Artefact]:
    for file in (*(package.wheels or ()), *((package.sdist,) if package.sdist else ())):
        url = file.url or file.path or ""
        yield Artefact(
            package=str(package.name),
            version=str(package.version),
            file=file.name or unquote(urlsplit(url).path.rpartition("/")[2]),
            url=url,
            sha256=str((file.hashes or {}).get("sha256", "")),
        )
    yield from _told(package)


def _told(package: Package) -> Iterator[Artefact]:
    """The source that a recipe names itself: an archive, or a commit as the archive that we make of it."""
    stem = f"{package.name}-{package.version}"
    if package.archive is not None and package.archive.url:
        url, mark = package.archive.url, str((package.archive.hashes or {}).get("sha256", ""))
        ending = re.search(r"\.(zip|tgz|tar(\.[a-z0-9]+)?)$", urlsplit(url).path)
        file = f"{stem}{ending.group() if ending else '.archive'}"
        yield Artefact(package=str(package.name), version=str(package.version), file=file, url=url, sha256=mark)
    if package.vcs is not None and package.vcs.url:
        ours = (package.tool or {}).get("envbuilder", {})
        mark = str(ours.get("sha256", "")) if isinstance(ours, dict) else ""
        yield Artefact(
            package=str(package.name),
            version=str(package.version),
            file=f"{stem}-{package.vcs.commit_id[:12]}.tar",
            url=f"git+{package.vcs.url}@{package.vcs.commit_id}",
            sha256=mark,
        )


def _refuse_strange(envelope: Mapping[str, Any], file: str) -> None:
    if envelope.get("kind") != KIND:
        raise InputError(f"{file}: not an envbuilder lock", hint="write one with `envbuilder lock RECIPE -o DIR`")
    schema = envelope.get("schema")
    if schema != SCHEMA:
        hint = (
            "python -m pip install --upgrade envbuilder"
            if isinstance(schema, int) and schema > SCHEMA
            else ("write it anew with `envbuilder lock`")
        )
        raise InputError(f"{file}: lock schema {schema!r} is not the {SCHEMA} that this envbuilder reads", hint=hint)


def _refuse_incomplete(request: Mapping[str, Any]) -> None:
    expected: dict[str, type] = {
        "recipe": str, "version": str, "features": list, "imports": list, "requirements": list, "indexes": list,
        "sources": dict, "settings": list, "target": dict,
    }  # fmt: skip
    for key, kind in expected.items():
        if not isinstance(request.get(key), kind):
            raise TypeError(f"request.{key} is missing or of the wrong kind")
    for name, source in request["sources"].items():
        if not isinstance(source, dict) or not all(isinstance(source.get(key, ""), str) for key in ("sdist", "name")):
            raise TypeError(f"request.sources.{name} is of the wrong kind")
        if not (source.get("sdist") or source.get("name")):
            raise TypeError(f"request.sources.{name} does not say what it is")


def _mapping(envelope: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = envelope[key]
    if not isinstance(value, dict):
        raise TypeError(f"{key} is not a mapping")
    return value


def _refuse_unhashed(lock: Lock, body: str, file: str) -> None:
    if body == conda.BODY:
        for artefact in lock.artefacts(body):
            _refuse_artefact(artefact, body, file)
        return
    if body == spack_lock.BODY:
        lock.spack()
        return
    for package in parse_body(lock.bodies[body], f"{file}: {body}").packages:
        files = tuple(_files(package))
        if not files or ((package.vcs or package.archive) and not body.startswith(_SOURCE)):
            raise InputError(f"{file}: {body}: {package.name} names no file", hint="write the lock anew")
        if package.version is None:
            raise InputError(f"{file}: {body}: {package.name} has no version", hint="write the lock anew")
        for artefact in files:
            _refuse_artefact(artefact, body, file)


def _refuse_artefact(artefact: Artefact, body: str, file: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", artefact.sha256):
        raise InputError(f"{file}: {body}: {artefact.file} has no sha256", hint="write the lock anew")
    if controls(artefact.url) or ("://" in artefact.url and " " in artefact.url):
        raise InputError(f"{file}: {body}: {artefact.url!r} is not an address", hint="write the lock anew")


def _refuse_two_owners(lock: Lock, file: str) -> None:
    """What conda brings is not brought by anything else."""
    others = {str(package.name) for package in parse_body(lock.bodies[MAIN], MAIN).packages}
    both = sorted(others & set(conda.brought(lock.conda())))
    if both:
        raise InputError(f"{file}: {both[0]} is in {conda.BODY} and in {MAIN}", hint="write the lock anew")


def _wanted(lock: Lock) -> Iterator[str]:
    """The bodies that a whole lock has."""
    yield MAIN
    if lock.request.get("conda"):
        yield conda.BODY
    if lock.request.get("spack"):
        yield spack_lock.BODY
    for name in lock.sources:
        yield from (source_body(name), build_body(name))


def _refuse_sourceless(lock: Lock, file: str) -> None:
    """What is compiled here has one source, and a place in the environment."""
    for name in lock.sources:
        artefacts = lock.artefacts(source_body(name))
        if len(artefacts) != 1 or artefacts[0].is_wheel or artefacts[0].package not in lock.packages():
            raise InputError(
                f"{file}: {source_body(name)} does not hold the one source of {name}", hint="write the lock anew"
            )
