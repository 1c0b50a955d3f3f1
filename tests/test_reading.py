"""Reading what users write: YAML, shapes, templates, recipes, sites. Every mistake has a place and a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from envbuilder import catalog, document, recipe, request, site, template
from envbuilder.document import Text, load_yaml
from envbuilder.errors import InputError, UnknownName
from envbuilder.request import concrete
from envbuilder.site import Partition
from envbuilder.target import Compiler, Mpi, Python, Target

GOOD = """\
schema: 1
name: small
summary: A small recipe
features: [mpi4py]
needs: [cpu, mpi]
variants:
  - version: "1.0"
    python: ">=3.10"
packages: ["mpi4py>=4"]
"""

PLACE = re.compile(r"^[^:\n]+:\d+:\d+: ", re.MULTILINE)


def _says(text: str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe.parse(text, "r.yaml")
    said = f"{caught.value.message}\n{caught.value.hint}"
    assert PLACE.search(said), said
    for word in words:
        assert word in said, said


def test_a_good_recipe_reads() -> None:
    found = recipe.parse(GOOD, "r.yaml")

    assert (found.name, found.variants[0].version, found.packages) == ("small", "1.0", ("mpi4py>=4",))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "name: small",
            "nane: small",
            ("r.yaml:2:", "unknown key 'nane'", "did you mean 'name'?", "'name' is missing"),
        ),
        ('version: "1.0"', "version: 1.0", ("r.yaml:7:14", "variants[0].version", "the number 1.0", 'quote it: "1.0"')),
        ('version: "1.0"', "version: 1.10", ('quote it: "1.10"',)),
        ("name: small", "name: no", ("the truth value no", 'quote it: "no"')),
        ("name: small", "name: ../../etc", ("not of the required form",)),
        ("name: small", "name: 'a\\0b'", ("not of the required form",)),
        ("name: small", 'name: "a\\nb"', ("control characters",)),
        ("summary: A small recipe", "summary:", ("empty", "leave the key out")),
        ("features: [mpi4py]", "features: mpi4py", ("must be a list",)),
        ("features: [mpi4py]", "features: [mpi5py]", ("not one of", "did you mean 'mpi4py'?")),
        ('python: ">=3.10"', 'python: "3.10 or later"', ("not a version specifier",)),
        ('["mpi4py>=4"]', '["mpi4py=>4"]', ("not a requirement",)),
        ('["mpi4py>=4"]', '["x @ https://example.org/x.whl"]', ("points at an address",)),
        ('["mpi4py>=4"]', '["-r /etc/passwd"]', ("not a requirement",)),
        ('["mpi4py>=4"]', '["--index-url http://x"]', ("not a requirement",)),
        ("schema: 1", "schema: 2", ("newer than this envbuilder", "upgrade envbuilder")),
        ("schema: 1", "schema: '1'", ("must be a whole number",)),
        ("schema: 1", "schema: 1\nschema: 1", ("written twice", "first on line 1")),
        ("name: small", "name: !!python/object/apply:os.system [id]", ("the tag",)),
        ("name: small", "name: !local small", ("the tag",)),
        ("name: small", "name: &a small", ("anchors and aliases",)),
        ("features: [mpi4py]", "features: *a", ("r.yaml:4:",)),
        ("name: small", "<<: {name: small}", ("merge keys",)),
        ("name: small", "? [a]\n: b", ("a key must be plain text",)),
        ("schema: 1", "schema: 1\n---\nschema: 1", ("a second document",)),
        ("summary: A small recipe", "summary: [" * 60, ("levels deep",)),
        ("summary: A small recipe", "summary: 'open", ("not valid YAML",)),
        ("summary: A small recipe", "summary: a: b", ("not valid YAML",)),
        ("summary: A small recipe", "summary: 1_000", ('quote it: "1_000"',)),
        ("summary: A small recipe", "summary: 1:30", ('quote it: "1:30"',)),
        ("summary: A small recipe", "summary: 0o17", ()),
        ("summary: A small recipe", "summary: 0x1F", ("the number 31",)),
        ("summary: A small recipe", "\tsummary: x", ("not valid YAML",)),
    ],
)
def test_each_mistake_has_its_place_and_remedy(old: str, new: str, words: tuple[str, ...]) -> None:
    text = GOOD.replace(old, new)
    assert text != GOOD
    if words:
        _says(text, *words)
    else:
        recipe.parse(text, "r.yaml")


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    text = GOOD.replace("mpi4py]", "nothing]").replace("summary:", "sumary:").replace('"1.0"', "1.0")

    with pytest.raises(InputError) as caught:
        recipe.parse(text, "r.yaml")

    assert len(caught.value.message.splitlines()) == 4


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"\x00", b"- 1\n", b"just text", b"{", b"\xef\xbb\xbfschema: 1"]
)
def test_files_that_are_no_recipe(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)

    with pytest.raises(InputError):
        recipe.parse(document.read_text(path, "recipe"), str(path))


def test_a_file_that_is_too_large_or_no_file(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("#" * 1_000_001)

    with pytest.raises(InputError, match="too many"):
        document.read_text(large, "recipe")
    with pytest.raises(InputError, match="cannot read"):
        document.read_text(tmp_path, "recipe")


def test_dates_stay_text() -> None:
    node = load_yaml("day: 2026-01-31", "x")

    assert node.value["day"].value == "2026-01-31"


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ namespace.__init__ }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% set x = 1 %}",
    "{# comment #}",
    "{{ range(10**9) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**10**10 }}",
    "{{ 'x' | attr('__class__') }}",
    "{{ 'x'.format(1) }}",
    "{{ '%s' % 1 }}",
    "{{ [1]|map('upper') }}",
    "{{ variant.version.__class__ }}",
    "{{ variant['__class__'] }}",
    "{{ dict(a=1) }}",
    "{{ x() }}",
    "{{ caller() }}",
    "{{ 'a'|replace('a', 'b') }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ unknown }}",
    "{{ variant.unknown }}",
    "{{ }}",
    "{{ variant.version",
    "{{ 'open }}",
]


def _target() -> Target:
    return Target(
        site="s",
        partition="p",
        arch="x86_64",
        libc="",
        gpu="none",
        python=Python(path="python3", version="3.12.0", soabi="cpython-312-x86_64-linux-gnu", headers=True),
        mpi=Mpi(provider="wheel", name="mpich", package="mpich"),
        compiler=Compiler(path="cc", version="cc 1"),
    )


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize(
    "field",
    [
        'packages: ["mpi4py>=4{}"]',
        'packages: ["mpi4py>=4"]\nindexes: [{{url: "https://x/{}", why: w}}]',
        'packages: ["mpi4py>=4"]\nenvironment: [{{set: A, to: "{}", why: w}}]',
        'packages: ["mpi4py>=4"]\nsources: {{m: {{sdist: m, build_requires: ["pip"], why: w, env: {{A: "{}"}}}}}}',
        'packages: ["mpi4py>=4"]\nsources: {{m: {{sdist: m, build_requires: ["pip{}"], why: w}}}}',
    ],
)
def test_a_template_can_neither_escape_nor_grow(field: str, escape: str) -> None:
    text = GOOD.replace('packages: ["mpi4py>=4"]', field.format(escape.replace("\\", "\\\\").replace('"', '\\"')))

    with pytest.raises(InputError) as caught:
        parsed = recipe.parse(text, "r.yaml")
        concrete(parsed, parsed.variants[0], Partition(features=("cpu", "mpi")), _target())

    assert "r.yaml:" in caught.value.message or "not a requirement" in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{ variant.version }}", "2.13.0"),
        ("v{{ variant['version'] }}!", "v2.13.0!"),
        ("{{ 'a' if mpi.name == 'mpich' else 'b' }}", "a"),
        ("{{ mpi.name|upper }}", "MPICH"),
        ("{{ mpi.none|default('x') }}", "x"),
        ("{{ 'a' ~ mpi.name }}", "ampich"),
        ("{{ 'yes' if not (1 > 2 and true) }}", "yes"),
    ],
)
def test_what_a_template_can_do(text: str, expected: str) -> None:
    assert template.render(text, {"variant": {"version": "2.13.0"}, "mpi": {"name": "mpich"}}) == expected


def test_an_error_in_a_template_knows_where_it_was_written() -> None:
    text = Text.at("{{ nothing }}", document.Mark("r.yaml", 3, 7))

    with pytest.raises(InputError, match=r"^r\.yaml:3:7: "):
        template.render(text, {"variant": {}})


def test_an_infeasible_pair_is_refused_with_its_reason() -> None:
    text = GOOD + 'infeasible: [{when: "gpu=amd", why: "a CPU build; use another"}]\n'
    parsed = recipe.parse(text, "r.yaml")
    amd = Target(**{**{f: getattr(_target(), f) for f in Target.__dataclass_fields__}, "gpu": "amd"})

    with pytest.raises(InputError, match="a CPU build; use another \\(gpu=amd\\)"):
        concrete(parsed, parsed.variants[0], Partition(features=("cpu", "mpi"), gpu="amd"), amd)


def test_an_unmet_need_is_refused() -> None:
    parsed = recipe.parse(GOOD, "r.yaml")

    with pytest.raises(InputError, match="does not offer mpi"):
        concrete(parsed, parsed.variants[0], Partition(features=("cpu",)), _target())


def test_without_a_compiler_the_recipe_decides() -> None:
    found = catalog.find_recipe("mpi4py", {})
    bare = Target(**{**{f: getattr(_target(), f) for f in Target.__dataclass_fields__}, "compiler": None})

    asked = concrete(found.recipe, found.recipe.variants[0], Partition(features=("cpu", "mpi")), bare)

    assert not asked.sources
    assert not asked.target["compiles"]


def test_a_request_does_not_depend_on_where_the_compiler_is() -> None:
    found = catalog.find_recipe("mpi4py", {})
    partition = Partition(features=("cpu", "mpi"))
    elsewhere = Target(
        **{
            **{f: getattr(_target(), f) for f in Target.__dataclass_fields__},
            "compiler": Compiler(path="/x/cc", version="cc 2"),
        }
    )

    first, second = (
        concrete(found.recipe, found.recipe.variants[0], partition, where) for where in (_target(), elsewhere)
    )

    assert first.digest == second.digest
    assert request.CC in first.sources["mpi4py"].env["MPICC"]


SITE = """\
schema: 1
name: here
summary: A site
default_partition: cpu
partitions:
  cpu: {features: [cpu, mpi], mpi: {provider: detect}}
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("default_partition: cpu", "default_partition: gpu", ("s.yaml:4:", "no partition 'gpu'", "cpu")),
        ("provider: detect", "provider: guess", ("not one of", "detect")),
        ("summary: A site", "summary: A site\nvalid_until: 2026-02-30", ("not a date",)),
        ("summary: A site", "summary: A site\nvalid_until: soon", ("required form",)),
        ("summary: A site", "summary: A site\npaths: {root: relative/path}", ("required form",)),
        ("summary: A site", "summary: A site\nmirrors: {'not a url': 'https://x/y'}", ("required form",)),
        ("  cpu: {", "  ../cpu: {", ("required form",)),
        ("summary: A site", "summary: A site\nproof: {max_age_hours: 0}", ("out of range",)),
        ("mpi: {provider: detect}", "mpi: {provider: system, mpicc: 'cc; rm -rf /'}", ("required form",)),
    ],
)
def test_each_mistake_in_a_site(old: str, new: str, words: tuple[str, ...]) -> None:
    text = SITE.replace(old, new)
    assert text != SITE

    with pytest.raises(InputError) as caught:
        site.parse(text, "s.yaml")

    said = f"{caught.value.message} {caught.value.hint}"
    assert PLACE.search(said)
    assert all(word in said for word in words), said


