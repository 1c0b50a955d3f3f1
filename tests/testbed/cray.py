"""The software that the modules point to: stand-ins under the names that it has on ARCHER2."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from testbed.layout import SOURCE, Layout, TestbedError, link, user, write

DEFAULT_MPICH = "8.1.27"
# the version, and the build that MPI_Get_library_version names
MPICH = {"8.1.23": "8.1.23.11", DEFAULT_MPICH: "8.1.27.26"}
# folder below the version, and the suffix of its library
FLAVOURS = {"ofi/gnu/9.1": "gnu_91", "ofi/crayclang/10.0": "cray"}
CRAYPE = ("2.7.19", "2.7.23")
PYTHONS = ("3.9.13.1", "3.10.10", "3.11.7")
ROCM = {"5.2.3": ("libamdhip64.so.5", "librccl.so.1"), "6.3.4": ("libamdhip64.so.6", "librccl.so.1")}
HEADERS = Path("/usr/include/x86_64-linux-gnu/mpich")
MPICH_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libmpich.so.12")
MPICH_FORTRAN = Path("/usr/lib/x86_64-linux-gnu/libmpichfort.so.12")

EMPTY = (
    "opt/cray/libfabric/1.12.1.2.2.0.0/lib64",
    "opt/cray/pe/hdf5-parallel/1.12.2.1/gnu/9.1/lib",
    "opt/cray/pe/hdf5-parallel/1.12.2.1/gnu/9.1/include",
    "opt/cray/pe/fftw/3.3.10.3/x86_rome/lib",
    "opt/cray/pe/fftw/3.3.10.3/x86_rome/include",
    "work/y07/shared/libs/core/mkl/2023.0.0/lib/intel64",
    "work/y07/shared/libs/core/mkl/2023.0.0/include",
    "work/y07/shared/utils/core/cmake/3.21.3/bin",
)


def make(layout: Layout) -> list[str]:
    """All of it; what could not be made, in words."""
    left_out: list[str] = []
    for folder in EMPTY:
        (layout.root / folder).mkdir(parents=True, exist_ok=True)
    _mpi(layout, left_out)
    _wrappers(layout)
    for version, names in ROCM.items():
        for name in names:
            lib = layout.root / f"opt/rocm-{version}/lib"
            _stand_in_library(lib / name)
            link(
                lib / f"{name.partition('.')[0]}.so", name
            )  # for compilers; the copies in PyTorch's wheels are called so
        (layout.root / f"opt/rocm-{version}/bin").mkdir(exist_ok=True)
    lacking = [version for version in PYTHONS if not _python(layout, version)]
    left_out += [f"module cray-python/{v}: no Python {_minor(v)} with its headers on this machine" for v in lacking]
    cmake = shutil.which("cmake", path="/usr/local/bin:/usr/bin")
    if cmake:
        link(layout.root / "work/y07/shared/utils/core/cmake/3.21.3/bin/cmake", cmake)
    _central_packages(layout)
    return left_out


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise TestbedError(f"{' '.join(command)} failed: {done.stderr.strip()[-800:]}")
    return done.stdout


# MPI


def _mpi(layout: Layout, left_out: list[str]) -> None:
    stripped = layout.cache / "libmpich.so"
    layout.cache.mkdir(parents=True, exist_ok=True)
    # a tenth of the size: eight copies are made
    _run("strip", "--strip-unneeded", "-o", str(stripped), str(MPICH_LIBRARY.resolve()))
    for version, build in MPICH.items():
        base = layout.cray / "mpich" / version
        for folder, suffix in FLAVOURS.items():
            lib = base / folder / "lib"
            ok = _library(stripped, lib, f"libmpi_{suffix}.so.12", build, suffix)
            for name in (f"libmpi_{suffix}.so", "libmpi.so", "libmpich.so"):
                link(lib / name, f"libmpi_{suffix}.so.12")
            if MPICH_FORTRAN.exists():
                _fortran(lib, suffix)
            _library(stripped, base / folder / "lib-abi-mpich", "libmpi.so.12", build, suffix + " abi")
            link(base / folder / "lib-abi-mpich/libmpi.so", "libmpi.so.12")
            link(base / folder / "include", HEADERS)
            if not ok:
                left_out.append("MPI_Get_library_version speaks as MPICH does: its text was not found in this MPICH")
        gtl = base / "gtl/lib"
        _stand_in_library(gtl / "libmpi_gtl_hsa.so.0")
        link(gtl / "libmpi_gtl_hsa.so", "libmpi_gtl_hsa.so.0")
    default = Path("../mpich") / DEFAULT_MPICH
    for folder, suffix in FLAVOURS.items():
        names = [f"libmpi_{suffix}.so.12"] + [f"libmpifort_{suffix}.so.12"] * MPICH_FORTRAN.exists()
        for name in names:
            link(layout.cray / "lib64" / name, default / folder / "lib" / name)
    link(layout.cray / "lib64/libmpi_gtl_hsa.so.0", default / "gtl/lib/libmpi_gtl_hsa.so.0")


def _library(source: Path, folder: Path, soname: str, build: str, flavour: str) -> bool:
    """A copy of MPICH under another soname, with a build-id and a version text of its own; whether the text was found."""
    content = bytearray(source.read_bytes())
    start = content.find(b"MPICH Version:\t%s\n")
    if start >= 0:
        room = content.index(b"\0", start) - start
        text = (
            f"MPI VERSION    : CRAY MPICH version {build} (ANL base {_mpich_version()})\n"
            "MPI BUILD INFO : envbuilder's testbed, a stand-in\n"
        ).encode()
        content[start : start + room] = text[:room].ljust(room, b"\0")
    old = bytes.fromhex(re.findall(r"Build ID: ([0-9a-f]+)", _run("readelf", "-n", str(source)))[0])
    new = hashlib.sha256(f"{build} {flavour} {old.hex()}".encode()).digest()[: len(old)]
    where = content.index(old)
    content[where : where + len(old)] = new
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".{soname}.{os.getpid()}"
    beside.write_bytes(content)
    beside.chmod(0o755)
    _run("patchelf", "--set-soname", soname, str(beside))
    beside.replace(folder / f"{soname}.0.0")
    link(folder / soname, f"{soname}.0.0")
    return start >= 0


def _fortran(lib: Path, suffix: str) -> None:
    beside = lib / f".fortran.{os.getpid()}"
    shutil.copyfile(MPICH_FORTRAN.resolve(), beside)
    name = f"libmpifort_{suffix}.so.12"
    _run("patchelf", "--set-soname", name, str(beside))
    _run("patchelf", "--replace-needed", "libmpich.so.12", f"libmpi_{suffix}.so.12", str(beside))
    beside.replace(lib / name)
    link(lib / name.removesuffix(".12"), name)


def _mpich_version() -> str:
    found = re.search(r'#define MPICH_VERSION "([^"]+)"', (HEADERS / "mpi.h").read_text())
    return found[1] if found else "unknown"


def _stand_in_library(path: Path) -> None:
    """A shared library with one symbol that says what it is."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.parent / f".{path.name}.c"
    source.write_text('const char envbuilder_testbed_stand_in[] = "not the real library";\n')
    _run("gcc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", str(path), str(source))
    source.unlink()


