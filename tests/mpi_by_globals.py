"""A specimen for tests: PyTorch's process group of MPI, compiled apart and put in by Python globals.

It is no PyTorch that was built with MPI: libtorch does not know of it, and `torch.__config__` goes on saying so. It is the
cheap way (a download of 40 MB, half a minute of compiling, once on a machine) to ranks that really train over MPI. The source
is Debian's, fetched by apt from the machine's own mirror and kept beside the test environments.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock
from launching import scratch_copy, sitecustomize
from zoo.making import compiled

NAME = "torch_mpi_by_globals"
RELEASE = "trixie"  # its PyTorch is 2.6.0, whose group of MPI compiles with 2.13's headers
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HEADER = Path("torch/csrc/distributed/c10d/ProcessGroupMPI.hpp")
BINDING = f"""
#include <torch/csrc/utils/pybind.h>
#include <{HEADER}>

PYBIND11_MODULE({NAME}, module) {{
  using Group = c10d::ProcessGroupMPI;
  py::class_<Group, c10d::Backend, c10::intrusive_ptr<Group>>(module, "ProcessGroupMPI")
      .def_static("create", &Group::createProcessGroupMPI, py::call_guard<py::gil_scoped_release>());
}}
"""
GLOBALS = """
import ctypes, importlib.util, os, sys
ctypes.CDLL(os.path.join(sys.prefix, "lib", "libmpi.so.12"))
spec = importlib.util.spec_from_file_location({name!r}, {extension!r})
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
module.ProcessGroupMPI, module._MPI_AVAILABLE = made.ProcessGroupMPI, True
"""


def put_in(folder: Path, kept: Path, prefix: Path, *, then: str = "") -> dict[str, str]:
    """The variables under which the PyTorch at `prefix` has the group; `then` is more code for distributed_c10d."""
    code = GLOBALS.format(name=NAME, extension=str(extension(kept, prefix))) + then
    return sitecustomize(folder, "torch.distributed.distributed_c10d", code)


def linked(prefix: Path, to: Path, *, mpi: str = "libmpi.so.12", version: str = "") -> Path:
    """A copy of an environment whose libtorch.so is one that needs an MPI, as a real build's does; of another version."""
    scratch_copy(prefix, to)
    library = _torch(to) / "lib" / "libtorch.so"
    library.unlink()  # a hard link
    options = [f"-L{library.parent}", f"-L{to / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", f"-l:{mpi}"]
    places = ["-Wl,-soname,libtorch.so", "-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN:$ORIGIN/../../../.."]
    compiled("", library, *options, *places)
    if version:
        metadata = _metadata(to) / "METADATA"
        text = re.sub("(?m)^Version: .*", f"Version: {version}", metadata.read_text())
        metadata.unlink()
        metadata.write_text(text)
    return to


def _metadata(prefix: Path) -> Path:
    (folder,) = prefix.glob("lib/python*/site-packages/torch-*.dist-info")
    return folder


def _torch(prefix: Path) -> Path:
    (folder,) = prefix.glob("lib/python*/site-packages/torch")
    return folder


def extension(kept: Path, prefix: Path) -> Path:
    """The compiled group for the PyTorch at `prefix`; made once, and skips the test where it cannot be."""
    target = kept / _metadata(prefix).name.removesuffix(".dist-info") / f"{NAME}.so"
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / "lock"):
        if not target.exists():
            source = _source(kept / "source")
            target.parent.mkdir(exist_ok=True)
            beside = target.with_suffix(".making")
            _compile(source, prefix, beside)
            beside.rename(target)
    return target


def _compile(source: Path, prefix: Path, target: Path) -> None:
    torch = _torch(prefix)
    ask = "import sysconfig; print(sysconfig.get_paths()['include'])"
    python = subprocess.run([prefix / "bin/python", "-c", ask], capture_output=True, text=True, check=True)
    headers = Path(python.stdout.strip())
    if not (headers / "Python.h").exists() or not shutil.which("g++"):
        pytest.skip("compiling an extension of PyTorch needs g++ and Python's headers")
    (source / "binding.cpp").write_text(BINDING)
    places = (source, torch / "include", torch / "include/torch/csrc/api/include", headers, prefix / "include")
    done = subprocess.run(
        ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-w", "-DUSE_C10D_MPI", *(f"-I{place}" for place in places),
         source / HEADER.with_suffix(".cpp"), source / "binding.cpp", "-o", target, f"-L{torch / 'lib'}", "-ltorch_cpu",
         "-lc10", f"-L{prefix / 'lib'}", "-l:libmpi.so.12"],
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def _source(folder: Path) -> Path:
    """The two files of PyTorch's source, from Debian's archive by apt."""
    if (folder / HEADER).exists():
        return folder
    folder.mkdir(exist_ok=True)
    archive = _download(folder)
    with tarfile.open(archive) as opened:
        for member in opened:
            _, _, inside = member.name.partition("/")
            if inside in (str(HEADER.with_suffix(".cpp")), str(HEADER)):
                content = opened.extractfile(member)
                assert content is not None
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                beside = folder / f"{inside}.part"
                beside.write_bytes(content.read())
                beside.rename(folder / inside)
    archive.unlink()
    assert (folder / HEADER).exists(), f"{archive.name} has no {HEADER}"
    return folder


def _download(folder: Path) -> Path:
    """PyTorch's source archive in Debian's release, with lists and settings of apt of its own."""
    mirror = _mirror()
    (folder / "apt/lists/partial").mkdir(parents=True, exist_ok=True)
    (folder / "apt/cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (folder / "apt/sources.list").write_text(f"deb-src [signed-by={KEYS}] {mirror} {RELEASE} main\n")
    apt = [
        "apt-get", "-q", "-o", f"Dir::Etc::SourceList={folder}/apt/sources.list", "-o", "Dir::Etc::SourceParts=/nonexistent",
        "-o", f"Dir::State::Lists={folder}/apt/lists", "-o", f"Dir::Cache={folder}/apt/cache", "-o", "APT::Sandbox::User=",
        "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30",
    ]  # fmt: skip
    for words in (["update"], ["source", "--download-only", "--tar-only", "pytorch"]):
        done = subprocess.run([*apt, *words], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            pytest.skip(f"PyTorch's source cannot be had by apt here: {done.stderr.strip()[-300:]}")
    found = sorted(folder.glob("pytorch_*.orig.tar.*"))
    if not found:
        pytest.skip(f"apt left no archive of PyTorch's source from {RELEASE}")
    shutil.rmtree(folder / "apt")
    return found[-1]


def _mirror() -> str:
    """The address of Debian's archive that this machine's apt is set up with: where it would look for its own release."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    if not shutil.which("apt-get") or not KEYS.exists() or release.get("ID") != "debian":
        pytest.skip("PyTorch's source is taken from Debian's archive, and this is not Debian")
    asked = ["apt-get", "update", "--print-uris"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    found = re.findall(rf"'(\S+)/dists/{release.get('VERSION_CODENAME')}/InRelease'", done.stdout)
    if not found:
        pytest.skip("apt is set up with no archive of this Debian's release")
    return str(found[0])
