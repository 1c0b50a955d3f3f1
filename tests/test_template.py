"""Templates: whatever is written between braces, there is a text of bounded length or one `InputError`."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envbuilder import document, template
from envbuilder.errors import InputError

SCOPE = {"variant": {"version": "2.13.0"}, "mpi": {"name": "mpich"}, "recipe": {"name": "x"}}
PIECES = (
    "{{", "}}", "{{-", "-}}", "{%", "%}", "{#", "#}", " variant", ".version", "mpi", "['name']", "|upper", "|join", "|default('x')",
    "|attr('y')", "()", "(", ")", "[", "]", "''", '"', "'a'", " ~ ", " + ", " ** ", " * ", "10**9", "9" * 5000, "0x" + "f" * 4000,
    " if ", " else ", " not ", " is defined", " is none", " in ", " and ", " or ", " == ", " < ", ".__class__", "['__class__']",
    "|map('upper')", "self", "range", "lipsum", "cycler", "namespace", ".__init__", ".__globals__", " for x in ", "\\", "\n", "\0",
    ":", ",", ".", "none", "true", "é", "\ud800", "**{}", "*[]", "=", "%", "|format(1)", "loop", "caller", "varargs", "{", "}",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("{{ a" + ".a" * 250 + " }}")
@example("{{ " + "9" * 6000 + " }}")
@example("{{ 'a'|join(attribute='__class__') }}")
@example("{{ 'a' ~ self }}")
@example("{{ 'a' ~ variant.version.format ~ mpi.keys ~ 'x'.upper ~ [].append }}")
def test_any_pieces_end_in_a_text_or_in_an_input_error(text: str) -> None:
    for written in (text, "{{ " + text + " }}"):
        wrong = template.problem(written)
        try:
            result = template.render(written, SCOPE)
        except InputError as error:
            assert error.message
            assert error.hint
        else:
            assert wrong is None
            assert len(result) <= max(template.MAX_LENGTH, len(written))
            assert "<class" not in result
            assert "<built-in" not in result
            assert "object at 0x" not in result
            assert "TemplateReference" not in result


PLAIN = (
    "{{ variant.version }}", "{{variant.version}}", "{{ n }}", "{{ f }}", "{{ yes }}", "{{ variant }}", "{{ variant.gone }}", "{{ none }}",
    "{{ in }}", "{{ variant.items }}", "{{ variant.version.upper }}", "{{ nothing }}", "{", "}", "{{", "}}", " ", "\n", "x", "{{  n }}",
    "{{ n}}", "{{ true }}", "{{ _n }}", "{{ variant.none }}", "é", "\r\n", "-", "%", "#",
)  # fmt: skip


@given(st.lists(st.sampled_from(PLAIN), max_size=6).map("".join))
def test_what_is_read_without_the_engine_is_what_the_engine_says(text: str) -> None:
    scope = {"variant": {"version": "1.0", "none": "a"}, "n": 3, "f": 1.5, "yes": True, "nothing": None}

    shortly = template._plainly(text, scope)

    if shortly is not None and "{{" in text:
        assert shortly == template._by_jinja(text, scope)
    if template._is_plain(text) and "{{" in text:
        assert template._compiled(text)


def test_nearly_all_expressions_need_no_engine() -> None:
    assert template._plainly("a=={{ variant.version }}{{ mpi.name }}!", SCOPE) == "a==2.13.0mpich!"
    assert template._plainly("{{ variant.version if mpi }}", SCOPE) is None


@pytest.mark.parametrize("count", [20, 99, 199, 250, 1000, 5000, 9000])
@pytest.mark.parametrize(
    "made",
    [
        lambda n: "a" + ".a" * n,
        lambda n: "(" * n + "a" + ")" * n,
        lambda n: "not " * n + "a",
        lambda n: "[" * n + "]" * n,
        lambda n: "a" + " and a" * n,
        lambda n: "a" + "~a" * n,
        lambda n: "'a'" + "|upper" * n,
        lambda n: "a if a else " * n + "a",
        lambda n: "1" * n,
        lambda n: "0x" + "f" * n,
        lambda n: "a < " * n + "a",
    ],
)
def test_depth_and_length_end_in_one_message_at_once(made: object, count: int) -> None:
    started = time.monotonic()
    text = "{{ " + made(count) + " }}"  # type: ignore[operator]

    problem = template.problem(text)
    try:
        template.render(text, {"a": "x"})
    except InputError as error:
        assert len(error.message) < 300
    else:
        assert problem is None
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("character", ["\\x00", "\\n", "\\r", "\\x1b", "\\x9b", "\\u2028", "\\ud800"])
def test_a_rendered_text_has_no_more_characters_than_a_written_one(character: str) -> None:
    with pytest.raises(InputError, match="control characters") as caught:
        template.render('x{{ "' + character + '" }}', {})

    assert not document.controls(caught.value.message)


def test_a_text_of_a_megabyte_is_too_long() -> None:
    for text in ("{{ a }}" * 20_000, "x" * 999_990 + "{{ a }}"):
        with pytest.raises(InputError, match="too many"):
            template.render(text, {"a": "x"})
        assert template.problem(text)


def test_a_text_that_grows_beyond_measure_is_refused() -> None:
    with pytest.raises(InputError, match="longer than"):
        template.render("{{ a }}" * 300, {"a": "x" * 100})


def test_text_without_braces_is_never_touched() -> None:
    assert template.render("}} %} #} { {x} $HOME", {}) == "}} %} #} { {x} $HOME"
