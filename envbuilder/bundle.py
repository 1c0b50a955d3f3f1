"""Bundles: a lock and every file that it takes, in one file that can be carried to where there is no network.

A plain tar: `bundle.json` (the manifest), `lock/` (the lock as it is on the disk), `artefacts/SHA256/FILE`. The manifest
decides what follows: every header is compared, byte by byte, with the one that we would have written for that name and size,
and every file with its sha256. So nothing of a stranger's tar is ever interpreted: no link, no path, no device, no extension.
The same lock gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from envbuilder import artefacts
from envbuilder import lock as lock_format
from envbuilder.console import Tick
from envbuilder.document import to_json
from envbuilder.errors import InputError
from envbuilder.lock import Artefact, Lock
from envbuilder.plan import SEALED_AT
from envbuilder.store import Store

KIND = "envbuilder-bundle"
SCHEMA = 1
MANIFEST = "bundle.json"
MAX_MANIFEST = 4_000_000
MAX_LOCK_FILE = 16_000_000
MAX_ARTEFACT = 8**11 - 1  # what a tar can say of a size without extensions: 8 GiB

_BLOCK = 512
_CHUNK = 1 << 20
_LOCK_FILE = re.compile(r"lock/(lock\.json|conda\.json|pylock(\.[A-Za-z0-9][A-Za-z0-9._-]{0,200})?\.toml)")
_ARTEFACT = re.compile(rf"artefacts/([0-9a-f]{{64}})/({artefacts.FILE.pattern})")
_AGAIN = "copy it again, or make it anew: envbuilder bundle RECIPE"
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a folder",
          b"6": "a pipe"}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file of a bundle: where it is in the tar, its sha256 and size."""

    name: str
    sha256: str
    size: int

    @property
    def limit(self) -> int:
        """How large it may be."""
        return MAX_LOCK_FILE if self.name.startswith("lock/") else MAX_ARTEFACT

    def artefact(self) -> Artefact | None:
        """The artefact that it is, or None for a file of the lock."""
        found = _ARTEFACT.fullmatch(self.name)
        return Artefact(package="", version="", file=found[2], url="", sha256=found[1]) if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle whose head was read: the lock, the members in their order, and where they begin."""

    path: Path
    lock: Lock
    members: tuple[Member, ...]
    start: int

    def artefacts(self) -> dict[tuple[str, str], Artefact]:
        """Name and sha256 of every artefact in it."""
        found = (member.artefact() for member in self.members)
        return {(one.file, one.sha256): one for one in found if one is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What was written: where, how large, its own sha256, and the members."""

    path: Path
    size: int
    sha256: str
    members: tuple[Member, ...]


def write(path: Path, lock: Lock, files: Mapping[Artefact, Path], tick: Tick) -> Written:
    """Write a bundle of a lock and these files, whole or not at all; raises `InputError` for one that changed meanwhile."""
    texts = {lock_format.ENVELOPE: to_json(lock.envelope()), **lock.bodies}
    inside = {f"lock/{name}": text.encode() for name, text in texts.items()}
    outside = {f"artefacts/{one.sha256}/{one.file}": (one, file) for one, file in files.items()}
    members = (
        *(_member(name, inside[name]) for name in sorted(inside)),
        *(
            Member(name=name, sha256=outside[name][0].sha256, size=outside[name][1].stat().st_size)
            for name in sorted(outside)
        ),
    )
    _refuse_strange_names(members, path)
    large = [member.name for member in members if member.size > member.limit]
    if large:
        raise InputError(f"{large[0]} is too large for a bundle", hint="carry it in a find-links folder")
    total = sum(member.size for member in members)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as raw:
            sink = _Sink(raw, lambda done: tick(f"{done // 10**6} of {total // 10**6} MB"))
            sink.member(MANIFEST, to_json(_manifest(lock, members)).encode())
            for member in members:
                if member.name in inside:
                    sink.member(member.name, inside[member.name])
                else:
                    sink.file(member, outside[member.name][1])
            sink.write(bytes(2 * _BLOCK))
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Written(path=path, size=sink.done, sha256=sink.state.hexdigest(), members=members)


