"""Documents: what is read, where it stood, and the digest of what was read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import document
from envbuilder.document import load_yaml
from envbuilder.errors import InputError, StoreError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("3.10", "number 3.1"),
        ("no", "truth value no"),
        ("on", "truth value on"),
        ("010", "number 8"),
        ("1_000", "number 1000"),
        ("1:30", "number 90"),
        ("1e3", None),
        ("1.0e+3", "number 1000.0"),
        (".inf", "number inf"),
        (".nan", "number nan"),
        ("~", "empty"),
        ("null", "empty"),
        ("2026-01-31", None),
        ("2026-01-31 10:00:00", None),
        ("=", None),
    ],
)
def test_what_yaml_makes_of_unquoted_text_is_told_with_the_remedy(written: str, kind: str | None) -> None:
    from envbuilder import recipe

    text = f'schema: 1\nname: x\nsummary: {written}\nvariants: [{{version: "1"}}]\n'
    if kind is None:
        assert recipe.parse(text, "r.yaml").summary == written
        return

    with pytest.raises(InputError) as caught:
        recipe.parse(text, "r.yaml")

    assert caught.value.message.startswith("r.yaml:3:10: summary: must be text, not ")
    assert kind in caught.value.message
    assert "write a value" in caught.value.message or f'quote it: "{written}"' in caught.value.message


@pytest.mark.parametrize(
    "number", ["9" * 5000, "0x" + "f" * 5000, "0b" + "1" * 20000, "1" + ":59" * 3000, "-" + "9" * 30]
)
def test_a_number_without_measure_is_refused_at_its_place(number: str) -> None:
    with pytest.raises(InputError, match=r"^x\.yaml:2:4: ") as caught:
        load_yaml(f"a: 1\nb: {number}\n", "x.yaml")

    assert "quote it" in caught.value.hint
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("strange", ["\0", "\x07", "\x1b", "\x7f", "\x9b", "\ufffe"])
def test_a_character_that_yaml_forbids_has_its_place(strange: str) -> None:
    with pytest.raises(InputError, match=r"^x\.yaml:2:5: ") as caught:
        load_yaml(f"a: 1\nb: é{strange}\n", "x.yaml")

    assert caught.value.hint


def test_bytes_that_are_no_utf8_have_their_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes("a: 1\nb: é".encode() + b"\xff\n")

    with pytest.raises(InputError, match=r"recipe\.yaml:2:5: not UTF-8") as caught:
        document.read_text(path, "recipe")

    assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["a: 'open", "a: [1", "a: b: c", "\ta: 1", "a: |x\n", "- a\nb: 1", "%YAML 9.9\n---\na: 1", "a: @x"]
)
def test_what_is_no_yaml_has_place_and_remedy(text: str) -> None:
    with pytest.raises(InputError, match=r"^x\.yaml:\d+:\d+: not valid YAML: ") as caught:
        load_yaml(text, "x.yaml")

    assert caught.value.hint


@pytest.mark.parametrize("key", ["a\\nb", "\\e[31m", "\\x9b2J", "\\L"])
def test_a_key_cannot_write_on_the_terminal(key: str) -> None:
    with pytest.raises(InputError, match=r"^x:1:1: ") as caught:
        load_yaml(f'"{key}": 1', "x")

    assert not document.controls(caught.value.message)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    plain = load_yaml("a: 1\nb: [x]\n", "x")

    assert load_yaml("\ufeffa: 1\nb: [x]\n", "x").plain() == plain.plain()
    found = load_yaml("a: 1\r\nb: [x]\r\n", "x")
    assert found.plain() == plain.plain()
    assert str(found.value["b"].mark) == "x:2:4"


def test_ten_thousand_levels_cost_nothing() -> None:
    with pytest.raises(InputError, match="levels deep"):
        load_yaml("[" * 10_000, "x")
    with pytest.raises(InputError, match="levels deep"):
        load_yaml("{a: " * 10_000, "x")


@given(json_values)
def test_what_is_written_reads_back(value: object) -> None:
    text = json.dumps(json.loads(document.to_json({"it": value})))
    assert json.loads(text) == {"it": value}


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text("xyz \n:#é", max_size=8), min_size=1, max_size=4)
)
def test_our_yaml_is_yaml_that_we_read(value: dict[str, str]) -> None:
    assert load_yaml(document.to_yaml(value), "x").plain() == value


@given(json_values, json_values)
def test_equal_documents_have_equal_digests_and_others_others(first: object, second: object) -> None:
    def shuffled(value: object) -> object:
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in reversed(list(value))}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    assert document.digest(first) == document.digest(shuffled(first))
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (document.digest(first) == document.digest(second)) == same


def test_the_digest_of_text_that_no_encoding_has() -> None:
    assert document.digest("\udcff") != document.digest("\udcfe")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "below" / "file"
    document.write_atomically(path, "old")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        document.write_atomically(path, "new")

    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_damaged_file_of_ours_is_named_with_the_remedy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)

    with pytest.raises(StoreError, match=r"manifest\.json: this manifest is damaged") as caught:
        document.load_json(path, "manifest")

    assert "remove it" in caught.value.hint
