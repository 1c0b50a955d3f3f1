"""What a compilation sees: the recipe and the partition, and nothing of the user, by whatever way it might come in."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from breaking import uv
from compiling import EXTENSION, REPLACED, SETUP, SITE, Bench, answers

from envbuilder import build
from envbuilder.console import Console
from envbuilder.effect import Around, Effect
from envbuilder.plan import Plan, Run
from envbuilder.report import plan_script
from envbuilder.store import Store

# Each way in leaves its own mark in what is compiled: `canary-` and the name of the way.
VARIABLES = (
    "CANARY", "CCACHE_PREFIX", "CMAKE_GENERATOR", "CMAKE_PREFIX_PATH", "CMAKE_TOOLCHAIN_FILE", "COMPILER_PATH",
    "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "LOGNAME", "MAKEFLAGS", "MAX_JOBS",
    "PKG_CONFIG_PATH", "PYTHONUSERBASE", "SETUPTOOLS_SCM_PRETEND_VERSION", "USER",
)  # fmt: skip
MACROS = ("CFLAGS", "CPPFLAGS", "CXXFLAGS", "PYDISTUTILS")
MARKS = "".join(
    f'#ifdef BY_{way}\nconst char *PREFIX(by_{way})(void) {{ return "canary-{way}"; }}\n#endif\n' for way in MACROS
)
MARKED = {
    "setup.py": SETUP.replace('["answer.cpp"]', '["answer.cpp", "plain.c"]'),
    "answer.cpp": f"{EXTENSION}#define PREFIX(name) name##_cxx\n{MARKS}"
    "#if __has_include(<canary.h>)\n#include <canary.h>\n#endif\n",
    "plain.c": f"#define PREFIX(name) name\n{MARKS}",
}
PROGRAMS = ("gcc", "g++", "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-g++", "ld", "cmake", "pkg-config")


def _user(root: Path) -> dict[str, str]:
    """The variables of a user whose surroundings are full of canaries."""
    home = root / "canary-HOME"
    for folder in ("pip", ".config/pip"):
        (home / folder).mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(f"[global]\nlog = {root}/pip-has-read-its-configuration\n")
    (home / ".pydistutils.cfg").write_text("[build_ext]\ndefine = BY_PYDISTUTILS\n")
    headers, modules, programs, temporary = (
        root / f"canary-{name}" for name in ("CPATH", "PYTHONPATH", "PATH", "TMPDIR")
    )
    for folder in (headers, modules, programs, temporary):
        folder.mkdir()
    (headers / "canary.h").write_text('extern "C" const char *by_cpath() { return "canary-CPATH"; }\n')
    (modules / "sitecustomize.py").write_text("import os; os.environ['SITECUSTOMIZE'] = 'canary-sitecustomize'\n")
    for name in (*PROGRAMS, "canary-CC", "canary-CXX"):
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec /usr/bin/{ {"canary-CC": "cc", "canary-CXX": "c++"}.get(name, name) } "$@"\n')
        path.chmod(0o755)
    return {
        **{name: f"/canary-{name}" for name in VARIABLES},
        "HOME": str(home),
        "CC": str(programs / "canary-CC"),
        "CXX": str(programs / "canary-CXX"),
        "CFLAGS": "-DBY_CFLAGS",
        "CPPFLAGS": "-DBY_CPPFLAGS",
        "CXXFLAGS": "-DBY_CXXFLAGS",
        "LDFLAGS": "-Wl,-rpath,/canary-LDFLAGS",
        "CPATH": str(headers),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(modules),
        "TMPDIR": str(temporary),
    }


WAYS = {*VARIABLES, *MACROS, "CC", "CPATH", "CXX", "HOME", "LDFLAGS", "PATH", "PYTHONPATH", "TMPDIR", "sitecustomize"}


def _canaries(contents: list[bytes]) -> set[str]:
    """The ways by which something of the user came in."""
    return {way for way in WAYS if any(f"canary-{way}".encode() in content for content in contents)}


@pytest.mark.real
def test_nothing_of_the_user_is_seen_by_a_compilation(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench", files=MARKED)
    variables = _user(tmp_path)
    env = {"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}", "ASKED_BY": "the recipe"}
    bench.wants(sdist="answer", env=env, patches=[REPLACED], resume=True)
    (bench.folder / "setup.cfg").write_text("[build_ext]\ndefine = BY_PYDISTUTILS\n")

    prefix = bench.build(
        **variables, PIP_FIND_LINKS=str(bench.links), UV_COMPILE_BYTECODE="1", UV_VENV_SEED="1", UV_LINK_MODE="symlink"
    )

    (package,) = prefix.glob("lib/python*/site-packages/answer")
    contents = [path.read_bytes() for path in package.iterdir()]
    assert _canaries(contents) == set()
    assert not (tmp_path / "pip-has-read-its-configuration").exists()
    assert b"ASKED_BY=the recipe" in (package / "seen.txt").read_bytes()
    seen = (package / "seen.txt").read_text()
    assert str(tmp_path / "bench" / "store") in seen
    assert str(tmp_path) not in seen.replace(str(tmp_path / "bench" / "store"), "")
    # nor by the installation
    assert not list(prefix.rglob("*.pyc"))
    assert not list(prefix.glob("lib/python*/site-packages/pip*"))
    assert not package.is_symlink()
    assert not any(path.is_symlink() for path in package.iterdir())
    assert answers(prefix)[0] == 43


@pytest.mark.real
def test_a_bare_compilation_sees_every_canary(tmp_path: Path) -> None:
    """The control of the test above: each of these ways does lead into what pip compiles when nothing is done about it."""
    without_mpi = MARKED["answer.cpp"]
    for old, new in (
        ("#include <mpi.h>", ""),
        ("MPI_MAX_LIBRARY_VERSION_STRING", "9"),
        ("MPI_Get_library_version(text, &length);", ""),
    ):
        without_mpi = without_mpi.replace(old, new)
    bench = Bench(tmp_path, files={**MARKED, "answer.cpp": without_mpi})
    uv("venv", "-q", tmp_path / "venv", "-p", sys.executable)
    uv("pip", "install", "-q", "-p", tmp_path / "venv/bin/python", "pip>=23,<27", "setuptools>=68,<85")
    command = [
        tmp_path / "venv/bin/python",
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
    ]

    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    subprocess.run([*command, bench.archive], cwd=tmp_path, env={**kept, **_user(tmp_path)}, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert _canaries([archive.read(name) for name in archive.namelist()]) == WAYS
    assert (tmp_path / "pip-has-read-its-configuration").exists()


SAYS = """\
schema: 1
name: says
summary: A machine without modules that says what its compilations need
default_partition: host
partitions:
  host:
    features: [cpu, mpi]
    mpi: {{provider: wheel, package: mpich}}
    exports_after_modules:
      - {{set: CFLAGS, to: -DBY_CFLAGS, why: a reason}}
      - {{prepend: CPATH, to: {headers}, why: a reason}}
      - {{prepend: PATH, to: {programs}, why: a reason}}
