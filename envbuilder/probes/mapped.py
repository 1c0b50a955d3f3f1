"""What this process has mapped, and which library a symbol comes from."""

import ctypes
import hashlib
import os
import re

from . import elf

# the library itself under its names, its companions (GPU transport, C++ and Fortran), and Open MPI's ground floor
MPI_NAMES = re.compile(r"^lib(mpi|open-rte|open-pal)[^/]*\.so")
INSIDE = "PMPI_Init_thread"  # what implements MPI has it, also where it was linked statically


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
    """The file whose `symbol` a call from the object at `path` (already loaded) reaches; "" where there is none.

    The program itself, what was preloaded and what was opened for all come before the object's own libraries.
    """
    return _defined(None, symbol) or _defined(path, symbol)


def beneath(path, symbol):
    """The file that has `symbol` among what the object at `path` itself needs, whatever was preloaded; "" where none has."""
    return _defined(path, symbol)


def _defined(path, symbol):
    """The file that has `symbol` in the scope of the object at `path`, or of the whole program (None)."""
    try:
        handle = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD) if path else ctypes.CDLL(None)
        address = ctypes.cast(getattr(handle, symbol), ctypes.c_void_p)
    except (OSError, AttributeError):
        return ""
    place = _Place()
    if not ctypes.CDLL(None).dladdr(address, ctypes.byref(place)) or not place.file:
        return ""
    real = os.path.realpath(os.fsdecode(place.file))
    # the program goes by the name that it was started with, which may be no path
    return real if os.path.isfile(real) else os.path.realpath("/proc/self/exe")


def mpi_libraries():
    """Each mapped object that is named like a part of an MPI or has one inside, with its identity and whether it does.

    Where several do, `needed_by` names the objects that need each of them, of those that are mapped.
    """
    there, objects = sorted(files().items()), shared_objects()
    inside = {_defined(path, INSIDE) for path in (None, *objects)}
    found = [
        _described(path, inode, inside)
        for path, inode in there
        if MPI_NAMES.match(os.path.basename(path)) or os.path.realpath(path) in inside
    ]
    implementing = [fact for fact in found if fact["implements"]]
    if len(implementing) > 1:
        needs = {path: _needed(path) for path in sorted(objects)}
        for fact in implementing:
            wanted = (fact["soname"], os.path.basename(fact["path"]))
            fact["needed_by"] = [path for path, names in needs.items() if any(name in wanted for name in names)]
    return found


def _needed(path):
    try:
        return elf.needed(path)
    except (OSError, ValueError):
        return []


def _described(path, inode, inside):
    real = os.path.realpath(path)
    fact = {"path": path, "realpath": real, "inode": inode, "sha256": "", "soname": "", "build_id": ""}
    fact["implements"] = real in inside
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
