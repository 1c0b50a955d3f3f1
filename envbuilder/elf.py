"""What an ELF file says of itself, read from its dynamic section alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"\x7fELF"


@dataclass(frozen=True, kw_only=True, slots=True)
class ElfFacts:
    """An ELF object: machine (`EM_X86_64`), 32 or 64 bits, DT_SONAME ("" if none), DT_NEEDED, search paths, build-id in hex.

    `rpath` and `runpath` are as written, `$ORIGIN` unexpanded.
    """

    machine: str
    bits: int
    soname: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    build_id: str


def is_elf(path: Path) -> bool:
    """Whether a file begins as an ELF object does."""
    try:
        with open(path, "rb") as source:
            return source.read(4) == MAGIC
    except OSError:
        return False


def read(path: Path) -> ElfFacts | None:
    """The facts of an ELF file, or None for anything else, damaged ELF files included. Raises OSError."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as source:
        if source.read(4) != MAGIC:
            return None
        source.seek(0)
        try:
            return _facts(ELFFile(source))
        except (ELFError, ConstructError, ValueError, KeyError, UnicodeDecodeError, AttributeError, TypeError):
            return None


def versions_needed(path: Path) -> frozenset[str]:
    """The symbol versions that an object asks of its libraries, such as `GLIBC_2.34`; empty where it cannot be read."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    try:
        with path.open("rb") as source:
            sections = [one for one in ELFFile(source).iter_sections() if isinstance(one, GNUVerNeedSection)]
            return frozenset(
                auxiliary.name
                for section in sections
                for _, all_of_it in section.iter_versions()
                for auxiliary in all_of_it
            )
    except (OSError, ELFError, ConstructError, ValueError, KeyError, UnicodeDecodeError, AttributeError, TypeError):
        return frozenset()


def defines(path: Path, symbol: str) -> bool:
    """Whether an object exports a symbol of its own; False where it only needs it, or has no table of dynamic symbols."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.hash import GNUHashSection
    from elftools.elf.sections import SymbolTableSection

    try:
        with path.open("rb") as source:
            elf = ELFFile(source)
            hashed = elf.get_section_by_name(".gnu.hash")
            if isinstance(hashed, GNUHashSection):  # it holds what is defined, and is quick to ask
                return hashed.get_symbol(symbol) is not None
            table = elf.get_section_by_name(".dynsym")
            found = table.get_symbol_by_name(symbol) if isinstance(table, SymbolTableSection) else None
            return any(entry["st_shndx"] != "SHN_UNDEF" for entry in found or ())
    except (OSError, ELFError, ConstructError, ValueError, KeyError, struct.error):
        return False


def _facts(elf: object) -> ElfFacts:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import NoteSegment

    assert isinstance(elf, ELFFile)  # noqa: S101 - for the type checker; the import is late on purpose
    values: dict[str, list[str]] = {"DT_SONAME": [], "DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
    build_id = ""
    for segment in elf.iter_segments():
        if isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():
                name = tag.entry.d_tag
                if name in values:
                    values[name].append(getattr(tag, name.removeprefix("DT_").lower()))
        elif isinstance(segment, NoteSegment) and not build_id:
            build_id = next((n["n_desc"] for n in segment.iter_notes() if n["n_type"] == "NT_GNU_BUILD_ID"), "")
    return ElfFacts(
        machine=str(elf["e_machine"]),
        bits=elf.elfclass,
        soname=next(iter(values["DT_SONAME"]), ""),
        needed=tuple(values["DT_NEEDED"]),
        rpath=_paths(values["DT_RPATH"]),
        runpath=_paths(values["DT_RUNPATH"]),
        build_id=build_id,
    )


def _paths(values: list[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split(":") if part)
