"""Drift: what a machine does differently is named, with what it was; what did not change is not.

The real ones load modules of a tree of their own with the machine's Lmod, and link against libraries made here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from testbed import machine

from envbuilder import catalog, cli, drift, gate, host, linking, modules, proof, store, today, witness
from envbuilder.drift import Change, Today
from envbuilder.effect import Around, Effect, Loaded
from envbuilder.environment import Environment
from envbuilder.evidence import Outcome
from envbuilder.process import patched
from envbuilder.proof import Circumstances, Proof
from envbuilder.report import changes as rendering
from envbuilder.store import Store

LMOD = Path("/usr/share/lmod/lmod/init/bash")
EFFECT = Effect(set={"A": "1"}, paths={"LD_LIBRARY_PATH": Around(before=("/m/1.0/lib",))})
MPI = {"soname": "libmpi.so.12", "build_id": "aa"}
LIBC = {"soname": "libc.so.6", "build_id": "cc"}


def _environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "identifier": "e-1-abc", "builder": "venv", "recipe": "e", "version": "1", "site": "here", "partition": "host",
        "prefix": "/store/envs/e-1-abc", "digest": "d" * 64, "lock_digest": "l" * 64,
        "python": {"path": "/opt/py/bin/python3", "version": "3.11.7", "soabi": ""}, "features": (), "imports": (),
        "packages": {}, "records": {}, "written": {}, "mpi": None, "settings": (), "caches": "/c",
        "max_proof_age_hours": 168, "created": "2026-11-20T11:00:00.000+00:00", "created_by": "envbuilder 0", "seconds": 1.0,
        "modules": {
            "system": "lmod", "asked": ["mpich", "py/3"], "loaded": ["base", "mpich/1.0", "py/3"],
            "effect": EFFECT.to_document(), "files": ["/mods/mpich/1.0.lua"],
        },
    }  # fmt: skip
    return Environment(**{**values, **changes})


def _proof(libraries: Mapping[str, Mapping[str, str]], marks: Mapping[str, str] | None = None) -> Proof:
    here = Circumstances(
        partition="host",
        host={},
        tree="t",
        variables={},
        libraries=marks or {},
        modulefiles={"/mods/mpich/1.0.lua": "1 1"},
    )
    return Proof(
        environment="e-1-abc", digest="d" * 64, site="here", partition="host", made=datetime.now(timezone.utc),
        circumstances=here, checks=(), ranks=2, host_libraries=libraries,
    )  # fmt: skip


def _loaded(*names: str, effect: Effect = EFFECT) -> Loaded:
    return Loaded(
        system="lmod", asked=("mpich", "py/3"), names=names or ("base", "mpich/1.0", "py/3"), files=(), effect=effect
    )


HELD = {"/m/1.0/libmpi.so.12": MPI, "/usr/lib64/libc.so.6": LIBC}
SAME = Today(loaded=_loaded(), interpreter="3.11.7", files=HELD, taken=HELD, marks={"/mods/mpich/1.0.lua": "1 1"})


def _found(now: Today, proofs: tuple[Proof, ...] = (_proof(HELD),), **changes: Any) -> list[Change]:
    return list(drift.compare(_environment(**changes), proofs, now)[0])


def _kinds(now: Today, **changes: Any) -> list[tuple[str, str, str, str]]:
    return [(one.kind, one.what, one.was, one.now) for one in _found(now, **changes)]


def test_what_did_not_change_is_no_drift() -> None:
    assert drift.compare(_environment(), (_proof(HELD),), SAME) == ((), [])


def test_a_default_that_changed_is_named_with_the_request() -> None:
    (one,) = _found(replace(SAME, loaded=_loaded("base", "mpich/2.0", "py/3")))

    assert (one.kind, one.what, one.was, one.now) == ("module-version", "mpich", "mpich/1.0", "mpich/2.0")
    assert "without a version: the default changed" in one.advice
    assert "to stay with mpich/1.0" in one.advice


def test_modules_that_come_and_go() -> None:
    assert _kinds(replace(SAME, loaded=_loaded("mpich/1.0", "py/3", "tool/1"))) == [
        ("module-missing", "base", "base", ""),
        ("module-new", "tool", "", "tool/1"),
    ]


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (Effect(set={"A": "2"}, paths=EFFECT.paths), ("A", "1", "2")),
        (Effect(paths=EFFECT.paths), ("A", "1", "")),
        (Effect(set={**EFFECT.set, "B": "x"}, paths=EFFECT.paths), ("B", "", "x")),
        (Effect(set=EFFECT.set, unset=("C",), paths=EFFECT.paths), ("C", "", "(unset)")),
        (
            Effect(set=EFFECT.set, paths={"LD_LIBRARY_PATH": Around(before=("/m/2.0/lib", "/x"))}),
            ("LD_LIBRARY_PATH", "/m/1.0/lib", "/m/2.0/lib:/x"),
        ),
        (
            Effect(set=EFFECT.set, paths={"LD_LIBRARY_PATH": Around(before=("/m/1.0/lib",), without=("/y",))}),
            ("LD_LIBRARY_PATH", "", "(without /y)"),
        ),
    ],
)
def test_variables_and_entries_that_differ(effect: Effect, expected: tuple[str, str, str]) -> None:
    assert _kinds(replace(SAME, loaded=_loaded(effect=effect))) == [("variable", *expected)]


def test_the_order_of_a_search_path_counts() -> None:
    was, now = (Effect(paths={"PATH": Around(before=entries)}) for entries in (("/a", "/b"), ("/b", "/a")))

    assert list(drift.effects(was, now)) == [("PATH", "/a:/b", "/b:/a")]


def test_what_differs_from_login_to_login_is_no_drift() -> None:
    effect = Effect(set={"A": "1", "SESSION": "7"}, paths=EFFECT.paths)

    assert _kinds(replace(SAME, loaded=_loaded(effect=effect), volatile=frozenset({"SESSION"}))) == []


def test_a_module_that_is_gone_is_named_in_the_module_systems_words() -> None:
    now = replace(SAME, loaded=None, failed={"mpich": ("module-gone", "Lmod has detected: unknown mpich")})
    (one,) = _found(now)

    assert (one.kind, one.what, one.said) == ("module-gone", "mpich", "Lmod has detected: unknown mpich")


def test_a_promise_that_is_not_kept_is_told_once() -> None:
    now = replace(SAME, loaded=_loaded(effect=Effect(paths=EFFECT.paths)), unkept=("A",))

    assert _kinds(now) == [("promise", "A", "1", "")]


@pytest.mark.parametrize(
    ("files", "taken", "expected"),
    [
        ({"/m/1.0/libmpi.so.12": {**MPI, "build_id": "bb"}}, {}, ("library-changed", "libmpi.so.12", "aa", "bb")),
        (
            {"/m/1.0/libmpi.so.12": {**MPI, "soname": "libmpi.so.40"}},
            {},
            ("library-changed", "libmpi.so.12", "aa", "aa"),
        ),
        ({"/m/1.0/libmpi.so.12": None}, {}, ("library-gone", "libmpi.so.12", "aa", "")),
        ({"/m/1.0/libmpi.so.12": None}, {"/m/1.0/libmpi.so.12": None}, ("library-gone", "libmpi.so.12", "aa", "")),
        (
            {},
            {"/m/1.0/libmpi.so.12": None, "/m/2.0/libmpi.so.12": {**MPI, "build_id": "bb"}},
            (
                "library-elsewhere",
                "libmpi.so.12",
                "/m/1.0/libmpi.so.12 (build-id aa)",
                "/m/2.0/libmpi.so.12 (build-id bb)",
            ),
        ),
        ({}, {"/m/libz.so.1": {"soname": "libz.so.1", "build_id": "zz"}}, ("library-new", "libz.so.1", "", "zz")),
    ],
)
def test_libraries(files: dict[str, Any], taken: dict[str, Any], expected: tuple[str, str, str, str]) -> None:
    def changed(by: dict[str, Any]) -> dict[str, Any]:
        return {path: facts for path, facts in {**HELD, **by}.items() if facts is not None}

    (one,) = _found(replace(SAME, files=changed(files), taken=changed(taken)))

    assert (one.kind, one.what) == expected[:2]
    assert expected[2] in one.was
    assert expected[3] in one.now
    assert one.mend == ("envbuilder verify e-1-abc",)


def test_a_library_that_was_written_anew_counts_even_with_the_same_build_id() -> None:
    held = _proof(HELD, {"/m/1.0/libmpi.so.12": "10 1", "/opt/py/bin/python3": "5 1"})
    marks = {"/m/1.0/libmpi.so.12": "10 2000000000", "/opt/py/bin/python3": "5 1"}
    (one,) = _found(replace(SAME, marks={**SAME.marks, **marks}), proofs=(held,))

    assert (one.kind, one.what) == ("file", "/m/1.0/libmpi.so.12")
    assert "still aa" in one.advice


def test_the_mpi_of_the_manifest_counts_without_a_proof() -> None:
    mpi = {"provider": "system", "library": "/m/1.0/libmpi.so.12", **MPI}

    assert _found(replace(SAME, files={}, taken=None), proofs=(), mpi=mpi)[0].kind == "library-gone"


def test_a_library_of_another_kind_of_node_is_not_judged() -> None:
    """A login node with another system says nothing of the compute nodes; a shared file system does."""
    libc, mpi = {**LIBC, "build_id": "c2"}, {**MPI, "build_id": "a2"}
    now = replace(
        SAME, files={"/m/1.0/libmpi.so.12": mpi, "/usr/lib64/libc.so.6": libc}, elsewhere="kernel was 1 and is 2"
    )
    found, unseen = drift.compare(_environment(), (_proof(HELD),), now)

    assert [one.what for one in found] == ["libmpi.so.12"]
    assert len(unseen) == 1
    assert "libc.so.6" in unseen[0]
    assert "kernel was 1 and is 2" in unseen[0]


@pytest.mark.parametrize("now", ["3.11.9", ""])
def test_another_interpreter(now: str) -> None:
    assert _kinds(replace(SAME, interpreter=now)) == [("interpreter", "/opt/py/bin/python3", "3.11.7", now)]


def test_one_change_touches_all_its_environments() -> None:
    now = replace(SAME, interpreter="3.12.1")
    other = replace(_environment(), identifier="f-2-def", recipe="f", version="2")
    found = drift.grouped(
        [*drift.compare(_environment(), (), now)[0], *drift.compare(other, (), now)[0]],
    )

    assert [(one.touches, len(one.mend)) for one in found] == [(("e-1-abc", "f-2-def"), 2)]
    assert found[0].mend[0] == "envbuilder build e@1 --site here --partition host --rebuild"


def test_the_blocks_name_everything_and_say_what_the_gate_says() -> None:
    environment = _environment()
    found, _ = drift.compare(
        environment, (), replace(SAME, interpreter="3.12.1", loaded=_loaded("base", "mpich/2.0", "py/3"))
    )
    standing = today.Standing(environment="e-1-abc", partition="host", made="2026", reasons=())
    report = today.Report(environment=environment, changes=found, standings=(standing,), unseen=("a thing",))
    text = rendering.render([report], found)

    for words in (
        "module has another version: mpich",
        "was:     mpich/1.0",
        "is:      mpich/2.0",
        "touches: e-1-abc",
        "mend: ",
    ):
        assert words in text
    assert "the gate does not see it" in text
    assert "not looked at: a thing" in text
    void = replace(report, standings=(replace(standing, reasons=("files changed",)),))
    assert "is void, the gate refuses:\n    files changed" in rendering.render([void], found)
    data = json.loads(json.dumps(rendering.document([void], found, 1)))
    assert [one["kind"] for one in data["changes"]] == ["module-version", "interpreter"]
    assert data["environments"][0]["proofs"][0]["void"] is True


# Real modules, real libraries


@dataclass
class Place:
    """A site of its own: modulefiles, libraries in two versions, the folder of the default, a store."""

    folder: Path
    promises: tuple[str, ...] = ()
    asked: tuple[str, ...] = ("fake",)
    exports: tuple[dict[str, str], ...] = ()
    names: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def site_file(self) -> Path:
        return self.folder / "sites" / "made.yaml"

    @property
    def default(self) -> Path:
        """The library that the linker finds where nothing says otherwise."""
        return self.folder / "default" / "libfake.so.1"

    def module(self, name: str, body: str) -> None:
        path = self.folder / "modules" / f"{name}.lua"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)

    def library(self, version: str) -> Path:
        """A library of that version, with a build-id of its own."""
        path = self.folder / version / "libfake.so.1"
        path.parent.mkdir(parents=True, exist_ok=True)
        _compile(path, f'const char *fake(void) {{ return "{version}"; }}', "-Wl,-soname,libfake.so.1")
        return path

    def write_site(self) -> None:
        self.site_file.parent.mkdir(parents=True, exist_ok=True)
        self.site_file.write_text(
            json.dumps(
                {
                    "schema": 1, "name": "made", "summary": "made up", "default_partition": "host",
                    "modules": {"system": "lmod", "init": str(LMOD)},
                    "partitions": {
                        "host": {
                            "module_paths": [str(self.folder / "modules")], "modules": list(self.asked),
                            "promises": list(self.promises), "exports_after_modules": list(self.exports), "mpi": {"provider": "none"},
                        }
                    },
                }
            )
        )  # fmt: skip

    def build(self, name: str = "e", libraries: tuple[Path, ...] = ()) -> Environment:
        """An environment with one extension that needs the library, and its proof, as verify would leave it."""
        self.write_site()
        site, _ = catalog.find_site(str(self.site_file), os.environ)
        loaded = modules.load(site, site.partition("host"))
        assert loaded is not None
        identifier = f"{name}-1-abc"
        prefix = self.store.prefix(identifier)
        needed = libraries[0] if libraries else self.default
        extension = prefix / "lib/python3.11/site-packages/x.so"
        extension.parent.mkdir(parents=True)
        _compile(
            extension, "int x(void) { return 1; }", "-Wl,--no-as-needed", f"-L{needed.parent}", f"-l:{needed.name}",
            f"-Wl,-rpath,{needed.parent}", "-Wl,--allow-shlib-undefined", "-Wl,--unresolved-symbols=ignore-all",
        )  # fmt: skip
        python = self.folder / "bin" / "python3"
        python.parent.mkdir(exist_ok=True)
        if not python.exists():
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            python.chmod(0o755)
        environment = _environment(
            identifier=identifier, recipe=name, site="made", site_file=str(self.site_file), prefix=str(prefix),
            python={"path": str(python), "version": host.own_python().version, "soabi": ""},
            modules={**loaded.identity(), "files": list(loaded.files)}, created=store.now(),
        )  # fmt: skip
        store.publish(self.store, environment, (name,))
        self.prove(environment)
        return environment

    def prove(self, environment: Environment) -> None:
        base = modules.bare()
        inside = patched(gate.patch(environment, base), base)
        prefix = Path(environment.prefix)
        outside = linking.outside(witness.objects(prefix), linking.linker(inside), prefix)
        here = gate.circumstances(environment, base, proof.ways(outside))
        outcome = Outcome(check="made-up", rung=0, title="", status="pass")
        document = proof.statement(environment, here, (outcome,), outside, made=store.now(), ranks=1)
        proof.save(self.store, environment, here.partition, document)

    def look(self, environment: Environment) -> today.Report:
        return today.Machine(self.store, os.environ).look(environment)

    def run(self, *words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        code = cli.main(["drift", *words])
        return code, capsys.readouterr().out


def _compile(path: Path, source: str, *options: str) -> None:
    code = path.with_suffix(".c")
    code.write_text(source)
    command = ["gcc", "-shared", "-fPIC", "-Wl,--build-id", "-o", str(path), str(code), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code.unlink()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    if not LMOD.is_file() or not shutil.which("gcc"):
        pytest.skip(f"needs Lmod ({LMOD}) and gcc")
    made = Place(folder=tmp_path)
    made.module("fake/1.0", f'setenv("FAKE_DIR", "{tmp_path}/1.0")\nprepend_path("PATH", "{tmp_path}/1.0/bin")\n')
    made.library("1.0")
    made.library("2.0")
    made.default.parent.mkdir()
    made.default.symlink_to("../1.0/libfake.so.1")
    return made


def _told(report: today.Report) -> set[tuple[str, str]]:
    return {(one.kind, one.what) for one in report.changes}


def _gate(report: today.Report) -> str:
    (one,) = report.standings
    return "; ".join(one.reasons)


@pytest.mark.real
def test_a_machine_that_is_as_it_was(place: Place) -> None:
    report = place.look(place.build())

    assert (report.changes, report.unseen, _gate(report)) == ((), (), "")


@pytest.mark.real
def test_a_version_that_is_gone(place: Place) -> None:
    place.asked = ("fake/1.0",)
    place.module("fake/2.0", 'setenv("FAKE_DIR", "x")\n')
    environment = place.build()
    (place.folder / "modules/fake/1.0.lua").unlink()
    report = place.look(environment)
    gone = next(one for one in report.changes if one.kind == "module-gone")

    assert gone.what == "fake/1.0"
    assert "fake/1.0" in gone.said
    assert "unknown" in gone.said
    assert "1.0.lua changed" in _gate(report)


@pytest.mark.real
def test_a_new_default(place: Place) -> None:
    """The gate does not see it, and need not: what runs in the environment has the effect that was recorded."""
    environment = place.build()
    place.module(
        "fake/2.0", f'setenv("FAKE_DIR", "{place.folder}/2.0")\nprepend_path("PATH", "{place.folder}/1.0/bin")\n'
    )
    report = place.look(environment)

    assert _told(report) == {("module-version", "fake"), ("variable", "FAKE_DIR")}
    assert _gate(report) == ""


@pytest.mark.real
def test_a_new_default_that_brings_other_libraries(place: Place) -> None:
    """In a job, where today's modules are loaded, LD_LIBRARY_PATH has more than at the proof: the gate refuses."""
    environment = place.build()
    place.module("fake/2.0", f'prepend_path("LD_LIBRARY_PATH", "{place.folder}/2.0")\n')
    report = place.look(environment)

    assert ("module-version", "fake") in _told(report)
    assert f"envbuilder build e@1 --site {place.site_file} --partition host --rebuild" in report.changes[0].mend
    assert ("variable", "LD_LIBRARY_PATH") in _told(report)
    assert ("library-elsewhere", "libfake.so.1") in _told(report)
    assert "LD_LIBRARY_PATH changed" in _gate(report)


