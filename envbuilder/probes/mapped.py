"""What this process has mapped, and which library a symbol comes from."""

import ctypes
import hashlib
import os
import re

from . import elf

# the library itself under its names, its companions (GPU transport, C++ and Fortran), and Open MPI's ground floor
MPI_NAMES = re.compile(r"^lib(mpi|open-rte|open-pal)[^/]*\.so")


class _Place(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def files():
    """Every file that this process has mapped: path to inode."""
    found = {}
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as source:
        for line in source:
            fields = line.rstrip("\n").split(None, 5)
            if len(fields) == 6 and fields[5].startswith("/"):
                found[fields[5]] = int(fields[4])
    return found


def shared_objects():
    """The mapped files that are shared objects, by their names."""
    return {path for path in files() if ".so" in os.path.basename(path)}


def owner(path, symbol):
    """The file whose `symbol` the object at `path` (already loaded) binds; "" where there is none."""
    try:
        handle = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        address = ctypes.cast(getattr(handle, symbol), ctypes.c_void_p)
    except (OSError, AttributeError):
        return ""
    place = _Place()
    if not ctypes.CDLL(None).dladdr(address, ctypes.byref(place)) or not place.file:
        return ""
    return os.path.realpath(os.fsdecode(place.file))


def mpi_libraries():
    """Each mapped object that is named like a part of an MPI, with its identity and whether it implements MPI."""
    found = []
    for path, inode in sorted(files().items()):
        if MPI_NAMES.match(os.path.basename(path)):
            found.append(_described(path, inode))
    return found


def _described(path, inode):
    real = os.path.realpath(path)
    fact = {"path": path, "realpath": real, "inode": inode, "sha256": "", "soname": "", "build_id": ""}
    fact["implements"] = owner(path, "PMPI_Init_thread") == real
    try:
        fact["sha256"] = _digest(real)
        fact.update(elf.identity(real))
    except (OSError, ValueError) as error:
        fact["error"] = str(error)
    return fact


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
