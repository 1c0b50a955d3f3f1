"""Another MPI in a process than the one that is meant, brought by what it was linked with."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from launching import sitecustomize

from envbuilder import elf
from envbuilder.process import Command, checked
from zoo.base import RANKS, Case, Fault, Names, Scene
from zoo.libraries import mpi_behind_a_link
from zoo.making import compiled

SONAME = "libmpi.so.12"

# a Python with an MPI inside, as HPC programs that embed Python have
PROGRAM = "#include <Python.h>\nint main(int count, char **words) { return Py_BytesMain(count, words); }\n"
COLLECTIVES = "extern int MPI_Barrier(int);\nint meet(int world) { return MPI_Barrier(world); }\n"


def _archive() -> Path:
    """The system's static MPI, which Debian's libmpich-dev has beside the shared one."""
    found = sorted(Path("/usr/lib").glob("*/libmpich.a"))
    if not found and not os.environ.get("CI"):
        pytest.skip("this machine has no static MPI: apt-get install libmpich-dev")
    return found[0]


def _interpreter(target: Path, more: str = "") -> None:
    """Link an interpreter of this Python with the static MPI, and with `more` in C."""
    archive, source = _archive(), target.with_name("python.c")
    facts = elf.read(archive.with_suffix(".so").resolve())
    # the archive needs what its shared sister needs: UCX, hwloc
    needs = [f"-l:{name}" for name in (facts.needed if facts else ()) if not name.startswith(("libc.", "ld-"))]
    paths, here = sysconfig.get_paths(), sysconfig.get_config_vars()
    source.write_text(PROGRAM + more)
    argv = (
        "cc", "-rdynamic", "-w", "-o", str(target), str(source), f"-I{paths['include']}", f"-L{here['LIBDIR']}",
        f"-Wl,-rpath,{here['LIBDIR']}", f"-lpython{here['LDVERSION']}", "-Wl,--whole-archive", str(archive),
        "-Wl,--no-whole-archive", *needs, "-lpthread", "-lm",
    )  # fmt: skip
    checked(Command(argv=argv), timeout=120)


def _static(scene: Scene) -> Case:
    """The program's own functions come before those of libraries, so mpi4py calls them, with libmpi mapped for nothing."""
    prefix = scene.linked()
    (prefix / "bin" / "python").unlink()
    _interpreter(prefix / "bin" / "python")
    return Case(prefix=prefix, told={"python": str(prefix / "bin" / "python"), "own": str(prefix / "lib" / SONAME)})


def _static_alone(scene: Scene) -> Case:
    """The extension needs no libmpi either; what its headers have and the older archive lacks is never called."""
    prefix = scene.linked()
    (extension,) = prefix.glob("lib/python*/site-packages/mpi4py/MPI*.so")
    content = extension.read_bytes()
    name, other = f"\0{SONAME}\0".encode(), b"\0libm.so.6\0\0\0\0"
    assert content.count(name) == 1
    assert len(name) == len(other)
    extension.unlink()
    extension.write_bytes(content.replace(name, other))
    lacking = _undefined(extension) - _defined(_archive().with_suffix(".so").resolve())
    (prefix / "bin" / "python").unlink()
    _interpreter(prefix / "bin" / "python", "".join(f"int {one}(void) {{ return 1; }}\n" for one in sorted(lacking)))
    return Case(prefix=prefix, told={"python": str(prefix / "bin" / "python"), "own": str(prefix / "lib" / SONAME)})


def _symbols(path: Path) -> list[tuple[str, bool]]:
    """The functions of MPI among the dynamic symbols of an object, and whether it has them itself."""
    with path.open("rb") as source:
        table = ELFFile(source).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        return [
            (one.name, one["st_shndx"] != "SHN_UNDEF") for one in table.iter_symbols() if one.name.startswith("MPI_")
        ]


def _undefined(path: Path) -> set[str]:
    return {name for name, own in _symbols(path) if not own}


def _defined(path: Path) -> set[str]:
    return {name for name, own in _symbols(path) if own}


def _by_torch(scene: Scene) -> Case:
    """Custom operations for PyTorch, compiled with the system's mpicc, as collectives of one's own are."""
    other = _archive().with_suffix(".so").resolve()
    library = compiled(COLLECTIVES, scene.folder / "ops" / "libtorch_collectives.so", "-Wl,--no-as-needed", str(other))
    variables = sitecustomize(scene.folder / "site", "torch", f"module.ops.load_library({str(library)!r})")
    return Case(variables=variables, told={"library": str(library), "other": str(other)})


def _library_path_leads_on(scene: Scene) -> Case:
    """The module's folder on LD_LIBRARY_PATH is a link to the default version, which is another one today."""
    copy = mpi_behind_a_link(scene)
    inside, root = copy.prefix / "lib" / SONAME, scene.folder / "mpi"
    inside.unlink()
    document = json.loads(copy.manifest.read_text())
    del document["written"][f"lib/{SONAME}"]
    copy.manifest.write_text(json.dumps(document))
    (root / "2.0").mkdir()
    for version in ("1.0", "2.0"):  # what it needs itself lies beside it
        (root / version / "mpich").symlink_to(copy.prefix / "lib" / "mpich")
    (root / "2.0" / SONAME).write_bytes((root / "1.0" / SONAME).read_bytes() + b"\0")
    (root / "default").unlink()
    (root / "default").symlink_to("2.0")
    return Case(
        copy=copy,
        variables={"LD_LIBRARY_PATH": str(root / "default")},
        told={"root": str(root.resolve()), "set": f"LD_LIBRARY_PATH={root / 'default'}"},
    )


ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="mpi-linked-statically-into-the-interpreter",
        broken="The interpreter was linked with libmpich.a, as programs that embed Python are: mpi4py calls that MPI, while the "
        "right libmpi is mapped and of no use.",
        start="mpi4py_env",
        make=_static,
        names=(
            Names(
                check="mpi-library",
                cause=("the MPI that mpi4py calls", "was linked statically into {python}", "and is not {own}"),
                remedy=("the shared library", "without -static"),
            ),
        ),
        look=RANKS,
    ),
    Fault(
        name="static-mpi-and-no-libmpi",
        broken="mpi4py was linked for a static MPI, which is in the interpreter: no libmpi is mapped at all.",
        start="mpi4py_env",
        make=_static_alone,
        names=(
            Names(
                check="mpi-library",
                cause=("the MPI that mpi4py calls", "was linked statically into {python}", "and is not {own}"),
                remedy=("the shared library", "without -static"),
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="pytorch-brings-another-mpi",
        broken="Operations that are loaded into PyTorch were compiled with the system's mpicc, mpi4py with the environment's.",
        start="torch_env",
        make=_by_torch,
        names=(
            Names(
                check="mpi-library",
                cause=("has 2 MPI libraries mapped", "{other} (needed by {library})"),
                remedy=("build libtorch_collectives.so anew for the MPI of mpi4py",),
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="library-path-that-leads-on",
        broken="The MPI is found by the module's folder on LD_LIBRARY_PATH, a link to the default version, which is another one "
        "since maintenance.",
        start="mpi4py_env",
        make=_library_path_leads_on,
        names=(
            Names(
                check="mpi-library",
                cause=("uses {root}/2.0/libmpi.so.12", "and not {root}/1.0/libmpi.so.12", "{set}"),
                remedy=("the site's own folder", "build the environment anew"),
            ),
        ),
        alone=True,
    ),
)
