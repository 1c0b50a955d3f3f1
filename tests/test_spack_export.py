"""`envbuilder export spack`: every shipped recipe on every partition that it fits, by our rules and by a real Spack's."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
import yaml

from envbuilder import catalog, cli, prepare, site, spack_environment, spec_text, store
from envbuilder import recipe as recipe_format
from envbuilder.errors import InputError
from envbuilder.externals import External
from envbuilder.lock import Lock
from envbuilder.partition import MpiContract, Partition, PythonHere
from envbuilder.recipe import Recipe
from envbuilder.spec_versions import exactly
from envbuilder.wish import Wish

NOWHERE = {"HOME": "/nowhere"}
SPACK = Path(__file__).parent / "spack"
with_spack = pytest.mark.skipif(
    "SPACK_ROOT" not in os.environ, reason="no Spack here: set SPACK_ROOT to a folder with its sources"
)


@functools.cache
def fitting() -> tuple[tuple[str, str, str], ...]:
    """Every shipped recipe with each partition that it fits by the files."""
    return tuple(sorted(_fitting()))


def _fitting() -> Iterator[tuple[str, str, str]]:
    for origin in catalog.recipes(NOWHERE):
        for site_origin in catalog.sites(NOWHERE):
            shipped, _ = catalog.find_site(site_origin.name, NOWHERE)
            for name in shipped.partitions:
                try:
                    prepare.choose(Wish(recipe=origin.name, site=site_origin.name, partition=name), NOWHERE)
                except InputError:
                    continue
                yield origin.name, site_origin.name, str(name)


def exported(folder: Path, *words: str) -> dict[str, Any]:
    assert cli.main(["export", "spack", *words, "-o", str(folder), "-q"]) == 0
    document = yaml.safe_load((folder / "spack.yaml").read_text())
    assert isinstance(document, dict)
    return document


def real(call: str, documents: list[Any]) -> list[Any]:
    """What a real Spack says of each document."""
    code = (
        "import json, os, sys; sys.path.insert(0, sys.argv[1]); import verdicts; verdicts.load(os.environ['SPACK_ROOT']); "
        f"print(json.dumps([verdicts.{call}(one) for one in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(SPACK)],
        input=json.dumps(documents),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, list)
    return answer


def structural_mistakes(document: dict[str, Any]) -> list[str]:
    """What is wrong with a `spack.yaml` as this project writes it, by rules of our own."""
    found = [f"stray key {key}" for key in document if key != "spack"]
    environment = document["spack"]
    packages = environment["packages"]
    found += [f"not a named spec: {text}" for text in environment["specs"] if spec_text.wish_problem(text)]
    for name, package in packages.items():
        for one in package.get("externals", ()):
            spec = spec_text.parse(one["spec"])
            if spec.name != name or spec.versions is None or not spec.versions.single:
                found.append(f"{name}: the external {one['spec']} is of another package, or without a version")
            if not (one.get("prefix") or one.get("modules")):
                found.append(f"{name}: {one['spec']} is nowhere")
            if package.get("buildable", True):
                found.append(f"{name}: there is an external, and Spack may build another")
        if name in ("mpi", "c", "cxx", "fortran"):
            for text in package.get("require", ()):
                wanted = spec_text.parse(text)
                there = [spec_text.parse(one["spec"]) for one in packages.get(wanted.name, {}).get("externals", ())]
                if not any(one.versions and wanted.versions and one.versions.within(wanted.versions) for one in there):
                    found.append(f"{name}: {text} is required and no external is one")
    if "externals" in packages.get("all", {}) or any(
        "%" in text for text in packages.get("all", {}).get("require", ())
    ):
        found.append("all: what it requires holds for externals, too")
    return found


def test_most_recipes_fit_several_sites() -> None:
    assert len(fitting()) >= 40
    without_a_site = {origin.name for origin in catalog.recipes(NOWHERE)} - {name for name, _, _ in fitting()}

    assert without_a_site == {"pytorch-xpu"}  # no shipped site has GPUs of Intel


def test_every_shipped_recipe_exports_for_every_partition_that_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENVBUILDER_SITE_PATH", raising=False)
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    for name, at, partition in fitting():
        document = exported(tmp_path / f"{name}.{at}.{partition}", name, "--site", at, "--partition", partition)

        assert structural_mistakes(document) == [], (name, at, partition)
        shipped = catalog.find_site(at, NOWHERE)[0].partition(partition)
        packages = document["spack"]["packages"]
        if shipped.mpi.provider == "system":
            assert packages["mpi"]["buildable"] is False
            assert packages["all"]["providers"]["mpi"] == [shipped.mpi.name]
        if shipped.cpu.target:
            assert packages["all"]["target"] == [shipped.cpu.target]


@with_spack
def test_a_real_spack_takes_every_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENVBUILDER_SITE_PATH", raising=False)
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    documents = [
        exported(tmp_path / f"{name}.{at}.{partition}", name, "--site", at, "--partition", partition)
        for name, at, partition in fitting()
    ]
    broken = json.loads(json.dumps(documents[0]))
    broken["spack"]["packages"]["all"]["buildable"] = "no"
    misspelt = json.loads(json.dumps(documents[0]))
    misspelt["spack"]["specs"].append("zlib@@1")
    answers = real("schema_mistakes", [*documents, broken, misspelt])

    assert answers[:-2] == [[] for _ in documents]
    assert "buildable" in answers[-2][0]
    assert answers[-1] == ["not a spec: zlib@@1"]


def test_a_site_with_externals_gives_prefixes_modules_and_compilers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    packages = exported(tmp_path / "x", "mpi4py", "--site", "archer2", "--partition", "cpu")["spack"]["packages"]

    assert packages["cray-mpich"] == {
        "buildable": False,
        "externals": [
            {
                "spec": "cray-mpich@8.1.27+wrappers",
                "prefix": "/opt/cray/pe/mpich/8.1.27/ofi/gnu/9.1",
                "modules": ["PrgEnv-gnu/8.4.0", "cray-mpich/8.1.27"],
            }
        ],
    }
    (gcc,) = packages["gcc"]["externals"]
    assert gcc["spec"] == "gcc@11.2.0 languages:='c,c++,fortran'"
    assert set(gcc["extra_attributes"]["compilers"]) == {"c", "cxx", "fortran"}
    assert [packages[one]["require"] for one in ("c", "cxx", "fortran", "mpi")] == [
        ["gcc@11.2.0"], ["gcc@11.2.0"], ["gcc@11.2.0"], ["cray-mpich@8.1.27"],
    ]  # fmt: skip


def test_the_toolkit_of_a_partition_is_one_external_for_each_of_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one of them missing Spack builds it, for which it wants another version of all the others, and gives up."""
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    words = ["--site", "archer2", "--partition", "gpu-rocm5"]
    packages = exported(tmp_path / "x", "pytorch-rocm@1.13.1", *words)["spack"]["packages"]

    # what py-torch +rocm depends on, in Spack's packages of 2025-11
    wanted = (
        "hsa-rocr-dev hip rccl rocprim hipcub rocthrust roctracer-dev rocrand hipsparse hipfft hiprand hipsolver rocm-core rocfft "
        "rocblas miopen-hip rocminfo"
    )
    for name in wanted.split():
        assert packages[name] == {
            "buildable": False, "externals": [{"spec": f"{name}@5.2.3", "modules": ["rocm/5.2.3"]}],
        }  # fmt: skip
    assert packages["all"]["variants"] == ["amdgpu_target=gfx90a"]