def test_a_site_whose_time_is_over_says_so() -> None:
    from datetime import date

    found = site.parse(
        SITE.replace("summary: A site", "summary: A site\nvalid_until: 2026-11-21\nsuccessor: there"), "s"
    )

    assert not found.expired(date(2026, 11, 21))
    assert "valid until 2026-11-21; its successor is there" in found.expired(date(2026, 11, 22))


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name / "recipe.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_a_user_s_recipe_shadows_the_shipped_one_as_a_whole(tmp_path: Path) -> None:
    mine = _write(tmp_path / "mine", "mpi4py", GOOD.replace("name: small", "name: mpi4py"))
    env = {"ENVBUILDER_RECIPE_PATH": str(tmp_path / "mine"), "HOME": str(tmp_path)}

    found = catalog.find_recipe("mpi4py", env)

    assert found.origins[0].path == mine
    assert not found.recipe.sources
    configured = _write(tmp_path / ".config/envbuilder/recipes", "mpi4py", GOOD.replace("name: small", "name: mpi4py"))
    assert catalog.find_recipe("mpi4py", {"HOME": str(tmp_path)}).origins[0].path == configured


def test_a_layer_joins_its_base(tmp_path: Path) -> None:
    found = catalog.find_recipe("deepcam", {"HOME": str(tmp_path)})

    assert [origin.name for origin in found.origins] == ["deepcam", "pytorch-cpu", "mpi4py"]
    assert set(found.recipe.sources) == {"mpi4py", "warmup-scheduler"}
    assert found.recipe.packages[0].startswith("mpi4py")


