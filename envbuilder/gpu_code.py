"""For which GPUs an ELF file carries device code: AMD's and NVIDIA's; Intel's is out of scope and looks like none.

AMD: the section `.hip_fatbin` holds clang offload bundles, one per translation unit, each at a multiple of 4096 bytes: magic,
u64 count, then per entry u64 offset, u64 size, u64 length of the id, the id (clang.llvm.org/docs/ClangOffloadBundler.html).
Compressed ones begin with `CCOB`; version 1 knows only its uncompressed size, 2 and 3 also their own, in u32 and u64
(`RawCompressedBundleHeader` in LLVM's OffloadBundle.cpp). Files split by TheRock have `.rocm_kpack_ref` instead.

NVIDIA: `.nv_fatbin`, and `__nv_relfatbin` of relocatable device code, hold containers of entries with a kind and an arch.
NVIDIA documents no layout; the one read here was seen in what nvcc 13.0 writes and in NVIDIA's own libraries of CUDA 12. cuFFT
has most of its containers in `.ldata`, so that is searched too in a file with device code.

A search for `gfx[0-9a-f]+` in the whole file does not answer the question: a library that contains LLVM names every
processor that LLVM knows. What this cannot see either: code objects in files of their own (rocBLAS's `library` folder) and
code that is compiled when it is first run.

Files are strangers': every size is checked before it is believed, work and memory are bounded, and what cannot be understood
is `unreadable`, never an exception. Headers are read with plain reads, since a mapped file that shrinks kills the process.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

# `read` of a part: offset, length -> the bytes there, fewer where it ends earlier
Read = Callable[[int, int], bytes]

_ELF = re.compile(rb"\x7fELF\x02\x01")  # 64 bits, little endian: every host of these GPUs
_HIP, _KPACK = b".hip_fatbin", b".rocm_kpack_ref"
_NVIDIA = (b".nv_fatbin", b"__nv_relfatbin")
_LARGE = (b".ldata", b".lrodata")  # where compilers put data that may be further away than 2 GiB
_NOBITS = 8

_BUNDLE, _COMPRESSED = b"__CLANG_OFFLOAD_BUNDLE__", b"CCOB"
_ALIGNED = 4096
_FATBIN = 0xBA55ED50
_PTX, _CUBIN, _LTO = 1, 2, 8
_SPECIFIC, _FAMILY = 0x100000, 0x200000  # flags of entries made for sm_90a and for sm_100f

_MANY = 1 << 17  # sections, bundles or entries: a real library has some thousands at most
_TOO_MANY = f"it has more than {_MANY} bundles and entries"
_STRINGS = 1 << 24  # bytes of section names
_LONG = 256  # bytes of an id
_PACKED, _PREFIX = 1 << 18, 1 << 16  # bytes of a compressed bundle, packed and unpacked: its header is at the start
_DEAR = 16  # how many plain bundles a compressed one counts for
_CHUNK = 1 << 13
_BLOCK = 1 << 16
_STUB = 4096  # bytes; see _is_stub

_AMD_ID = re.compile(r"-(gfx\d+(?:-\d+)?-generic|gfx[0-9a-f]+|amdgcnspirv)(?:[:+][\w:+-]*)?")
_NVIDIA_TARGET = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")

# llvm.org/docs/AMDGPUUsage.html, table "AMDGPU Generic Processors", read on 2025-11-21
_GENERIC: dict[str, frozenset[str]] = {
    name: frozenset(f"gfx{one}" for one in processors.split())
    for name, processors in {
        "gfx9-generic": "900 902 904 906 909 90c",
        "gfx9-4-generic": "942 950",
        "gfx10-1-generic": "1010 1011 1012 1013",
        "gfx10-3-generic": "1030 1031 1032 1033 1034 1035 1036",
        "gfx11-generic": "1100 1101 1102 1103 1150 1151 1152 1153",
        "gfx12-generic": "1200 1201",
    }.items()
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuCode:
    """The device code of one file.

    `vendor` is `amd` or `nvidia`; `targets` are sorted names without features: `gfx90a`, `sm_90` (machine code), `sm_90a`,
    `compute_90` (PTX). `raw` are the entries' own ids, sorted, without repetition; host entries are among them. A target
    is listed if any part of the file has it. Where `unreadable` says why something was not understood, `targets` may lack
    some.
    """

    vendor: str
    targets: tuple[str, ...]
    raw: tuple[str, ...]
    unreadable: str


class _UnreadableError(Exception):
    """What a part holds cannot be understood; the message says why."""


@dataclass(slots=True)
class _Found:
    """What was gathered so far, and how many more bundles and entries will be looked at."""

    targets: set[str] = field(default_factory=set)
    raw: set[str] = field(default_factory=set)
    left: int = _MANY

    def count(self, cost: int = 1) -> None:
        self.left -= cost
        if self.left < 0:
            raise _UnreadableError(_TOO_MANY)


@dataclass(frozen=True, slots=True)
class _Section:
    """A stretch of a file: where it begins and how many bytes it has."""

    source: BinaryIO
    start: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        return os.pread(self.source.fileno(), length, self.start + offset) if length > 0 else b""

    def data(self, offset: int) -> int:
        """The first offset from here on whose byte is not zero, or the size: what lies between parts is zeros."""
        while offset < self.size:
            chunk = self.read(offset, _CHUNK)
            if rest := len(chunk.lstrip(b"\0")):
                return offset + len(chunk) - rest
            if not chunk:
                raise _UnreadableError("the file ends inside of it")
            offset += len(chunk)
        return self.size


def read(path: Path) -> GpuCode | None:
    """The device code of a file, or None for one without such a section (any other file included). Raises OSError."""
    with open(path, "rb") as source:
        size = os.fstat(source.fileno()).st_size
        parts: dict[bytes, list[_Section]] = {}
        for name, part in _sections(source, size):
            parts.setdefault(name, []).append(part)
        if _KPACK in parts:
            why = "its device code lies in a kpack archive beside it, which is not read"
            return GpuCode(vendor="amd", targets=(), raw=(), unreadable=why)
        if _HIP in parts:
            return _gathered("amd", parts, size)
        if any(name in parts for name in _NVIDIA):
            return _gathered("nvidia", parts, size)
        return None


def runs_on(code: GpuCode, arch: str) -> bool:
    """Whether some target of this code runs on a GPU, named like `gfx90a` or `sm_90`; features such as xnack are not asked."""
    return covers(code.targets, arch)


def covers(targets: Iterable[str], arch: str) -> bool:
    """Whether one of these targets runs on the GPU `arch` (`gfx90a`, `sm_90`).

    AMD: the same processor, or a generic one that supports it; `amdgcnspirv`, which newer ROCm compiles at load, does not
    count. NVIDIA (CUDA programming guide, "Binary Compatibility" and "PTX Compatibility"): machine code for the same major
    version and no higher minor; PTX for no higher version; with the suffix `a` the same version alone, with `f` the same
    major version and no higher minor.
    """
    base = arch.split(":", maxsplit=1)[0]
    device = _NVIDIA_TARGET.fullmatch(base)
    if device is None:
        return any(target == base or base in _GENERIC.get(target, ()) for target in targets)
    return any(_nvidia_covers(match, device) for target in targets if (match := _NVIDIA_TARGET.fullmatch(target)))


def _nvidia_covers(code: re.Match[str], device: re.Match[str]) -> bool:
    kind, suffix = code[1], code[4]
    major, minor = int(code[2]), int(code[3])
    version = (int(device[2]), int(device[3]))
    if suffix == "a":
        return version == (major, minor)
    if kind == "compute" and not suffix:
        return version >= (major, minor)
    return version[0] == major and version[1] >= minor


def _sections(source: BinaryIO, size: int) -> Iterator[tuple[bytes, _Section]]:
    """The sections that may hold device code; nothing for a file that is no whole ELF file."""
    whole = _Section(source, 0, size)
    header = whole.read(0, 64)
    if len(header) < 64 or not _ELF.match(header):
        return
    (table,) = struct.unpack_from("<Q", header, 40)
    entry, count, names = struct.unpack_from("<HHH", header, 58)
    first = whole.read(table, 64)
    if not table or entry != 64 or len(first) < 64:
        return
    # more than 65279 sections: the real numbers stand in the first section header (man 5 elf)
    count = count or struct.unpack_from("<Q", first, 32)[0]
    names = struct.unpack_from("<I", first, 40)[0] if names == 0xFFFF else names
    headers = whole.read(table, 64 * min(count, _MANY))
    headers = headers[: len(headers) // 64 * 64]
    if names * 64 >= len(headers):
        return
    start, length = struct.unpack_from("<QQ", headers, names * 64 + 24)
    text = whole.read(start, min(length, _STRINGS))
    for label, kind, _, _, start, length, *_ in struct.iter_unpack("<IIQQQQIIQQ", headers):
        name = text[label : label + 16].split(b"\0")[0]
        if name in (_HIP, _KPACK, *_NVIDIA, *_LARGE) and kind != _NOBITS:
            yield name, _Section(source, start, length)


def _gathered(vendor: str, parts: Mapping[bytes, list[_Section]], size: int) -> GpuCode:
    """What the sections of one vendor hold; `size` is the file's, in bytes."""
    parsers = dict.fromkeys(_NVIDIA, _containers) | dict.fromkeys(_LARGE, _scattered)
    chosen = parsers if vendor == "nvidia" else {_HIP: _bundles}
    found, whys = _Found(), []
    for name, parse in chosen.items():
        for part in parts.get(name, ()):
            if part.start + part.size > size:
                whys.append("the file ends before its device code does")
                continue
            try:
                parse(part, found)
            except _UnreadableError as error:
                whys.append(str(error))
    if not found.raw and not whys and any(part.size for name in chosen for part in parts.get(name, ())):
        whys.append("nothing in it is known to be device code")
    unreadable = next(iter(whys), "")
    return GpuCode(
        vendor=vendor, targets=tuple(sorted(found.targets)), raw=tuple(sorted(found.raw)), unreadable=unreadable
    )


