"""Stand-ins for PyTorch's ROCm wheels, in folders for pip's find-links: the real ones have gigabytes.

Nothing in them computes, and they say so: in the file's name (its build tag), in the metadata, in the package's docstring and
its version module, and in what is raised when anything of torch is asked for. What is real is what a static check looks at:
the versions and tags, device code by hipcc, a library with a soname and a build-id that another needs, RUNPATH `$ORIGIN`.

As in PyTorch's wheels, the libraries of ROCm in them have lost their version (`libamdhip64.so`, which a rocm module's folder
has as well, for compilers): that is why such a folder in LD_LIBRARY_PATH wins.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

SUMMARY = "A STAND-IN of envbuilder's testbed for a ROCm build of PyTorch: it has the name, and computes nothing"
BUILD_TAG = "1standin"  # a build tag begins with a digit; a file with one goes before the real wheel of that version
RIGHT, WRONG = "gfx90a", "gfx908"

PACKAGE = '''"""@SUMMARY@."""

from torch.version import __version__

IS_STAND_IN = True


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError("this torch is a stand-in of envbuilder's testbed without any computing in it: no torch." + name)
'''
VERSION = '''"""@SUMMARY@."""

__version__ = "@VERSION@"
stand_in = "no PyTorch is in this package; libtorch_hip.so in it has one kernel and is never loaded"
'''
KERNEL = """#include <hip/hip_runtime.h>
__global__ void scaled(float *x) { x[threadIdx.x] *= 2; }
extern "C" void stand_in(float *x) { scaled<<<1, 64>>>(x); }
"""
LIBRARY = 'const char envbuilder_stand_in[] = "the @NAME@ that came with torch @VERSION@: not the real library";\n'
BUNDLED = ("libamdhip64.so", "libMIOpen.so")


@dataclass(frozen=True)
class Wheel:
    """One of PyTorch's wheels that is imitated."""

    version: str
    tag: str

    @property
    def file(self) -> str:
        return f"torch-{self.version}-{BUILD_TAG}-{self.tag}.whl"


# the tags of the published ones: 2.9.1 is not built for Python 3.9, nor 1.13.1 for 3.11 with ROCm
WHEELS = (
    Wheel("2.9.1+rocm6.3", "cp310-cp310-manylinux_2_28_x86_64"),
    Wheel("2.9.1+rocm6.3", "cp311-cp311-manylinux_2_28_x86_64"),
    Wheel("1.13.1+rocm5.2", "cp39-cp39-linux_x86_64"),
    Wheel("1.13.1+rocm5.2", "cp310-cp310-linux_x86_64"),
)


def missing() -> str:
    """What is lacking on this machine to make them, with the remedy; empty if nothing is."""
    lacking = [name for name in ("hipcc", "patchelf", "cc") if not shutil.which(name)]
    why = "apt-get install hipcc libamdhip64-dev rocm-device-libs patchelf gcc"
    return f"{' and '.join(lacking)} not on this machine: {why}" if lacking else ""


def make(base: Path, arch: str = RIGHT) -> Path:
    """A folder of the stand-ins with device code for `arch` below `base`: made once, the same bytes each time."""
    about = hashlib.sha256(Path(__file__).read_bytes() + _run("hipcc", "--version", cwd=base).encode()).hexdigest()
    folder = base / f"{arch}-{about[:12]}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=base) as made:
        work, done = Path(made), Path(made) / "done"
        done.mkdir()
        kernels = _device_code(work, arch)
        for wheel in WHEELS:
            bundled = {name: library(work / name, wheel.version) for name in BUNDLED}
            _write(done / wheel.file, wheel, {path.name: path for path in (kernels, *bundled.values())})
        try:
            done.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def library(path: Path, version: str) -> Path:
    """A library with the soname of its file, a build-id that depends on `version`, and nothing in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(LIBRARY.replace("@NAME@", path.name).replace("@VERSION@", version))
    _run("cc", "-shared", "-fPIC", "-Wl,--build-id", f"-Wl,-soname,{path.name}", "-o", path.name, source.name, cwd=path.parent)  # fmt: skip
    source.unlink()
    return path


def _device_code(work: Path, arch: str) -> Path:
    """libtorch_hip.so with one kernel for `arch`, its needs and search path as PyTorch's build writes them."""
    (work / "kernel.hip").write_text(KERNEL)
    name = "libtorch_hip.so"
    # hipcc's own HIP is in another version than the stand-ins': the need gets their name, as PyTorch's build does it
    _run("hipcc", f"--offload-arch={arch}", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{name}", "kernel.hip", "-o", name, cwd=work)  # fmt: skip
    needed = _run("patchelf", "--print-needed", name, cwd=work).split()
    (hip,) = (one for one in needed if one.startswith("libamdhip64.so"))
    for change in (("--replace-needed", hip, BUNDLED[0]), ("--add-needed", BUNDLED[1]), ("--set-rpath", "$ORIGIN")):
        _run("patchelf", *change, name, cwd=work)
    return work / name


def _write(path: Path, wheel: Wheel, libraries: dict[str, Path]) -> None:
    """One wheel; times and order are fixed, so that the same parts give the same file."""
    info = f"torch-{wheel.version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: torch\nVersion: {wheel.version}\nSummary: {SUMMARY}\nRequires-Dist: numpy\n"
    )
    kind = "Wheel-Version: 1.0\nGenerator: envbuilder-testbed-stand-in\nRoot-Is-Purelib: false\n"
    content = {
        "torch/__init__.py": _filled(PACKAGE, wheel),
        "torch/version.py": _filled(VERSION, wheel),
        **{f"torch/lib/{name}": library.read_bytes() for name, library in libraries.items()},
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": f"{kind}Build: {BUILD_TAG}\nTag: {wheel.tag}\n".encode(),
    }
    lines = [f"{name},{_mark(data)},{len(data)}\n" for name, data in content.items()]
    content[f"{info}/RECORD"] = f"{''.join(lines)}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (0o755 if ".so" in name else 0o644) << 16
            archive.writestr(member, data)


def _filled(text: str, wheel: Wheel) -> bytes:
    return text.replace("@SUMMARY@", SUMMARY).replace("@VERSION@", wheel.version).encode()


def _mark(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _run(*command: str, cwd: Path) -> str:
    # where nvcc is on the PATH, hipcc would hand its work to it
    env = {**os.environ, "HIP_PLATFORM": "amd"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-800:]}")
    return done.stdout