@pytest.mark.real
def test_a_module_that_does_something_else(place: Place) -> None:
    environment = place.build()
    place.module("fake/1.0", 'setenv("FAKE_DIR", "/elsewhere")\n')
    report = place.look(environment)
    told = {one.what: (one.was, one.now) for one in report.changes if one.kind == "variable"}

    assert told == {
        "FAKE_DIR": (f"{place.folder}/1.0", "/elsewhere"),
        "PATH": (f"{place.folder}/1.0/bin", ""),
    }
    assert "1.0.lua changed" in _gate(report)


@pytest.mark.real
def test_a_modulefile_with_another_time_is_told_because_the_gate_refuses(place: Place) -> None:
    environment = place.build()
    os.utime(place.folder / "modules/fake/1.0.lua", (1, 1))
    report = place.look(environment)

    assert {one.kind for one in report.changes} == {"modulefile"}
    assert "1.0.lua changed" in _gate(report)


@pytest.mark.real
def test_a_promise_that_is_not_kept(place: Place) -> None:
    place.promises = ("FAKE_DIR",)
    environment = place.build()
    place.module("fake/1.0", f'prepend_path("PATH", "{place.folder}/1.0/bin")\n')
    report = place.look(environment)

    assert ("promise", "FAKE_DIR") in _told(report)
    assert "1.0.lua changed" in _gate(report)


