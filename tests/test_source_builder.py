"""Compiling from source: what a recipe may say of it, the tools that do it, and real C++ packages that are really compiled."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import samples

import envbuilder
from envbuilder import build, catalog, checkout, lint, recipe, told
from envbuilder import lock as lock_format
from envbuilder.builders import source as builder
from envbuilder.builders import venv
from envbuilder.checkout import Cache
from envbuilder.console import Console
from envbuilder.download import Network
from envbuilder.effect import Around, Effect
from envbuilder.errors import EnvbuilderError, InputError
from envbuilder.pip_config import PipConfig
from envbuilder.places import Origin
from envbuilder.plan import Plan, Run
from envbuilder.report import plan_script, plan_text
from envbuilder.source import Git
from envbuilder.store import Store

WORKSHOP = Path(envbuilder.__file__).parent / "workshop"
SITE = Path(__file__).parent / "sites" / "local.yaml"


def _tool(name: str) -> ModuleType:
    """A tool of the workshop as a module; in builds it is run, never imported."""
    spec = importlib.util.spec_from_file_location(f"workshop_{name}", WORKSHOP / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPILE, UNPACK, REPLACE = _tool("compile"), _tool("unpack"), _tool("replace")


def _document(**source: Any) -> dict[str, Any]:
    """A recipe with one source."""
    return {
        "schema": 1,
        "name": "tiny",
        "summary": "s",
        "variants": [{"version": "1"}],
        "sources": {"answer": {"build_requires": ["pip>=23", "setuptools>=68"], "why": "a reason", **source}},
    }


def _mistakes(document: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        recipe.parse(json.dumps(document), "r.yaml")
    return caught.value.message


# What a recipe may say


ARCHIVE = {"url": "https://example.org/a.tar.gz", "sha256": "0" * 64}
TOLD = {"name": "answer", "version": "1.0"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({}, "exactly one of sdist, archive, git"),
        ({"sdist": "a", "archive": ARCHIVE, **TOLD}, "exactly one of sdist, archive, git"),
        ({"archive": ARCHIVE}, "add `name: ...` and `version: ...`"),
        ({"sdist": "a", "version": "1"}, "remove `name` and `version`"),
        ({"archive": {**ARCHIVE, "sha256": "0"}, **TOLD}, "not of the required form"),
        ({"archive": {**ARCHIVE, "url": "ftp://x/a"}, **TOLD}, "not of the required form"),
        ({"archive": ARCHIVE, **TOLD, "version": "one"}, "is not a version"),
        ({"archive": ARCHIVE, **TOLD, "without_compiler": "wheel"}, "no published wheel"),
        ({"git": {"url": "https://example.org/a"}, **TOLD}, "which commit?"),
        ({"git": {"url": "https://example.org/a", "tag": "-x"}, **TOLD}, "not of the required form"),
        ({"git": {"url": "https://example.org/a", "tag": "a/../b"}, **TOLD}, "not of the required form"),
        ({"git": {"url": "git@example.org:a", "tag": "v1"}, **TOLD}, "not of the required form"),
        ({"git": {"url": "https://example.org/a", "commit": "HEAD"}, **TOLD}, "not of the required form"),
        ({"sdist": "a", "patches": [{"why": "w"}]}, "exactly one of file, replace"),
        ({"sdist": "a", "patches": [{"file": "../x.patch", "why": "w"}]}, "not of the required form"),
        ({"sdist": "a", "patches": [{"file": "/etc/passwd", "why": "w"}]}, "not of the required form"),
        ({"sdist": "a", "patches": [{"file": "x.patch", "by": "y", "why": "w"}]}, "belong to `replace`"),
        ({"sdist": "a", "patches": [{"replace": "x", "by": "y", "why": "w"}]}, "in which file?"),
        ({"sdist": "a", "patches": [{"replace": "x", "in": "../../x", "why": "w"}]}, "not of the required form"),
        ({"sdist": "a", "patches": [{"replace": "x", "in": "x", "count": 0, "why": "w"}]}, "out of range"),
        ({"sdist": "a", "fail_if_log": [{"pattern": "(", "why": "w"}]}, "not a regular expression"),
        ({"sdist": "a", "fail_if_log": [{"pattern": "x" * 301, "why": "w"}]}, "too long"),
        ({"sdist": "a", "jobs": {"memory_gib": 0}}, "out of range"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(source: dict[str, Any], words: str) -> None:
    assert words in _mistakes(_document(**source))


def test_what_older_recipes_say_gives_the_same_request_as_before() -> None:
    request = samples.request(recipe.parse(json.dumps(samples.RECIPE), "r.yaml")).to_document()

    assert request["sources"]["mpi4py"] == {
        "sdist": "mpi4py", "build_requires": ["pip>=23"], "why": "a reason", "env": {"CFLAGS": "-O1"},
        "without_compiler": "wheel",
    }  # fmt: skip
    locked = samples.locked(samples.request(recipe.parse(json.dumps(samples.RECIPE), "r.yaml")))
    assert set(builder.inputs(locked, "mpi4py", samples.target())) == {
        "format", "source", "build", "env", "python", "compiler", "mpi", "arch", "libc",
    }  # fmt: skip


def _written(folder: Path, document: dict[str, Any], **files: str) -> Origin:
    place = folder / str(document["name"])
    (place / "patches").mkdir(parents=True, exist_ok=True)
    (place / "recipe.yaml").write_text(json.dumps(document))
    for name, text in files.items():
        (place / "patches" / f"{name}.patch").write_bytes(text.encode())
    return Origin(name=str(document["name"]), path=place / "recipe.yaml")


PATCH = "--- a/answer.cpp\n+++ b/answer.cpp\n@@ -1 +1 @@\n-41\n+42\n"


def test_the_text_of_a_patch_is_in_the_request_and_decides_the_wheel(tmp_path: Path) -> None:
    document = _document(sdist="mpi4py", patches=[{"file": "patches/one.patch", "why": "w"}], without_compiler="build")
    keys, digests = set(), set()
    for text in (PATCH, PATCH.replace("42", "43"), PATCH.replace("\n", "\r\n")):
        found = catalog.read_recipe(_written(tmp_path, document, one=text))
        locked = samples.locked(samples.request(found))
        (patch,) = locked.request["sources"]["answer"]["patches"]
        assert (patch["text"], patch["sha256"]) == (text, hashlib.sha256(text.encode()).hexdigest())
        keys.add(json.dumps(builder.inputs(locked, "answer", samples.target())["patches"]))
        digests.add(locked.digest)
    assert len(keys) == len(digests) == 3
    assert all("text" not in key and "why" not in key for key in keys)


def test_a_stale_lock_names_the_patch_that_changed_in_one_line(tmp_path: Path) -> None:
    document = _document(sdist="mpi4py", patches=[{"file": "patches/one.patch", "why": "w"}])
    first = samples.locked(samples.request(catalog.read_recipe(_written(tmp_path, document, one=PATCH))))
    now = samples.request(catalog.read_recipe(_written(tmp_path, document, one=PATCH.replace("42", "43") * 50)))

    reasons = lock_format.stale(first, now.to_document())

    assert [reason.partition(":")[0] for reason in reasons] == [
        "sources.answer.patches[0].sha256",
        "sources.answer.patches[0].text",
    ]
    assert all("\n" not in reason and len(reason) < 500 for reason in reasons)


@pytest.mark.parametrize("wrong", ["missing", "link", "binary", "large"])
def test_a_patch_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, wrong: str) -> None:
    document = _document(sdist="mpi4py", patches=[{"file": "patches/one.patch", "why": "w"}])
    origin = _written(tmp_path, document)
    path = origin.path.parent / "patches" / "one.patch"
    (tmp_path / "secret").write_text("secret")
    if wrong == "link":
        path.symlink_to(tmp_path / "secret")
    elif wrong != "missing":
        path.write_bytes(b"\xff\xfe" if wrong == "binary" else b"x" * 2_000_000)

    with pytest.raises(InputError, match=r"recipe\.yaml:1:.*one\.patch") as caught:
        catalog.read_recipe(origin)

    assert "secret" not in caught.value.message
    assert lint.lint_recipe(origin, {"HOME": "/nowhere"})


def _told_lock(**source: Any) -> lock_format.Lock:
    parsed = recipe.parse(json.dumps(_document(**source, **TOLD, without_compiler="build")), "r.yaml")
    asked = samples.request(parsed)
    cache = Cache(
        store=Store(root=Path("/nowhere")), network=Network(pip=PipConfig(), env={}), mirrors={}, waiting=lambda _: None
    )
    bodies = {
        lock_format.MAIN: samples.body("numpy"),
        lock_format.source_body("answer"): told.body(asked.sources["answer"], cache, None, "answer", upgrade=False),
        lock_format.build_body("answer"): samples.body("pip"),
    }
    made = lock_format.Lock(request=asked.to_document(), site="s", partition="p", created_by={"uv": "1"}, bodies=bodies)
    return lock_format.from_envelope(made.envelope(), bodies, "lock.json")


def test_an_archive_is_locked_as_every_body_is_and_is_in_the_environment() -> None:
    locked = _told_lock(archive=ARCHIVE)

    (artefact,) = locked.artefacts(lock_format.source_body("answer"))
    assert (artefact.file, artefact.url, artefact.sha256) == ("answer-1.0.tar.gz", ARCHIVE["url"], "0" * 64)
    assert locked.packages() == {"numpy": "1", "answer": "1.0"}
    assert "answer" not in locked.bodies[lock_format.MAIN]


def test_an_archive_may_not_stand_where_the_environment_is_installed_from() -> None:
    locked = _told_lock(archive=ARCHIVE)
    bodies = {**locked.bodies, lock_format.MAIN: locked.bodies[lock_format.source_body("answer")]}
    wrong = lock_format.Lock(request=locked.request, site="s", partition="p", created_by={}, bodies=bodies)

    with pytest.raises(InputError, match="names no file"):
        lock_format.from_envelope(wrong.envelope(), bodies, "lock.json")


@pytest.mark.parametrize("nasty", samples.SHELL)
def test_nothing_of_a_source_reaches_a_shell(nasty: str, tmp_path: Path) -> None:
    """The script is only read by the shell (`-n`), and its words are those of the plan."""
    locked = _told_lock(
        archive=ARCHIVE,
        patches=[{"replace": nasty, "by": nasty, "in": "x", "why": nasty}],
        fail_if_log=[{"pattern": "x", "why": nasty}],
        env={"A": nasty},
        resume=True,
    )
    plan = venv.plan(locked, samples.target(), samples.workplace(tmp_path))
    text = plan_script.render(plan)

    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    inert = "\n".join(f"{line}" for line in text.splitlines() if line.startswith("say "))
    subprocess.run(["sh", "-c", f"say() {{ :; }}\n{inert}"], cwd=tmp_path, check=True)
    assert not list(tmp_path.rglob("canary*"))
    assert plan_text.render(plan)


# The tools


@pytest.mark.parametrize(
    ("cores", "free", "each", "wanted"),
    [(8, 64.0, 2, 8), (8, 7.9, 2, 3), (8, 1.0, 2, 1), (1, 900.0, 1, 1), (128, 256.0, 2, 128), (4, 0.0, 2, 1)],
)
def test_compilers_at_once(cores: int, free: float, each: int, wanted: int) -> None:
    assert COMPILE.jobs(cores, free, each) == wanted


def test_free_memory_is_the_least_of_machine_and_control_groups(tmp_path: Path) -> None:
    info = "MemTotal: 99 kB\nMemAvailable:   8388608 kB\n"
    job = tmp_path / "job"
    job.mkdir()
    (job / "memory.max").write_text(f"{3 << 30}\n")
    (job / "memory.current").write_text(f"{1 << 30}\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")

    groups = list(COMPILE.memory_groups("0::/job\n", str(tmp_path)))

    assert COMPILE.available_gib(info, []) == 8.0
    assert COMPILE.available_gib(info, groups) == 2.0
    assert COMPILE.available_gib("", []) == 1.0


def test_variables_of_the_recipe_stay() -> None:
    assert COMPILE.parallel(3, {"MAX_JOBS": "1"}) == {"CMAKE_BUILD_PARALLEL_LEVEL": "3", "MAKEFLAGS": "-j3"}


def test_ccache_stands_in_front_where_it_is(tmp_path: Path) -> None:
    front = tmp_path / "lib"
    front.mkdir()
    found = COMPILE.cached(
        "/usr/bin/ccache", "/store", {"PATH": "/bin", "CMAKE_C_COMPILER_LAUNCHER": "x"}, (str(front),)
    )

    assert found["PATH"] == f"{front}:/bin"
    assert found["CCACHE_DIR"] == "/store"
    assert found["CMAKE_CXX_COMPILER_LAUNCHER"] == "/usr/bin/ccache"
    assert "CMAKE_C_COMPILER_LAUNCHER" not in found
    assert COMPILE.cached(None, "/store", {}) == {}


def test_a_log_is_searched_by_line_and_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_text("checking MPI\nMPI was NOT found\nall is well\n")
    rules = [{"pattern": "MPI .*NOT found", "why": "it must use MPI"}, {"pattern": "error:", "why": "w"}]

    (said,) = COMPILE.judged(str(log), rules)
    assert "line 2" in said
    assert "it must use MPI" in said
    assert "MPI was NOT found" in said
    assert COMPILE.judged(str(log), rules[1:]) == []

    log.write_text("a" * 5000 + "\n")
    monkeypatch.setattr(COMPILE, "SEARCH_SECONDS", 0.5)
    started = time.monotonic()
    (slow,) = COMPILE.judged(str(log), [{"pattern": "(a+)+$x", "why": "w"}])
    assert "too slow" in slow
    assert time.monotonic() - started < 30


def test_the_wheel_must_be_the_one_that_the_recipe_names(tmp_path: Path) -> None:
    assert "are 0" in COMPILE.wheel_problem(str(tmp_path), "answer", ["1.0"])
    (tmp_path / "The_answer-1.0-py3-none-any.whl").touch()
    assert not COMPILE.wheel_problem(str(tmp_path), "the-answer", ["1.0"])
    assert "not version 2.0" in COMPILE.wheel_problem(str(tmp_path), "the-answer", ["2.0"])
    assert "is not other" in COMPILE.wheel_problem(str(tmp_path), "other", ["1.0"])


def test_an_object_file_that_is_cut_off_is_seen(tmp_path: Path) -> None:
    whole = tmp_path / "whole.o"
    (tmp_path / "a.c").write_text("int f(void) { return 1; }\n" * 1)
    subprocess.run(["cc", "-c", "a.c", "-o", whole], cwd=tmp_path, check=True)
    content = whole.read_bytes()
    unpacked = tmp_path / "unpacked.o"
    unpacked.write_bytes(b"")
    os.utime(unpacked, (COMPILE.UNPACKED, COMPILE.UNPACKED))
    (tmp_path / "text.so").write_text("INPUT(libc.so.6)")
    for size in (0, 10, 63, 64, len(content) // 2, len(content) - 1):
        (tmp_path / f"cut{size}.o").write_bytes(content[:size])
    (tmp_path / "zeros.o").write_bytes(bytes(500))

    gone = {Path(path).name for path in COMPILE.remove_damaged(str(tmp_path))}

    assert gone == {f"cut{size}.o" for size in (0, 10, 63, 64, len(content) // 2, len(content) - 1)} | {"zeros.o"}


def test_a_text_is_replaced_only_where_it_stands_as_often_as_is_said(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    file = root / "CMakeLists.txt"
    file.write_bytes(b"set(STD 14)\r\nset(STD 14)\n\xff")
    (root / "out").symlink_to("/etc")
    spec = tmp_path / "spec.json"

    def run(**changes: Any) -> None:
        values = {
            "root": str(root),
            "path": "CMakeLists.txt",
            "replace": "STD 14",
            "by": "STD 17",
            "count": 2,
            "why": "w",
        }
        spec.write_text(json.dumps({**values, **changes}))
        REPLACE.main(str(spec))

    with pytest.raises(SystemExit, match=r"there 2 times, not 1.*\n.*because a reason"):
        run(count=1, why="a reason")
    with pytest.raises(SystemExit, match="0 times"):
        run(replace="STD 15")
    with pytest.raises(SystemExit, match="leads out"):
        run(path="out/passwd")
    with pytest.raises(SystemExit, match="no file"):
        run(path="other")
    run()
    assert file.read_bytes() == b"set(STD 17)\r\nset(STD 17)\n\xff"


Members = list[tuple[str, bytes | None, dict[str, Any]]]


def _tar(path: Path, members: Members, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as sink:  # type: ignore[call-overload]
        for name, content, attributes in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content or b"")
            for key, value in attributes.items():
                setattr(entry, key, value)
            sink.addfile(entry, io.BytesIO(content) if content is not None else None)
    return path


def _unpacked(archive: Path, target: Path) -> None:
    UNPACK.unpack(str(archive), hashlib.sha256(archive.read_bytes()).hexdigest(), str(target))


LINK, HARD = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("/tmp/evil", b"x", {})], "leads out"),
        ([("a/../../evil", b"x", {})], "leads out"),
        ([("..", None, {"type": tarfile.DIRTYPE})], "leads out"),
        ([("a\\..\\evil", b"x", {})], "leads out"),
        ([("a\nb", b"x", {})], "strange name"),
        ([("a", None, {**LINK, "linkname": "/etc/passwd"})], "link leads out"),
        ([("d/a", None, {**LINK, "linkname": "../../x"})], "link leads out"),
        ([("top/a", None, {**LINK, "linkname": "../x"})], "link leads out"),
        ([("d/up", None, {**LINK, "linkname": ".."}), ("z", None, {**LINK, "linkname": "d/up/.."})], "link leads out"),
        ([("a", None, {**LINK, "linkname": "b"}), ("a/evil", b"x", {})], "below something that is no folder"),
        ([("a", None, {**HARD, "linkname": "/etc/passwd"})], "leads out"),
        ([("a", None, {**HARD, "linkname": "nothing"})], "leads to nothing"),
        ([("l", None, {**LINK, "linkname": "."}), ("a", None, {**HARD, "linkname": "l/b"})], "through a link|nothing"),
        ([("a", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})], "a device"),
        ([("a", None, {"type": tarfile.FIFOTYPE})], "a device or a pipe"),
        ([], "it is empty|no archive"),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_appears(members: Members, words: str, tmp_path: Path) -> None:
    archive = _tar(tmp_path / "a.tar.gz", members)
    before = set(tmp_path.iterdir())

    with pytest.raises(UNPACK.RefusedError, match=words):
        _unpacked(archive, tmp_path / "inner" / "source")

    assert not (tmp_path / "inner" / "source").exists()
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "inner"}
    assert not Path("/tmp/evil").exists()


def test_bounds_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _tar(tmp_path / "a.tar.gz", [(f"{number}", bytes(1000), {}) for number in range(20)])
    monkeypatch.setattr(UNPACK, "MAX_FILES", 10)
    with pytest.raises(UNPACK.RefusedError, match="more than 10 files"):
        _unpacked(archive, tmp_path / "one")
    monkeypatch.setattr(UNPACK, "MAX_FILES", 100)
    monkeypatch.setattr(UNPACK, "MAX_BYTES", 1500)
    with pytest.raises(UNPACK.RefusedError, match="unpacks to more"):
        _unpacked(archive, tmp_path / "two")


def test_good_archives_of_every_kind_unpack_the_same(tmp_path: Path) -> None:
    members: Members = [
        ("top/", None, {"type": tarfile.DIRTYPE, "mode": 0o777}),
        ("top/run.sh", b"#!/bin/sh\n", {"mode": 0o4755}),
        ("top/d/x", b"x", {"mode": 0o600}),
        ("top/link", None, {**LINK, "linkname": "d/x"}),
    ]
    archives = [_tar(tmp_path / f"a.{kind}", members, f"w:{kind}") for kind in ("gz", "xz", "bz2")]
    archives.append(_tar(tmp_path / "a.tar", members, "w:"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as sink:
        for name, content, attributes in members:
            entry = zipfile.ZipInfo(name)
            kind = stat.S_IFLNK if attributes.get("type") == tarfile.SYMTYPE else stat.S_IFREG
            entry.external_attr = (kind | attributes.get("mode", 0o777)) << 16
            sink.writestr(entry, attributes["linkname"] if kind == stat.S_IFLNK else content or b"")
    for number, archive in enumerate([*archives, tmp_path / "a.zip"]):
        target = tmp_path / str(number)
        _unpacked(archive, target)
        assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
            "d",
            "d/x",
            "link",
            "run.sh",
        ]
        assert [stat.S_IMODE((target / name).stat().st_mode) for name in ("run.sh", "d/x")] == [0o755, 0o644]
        assert os.readlink(target / "link") == "d/x"


def test_another_file_or_none_at_all_is_refused(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "a.tar.gz", [("a", b"x", {})])
    done = subprocess.run(
        [sys.executable, "-I", WORKSHOP / "unpack.py", archive, "0" * 64, tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is refused: its sha256 is" in done.stderr
    for content in (b"", b"no archive", archive.read_bytes()[:-20]):
        archive.write_bytes(content)
        with pytest.raises((UNPACK.RefusedError, OSError)):
            _unpacked(archive, tmp_path / "out")
        assert not (tmp_path / "out").exists()


# Real compilations


EXTENSION = """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <mpi.h>
#include <string>
#include "deep.h"
static PyObject *answer(PyObject *, PyObject *) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING]; int length = 0;
  MPI_Get_library_version(text, &length);
  return Py_BuildValue("(is)", ANSWER, std::string(text, length).c_str());
}
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_answer", "", -1, methods};
PyMODINIT_FUNC PyInit__answer() { return PyModule_Create(&module); }
"""

SETUP = """\
import os, sys, sysconfig
from setuptools import Extension, setup
print("ANSWER-LOG: the user's canary is", os.environ.get("CANARY"))
with open("answer/seen.txt", "w") as sink:
    for name, value in sorted(os.environ.items()):
        print(name, value, sep="=", file=sink)
    print("PATHS", sys.path, file=sink)
