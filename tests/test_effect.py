"""What modules did, as data: found, applied, applied again, applied where it is already."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuilder.effect import Around, Effect, around, difference, expanded

BARE = {"HOME": "/home/u", "PATH": "/usr/local/bin:/usr/bin:/bin"}


def test_what_is_set_and_what_is_extended() -> None:
    loaded = {
        **BARE,
        "PATH": "/opt/cray/bin:/usr/local/bin:/usr/bin:/bin:/opt/late/bin",
        "LD_LIBRARY_PATH": "/opt/rocm/lib",
        "ROCM_PATH": "/opt/rocm",
        "PE_ENV": "GNU",
        "LOADEDMODULES": "rocm/5.2.3",
        "_ModuleTable001_": "x",
    }

    effect = difference(BARE, BARE, loaded)

    assert effect.set == {"ROCM_PATH": "/opt/rocm", "PE_ENV": "GNU"}
    assert effect.paths == {
        "PATH": Around(before=("/opt/cray/bin",), after=("/opt/late/bin",)),
        "LD_LIBRARY_PATH": Around(before=("/opt/rocm/lib",)),
    }
    assert effect.unset == ()


def test_what_a_login_loads_by_itself_belongs_to_it() -> None:
    """A job that inherits nothing would lack the libraries of the default modules."""
    login = {**BARE, "LD_LIBRARY_PATH": "/opt/libfabric:/opt/old", "PE_ENV": "CRAY", "CRAY_ONLY": "1", "PS1": "$ "}
    loaded = {**BARE, "LD_LIBRARY_PATH": "/opt/libfabric:/opt/new", "PE_ENV": "GNU"}

    effect = difference(BARE, login, loaded)

    assert effect.apply(BARE)["LD_LIBRARY_PATH"] == "/opt/libfabric:/opt/new"
    assert effect.apply(login)["LD_LIBRARY_PATH"] == "/opt/libfabric:/opt/new"
    assert effect.apply(login)["PE_ENV"] == "GNU"
    assert "CRAY_ONLY" not in effect.apply(login)
    assert "PS1" in effect.apply(login)


def test_a_search_path_that_goes_away() -> None:
    effect = difference(BARE, {**BARE, "PYTHONPATH": "/opt/a:/opt/b"}, BARE)

    assert effect.apply({"PYTHONPATH": "/opt/a:/mine"}) == {"PYTHONPATH": "/mine"}
    assert effect.apply({"PYTHONPATH": "/opt/a"}) == {}


names = st.sampled_from(["PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "ROCM_PATH", "A", "B_DIRS", "C"])
entries = st.lists(st.sampled_from(["/a", "/b", "/c/d", "/usr/bin", "/opt/x y"]), max_size=4, unique=True).map(":".join)
environments = st.dictionaries(
    names, st.one_of(entries, st.sampled_from(["", "x", "a:b", "$HOME", "é\n'\""])), max_size=6
)


@given(environments, environments, environments)
def test_applying_it_twice_is_applying_it_once(
    bare: dict[str, str], login: dict[str, str], loaded: dict[str, str]
) -> None:
    effect = difference(bare, login, loaded)
    once = effect.apply(login)

    assert effect.apply(once) == once
    assert Effect.from_document(effect.to_document()) == effect


@given(environments, environments)
def test_on_the_environment_it_was_taken_from_it_gives_what_was_loaded(
    login: dict[str, str], loaded: dict[str, str]
) -> None:
    result = difference({}, login, loaded).apply(login)

    for name, value in loaded.items():
        wanted = [entry for entry in value.split(":") if entry]
        got = [entry for entry in result.get(name, "").split(":") if entry]
        assert set(wanted) <= {*got, "/usr/bin"}, name  # a login brings the system's folders in any case
    assert {name for name in login if name not in loaded and name in result} == set()


def test_around_keeps_the_user_s_own_entries_in_the_middle() -> None:
    one = Around(before=("/m",), after=("/z",), without=("/old",))

    assert around(one, "/mine::/old:/m") == "/m:/mine:/z"
    assert around(Around(without=("/old",)), "/old") == ""


@pytest.mark.parametrize(
    ("text", "value", "missing"),
    [("${A}:x", "1:x", ()), ("${NO}", "", ("NO",)), ("$A $(id) `id` {A}", "$A $(id) `id` {A}", ())],
)
def test_references_to_variables(text: str, value: str, missing: tuple[str, ...]) -> None:
    assert expanded(text, {"A": "1"}) == (value, missing)
