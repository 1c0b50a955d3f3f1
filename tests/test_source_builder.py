"""Compiling from source: what a recipe may say of it, the tools that do it, and real C++ packages that are really compiled."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import samples
from compiling import (
    COMPILE,
    REPLACE,
    REPLACED,
    TOLD,
    UNPACK,
    WORKSHOP,
    Bench,
    Members,
    answers,
    make_tar,
    recipe_document,
    write_recipe,
)  # fmt: skip

from envbuilder import catalog, lint, recipe, told
from envbuilder import lock as lock_format
from envbuilder.builders import source as builder
from envbuilder.builders import venv
from envbuilder.checkout import Cache
from envbuilder.download import Network
from envbuilder.errors import InputError
from envbuilder.pip_config import PipConfig
from envbuilder.report import plan_script, plan_text
from envbuilder.store import Store


def _mistakes(document: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        recipe.parse(json.dumps(document), "r.yaml")
    return caught.value.message


# What a recipe may say


ARCHIVE = {"url": "https://example.org/a.tar.gz", "sha256": "0" * 64}


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
    assert words in _mistakes(recipe_document(**source))


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


PATCH = "--- a/answer.cpp\n+++ b/answer.cpp\n@@ -1 +1 @@\n-41\n+42\n"


def test_the_text_of_a_patch_is_in_the_request_and_decides_the_wheel(tmp_path: Path) -> None:
    document = recipe_document(
        sdist="mpi4py", patches=[{"file": "patches/one.patch", "why": "w"}], without_compiler="build"
    )
    keys, digests = set(), set()
    for text in (PATCH, PATCH.replace("42", "43"), PATCH.replace("\n", "\r\n")):
        found = catalog.read_recipe(write_recipe(tmp_path, document, one=text))
        locked = samples.locked(samples.request(found))
        (patch,) = locked.request["sources"]["answer"]["patches"]
        assert (patch["text"], patch["sha256"]) == (text, hashlib.sha256(text.encode()).hexdigest())
        keys.add(json.dumps(builder.inputs(locked, "answer", samples.target())["patches"]))
        digests.add(locked.digest)
    assert len(keys) == len(digests) == 3
    assert all("text" not in key and "why" not in key for key in keys)


def test_a_stale_lock_names_the_patch_that_changed_in_one_line(tmp_path: Path) -> None:
    document = recipe_document(sdist="mpi4py", patches=[{"file": "patches/one.patch", "why": "w"}])
    first = samples.locked(samples.request(catalog.read_recipe(write_recipe(tmp_path, document, one=PATCH))))
    now = samples.request(catalog.read_recipe(write_recipe(tmp_path, document, one=PATCH.replace("42", "43") * 50)))

    reasons = lock_format.stale(first, now.to_document())

    assert [reason.partition(":")[0] for reason in reasons] == [
        "sources.answer.patches[0].sha256",
        "sources.answer.patches[0].text",
    ]
    assert all("\n" not in reason and len(reason) < 500 for reason in reasons)


@pytest.mark.parametrize("wrong", ["missing", "link", "binary", "large"])
def test_a_patch_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, wrong: str) -> None:
    document = recipe_document(sdist="mpi4py", patches=[{"file": "patches/one.patch", "why": "w"}])
    origin = write_recipe(tmp_path, document)
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
    parsed = recipe.parse(json.dumps(recipe_document(**source, **TOLD, without_compiler="build")), "r.yaml")
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
    archive = make_tar(tmp_path / "a.tar.gz", members)
    before = set(tmp_path.iterdir())

    with pytest.raises(UNPACK.RefusedError, match=words):
        _unpacked(archive, tmp_path / "inner" / "source")

    assert not (tmp_path / "inner" / "source").exists()
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "inner"}
    assert not Path("/tmp/evil").exists()


def test_bounds_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", [(f"{number}", bytes(1000), {}) for number in range(20)])
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
    archives = [make_tar(tmp_path / f"a.{kind}", members, f"w:{kind}") for kind in ("gz", "xz", "bz2")]
    archives.append(make_tar(tmp_path / "a.tar", members, "w:"))
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
    archive = make_tar(tmp_path / "a.tar.gz", [("a", b"x", {})])
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


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("source"))


@pytest.mark.real
def test_an_sdist_is_patched_and_compiled_against_the_mpi(bench: Bench) -> None:
    find = {"PIP_FIND_LINKS": str(bench.links)}
    bench.wants(sdist="answer", jobs={"memory_gib": 1})
    assert answers(bench.build(**find))[0] == 41
    assert "compilers at once" in bench.log()
    bench.wants(sdist="answer", patches=[{"file": "patches/one.patch", "why": "it is forty-two"}])
    number, mpi = answers(bench.build(**find))
    assert number == 42
    assert "MPICH" in mpi

    bench.wants(
        sdist="answer", patches=[{"file": "patches/one.patch", "why": "w"}, {**REPLACED, "replace": "ANSWER 42"}]
    )
    assert answers(bench.build(**find))[0] == 43


@pytest.mark.real
def test_an_archive_is_built_from_the_lock_alone_and_refused_when_it_is_another(bench: Bench, tmp_path: Path) -> None:
    archive = {"url": bench.archive.as_uri(), "sha256": bench.sha256}
    bench.wants(archive=archive, patches=[{"file": "patches/one.patch", "why": "w"}], **TOLD)
    prefix = bench.build()
    assert answers(prefix)[0] == 42
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
    assert answers(there)[0] == 42
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
    evil = make_tar(tmp_path / "evil.tar.gz", [("a", None, {**LINK, "linkname": "/etc"}), ("a/x", b"", {})])
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
    assert answers(prefix)[0] == 42
