"""Images for real: built from the lock by Apptainer, proven inside with either MPI, the same twice, and broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from testbed.machine import Testbed

from envbuilder.host_mpi import FOLDER

# Three of these are made for every change: small images with either MPI, and one with TensorFlow. The rest is slow.
pytestmark = pytest.mark.real

# lz4 packs in seconds what gzip packs in minutes; both are images
LARGE = 20_000_000  # nothing that mpi4py takes is as large
IMAGE = ("--builder", "apptainer", "--compression", "lz4")


@dataclass(frozen=True)
class User:
    """Someone with a store and a PATH that has Apptainer."""

    home: Path
    path: str
    before: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def command(self, *words: str, **variables: str) -> tuple[str, ...]:
        told = {"PATH": self.path, "ENVBUILDER_HOME": str(self.home), **self.variables, **variables}
        settings = [f"{name}={value}" for name, value in told.items()]
        unset = ("-u", "ENVBUILDER_SITE_PATH", "-u", "ENVBUILDER_SITE")
        return (*self.before, "env", *unset, *settings, sys.executable, "-m", "envbuilder", *words)

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, **variables), capture_output=True, text=True, check=False, timeout=1500
        )

    def build(self, *words: str) -> dict[str, Any]:
        done = self.run("build", *words, *IMAGE, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["environment"])

    def outcomes(self, name: str, *words: str) -> dict[str, dict[str, str]]:
        done = self.run("verify", name, "--json", *words)
        assert done.stdout, done.stderr
        (one,) = json.loads(done.stdout)["environments"]
        return {outcome["check"]: outcome for outcome in one["outcomes"]}

    def likeness(self, tree: str, image: str, *, verified: bool = False) -> dict[str, Any]:
        """What `diff --witnessed` says of a tree and an image; the tree is verified first, unless it was."""
        if not verified:
            assert_all_passed(self.outcomes(tree))
        done = self.run("diff", "--witnessed", tree, image, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def user(test_home: Path, apptainer_path: str) -> User:
    return User(home=test_home, path=apptainer_path)


@pytest.fixture
def elsewhere(user: User, tmp_path: Path) -> User:
    """Another store, which has what took long: layers, compiled wheels, downloads and the lock."""
    user.build("mpi4py")
    home = tmp_path / "store"
    for name in ("bases", "wheels", "cache/artefacts", "locks/mpi4py@4.1"):
        for path in (user.home / name).rglob("*"):
            target = home / path.relative_to(user.home)
            if path.is_file() and (name == "bases" or path.stat().st_size < LARGE):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    return User(home=home, path=user.path)


def assert_all_passed(outcomes: Mapping[str, Mapping[str, str]]) -> None:
    assert {name: one["cause"] for name, one in outcomes.items() if one["status"] != "pass"} == {}


def changed(user: User, environment: Mapping[str, Any], home: Path, **image: Any) -> User:
    """Another store with this environment in it, of whose image something else is said."""
    identifier = environment["identifier"]
    folder = home / "envs" / identifier
    folder.mkdir(parents=True)
    shutil.copyfile(environment["image"]["file"], folder / "image.sif")
    told = {**environment["image"], "file": str(folder / "image.sif"), **image}
    document = {**environment, "prefix": str(folder), "image": told, "caches": str(home / "caches")}
    (home / "manifests").mkdir()
    (home / "manifests" / f"{identifier}.json").write_text(json.dumps(document))
    return User(home=home, path=user.path)


def test_an_image_is_proven_with_its_own_mpi_and_lets_commands_in(user: User) -> None:
    environment = user.build("mpi4py")
    outcomes = user.outcomes("mpi4py.sif")

    assert_all_passed(outcomes)
    assert "the image's own on 2 ranks: /usr/lib/" in outcomes["image-mpi"]["witnessed"]
    assert "2 ranks in one world" in outcomes["ranks-started"]["witnessed"]
    seen = "import json, os, sys; print(json.dumps([sys.prefix, sys.path, os.environ.get('PYTHONHOME'), os.environ['HF_HOME']]))"
    done = user.run("run", "mpi4py.sif", "--", "python", "-c", seen, PYTHONPATH="/from/the/host")
    prefix, path, home, cache = json.loads(done.stdout)
    assert prefix == environment["image"]["prefix"]
    assert "/from/the/host" not in path
    assert home is None
    assert cache.startswith(environment["caches"])
    assert user.run("run", "mpi4py.sif", "--", "sh", "-c", "exit 7").returncode == 7


def test_the_hosts_mpi_takes_the_place_of_the_images(user: User, tmp_path: Path) -> None:
    environment = user.build("mpi4py", "--mpi", "host")

    outcomes = user.outcomes("mpi4py.host-mpi.sif")

    assert_all_passed(outcomes)
    assert f"the host's on 2 ranks: {FOLDER}/libmpich.so.12" in outcomes["image-mpi"]["witnessed"]
    # the library is bound under a name that nobody looks for: the ranks work, with the image's own
    binds = {
        source: target.replace("libmpich.so.12", "libmpich-of-the-host.so.12")
        for source, target in environment["image"]["binds"].items()
    }
    wrong = changed(user, environment, tmp_path / "misnamed", binds=binds)
    broken = wrong.outcomes(environment["identifier"], "--keep-going")
    assert broken["ranks-started"]["status"] == "pass"
    assert broken["image-mpi"]["status"] == "fail"
    assert "uses the image's own /usr/lib/" in broken["image-mpi"]["cause"]
    # a library of the host that is gone is named before anything starts
    gone = changed(user, environment, tmp_path / "gone", binds={"/usr/lib/gone.so.1": f"{FOLDER}/gone.so.1:ro"})
    done = gone.run("verify", environment["identifier"])
    assert done.returncode == 4
    assert "/usr/lib/gone.so.1, which is bound into" in done.stderr


@pytest.mark.slow
def test_an_image_that_was_tampered_with_is_not_run(user: User, tmp_path: Path) -> None:
    environment = user.build("mpi4py")
    other = changed(user, environment, tmp_path / "store")
    sif = other.home / "envs" / environment["identifier"] / "image.sif"
    with open(sif, "r+b") as image:
        image.seek(sif.stat().st_size // 2)
        byte = image.read(1)
        image.seek(-1, os.SEEK_CUR)
        image.write(bytes([byte[0] ^ 1]))

    outcomes = other.outcomes(environment["identifier"], "--keep-going")

    assert outcomes["image-file"]["status"] == "fail"
    assert "is not the image that was built" in outcomes["image-file"]["cause"]
    assert {one["status"] for name, one in outcomes.items() if name != "image-file"} == {"not-run"}


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_nothing_and_the_next_makes_the_same_bytes(user: User, elsewhere: User) -> None:
    first = user.build("mpi4py")
    killed = subprocess.Popen(
        elsewhere.command("build", "mpi4py", *IMAGE),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list(elsewhere.home.glob("work/*.sif/scratch/build-temp-*")) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    own_children(killed.pid, signal.SIGKILL)
    killed.wait()

    assert list(elsewhere.home.glob("images/*")) == []
    assert list(elsewhere.home.glob("manifests/*")) == []
    assert elsewhere.run("run", "mpi4py.sif", "--", "true").returncode == 2
    second = elsewhere.build("mpi4py")
    assert list(elsewhere.home.glob("work/*")) == []
    assert second["image"]["file"] != first["image"]["file"]
    assert Path(second["image"]["file"]).read_bytes() == Path(first["image"]["file"]).read_bytes()
    assert second["identifier"] == first["identifier"]


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a store a small disk")
def test_a_full_disk_leaves_neither_a_part_of_an_image_nor_scratch(user: User, elsewhere: User, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    # the store is on a disk of its own, and what it has already is elsewhere: there is room for a part of the image
    script = (
        f"mount -t tmpfs -o size=150m tmpfs {small} && cp -r {elsewhere.home}/locks {small} && "
        f"for name in bases wheels cache; do ln -s {elsewhere.home}/$name {small}/$name; done; "
        f'"$@"; code=$?; find {small} -type f -size +1M; exit $code'
    )
    full = User(home=small, path=user.path, before=("unshare", "--mount", "sh", "-c", script, "sh"))

    done = full.run("build", "mpi4py", *IMAGE)

    assert done.returncode == 3, done.stderr
    assert "image mpi4py-4.1" in done.stderr
    assert "no space is left on the disk of the store" in done.stderr
    assert done.stdout == ""


def own_children(pid: int, sign: int) -> None:
    """Send a signal to a process that we started and to all that it started, the last first."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        own_children(int(child), sign)
    with suppress(ProcessLookupError):
        os.kill(pid, sign)


