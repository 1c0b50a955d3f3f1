"""What a traced MPI program opened becomes the binds of a site file: the records, the judgement, and a real run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envbuilder import trace_binds, traces
from envbuilder.container import BIND
from envbuilder.document import load_yaml
from envbuilder.elf import ElfFacts
from envbuilder.errors import HostError
from envbuilder.shape import Problems
from envbuilder.site import SITE
from envbuilder.trace_binds import Eyes
from envbuilder.traces import Traced

RECORD = """\
execve("/bin/sh", ["sh"], 0x7ffd /* 9 vars */) = 0
openat(AT_FDCWD</home/me>, "/lib/libold.so", O_RDONLY) = 3</lib/libold.so>
execve("./hello", ["./hello"], 0x7ffd /* 9 vars */) = 0
openat(AT_FDCWD</home/me>, "/usr/lib/libmpi.so.12", O_RDONLY|O_CLOEXEC) = 3</usr/lib/libmpi.so.12.1>
openat(AT_FDCWD</home/me>, "/nowhere", O_RDONLY) = -1 ENOENT (No such file or directory)
openat(AT_FDCWD</home/me>, "data.txt", O_RDONLY) = 4</home/me/data.txt>
openat(3</etc>, "conf", O_RDONLY) = 4</etc/conf>
openat(AT_FDCWD</home/me>, "/", O_RDONLY|O_CLOEXEC|O_PATH|O_DIRECTORY) = 5</>
openat(AT_FDCWD</home/me>, "/etc/mpi.d", O_RDONLY|O_NONBLOCK|O_CLOEXEC|O_DIRECTORY) = 5</etc/mpi.d>
openat(AT_FDCWD</home/me>, "/etc/a\\"b", O_RDONLY) = 6</etc/a"b>
connect(7<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path="/run/pmi.sock"}, 110) = 0
connect(7<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path="/run/gone.sock"}, 110) = -1 ENOENT (No such file or directory)
connect(8<TCP:[2]>, {sa_family=AF_INET, sin_port=htons(4711), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
"""

LINKER = """\
      77:\tfile=libmpi.so.12 [0];  needed by ./hello [0]
      77:\tfile=libmpi.so.12 [0];  generating link map
      77:\tfile=libfabric.so.1 [0];  needed by /usr/lib/libmpi.so.12 [0]
      77:\tcalling init: /usr/lib/libfabric.so.1
      77:\tcalling init: /usr/lib/libmpi.so.12
      77:\tinitialize program: ./hello
"""


def test_a_record_of_strace_tells_what_the_last_program_opened() -> None:
    found = traces.by_strace(RECORD.splitlines())

    assert found.program == "./hello"
    assert found.files == ("/usr/lib/libmpi.so.12", "/home/me/data.txt", "/etc/conf", '/etc/a"b')
    assert found.folders == ("/etc/mpi.d",)
    assert found.sockets == ("/run/pmi.sock",)
    assert found.internet


def test_a_record_of_the_linker_tells_libraries_alone() -> None:
    found = traces.by_linker(LINKER.splitlines())

    assert found == Traced(
        files=("/usr/lib/libfabric.so.1", "/usr/lib/libmpi.so.12"), wanted=("libmpi.so.12",), whole=False
    )


def library(soname: str, *needed: str) -> ElfFacts:
    return ElfFacts(machine="EM_X86_64", bits=64, soname=soname, needed=needed, rpath=(), runpath=(), build_id="")


MPI = "/usr/lib/libmpi.so.12"
LIBRARIES = {
    "/home/me/hello": library("", "libmpi.so.12", "libown.so.1", "libc.so.6"),
    "/usr/lib/libc.so.6": library("libc.so.6"),
    "/usr/lib/libown.so.1": library("libown.so.1", "libc.so.6"),
    MPI: library("libmpi.so.12", "libfabric.so.1", "libc.so.6"),
    "/opt/net/lib64/libfabric.so.1": library("libfabric.so.1", "libc.so.6"),
    "/opt/net/lib64/prov/libcxi-prov.so": library("libcxi-prov.so", "libcxi.so.1"),
    "/usr/lib64/libcxi.so.1": library("libcxi.so.1", "libc.so.6"),
    "/usr/lib/libnss_files.so.2": library("libnss_files.so.2", "libc.so.6"),
    "/usr/lib/python3.11/lib-dynload/_ssl.so": library("", "libssl.so.3"),
    "/usr/lib/libssl.so.3": library("libssl.so.3", "libc.so.6"),
}
EYES = Eyes(facts=LIBRARIES.get, is_mpi=lambda path: path == MPI, real=str)
RANK = Traced(
    program="/home/me/hello",
    files=(
        "/etc/before.conf", "/usr/lib/libown.so.1", MPI, "/opt/net/lib64/libfabric.so.1", "/usr/lib/libc.so.6",
        "/opt/net/lib64/prov/libcxi-prov.so", "/usr/lib64/libcxi.so.1", "/usr/lib/libnss_files.so.2",
        "/usr/lib/python3.11/lib-dynload/_ssl.so", "/usr/lib/libssl.so.3", "/etc/passwd", "/proc/self/maps",
        "/home/me/data.txt", "/scratch/me/input", "/etc/libibverbs.d/mlx5.driver", "/dev/shm/mpi_1",
    ),
    folders=("/etc/libibverbs.d", "/sys/class/net"),
    sockets=("/run/munge/munge.socket.2", "/run/nscd/socket"),
)  # fmt: skip


def test_what_needs_a_name_in_a_site_file_is_told_from_the_rest() -> None:
    launcher = Traced(program="/usr/bin/mpiexec", files=("/usr/lib/libc.so.6",), sockets=("/run/launcher",))

    found = trace_binds.judge([launcher, RANK, RANK], EYES, ("/scratch/me",))

    assert (found.library, found.ranks) == (MPI, 2)
    assert [(one.path, one.why) for one in found.by_itself] == [
        (MPI, "the MPI library"),
        ("/opt/net/lib64/libfabric.so.1", "needed by libmpi.so.12"),
    ]
    assert {(one.path, one.target): (one.kind, one.why) for one in found.binds} == {
        ("/opt/net/lib64/prov", ""): ("folder", "plug-ins that were opened: libcxi-prov.so"),
        ("/opt/net/lib64/prov", "/opt/envbuilder/host/prov"): (
            "folder",
            "the same, beside the library that may look there",
        ),
        ("/usr/lib64/libcxi.so.1", "/opt/envbuilder/host/libcxi.so.1"): ("library", "needed by libcxi-prov.so"),
        ("/etc/libibverbs.d/mlx5.driver", ""): ("file", "read after the MPI library was loaded"),
        ("/etc/libibverbs.d", ""): ("folder", "listed by the program"),
        ("/run/munge/munge.socket.2", ""): (
            "socket",
            "a socket that was connected to: PMI, or a daemon such as munge",
        ),
    }
    assert any("/dev/shm" in note for note in found.notes)
    assert not any("no socket" in note for note in found.notes)


def test_a_run_without_mpi_or_with_several_is_refused() -> None:
    with pytest.raises(HostError, match="no process opened a shared MPI library"):
        trace_binds.judge([Traced(program="/bin/true", files=("/usr/lib/libc.so.6",))], EYES, ())
    two = Eyes(facts=LIBRARIES.get, is_mpi=lambda path: "libmpi" in path, real=str)
    other = Traced(program="/x", files=("/elsewhere/libmpi.so.12",))
    with pytest.raises(HostError, match="the ranks use several MPI libraries: /elsewhere/"):
        trace_binds.judge([RANK, other], two, ())


HELLO = """
#include <mpi.h>
int main(int count, char **words) {
  int rank, sum;
  MPI_Init(&count, &words);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  MPI_Finalize();
  return sum != 1;
}
"""


def traced(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ENVBUILDER_SITE")}
    env |= {"ENVBUILDER_HOME": str(folder / "store"), **variables}
    command = [sys.executable, "-m", "envbuilder", "sites", "trace-binds", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A program of this machine's own MPI."""
    if (shutil.which("mpicc") is None or shutil.which("mpiexec") is None) and not os.environ.get("CI"):
        pytest.skip("this machine has no MPI of its own")
    source = tmp_path / "hello.c"
    source.write_text(HELLO)
    subprocess.run(["mpicc", "-o", str(tmp_path / "hello"), str(source)], check=True)
    return tmp_path / "hello"


@pytest.mark.real
@pytest.mark.parametrize("tracer", ["strace", "ld.so"])
def test_a_real_run_gives_the_binds_of_this_machines_mpi(tracer: str, hello: Path, tmp_path: Path) -> None:
    if tracer == "strace" and shutil.which("strace") is None and not os.environ.get("CI"):
        pytest.skip("this machine has no strace")
    done = traced(tmp_path, "--tracer", tracer, "--json", "--", "mpiexec", "-n", "2", "{}", str(hello))

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ranks"] == 2
    assert found["tracer"] == tracer
    assert re.fullmatch(r"mpich@[0-9.]+", found["mpi"])
    assert found["by_itself"], "libmpi at least"
    assert all(os.path.exists(one["path"]) and one["why"] for one in found["binds"])
    # Debian's MPICH takes its transports out of UCX's folder, by name
    (plug_ins,) = (one for one in found["binds"] if one["kind"] == "folder" and not one["target"])
    assert plug_ins["path"].endswith("/ucx")
    assert "libuct_" in plug_ins["why"]
    assert not list((tmp_path / "store/runs/trace-binds").iterdir())


@pytest.mark.real
def test_what_is_printed_is_what_a_site_file_takes(hello: Path, tmp_path: Path) -> None:
    done = traced(tmp_path, "--", "mpiexec", "-n", "2", str(hello))

    assert done.returncode == 0, done.stderr
    problems = Problems()
    read = SITE.fields["container"].shape.read(load_yaml(done.stdout, "printed").value["container"], problems)
    assert problems.found == []
    (side,) = read.mpi.values()
    assert side.binds
    assert all(re.fullmatch(BIND, bind) for bind in side.binds)
    lines = done.stdout.splitlines()
    binds = [number for number, line in enumerate(lines) if line.strip().startswith("- ")]
    assert all(lines[number - 1].strip().startswith("# ") for number in binds), "each is explained"


@pytest.mark.real
def test_what_cannot_be_traced_is_said(hello: Path, tmp_path: Path) -> None:
    done = traced(tmp_path, "--", "srun", "-n", "2", str(hello))
    assert (done.returncode, "write {} where the program begins" in done.stderr) == (2, True)
    done = traced(tmp_path, "--", "mpiexec", "-n", "1", "false")
    assert done.returncode == 3
    assert "the traced command ended with exit code" in done.stderr
    # without strace the linker tells, and it is said that this is less
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for path in Path(folder).iterdir():
            if path.name != "strace" and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    done = traced(tmp_path, "--", "mpiexec", "-n", "2", str(hello), PATH=str(programs))
    assert done.returncode == 0, done.stderr
    assert "strace is not on the PATH" in done.stderr
    assert "traced by ld.so" in done.stdout
