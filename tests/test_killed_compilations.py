"""A compilation that is killed again and again ends, and does next to nothing twice."""

from __future__ import annotations

import collections
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compiling import COMPILE, FILES, Bench, make_tar

SETUP = """\
import os, subprocess
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
class CMake(build_ext):
    def build_extension(self, ext):
        path = os.path.abspath(self.get_ext_fullpath(ext.name))
        folder = os.path.abspath("build/cmake")
        subprocess.check_call(["cmake", "-S", os.getcwd(), "-B", folder, "-G", os.environ["GENERATOR"],
            "-DOUT=" + os.path.dirname(path), "-DFILE=" + os.path.basename(path)])
        subprocess.check_call(["cmake", "--build", folder])
setup(packages=["slow"], cmdclass={"build_ext": CMake}, ext_modules=[Extension("slow._slow", [])])
"""

CMAKE = """\
cmake_minimum_required(VERSION 3.20)
project(slow LANGUAGES CXX)
file(GLOB parts part*.cpp)
add_library(slow MODULE ${parts})
set_target_properties(slow PROPERTIES PREFIX "" OUTPUT_NAME "${FILE}" SUFFIX "" LIBRARY_OUTPUT_DIRECTORY "${OUT}")
"""

# Stands before the compiler. Every step is written down before it begins, so that none can hide. Once as many have ended as
# are allowed, a step does not: it leaves an object file as a killed compiler does, cut off, and waits to be killed.
LAUNCHER = """\
#!/bin/sh
case "$*" in *slow.dir/part*) ;; *) exec "$@" ;; esac
for word; do [ "$before" = -o ] && out=$word; before=$word; done
echo "began $out" >> {log}
"$@" || exit
if [ "$(grep -c ^ended {log})" -ge "$(cat {allowed})" ]; then
    truncate -s 100 "$out"
    echo "held $out" >> {log}
    exec sleep 1000
fi
echo "ended $out" >> {log}
"""

OBJECTS = 120
AT_ONCE = 2  # compilers; those that run when the kill comes must be run again, whoever wrote the build


class Steps:
    """The compiler's steps, as they were written down."""

    def __init__(self, folder: Path) -> None:
        self.log, self.allowed, self.launcher = folder / "steps.log", folder / "allowed", folder / "launcher"
        self.launcher.write_text(LAUNCHER.format(log=self.log, allowed=self.allowed))
        self.launcher.chmod(0o755)
        self.log.touch()

    def allow(self, number: int) -> None:
        self.allowed.with_suffix(".new").write_text(str(number))
        self.allowed.with_suffix(".new").rename(self.allowed)

    def of(self, what: str) -> list[str]:
        lines = (line.partition(" ") for line in self.log.read_text().splitlines())
        return [out for kind, _, out in lines if kind == what]


def _bench(folder: Path, steps: Steps, generator: str) -> Bench:
    files = {
        "pyproject.toml": FILES["pyproject.toml"].replace("answer", "slow"),
        "setup.py": SETUP,
        "CMakeLists.txt": CMAKE,
        "slow/__init__.py": "",
        **{f"part{n}.cpp": f'extern "C" int part{n}() {{ return {n}; }}\n' for n in range(OBJECTS)},
    }
    archive = make_tar(
        folder / "slow-1.0.tar.gz", [(f"slow-1.0/{name}", text.encode(), {}) for name, text in files.items()]
    )
    source = {"archive": {"url": archive.as_uri(), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}}
    parallel = {"CMAKE_BUILD_PARALLEL_LEVEL": str(AT_ONCE), "MAKEFLAGS": f"-j{AT_ONCE}"}
    env = {"CMAKE_CXX_COMPILER_LAUNCHER": str(steps.launcher), "GENERATOR": generator, **parallel}
    bench = Bench(folder / "bench")
    lacking = [tool for tool in ("cmake", "ninja") if not shutil.which(tool)]
    bench.wants(
        mpi=False, **source, name="slow", version="1.0", env=env, jobs={"memory_gib": 1}, resume=True,
        build_requires=["pip>=23", "setuptools>=68", *lacking], imports=("slow",), packages=(),
    )  # fmt: skip
    return bench


def _tree(pid: int) -> list[int]:
    """A process and all below it, stopped so that none can start another: a scheduler knows them by their control group."""
    found: list[int] = []
    new = [pid]
    while new:
        for one in new:
            os.kill(one, signal.SIGSTOP)
        found += new
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue  # it has ended
        new = [child for child, parent in parents.items() if parent in found and child not in found]
    return found


def _killed(running: subprocess.Popen[bytes], *, alone: bool) -> None:
    """Kill envbuilder with all that it started, as a scheduler does, or it alone, as somebody at a terminal may."""
    pids = [running.pid] if alone else _tree(running.pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    running.communicate()
    while any(_lives(pid) for pid in pids):  # nothing survives it, but a busy machine takes its time
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.real
@pytest.mark.parametrize(("generator", "kills"), [("Ninja", 5), ("Unix Makefiles", 2)])
def test_a_build_that_is_killed_again_and_again_compiles_next_to_nothing_twice(
    tmp_path: Path, generator: str, kills: int
) -> None:
    """All but the last kill end everything; the last one leaves the compilers running."""
    steps = Steps(tmp_path)
    bench = _bench(tmp_path, steps, generator)
    store = bench.root / "store"
    command = [sys.executable, "-m", "envbuilder", "build", "tiny"]
    try:
        for kill in range(1, kills + 1):
            steps.allow(20 * kill)
            held = len(steps.of("held"))
            running = subprocess.Popen(command, env=bench.env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            until = time.monotonic() + 900
            while len(steps.of("held")) == held and running.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            assert running.poll() is None, running.stderr.read() if running.stderr else ""
            assert len(steps.of("held")) > held, "it took too long"
            _killed(running, alone=kill == kills)
            (work,) = (store / "work").iterdir()
            assert not list((store / "envs").glob("*")), "nothing half-done is visible"
            assert bool(list(COMPILE.orphans(str(work)))) == (kill == kills), "only the orphans of the parent live on"
            assert 20 * kill <= len(set(steps.of("ended"))) < OBJECTS
        steps.allow(10**6)

        done = bench.run("build", "tiny")

        assert done.returncode == 0, done.stderr
        logs = "".join(log.read_text() for log in (store / "logs").iterdir())
        assert "removed, since it was not finished: " in logs
        began = collections.Counter(steps.of("began"))
        assert len(began) == OBJECTS
        assert began.total() - OBJECTS <= OBJECTS // 10, [out for out, times in began.items() if times > 1]
        # nothing that was cut off is in it
        (library,) = Path(done.stdout.strip()).glob("lib/python*/site-packages/slow/*.so")
        loaded = ctypes.CDLL(str(library))
        assert [loaded[f"part{n}"]() for n in range(OBJECTS)] == list(range(OBJECTS))
        assert not list((store / "work").iterdir())
    finally:
        for work in (store / "work").glob("*"):
            for pid in list(COMPILE.orphans(str(work))):
                os.kill(pid, signal.SIGKILL)