@pytest.mark.real
def test_a_variable_of_the_moment_is_no_drift(place: Place) -> None:
    place.module("fake/1.0", 'setenv("FAKE_NOW", tostring(os.time()) .. tostring(os.clock()) .. tostring({}))\n')
    environment = place.build()

    assert place.look(environment).changes == ()


@pytest.mark.real
def test_a_default_folder_that_leads_elsewhere(place: Place) -> None:
    """The file of the proof is untouched; the link by which it was found is what the gate sees."""
    environment = place.build()
    place.default.unlink()
    place.default.symlink_to("../2.0/libfake.so.1")
    report = place.look(environment)
    (one,) = report.changes

    assert (one.kind, one.what) == ("library-elsewhere", "libfake.so.1")
    assert f"{place.folder}/1.0/libfake.so.1 (build-id " in one.was
    assert f"{place.folder}/2.0/libfake.so.1 (build-id " in one.now
    assert one.was.rpartition(" ")[2] != one.now.rpartition(" ")[2]
    assert "default/libfake.so.1 changed" in _gate(report)


@pytest.mark.real
def test_a_library_that_comes_before_the_proven_one_is_named_though_no_file_changed(place: Place) -> None:
    """The gate does not search anew, so it does not see this; drift says that it does not."""
    place.module("fake/1.0", f'prepend_path("LD_LIBRARY_PATH", "{place.folder}/early")\n')
    environment = place.build()
    (place.folder / "early").mkdir()
    shutil.copy(place.folder / "2.0/libfake.so.1", place.folder / "early/libfake.so.1")
    report = place.look(environment)

    assert _told(report) == {("library-elsewhere", "libfake.so.1")}
    assert _gate(report) == ""
    assert "the gate does not see it" in rendering.render([report], report.changes)