def _bundles(part: _Section, found: _Found) -> None:
    """Every bundle of a `.hip_fatbin`; one that is unreadable does not hide those behind it, where its size is known."""
    at, why = part.data(0), ""
    while at < part.size:
        found.count()
        start = part.read(at, len(_BUNDLE))
        if start == _BUNDLE:
            end = at + _entries(_shifted(part, at), part.size - at, found)
        elif start.startswith(_COMPRESSED):
            size, problem = _compressed(_shifted(part, at), part.size - at, found)
            why = why or problem
            end = at + size if size else _next_aligned(part, at, found)
        else:
            raise _UnreadableError(f"no offload bundle at byte {at} of its device code")
        at = part.data(end)
    if why:
        raise _UnreadableError(why)


def _shifted(part: _Section, by: int) -> Read:
    return lambda offset, length: part.read(by + offset, length)


def _entries(look: Read, limit: int, found: _Found) -> int:
    """The entries of one bundle of at most `limit` bytes; returns where the last code object ends, in bytes from the start."""
    (count,) = _numbers("<Q", look(len(_BUNDLE), 8))
    at = end = len(_BUNDLE) + 8
    for _ in range(count):
        found.count()
        offset, size, length = _numbers("<QQQ", look(at, 24))
        name = look(at + 24, min(length, _LONG))
        at += 24 + length
        if length > _LONG or len(name) < length or offset + size > limit:
            raise _UnreadableError("an offload bundle names more than there is")
        end = max(end, at, offset + size)
        _note(name.decode("ascii", "replace"), size, found)
    return end


