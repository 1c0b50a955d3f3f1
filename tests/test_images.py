"""What is decided about images, without building any: bases, definitions, commands, whose MPI, names, a SIF's bytes."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
from pathlib import Path

import pytest
import samples

from envbuilder import activation, apt_sources, base_image, cli, host_mpi, image, places, runtime, store
from envbuilder.activation import Activation, Setting
from envbuilder.builders import apptainer, definition
from envbuilder.checks.image import RANKS_CHECKS
from envbuilder.errors import HostError, InputError, UnknownName
from envbuilder.evidence import Evidence, Expectation, ProbeRun, RankEvidence
from envbuilder.runtime import Entering, Packing, Runtime
from envbuilder.target import Mpi

PROGRAM = Runtime(program="/usr/bin/apptainer", name="apptainer", version="1.4.5")
CE = Runtime(program="/usr/bin/singularity", name="singularity", version="4.1.0")
MPICH = Mpi(
    provider="system", name="mpich", version="4.0.2", soname="libmpich.so.12", library="/usr/lib/libmpich.so.12"
)
IMAGE = {
    "file": "/store/envs/e-1-abc/image.sif",
    "sha256": "a" * 64,
    "base": "debian-12",
    "mpi": "image",
    "library_path": "",
    "binds": {},
    "runtime": {"program": "/bin/true", "name": "apptainer", "version": "1"},
}


@pytest.mark.parametrize("path", sorted((places.data_root() / "containers").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_bases_hold(path: Path) -> None:
    base = base_image.parse(path.read_text(), str(path))

    assert base.name == path.stem
    assert base.packages[0] in definition.base_layer(base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "guess"}, "kind"),
        ({"start": "book worm"}, "start"),
        ({"packages": ["a; rm -rf /"]}, "packages"),
        ({"packages": ["-o=Dpkg::x"]}, "packages"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_base_is_read_strictly(change: dict[str, object], said: str) -> None:
    import json

    document = {
        "schema": 1, "name": "x", "summary": "s", "kind": "debootstrap", "start": "bookworm",
        "source": {"title": "t", "date": "2026-11-21"}, "packages": ["python3"],
    }  # fmt: skip
    assert base_image.parse(json.dumps(document), "x.yaml").start == "bookworm"

    with pytest.raises(InputError, match=rf"x\.yaml:1:\d+: .*{said}"):
        base_image.parse(json.dumps({**document, **change}), "x.yaml")


def test_a_base_is_a_name_or_a_path(tmp_path: Path) -> None:
    env = {"HOME": "/nowhere"}
    (tmp_path / "rootfs/usr").mkdir(parents=True)

    assert base_image.find("debian-12", env).kind == "debootstrap"
    assert base_image.find(str(tmp_path / "rootfs"), env).kind == "local"
    with pytest.raises(UnknownName, match=r"known are .*debian-12"):
        base_image.find("debian-99", env)
    with pytest.raises(InputError, match="not a root file system"):
        base_image.find(str(tmp_path), env)
    with pytest.raises(InputError, match="no such file"):
        base_image.find(str(tmp_path / "gone.sif"), env)


def test_the_mirror_is_the_one_of_apt(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("# deb http://no.example.org bookworm main\n")
    one = tmp_path / "sources.list.d/one.sources"
    one.write_text(
        "Types: deb-src\nURIs: http://source.example.org\nSuites: bookworm\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example.org\nSuites: bookworm\n\n"
        "Types: deb\nURIs: http://yes.example.org/debian\nSuites: bookworm\n bookworm-updates\n"
    )

    assert apt_sources.mirror("bookworm", tmp_path) == "http://yes.example.org/debian"
    assert apt_sources.mirror("bookworm-updates", tmp_path) == "http://yes.example.org/debian"
    assert apt_sources.mirror("trixie", tmp_path) == ""
    (tmp_path / "sources.list.d/two.list").write_text("deb [arch=amd64] http://two.example.org trixie main\n")
    assert apt_sources.mirror("trixie", tmp_path) == "http://two.example.org"


def test_a_definition_holds_no_line_of_a_recipe() -> None:
    values = dict.fromkeys(("NAME", "VERSION", "CREATED", "BASE", "BASE_DIGEST", "TOOL", "LOCK_DIGEST"), "v")

    assert "org.opencontainers.image.title v\n" in definition.rendered("image.def", values)
    for bad in ("a\n%post\n    evil", "{{ evil }}"):
        with pytest.raises(InputError, match="cannot stand in the definition"):
            definition.rendered("image.def", {**values, "NAME": bad})


def test_how_an_image_is_entered() -> None:
    how = Entering(binds={"/a": "/b:ro"}, cwd="/c", together=True, variables={"X": "1:2"}, gpu="amd")

    assert runtime.enter(PROGRAM, Path("i.sif"), how) == (
        "/usr/bin/apptainer", "--silent", "exec", "--userns", "--sharens", "--rocm",
        "--bind", "/a:/b:ro", "--env", "X=1:2", "--pwd", "/c", "i.sif",
    )  # fmt: skip
    assert "--sharens" not in runtime.enter(CE, Path("i.sif"), how)
    assert "--nv" in runtime.enter(CE, Path("i.sif"), Entering(binds={}, gpu="nvidia"))
    for bad in (
        Entering(binds={"/a,b": "/c"}),
        Entering(binds={"/a:b": "/c"}),
        Entering(binds={}, variables={"X": "1,2"}),
    ):
        with pytest.raises(HostError, match="its options are split"):
            runtime.enter(PROGRAM, Path("i.sif"), bad)
    words = runtime.build(PROGRAM, Path("d.def"), Path("o.sif"), Packing(compression="lz4", binds={"/a": "/mnt"}))
    assert words[-2:] == ("o.sif", "d.def")
    assert {"--fakeroot", "-comp lz4", "/a:/mnt"} <= set(words)
    with pytest.raises(HostError, match="neither apptainer nor singularity"):
        runtime.find({"PATH": "/nowhere"})


@pytest.mark.parametrize(
    ("host", "inside", "said"),
    [
        (MPICH, MPICH, ""),
        (Mpi(provider="system", name="cray-mpich", version="8.1.27"), MPICH, ""),
        (Mpi(provider="system", name="openmpi", version="4.1.5"), MPICH, "different ABIs"),
        (MPICH, Mpi(provider="system", name="openmpi", version="4.1.5"), "different ABIs"),
        (Mpi(provider="wheel", name="mpich", package="mpich"), MPICH, "the host has no MPI of its own"),
        (None, MPICH, "the host has no MPI of its own"),
        (MPICH, None, "the image has no MPI"),
    ],
)
def test_whose_mpi_can_take_whose_place(host: Mpi | None, inside: Mpi | None, said: str) -> None:
    why = host_mpi.compatible(host, inside)

    assert said in why if said else why == ""


def test_a_host_library_for_a_newer_c_library_is_refused() -> None:
    needed = frozenset({"GLIBC_2.17", "GLIBC_2.38", "GLIBC_PRIVATE", "LIBFOO_9.9"})

    assert host_mpi.too_new("/x.so", needed, "glibc 2.38") == ""
    assert (
        host_mpi.too_new("/x.so", needed, "glibc 2.36") == "the host's /x.so needs glibc 2.38, and the image has 2.36"
    )
    assert host_mpi.too_new("/x.so", frozenset({"GLIBC_2.9"}), "glibc 2.17") == ""


def test_the_environment_of_an_image_is_that_of_activation(tmp_path: Path) -> None:
    settings = (
        Setting(name="ODD", value="a 'b' $(c) {{ d }}", why="w"),
        Setting(name="GONE", value=None, why="w"),
        Setting(name="HF_HOME", value="/own", why="w"),
    )
    one = Activation(
        prefix=Path("/opt/envbuilder/env"), name="e", settings=settings, caches=Path("/caches"), prepend_path=()
    )
    base = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/leak", "PYTHONHOME": "/leak", "GONE": "1"}
    script = tmp_path / "environment.sh"
    script.write_text(activation.exports(one, "/caches"))

    said = subprocess.run(["sh", "-c", f". {script}; env -0"], env=base, capture_output=True, check=True).stdout
    seen = dict(line.split("=", 1) for line in said.decode().split("\0") if line)
    patch = activation.environment(one, base)
    wanted = {name: value for name, value in patch.items() if not name.startswith("_ENVBUILDER")}

    assert {name: seen.get(name) for name in wanted} == wanted
    assert "PYTHONPATH" not in seen  # a host's means nothing in an image; activation leaves a user's own alone


def test_the_caches_of_an_image_are_handed_in_by_a_name_of_their_own() -> None:
    environment = samples.environment(builder="apptainer", image=IMAGE, caches="/c")

    patch = apptainer.enter(environment, {"TORCH_HOME": "/mine", "PYTHONPATH": "/leak"})

    assert patch["APPTAINERENV_HF_HOME"] == "/c/e-1-abc/huggingface"
    assert patch["APPTAINERENV_TORCH_HOME"] == "/mine"
    assert patch["PYTHONPATH"] is None


def test_names_tell_images_from_trees() -> None:
    image_of = {mpi: samples.environment(image={**IMAGE, "mpi": mpi}) for mpi in ("image", "host")}

    assert store.names(samples.environment(), asked_by_version=False) == ("e@1", "e")
    assert store.names(image_of["image"], asked_by_version=False) == ("e@1.sif", "e.sif")
    assert store.names(image_of["host"], asked_by_version=True) == ("e@1.host-mpi.sif",)


@pytest.mark.parametrize("option", ["--base=debian-12", "--mpi=host", "--compression=lz4", "--sif=x.sif"])
def test_options_of_images_are_refused_for_trees(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "mpi4py", option]) == 2
    assert "is for images" in capsys.readouterr().err


def test_only_what_can_build_images_knows_the_builder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "mpi4py", "--builder", "apptainer"]) == 2
    assert cli.main(["build", "mpi4py", "--builder", "apptainer", "--explain-cache"]) == 2
    assert cli.main(["build", "mpi4py", "--builder", "apptainer", "--sif", "/nowhere/x.sif"]) == 2
    assert "--sif: /nowhere/x.sif cannot be written" in capsys.readouterr().err


def test_what_was_said_by_an_image_that_cannot_answer_becomes_a_cause() -> None:
    why = image._why(Path("i.sif"), "python3", 'FATAL: "python3": executable file not found in $PATH')
    assert "i.sif has no python3" in why[0]
    why = image._why(Path("i.sif"), "python3", "TypeError: dataclass() got an unexpected keyword argument 'slots'")
    assert "older than 3.10" in why[0]


def test_a_sif_loses_its_identifier_and_its_moments_and_nothing_else(tmp_path: Path) -> None:
    # written as github.com/apptainer/sif describes it: a header, two descriptors of which one is used, the content
    header = bytearray(
        b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + b"02\0" + b"U" * 16 + b"T" * 16
    )
    header += struct.pack("<6q", 1, 2, 128, 2 * 585, 4096, 8)
    one = bytearray(b"D" * 585)
    unused = bytearray(one)
    unused[4] = 0
    whole = bytes(header) + bytes(one) + bytes(unused) + b"CONTENT"
    path = tmp_path / "x.sif"
    path.write_bytes(whole)
    tool = importlib.util.spec_from_file_location("sif", Path(cli.__file__).parents[1] / "workshop/sif.py")
    assert tool
    assert tool.loader
    module = importlib.util.module_from_spec(tool)
    tool.loader.exec_module(module)

    module.normalise(str(path))

    after = path.read_bytes()
    changed = {number for number, (old, new) in enumerate(zip(whole, after, strict=True)) if old != new}
    assert changed == {*range(48, 80), *range(128 + 41, 128 + 57)}
    path.write_bytes(b"x" * 200)
    with pytest.raises(ValueError, match="not a SIF"):
        module.normalise(str(path))


def expectation(**changes: object) -> Expectation:
    values: dict[str, object] = {
        "environment": "e", "digest": "d", "prefix": "/opt/envbuilder/env", "python": "3.11", "features": ("mpi4py",),
        "imports": (), "packages": {}, "records": {}, "written": {}, "mpi": None, "ranks": 2, "image": IMAGE,
    }  # fmt: skip
    return Expectation(**{**values, **changes})  # type: ignore[arg-type]


def ranks_with(library: str) -> Evidence:
    facts = {"mpi": {"implementation": library, "library_version": "MPICH 4"}}
    ranks = tuple(
        RankEvidence(probe="ranks", rank=rank, phase="done", finished=True, seconds=1.0, facts=facts)
        for rank in range(2)
    )
    run = ProbeRun(
        probe="ranks", launcher="hydra", asked=2, code=0, timed_out=False, seconds=1.0, output="", ranks=ranks
    )
    return Evidence(runs={"ranks": run})


def test_the_check_of_whose_mpi_goes_by_the_place_and_not_by_the_content() -> None:
    (check,) = RANKS_CHECKS
    swapped = expectation(image={**IMAGE, "mpi": "host", "library_path": host_mpi.FOLDER})

    own = check.outcome(check.judge(swapped, ranks_with("/usr/lib/libmpich.so.12")))
    assert own.status == "fail"
    assert "uses the image's own" in own.cause
    assert check.outcome(check.judge(swapped, ranks_with(f"{host_mpi.FOLDER}/libmpich.so.12"))).status == "pass"
    assert check.outcome(check.judge(expectation(), ranks_with("/usr/lib/libmpich.so.12"))).status == "pass"
    assert check.outcome(check.judge(swapped, Evidence())).status == "not-run"
    assert not check.applies(expectation(image=None))