def _wrappers(layout: Layout) -> None:
    wrapper = layout.cray / "craype" / CRAYPE[-1] / "bin/cc"
    for version in CRAYPE:
        folder = layout.cray / "craype" / version / "bin"
        for name in ("cc", "CC", "ftn"):
            write(folder / name, layout.template("cc"), 0o755)
    for version in MPICH:
        for flavour in FLAVOURS:
            for name in ("mpicc", "mpicxx", "mpifort"):
                link(layout.cray / "mpich" / version / flavour / "bin" / name, wrapper)


# Python


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def interpreter(minor: str) -> Path | None:
    """An interpreter of this minor version that can compile extensions: pyenv's, uv's, or one on the PATH."""
    home = Path(user().pw_dir)
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    candidates = [
        *sorted(pyenv.glob(f"versions/{minor}.*/bin/python{minor}"), reverse=True),
        *sorted(home.glob(f".local/share/uv/python/cpython-{minor}.*/bin/python{minor}"), reverse=True),
        *sorted(Path("/opt/hostedtoolcache/Python").glob(f"{minor}.*/x64/bin/python{minor}"), reverse=True),
        *(Path(folder) / f"python{minor}" for folder in ("/usr/local/bin", "/usr/bin")),
    ]
    for candidate in candidates:
        if candidate.is_file():
            real = candidate.resolve()
            asks = "import sysconfig; print(sysconfig.get_paths()['include'])"
            include = Path(_run(str(real), "-I", "-c", asks).strip())
            if (include / "Python.h").exists():
                return real
    return None


def _python(layout: Layout, version: str) -> bool:
    """The prefix of one cray-python, made of symbolic links; whether there is an interpreter for it."""
    prefix = layout.cray / "python" / version
    minor = _minor(version)
    real = interpreter(minor)
    if real is None:
        shutil.rmtree(prefix, ignore_errors=True)
        return False
    for name in ("python", "python3", f"python{minor}"):
        link(prefix / "bin" / name, real)
    for name in ("pip", "pip3", f"pip{minor}"):
        write(prefix / "bin" / name, f'#!/bin/sh\nexec "{prefix}/bin/python3" -m pip "$@"\n', 0o755)
    for name in ("lib", "include"):
        link(prefix / name, real.parent.parent / name)
    return True


def _central_packages(layout: Layout) -> None:
    """What the module pytorch puts on PYTHONPATH: real distributions, of packages that say they are stand-ins."""
    base = layout.root / "work/y07/shared/python/core/pytorch/1.13.1-gpu/python/3.9.13.1"
    site = base / "lib/python3.9/site-packages"
    for name, version in (("torch", "1.13.1+rocm5.2"), ("tensorboard", "2.11.2"), ("h5py", "3.8.0")):
        code = (SOURCE / "files/stand_in.py").read_text()
        code = code.replace("@NAME@", name).replace("@VERSION@", version)
        info = f"{name}-{version}.dist-info"
        files = {
            f"{name}/__init__.py": code,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: A stand-in of envbuilder's testbed\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: envbuilder-testbed\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/INSTALLER": "envbuilder-testbed\n",
            f"{info}/top_level.txt": f"{name}\n",
        }
        record = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
        files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
        for path, text in files.items():
            write(site / path, text)
    (base / "bin").mkdir(exist_ok=True)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
