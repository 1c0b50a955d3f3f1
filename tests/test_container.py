"""What a site says of images: how it is read, which of it counts for an MPI, and what entering an image makes of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import samples

from envbuilder import (
    catalog,
    container,
    gate,
    host_mpi,
    linking,
    lint,
    mounts,
    prepare_image,
    runtime,
    sif_header,
    site,
)
from envbuilder.base_image import BaseImage
from envbuilder.base_image import Origin as BaseOrigin
from envbuilder.builders import apptainer
from envbuilder.checks.image import FILE_CHECKS
from envbuilder.container import Container, HostSide
from envbuilder.elf import ElfFacts
from envbuilder.errors import HostError
from envbuilder.evidence import Evidence, Expectation
from envbuilder.places import Origin
from envbuilder.process import Command, checked
from envbuilder.proof import host_files
from envbuilder.runtime import Entering, Runtime
from envbuilder.target import Python, Target

SITE = """\
schema: 1
name: here
summary: A machine
sources: {M: {title: a manual}}
partitions:
  cpu:
    fabric: slingshot10
    mpi: {provider: system, name: cray-mpich, version: 8.1.27}
default_partition: cpu
container:
  runtime: apptainer
  binds: [/scratch, "/proj:/projects"]
  env: {SITE: here}
  mpi:
    cray-mpich@8.1.27/slingshot10:
      binds: [/opt/cray]
      optional_binds: [/usr/lib64/libcxi.so.1, "$HOME/x:/x"]
      library_path: [/opt/cray/pe/lib64, /usr/lib64]
      source: [M]
  source: [M]