def test_layers_in_a_circle_and_missing_bases(tmp_path: Path) -> None:
    for name, base in (("one", "two"), ("two", "one"), ("lost", "nowhere")):
        _write(tmp_path, name, GOOD.replace("name: small", f"name: {name}\nextends: {base}"))
    env = {"ENVBUILDER_RECIPE_PATH": str(tmp_path)}

    with pytest.raises(InputError, match="circle") as caught:
        catalog.find_recipe("one", env)
    assert PLACE.search(caught.value.message)
    with pytest.raises(InputError, match="there is no recipe 'nowhere'"):
        catalog.find_recipe("lost", env)


@pytest.mark.parametrize("name", ["nothing", "mpi4p", "../mpi4py", "./nowhere", "", "a b", "mpi4py@9.9", "x\0y", "@"])
def test_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(InputError) as caught:
        catalog.find_recipe(name, {"HOME": "/nowhere"})

    if name == "mpi4p":
        assert isinstance(caught.value, UnknownName)
        assert "did you mean 'mpi4py'?" in caught.value.hint


def test_a_recipe_must_have_the_name_of_its_folder(tmp_path: Path) -> None:
    _write(tmp_path, "other", GOOD)

    with pytest.raises(InputError, match="calls itself 'small'"):
        catalog.find_recipe("other", {"ENVBUILDER_RECIPE_PATH": str(tmp_path)})