def _note(name: str, size: int, found: _Found) -> None:
    """Keep an entry's id, and its target if there is any code."""
    found.raw.add(name)
    if name.startswith("host") or not size:
        return
    match = _AMD_ID.search(name)
    if match is None or match.end() != len(name):
        raise _UnreadableError(f"the target of the offload bundle entry {name[:80]!r} is not known")
    found.targets.add(match[1])


def _compressed(look: Read, limit: int, found: _Found) -> tuple[int, str]:
    """The entries of a compressed bundle; its size in bytes (0 where the header has none), and why it is unreadable or ""."""
    found.count(_DEAR)
    version, method = _numbers("<HH", look(4, 4))
    if version == 1:
        size, (unpacked,), header = 0, _numbers("<I", look(8, 4)), 20
    elif version == 2:
        (size, unpacked), header = _numbers("<II", look(8, 8)), 24
    elif version == 3:
        (size, unpacked), header = _numbers("<QQ", look(8, 16)), 32
    else:
        raise _UnreadableError(f"a compressed offload bundle has the unknown version {version}")
    if size > limit or 0 < size < header:
        raise _UnreadableError("a compressed offload bundle is cut off")
    try:
        content = _unpacked(method, look(header, min((size or limit) - header, _PACKED)))
        if not content.startswith(_BUNDLE):
            raise _UnreadableError("a compressed offload bundle holds no offload bundle")  # noqa: TRY301 - beside its peers
        _entries(lambda offset, length: content[offset : offset + length], unpacked, found)
    except _UnreadableError as error:
        return size, str(error)
    return size, ""


