"""What images start from: names, digests, addresses and folders; the last for real, by Apptainer."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from envbuilder import base_image, layers, places, runtime
from envbuilder.builders import definition
from envbuilder.console import Console
from envbuilder.errors import HostError, InputError
from envbuilder.layers import Means
from envbuilder.runtime import Entering, Runtime
from envbuilder.store import Store

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
ENV = {"HOME": "/nowhere"}
REGISTRY = [
    path.stem for path in (places.data_root() / "containers").glob("*.yaml") if "kind: image" in path.read_text()
]


def means(tmp_path: Path) -> Means:
    program = Runtime(program="/usr/bin/apptainer", name="apptainer", version="1.4.5")
    return Means(program=program, place=Store(tmp_path), console=Console(quiet=True), log=tmp_path / "log", env={})


@pytest.mark.parametrize(
    ("address", "name", "agent", "rest"),
    [
        (f"docker://docker.io/library/debian@{DIGEST}", "image-debian", "docker", f"docker.io/library/debian@{DIGEST}"),
        (f"oras://ghcr.io/someone/base@{DIGEST}", "image-base", "oras", f"ghcr.io/someone/base@{DIGEST}"),
        (
            f"library://someone/collection/base:{DIGEST.replace(':', '.')}",
            "image-base",
            "library",
            f"someone/collection/base:{DIGEST.replace(':', '.')}",
        ),
    ],
)
def test_an_image_is_taken_by_its_digest(address: str, name: str, agent: str, rest: str) -> None:
    base = base_image.find(address, ENV)

    assert (base.kind, base.name, base.packages) == ("image", name, ())
    text = definition.base_layer(base)
    assert text.startswith(f"Bootstrap: {agent}\nFrom: {rest}\n")
    assert "\n    :\n" in text  # nothing is installed


@pytest.mark.parametrize(
    "address",
    [
        "docker://docker.io/library/debian:12",
        "docker://docker.io/library/debian",
        "oras://ghcr.io/someone/base:latest",
        "library://someone/collection/base:1.0",
        "docker://docker.io/library/debian@sha256:0123",
        f"docker://docker.io/library/debian:12@{DIGEST.upper()}",
        "docker://a b",
        "docker://-x@" + DIGEST,
        "docker://a\nFrom: evil@" + DIGEST,
    ],
)
def test_a_tag_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"names no digest|is not an image's address") as said:
        base_image.find(address, ENV)

    assert "@sha256:" in said.value.hint


@pytest.mark.parametrize("name", REGISTRY)
def test_a_described_image_gets_its_digest_from_the_user(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} names no digest"):
        base_image.find(name, ENV)

    base = base_image.find(f"{name}@{DIGEST}", ENV)

    assert base.fixed
    assert base.start.endswith(f"@{DIGEST}")
    assert ":" not in base.start.removeprefix("docker://").partition("@")[0]  # no tag beside a digest
    assert not base.tried
    other = base_image.find(f"{name}@{DIGEST[:-1]}0", ENV)
    assert base.digest != other.digest
    install = {"apt": "apt-get install", "dnf": "dnf install", "zypper": "zypper --non-interactive install"}[
        base.manager
    ]
    for text, packages in (
        (definition.base_layer(base), base.packages),
        (definition.build_layer(base, "x"), base.build_packages),
    ):
        (line,) = (line for line in text.splitlines() if install in line)
        assert line.endswith(" ".join(packages))
        assert ("apt-get" in text) == (base.manager == "apt")


@pytest.mark.parametrize(
    ("name", "version", "choice"),
    [
        ("apptainer", "1.4.5-2", True),
        ("apptainer", "1.3.6", False),
        ("apptainer", "2.0", True),
        ("singularity", "4.2.1", False),
    ],
)
def test_only_some_runtimes_let_the_compression_be_chosen(name: str, version: str, *, choice: bool) -> None:
    program = Runtime(program="/x", name=name, version=version)

    assert runtime.quickest(program) == ("lz4" if choice else "gzip")
    runtime.refuse_compression(program, "gzip")
    if not choice:
        with pytest.raises(HostError, match=rf"{name} {version} packs with gzip alone"):
            runtime.refuse_compression(program, "zstd")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (f"debian-12@{DIGEST}", "debian-12: is no image of a registry"),
        ("rocky-9@latest", "'latest' is not a digest"),
        ("rocky-9@sha256:12", "'sha256:12' is not a digest"),
    ],
)
def test_what_is_no_digest_is_refused(asked: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        base_image.find(asked, ENV)


def test_kind_and_start_go_together() -> None:
    document = {
        "schema": 1, "name": "x", "summary": "s", "kind": "image", "start": "bookworm",
        "source": {"title": "t", "date": "2026-11-21"},
    }  # fmt: skip
    for kind, start in (("image", "bookworm"), ("debootstrap", f"docker://a/b@{DIGEST}")):
        with pytest.raises(InputError, match=r"x\.yaml: start: .* is not what the kind"):
            base_image.parse(json.dumps({**document, "kind": kind, "start": start}), "x.yaml")


def test_a_layer_that_was_made_before_is_still_the_one() -> None:
    """Fields that came later change no key of what is kept."""
    assert set(base_image.find("debian-12", ENV).identity()) == {"kind", "start", "packages", "build_packages"}


def test_components_are_added_to_a_debootstrap() -> None:
    text = definition.base_layer(base_image.find("ubuntu-24.04", ENV))

    assert "for component in universe; do" in text
    assert 'sed -i "s/ main\\$/& $component/" /etc/apt/sources.list' in text


def test_without_its_keys_no_distribution_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers.apt_sources, "mirror", lambda _suite: "http://example.org/ubuntu")
    monkeypatch.setattr(layers, "_KEYRINGS", tmp_path)

    with pytest.raises(HostError, match=r"ubuntu-archive-keyring\.gpg is missing") as said:
        layers.have(base_image.find("ubuntu-24.04", ENV), means(tmp_path))
    assert "ubuntu-keyring" in said.value.hint


def test_a_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    tree = tmp_path / "rootfs"
    (tree / "usr").mkdir(parents=True)
    (tree / "proc").mkdir()
    base = base_image.find(str(tree), ENV)
    empty = layers._content(base)

    (tree / "proc" / "x").write_text("")
    assert layers._content(base) == empty
    (tree / "usr" / "x").write_text("")
    assert layers._content(base) != empty
    text = definition.base_layer(base, "/work/tree.sqfs")
    assert text.startswith("Bootstrap: localimage\nFrom: /work/tree.sqfs\n")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("")
    (tmp_path / "shadow").chmod(0)

    assert layers._unreadable(tmp_path) == [str(tmp_path / "shadow")]


def small_system(tree: Path) -> Path:
    """A root file system with a shell and five programs of this machine, and what only root may make."""
    for name in ("dev", "etc", "proc", "run", "sys", "tmp", "var/private"):
        (tree / name).mkdir(parents=True)
    for name in ("sh", "cat", "id", "ls", "mkdir", "rm"):
        program = Path(os.path.realpath(shutil.which(name) or ""))
        libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for source in (program, *(Path(word) for word in libraries.split() if word.startswith("/"))):
            target = tree / ("bin" if source == program else str(source.parent).lstrip("/"))
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / (name if source == program else source.name))
    (tree / "usr").mkdir(exist_ok=True)
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tree / "etc/shadow").write_text("secret\n")
    (tree / "etc/shadow").chmod(0o640)
    (tree / "var/private").chmod(0o700)
    if os.getuid() == 0:
        os.mknod(tree / "dev/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.chown(tree / "var/private", 33, 33)
    return tree


@pytest.mark.real
def test_a_folder_becomes_a_layer_whoevers_its_files_are(
    apptainer_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = small_system(tmp_path / "rootfs")
    monkeypatch.setenv("PATH", apptainer_path)
    how = replace(means(tmp_path / "store"), program=runtime.find(os.environ), env=os.environ)
    how.log.parent.mkdir()

    kept = layers.have(base_image.find(str(tree), ENV), how)

    assert kept.sif == kept.build_sif  # nothing is added to what is there
    words = runtime.enter(how.program, kept.sif, Entering(binds={}, clean=True))
    seen = subprocess.run([*words, "cat", "/etc/passwd"], capture_output=True, text=True, check=False)
    assert "root:x:0:0" in seen.stdout, seen.stderr
    before = kept.sif.stat().st_mtime_ns
    assert layers.have(base_image.find(str(tree), ENV), how) == kept
    assert kept.sif.stat().st_mtime_ns == before
    assert list((tmp_path / "store/work").iterdir()) == []


@pytest.mark.real
@pytest.mark.slow
def test_an_image_on_a_folder_is_proven(
    test_home: Path, apptainer_path: str, mpi4py_image: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "PATH": apptainer_path, "ENVBUILDER_HOME": str(tmp_path / "store")}
    (sif,) = (path for path in (test_home / "bases").glob("debian-12-*-build.sif"))
    tree = tmp_path / "rootfs"
    objects = subprocess.run(
        ("apptainer", "sif", "list", str(sif)), env=env, capture_output=True, text=True, check=True
    )
    (start,) = re.findall(r"\|([0-9]+)-[0-9]+ *\|FS ", objects.stdout)
    unpack = ("unsquashfs", "-q", "-n", "-no-xattrs", "-o", start, "-d", str(tree), str(sif))
    subprocess.run(unpack, env=env, capture_output=True, check=True)
    shutil.copytree(test_home / "cache/artefacts", tmp_path / "store/cache/artefacts")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "envbuilder", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=1500, check=False)

    built = run("build", "mpi4py", "--builder", "apptainer", "--compression", "lz4", "--base", str(tree), "--json")

    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["environment"]["image"]["base"] == "local-rootfs"
    verified = run("verify", "mpi4py.sif", "--json")
    assert verified.returncode == 0, verified.stderr
