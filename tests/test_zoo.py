"""Every broken environment of the zoo is named as it must be, and no healthy one raises an alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from zoo import catalogue, plugin, report, running
from zoo.base import REFUSAL, Case, Entry, Fault, Healthy, Names, Scene

from envbuilder.checks import CHECKS
from envbuilder.evidence import Outcome


@pytest.mark.real
@pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.slow else []) for entry in catalogue.ENTRIES],
)
def test_the_verdict_says_what_it_must(
    entry: Entry,
    request: pytest.FixtureRequest,
    test_home: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    prefix = request.getfixturevalue(entry.start)
    scene = Scene(prefix=prefix, folder=tmp_path, home=test_home)
    case = entry.make(scene)

    seen = running.look(entry.start, prefix, case, entry.look, tmp_path / "control")
    wrong = running.mistakes(entry, case, seen)

    record_property("zoo", running.summary(entry, seen, wrong))
    assert not wrong, "\n".join(wrong)


def test_entries_have_names_of_their_own_and_name_checks_that_exist() -> None:
    names = [entry.name for entry in catalogue.ENTRIES]
    known = {check.name for check in CHECKS} | {REFUSAL}

    assert len(set(names)) == len(names)
    assert len(catalogue.FAULTS) >= 40
    for fault in catalogue.FAULTS:
        assert {one.check for one in fault.names} | {*fault.passing, *fault.not_run} <= known, fault.name
        assert all(one.cause and one.remedy for one in fault.names), fault.name


def test_the_page_says_what_the_zoo_has() -> None:
    assert report.PAGE.read_text(encoding="utf-8") == report.page(), "run python -m tests.zoo --page"


# what judges the zoo can fail

FAULT = Fault(
    name="made-up",
    broken="",
    start="mpi4py_env",
    make=lambda _: Case(),
    names=(Names(check="import", cause=("{library} is gone",), remedy=("build",)),),
    alone=True,
    not_run=("versions",),
)
HEALTHY = Healthy(name="made-up", odd="", start="mpi4py_env")
CASE = Case(told={"library": "libx.so"})


def _seen(told: dict[str, str] | None = None, code: int = 1) -> running.Seen:
    """Failed checks with their causes; `versions` could not be made."""
    outcomes = {
        name: Outcome(check=name, rung=1, title="", status="fail", cause=cause, remedy="build anew")
        for name, cause in (told or {}).items()
    }
    skipped = Outcome(check="versions", rung=1, title="", status="not-run", cause="why")
    return running.Seen({"versions": skipped, **outcomes}, code)


def test_a_fault_that_is_named_is_right() -> None:
    assert running.mistakes(FAULT, CASE, _seen({"import": "libx.so is gone"})) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (_seen({"import": "something is wrong"}), "cause lacks 'libx.so is gone'"),
        (_seen(code=4), "import is not asked for"),
        (_seen({"import": "libx.so is gone"}, code=0), "exit code 0"),
        (_seen({"import": "libx.so is gone", "requirements": "x"}), "requirements fails, too"),
        (_seen({"import": "libx.so is gone", "versions": "x"}), "versions was made"),
    ],
)
def test_a_fault_that_is_not_named_is_wrong(seen: running.Seen, words: str) -> None:
    assert words in "\n".join(running.mistakes(FAULT, CASE, seen))


def test_a_refusal_must_be_made_with_its_own_code() -> None:
    fault = replace(FAULT, names=(Names(check=REFUSAL, cause=("gone",), remedy=("mend",)),), not_run=(), code=4)
    said = Outcome(check=REFUSAL, rung=0, title="", status="fail", cause="it is gone", remedy="mend it")

    assert running.mistakes(fault, Case(), running.Seen({REFUSAL: said}, 4)) == []
    assert "exit code 1" in running.mistakes(fault, Case(), running.Seen({REFUSAL: said}, 1))
    assert "is not asked for" in "".join(running.mistakes(fault, Case(), running.Seen({}, 4)))


def test_a_healthy_one_must_pass_everything() -> None:
    passed = Outcome(check="import", rung=1, title="", status="pass", witnessed="x")

    assert running.mistakes(HEALTHY, CASE, running.Seen({"import": passed}, 0)) == []
    assert running.mistakes(HEALTHY, CASE, running.Seen({}, 0))
    assert "versions: not-run: why" in running.mistakes(HEALTHY, CASE, _seen(code=4))
    assert "import: fail: x" in running.mistakes(HEALTHY, CASE, _seen({"import": "x"}))


def test_the_figures() -> None:
    row = {"wrong": ["a", "b"], "seconds": 1.0}
    rows = [
        {**row, "name": "one", "kind": "fault", "right": True},
        {**row, "name": "two", "kind": "fault", "right": False},
        {**row, "name": "three", "kind": "healthy", "right": True},
    ]

    assert plugin.figures(rows) == [
        "faults caught with the right check, cause and remedy: 1 of 2 (50%)",
        "false alarms on healthy entries: 0 of 1 (0%)",
        "  not as it must be: two: a; b",
    ]