setup(packages=["answer"], package_data={"answer": ["seen.txt"]}, ext_modules=[
    Extension("answer._answer", ["answer.cpp"], include_dirs=["third/deep"], libraries=["stdc++"])])
"""

FILES = {
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "answer"\nversion = "1.0"\n',
    "setup.py": SETUP,
    "answer/__init__.py": "from answer._answer import answer\n",
    "answer.cpp": EXTENSION,
    "PKG-INFO": "Metadata-Version: 2.1\nName: answer\nVersion: 1.0\n",
}
DEEP = {"deep.h": "// the answer\n#define ANSWER 41\n// and no more\n"}

DIFF = """\
--- a/third/deep/deep.h
+++ b/third/deep/deep.h
@@ -1,3 +1,3 @@
 // the answer
-#define ANSWER 41
+#define ANSWER 42
 // and no more
"""


class Bench:
    """A store, a recipe, and places from which the source of a small package comes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipes = root / "recipes"
        self.links = root / "links"
        self.links.mkdir()
        files = {**FILES, **{f"third/deep/{name}": text for name, text in DEEP.items()}}
        members: Members = [(f"answer-1.0/{name}", text.encode(), {}) for name, text in files.items()]
        self.archive = _tar(self.links / "answer-1.0.tar.gz", members)
        self.sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()

    def wants(self, *, mpi: bool = True, **source: Any) -> None:
        """Let the recipe say this of its one source."""
        document = _document(
            **{
                "env": {"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}"} if mpi else {},
                "without_compiler": "fail",
                **source,
            }
        )
        document |= {"packages": ["answer"], "imports": ["answer"], "needs": ["mpi"] if mpi else []}
        _written(self.recipes, document, one=DIFF, wrong=DIFF.replace("the answer", "another line"))

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "envbuilder", *words], env=self.env(**variables),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr.replace('Traceback (most recent call last):\n  File "/', ""), done.stderr
        return done

    def env(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENVBUILDER_")}
        return {
            **kept,
            "ENVBUILDER_HOME": str(self.root / "store"),
            "ENVBUILDER_RECIPE_PATH": str(self.recipes),
            "ENVBUILDER_SITE": str(SITE),
            **variables,
        }

    def build(self, *words: str, **variables: str) -> Path:
        done = self.run("build", "tiny", *words, **variables)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def fails(self, *words: str, code: int = 3) -> str:
        done = self.run("build", "tiny", *words)
        assert done.returncode == code, done.stderr
        return done.stderr

    def log(self) -> str:
        """What the last build's programs said."""
        logs = sorted((self.root / "store" / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return logs[-1].read_text()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("source"))


def _answers(prefix: Path) -> tuple[int, str]:
    code = "import answer, json; print(json.dumps(answer.answer()))"
    done = subprocess.run([prefix / "bin/python", "-I", "-c", code], capture_output=True, text=True, check=True)
    number, mpi = json.loads(done.stdout)
    return number, mpi


REPLACED = {"replace": "ANSWER 41", "by": "ANSWER 43", "in": "third/deep/deep.h", "why": "it is forty-three"}


@pytest.mark.real
def test_an_sdist_is_patched_and_compiled_against_the_mpi(bench: Bench) -> None:
    find = {"PIP_FIND_LINKS": str(bench.links)}
    bench.wants(sdist="answer", jobs={"memory_gib": 1})
    assert _answers(bench.build(**find))[0] == 41
    assert "compilers at once" in bench.log()
    bench.wants(sdist="answer", patches=[{"file": "patches/one.patch", "why": "it is forty-two"}])
    number, mpi = _answers(bench.build(**find))
    assert number == 42
    assert "MPICH" in mpi

    bench.wants(
        sdist="answer", patches=[{"file": "patches/one.patch", "why": "w"}, {**REPLACED, "replace": "ANSWER 42"}]
    )
    assert _answers(bench.build(**find))[0] == 43


@pytest.mark.real
def test_an_archive_is_built_from_the_lock_alone_and_refused_when_it_is_another(bench: Bench, tmp_path: Path) -> None:
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    bench.wants(archive=archive, patches=[{"file": "patches/one.patch", "why": "w"}], **TOLD)
    prefix = bench.build()
    assert _answers(prefix)[0] == 42
    assert (
        json.loads((prefix.parents[1] / "manifests" / f"{prefix.name}.json").read_text())["packages"]["answer"] == "1.0"
    )

    # from a bundle, in a store of its own, without the archive
    bundle = tmp_path / "b.tar"
    assert bench.run("bundle", "tiny", "-o", str(bundle)).returncode == 0
    aside = bench.archive.rename(tmp_path / "aside")
    try:
        there = bench.build("--offline", str(bundle), ENVBUILDER_HOME=str(tmp_path / "store"))
    finally:
        aside.rename(bench.archive)
    assert _answers(there)[0] == 42
    kept = {path.name for path in (bench.root / "store" / "wheels").iterdir()}
    assert {path.name for path in (tmp_path / "store" / "wheels").iterdir()} <= kept

    bench.wants(archive={**archive, "sha256": "1" * 64}, **TOLD)
    said = bench.fails()
    assert "not the one that was locked" in said
    assert bench.sha256 in said
    bench.wants(archive=archive, name="answer", version="2.0")
    assert "is not version 2.0 of answer" in bench.fails()


@pytest.mark.real
def test_a_hostile_archive_is_refused_by_the_build(bench: Bench, tmp_path: Path) -> None:
    evil = _tar(tmp_path / "evil.tar.gz", [("a", None, {**LINK, "linkname": "/etc"}), ("a/x", b"", {})])
    mark = hashlib.sha256(evil.read_bytes()).hexdigest()
    bench.wants(mpi=False, archive={"url": evil.as_uri(), "sha256": mark}, **TOLD)

    assert "is refused: a link leads out of it" in bench.fails()


@pytest.mark.real
def test_what_does_not_apply_is_named_with_its_reason(bench: Bench) -> None:
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    bench.wants(archive=archive, patches=[{"file": "patches/wrong.patch", "why": "of a good reason"}], **TOLD)
    said = bench.fails()
    assert "apply patches/wrong.patch to answer, because of a good reason: failed" in said
    assert "Hunk #1 FAILED at 1" in said

    bench.wants(archive=archive, patches=[{**REPLACED, "count": 2, "why": "of another"}], **TOLD)
    said = bench.fails()
    assert "because of another: failed" in said
    assert "there 1 times, not 2: 'ANSWER 41'" in said


@pytest.mark.real
def test_a_line_of_the_log_fails_the_build(bench: Bench) -> None:
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    rule = {"pattern": r"^\s*ANSWER-LOG: .* None$", "why": "without a canary it is nothing"}
    bench.wants(archive=archive, fail_if_log=[rule], **TOLD)

    said = bench.fails()

    assert "without a canary it is nothing" in said
    assert "ANSWER-LOG: the user's canary is None" in said
    bench.wants(archive=archive, fail_if_log=[{**rule, "pattern": "not in the log"}], **TOLD)
    bench.build()


CANARY = "canary-of-the-user"


@pytest.mark.real
def test_nothing_of_the_user_is_seen_by_the_compilation(bench: Bench, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text("[wheel]\nbuild-option = --canary-of-the-user\n")
    (home / ".pydistutils.cfg").write_text(
        "[build_ext]\ndefine = CANARY_OF_THE_USER\ninclude_dirs = /canary-of-the-user\n"
    )
    site = home / ".local" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    site.mkdir(parents=True)
    (site / "usercustomize.py").write_text("import os; os.environ['CANARY'] = 'canary-of-the-user'\n")
    injected = tmp_path / "path"
    injected.mkdir()
    (injected / "sitecustomize.py").write_text("import os; os.environ['CANARY'] = 'canary-of-the-user'\n")
    env = {"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}", "ASKED_BY": "the recipe"}
    patched = {"patches": [REPLACED]}
    more: tuple[dict[str, Any], ...] = (
        {},
        patched,
        {**patched, "resume": True, "patches": [{**REPLACED, "by": "ANSWER 3"}]},
    )
    for source in more:
        bench.wants(sdist="answer", env=env, **source)
        names = ("CANARY", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "LD_LIBRARY_PATH", "CPATH",
                 "LIBRARY_PATH", "C_INCLUDE_PATH", "DISTUTILS_DEBUG", "CMAKE_PREFIX_PATH")  # fmt: skip
        prefix = bench.build(
            **dict.fromkeys(names, f"/{CANARY}"),
            HOME=str(home),
            PYTHONPATH=str(injected),
            PIP_FIND_LINKS=str(bench.links),
        )
        (seen,) = prefix.glob("lib/python*/site-packages/answer/seen.txt")
        assert CANARY not in seen.read_text()
        assert "ASKED_BY=the recipe" in seen.read_text()
        assert CANARY not in bench.log().replace("the user's canary is None", "")
        assert str(tmp_path) not in seen.read_text()


def test_what_the_modules_of_the_site_do_is_seen_by_the_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/{CANARY}")
    effect = Effect(set={"MPI_HOME": "/opt/mpi"}, paths={"LD_LIBRARY_PATH": Around(before=("/opt/mpi/lib",))})
    step = Run(title="compile", argv=("env",), clean=True)
    plan = Plan(name="x@1", identifier="x", prefix=tmp_path / "x", inputs={}, steps=(step,), effect=effect)

    build.execute(plan, Store(root=tmp_path), Console(quiet=True), tmp_path / "log")

    seen = (tmp_path / "log").read_text()
    assert "MPI_HOME=/opt/mpi\n" in seen
    assert "LD_LIBRARY_PATH=/opt/mpi/lib\n" in seen
    assert CANARY not in seen


@pytest.mark.real
def test_the_plan_as_a_script_compiles_the_same(bench: Bench, tmp_path: Path) -> None:
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    more = {"patches": [{"file": "patches/one.patch", "why": "w"}], "jobs": {"memory_gib": 1}, "resume": True}
    bench.wants(archive=archive, **more, **TOLD)
    store = {"ENVBUILDER_HOME": str(tmp_path / "store")}
    command = [sys.executable, "-m", "envbuilder", "plan", "tiny", "--script"]
    script = subprocess.run(
        command, cwd=tmp_path, env=bench.env(**store), capture_output=True, text=True, check=True
    ).stdout
    done = subprocess.run(
        ["sh"], input=script, cwd=tmp_path, env=bench.env(**store), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (prefix,) = tmp_path.glob("tiny-1-*")
    assert _answers(prefix)[0] == 42


# Repositories


def _git(folder: Path, *words: str) -> str:
    env = {
        **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
    }  # fmt: skip
    command = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def _repository(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    _git(folder, "init", "-q", "-b", "main")
    _commit(folder, files)
    return folder


def _commit(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "a change")
    return _git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository at v1.0 with a submodule, named by a relative address, that its build needs."""
    _repository(tmp_path / "git" / "deep", DEEP)
    whole = _repository(tmp_path / "git" / "answer", FILES)
    _git(whole, "submodule", "--quiet", "add", "../deep", "third/deep")
    # what must neither run nor change what is locked
    hostile = "*.cpp filter=evil\n*.txt export-ignore\nid.txt export-subst\n"
    _commit(whole, {".gitattributes": hostile, "kept.txt": "kept\n", "id.txt": "$Format:%D$\n"})
    _git(whole, "tag", "-a", "-m", "one", "v1.0")
    return whole


def _cache(root: Path, mirrors: dict[str, str] | None = None) -> Cache:
    network = Network(pip=PipConfig(), env={})
    return Cache(store=Store(root=root), network=network, mirrors=mirrors or {}, waiting=lambda _: None)


def test_a_commit_gives_the_same_tar_anywhere_and_runs_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Git(url=repository.as_uri(), tag="v1.0", submodules=True)
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[filter "evil"]\n  smudge = touch {tmp_path}/canary; cat\n[core]\n  hooksPath = {tmp_path}/hooks\n'
    )
    (tmp_path / "hooks").mkdir()
    for hook in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (tmp_path / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
        (tmp_path / "hooks" / hook).chmod(0o755)
    tars = []
    for number in range(2):
        parts = checkout.settled(asked, _cache(tmp_path / f"store{number}"))
        sink = io.BytesIO()
        checkout.write(parts, _cache(tmp_path / f"store{number}"), sink)
        tars.append(sink.getvalue())
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))

    assert tars[0] == tars[1]
    assert not (tmp_path / "canary").exists()
    assert [part.path for part in parts] == ["", "third/deep"]
    with tarfile.open(fileobj=io.BytesIO(tars[0])) as whole:
        names = whole.getnames()
        assert whole.extractfile("id.txt").read() == b"$Format:%D$\n"  # type: ignore[union-attr]
    assert {"third/deep/deep.h", "kept.txt", "answer.cpp", ".gitmodules"} <= set(names)
    without = checkout.settled(Git(url=repository.as_uri(), tag="v1.0"), _cache(tmp_path / "store0"))
    assert without == parts[:1]


def test_mirrors_hold_for_repositories_and_their_submodules(repository: Path, tmp_path: Path) -> None:
    _git(repository, "submodule", "--quiet", "set-url", "third/deep", "git@example.org:deep")
    _commit(repository, {})
    _git(repository, "tag", "v1.1")
    cache = _cache(tmp_path / "store", {"https://example.org/": repository.parent.as_uri()})

    parts = checkout.settled(Git(url="https://example.org/answer", tag="v1.1", submodules=True), cache)

    assert [part.url for part in parts] == ["https://example.org/answer", "https://example.org/deep"]
    checkout.write(parts, cache, io.BytesIO())


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("../deep", "https://example.org/a/deep"),
        ("../../x/deep.git", "https://example.org/x/deep.git"),
        ("git@host.org:x/deep.git", "https://host.org/x/deep.git"),
        ("ssh://git@host.org/x", "https://host.org/x"),
        ("https://host.org/x", "https://host.org/x"),
    ],
)
def test_addresses_of_submodules(url: str, wanted: str) -> None:
    assert checkout._address("https://example.org/a/whole.git", url) == wanted


@pytest.mark.parametrize("url", ["ext::sh -c touch% canary", "--upload-pack=touch canary", "/etc", "file:///x;y"])
def test_a_strange_submodule_is_refused(repository: Path, tmp_path: Path, url: str) -> None:
    modules = f'[submodule "d"]\n\tpath = third/deep\n\turl = "{url}"\n'
    commit = _commit(repository, {".gitmodules": modules})

    with pytest.raises(EnvbuilderError) as caught:
        checkout.settled(Git(url=repository.as_uri(), commit=commit, submodules=True), _cache(tmp_path / "store"))

    assert caught.value.hint
    assert not list(tmp_path.rglob("canary*"))


def test_a_tag_that_does_not_mean_the_commit_is_refused(repository: Path, tmp_path: Path) -> None:
    first = _git(repository, "rev-parse", "v1.0^{}")
    url = repository.as_uri()
    assert checkout.settled(Git(url=url, tag="v1.0", commit=first), _cache(tmp_path / "s"))[0].commit == first
    second = _commit(repository, {"new": ""})
    _git(repository, "tag", "-f", "v1.0")

    with pytest.raises(
        InputError, match=f"v1.0 is not the commit that the recipe says: it means {second}, not {first}"
    ):
        checkout.settled(Git(url=url, tag="v1.0", commit=first), _cache(tmp_path / "s"))
    with pytest.raises(InputError, match="has no tag v9"):
        checkout.settled(Git(url=url, tag="v9"), _cache(tmp_path / "s"))
    gone = checkout.settled(Git(url=url, commit="0" * 40), _cache(tmp_path / "s"))
    with pytest.raises(EnvbuilderError, match=r"no commit|cannot be fetched"):
        checkout.write(gone, _cache(tmp_path / "s"), io.BytesIO())


@pytest.mark.real
def test_a_commit_with_a_submodule_is_built_and_stays_when_the_tag_moves(
    bench: Bench, repository: Path, tmp_path: Path
) -> None:
    source = {"git": {"url": repository.as_uri(), "tag": "v1.0", "submodules": True}, **TOLD}
    bench.wants(**source, patches=[{**REPLACED, "by": "ANSWER 77"}])
    lock = tmp_path / "lock"
    assert bench.run("lock", "tiny", "-o", str(lock)).returncode == 0
    body = (lock / "pylock.source-answer.toml").read_text()
    first = _git(repository, "rev-parse", "v1.0^{}")
    assert f'commit-id = "{first}"' in body
    assert _git(repository.parent / "deep", "rev-parse", "HEAD") in body

    _commit(repository, {"answer/__init__.py": "raise SystemError\n"})
    _git(repository, "tag", "-f", "v1.0")
    # in a store that has never seen it, from the lock alone: the old commit
    there = tmp_path / "store"
    assert _answers(bench.build("--lock", str(lock), ENVBUILDER_HOME=str(there)))[0] == 77

    done = bench.run("lock", "tiny", "-o", str(lock))
    assert done.returncode == 2
    assert f"the tag v1.0 was moved since it was locked: from {first}" in done.stderr
    assert (lock / "pylock.source-answer.toml").read_text() == body
    assert bench.run("lock", "tiny", "-o", str(lock), "--upgrade", "answer").returncode == 0
    assert (lock / "pylock.source-answer.toml").read_text() != body


@pytest.mark.real
def test_the_cache_is_explained(bench: Bench) -> None:
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    bench.wants(mpi=True, archive=archive, env={"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}", "CFLAGS": "-O1"}, **TOLD)
    bench.build()
    (kept,) = json.loads(bench.run("build", "tiny", "--explain-cache", "--json").stdout)["wheels"]
    assert kept["kept"]
    assert (Path(kept["path"]) / "inputs.json").is_file()

    bench.wants(archive=archive, env={"CC": "{{ mpi.cc }}", "CXX": "{{ mpi.cc }}", "CFLAGS": "-O2"}, **TOLD)
    done = bench.run("build", "tiny", "--explain-cache")
    assert done.returncode == 0
    assert "compiled anew" in done.stdout
    assert 'env.CFLAGS: "-O1" -> "-O2"' in done.stdout
    assert done.stdout.count("->") == 1
    (there,) = json.loads(bench.run("build", "tiny", "--explain-cache", "--json").stdout)["wheels"]
    assert not Path(there["path"]).exists()


# A compilation that is killed


SLOW_SETUP = """\
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

SLOW_CMAKE = """\
cmake_minimum_required(VERSION 3.20)
project(slow LANGUAGES CXX)
file(GLOB parts part*.cpp)
add_library(slow MODULE ${parts})
set_target_properties(slow PROPERTIES PREFIX "" OUTPUT_NAME "${FILE}" SUFFIX "" LIBRARY_OUTPUT_DIRECTORY "${OUT}")
"""

OBJECTS = 40


def _slow_project(path: Path) -> str:
    files = {
        "pyproject.toml": FILES["pyproject.toml"].replace("answer", "slow"),
        "setup.py": SLOW_SETUP,
        "CMakeLists.txt": SLOW_CMAKE,
        "slow/__init__.py": "",
        **{f"part{n}.cpp": f"#include <string>\nint part{n}() {{ return {n}; }}\n" for n in range(OBJECTS)},
    }
    _tar(path, [(f"slow-1.0/{name}", text.encode(), {}) for name, text in files.items()])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compiling(work: Path) -> list[int]:
    return list(COMPILE.orphans(str(work)))


@pytest.mark.real
@pytest.mark.parametrize("generator", ["Ninja", "Unix Makefiles"])
def test_a_compilation_killed_five_times_goes_on(bench: Bench, tmp_path: Path, generator: str) -> None:
    log, launcher, archive = tmp_path / "objects.log", tmp_path / "launcher", tmp_path / "slow-1.0.tar.gz"
    launcher.write_text(f'#!/bin/sh\nfor out; do :; done\nsleep 0.3\n"$@" || exit 1\necho "$*" >> {log}\n')
    launcher.chmod(0o755)
    env = {"CMAKE_CXX_COMPILER_LAUNCHER": str(launcher), "GENERATOR": generator}
    source = {"archive": {"url": archive.as_uri(), "sha256": _slow_project(archive)}, "name": "slow", "version": "1.0"}
    bench.wants(mpi=False, **source, env=env, jobs={"memory_gib": 1}, resume=True)
    recipe_file = bench.recipes / "tiny" / "recipe.yaml"
    recipe_file.write_text(
        recipe_file.read_text().replace('"packages": ["answer"]', '"packages": []').replace('["answer"]', "[]")
    )
    home = tmp_path / "store"

    def made() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    command = [sys.executable, "-m", "envbuilder", "build", "tiny"]
    for kill in range(5):
        before = made()
        running = subprocess.Popen(
            command, env=bench.env(ENVBUILDER_HOME=str(home)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        until = time.monotonic() + 120
        while made() < before + 5 and time.monotonic() < until and running.poll() is None:
            time.sleep(0.05)
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        running.send_signal(signal.SIGKILL)
        running.communicate()
        (work,) = (home / "work").iterdir()
        assert not list((home / "envs").glob("*"))
        if kill % 2:  # the machine goes down; else only we are gone, and our compilers go on for a while
            for pid in _compiling(work):
                os.kill(pid, signal.SIGKILL)
    assert 25 <= made() < OBJECTS + 5

    done = bench.run("build", "tiny", ENVBUILDER_HOME=str(home))
    assert done.returncode == 0, done.stderr
    objects = [
        line.split(" -o ")[1].split()[0]
        for line in log.read_text().splitlines()
        if "slow.dir/part" in line and " -c " in line
    ]
    # a kill between the end of a compilation and its line in the log hides one object each time
    assert OBJECTS - 5 <= len(set(objects)) <= OBJECTS
    assert len(objects) - OBJECTS <= OBJECTS // 10, "compiled twice"
    assert not list((home / "work").iterdir())
    assert not _compiling(work)
