"""Memos: what the last build of a wish came to, and when that may be done again without another look."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import samples

from envbuilder import memo, recipe
from envbuilder.builders import venv
from envbuilder.places import Origin
from envbuilder.plan import Product
from envbuilder.store import Store
from envbuilder.target import Mpi
from envbuilder.wish import Wish
from envbuilder.work import Work

WISH = Wish(recipe="r")


@dataclass(frozen=True)
class Place:
    """A store, a file that a wish was made from, the library of its MPI, and a PATH of its own."""

    store: Store
    file: Path
    library: Path
    env: dict[str, str]

    def recalled(self) -> str:
        return memo.recall(self.store, WISH, self.env)

    def work(self) -> Work | None:
        return memo.recall_work(self.store, WISH, self.recalled(), self.env)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    parsed = recipe.parse(json.dumps(samples.RECIPE), "r.yaml")
    plan = venv.plan(samples.locked(samples.request(parsed)), samples.target(), samples.workplace(tmp_path / "store"))
    library = tmp_path / "libmpi.so.12"
    library.write_text("one")
    mpi = Mpi(provider="system", name="mpich", soname="libmpi.so.12", library=str(library))
    draft = samples.environment(identifier=plan.identifier, prefix=str(plan.prefix), records={}, written={}, mpi=None)
    return Work(plan=plan, draft=draft, mpi=mpi, mirrors={"https://a.example/": "file:///mirror/"})


@pytest.fixture
def place(tmp_path: Path, work: Work) -> Place:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "cc").write_text("#!/bin/sh\n")
    (programs / "cc").chmod(0o755)
    file = tmp_path / "recipe.yaml"
    file.write_text("schema: 1\n")
    env = {"PATH": str(programs), "HOME": str(tmp_path)}
    made = Place(Store(tmp_path / "store"), file, Path(work.mpi.library if work.mpi else ""), env)
    for step in work.plan.steps:
        if isinstance(step, Product):
            step.path.mkdir(parents=True)
    memo.remember(made.store, WISH, work, [Origin(name="", path=file)], env, again=True)
    return made


def test_what_was_carried_out_comes_back_as_it_was_but_for_what_is_there_already(place: Place, work: Work) -> None:
    again = place.work()

    assert again is not None
    assert place.recalled() == work.plan.identifier
    assert [step for step in work.plan.steps if not isinstance(step, Product)] == list(again.plan.steps)
    assert any(isinstance(step, Product) for step in work.plan.steps)
    assert again.plan.digest == work.plan.digest
    assert replace(again, plan=work.plan) == work
    assert again.plan.network["UV_CACHE_DIR"] == str(place.store.root / "cache" / "uv")


def test_a_file_that_changed(place: Place) -> None:
    place.file.write_text("schema: 1 \n")

    assert place.recalled() == ""


def test_a_library_of_mpi_that_changed(place: Place) -> None:
    """Its soname may be the same: what ranks will have mapped is another file."""
    place.library.write_text("another")

    assert place.recalled() == ""


def test_a_library_that_is_gone(place: Place) -> None:
    place.library.unlink()

    assert place.recalled() == ""


def test_another_compiler(place: Place) -> None:
    os.utime(Path(place.env["PATH"]) / "cc", (1, 1))

    assert place.recalled() == ""


def test_another_day(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's file says until when it holds, and from when a partition is there."""
    monkeypatch.setattr(memo, "_today", lambda: "2036-01-01")

    assert place.recalled() == ""


def test_work_of_another_envbuilder_is_not_done_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "_ourselves", lambda: "another")

    assert place.recalled()
    assert place.work() is None


def test_work_whose_kept_wheel_is_gone_is_not_done_again(place: Place, work: Work) -> None:
    gone = next(step.path for step in work.plan.steps if isinstance(step, Product))
    gone.rmdir()

    assert place.work() is None


def test_nothing_is_kept_of_work_that_must_not_be_done_again(place: Place, work: Work) -> None:
    memo.remember(place.store, WISH, work, [Origin(name="", path=place.file)], place.env, again=False)

    assert place.recalled()
    assert place.work() is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"envbuilder": 1}', "null"])
def test_a_damaged_memo_says_nothing(damage: str, place: Place) -> None:
    (kept,) = place.store.path("memos").glob("*.work.json")
    kept.write_text(damage)
    assert place.work() is None

    (kept,) = (path for path in place.store.path("memos").glob("*.json") if not path.name.endswith(".work.json"))
    kept.write_text(damage)
    assert place.recalled() == ""


def test_the_tree_of_the_work_that_was_kept_is_the_same_without_a_secret_in_it(place: Place) -> None:
    """An index with a password in pip's configuration is not written down."""
    env = {**place.env, "PIP_INDEX_URL": "https://user:secret@index.example/simple"}
    kept = "".join(path.read_text() for path in place.store.path("memos").iterdir())

    again = memo.recall_work(place.store, WISH, place.recalled(), env)

    assert again is not None
    assert "secret" not in kept
    assert "secret" in again.plan.network["UV_DEFAULT_INDEX"]