@pytest.mark.real
def test_an_export_whose_variable_is_gone(place: Place) -> None:
    place.exports = ({"prepend": "LD_LIBRARY_PATH", "to": "${FAKE_DIR}/lib", "why": "a reason"},)
    environment = place.build()
    place.module("fake/1.0", f'prepend_path("PATH", "{place.folder}/1.0/bin")\n')
    report = place.look(environment)

    assert {("variable", "FAKE_DIR"), ("variable", "LD_LIBRARY_PATH")} <= _told(report)
    assert report.unseen == ()


@pytest.mark.real
def test_a_library_that_was_replaced_and_one_that_is_gone(place: Place) -> None:
    environment = place.build()
    library = place.folder / "1.0/libfake.so.1"
    _compile(library, 'const char *fake(void) { return "patched"; }', "-Wl,-soname,libfake.so.1")
    replaced = place.look(environment)
    library.unlink()
    gone = place.look(environment)

    assert _told(replaced) == {("library-changed", "libfake.so.1")}
    assert _told(gone) == {("library-gone", "libfake.so.1")}
    assert all("libfake.so.1 changed" in _gate(report) for report in (replaced, gone))


@pytest.mark.real
@pytest.mark.parametrize("gone", [True, False])
def test_an_interpreter_that_is_gone_or_another(place: Place, gone: bool) -> None:
    environment = place.build()
    python = place.folder / "bin/python3"
    answer = {**asdict(host.own_python()), "version": "3.99.0"}
    python.unlink()
    if not gone:
        python.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")  # a fake: it only says so
        python.chmod(0o755)
    report = place.look(environment)

    assert _told(report) == {("interpreter", str(python))}
    assert report.changes[0].now == ("" if gone else "3.99.0")
    assert "bin/python3 changed" in _gate(report)


