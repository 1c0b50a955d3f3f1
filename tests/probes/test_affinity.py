"""What the probe says of CPUs and threads, in real processes and in made control groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from envbuilder.probes import affinity, folders

ASK = """
import json, os, threading
from envbuilder.probes import affinity
{before}
print(json.dumps([affinity.bound({started}), affinity.threads({{}})]))
"""


def asked(*, before: str = "", started: str = "{}", cpus: str = "", **variables: str) -> list[dict[str, Any]]:
    """What the probe says in a process of its own, on these CPUs."""
    start = ("taskset", "-c", cpus) if cpus else ()
    command = [*start, sys.executable, "-c", ASK.format(before=before, started=started)]
    env = {**os.environ, **variables}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env, timeout=60)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def mine() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def test_the_cpus_of_a_process_and_of_what_started_it() -> None:
    bound, threads = asked(cpus=str(mine()[0]), OMP_PROC_BIND="close", OMP_NUM_THREADS="3", HOME="/nowhere")

    assert bound["cpus"] == threads["cpus"] == str(mine()[0])
    assert affinity.numbers(bound["around"]) == set(mine()), "this process started it"
    assert bound["variables"] == {
        **{name: value for name, value in bound["variables"].items() if name.startswith("SLURM_")},
        "OMP_PROC_BIND": "close",
        "OMP_NUM_THREADS": "3",
    }
    assert threads["computing"] == {}


def test_what_the_runner_may_use_counts_on_its_own_host() -> None:
    here = {"host": os.uname().nodename, "cpus": "7,9"}

    assert asked(started=repr(here))[0]["around"] == "7,9"
    assert asked(started=repr({**here, "host": "elsewhere"}))[0]["around"] == affinity.listed(mine())


@pytest.mark.skipif(len(mine()) < 2, reason="needs two CPUs")
def test_the_cpus_of_all_threads_together() -> None:
    """The first thread is bound to another CPU after a second one was started, as OpenMP binds."""
    first, last = mine()[0], mine()[-1]
    before = f"""
ready, stop = threading.Event(), threading.Event()
def work():
    os.sched_setaffinity(0, {{{last}}})
    ready.set()
    stop.wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()
os.sched_setaffinity(0, {{{first}}})
"""
    bound, threads = asked(before=before)

    assert bound["cpus"] == str(first)
    assert affinity.numbers(threads["cpus"]) == {first, last}
    assert threads["count"] == 2


@pytest.mark.parametrize(
    ("cpus", "text"), [((), ""), ((5,), "5"), ((0, 1, 2, 3), "0-3"), ((0, 2, 3, 9, 64, 65), "0,2-3,9,64-65")]
)
def test_lists_of_cpus(cpus: tuple[int, ...], text: str) -> None:
    assert affinity.listed(cpus) == text
    assert affinity.numbers(text) == set(cpus)


def test_another_process_that_cannot_be_read() -> None:
    assert affinity.allowed(2**22 + 1) == ""


def groups(folder: Path, own: str, **files: str) -> tuple[str, str]:
    """A tree of control groups and the file that says which one is ours."""
    (folder / "cgroup").write_text(own)
    for name, text in files.items():
        path = folder / "fs" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(folder / "fs"), str(folder / "cgroup")


def test_the_quota_of_version_2_is_the_least_of_all_around(tmp_path: Path) -> None:
    where = groups(
        tmp_path,
        "0::/jobs/job7/step0\n",
        jobs__job7__step0__cpu_DOT_max="max 100000",
        jobs__job7__cpu_DOT_max="250000 100000",
        jobs__cpu_DOT_max="800000 100000",
    )

    assert affinity.quota(*where) == 2.5


def test_the_quota_of_version_1(tmp_path: Path) -> None:
    where = groups(
        tmp_path,
        "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n",
        **{"cpu,cpuacct__cpu_DOT_cfs_quota_us": "150000", "cpu,cpuacct__cpu_DOT_cfs_period_us": "100000"},
    )

    assert affinity.quota(*where) == 1.5, "a container sees its own group as the root"


def test_no_quota(tmp_path: Path) -> None:
    assert affinity.quota(*groups(tmp_path, "0::/\n", cpu_DOT_max="max 100000")) == 0
    assert affinity.quota(*groups(tmp_path, "1:cpu:/\n", cpu__cpu_DOT_cfs_quota_us="-1")) == 0
    assert affinity.quota(str(tmp_path / "none"), str(tmp_path / "none")) == 0


def test_the_cpus_of_a_control_group(tmp_path: Path) -> None:
    two = groups(
        tmp_path,
        "0::/jobs/job7\n",
        jobs__job7__cpuset_DOT_cpus_DOT_effective="4-5",
        jobs__cpuset_DOT_cpus_DOT_effective="0-7",
    )
    assert affinity.cpuset(*two) == "4-5"
    one = groups(tmp_path, "5:cpuset:/job8\n", cpuset__job8__cpuset_DOT_effective_cpus="6")
    assert affinity.cpuset(*one) == "6"
    assert affinity.cpuset(str(tmp_path / "none"), two[1]) == ""


def test_this_machine_has_groups_that_can_be_read() -> None:
    assert affinity.quota() >= 0
    allowed = affinity.numbers(affinity.cpuset())
    assert not allowed or set(mine()) <= allowed


def test_data_that_can_be_read_and_what_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "sample").write_text("x")
    (tmp_path / "mount").mkdir()
    (tmp_path / "empty.h5").touch()
    places = {
        "TRAIN": (tmp_path / "train", ""),
        "FILE": (tmp_path / "train" / "sample", ""),
        "MOUNT": (tmp_path / "mount", "the folder is empty: is its file system mounted here?"),
        "EMPTY": (tmp_path / "empty.h5", "the file is empty"),
        "GONE": (tmp_path / "gone", "No such file or directory"),
        "UNDER": (tmp_path / "empty.h5" / "x", "Not a directory"),
    }
    for name, (path, _) in places.items():
        monkeypatch.setenv(name, str(path))
    monkeypatch.delenv("UNSET", raising=False)

    found = folders.readable([*places, "UNSET"])

    assert {name: fact["error"] for name, fact in found.items()} == {
        **{name: error for name, (_, error) in places.items()},
        "UNSET": "it has no value",
    }
    assert found["TRAIN"]["path"] == str(tmp_path / "train")
    assert found["TRAIN"]["host"] == os.uname().nodename
