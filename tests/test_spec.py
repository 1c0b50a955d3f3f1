"""Specs in Spack's syntax: read strictly, written back, and held against what a real Spack makes of the same texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import lint, places, recipe, spec_reader, spec_text, spec_versions
from envbuilder.document import load_yaml
from envbuilder.errors import InputError
from envbuilder.spec import PLACES, Edge, Flag, Spec, Variant
from envbuilder.spec_versions import Misspelt, Span, Versions

HERE = Path(__file__).parent / "spack"
CORPORA = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.json"))}
SPECS = [entry for entry in CORPORA["specs"]["specs"] if "stricter" not in entry]
STRICTER = [entry for entry in CORPORA["specs"]["specs"] if "stricter" in entry]
MALFORMED = CORPORA["malformed"]["malformed"]
VERSIONS = CORPORA["versions"]


def parts(spec: Spec) -> dict[str, Any]:
    """The spec in the form of `spack/verdicts.py`; a package that provides several virtuals is one dependency there."""
    edges: list[Edge] = []
    for edge in spec.edges:
        same = next(
            (one for one in edges if (one.spec, one.sigil, one.when) == (edge.spec, edge.sigil, edge.when)), None
        )
        if same is not None and edge.spec.name:
            edges.remove(same)
            edge = Edge(  # noqa: PLW2901
                sigil=edge.sigil, spec=edge.spec, virtuals=tuple(sorted({*edge.virtuals, *same.virtuals})),
                deptypes=edge.deptypes, when=edge.when,
            )  # fmt: skip
        edges.append(edge)
    found = {
        "name": spec.name,
        "namespace": spec.namespace,
        "versions": "" if spec.versions is None or str(spec.versions.merged()) == ":" else str(spec.versions),
        "variants": {
            one.name: [
                one.value if isinstance(one.value, bool) else [value for value in sorted(one.value) if value != "*"],
                one.inherited,
                one.only,
            ]
            for one in spec.variants
        },
        "flags": {one.name: [one.value, one.inherited] for one in spec.flags},
        "place": [getattr(spec, key) for key in PLACES],
        "hash": spec.hash,
        "edges": sorted((_edge(one) for one in edges), key=json.dumps),
    }
    return {key: value for key, value in found.items() if value and value != ["", "", ""]}


def meaning(verdict: Any) -> Any:
    """A verdict with versions as what they hold (Spack writes 06 as 6), and compilers under the names of their packages."""
    if isinstance(verdict, list):
        return [meaning(one) for one in verdict]
    if not isinstance(verdict, dict):
        return verdict
    found = {key: meaning(value) for key, value in verdict.items()}
    if "edges" in found:
        found["edges"].sort(key=repr)
    if "versions" in found:
        found["versions"] = held(spec_versions.read(found["versions"]))
    if found.get("sigil", "^") != "^" and found["spec"].get("name") == "clang":
        found["spec"]["name"] = "llvm"
    return found


def held(versions: Versions) -> list[Any]:
    """What a specifier holds, however it is written."""
    return [(span.start, span.end, span.ref) for span in versions.merged().spans]


def _edge(edge: Edge) -> dict[str, Any]:
    found = {
        "sigil": edge.sigil,
        "virtuals": sorted(edge.virtuals),
        "deptypes": sorted(edge.deptypes),
        "when": parts(edge.when) if edge.when else {},
        "spec": parts(edge.spec),
    }
    return {key: value for key, value in found.items() if value}


def test_the_corpora_are_large_enough_and_say_who_judged() -> None:
    assert len(SPECS) >= 200
    assert len(MALFORMED) >= 50
    assert sum(len(VERSIONS[kind]) for kind in ("order", "fits", "both", "merged")) >= 500
    assert {corpus["by"] for corpus in CORPORA.values()} == {"Spack 1.1.1"}
    assert not any({"refused", "several"} & set(entry["spack"]) for entry in [*SPECS, *STRICTER])


@pytest.mark.parametrize("entry", SPECS, ids=lambda entry: entry["spec"])
def test_specs_mean_what_they_mean_to_spack(entry: dict[str, Any]) -> None:
    spec = spec_text.parse(entry["spec"])

    assert meaning(parts(spec)) == meaning(entry["spack"])
    assert spec_text.parse(str(spec)) == spec


@pytest.mark.parametrize("entry", [*MALFORMED, *STRICTER], ids=lambda entry: repr(entry["spec"]))
def test_malformed_specs_are_refused_at_the_character(entry: dict[str, Any]) -> None:
    text = entry["spec"]
    with pytest.raises(InputError) as caught:
        spec_text.parse(text)

    assert f"(character {entry['at'] + 1} of {text!r})" in caught.value.message
    assert entry.get("says", "") in caught.value.message
    assert caught.value.hint
    assert 0 <= entry["at"] <= max(len(text) - 1, 0)


def test_where_spack_takes_what_is_refused_here_it_is_listed_with_the_reason() -> None:
    """What nobody lists as stricter is refused by Spack as well, or is more than one spec to it."""
    others = [entry["spec"] for entry in MALFORMED if not {"refused", "several"} & set(entry["spack"])]

    assert others == []
    assert all(entry["stricter"] for entry in STRICTER)


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ('specs: ["zlib@1.2, +x"]', 19),
        ("specs: ['zlib@1.2, +x']", 19),
        ("specs: [zlib@1.2# +x]", 17),
        ("specs:\n  - zlib@1.2= +x", 13),
        ("specs:\n  - >-\n    zlib@1.2=\n    +x", 5),
        ('specs: ["zlib\\x40@1.2"]', 9),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_column(line: str, column: int) -> None:
    node = load_yaml(line, "some.yaml")
    text = node.value["specs"].value[0].value
    with pytest.raises(InputError) as caught:
        spec_text.parse(text)

    row = 2 if "\n" in line else 1
    assert caught.value.message.startswith(f"some.yaml:{row}:{column}: ")


def test_versions_are_ordered_as_spack_orders_them() -> None:
    wrong = [entry for entry in VERSIONS["order"] if spec_versions.compare(entry[0], entry[1]) != entry[2]]
    swapped = [entry for entry in VERSIONS["order"] if spec_versions.compare(entry[1], entry[0]) != -entry[2]]

    assert (wrong, swapped) == ([], [])
    assert {verdict for _, _, verdict in VERSIONS["order"]} == {-1, 0, 1}


def test_versions_fit_specifiers_as_they_do_for_spack() -> None:
    read = spec_versions.read

    assert [entry for entry in VERSIONS["fits"] if read(entry[1]).holds(entry[0]) is not entry[2]] == []
    assert {verdict for _, _, verdict in VERSIONS["fits"]} == {True, False}


def test_specifiers_lie_in_and_meet_each_other_as_they_do_for_spack() -> None:
    wrong = []
    for one, other, verdict in VERSIONS["both"]:
        a, b = spec_versions.read(one), spec_versions.read(other)
        if [a.within(b), a.meets(b)] != verdict:
            wrong.append((one, other, verdict))

    assert wrong == []


def test_specifiers_are_merged_as_spack_merges_them() -> None:
    def ends(specifier: Versions) -> list[Any]:
        return [(span.start, span.end) for span in specifier.spans]

    read = spec_versions.read
    assert [entry for entry in VERSIONS["merged"] if ends(read(entry[0]).merged()) != ends(read(entry[1]))] == []


@pytest.mark.skipif("SPACK_ROOT" not in os.environ, reason="no Spack here: set SPACK_ROOT to a folder with its sources")
def test_the_spack_that_is_here_gives_the_same_verdicts() -> None:
    code = (
        "import json, os, sys; sys.path.insert(0, sys.argv[1]); import verdicts; verdicts.load(os.environ['SPACK_ROOT']); "
        "print(json.dumps([verdicts.answers(corpus) for corpus in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE)],
        input=json.dumps(list(CORPORA.values())), capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert json.loads(done.stdout) == list(CORPORA.values())


def test_a_spec_of_endless_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"more than 4000 characters \(character 4001 of"):
        spec_text.parse(f"zlib@{'9' * 5000}")


def test_a_recipe_with_a_wrong_spec_is_refused_with_its_place() -> None:
    text = "schema: 1\nname: x\nsummary: s\nvariants: [{version: '1'}]\nspecs:\n  - zlib@1.2 +a +a\n  - '+mpi'\n"
    with pytest.raises(InputError) as caught:
        recipe.parse(text, "recipe.yaml")

    lines = caught.value.message.splitlines()
    assert lines[0].startswith(
        "recipe.yaml:6:17: the variant a is given twice (character 13 of 'zlib@1.2 +a +a'); keep one"
    )
    assert lines[1].startswith("recipe.yaml:7:6: a spec must begin with a package's name")


def test_lint_finds_what_an_expression_makes_of_a_spec(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    text = "schema: 1\nname: x\nsummary: s\nvariants: [{version: '1'}]\nspecs: ['zlib@{{ variant.version }}, +mpi']\n"
    (folder / "recipe.yaml").write_text(text)

    (line,) = lint.lint_recipe(places.Origin(name="x", path=folder / "recipe.yaml"), {"HOME": str(tmp_path)})
    assert f"{folder}/recipe.yaml:5:9: a version is missing in the list (character 8 of 'zlib@1, +mpi')" in line


# Properties

words = st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,5}", fullmatch=True)
pieces = st.sampled_from(
    [*"0129", "10", "06", "a", "z", "Z", "az", "rc", "rc1", "alpha2", "beta", "develop", "main", "stable", "v1"]
)
numbers = st.lists(st.tuples(pieces, st.sampled_from("._-")), min_size=1, max_size=4).map(
    lambda found: "".join(f"{piece}{sign}" for piece, sign in found)[:-1]
)
plain = st.text(alphabet="abcXYZ019_-+*.:=%^~/", min_size=1, max_size=6).filter(lambda text: text != "*")
quoted = st.text(alphabet="abc 012@#;$", min_size=1, max_size=8).filter(lambda text: text.strip() == text != "")
values = (plain | quoted).filter(lambda text: text.lower() not in ("true", "false"))


@st.composite
def spans(draw: st.DrawFn) -> Span:
    low, high = draw(numbers), draw(numbers)
    kind = draw(st.sampled_from(["one", "exact", "from", "to", "range"]))
    if kind == "exact":
        return Span(low=low, exact=True)
    if kind == "one":
        return Span(low=low, high=low)
    if kind == "range" and Span(low=low, high=high).start < Span(low=low, high=high).end:
        return Span(low=low, high=high)
    return Span(high=high) if kind == "to" else Span(low=low)


specifiers = st.lists(spans(), min_size=1, max_size=3).map(lambda found: Versions(tuple(found)))
switches = st.builds(
    lambda name, on, both: Variant(name=name, value=on, inherited=both), words, st.booleans(), st.booleans()
)
lists = st.builds(
    lambda name, found, both, only: Variant(name=name, value=tuple(sorted(set(found))), inherited=both, only=only),
    words, st.lists(values, min_size=1, max_size=3), st.booleans(), st.booleans(),
)  # fmt: skip
RESERVED = {*PLACES, "arch", "cflags", "cppflags", "cxxflags", "fflags", "ldflags", "ldlibs"}
variants = st.lists(
    (switches | lists).filter(lambda one: one.name not in RESERVED), max_size=3, unique_by=lambda one: one.name
).map(lambda found: tuple(sorted(found, key=lambda one: one.name)))
flags = st.lists(
    st.builds(lambda value, both: Flag(name="cflags", value=value, inherited=both), plain | quoted, st.booleans()),
    max_size=1,
).map(tuple)


@st.composite
def nodes(draw: st.DrawFn, *, named: bool = True) -> Spec:
    return Spec(
        name=draw(words) if named else "",
        versions=draw(st.none() | specifiers),
        variants=draw(variants),
        flags=draw(flags),
        target=draw(st.sampled_from(["", "zen2", "x86_64_v3:"])),
        hash=draw(st.sampled_from(["", "abc234"])),
    )


@st.composite
def edges(draw: st.DrawFn, sigils: str, number: int) -> Edge:
    whole = draw(nodes())
    return Edge(
        sigil=draw(st.sampled_from(sigils.split())),
        spec=Spec(**{**_fields(whole), "name": f"d{number}{whole.name}"}),
        virtuals=tuple(sorted(set(draw(st.lists(words, max_size=2))))),
        deptypes=draw(st.sampled_from([(), ("build",), ("build", "link")])),
        when=draw(
            st.none() | nodes(named=False).filter(lambda spec: str(spec) != "" and not {"'", '"', ","} & set(str(spec)))
        ),
    )


def _fields(spec: Spec) -> dict[str, Any]:
    return {key: getattr(spec, key) for key in spec.__dataclass_fields__}


@st.composite
def whole_specs(draw: st.DrawFn) -> Spec:
    root = draw(nodes())
    direct = [draw(edges("% %%", number)) for number in range(draw(st.integers(0, 2)))]
    below = []
    for number in range(draw(st.integers(0, 2))):
        edge = draw(edges("^", 10 + number))
        inner = tuple(draw(edges("%", 20 + one)) for one in range(draw(st.integers(0, 1))))
        below.append(Edge(**{**_edge_fields(edge), "spec": Spec(**{**_fields(edge.spec), "edges": inner})}))
    return Spec(**{**_fields(root), "edges": (*direct, *below)})


def _edge_fields(edge: Edge) -> dict[str, Any]:
    return {key: getattr(edge, key) for key in edge.__dataclass_fields__}


@given(whole_specs())
def test_a_spec_that_is_written_is_read_as_the_same(spec: Spec) -> None:
    assert spec_text.parse(str(spec)) == spec


@given(st.text(alphabet="ab12 @=:,.+~-^%[]/'\"git", max_size=20) | st.text(max_size=12))
def test_any_text_is_a_spec_or_a_pointed_mistake(text: str) -> None:
    try:
        spec = spec_reader.read(text)
    except Misspelt as wrong:
        assert 0 <= wrong.at <= max(len(text) - 1, 0)
        assert wrong.what
        assert wrong.instead
    else:
        assert spec_text.parse(str(spec)) == spec


@given(numbers, numbers, numbers)
def test_versions_have_one_order(a: str, b: str, c: str) -> None:
    compare = spec_versions.compare
    assert compare(a, b) == -compare(b, a)
    if compare(a, b) <= 0 and compare(b, c) <= 0:
        assert compare(a, c) <= 0
    assert spec_versions.read(f"{a}:").holds(b) is (compare(a, b) <= 0)


@given(specifiers, specifiers, numbers)
def test_what_lies_in_a_specifier_fits_it(a: Versions, b: Versions, version: str) -> None:
    if a.within(b) and a.holds(version):
        assert b.holds(version)
    assert a.merged().holds(version) is a.holds(version)
    assert a.within(a)
    assert a.merged().merged() == a.merged()