@pytest.mark.real
def test_the_command_and_its_exit_codes(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(place.store.root))
    assert cli.main(["drift"]) == 2
    place.build("e")
    place.build("f")
    assert place.run(capsys=capsys)[0] == 0

    before = sorted(path for path in place.store.root.rglob("*"))
    (place.folder / "modules/fake/1.0.lua").unlink()
    code, text = place.run(capsys=capsys)
    assert code == 1
    assert "module cannot be loaded: fake" in text
    assert "touches: e-1-abc, f-1-abc" in text
    assert place.run("f", capsys=capsys)[1].count("touches: f-1-abc") == text.count("touches:")
    code, text = place.run("--json", capsys=capsys)
    data = json.loads(text)
    assert (code, data["drift"], data["exit_code"]) == (1, True, 1)
    assert {one["environment"] for one in data["environments"]} == {"e-1-abc", "f-1-abc"}
    assert sorted(path for path in place.store.root.rglob("*")) == before

    place.module("fake/1.0", "")
    place.site_file.unlink()
    code, text = place.run(capsys=capsys)
    assert code == 1  # the effect could not be seen, and the modulefile is another
    for path in place.store.path("proofs").rglob("*.json"):
        path.unlink()
    code, text = place.run(capsys=capsys)
    assert code == 4
    assert "not looked at: its site cannot be read" in text


