"""`envbuilder sites import-spack`: a centre's configuration of Spack becomes a first site file, guesses marked as such."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from test_spack_export import exported, real, structural_mistakes, with_spack

from envbuilder import cli, lint, places, site
from envbuilder.partition import Partition

PACKAGES = """\
packages:
  all:
    require: "target=x86_64:"
    variants: amdgpu_target=gfx90a
    providers:
      mpi: [cray-mpich, openmpi]
  hip:
    buildable: false
    externals:
    - {spec: hip@6.10.1, prefix: /opt/rocm-6.10.1, modules: [rocm/6.10.1]}
    - {spec: hip@6.3.4, prefix: /opt/rocm-6.3.4}
  cray-mpich::
    externals:
    - spec: cray-mpich@8.1.26%cce +gtl +wrappers
      prefix: /opt/cray/pe/mpich/8.1.26/ofi/crayclang/16.0
      extra_attributes: {gtl_cutoff_size: 4096}
    - spec: cray-mpich@8.1.26%gcc ~gtl +wrappers
      prefix: /opt/cray/pe/mpich/8.1.26/ofi/gnu/10.3
      modules: [cray-mpich/8.1.26]
  openmpi:
    externals:
    - {spec: openmpi, prefix: /usr}
  python:
    externals:
    - {spec: python@3.11.7+ssl, prefix: /opt/cray/pe/python/3.11.7}
  zlib:
    externals:
    - {spec: zlib@1.3, prefix: $spack/opt}
  hdf5:
    paths:
      hdf5@1.12.0+mpi: /opt/hdf5
    version: [1.12.0]
"""

COMPILERS = """\
compilers:
- compiler:
    spec: clang@16.0.0
    paths: {cc: /opt/llvm/bin/clang, cxx: /opt/llvm/bin/clang++, f77: null, fc: null}
    operating_system: rhel8
    modules: null
- compiler:
    spec: gcc@12.2.0
    paths: {cc: /opt/gcc/12.2.0/bin/gcc, cxx: /opt/gcc/12.2.0/bin/g++, f77: /opt/gcc/12.2.0/bin/gfortran, fc: /opt/gcc/12.2.0/bin/gfortran}
    operating_system: rhel8
    modules: [PrgEnv-gnu/8.3.3]
"""

SYSTEM = """\
system_definition:
  name: Somewhere
  processor: {vendor: AMD, name: EPYC-Zen3, uArch: zen3}
  accelerator: {vendor: AMD, name: MI250X, uArch: gfx90a}
  interconnect: {vendor: HPECray, name: Slingshot11}