@pytest.mark.slow
def test_what_is_built_is_found_again_and_written_where_it_is_wanted(user: User, tmp_path: Path) -> None:
    environment = user.build("mpi4py")
    wanted = tmp_path / "mpi4py.sif"

    done = user.run("build", "mpi4py", *IMAGE, "--sif", str(wanted), "--json")

    assert json.loads(done.stdout)["reused"] is True
    assert wanted.read_bytes() == Path(environment["image"]["file"]).read_bytes()
    program = shutil.which("apptainer", path=user.path)
    assert program
    # without envbuilder: its own test runs the probe, and its labels say what it was made of
    tested = subprocess.run([program, "-s", "test", "--userns", wanted], capture_output=True, text=True, check=False)
    bare = ["python", "-c", "import sys; print(sys.path)"]
    leaking = {**os.environ, "PYTHONPATH": "/from/the/host"}
    paths = {
        verb: subprocess.run(
            [program, "-s", verb, "--userns", wanted, *bare], env=leaking, capture_output=True, check=True
        ).stdout
        for verb in ("exec", "run")
    }
    # what `envbuilder run` takes out really leaks; the image's own script takes it out, too
    assert b"/from/the/host" in paths["exec"]
    assert b"/from/the/host" not in paths["run"]
    assert "the probe ran; imported: mpi4py.MPI" in tested.stdout, tested.stderr
    told = json.loads(subprocess.run([program, "inspect", "--json", wanted], capture_output=True, check=True).stdout)
    labels = told["data"]["attributes"]["labels"]
    assert labels["org.opencontainers.image.base.digest"] == f"sha256:{environment['image']['base_sha256']}"
    assert labels["envbuilder.lock"] == f"sha256:{environment['lock_digest']}"
    inside = "cat /opt/envbuilder/lock/lock.json /opt/envbuilder/recipe.yaml"
    kept = subprocess.run(
        [program, "-s", "exec", "--userns", wanted, *inside.split()], capture_output=True, text=True, check=True
    )
    assert f'"recipe": "{environment["recipe"]}"' in kept.stdout
    assert "name: mpi4py" in kept.stdout


