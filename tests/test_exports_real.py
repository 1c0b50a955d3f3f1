"""What is exported, really used: a folder built by buildah, an image that goes from one store to another."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_image_signature import made_key, public

from envbuilder import workflows

pytestmark = [pytest.mark.real, pytest.mark.slow]

# What a tree is known by: the digests of its RECORD files.
RECORDS = (
    "import glob, hashlib, json; print(json.dumps({path.split('/')[-2]: hashlib.sha256(open(path, 'rb').read()).hexdigest() "
    "for path in glob.glob('/opt/envbuilder/env/lib/python*/site-packages/*.dist-info/RECORD')}))"
)


def envbuilder(home: Path, path: str, *words: str, code: int = 0, **variables: str) -> str:
    env = {**os.environ, "PATH": path, "ENVBUILDER_HOME": str(home), **variables}
    env.pop("ENVBUILDER_SITE_PATH", None)
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", *words], env=env, capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def small(test_home: Path, apptainer_path: str) -> dict[str, Any]:
    """The manifest of the small image."""
    told = envbuilder(
        test_home, apptainer_path, "build", "mpi4py", "--builder", "apptainer", "--compression", "lz4", "--json"
    )
    return dict(json.loads(told)["environment"])


@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("buildah"), reason="there is no buildah, or nobody to run it as"
)
def test_buildah_makes_the_tree_of_the_same_lock(
    test_home: Path, apptainer_path: str, small: dict[str, Any], tmp_path: Path
) -> None:
    """On the very base of the SIF, which has no name in a registry here; its packages are there already."""
    (base,) = (path for path in (test_home / "bases").glob("debian-12-*.sif") if not path.stem.endswith("-build"))
    program = shutil.which("apptainer", path=apptainer_path)
    assert program
    folder, rootfs, store = tmp_path / "mpi4py.oci", tmp_path / "rootfs", tmp_path / "storage"
    listed = subprocess.run([program, "sif", "list", base], capture_output=True, text=True, check=True).stdout
    start = re.search(r"\|(\d+)-\d+ *\|FS", listed)
    assert start
    subprocess.run(["unsquashfs", "-q", "-n", "-o", start[1], "-d", rootfs, base], check=True)
    buildah = ["buildah", "--root", str(store), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]

    def run(*words: str | Path) -> str:
        done = subprocess.run([*buildah, *words], capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    container = run("from", "scratch")
    run("copy", "--quiet", container, rootfs, "/")
    run("commit", "--quiet", "--rm", "--disable-compression", container, "localhost/debian-12")
    shutil.rmtree(rootfs)
    envbuilder(
        test_home, apptainer_path, "export", "containerfile", "mpi4py",
        "--from", "localhost/debian-12", "-o", str(folder),
    )  # fmt: skip

    said = run("bud", "--isolation", "chroot", "--pull-never", "-t", "mpi4py", folder)

    assert "the probe ran; imported: mpi4py.MPI" in said
    made = run("from", "--pull-never", "mpi4py")
    records = json.loads(run("run", "--isolation", "chroot", made, "--", "python", "-c", RECORDS))
    assert sorted(records.values()) == sorted(small["records"].values())
    settings = run("run", "--isolation", "chroot", made, "--", "sh", "-c", "echo $VIRTUAL_ENV; command -v python")
    assert settings.split() == ["/opt/envbuilder/env", "/opt/envbuilder/env/bin/python"]


def test_an_image_goes_from_one_store_to_another_and_is_proven_there(
    test_home: Path, apptainer_path: str, small: dict[str, Any], tmp_path: Path
) -> None:
    ours, theirs = made_key(tmp_path / "ours.pem"), made_key(tmp_path / "theirs.pem")
    there, here, file = tmp_path / "there", tmp_path / "here", tmp_path / "mpi4py.sif"
    copied = there / "envs" / small["identifier"]
    copied.mkdir(parents=True)
    shutil.copyfile(small["image"]["file"], copied / "image.sif")
    image = {**small["image"], "file": str(copied / "image.sif")}
    (there / "manifests").mkdir()
    (there / "manifests" / f"{small['identifier']}.json").write_text(
        json.dumps({**small, "prefix": str(copied), "image": image})
    )

    envbuilder(there, apptainer_path, "sign", small["identifier"], "--key", str(ours), "--sif", str(file))

    wanted = {"ENVBUILDER_IMAGE_KEY": str(public(ours))}
    refused = envbuilder(here, apptainer_path, "import", str(file), code=1, ENVBUILDER_IMAGE_KEY=str(public(theirs)))
    assert "is not signed with" in refused
    assert list(here.glob("envs/*")) == []
    told = json.loads(envbuilder(here, apptainer_path, "import", str(file), "--json", **wanted))["environment"]
    assert Path(told["image"]["file"]).read_bytes() == file.read_bytes()
    assert told["records"] == small["records"]
    assert told["mpi"] == small["mpi"]
    seen = json.loads(envbuilder(here, apptainer_path, "verify", "mpi4py.sif", "--json", **wanted))
    states = {one["check"]: one["status"] for one in seen["environments"][0]["outcomes"]}
    assert set(states.values()) == {"pass"}
    assert "image-signature" in states
    envbuilder(here, apptainer_path, "gate", "mpi4py.sif", **wanted)
    (proof,) = here.glob("proofs/*/*.json")
    subjects = {one["name"]: one["digest"]["sha256"] for one in json.loads(proof.read_text())["subject"]}
    assert subjects["image.sif"] == told["image"]["sha256"]
    # it was proven under this key: without a look at another, nothing starts
    shut = envbuilder(here, apptainer_path, "gate", "mpi4py.sif", code=1, ENVBUILDER_IMAGE_KEY=str(public(theirs)))
    assert "it was made under another key" in shut
    # the bills of the environment and of the file differ in nothing but in which environment it is
    bills = [
        json.loads(envbuilder(here, apptainer_path, "export", "sbom", subject)) for subject in ("mpi4py.sif", str(file))
    ]
    assert bills[0]["components"] == bills[1]["components"]
    assert {"deb:mpich:amd64", "source:mpi4py"} <= {one["bom-ref"] for one in bills[0]["components"]}


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """The address of a registry that keeps what it gets in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/blobs}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    command = ["docker-registry", "serve", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as served:
        try:
            deadline = time.monotonic() + 60
            while not _answers(address):
                assert served.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield address
        finally:
            served.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
            return True
    except OSError:
        return False


def published(address: str, name: str) -> str:
    """The digest that a registry gives the one file of an image."""
    asked = urllib.request.Request(
        f"http://{address}/v2/{name.replace(':', '/manifests/')}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        (layer,) = json.load(answer)["layers"]
    return str(layer["digest"])


needs_registry = pytest.mark.skipif(
    not shutil.which("docker-registry"), reason="there is no registry to push to (docker-registry)"
)


@needs_registry
def test_the_script_of_the_workflow_for_gitlab_locks_builds_signs_proves_and_publishes(
    test_home: Path, apptainer_path: str, small: dict[str, Any], tmp_path: Path
) -> None:
    """As a runner would run it, but for the installation before it; the one change is a registry without TLS."""
    home = tmp_path / "store"
    home.mkdir()
    for name in ("bases", "wheels", "cache"):  # what runners keep between runs
        (home / name).symlink_to(test_home / name)
    private = made_key(tmp_path / "images.key")
    shutil.move(public(private), tmp_path / "images.pem")
    envbuilder(home, apptainer_path, "lock", "mpi4py", "--builder", "apptainer", "-o", str(tmp_path / "locks/mpi4py"))
    job = yaml.safe_load(workflows.text("gitlab", ("mpi4py",)))["images"]
    script = "set -e\n" + "\n".join(job["script"]).replace("apptainer push", "apptainer push --no-https")
    tools = Path(sys.executable).parent

    with registry(tmp_path) as address:
        told = {
            **os.environ, "PATH": f"{tools}:{apptainer_path}", "HOME": str(tmp_path), "ENVBUILDER_HOME": str(home),
            "RECIPE": "mpi4py", "IMAGE_SIGNING_KEY": str(private), "CI_PROJECT_DIR": str(tmp_path),
            "CI_COMMIT_BRANCH": "main", "CI_DEFAULT_BRANCH": "main", "CI_COMMIT_SHA": "abc123",
            "CI_REGISTRY": address, "CI_REGISTRY_IMAGE": f"{address}/group/project",
            "CI_REGISTRY_USER": "user", "CI_REGISTRY_PASSWORD": "secret",
        }  # fmt: skip
        told.pop("ENVBUILDER_SITE_PATH", None)
        done = subprocess.run(
            ["bash", "-c", script], env=told, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1500
        )
        assert done.returncode == 0, done.stderr
        digest = published(address, "group/project/mpi4py:abc123")

    assert digest == f"sha256:{hashlib.sha256((tmp_path / 'image.sif').read_bytes()).hexdigest()}"
    assert "image-signature" in done.stdout
    assert "proven: " in done.stdout
    assert "<testsuite" in (tmp_path / "verify.xml").read_text()
    bill = json.loads((tmp_path / "bom.cdx.json").read_text())
    assert digest.endswith(bill["metadata"]["component"]["hashes"][0]["content"])


@needs_registry
def test_a_registry_names_an_image_by_the_digest_that_its_proof_has(
    apptainer_path: str, small: dict[str, Any], tmp_path: Path
) -> None:
    program = shutil.which("apptainer", path=apptainer_path)
    assert program
    env = {**os.environ, "HOME": str(tmp_path), "PATH": apptainer_path}
    image, back = small["image"], tmp_path / "back.sif"
    with registry(tmp_path) as address:
        for words in (("push", "--no-https", image["file"]), ("pull", "--no-https", str(back))):
            done = subprocess.run(
                [program, "-q", *words, f"oras://{address}/owner/mpi4py:1"],
                env=env, capture_output=True, text=True, check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        digest = published(address, "owner/mpi4py:1")

    assert digest == f"sha256:{image['sha256']}"
    assert back.read_bytes() == Path(image["file"]).read_bytes()