"""
KEY = "cray-mpich@8.1.27/slingshot10"


def mistakes(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "here.yaml"
    path.write_text(text)
    return [line.removeprefix(f"{path}:") for line in lint.lint_site(Origin(name="here", path=path))]


def test_a_good_one_has_no_mistake_and_says_what_it_says(tmp_path: Path) -> None:
    assert mistakes(SITE, tmp_path) == []
    read = site.parse(SITE, "here.yaml").container

    assert container.facts(read) == {"binds": ["/scratch", "/proj:/projects"], "env": {"SITE": "here"}}
    assert container.facts(read, KEY) == {
        "binds": ["/scratch", "/proj:/projects", "/opt/cray"],
        "optional_binds": ["/usr/lib64/libcxi.so.1", "$HOME/x:/x"],
        "library_path": ["/opt/cray/pe/lib64", "/usr/lib64"],
        "env": {"SITE": "here"},
    }
    assert container.facts(Container()) == {}


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("runtime: apptainer", "runtime: docker", "11:12", "'docker' is not one of apptainer, singularity, shifter, podman-hpc"),
        ("binds: [/scratch,", "binds: [scratch,", "12:11", "'scratch' is not of the required form; write for example '/opt/cray'"),
        ("binds: [/scratch,", 'binds: ["/a,/b",', "12:11", "'/a,/b' is not of the required form"),
        ("/proj:/projects", "/proj:projects", "12:21", "is not of the required form"),
        ("env: {SITE: here}", "env: {1X: here}", "13:13", "the key '1X' is not of the required form"),
        (f"{KEY}:", "Cray MPICH:", "16:7", "the key 'Cray MPICH' is not of the required form"),
        ("binds: [/opt/cray]", "bind: [/opt/cray]", "16:13", "unknown key 'bind' (did you mean 'binds'?)"),
        ("source: [M]\n  source", "source: [X]\n  source", "19:16", "'X' is not a key of `sources`"),
        ("cray-mpich@8.1.27/", "cray-mpich@8.1.23/", "16:15", "no partition has this MPI on this network; they have cray-mpich@8.1.27/slingshot10"),
        ("/slingshot10:", "/slingshot11:", "16:15", "no partition has this MPI on this network"),
        ("binds: [/scratch,", "binds: [/usr/lib,", "12:11", "/usr/lib is what an image has of its own; bind the folders below it"),
        ("binds: [/opt/cray]", 'binds: [/opt/cray, "/x:/opt/envbuilder/env"]', "16:26", "/opt/envbuilder/env is what an image has of its own"),
        ("library_path: [/opt/cray/pe/lib64,", "library_path: [/elsewhere,", "18:22", "nothing is bound to /elsewhere; bind it, or leave it out"),
        ("env: {SITE: here}", "env: {LD_LIBRARY_PATH: /x}", "13:26", "LD_LIBRARY_PATH is not set by hand; write folders of libraries under `library_path`"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_place_and_a_remedy(old: str, new: str, place: str, words: str, tmp_path: Path) -> None:
    assert SITE.count(old) == 1
    found = mistakes(SITE.replace(old, new), tmp_path)

    assert any(line.startswith(f"{place}: ") and words in line for line in found), found


def test_the_most_exact_key_counts() -> None:
    keys = ("mpich", "mpich@4.0", "mpich@4.0.2", "mpich@4.0.2/ib", "mpich/eth")
    read = Container(mpi=dict.fromkeys(keys, HostSide()))

    assert container.fitting(read, "mpich", "4.0.2", "ib") == "mpich@4.0.2/ib"
    assert container.fitting(read, "mpich", "4.0.2", "eth") == "mpich@4.0.2"
    assert container.fitting(read, "mpich", "4.0.7", "ib") == "mpich@4.0"
    assert container.fitting(read, "mpich", "4.01", "eth") == "mpich/eth"
    assert container.fitting(read, "mpich", "3.4", "ib") == "mpich"
    assert container.fitting(read, "openmpi", "4.0.2", "ib") == ""


@pytest.mark.parametrize(
    ("name", "partition", "bound"),
    [
        ("archer2", "cpu", "/opt/cray"),
        ("archer2", "cpu-22.12", ""),  # the documented list is for the other version
        ("lumi", "gpu", "/var/spool/slurmd"),
        ("frontier", "gpu", "/opt/cray"),
        ("perlmutter", "gpu", ""),
    ],
)
def test_the_shipped_sites_say_what_their_sources_say(name: str, partition: str, bound: str) -> None:
    read, _ = catalog.find_site(name, {})
    one = read.partitions[partition]

    key = container.fitting(read.container, one.mpi.name, one.mpi.version or "8.1.29", one.fabric)

    assert read.container.runtime
    assert bool(key) == bool(bound)
    said = container.facts(read.container, key)
    assert not bound or bound in (*said.get("binds", ()), *said.get("optional_binds", ()))


# entering


def image(file: Path, **more: object) -> dict[str, object]:
    about = {
        "file": str(file),
        "sha256": "a" * 64,
        "binds": {},
        "library_path": "",
        "mpi": "image",
        "base": "debian-12",
    }
    return {**about, "runtime": {"program": "/bin/true", "name": "apptainer", "version": "1"}, **more}


def sif(path: Path, architecture: bytes = b"02", labels: dict[str, str] | None = None) -> Path:
    """A file as github.com/apptainer/sif describes it: a header, one descriptor, its data."""
    told = json.dumps({"data": {"attributes": {"labels": labels or {}}}}).encode()
    header = b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + architecture + b"\0" + bytes(32)
    header += struct.pack("<6q", 0, 1, 128, 585, 128 + 585, len(told))
    one = bytearray(585)
    one[4] = 1
    struct.pack_into("<2q", one, 17, 128 + 585, len(told))
    one[73 : 73 + 21] = b"inspect-metadata.json"
    path.write_bytes(header + bytes(one) + told)
    return path


def test_what_the_site_says_is_what_an_image_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setenv("SITE_ROOT", str(tmp_path))
    said = {
        "binds": ["${SITE_ROOT}/there:/inside"],
        "optional_binds": [str(tmp_path / "not-there")],
        "library_path": ["/opt/cray/pe/lib64"],
        "env": {"SITE": "here,there"},
    }
    file = sif(tmp_path / "i.sif")
    environment = samples.environment(image=image(file, library_path="/opt/envbuilder/host", container=said))

    words = apptainer.inside(environment, Entering(binds={"/control": "/control"}))

    binds = [words[at + 1] for at, word in enumerate(words) if word == "--bind"]
    assert binds == [f"{tmp_path}/there:/inside", "/store/cache/run:/store/cache/run", "/control:/control"]
    variables = [words[at + 1] for at, word in enumerate(words) if word == "--env"]
    assert variables == ["LD_LIBRARY_PATH=/opt/envbuilder/host:/opt/cray/pe/lib64"]
    # by a name that reaches into the image: the options of the runtimes would split the value
    assert apptainer.enter(environment, {})["APPTAINERENV_SITE"] == "here,there"
    assert apptainer.enter(environment, {"SITE": "mine"})["APPTAINERENV_SITE"] == "mine"
    (tmp_path / "there").rmdir()
    with pytest.raises(
        HostError, match=f"{tmp_path}/there, which the site local binds into images, is not here"
    ) as told:
        apptainer.inside(environment, Entering(binds={}))
    assert "trace-binds" in told.value.hint


@pytest.mark.parametrize(
    ("recipes", "here", "flag"),
    [
        ("amd", "amd", "--rocm"),
        ("nvidia", "nvidia", "--nv"),
        ("amd", "none", ""),
        ("", "amd", ""),
        ("amd", "nvidia", ""),
    ],
)
def test_gpu_flags_are_given_where_the_partition_has_such_gpus(
    recipes: str, here: str, flag: str, tmp_path: Path
) -> None:
    environment = samples.environment(
        image=image(sif(tmp_path / "i.sif")), gpu={"vendor": recipes} if recipes else {}, gpus={"host": here}
    )

    assert gate.gpus_here(environment, {}) == here
    words = apptainer.inside(environment, Entering(binds={}, gpu=here))
    assert {"--rocm", "--nv"} & set(words) == ({flag} if flag else set())


def test_a_proof_is_bound_to_the_libraries_that_a_site_names_and_to_no_folder(tmp_path: Path) -> None:
    said = {"binds": ["/scratch"], "optional_binds": ["/usr/lib64/libcxi.so.1"]}
    environment = samples.environment(image=image(tmp_path / "i.sif", container=said, binds={"/l.so": "/h/l.so:ro"}))

    assert host_files(environment) == ("/l.so", "/usr/lib64/libcxi.so.1")


def test_the_sites_runtime_comes_first(tmp_path: Path) -> None:
    for name in runtime.PROGRAMS:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} version 1.2.3\n")
        program.chmod(0o755)
    env = {"PATH": str(tmp_path)}

    assert runtime.find(env).name == "apptainer"
    assert runtime.find(env, "singularity").name == "singularity"
    assert runtime.find(env, "shifter").name == "apptainer"
    with pytest.raises(HostError, match="images are run by shifter at this site"):
        runtime.find({"PATH": "/nowhere"}, "shifter")


# what cannot work


def test_an_image_for_another_cpu_is_not_entered(tmp_path: Path) -> None:
    other = sif(tmp_path / "arm.sif", b"04")

    assert sif_header.architecture(other) == "aarch64"
    environment = samples.environment(image=image(other))
    with pytest.raises(HostError, match=r"arm\.sif is an image for aarch64, and this machine is "):
        apptainer.inside(environment, Entering(binds={}))
    base = BaseImage(schema=1, name="b", summary="s", kind="local", start=str(other), source=BaseOrigin(title="t"))
    with pytest.raises(HostError, match="is an image for aarch64, and this machine is x86_64"):
        prepare_image.refuse_foreign(base, "x86_64")
    prepare_image.refuse_foreign(base, "aarch64")
    assert sif_header.architecture(tmp_path / "gone.sif") == ""


def test_a_root_file_system_for_another_cpu_is_no_base(tmp_path: Path) -> None:
    programs = tmp_path / "usr/bin"
    programs.mkdir(parents=True)
    content = bytearray(Path("/usr/bin/env").read_bytes())
    base = BaseImage(schema=1, name="b", summary="s", kind="local", start=str(tmp_path), source=BaseOrigin(title="t"))

    (programs / "env").write_bytes(content)
    prepare_image.refuse_foreign(base, "x86_64")
    content[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    (programs / "env").write_bytes(content)
    with pytest.raises(HostError, match="is a root file system for EM_AARCH64, and this machine is x86_64"):
        prepare_image.refuse_foreign(base, "x86_64")


def compiled(folder: Path, source: str, name: str, *options: str) -> Path:
    (folder / "x.c").write_text(source)
    checked(
        Command(argv=("cc", "-shared", "-fPIC", "-nostdlib", "-o", str(folder / name), str(folder / "x.c"), *options))
    )
    return folder / name


def test_a_sites_library_that_an_image_cannot_load_is_refused(tmp_path: Path) -> None:
    (tmp_path / "versions").write_text("GLIBC_2.38 { global: tomorrow; };\n")
    version = f"-Wl,--version-script={tmp_path / 'versions'}"
    libc = compiled(tmp_path, "int tomorrow(void) { return 0; }\n", "libc.so.6", "-Wl,-soname,libc.so.6", version)
    library = compiled(
        tmp_path, "extern int tomorrow(void);\nint now(void) { return tomorrow(); }\n", "libx.so.1", str(libc)
    )
    target = Target(
        site="s", partition="p", arch="x86_64", libc="glibc 2.36", gpu="none", mpi=None, compiler=None,
        python=Python(path="/usr/bin/python3", version="3.11.2", soabi="", headers=True),
    )  # fmt: skip

    with pytest.raises(HostError, match=r"libx\.so\.1 needs glibc 2\.38, and the image has 2\.36"):
        host_mpi.refuse_misfits([str(tmp_path), str(tmp_path / "x.c"), "/no/such.so", str(library)], target)
    content = bytearray(library.read_bytes())
    content[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    library.write_bytes(content)
    with pytest.raises(HostError, match=r"libx\.so\.1 of the host cannot be bound: it is for EM_AARCH64"):
        host_mpi.refuse_misfits([str(library)], target)


# what is mounted, and which file it is

MOUNTS = """\
50 40 0:60 / / ro,nosuid - overlay overlay ro
51 50 0:61 / /dev rw - devtmpfs udev rw
52 50 8:1 /disk/home /home/me rw - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", []),
        ("53 50 8:1 /data\\040x /opt/envbuilder rw - ext4 /dev/sda1 rw", [("/opt/envbuilder", "/data x (ext4)")]),
        ("53 50 8:1 /opt /opt rw - ext4 /dev/sda1 rw", [("/opt", "/opt (ext4)")]),
        ("53 50 8:1 /x /opt/envbuilder/env/lib rw - ext4 /dev/sda1 rw", [("/opt/envbuilder/env/lib", "/x (ext4)")]),
        ("53 50 8:1 /x /opt/envbuilder/host/libmpi.so.12 ro - ext4 /dev/sda1 rw", []),
        # without overlays a runtime mounts each folder of the image
        ("53 50 0:60 /opt /opt ro - overlay overlay ro", []),
        ("53 50 0:60 /elsewhere /opt ro - overlay overlay ro", [("/opt", "/elsewhere (overlay)")]),
    ],
)
def test_what_is_mounted_over_the_environment_is_found(line: str, found: list[tuple[str, str]]) -> None:
    hiding = mounts.over(MOUNTS + line, "/opt/envbuilder/env")

    assert [(one["at"], one["what"]) for one in hiding] == found


