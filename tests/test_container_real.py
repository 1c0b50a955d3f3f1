"""A traced run becomes a site file, and the image that is run by it has the plug-ins of the host's MPI in its ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_trace_binds import HELLO

pytestmark = [pytest.mark.real, pytest.mark.slow]

MAPS = (
    "from mpi4py import MPI; print(MPI.COMM_WORLD.size, sorted({line.split()[-1] for line in open('/proc/self/maps')}))"
)
SITE = """\
schema: 1
name: traced
summary: This machine, with what its MPI opens
partitions:
  host:
    features: [cpu, mpi]
    mpi: {provider: detect, package: mpich, name: mpich}
default_partition: host
"""


def envbuilder(home: Path, path: str, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ENVBUILDER_HOME": str(home), "ENVBUILDER_SITE_PATH": "", "PATH": path}
    command = [*before, sys.executable, "-m", "envbuilder", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=1500)


def test_what_a_trace_prints_lets_an_image_have_the_plug_ins_of_the_hosts_mpi(
    test_home: Path, apptainer_path: str, tmp_path: Path
) -> None:
    if (shutil.which("mpicc") is None or shutil.which("mpiexec") is None) and not os.environ.get("CI"):
        pytest.skip("this machine has no MPI of its own")
    (tmp_path / "hello.c").write_text(HELLO)
    subprocess.run(["mpicc", "-o", str(tmp_path / "hello"), str(tmp_path / "hello.c")], check=True)

    traced = envbuilder(
        test_home, apptainer_path, "sites", "trace-binds", "--", "mpiexec", "-n", "2", str(tmp_path / "hello")
    )

    assert traced.returncode == 0, traced.stderr
    assert "called by 2 ranks" in traced.stdout
    site = tmp_path / "traced.yaml"
    site.write_text(SITE + traced.stdout)
    kind = ("--builder", "apptainer", "--compression", "lz4", "--mpi", "host", "--site", str(site), "--json")
    made = envbuilder(test_home, apptainer_path, "build", "mpi4py", *kind)
    assert made.returncode == 0, made.stderr
    environment = json.loads(made.stdout)["environment"]
    assert environment["image"]["container"]["binds"]
    verified = envbuilder(test_home, apptainer_path, "verify", environment["identifier"], "--json")
    (verdict,) = json.loads(verified.stdout)["environments"]
    assert {one["check"]: one["cause"] for one in verdict["outcomes"] if one["status"] != "pass"} == {}
    run = envbuilder(
        test_home, apptainer_path, "run", environment["identifier"], "--", "python", "-c", MAPS,
        before=("mpiexec", "-n", "2"),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("2 ") for line in lines), run.stdout
    assert all("/opt/envbuilder/host/ucx/libuct_" in line for line in lines), run.stdout
    assert all("/opt/envbuilder/host/libmpich.so.12" in line for line in lines)