def _unpacked(method: int, packed: bytes) -> bytes:
    """The start of what was packed, at most `_PREFIX` bytes; `method` is a value of llvm::compression::Format."""
    if method == 0:
        try:
            return zlib.decompressobj().decompress(packed, _PREFIX)
        except zlib.error as error:
            raise _UnreadableError(f"a compressed offload bundle is damaged: {error}") from error
    if method != 1:
        raise _UnreadableError(f"a compressed offload bundle uses the unknown method {method}")
    for name in ("compression.zstd", "zstandard"):
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        try:
            if name == "zstandard":
                with module.ZstdDecompressor().stream_reader(io.BytesIO(packed)) as reader:
                    return bytes(reader.read(_PREFIX))
            return bytes(module.ZstdDecompressor().decompress(packed, _PREFIX))
        except (module.ZstdError, EOFError, ValueError) as error:
            raise _UnreadableError(f"a compressed offload bundle is damaged: {error}") from error
    raise _UnreadableError(
        "its device code is compressed with zstd: it takes Python 3.14 or the package zstandard to read"
    )


def _next_aligned(part: _Section, at: int, found: _Found) -> int:
    """Where the next bundle begins behind one that does not tell its size, or the end."""
    for offset in range((at // _ALIGNED + 1) * _ALIGNED, part.size, _ALIGNED):
        found.count()
        if part.read(offset, len(_BUNDLE)).startswith((_BUNDLE, _COMPRESSED)):
            return offset
    return part.size


def _containers(part: _Section, found: _Found) -> None:
    """Every container of a section of NVIDIA's, one per translation unit."""
    at, unknown = part.data(0), ""
    while at < part.size:
        size, strange = _container(part, at, found)
        unknown = unknown or strange
        at = part.data(at + size)
    if unknown:
        raise _UnreadableError(unknown)


def _container(part: _Section, at: int, found: _Found) -> tuple[int, str]:
    """The entries of one container: its size in bytes, and what is not known in it or ""."""
    found.count()
    magic, version, header, size = _numbers("<IHHQ", part.read(at, 16))
    whole, unknown = header + size, ""
    if magic != _FATBIN or version != 1 or header < 16 or at + whole > part.size:
        raise _UnreadableError(f"no fat binary at byte {at} of its device code")
    end, at = at + whole, at + header
    while at < end:
        found.count()
        entry = part.read(at, 64)
        kind, _, header, size, _, _, _, _, arch, _, _, flags, _, unpacked = _numbers("<HHIQIIHHIIIQQQ", entry)
        if header < 64 or at + header + size > end or not 10 <= arch < 1000:
            raise _UnreadableError("an entry of a fat binary names more than there is")
        suffix = "a" if flags & _SPECIFIC else "f" if flags & _FAMILY else ""
        known = {_PTX: f"compute_{arch}{suffix}", _CUBIN: f"sm_{arch}{suffix}", _LTO: f"lto_{arch}{suffix}"}
        found.raw.add(known.get(kind, f"kind {kind} arch {arch}{suffix}"))
        if kind == _PTX or (
            kind == _CUBIN and not _is_stub(part.read(at + header, min(size, _STUB)), arch, size, unpacked)
        ):
            found.targets.add(known[kind])
        elif kind not in known:
            unknown = f"an entry of a fat binary is of the unknown kind {kind}"
        at += header + size
    return whole, unknown


def _is_stub(code: bytes, arch: int, size: int, unpacked: int) -> bool:
    """Whether machine code has no kernel, as what nvcc's linker leaves in libraries without any; `unpacked` is 0 if plain.

    Packed code shows by its size alone: with nvcc 13.0, at most 1688 bytes without a kernel and at least 2688 with an
    empty one, from sm_100 on 2280 and 4952.
    """
    if unpacked:
        return unpacked <= (_STUB // 2 if arch < 100 else _STUB)
    return size <= _STUB and b".text." not in code


def _scattered(part: _Section, found: _Found) -> None:
    """Containers among other data, where cuFFT 11 has all but a stub of its 24000; what only looks like one is passed over."""
    magic, at = struct.pack("<IHH", _FATBIN, 1, 16), 0
    while at < part.size:
        chunk = part.read(at, _BLOCK + len(magic) - 1)
        if len(chunk) < len(magic):
            return
        hit = chunk.find(magic)
        if hit < 0:
            at += _BLOCK
            continue
        trial = _Found(left=found.left)
        try:
            at += hit + _container(part, at + hit, trial)[0]
            found.targets |= trial.targets
            found.raw |= trial.raw
        except _UnreadableError:
            at += hit + len(magic)
        found.left = trial.left
        if found.left < 0:
            raise _UnreadableError(_TOO_MANY)


def _numbers(shape: str, content: bytes) -> tuple[int, ...]:
    if len(content) < struct.calcsize(shape):
        raise _UnreadableError("its device code is cut off")
    return struct.unpack(shape, content)
