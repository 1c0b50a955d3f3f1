"""The testbed is what it claims to be. What is tested on it is worth no more than this."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testbed import machine

pytestmark = pytest.mark.real

PROGRAM = """
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int rank, size, sum, length;
    char host[256], line[4096], version[MPI_MAX_LIBRARY_VERSION_STRING], mapped[4096] = "";
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Get_library_version(version, &length);
    gethostname(host, sizeof host);
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "libmpi") && strstr(line, "r-xp")) strcpy(mapped, strchr(line, '/'));
    printf("%d %d %s %s", size, sum, host, mapped);
    if (rank == 0) fprintf(stderr, "%s", version);
    return MPI_Finalize();
}
"""
CPU = "--account=z19 --partition=standard --qos=standard --time=2"


@pytest.fixture
def folder(testbed: machine.Testbed) -> Iterator[Path]:
    """A folder that the nodes see."""
    made = Path(tempfile.mkdtemp(dir=testbed.work))
    yield made
    shutil.rmtree(made)


def _login(testbed: machine.Testbed, script: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As typed after logging in."""
    bare = {"HOME": str(testbed.home), "USER": "user"}
    return subprocess.run(
        ["bash", "--login", "-c", script],
        env=bare,
        cwd=cwd or testbed.work,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _batch(testbed: machine.Testbed, folder: Path, script: str, *options: str) -> str:
    (folder / "job").write_text(script)
    command = ["sbatch", "--wait", *CPU.split(), "--output=out", *options, "job"]
    done = subprocess.run(
        command, env=testbed.env, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return (folder / "out").read_text()


def test_a_world_of_four_on_two_nodes_with_the_mpi_of_the_module(testbed: machine.Testbed, folder: Path) -> None:
    (folder / "world.c").write_text(PROGRAM)
    built = _login(
        testbed, f"module -q load PrgEnv-gnu && cc -o world world.c && srun {CPU} -N2 -n4 ./world", cwd=folder
    )
    assert built.returncode == 0, built.stderr
    ranks = [line.split() for line in built.stdout.splitlines()]
    assert sorted(rank[:3] for rank in ranks) == [["4", "6", name] for name in ["nid001001"] * 2 + ["nid001002"] * 2]
    assert {rank[3] for rank in ranks} == {
        f"{testbed.root}/opt/cray/pe/mpich/8.1.27/ofi/gnu/9.1/lib/libmpi_gnu_91.so.12.0.0"
    }
    assert "CRAY MPICH version 8.1.27" in built.stderr


def test_the_default_library_is_taken_until_the_path_says_otherwise(testbed: machine.Testbed, folder: Path) -> None:
    (folder / "world.c").write_text(PROGRAM)
    before = (
        f"module -q load cpe/22.12 && module -q load PrgEnv-gnu && echo $CRAY_MPICH_VERSION && cc -o world world.c"
        f" && srun {CPU} -n1 ./world"
    )
    after = f"{before}; export LD_LIBRARY_PATH=$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH; srun {CPU} -n1 ./world"
    done = _login(testbed, after, cwd=folder)
    chosen, default, wanted = done.stdout.split("\n")[:3]
    assert chosen == "8.1.23"
    assert "/mpich/8.1.27/" in default
    assert "/mpich/8.1.23/" in wanted
    assert Path(default.split()[3]).read_bytes() != Path(wanted.split()[3]).read_bytes()


def test_home_is_not_there_in_a_job_and_work_is(testbed: machine.Testbed, folder: Path) -> None:
    said = _batch(testbed, folder, '#!/bin/bash\nhostname\necho "$HOME"\nls -d "$HOME" "$PWD"\ntrue\n', "--export=none")
    host, home, *rest = said.splitlines()
    assert host in {"nid001001", "nid001002"}
    assert home == str(testbed.home)
    assert testbed.home.is_dir()
    assert any("cannot access" in line and home in line for line in rest)
    assert str(folder) in rest


def test_only_a_login_shell_has_modules_in_a_job(testbed: machine.Testbed, folder: Path) -> None:
    body = "type -t module\nmodule -t list 2>&1\n"
    assert "function" not in _batch(testbed, folder, f"#!/bin/bash\n{body}true\n")
    assert "PrgEnv-cray/8.4.0" in _batch(testbed, folder, f"#!/bin/bash --login\n{body}")
    assert "PrgEnv-cray/8.4.0" in _batch(testbed, folder, f"#!/bin/bash --login\n{body}", "--export=none")


def test_a_login_loads_the_default_modules_and_nobody_elses_does(testbed: machine.Testbed) -> None:
    listed = _login(testbed, "module -t list").stderr.split()
    assert {"PrgEnv-cray/8.4.0", "cray-mpich/8.1.27", "craype-x86-rome"} <= set(listed)
    assert testbed.env["LOADEDMODULES"].split(":") == listed
    other = subprocess.run(
        ["bash", "--login", "-c", "echo [$SLURM_CONF]"], env={"HOME": "/"}, capture_output=True, text=True, check=True
    )
    assert other.stdout == "[]\n"


def test_the_modules_of_a_recipe(testbed: machine.Testbed) -> None:
    asked = "module -q load cpe/22.12; module -q load PrgEnv-gnu; module -q load rocm/5.2.3 craype-accel-amd-gfx90a"
    shown = "PE_ENV CRAY_MPICH_DIR CRAY_ACCEL_TARGET ROCM_PATH PE_MPICH_GTL_LIBS_amd_gfx90a LD_LIBRARY_PATH"
    at_once = "module -q load cpe/22.12 PrgEnv-gnu/8.3.3 rocm/5.2.3 craype-accel-amd-gfx90a"
    listed = [_login(testbed, f"{each}; module -t list").stderr.split() for each in (asked, at_once)]
    assert "cray-mpich/8.1.23" in listed[0]
    assert not set(listed[0]) - set(listed[1])
    said = _login(testbed, f'{asked}; for name in {shown}; do echo "${{!name}}"; done').stdout.splitlines()
    assert said == [
        "GNU",
        f"{testbed.root}/opt/cray/pe/mpich/8.1.23/ofi/gnu/9.1",
        "amd_gfx90a",
        f"{testbed.root}/opt/rocm-5.2.3",
        "-lmpi_gtl_hsa",
        f"{testbed.root}/opt/rocm-5.2.3/lib:{testbed.root}/opt/cray/libfabric/1.12.1.2.2.0.0/lib64",
    ]


@pytest.mark.parametrize(
    ("module", "code"), [("missing", 1), ("syntax", 1), ("refuses", 1), ("promise", 0), ("nowhere", 1)]
)
def test_broken_modules(testbed: machine.Testbed, module: str, code: int) -> None:
    lmod = _login(testbed, f'module load broken/{module}; echo "$? [$PROMISE_ROOT]"')
    assert lmod.stdout == f"{code} []\n"
    tcl = _login(testbed, f'. "{testbed.tcl_init}"; module load broken/{module}; echo "$? [$PROMISE_ROOT]"')
    assert tcl.stdout == f"{code} []\n"


def test_a_warning_and_a_newline_as_lmod_has_them(testbed: machine.Testbed) -> None:
    assert _login(testbed, 'module load odd/warns; echo "$? $ODD_WARNS"').stdout == "1 yes\n"
    assert _login(testbed, 'module load odd/newlines; echo "$ODD_NEWLINES $ODD_RUN"').stdout == "first yes\n"


def test_the_module_that_shadows_a_venv(testbed: machine.Testbed) -> None:
    script = 'module -q load pytorch/1.13.1-gpu && python3 -c "import torch; print(torch.__version__, torch.__doc__)"'
    done = _login(testbed, script)
    if "cray-python/3.9.13.1" in done.stderr:
        pytest.skip("this machine has no Python 3.9")
    assert done.stdout.startswith("1.13.1+rocm5.2 A stand-in for torch")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--account=z19 --partition=standard --qos=nosuch --time=2", "Invalid qos specification"),
        ("--account=z19 --partition=standard --qos=gpu-exc --time=2", "Invalid qos specification"),
        ("--account=nosuch --partition=standard --qos=standard --time=2", "Invalid account"),
        ("--partition=standard --qos=standard --time=2", "no budget"),
        ("--account=z19 --partition=standard --time=2", "no quality of service"),
        ("--account=z19 --partition=standard --qos=standard", "no wall time"),
        ("--account=z19 --partition=standard --qos=short --time=30", "QOSMaxWallDurationPerJobLimit"),
        ("--account=z19 --partition=standard --qos=standard --time=2 --nodes=3", "Node count specification invalid"),
        ("--account=z19 --partition=gpu --qos=gpu-shd --time=2", "needs --gpus"),
        ("--account=z19 --partition=gpu --qos=gpu-exc --time=2 --gpus=4", "needs --exclusive"),
        ("--account=z19 --partition=gpu --qos=gpu-shd --time=2 --gpus=1 --ntasks=2", "no --ntasks"),
    ],
)
def test_jobs_that_are_refused(testbed: machine.Testbed, options: str, why: str) -> None:
    command = ["sbatch", *options.split(), "--wrap", "true"]
    done = subprocess.run(command, env=testbed.env, cwd=testbed.work, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert why in done.stderr


def test_gpus_are_shared_out(testbed: machine.Testbed, folder: Path) -> None:
    gpu = "--account=z19 --partition=gpu --qos=gpu-shd --time=2 --gpus=2 --ntasks=2 --gpus-per-task=1"
    done = _login(testbed, f"srun {gpu} bash -c 'echo $ROCR_VISIBLE_DEVICES'", cwd=folder)
    assert sorted(done.stdout.split()) == ["0", "1"], done.stderr


def test_up_is_idempotent_also_for_two_at_once(testbed: machine.Testbed) -> None:
    pids = sorted((testbed.root.parent / "run").glob("*.pid.json"))
    before = [path.read_text() for path in pids]
    with ThreadPoolExecutor() as pool:
        assert [each.result() for each in [pool.submit(machine.up) for _ in range(2)]] == [testbed, testbed]
    assert [path.read_text() for path in pids] == before


def test_a_drained_node_takes_jobs_again(testbed: machine.Testbed) -> None:
    """Slurm drains a node whose disk is full, and remembers that; every later job would wait for ever."""
    command = testbed.on_login_node("scontrol", "update", "nodename=dvn01", "state=drain", "reason=a test")
    subprocess.run(command, check=True, cwd=testbed.work)

    machine.up()

    shown = testbed.on_login_node("sinfo", "-h", "-n", "dvn01", "-o", "%T")
    done = subprocess.run(shown, capture_output=True, text=True, check=True, cwd=testbed.work)
    assert done.stdout.split()[0] in ("idle", "allocated", "mixed", "completing")


def test_the_login_node_has_its_own_name(testbed: machine.Testbed) -> None:
    command = testbed.on_login_node("bash", "-c", 'hostname; echo "$HOME" "$PE_ENV"')
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=testbed.work)
    assert done.stdout.splitlines() == ["ln01", f"{testbed.home} CRAY"]


@pytest.mark.slow
def test_half_up_and_down(testbed: machine.Testbed) -> None:
    """On a testbed of its own, beside the other one."""

    def run(command: str, code: int) -> str:
        done = subprocess.run(
            [machine.PROGRAM, command, base], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    hook = Path("/etc/profile.d/zz-envbuilder-testbed.sh")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        base = str(Path(made) / "testbed")
        run("down", 0)
        run("status", 1)
        first = run("up", 0)
        assert base in hook.read_text()
        for name in ("slurmd-nid001002", "mariadbd", "slurmctld"):
            os.kill(json.loads(Path(base, f"run/{name}.pid.json").read_text())["pid"], signal.SIGKILL)
        run("status", 1)
        assert run("up", 0) == first
        run("status", 0)
        run("down", 0)
        run("down", 0)
        assert "pid" not in run("status", 1)
        assert base not in hook.read_text()
    assert subprocess.run([machine.PROGRAM, "status"], capture_output=True, check=False).returncode == 0