def read(path: Path) -> Bundle:
    """What a bundle is: its manifest and its lock, both whole, and every header; what is in the artefacts comes later.

    Raises `InputError` for what is no bundle, of a newer schema, too short or too long, or holds no whole lock.
    """
    with _opened(path) as source:
        manifest = _read_manifest(source, path)
        start = source.tell()
        members = _members(manifest, path)
        _refuse_wrong_length(path, start, members, os.fstat(source.fileno()).st_size)
        texts: dict[str, bytes] = {}
        for member, content in _walk(source, path, members):
            if member.name.startswith("lock/"):
                texts[member.name.removeprefix("lock/")] = _checked(content, member, path)
        lock = _lock(texts, path)
    said = {key: manifest.get(key) for key in _about(lock)}
    if said != _about(lock):
        raise _damaged(path, "its manifest is not about the lock in it")
    return Bundle(path=path, lock=lock, members=members, start=start)


def verify(bundle: Bundle, tick: Tick) -> None:
    """Compare every header and every byte with the manifest; raises `InputError`. Nothing is written."""
    total = sum(member.size for member in bundle.members)
    done = 0
    with _opened(bundle.path) as source:
        source.seek(bundle.start)
        for member, content in _walk(source, bundle.path, bundle.members):
            state = hashlib.sha256()
            for block in content:
                state.update(block)
                done += len(block)
                tick(f"{done // 10**6} of {total // 10**6} MB")
            if state.hexdigest() != member.sha256:
                raise _damaged(bundle.path, f"{member.name} is not the one that the manifest names")
        if source.read(2 * _BLOCK + 1) != bytes(2 * _BLOCK):
            raise _damaged(bundle.path, "it does not end as a bundle does")


def unpack(bundle: Bundle, place: Store, waiting: Callable[[str], None], tick: Tick) -> Path:
    """Put the artefacts of a verified bundle into the store, and return the folder in which they are."""
    with _opened(bundle.path) as source:
        source.seek(bundle.start)
        for member, content in _walk(source, bundle.path, bundle.members):
            artefact = member.artefact()
            if artefact is not None:
                tick(artefact.file)
                artefacts.keep(place, artefact, lambda sink, blocks=content: sink.writelines(blocks), waiting)  # type: ignore[misc]
    return artefacts.folder(place.root)


class _Sink:
    """Writes members, and knows what it wrote."""

    def __init__(self, raw: BinaryIO, progress: Callable[[int], None]) -> None:
        self.done = 0
        self.state = hashlib.sha256()
        self._raw = raw
        self._progress = progress

    def write(self, block: bytes) -> None:
        self._raw.write(block)
        self.state.update(block)
        self.done += len(block)
        self._progress(self.done)

    def member(self, name: str, content: bytes) -> None:
        self.write(_header(name, len(content)) + content + bytes(-len(content) % _BLOCK))

    def file(self, member: Member, path: Path) -> None:
        self.write(_header(member.name, member.size))
        state = hashlib.sha256()
        with open(path, "rb") as source:
            while block := source.read(_CHUNK):
                state.update(block)
                self.write(block)
        if state.hexdigest() != member.sha256:
            raise InputError(f"{path} was changed while it was bundled", hint="run the same command again")
        self.write(bytes(-member.size % _BLOCK))