"""


@pytest.fixture
def centre(tmp_path: Path) -> Path:
    """A system as Benchpark lays it out, with the forms of Spack before 1.0."""
    folder = tmp_path / "Some System"
    inner = folder / "auxiliary_software_files"
    inner.mkdir(parents=True)
    (inner / "packages.yaml").write_text(PACKAGES)
    (inner / "compilers.yaml").write_text(COMPILERS)
    (folder / "system_definition.yaml").write_text(SYSTEM)
    (folder / "variables.yaml").write_text(
        'variables: {scheduler: slurm, sys_cpus_per_node: "64", sys_gpus_per_node: 4}\n'
    )
    return folder


def taken(folder: Path, *words: str) -> tuple[site.Site, str]:
    path = folder.parent / "made.yaml"
    assert cli.main(["sites", "import-spack", str(folder), "-o", str(path), "-q", *words]) == 0
    text = path.read_text()
    return site.parse(text, str(path)), text


def nodes(found: site.Site) -> Partition:
    return found.partition("nodes")


def test_a_configuration_becomes_a_site_that_our_own_reader_takes(centre: Path) -> None:
    found, _ = taken(centre)
    partition = nodes(found)

    assert found.name == "some-system"
    assert found.scheduler.kind == "slurm"
    assert (partition.cpu.target, partition.cpu.cores, partition.fabric) == ("zen3", 64, "slingshot11")
    gpu = partition.gpu
    assert (gpu.vendor, gpu.model, gpu.arch, gpu.count, gpu.toolkit) == ("amd", "MI250X", "gfx90a", 4, "rocm@6.10.1")
    assert (partition.mpi.provider, partition.mpi.name, partition.mpi.version) == ("system", "cray-mpich", "8.1.26")
    assert partition.compilers.cc == "/opt/gcc/12.2.0/bin/gcc"
    assert partition.python.version == "3.11.7"
    assert partition.modules == ("PrgEnv-gnu/8.3.3", "cray-mpich/8.1.26")
    assert lint.lint_site(places.Origin(name="made", path=centre.parent / "made.yaml")) == []


def test_old_forms_are_rewritten(centre: Path) -> None:
    externals = {one.spec: one for one in nodes(taken(centre)[0]).externals}

    assert set(externals) == {
        "hip@6.10.1", "hip@6.3.4", "cray-mpich@8.1.26~gtl+wrappers", "python@3.11.7+ssl", "hdf5@1.12.0+mpi", "llvm@16.0.0", "gcc@12.2.0",
    }  # fmt: skip
    assert externals["cray-mpich@8.1.26~gtl+wrappers"].prefix == "/opt/cray/pe/mpich/8.1.26/ofi/gnu/10.3"
    assert externals["llvm@16.0.0"].compilers == {"c": "/opt/llvm/bin/clang", "cxx": "/opt/llvm/bin/clang++"}
    assert set(externals["gcc@12.2.0"].compilers) == {"c", "cxx", "fortran"}
    assert externals["hdf5@1.12.0+mpi"].prefix == "/opt/hdf5"


def test_what_was_concluded_is_marked_and_what_is_left_out_is_told(centre: Path) -> None:
    _, text = taken(centre)
    lines = text.splitlines()

    for sign in (
        "summary:", "valid_from:", "      toolkit:", "      mpicc:", "    modules: [", "    compilers: {cc", "    features:", "    internet:",
    ):  # fmt: skip
        (line,) = [one for one in lines if one.startswith(sign)]
        assert "  # guess: " in line, line
    unknown = "\n".join(one for one in lines if "# unknown:" in one)
    for words in ("openmpi: which version", "crayclang/16.0", "zlib", "soname", "detect", "paths", "valid_until"):
        assert words in unknown, words
    stated = yaml.safe_load(text)
    assert "zlib@1.3" not in [one["spec"] for one in stated["partitions"]["nodes"]["externals"]]


def test_what_was_imported_can_be_exported(centre: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    taken(centre)
    document = exported(tmp_path / "out", "mpi4py", "--site", str(tmp_path / "made.yaml"))

    packages = document["spack"]["packages"]
    assert structural_mistakes(document) == []
    assert [packages[one]["require"] for one in ("c", "cxx", "fortran")] == [["gcc@12.2.0"]] * 3
    assert packages["mpi"]["require"] == ["cray-mpich@8.1.26"]


@with_spack
def test_a_real_spack_takes_what_was_imported_and_exported(
    centre: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    taken(centre)

    assert real("schema_mistakes", [exported(tmp_path / "out", "mpi4py", "--site", str(tmp_path / "made.yaml"))]) == [
        []
    ]


def test_a_plain_folder_without_modules_and_mpi(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "packages.yaml").write_text("packages:\n  cmake:\n    externals: [{spec: cmake@3.28, prefix: /usr}]\n")
    found, text = taken(folder, "--name", "here")

    assert found.name == "here"
    assert (found.modules.system, found.scheduler.kind) == ("none", "none")
    assert nodes(found).mpi.provider == "detect"
    assert nodes(found).features == ("cpu",)
    assert "# unknown: python" in text


def test_the_provider_that_is_preferred_is_the_mpi(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    both = "".join(
        f"  {one}:\n    externals: [{{spec: {one}@4.1, prefix: /opt/{one}}}]\n" for one in ("mpich", "openmpi")
    )
    for wanted in ("mpich", "openmpi"):
        (folder / "packages.yaml").write_text(f"packages:\n  all: {{providers: {{mpi: [{wanted}]}}}}\n{both}")
        found, _ = taken(folder)
        assert nodes(found).mpi.name == wanted
        assert nodes(found).mpi.mpicc == f"/opt/{wanted}/bin/mpicc"
        os.unlink(tmp_path / "made.yaml")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there is no configuration of Spack"),
        ({"system.py": "x"}, "benchpark system init"),
        ({"packages.yaml": "packages:\n  zlib:\n    externals: [{spec: 'zlib@1.2 +', prefix: /usr}]\n"}, "packages.yaml:3:34: a variant's name must follow '+'"),
        ({"packages.yaml": "packages: [zlib]\n"}, "packages.yaml:1:11: packages: must be a mapping"),
        ({"packages.yaml": "packages:\n  zlib:\n    externals: [{prefix: /usr}]\n"}, "an external needs a spec"),
        ({"compilers.yaml": "compilers:\n- compiler: {paths: {cc: /usr/bin/cc}}\n"}, "a compiler needs a spec"),
        ({"packages.yaml": "packages: &a {}\n"}, "anchors and aliases are not allowed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, files: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)

    assert cli.main(["sites", "import-spack", str(folder), "-o", str(tmp_path / "made.yaml")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "made.yaml").exists()


def test_nothing_that_exists_is_overwritten(centre: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("mine")

    assert cli.main(["sites", "import-spack", str(centre), "-o", str(tmp_path / "mine.yaml")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "mine"
