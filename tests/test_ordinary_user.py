"""Images as somebody without privileges builds, enters and proves them: a user of the system, with a range of user ids."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from breaking import uv
from testbed import apptainer

pytestmark = [pytest.mark.real, pytest.mark.slow]

PYTHON = "/usr/bin/python3"  # the one of these tests may lie where only root may look
PROJECT = Path(__file__).parent.parent
LARGE = 20_000_000


@dataclass(frozen=True)
class Ordinary:
    """A user with a store, an envbuilder and an Apptainer that are readable for everyone."""

    name: str
    root: Path

    def command(self, *words: str) -> tuple[str, ...]:
        path = f"{self.root}/apptainer/usr/bin:/usr/bin:/bin"
        return (
            "setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups", "--inh-caps=-all",
            "env", "-i", f"HOME={self.root}/home", f"PATH={path}", f"ENVBUILDER_HOME={self.root}/store", "LANG=C.UTF-8",
            f"{self.root}/venv/bin/envbuilder", *words,
        )  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=900, check=False, cwd=self.root
        )

    def build(self, *words: str) -> dict[str, Any]:
        done = self.run("build", "mpi4py", "--builder", "apptainer", "--compression", "lz4", *words, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["environment"])

    def outcomes(self, name: str) -> dict[str, dict[str, str]]:
        done = self.run("verify", name, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        (one,) = json.loads(done.stdout)["environments"]
        return {outcome["check"]: outcome for outcome in one["outcomes"]}


@pytest.fixture(scope="module")
def ordinary(test_home: Path, mpi4py_image: Path) -> Iterator[Ordinary]:
    """What took root long to make is copied: the base's layers, compiled wheels, downloads, the lock."""
    if os.getuid() or not os.path.exists(PYTHON) or shutil.which("useradd") is None:
        pytest.skip("making another user needs root, useradd and a Python of the system")
    root = Path(tempfile.mkdtemp(prefix="envbuilder-user-"))
    name = f"eb-{uuid.uuid4().hex[:8]}"
    subprocess.run(["useradd", "--create-home", "--home-dir", f"{root}/home", name], check=True, capture_output=True)
    try:
        root.chmod(0o755)
        path, os.environ["PATH"] = os.environ["PATH"], "/usr/sbin:/usr/bin:/sbin:/bin"
        try:
            apptainer.have(root / "apptainer")
        finally:
            os.environ["PATH"] = path
        uv("venv", "--quiet", "--python", PYTHON, str(root / "venv"))
        uv("pip", "install", "--quiet", "--python", str(root / "venv/bin/python"), str(PROJECT))
        for below in ("bases", "wheels", "cache/artefacts", "locks/mpi4py@4.1"):
            for file in (test_home / below).rglob("*"):
                if file.is_file() and (below == "bases" or file.stat().st_size < LARGE):
                    there = root / "store" / file.relative_to(test_home)
                    there.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, there)
        subprocess.run(["chown", "-R", f"{name}:", f"{root}/store"], check=True)
        yield Ordinary(name, root)
    finally:
        subprocess.run(["userdel", "--remove", name], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


def test_an_image_of_an_ordinary_user_is_proven_with_its_own_mpi_and_with_the_hosts(ordinary: Ordinary) -> None:
    environment = ordinary.build()
    assert os.stat(environment["image"]["file"]).st_uid != 0

    own = ordinary.outcomes("mpi4py.sif")
    assert {one["status"] for one in own.values()} == {"pass"}
    assert "the image's own on 2 ranks" in own["image-mpi"]["witnessed"]
    assert "2 ranks in one world" in own["ranks-started"]["witnessed"]
    done = ordinary.run("run", "mpi4py.sif", "--", "id", "-u")
    assert done.stdout.strip() == str(os.stat(ordinary.root / "store").st_uid)

    ordinary.build("--mpi", "host")
    hosts = ordinary.outcomes("mpi4py.host-mpi.sif")
    assert {one["status"] for one in hosts.values()} == {"pass"}
    assert "the host's on 2 ranks" in hosts["image-mpi"]["witnessed"]


def test_builds_of_an_ordinary_user_that_are_killed_are_repaired_by_the_next(ordinary: Ordinary) -> None:
    """Files in a half-built image may belong to users of the range; the next build must get rid of them."""
    environment = ordinary.build()
    image, scratch = Path(environment["image"]["file"]), ordinary.root / "store/work"
    good = image.read_bytes()

    for _ in range(3):
        ordinary.run("envs", "rm", environment["identifier"])
        for kept in (ordinary.root / "store/images").iterdir():
            kept.unlink()
        process = subprocess.Popen(
            ordinary.command("build", "mpi4py", "--builder", "apptainer", "--compression", "lz4"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=ordinary.root,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(scratch.glob("*/*/*/rootfs/usr")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        _kill_all_of(ordinary.name)
        process.wait()
        assert not list((ordinary.root / "store/images").iterdir())
        assert ordinary.build()["identifier"] == environment["identifier"]
        assert image.read_bytes() == good
        assert list(scratch.iterdir()) == []


def _kill_all_of(name: str) -> None:
    """SIGKILL to every process of the user that this test made."""
    for _ in range(3):
        told = subprocess.run(["ps", "-u", name, "-o", "pid="], capture_output=True, text=True, check=False).stdout
        for pid in map(int, told.split()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
