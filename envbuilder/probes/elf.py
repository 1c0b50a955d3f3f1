"""DT_SONAME, DT_NEEDED and GNU build-id of a 64-bit little-endian ELF file, read by hand."""

import mmap
import struct

PT_LOAD, PT_DYNAMIC, PT_NOTE = 1, 2, 4
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME = 0, 1, 5, 14
NT_GNU_BUILD_ID = 3


def identity(path):
    """`soname` and `build_id` (hex) of the file; "" where it has none. Raises ValueError for other kinds of file."""
    data, segments = _read(path)
    return {"soname": (_strings(data, segments, DT_SONAME) or [""])[0], "build_id": _build_id(data, segments)}


def needed(path):
    """The sonames of the libraries that the file needs, in its order. Raises ValueError for other kinds of file."""
    data, segments = _read(path)
    return _strings(data, segments, DT_NEEDED)


def _read(path):
    """The file, mapped and not read: a framework's library has hundreds of megabytes, and a node many ranks."""
    with open(path, "rb") as source:
        data = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file: " + path)
    return data, list(_segments(data))


def _segments(data):
    """Kind, file offset, virtual address and size in the file of each program header."""
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, start + number * size)
        yield kind, offset, address, length


def _strings(data, segments, wanted):
    """The texts of one tag of the dynamic section."""
    entries: list[tuple[int, int]] = []
    for kind, offset, _, length in segments:
        if kind == PT_DYNAMIC:
            entries = list(struct.iter_unpack("<qQ", data[offset : offset + length - length % 16]))
    tags = [tag for tag, _ in entries]
    if DT_NULL in tags:
        del entries[tags.index(DT_NULL) :]
    table = next((value for tag, value in entries if tag == DT_STRTAB), None)
    for kind, offset, address, length in segments:
        if table is not None and kind == PT_LOAD and address <= table < address + length:
            starts = [table - address + offset + value for tag, value in entries if tag == wanted]
            return [data[start : data.find(b"\0", start)].decode("utf-8", "replace") for start in starts]
    return []


def _build_id(data, segments):
    for kind, offset, _, length in segments:
        if kind != PT_NOTE:
            continue
        at, end = offset, offset + length
        while at + 12 <= end:
            owner, size, what = struct.unpack_from("<III", data, at)
            name = at + 12
            content = name + (owner + 3) // 4 * 4
            if what == NT_GNU_BUILD_ID and data[name : name + owner] == b"GNU\0":
                return data[content : content + size].hex()
            at = content + (size + 3) // 4 * 4
    return ""