@pytest.mark.real
def test_each_list_of_modules_is_loaded_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = [place.build("e"), place.build("f")]
    loads = []
    load = modules.load

    def counted(*arguments: Any) -> Loaded | None:
        loads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(modules, "load", counted)
    looker = today.Machine(place.store, os.environ)

    assert [looker.look(one).changes for one in environments] == [(), ()]
    assert len(loads) == 1


@pytest.mark.real
def test_the_default_that_changed_under_a_real_mpi(place: Place, testbed: machine.Testbed) -> None:
    """The testbed's trap, on a copy of its lib64: programs find the default's MPI, and the default becomes another."""
    real = testbed.root / "opt/cray/pe/mpich"
    copy = place.folder / "lib64" / "libmpi_gnu_91.so.12"
    copy.parent.mkdir()
    copy.symlink_to(real / "8.1.27/ofi/gnu/9.1/lib/libmpi_gnu_91.so.12")
    environment = place.build(libraries=(copy,))
    assert place.look(environment).changes == ()
    copy.unlink()
    copy.symlink_to(real / "8.1.23/ofi/gnu/9.1/lib/libmpi_gnu_91.so.12")
    (one,) = place.look(environment).changes

    assert (one.kind, one.what) == ("library-elsewhere", "libmpi_gnu_91.so.12")
    assert "/8.1.27/" in one.was
    assert "/8.1.23/" in one.now
    assert f"{copy} changed" in _gate(place.look(environment))


def test_a_clock_that_is_far_off_changes_nothing_here() -> None:
    """The age of a proof is the gate's business, and no drift."""
    old = replace(_proof(HELD), made=datetime.now(timezone.utc) - timedelta(days=400))

    assert _found(SAME, proofs=(old,)) == []