def expectation(**changes: object) -> Expectation:
    values: dict[str, object] = {
        "environment": "e", "digest": "d", "prefix": "/opt/envbuilder/env", "python": "3.11", "features": (),
        "imports": (), "packages": {}, "records": {}, "written": {}, "mpi": None, "ranks": 2, "image": {},
    }  # fmt: skip
    return Expectation(**{**values, **changes})  # type: ignore[arg-type]


def test_the_checks_name_a_mount_and_a_stale_file(tmp_path: Path) -> None:
    checks = {check.name: check for check in FILE_CHECKS}
    mounted = checks["image-mounts"]
    over = Evidence(static={"mounts": [{"at": "/opt", "what": "/home/me (nfs)"}]})

    said = mounted.outcome(mounted.judge(expectation(), over))
    assert (said.status, said.cause) == (
        "fail",
        "/home/me (nfs) is mounted at /opt in the image, over its environment at /opt/envbuilder/env",
    )
    assert mounted.outcome(mounted.judge(expectation(), Evidence(static={"mounts": []}))).status == "pass"
    assert mounted.outcome(mounted.judge(expectation(), Evidence(static={}))).status == "not-run"

    labels = sif_header.labels(sif(tmp_path / "i.sif", labels={"envbuilder.lock": f"sha256:{'1' * 64}"}))
    assert labels == {"envbuilder.lock": f"sha256:{'1' * 64}"}
    file = checks["image-file"]
    seen = Evidence(static={"image": {"sha256": "b" * 64, "size": 1, "lock": labels["envbuilder.lock"]}})
    for lock, words in (("2" * 64, "is stale: it was built from the lock 1111"), ("1" * 64, "its content changed")):
        about = image(tmp_path / "i.sif", lock=lock)
        assert words in file.outcome(file.judge(expectation(image=about), seen)).cause
    assert sif_header.labels(tmp_path / "gone.sif") == {}
    (tmp_path / "odd.sif").write_bytes(b"x" * 40)
    assert sif_header.labels(tmp_path / "odd.sif") == {}


def test_a_sites_binds_come_as_they_are(tmp_path: Path) -> None:
    how = Entering(binds={}, site=("/a:/b",))

    assert runtime.enter(Runtime(program="p", name="apptainer", version="1"), tmp_path, how)[:6] == (
        "p", "--silent", "exec", "--userns", "--bind", "/a:/b",
    )  # fmt: skip


def test_a_cache_of_the_linker_that_names_what_is_gone_finds_nothing(tmp_path: Path) -> None:
    here = tmp_path / "libhere.so.1"
    here.touch()
    search = linking.Linker(library_path=(), cache={"libhere.so.1": str(here), "libgone.so.1": "/no/libgone.so.1"})

    assert search.resolve("libhere.so.1", "/", library(needs="libhere.so.1")) == str(here)
    assert search.resolve("libgone.so.1", "/", library(needs="libgone.so.1")) == ""


def library(needs: str) -> ElfFacts:
    return ElfFacts(
        machine="EM_X86_64", bits=64, soname="", needed=(needs,), rpath=(), runpath=(), build_id=""
    )  # fmt: skip