"""


@pytest.mark.real
def test_what_the_site_says_is_seen_by_a_compilation(tmp_path: Path) -> None:
    variables = _user(tmp_path)
    site = tmp_path / "says.yaml"
    site.write_text(SAYS.format(headers=variables["CPATH"], programs=variables["PATH"].partition(":")[0]))
    bench = Bench(tmp_path / "bench", site=site, files=MARKED)
    bench.wants(archive={"url": bench.archive.as_uri(), "sha256": bench.sha256}, name="answer", version="1.0")

    prefix = bench.build()

    (package,) = prefix.glob("lib/python*/site-packages/answer")
    assert _canaries([path.read_bytes() for path in package.iterdir()]) == {"CFLAGS", "CPATH", "PATH"}
    # and it is part of what decides the wheel: without it, another one
    bench.site = SITE
    done = bench.run("build", "tiny", "--explain-cache")
    assert "the site's modules (modules)" in done.stdout


def test_what_the_modules_of_the_site_do_is_seen_by_the_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "canary")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/canary")
    effect = Effect(set={"MPI_HOME": "/opt/mpi"}, paths={"LD_LIBRARY_PATH": Around(before=("/opt/mpi/lib",))})
    step = Run(title="compile", argv=("env",), clean=True)
    plan = Plan(name="x@1", identifier="x", prefix=tmp_path / "x", inputs={}, steps=(step,), effect=effect)

    build.execute(plan, Store(root=tmp_path), Console(quiet=True), tmp_path / "log")
    script = plan_script.render(plan)
    by_hand = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True).stdout

    for seen in ((tmp_path / "log").read_text(), by_hand):
        assert "MPI_HOME=/opt/mpi\n" in seen
        assert "LD_LIBRARY_PATH=/opt/mpi/lib\n" in seen
        assert "canary" not in seen
