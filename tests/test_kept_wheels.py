"""What decides a compiled wheel, and why one is compiled again: each cause is named, alone, in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples
from compiling import SITE, TOLD, Bench

from envbuilder import kept_wheels, recipe, toolchain
from envbuilder import lock as lock_format
from envbuilder.builders import source, venv
from envbuilder.effect import Effect, Loaded
from envbuilder.kept_wheels import Explained
from envbuilder.lock import Lock
from envbuilder.partition import Compilers, Partition
from envbuilder.plan import Product, Write
from envbuilder.target import Compiler, Mpi, Python, Target

SYSTEM = Mpi(
    provider="system", name="mpich", version="4.2", soname="libmpi.so.12", library="/usr/lib/libmpi.so.12", build_id="ab",
    mpicc="/usr/bin/mpicc", mpicxx="/usr/bin/mpicxx", cc_version="gcc 12.2.0", cxx_version="g++ 12.2.0",
)  # fmt: skip
COMPILER = Compiler(path="/usr/bin/cc", version="gcc 12.2.0", cxx="/usr/bin/c++", cxx_version="g++ 12.2.0")
PATCH = {
    "file": "one.patch",
    "sha256": "0" * 64,
    "text": "x",
    "why": "w",
    "replace": "",
    "by": "",
    "path": "",
    "count": 1,
}
LOADED = Loaded(system="lmod", asked=("gcc/12",), names=("gcc/12",), files=(), effect=Effect(set={"GCC": "12"}))


def _target(**changes: Any) -> Target:
    tools = {"cmake": "cmake version 3.25.1", "ninja": "1.11.1"}
    return samples.target(**{"mpi": SYSTEM, "compiler": COMPILER, "tools": tools, "modules": LOADED, **changes})


def _locked(**changes: Any) -> Lock:
    """A lock of one source, of which this is said otherwise."""
    parsed = recipe.parse(json.dumps(samples.RECIPE), "r.yaml")
    locked = samples.locked(samples.request(parsed))
    said = {**locked.request["sources"]["mpi4py"], "patches": [PATCH], **changes.pop("says", {})}
    request = {**locked.request, "sources": {"mpi4py": said}}
    return replace(locked, request=request, bodies={**locked.bodies, **changes})


CAUSES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "source": (
        {lock_format.source_body("mpi4py"): samples.body("mpi4py", "2", sdist=True)}, {}, 'the source (source): "'
    ),
    "patch": (
        {"says": {"patches": [{**PATCH, "sha256": "1" * 64}]}}, {},
        f'a patch (patches.sha256): "{"0" * 64}" -> "{"1" * 64}"',
    ),
    "patches": ({"says": {"patches": []}}, {}, "a patch (patches): [{"),
    "flags": (
        {"says": {"env": {"CFLAGS": "-O3"}}}, {}, 'a variable of the recipe (env.CFLAGS): "-O1" -> "-O3"'
    ),
    "build requirements": (
        {lock_format.build_body("mpi4py"): samples.body("pip", "2")}, {},
        'the build requirements (build.pip): "1 ',
    ),
    "compiler": (
        {}, {"compiler": replace(COMPILER, version="gcc 13.1.0")},
        'the C compiler (compiler): "gcc 12.2.0" -> "gcc 13.1.0"',
    ),
    "C++ compiler": (
        {}, {"compiler": replace(COMPILER, cxx_version="g++ 13.1.0")},
        'the C++ compiler (cxx): "g++ 12.2.0" -> "g++ 13.1.0"',
    ),
    "no C++ compiler": (
        {}, {"compiler": replace(COMPILER, cxx="", cxx_version="")}, 'the C++ compiler (cxx): "g++ 12.2.0" -> nothing'
    ),
    "MPI": ({}, {"mpi": replace(SYSTEM, version="4.3")}, 'MPI (mpi.version): "4.2" -> "4.3"'),
    "another MPI's file": (
        {}, {"mpi": replace(SYSTEM, library="/opt/libmpi.so.12")},
        'MPI (mpi.library): "/usr/lib/libmpi.so.12" -> "/opt/libmpi.so.12"',
    ),
    "MPI's compiler": (
        {}, {"mpi": replace(SYSTEM, cc_version="icx 2024.0")},
        'the C compiler behind MPI\'s wrapper (mpicc): "gcc 12.2.0" -> "icx 2024.0"',
    ),
    "MPI's C++ compiler": (
        {}, {"mpi": replace(SYSTEM, cxx_version="icpx 2024.0")},
        'the C++ compiler behind MPI\'s wrapper (mpicxx): "g++ 12.2.0" -> "icpx 2024.0"',
    ),
    "Python": (
        {}, {"python": replace(samples.target().python, version="3.12.1")},
        'Python (python.version): "3.12.0" -> "3.12.1"',
    ),
    "tool": (
        {}, {"tools": {"cmake": "cmake version 3.31.0", "ninja": "1.11.1"}},
        'a tool of the machine (tools.cmake): "cmake version 3.25.1" -> "cmake version 3.31.0"',
    ),
    "modules": (
        {}, {"modules": replace(LOADED, effect=Effect(set={"GCC": "13"}))},
        'the site\'s modules (modules.effect.set.GCC): "12" -> "13"',
    ),
    "processor": ({}, {"arch": "aarch64"}, 'the processor (arch): "x86_64" -> "aarch64"'),
    "C library": ({}, {"libc": "glibc 2.41"}, 'the C library (libc): "glibc 2.36" -> "glibc 2.41"'),
}  # fmt: skip


def _kept(root: Path, locked: Lock, target: Target) -> Product:
    """A wheel, as a build leaves it in the store."""
    product = _product(root, locked, target)
    product.path.mkdir(parents=True)
    (inputs,) = (one.text for one in product.every() if isinstance(one, Write) and one.path.name == kept_wheels.INPUTS)
    (product.path / kept_wheels.INPUTS).write_text(inputs)
    (product.path / "mpi4py-1-cp312-cp312-linux_x86_64.whl").touch()
    return product


def _product(root: Path, locked: Lock, target: Target) -> Product:
    (product,) = (step for step in _plan(root, locked, target).steps if isinstance(step, Product))
    return product


def _plan(root: Path, locked: Lock, target: Target) -> Any:
    return venv.plan(locked, target, samples.workplace(root))


def _explained(root: Path, locked: Lock, target: Target) -> Explained:
    (found,) = kept_wheels.explain(_plan(root, locked, target))
    return found


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_named_alone_and_in_words(cause: str, tmp_path: Path) -> None:
    said, machine, words = CAUSES[cause]
    _kept(tmp_path, _locked(), _target())

    found = _explained(tmp_path, _locked(**said), _target(**machine))

    assert not found.kept
    assert len(found.differences) == 1, found.differences
    assert found.differences[0].startswith(words)


def test_what_decides_nothing_changes_nothing(tmp_path: Path) -> None:
    product = _kept(tmp_path, _locked(), _target())
    why = {
        "why": "another reason",
        "patches": [{**PATCH, "why": "another reason"}],
        "jobs": {"memory_gib": 9},
        "resume": True,
    }
    moved = samples.body("pip").replace("https://example.org", "https://mirror.example.org")
    elsewhere = replace(COMPILER, path="/opt/cc", cxx="/opt/c++")

    for locked, target in (
        (_locked(says=why), _target()),
        (_locked(**{lock_format.build_body("mpi4py"): moved}), _target()),
        (_locked(), _target(compiler=elsewhere)),
    ):
        found = _explained(tmp_path, locked, target)
        assert found.kept
        assert found.path == str(product.path)


def test_a_tool_that_the_build_requirements_bring_is_not_the_machines(tmp_path: Path) -> None:
    brought = _locked(**{lock_format.build_body("mpi4py"): samples.body("cmake")})

    assert source.inputs(brought, "mpi4py", _target())["tools"] == {"ninja": "1.11.1"}
    newer = source.inputs(brought, "mpi4py", _target(tools={"cmake": "another", "ninja": "1.11.1"}))
    assert newer == source.inputs(brought, "mpi4py", _target())


def test_the_nearest_wheel_is_compared_and_of_another_distribution_none(tmp_path: Path) -> None:
    assert _explained(tmp_path, _locked(), _target()).nearest == ""
    far = _kept(tmp_path, _locked(says={"env": {"A": "1", "B": "2"}}), _target(libc="other"))
    near = _kept(tmp_path, _locked(says={"env": {"CFLAGS": "-O2"}}), _target())
    other = _kept(tmp_path, _locked(says={"env": {}}), _target())
    (other.path / "mpi4py-1-cp312-cp312-linux_x86_64.whl").rename(other.path / "numpy-1-py3-none-any.whl")

    found = _explained(tmp_path, _locked(), _target())

    assert far.path != near.path
    assert (found.nearest, len(found.differences)) == (str(near.path), 1)


def test_a_wheel_of_an_older_envbuilder_is_told_apart_in_words(tmp_path: Path) -> None:
    product = _kept(tmp_path, _locked(), _target())
    old = json.loads((product.path / kept_wheels.INPUTS).read_text())
    for key in ("cxx", "tools", "mpicc", "mpicxx"):
        del old[key]
    old |= {"format": 1, "build": "sha256:0", "gone": 1}
    (product.path / kept_wheels.INPUTS).write_text(json.dumps(old))
    product.path.rename(product.path.with_name("0" * 64))

    said = "\n".join(_explained(tmp_path, _locked(), _target()).differences)

    assert 'the C++ compiler (cxx): nothing -> "g++ 12.2.0"' in said
    assert "envbuilder's way to compile (format): 1 -> 2" in said
    assert "what an older envbuilder knew (gone): 1 -> nothing" in said


# What a compiler says that it is


def _program(folder: Path, name: str, text: str, code: int = 0) -> str:
    """A stand-in for a compiler: it says something about itself and compiles nothing."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g++ (SUSE Linux) 12.3.0\nCopyright (C) 2022", "g++ (SUSE Linux) 12.3.0"),
        ("Cray clang version 15.0.1  (a revision)\nTarget: x86_64", "Cray clang version 15.0.1  (a revision)"),
        ("\nnvc++ 23.1-0 64-bit target on x86-64 Linux -tp zen3", "nvc++ 23.1-0 64-bit target on x86-64 Linux -tp zen3"),
        ("icpc: remark #10441: the compiler is deprecated since 2.3\nicpc (ICC) 2021.10.0 20230609", "icpc (ICC) 2021.10.0 20230609"),
        ("CC: warning: module x 1.0 is old\ng++ (GCC) 9.1.0", "g++ (GCC) 9.1.0"),
        ("a compiler without a number", "a compiler without a number"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_compiler_says_that_it_is(text: str, said: str, tmp_path: Path) -> None:
    assert toolchain.said(_program(tmp_path, "CC", text), None) == said


def test_a_wrapper_says_what_it_calls(tmp_path: Path) -> None:
    """As Cray's do: the version is that of the compiler whose module is loaded."""
    for version in ("12.3.0", "13.2.0"):
        folder = tmp_path / version
        folder.mkdir()
        _program(folder, "g++", f"g++ (GCC) {version}")
        _program(folder, "gcc", f"gcc (GCC) {version}")
    for wrapper, called in (("cc", "gcc"), ("CC", "g++")):
        (tmp_path / wrapper).write_text(f'#!/bin/sh\nexec {called} "$@"\n')
        (tmp_path / wrapper).chmod(0o755)
    partition = Partition(compilers=Compilers(cc="cc", cxx="CC"))

    for version in ("12.3.0", "13.2.0"):
        env = {"PATH": f"{tmp_path}:{tmp_path / version}:/usr/bin:/bin"}
        found = toolchain.compilers(partition, env)
        assert found == Compiler(
            path=str(tmp_path / "cc"), version=f"gcc (GCC) {version}", cxx=str(tmp_path / "CC"), cxx_version=f"g++ (GCC) {version}"
        )  # fmt: skip
        mpi = toolchain.wrapping(
            Mpi(provider="system", name="m", mpicc=f"{tmp_path}/cc -shared", mpicxx=f"{tmp_path}/CC"), env
        )
        assert mpi
        assert (mpi.cc_version, mpi.cxx_version) == (f"gcc (GCC) {version}", f"g++ (GCC) {version}")


def test_a_wrapper_that_calls_nothing_is_no_compiler(tmp_path: Path) -> None:
    """Without a compiler's module, Cray's wrappers end with an error."""
    _program(tmp_path, "cc", "gcc (GCC) 12.3.0")
    _program(tmp_path, "CC", "Error: No supported cpu target is set", code=1)

    found = toolchain.compilers(
        Partition(compilers=Compilers(cc="cc", cxx="CC")), {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )

    assert found == Compiler(path=str(tmp_path / "cc"), version="gcc (GCC) 12.3.0")


def test_targets_and_locks_of_an_older_envbuilder_are_read() -> None:
    old = _target().to_document()
    del old["compiler"]["cxx_version"], old["mpi"]["cc_version"], old["mpi"]["cxx_version"], old["tools"]

    found = Target.from_document(old)

    assert found.compiler == replace(COMPILER, cxx_version="")
    assert found.tools == {}
    # a lock says nothing of compilers, so none becomes stale
    assert found.identity() == _target().identity()


def test_a_compilation_sees_the_partitions_programs_alone() -> None:
    cray = replace(COMPILER, path="/opt/cray/bin/cc", cxx="/opt/cray/bin/CC")
    system = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

    assert _target().search_path == system
    assert _target(compiler=cray).search_path == f"/opt/cray/bin:{system}"
    assert (
        _target(compiler=None, mpi=None, python=Python(path="/p", version="3", soabi="", headers=True)).search_path
        == system
    )


# For real


@pytest.mark.real
def test_the_cache_is_explained(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "bench")
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    flags = {"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}"}
    bench.wants(archive=archive, env={**flags, "CFLAGS": "-O1"}, **TOLD)
    assert "compiled anew; none is kept" in bench.run("build", "tiny", "--explain-cache").stdout
    bench.build()
    (kept,) = json.loads(bench.run("build", "tiny", "--explain-cache", "--json").stdout)["wheels"]
    assert kept["kept"]
    assert (Path(kept["path"]) / "inputs.json").is_file()
    assert (
        "kept, and used, since all that decides it is the same" in bench.run("build", "tiny", "--explain-cache").stdout
    )

    # another C++ compiler: a stand-in that says so and compiles as the machine's does
    cxx = tmp_path / "c++"
    cxx.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "g++ (a stand-in) 99.1.0" && exit\nexec c++ "$@"\n')
    cxx.chmod(0o755)
    site = tmp_path / "other.yaml"
    site.write_text(SITE.read_text() + f"    compilers: {{cxx: {cxx}}}\n")
    bench.site = site
    (line,) = _differences(bench)
    assert line.startswith('the C++ compiler (cxx): "')
    assert line.endswith('-> "g++ (a stand-in) 99.1.0"')

    bench.site = SITE
    bench.wants(archive=archive, env={**flags, "CFLAGS": "-O2"}, **TOLD)
    assert _differences(bench) == ['a variable of the recipe (env.CFLAGS): "-O1" -> "-O2"']
    (there,) = json.loads(bench.run("build", "tiny", "--explain-cache", "--json").stdout)["wheels"]
    assert not Path(there["path"]).exists(), "it builds nothing"


def _differences(bench: Bench) -> list[str]:
    """The lines in which the cache is explained to people."""
    done = bench.run("build", "tiny", "--explain-cache")
    assert done.returncode == 0, done.stderr
    assert "compiled anew; from the nearest kept one" in done.stdout
    return [line.strip() for line in done.stdout.splitlines() if "->" in line]
