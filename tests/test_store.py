"""The store: what it finds, what it refuses, and what it never touches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import store
from envbuilder.document import to_json
from envbuilder.environment import Environment
from envbuilder.errors import EnvbuilderError, InputError, StoreError, UnknownName
from envbuilder.store import Store


def _published(place: Store, identifier: str, *names: str, **changes: Any) -> Environment:
    made = samples.environment(identifier=identifier, prefix=str(place.prefix(identifier)), **changes)
    place.prefix(identifier).mkdir(parents=True)
    store.publish(place, made, names)
    return made


def test_an_environment_reads_back_as_itself() -> None:
    for made in (samples.environment(), samples.environment(mpi={"name": "mpich"}, seconds=2, features=())):
        again = Environment.from_document(json.loads(to_json(made.to_document())), "m.json")
        assert again == made
        assert again.to_document() == made.to_document()


def test_a_manifest_of_the_future_or_with_unknown_keys() -> None:
    document = samples.environment().to_document()

    assert Environment.from_document({**document, "later": 1}, "m.json") == samples.environment()
    for schema in (2, None, "1"):
        with pytest.raises(StoreError, match="manifest schema"):
            Environment.from_document({**document, "schema": schema}, "m.json")


@given(st.data())
def test_a_damaged_manifest_is_a_message(data: st.DataObject) -> None:
    document = json.loads(to_json(samples.environment().to_document()))
    for key in data.draw(st.lists(st.sampled_from(sorted(document)), min_size=1, max_size=3)):
        if data.draw(st.booleans()):
            document.pop(key, None)
        else:
            document[key] = data.draw(st.sampled_from([None, 1, 1.5, True, "x", [], {}, [None], {"a": None}]))
    try:
        found = Environment.from_document(document, "m.json")
    except StoreError as error:
        assert error.message.startswith("m.json: ")
        assert error.hint
    else:
        assert isinstance(found.created, str)
        assert isinstance(found.features, tuple)


def test_names_lead_to_environments(tmp_path: Path) -> None:
    place = Store(tmp_path)
    old = _published(place, "e-1-aaa", "e@1", "e", created="2026-01-01T00:00:00.000+00:00")
    new = _published(place, "e-2-bbb", "e@2", "e", version="2", created="2026-01-02T00:00:00.000+00:00")

    assert store.environments(place) == (old, new)
    assert store.find(place, "e") == new
    assert store.find(place, "e@1") == old
    assert store.find(place, "e-1-aaa") == old
    assert store.find(place, "e-1") == old
    assert store.find(place, old.prefix) == old
    assert store.current(place, "e") == "e-2-bbb"
    store.point(place, old, ("e",))
    assert store.find(place, "e") == old


@pytest.mark.parametrize(
    "name", ["", "nothing", "..", "../x", "/etc", ".", "a/../b", "-", "x" * 300, "e\n", "\udcff", "$(id)", "e@9", "@"]
)
def test_other_names_lead_nowhere_and_say_what_there_is(name: str, tmp_path: Path) -> None:
    place = Store(tmp_path)
    _published(place, "e-1-aaa", "e@1", "e")

    with pytest.raises((UnknownName, OSError)) as caught:
        store.find(place, name)

    if isinstance(caught.value, UnknownName):
        assert "e-1-aaa" in caught.value.hint or "envs list" in caught.value.hint


def test_withdrawing_takes_tree_proofs_and_names_and_nothing_else(tmp_path: Path) -> None:
    place = Store(tmp_path)
    _published(place, "e-1-aaa", "e@1", "e")
    other = _published(place, "f-1-bbb", "f")
    for folder in ("proofs", "runs"):
        place.path(folder, "e-1-aaa").mkdir(parents=True)

    store.withdraw(place, "e-1-aaa")

    assert store.environments(place) == (other,)
    assert not [path for path in tmp_path.rglob("*") if "e-1-aaa" in path.name or path.name in ("e", "e@1")]
    assert store.find(place, "f") == other


def test_collecting_leaves_what_a_name_means(tmp_path: Path) -> None:
    place = Store(tmp_path)
    _published(place, "e-1-aaa", "e@1")
    new = _published(place, "e-1-bbb", "e@1", "e")
    place.prefix("half-1-ccc").mkdir()
    place.path("work", "scratch").mkdir(parents=True)
    place.path("spack", "environments", "failed-1-ddd").mkdir(parents=True)
    place.path("spack", "opt", "kept").mkdir(parents=True)

    told = store.collect(place, dry_run=True)
    assert {path.name for path in told} == {"e-1-aaa", "half-1-ccc", "scratch", "failed-1-ddd"}
    assert all(path.exists() for path in told)
    assert store.collect(place, dry_run=False) == told
    assert not any(path.exists() for path in told)
    assert store.environments(place) == (new,)


def test_collecting_leaves_what_a_process_holds(tmp_path: Path) -> None:
    place = Store(tmp_path)
    place.prefix("half-1-ccc").mkdir(parents=True)
    place.path("spack", "environments", "half-1-ccc").mkdir(parents=True)

    with store.guarded(place, "env-half-1-ccc", pytest.fail):
        assert store.collect(place, dry_run=False) == ()

    assert [path.name for path in store.collect(place, dry_run=False)] == ["half-1-ccc"] * 2


@pytest.mark.parametrize(
    ("env", "site_root", "expected"),
    [
        ({"ENVBUILDER_HOME": "/a/b"}, "/c", "/a/b"),
        ({"HOME": "/h"}, "/c", "/c"),
        ({"HOME": "/h"}, "", "/h/.local/share/envbuilder"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "", "/x/envbuilder"),
        ({"ENVBUILDER_HOME": "/a/../b"}, "", "/b"),
    ],
)
def test_where_the_store_is(env: dict[str, str], site_root: str, expected: str) -> None:
    assert store.locate(env, site_root).root == Path(expected)


@pytest.mark.parametrize(
    ("chosen", "words"), [("/a/$NOBODY_SET_THIS/b", "not set"), ("/a\udcff", "not plain UTF-8"), ("/a\nb", "not plain")]
)
def test_places_where_no_store_can_be(chosen: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        store.locate({"ENVBUILDER_HOME": chosen})
    assert "ENVBUILDER_HOME" in caught.value.hint


@given(st.text(max_size=12))
def test_no_text_as_a_name_leads_out_of_the_store(text: str) -> None:
    root = Path("/store")
    try:
        path = Store(root).path("envs", text)
    except EnvbuilderError:
        return
    assert os.path.normpath(path).startswith("/store/envs/")
    assert path.parent == root / "envs"