@pytest.mark.slow
def test_a_bundle_is_enough_for_an_image(user: User, elsewhere: User, tmp_path: Path) -> None:
    first = user.build("mpi4py")
    bundle = tmp_path / "it.bundle.tar"
    made = user.run("bundle", "mpi4py", "--builder", "apptainer", "-o", str(bundle))
    assert made.returncode == 0, made.stderr
    shutil.rmtree(elsewhere.home / "cache/artefacts")
    alone = User(home=elsewhere.home, path=user.path, before=("unshare", "--net"))

    done = alone.run("build", "--offline", str(bundle), *IMAGE, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["environment"]["image"]["sha256"] == first["image"]["sha256"]


@pytest.mark.slow
def test_under_slurm_an_image_gets_the_sites_own_mpi(elsewhere: User, testbed: Testbed) -> None:
    told = {"ENVBUILDER_SITE": "archer2", "ENVBUILDER_ACCOUNT": "z19"}
    # Apptainer lays the user's home over /root, which hides a store there from a root whose home is elsewhere, as on these nodes
    archer2 = User(home=elsewhere.home, path=elsewhere.path, before=testbed.on_login_node(), variables=told)
    archer2.build("mpi4py", "--mpi", "host")

    outcomes = archer2.outcomes("mpi4py.host-mpi.sif", "--nodes", "2", "--ranks", "4")

    assert_all_passed(outcomes)
    assert "4 ranks in one world on 2 hosts" in outcomes["ranks-started"]["witnessed"]
    assert "CRAY MPICH version 8.1.27" in outcomes["image-mpi"]["witnessed"]
    assert "the host's on 4 ranks" in outcomes["image-mpi"]["witnessed"]

    code = "import socket, sys; from mpi4py import MPI; print('rank', MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size, sys.prefix)"
    job = ("job", "mpi4py.host-mpi.sif", "--nodes", "2", "--ranks", "4")
    outside = archer2.run(*job, "--", "mpiexec", "-n", "4", "python", "-c", code)
    assert outside.returncode == 2
    assert "what mpiexec starts would be outside of it" in outside.stderr
    made = archer2.run(*job, "--", "python", "-c", code)
    assert made.returncode == 0, made.stderr
    script = elsewhere.home / "job.sh"
    script.write_text(made.stdout)
    run = subprocess.run(
        ["sbatch", "--wait", f"--output={script}.out", script],
        env=testbed.env,
        cwd=testbed.work,
        timeout=300,
        check=False,
    )
    said = Path(f"{script}.out").read_text()
    assert run.returncode == 0, said
    ranks = sorted(line.split()[1:] for line in said.splitlines() if line.startswith("rank "))
    assert ranks == [[str(rank), "4", "/opt/envbuilder/env"] for rank in range(4)]


def test_tensorflow_trains_in_an_image_and_gives_the_bits_that_it_gives_in_a_tree(
    user: User, tensorflow_env: Path
) -> None:
    user.build("tensorflow-onednn@2.21.0")

    outcomes = user.outcomes("tensorflow-onednn@2.21.0.sif")

    assert_all_passed(outcomes)
    assert "bit for bit on 2 ranks" in outcomes["tensorflow-gradients-equal"]["witnessed"]
    likeness = user.likeness(tensorflow_env.name, "tensorflow-onednn@2.21.0.sif")
    assert likeness["equal"] == 6
    assert likeness["unequal"] == []
    assert "libmpich.so.12" in {one["what"].rpartition(" ")[2] for one in likeness["differences"]}
    # another CPU's kernels: other bits, and the reason for them
    slow = user.run("verify", tensorflow_env.name, ONEDNN_MAX_CPU_ISA="SSE41", TF_DISABLE_MKL="0")
    assert slow.returncode == 0, slow.stderr + slow.stdout
    other = user.likeness(tensorflow_env.name, "tensorflow-onednn@2.21.0.sif", verified=True)
    assert {one["what"] for one in other["differences"] if "convolution" in one["what"]}
    assert set(other["explained"].values()) == {"other kernels, or another number of threads or ranks"}
    assert other["unexplained"] == []