def _header(name: str, size: int) -> bytes:
    """How a member begins: a plain file, readable by all, of nobody, of a fixed time."""
    import tarfile

    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o644, SEALED_AT
    return entry.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _member(name: str, content: bytes) -> Member:
    return Member(name=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _about(lock: Lock) -> dict[str, Any]:
    """What a manifest says of the lock in it."""
    return {
        "recipe": lock.recipe,
        "version": lock.version,
        "lock": lock.digest,
        "site": lock.site,
        "partition": lock.partition,
        "target": dict(lock.request["target"]),
    }


def _manifest(lock: Lock, members: tuple[Member, ...]) -> dict[str, Any]:
    return {"kind": KIND, "schema": SCHEMA, **_about(lock), "files": [asdict(member) for member in members]}


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot read this bundle: {getattr(error, 'strerror', error)}", hint=_AGAIN
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is no bundle: not a file", hint="make one: envbuilder bundle RECIPE")
    with open(descriptor, "rb") as source:
        yield source


def _read_manifest(source: BinaryIO, path: Path) -> dict[str, Any]:
    head = source.read(_BLOCK)
    size = re.fullmatch(rb"([0-7]{11})\0", head[124:136])
    if not size or head != _header(MANIFEST, int(size[1], 8)):
        raise InputError(f"{path} is no bundle", hint="make one: envbuilder bundle RECIPE")
    wanted = int(size[1], 8)
    if wanted > MAX_MANIFEST:
        raise _damaged(path, f"a manifest of {wanted} bytes is too long")
    text = source.read(wanted)
    if len(text) < wanted or any(source.read(-wanted % _BLOCK)):
        raise _damaged(path, "it ends within its manifest" if len(text) < wanted else "its manifest has a strange end")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its manifest is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise InputError(f"{path} is no bundle of envbuilder", hint="make one: envbuilder bundle RECIPE")
    schema = manifest.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        newer = isinstance(schema, int) and schema > SCHEMA
        raise InputError(
            f"{path}: bundle schema {ascii(schema)[:40]} is not the {SCHEMA} that this envbuilder reads",
            hint="python -m pip install --upgrade envbuilder" if newer else _AGAIN,
        )
    return manifest


def _members(manifest: Mapping[str, Any], path: Path) -> tuple[Member, ...]:
    """The members that a manifest names; raises `InputError` for one that we would not have written."""
    entries = manifest.get("files")
    if not isinstance(entries, list):
        raise _damaged(path, "its manifest lists no files")
    members = tuple(_listed(entry, path) for entry in entries)
    _refuse_strange_names(members, path)
    keys = [(not member.name.startswith("lock/"), member.name) for member in members]
    if keys != sorted(set(keys)):
        raise _damaged(path, "its manifest is out of order, or names a file twice")
    return members


def _listed(entry: Any, path: Path) -> Member:
    shapes = {"name": str, "sha256": str, "size": int}
    if not isinstance(entry, dict) or {key: type(value) for key, value in entry.items()} != shapes:
        raise _damaged(path, f"its manifest has an entry that names no file: {ascii(entry)[:80]}")
    member = Member(**entry)
    if not re.fullmatch(r"[0-9a-f]{64}", member.sha256):
        raise _damaged(path, f"{ascii(member.name)[:200]} has no sha256")
    if not 0 <= member.size <= member.limit:
        raise _damaged(path, f"{ascii(member.name)[:200]} cannot have {ascii(member.size)[:40]} bytes")
    return member


def _refuse_strange_names(members: tuple[Member, ...], path: Path) -> None:
    for member in members:
        artefact = member.artefact()
        if artefact is None and not _LOCK_FILE.fullmatch(member.name):
            raise _damaged(path, f"its manifest names {ascii(member.name)[:200]}, which no bundle holds")
        if artefact is not None and artefact.sha256 != member.sha256:
            raise _damaged(path, f"{member.name} does not stand below its own sha256")


def _refuse_wrong_length(path: Path, start: int, members: tuple[Member, ...], actual: int) -> None:
    wanted = start + 2 * _BLOCK
    wanted += sum(len(_header(one.name, one.size)) + one.size + -one.size % _BLOCK for one in members)
    if actual < wanted:
        raise _damaged(path, f"it is cut off: {actual} of {wanted} bytes are there")
    if actual > wanted:
        raise _damaged(path, f"it has {actual - wanted} bytes more than its manifest says")


def _walk(source: BinaryIO, path: Path, members: tuple[Member, ...]) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Every member with its content, in order; each header must be the one that we would have written."""
    for member in members:
        wanted = _header(member.name, member.size)
        actual = source.read(len(wanted))
        if actual != wanted:
            raise _damaged(path, f"where its manifest names {member.name} stands {_described(actual)}")
        end = source.tell() + member.size
        yield member, _blocks(source, member.size)
        source.seek(end)
        if any(source.read(-member.size % _BLOCK)):
            raise _damaged(path, f"{member.name} is followed by strange bytes")


def _blocks(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (block := source.read(min(size, _CHUNK))):
        size -= len(block)
        yield block


def _described(header: bytes) -> str:
    """What a header that is not ours says of itself."""
    name = ascii(header[:100].rstrip(b"\0").decode("latin-1"))[:120]
    return f"{_KINDS.get(header[156:157], 'something else')} ({name})"


def _checked(content: Iterator[bytes], member: Member, path: Path) -> bytes:
    text = b"".join(content)
    if hashlib.sha256(text).hexdigest() != member.sha256:
        raise _damaged(path, f"{member.name} is not the one that the manifest names")
    return text


def _lock(texts: Mapping[str, bytes], path: Path) -> Lock:
    if lock_format.ENVELOPE not in texts:
        raise _damaged(path, "it holds no lock")
    try:
        decoded = {name: text.decode() for name, text in texts.items()}
        envelope = json.loads(decoded.pop(lock_format.ENVELOPE))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its lock cannot be read: {error}") from error
    if not isinstance(envelope, dict):
        raise _damaged(path, "its lock is not a JSON object")
    return lock_format.from_envelope(envelope, decoded, f"{path}: {lock_format.ENVELOPE}")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: the bundle is damaged: {what}", hint=_AGAIN)