def made(
    partition: Partition, *, lock: Lock | None = None, recipe: Recipe | None = None
) -> spack_environment.SpackEnvironment:
    chosen = recipe or catalog.find_recipe("mpi4py", NOWHERE).recipe
    return spack_environment.environment(chosen, (spec_text.wish("py-mpi4py@4:"),), partition, lock)


def test_what_a_site_does_not_tell_is_said_and_not_invented() -> None:
    partition = Partition(mpi=MpiContract(provider="system", name="cray-mpich"), modules=("PrgEnv-gnu",))
    found = made(partition)

    packages = found.document["spack"]["packages"]
    assert packages["mpi"] == {"buildable": False}
    assert not {"cray-mpich", "gcc", "python", "c"} & set(packages)
    assert [line.partition(":")[0] for line in found.unknown] == ["compilers", "MPI", "Python"]


def test_an_external_without_prefix_and_modules_does_not_pass_our_rules() -> None:
    """The negative control of the structural check."""
    partition = Partition(
        mpi=MpiContract(provider="system", name="openmpi", version="4.1.5"),
        python=PythonHere(command="python3", version="3.11.3"),
        modules=("OpenMPI/4.1.5",),
    )
    document = json.loads(json.dumps(made(partition).document))
    assert structural_mistakes(document) == []

    packages = document["spack"]["packages"]
    del packages["openmpi"]["externals"][0]["modules"]
    packages["python"]["buildable"] = True
    packages["mpi"]["require"] = ["openmpi@4.1.6"]
    packages["all"]["require"] = ["%gcc@11"]
    packages["zlib"] = {"externals": [{"spec": "zlib", "prefix": "/usr"}], "buildable": False}
    document["spack"]["specs"].append("+mpi")
    assert len(structural_mistakes(document)) == 6


