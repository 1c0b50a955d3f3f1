"""One description of a format: what the JSON Schema refuses the reader refuses, and the reverse where a schema can say it."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import recipe, site
from envbuilder.errors import InputError
from envbuilder.shape import ListOf, MapOf, Shape, Table, Words

FORMATS: list[tuple[ModuleType, dict[str, Any]]] = [
    (recipe, {**samples.RECIPE, "sources": samples.SOURCES}),
    (site, samples.SITE),
]
VALIDATORS = {module: jsonschema.Draft202012Validator(module.json_schema()) for module, _ in FORMATS}
OTHERS: list[Any] = [
    None,
    True,
    3,
    1.5,
    -1,
    "",
    "../x",
    "two\nlines",
    "$(id)",
    "{{ x }}",
    [],
    ["x"],
    [[]],
    {},
    {"a": "b"},
]


def _refused(module: ModuleType, document: Any) -> str:
    try:
        module.parse(json.dumps(document, ensure_ascii=False), "f.yaml")
    except InputError as error:
        assert re.match(r"f\.yaml:\d+:\d+: ", error.message)
        return error.message
    return ""


@pytest.mark.parametrize(("module", "document"), FORMATS, ids=["recipe", "site"])
def test_the_samples_use_every_key(module: ModuleType, document: dict[str, Any]) -> None:
    def paths(shape: Shape, at: Any) -> list[str]:
        if isinstance(shape, Table):
            assert at is not None
            known = {key: at.get(key) for key in shape.fields} if isinstance(at, dict) else {}
            return [key for key, value in known.items() if value is None] + [
                line for key, field in shape.fields.items() for line in paths(field.shape, known[key])
            ]
        if isinstance(shape, ListOf):
            whole: dict[str, Any] = {}
            for item in at:
                whole |= item if isinstance(item, dict) else {"": item}
            return paths(shape.of, whole if isinstance(shape.of, Table) else at)
        if isinstance(shape, MapOf) and isinstance(shape.of, Table):
            return paths(shape.of, {key: value for one in at.values() for key, value in one.items()})
        return []

    assert paths(module.shape(), document) == []
    assert not _refused(module, document)
    assert VALIDATORS[module].is_valid(document)


@given(st.data())
def test_reader_and_schema_agree_on_a_changed_document(data: st.DataObject) -> None:
    module, document = data.draw(st.sampled_from(FORMATS))
    path = data.draw(st.sampled_from(list(samples.spots(document))))
    changed = samples.changed(document, path, data.draw(st.sampled_from(OTHERS)))

    refused = _refused(module, changed)

    if not VALIDATORS[module].is_valid(changed):
        assert refused, (path, changed)


@pytest.mark.parametrize(("module", "document"), FORMATS, ids=["recipe", "site"])
def test_both_refuse_another_type_and_an_unknown_key_everywhere(module: ModuleType, document: dict[str, Any]) -> None:
    for path in samples.spots(document):
        old = samples.changed(document, path, None)
        assert _refused(module, old), path
        assert not VALIDATORS[module].is_valid(old), path
    tables = [(), *(path for path in samples.spots(document) if path[-1] in ("paths", "proof", "mpi4py", "compilers"))]
    for path in tables:
        at: Any = document
        for key in path:
            at = at[key]
        strange = samples.changed(document, path, {**at, "nothing": 1}) if path else {**document, "nothing": 1}
        if isinstance(at, dict):
            assert "unknown key 'nothing'" in _refused(module, strange)
            assert not VALIDATORS[module].is_valid(strange)


@pytest.mark.parametrize(("module", "document"), FORMATS, ids=["recipe", "site"])
def test_both_refuse_a_missing_key(module: ModuleType, document: dict[str, Any]) -> None:
    for key in module.json_schema()["required"]:
        less = {other: value for other, value in document.items() if other != key}
        assert f"the key {key!r} is missing" in _refused(module, less)
        assert not VALIDATORS[module].is_valid(less)


@pytest.mark.parametrize("bad", samples.LEADING_OUT)
@pytest.mark.parametrize(("module", "document"), FORMATS, ids=["recipe", "site"])
def test_nothing_that_leads_out_of_a_folder_becomes_a_name(
    module: ModuleType, document: dict[str, Any], bad: str
) -> None:
    """Wherever a key has a form, path traversal and line breaks are refused, in expressions too."""
    free = (
        "summary",
        "description",
        "why",
        "to",
        "CFLAGS",
        "specs",
        "root",
        "caches",
        "mpicc",
        "cc",
        "sources",
        "url",
        "title",
        "model",
        "init",
        "notes",
        "exports_after_modules",
        "replace",
        "by",
        "pattern",
    )
    for path in samples.leaves(document):
        named = [part for part in path if isinstance(part, str)]
        if named[-1] in free or (module is site and "mirrors" in named):
            continue
        for text in (bad, f"{{{{ '{bad}' }}}}"):
            changed = samples.changed(document, path, text)
            if not _refused(module, changed):
                # an expression in a requirement; it is judged when it is rendered
                with pytest.raises(InputError):
                    samples.request(recipe.parse(json.dumps(changed), "f.yaml"))


@pytest.mark.parametrize("control", ["\0", "\n", "\r", "\x1b[2J", "\x7f", "\x9b", "\u2028", "\u2029"])
@pytest.mark.parametrize(("module", "document"), FORMATS, ids=["recipe", "site"])
def test_no_text_can_write_on_the_terminal(module: ModuleType, document: dict[str, Any], control: str) -> None:
    for path in samples.leaves(document):
        if path[-1] in ("description", "replace", "by") and control == "\n":
            continue
        refused = _refused(module, samples.changed(document, path, f"x{control}y"))
        assert refused, path
        assert not re.search(r"[\0\r\x1b\x7f\x9b\u2028\u2029]", refused)


def test_a_description_may_have_lines_and_any_script() -> None:
    text = "zwei Zeilen\n\tund ein Tabulator\n日本語\u3000環境 👩🏽\u200d💻\xa0!\n"

    written = json.dumps({**samples.RECIPE, "description": text}, ensure_ascii=False)
    assert recipe.parse(written, "r").description == text


def test_only_what_is_rendered_may_hold_an_expression_where_a_form_is_asked() -> None:
    """A form that an expression could slip through would be no form: a name is never rendered."""
    accepted = set()
    for path in samples.leaves(samples.RECIPE):
        if not _refused(recipe, samples.changed(samples.RECIPE, path, "{{ variant.version }}")):
            accepted.add(".".join(part for part in path if isinstance(part, str)))

    assert accepted == {
        "summary", "description", "specs", "variants.packages", "variants.indexes.url", "variants.indexes.why", "packages",
        "indexes.url", "indexes.why", "sources.mpi4py.build_requires", "sources.mpi4py.why", "sources.mpi4py.env.CFLAGS",
        "environment.to", "environment.why", "infeasible.why", "base.why", "data.why",
        "conda.packages",
    }  # fmt: skip


def test_words_with_a_pattern_match_wholly() -> None:
    shape = Words(pattern="[a-z]+")

    assert shape.schema()["pattern"] == "^([a-z]+)$"