def test_a_lock_gives_exact_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = samples.locked(samples.request(catalog.find_recipe("mpi4py", NOWHERE).recipe))
    store.write_lock(tmp_path / "lock", lock)
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    document = exported(
        tmp_path / "x", "mpi4py", "--site", "archer2", "--partition", "cpu", "--lock", str(tmp_path / "lock")
    )

    packages = document["spack"]["packages"]
    versions = lock.packages()
    assert versions
    for name, version in versions.items():
        assert packages[f"py-{name}"]["require"] == [f"@={version}"]
        assert spec_text.parse(packages[f"py-{name}"]["require"][0]).versions == exactly(version)
    assert lock.digest[:12] in (tmp_path / "x" / "spack.yaml").read_text().splitlines()[0]

    assert (
        cli.main(["export", "spack", "pytorch-cpu", "--lock", str(tmp_path / "lock"), "-o", str(tmp_path / "y")]) == 2
    )
    assert "the lock is of mpi4py, not of pytorch-cpu" in capsys.readouterr().err


def test_what_spack_does_not_know_becomes_a_package_from_the_lock() -> None:
    document = {**samples.RECIPE, "extends": "", "base": None, "not_in_spack": ["mpi4py"]}
    text = json.dumps({key: value for key, value in document.items() if value})
    recipe = recipe_format.parse(text, "x")
    lock = samples.locked(samples.request(catalog.find_recipe("mpi4py", NOWHERE).recipe))
    found = made(Partition(), lock=lock, recipe=recipe)

    assert found.document["spack"]["repos"] == {"envbuilder": "./repo/spack_repo/envbuilder"}
    assert "py-mpi4py" in found.document["spack"]["specs"]
    package = found.files["repo/spack_repo/envbuilder/packages/py_mpi4py/package.py"]
    tree = ast.parse(package)
    (made_class,) = [one for one in tree.body if isinstance(one, ast.ClassDef)]
    assert made_class.name == "PyMpi4py"
    (artefact,) = [one for one in lock.artefacts("pylock.source-mpi4py.toml") if one.package == "mpi4py"]
    assert repr(artefact.url) in package
    assert repr(artefact.sha256) in package

    without = made(Partition(), recipe=recipe)
    assert without.files == {}
    assert "repos" not in without.document["spack"]
    assert any("there is no lock to write one from" in line for line in without.unknown)


def test_nothing_that_exists_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()

    assert cli.main(["export", "spack", "mpi4py", "-o", str(tmp_path / "x")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        ("cray-mpich", "must say one version"),
        ("cray-mpich@8:9", "must say one version"),
        ("+x", "must begin with a package's name"),
        ("cray-mpich@8.1 +", "a variant's name must follow '+'"),
    ],
)
def test_externals_of_a_site_are_read_strictly(spec: str, wrong: str) -> None:
    text = f"schema: 1\nname: x\nsummary: s\ndefault_partition: p\npartitions: {{p: {{externals: [{{spec: '{spec}'}}]}}}}\n"
    with pytest.raises(InputError) as caught:
        site.parse(text, "x.yaml")

    assert wrong in caught.value.message
    assert External(spec="gcc@11").name == "gcc"


def test_what_spack_lacks_where_no_compiler_is_named_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("ENVBUILDER_SITE_PATH", raising=False)
    words = ["export", "spack", "pytorch-cuda", "--site", "cirrus", "--partition", "gpu", "-o", str(tmp_path / "x")]

    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert said.count("warning: not known of cirrus/gpu: compilers: ") == 1
    assert "where none goes with cuda@11.6, it finds no answer" in said
    assert "# unknown: compilers: " in (tmp_path / "x" / "spack.yaml").read_text()
