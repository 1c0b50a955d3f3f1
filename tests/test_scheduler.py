"""Real jobs of a real Slurm: how they end, what is refused, what dies, and that none is left behind.

Most tests break something, so they have a Slurm of their own: two nodes on this host, started here and ended here, without
accounting. What needs accounts and qualities of service is asked of the testbed, which others use as well.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from envbuilder import errors, job, scheduler, site
from envbuilder.scheduler import Allocation, ControllerGone, JobEnd, JobStatus, SchedulerError

TESTS = Path(__file__).parent
CONF = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={slurmd}
SrunPortRange={first}-{last}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
MessageTimeout=2
ReturnToService=2
KillWait=2
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=8 RealMemory=1000 Gres=gpu:4 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=8 RealMemory=1000 Gres=gpu:4 State=UNKNOWN
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=1:00:00 State=UP OverSubscribe=EXCLUSIVE
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

pytestmark = pytest.mark.real


@dataclass
class Small:
    """A Slurm of our own; every daemon is a child of this process, and is known by that."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=self.env
            )

    def start_node(self, name: str) -> None:
        self.start(name, "slurmd", "-D", "-N", name)

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running.pop(name).wait(10)

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("S", "P"))}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=20, stdin=subprocess.DEVNULL
        )
        return done.stdout.strip()

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not come about: {self.logs()}"
            time.sleep(0.1)

    def ready(self) -> bool:
        return self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"]

    def queue(self) -> list[str]:
        return self.ask("squeue", "-h", "-o", "%i %T").splitlines()

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-600:] for path in self.folder.glob("*.log"))


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"


def _free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(21000 + os.getpid() % 400 * 20, 32000, 20):
        taken = False
        for port in range(first, first + count):
            with socket.socket() as probe:
                taken = taken or probe.connect_ex(("127.0.0.1", port)) == 0
        if not taken:
            return first
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    if missing:
        pytest.skip(f"no Slurm on this machine: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    base = _free_ports(20)
    (folder / "slurm.conf").write_text(
        CONF.format(
            host=socket.gethostname().partition(".")[0], user=getpass.getuser(), folder=folder, port=base, slurmd=base + 1,
            port1=base + 2, port2=base + 3, first=base + 4, last=base + 19,
        )
    )  # fmt: skip
    (folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero,/dev/full,/dev/urandom\n")
    for name in ("state", "spool-n1", "spool-n2", "munge"):
        (folder / name).mkdir(mode=0o755)
    private = folder / "private"
    private.mkdir(mode=0o700)
    (private / "key").write_bytes(os.urandom(128))
    (private / "key").chmod(0o600)
    one = Small(folder)
    try:
        one.start(
            "munged", "munged", "--foreground", "--force", f"--key-file={private}/key", f"--socket={folder}/munge/munge.sock",
            f"--pid-file={private}/pid", f"--log-file={private}/log", f"--seed-file={private}/seed",
        )  # fmt: skip
        one.until((folder / "munge/munge.sock").exists, "munge")
        one.start("slurmctld", "slurmctld", "-D")
        one.start_node("n1")
        one.start_node("n2")
        one.until(one.ready, "two idle nodes")
        yield one
    finally:
        for process in reversed(one.running.values()):
            process.terminate()
            process.wait(20)


@pytest.fixture
def slurm(small: Small, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """The small Slurm with nothing in its queue, before and after."""
    monkeypatch.setenv("SLURM_CONF", small.env["SLURM_CONF"])
    monkeypatch.setenv("PATH", _path())
    small.until(small.ready, "two idle nodes")
    yield small
    left = [line for line in small.queue() if not line.endswith(" COMPLETING")]  # its end is Slurm's business
    small.ask("scancel", f"--user={getpass.getuser()}")
    small.until(lambda: not small.queue(), "an empty queue")
    assert left == []


def batch(folder: Path, body: str, *options: str) -> Path:
    path = folder / "job.sh"
    lines = (f"#SBATCH {option}" for option in (f"--output={folder}/%j.out", *options))
    path.write_text("\n".join(["#!/bin/bash", *lines, body, ""]))
    return path


def ended(script: Path, said: list[str] | None = None, limit: float = 120) -> JobEnd:
    ticks: list[str] = [] if said is None else said
    with scheduler.submitted(script) as name:
        return scheduler.wait(name, limit=limit, tick=ticks.append)


@pytest.mark.parametrize(
    ("body", "how", "words"),
    [
        ("echo fine", ("COMPLETED", 0, 0), "completed after"),
        ("exit 7", ("FAILED", 7, 0), "failed with exit code 7 after"),
        ("kill -9 $$", ("FAILED", 0, 9), "was killed by signal 9 after"),
        ("bash -c 'kill -9 $$'", ("FAILED", 137, 0), "failed with exit code 137 after"),
    ],
)
def test_a_job_ends_as_its_script_does(
    slurm: Small, tmp_path: Path, body: str, how: tuple[str, int, int], words: str
) -> None:
    end = ended(batch(tmp_path, body))

    assert (end.state, end.code, end.signal) == how
    assert end.nodes in {"n1", "n2"}
    assert end.good is (how[0] == "COMPLETED")
    assert f"job {end.job} {words}" in str(end)
    assert (tmp_path / f"{end.job}.out").exists()


def test_what_a_job_does_is_told_while_it_does_it(slurm: Small, tmp_path: Path) -> None:
    said: list[str] = []

    end = ended(batch(tmp_path, "sleep 1.5", "--nodes=2"), said)

    assert any(line.startswith(f"job {end.job} running on n[1-2], ") for line in said)
    assert end.good
    assert end.seconds >= 1


def test_a_job_that_waits_too_long_is_cancelled(slurm: Small, tmp_path: Path) -> None:
    name = scheduler.submit(batch(tmp_path, "true", "--begin=now+1hour"))
    said: list[str] = []

    with pytest.raises(
        SchedulerError, match=f"job {name} was still pending after \\d+ s .BeginTime. and was cancelled"
    ):
        scheduler.wait(name, limit=1, tick=said.append)

    assert said[-1].startswith(f"job {name} pending: BeginTime, ")
    assert scheduler.status(name).state == "CANCELLED"


def test_a_job_that_can_never_start_is_not_waited_for(slurm: Small, tmp_path: Path) -> None:
    failed = ended(batch(tmp_path, "false")).job
    name = scheduler.submit(batch(tmp_path, "true", f"--dependency=afterok:{failed}"))

    with pytest.raises(SchedulerError, match=r"would never have started .DependencyNeverSatisfied. and was cancelled"):
        scheduler.wait(name, limit=180, tick=str)

    assert scheduler.status(name).state == "CANCELLED"


def test_more_nodes_than_there_are_wait_no_longer_than_they_may(slurm: Small, tmp_path: Path) -> None:
    """Without EnforcePartLimits Slurm takes such a job, and says of it what it also says of nodes that are down."""
    with pytest.raises(SchedulerError, match=r"still pending after .*Partition(Node|Config)"):
        ended(batch(tmp_path, "true", "--nodes=3"), limit=1)


def test_a_job_that_another_one_cancels_has_ended(slurm: Small, tmp_path: Path) -> None:
    def cancelling(words: str) -> None:
        if "running" in words:
            slurm.ask("scancel", words.split()[1])

    name = scheduler.submit(batch(tmp_path, "sleep 180"))
    end = scheduler.wait(name, limit=120, tick=cancelling)

    assert (end.state, end.good) == ("CANCELLED", False)
    scheduler.cancel(name)


@pytest.mark.parametrize(
    ("option", "words", "remedy"),
    [
        ("--partition=nosuch", "Invalid partition name specified", "site file"),
        ("--constraint=nosuch", "Invalid feature specification", "site file"),
        ("--gpus=9", "Requested node configuration is not available", "sinfo"),
        ("--nosuch", "unrecognized option '--nosuch'", ""),
    ],
)
def test_a_refusal_is_one_error_in_slurms_words(
    slurm: Small, tmp_path: Path, option: str, words: str, remedy: str
) -> None:
    with pytest.raises(SchedulerError) as error:
        scheduler.submit(batch(tmp_path, "true", option))

    assert f"Slurm did not take the job: {words}" in error.value.message.replace(
        "invalid partition specified: nosuch; ", ""
    )
    assert "error:" not in error.value.message
    assert remedy in error.value.hint
    assert error.value.exit_code == errors.NOT_VERIFIED


def test_the_users_variables_neither_change_the_job_nor_hide_it(
    slurm: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SBATCH_PARTITION": "nosuch", "SBATCH_WAIT": "1", "SBATCH_COMMENT": "x", "SQUEUE_STATES": "COMPLETED",
        "SQUEUE_FORMAT": "x", "SCANCEL_STATE": "RUNNING", "SCANCEL_INTERACTIVE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    name = scheduler.submit(batch(tmp_path, "true", "--begin=now+1hour"))

    assert scheduler.status(name) == JobStatus(job=name, state="PENDING", reason="BeginTime")
    scheduler.cancel(name)
    assert scheduler.status(name).state == "CANCELLED"


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SchedulerError, match="cannot run sbatch") as error:
        scheduler.submit(batch(tmp_path, "true"))

    assert "clients on PATH" in error.value.hint


def test_a_job_that_nobody_remembers_is_not_called_good(slurm: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_FORGOTTEN_SECONDS", 0.5)

    assert scheduler.status("98765").state == scheduler.UNKNOWN
    with pytest.raises(SchedulerError, match="nobody knows how job 98765 ended"):
        scheduler.wait("98765", limit=5, tick=str)


WAITING = """
import sys
from pathlib import Path
from envbuilder import scheduler
with scheduler.submitted(Path(sys.argv[1])) as name:
    print(name, flush=True)
    scheduler.wait(name, limit=180, tick=lambda words: print(words, flush=True))
"""


def waiting(slurm: Small, script: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WAITING, str(script)],
        env=slurm.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("options", [(), ("--begin=now+1hour",)])
def test_an_interrupt_leaves_no_job_behind(slurm: Small, tmp_path: Path, options: tuple[str, ...]) -> None:
    process = waiting(slurm, batch(tmp_path, "sleep 180", *options))
    assert process.stdout
    wanted = "pending" if options else "running"
    assert any(wanted in line for line in process.stdout)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert "KeyboardInterrupt" in said
    slurm.until(lambda: not slurm.queue(), "an empty queue", seconds=30)


def test_an_interrupt_in_the_middle_of_the_submission_leaves_no_job_behind(slurm: Small, tmp_path: Path) -> None:
    with stopped(slurm):
        process = waiting(slurm, batch(tmp_path, "sleep 180"))
        # sbatch has sent its request, and hangs for the answer
        slurm.until(lambda: bool(children(process.pid, "sbatch")), "sbatch")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, said = process.communicate(timeout=60)

    assert "KeyboardInterrupt" in said
    slurm.until(lambda: not slurm.queue(), "an empty queue", seconds=30)


def children(pid: int, name: str) -> list[str]:
    found = []
    for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [each] if name in Path(f"/proc/{each}/cmdline").read_text().split("\0")[0] else []
    return found


class stopped:  # noqa: N801 - a context manager that reads like one
    """The controller stands still for a while: it takes connections and answers none."""

    def __init__(self, slurm: Small) -> None:
        self.controller = slurm.running["slurmctld"]

    def __enter__(self) -> None:
        self.controller.send_signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self.controller.send_signal(signal.SIGCONT)


def test_a_job_whose_number_was_lost_is_found_again(slurm: Small, tmp_path: Path) -> None:
    """Sbatch gives up after Slurm's own time-out, though the controller takes the job later: without a mark, an orphan."""
    with stopped(slurm):
        threading.Timer(4, slurm.running["slurmctld"].send_signal, [signal.SIGCONT]).start()
        name = scheduler.submit(batch(tmp_path, "echo once"))

    assert scheduler.wait(name, limit=120, tick=str).good
    assert len(list(tmp_path.glob("*.out"))) == 1


def test_a_controller_that_is_away_for_a_while_loses_nothing(
    slurm: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "CLIENT_SECONDS", 0.7)
    said: list[str] = []

    def away(words: str) -> None:
        said.append(words)
        if "running" in words and "does not answer" not in " ".join(said):
            slurm.running["slurmctld"].send_signal(signal.SIGSTOP)
        if len([each for each in said if "does not answer" in each]) == 2:
            slurm.running["slurmctld"].send_signal(signal.SIGCONT)

    name = scheduler.submit(batch(tmp_path, "sleep 2"))
    try:
        end = scheduler.wait(name, limit=120, tick=away)
    finally:
        slurm.running["slurmctld"].send_signal(signal.SIGCONT)

    assert end.good
    assert f"job {name}: Slurm does not answer, 1 s" in said


def test_patience_ends_with_the_jobs_name_and_the_job_goes_on(
    slurm: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "CLIENT_SECONDS", 0.5)
    name = scheduler.submit(batch(tmp_path, "sleep 3"))

    with stopped(slurm), pytest.raises(ControllerGone, match=f"job {name} may still be running") as error:
        scheduler.wait(name, limit=120, tick=str, patience=1)

    assert f"scancel {name}" in error.value.hint
    assert scheduler.wait(name, limit=120, tick=str).good


def test_a_job_that_cannot_be_cancelled_is_named(slurm: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CLIENT_SECONDS", 0.5)
    monkeypatch.setattr(scheduler, "CANCEL_SECONDS", 0.1)

    with (
        pytest.raises(SchedulerError, match=r"KeyboardInterrupt; and job [0-9]+ could not be cancelled") as error,
        ExitStack() as still,
        scheduler.submitted(batch(tmp_path, "sleep 1")) as name,
    ):
        still.enter_context(stopped(slurm))
        raise KeyboardInterrupt

    assert error.value.hint == f"later: scancel {name}"
    assert error.value.__cause__.__class__ is KeyboardInterrupt
    scheduler.cancel(name)


def test_a_controller_that_is_gone_takes_no_job(tmp_path: Path, slurm: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "slurm.conf"
    text = (slurm.folder / "slurm.conf").read_text()
    conf.write_text(
        "\n".join("SlurmctldPort=9" if line.startswith("SlurmctldPort") else line for line in text.splitlines())
    )
    monkeypatch.setenv("SLURM_CONF", str(conf))

    with pytest.raises(SchedulerError, match="Unable to contact slurm controller") as error:
        scheduler.submit(batch(tmp_path, "true"))

    assert "nothing was submitted" in error.value.hint


@pytest.mark.parametrize("requeue", [False, True])
def test_a_node_that_dies_ends_the_job_or_begins_it_anew(slurm: Small, tmp_path: Path, *, requeue: bool) -> None:
    script = batch(tmp_path, "sleep 180", "--nodes=2", "--requeue" if requeue else "--no-requeue")
    said: list[str] = []

    def dying(words: str) -> None:
        said.append(words)
        if "running" in words and "n2" in slurm.running:
            slurm.kill("n2")
            slurm.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")

    name = scheduler.submit(script)
    try:
        if requeue:
            with pytest.raises(SchedulerError, match="still pending"):
                scheduler.wait(name, limit=1, tick=dying)
            assert any(words.startswith(f"job {name} requeued, pending: ") for words in said)
            assert scheduler.status(name).restarts == 1
        else:
            end = scheduler.wait(name, limit=120, tick=dying)
            assert (end.state, end.good) == ("NODE_FAIL", False)
            assert f"job {name} node fail after" in str(end)
    finally:
        if "n2" not in slurm.running:
            slurm.start_node("n2")
        slurm.ask("scontrol", "update", "nodename=n2", "state=resume")


SITE = """
schema: 1
name: small
summary: the Slurm of these tests
default_partition: gpu
modules: {system: none}
scheduler: {kind: slurm, export: none, required: [time]}
partitions:
  gpu:
    cpu: {cores: 8}
    gpu: {vendor: amd, count: 4}
    scheduler: {partition: gpu, gpus: total}
    launch: {launcher: srun, env: {MINE: "it's $HOME"}}
"""


def test_a_whole_script_runs_and_its_steps_have_what_they_ask_for(slurm: Small, tmp_path: Path) -> None:
    """Slurm reads what `job` writes: a quoted output; ranks that have the job's variables; a step smaller than its job."""
    one = site.parse(SITE, "small.yaml")
    part = one.partition("gpu")
    folder = tmp_path / "it's a # folder"
    folder.mkdir()
    whole = job.shape_for(part, nodes=2, ranks=4, minutes=5)
    less = job.shape_for(part, nodes=1, ranks=1, minutes=5, cpus_per_rank=4)
    rank = ["bash", "-c", "'echo \"$SLURM_NTASKS $SLURM_CPUS_PER_TASK $MINE\"'"]
    said = job.directives(one, part, whole, job.Billing(), name="of the test", output=f"{folder}/%j.out")
    body = [" ".join([*job.srun(one, part, each), *rank]) for each in (whole, less)]
    body += ['echo "$SRUN_CPUS_PER_TASK $SLURM_JOB_NAME"']
    script = tmp_path / "whole.sh"
    script.write_text(job.script(one, part, said, body))

    end = ended(script)

    output = (folder / f"{end.job}.out").read_text()
    assert end.good, output
    assert [line for line in output.splitlines() if "srun:" not in line] == [
        *["4 4 it's $HOME"] * 4,
        "1 4 it's $HOME",
        "4 of the test",
    ]


def test_inside_a_job_there_is_an_allocation(slurm: Small, tmp_path: Path) -> None:
    code = "import os; from envbuilder import scheduler; print(scheduler.allocation(os.environ))"

    end = ended(batch(tmp_path, f"cd {TESTS.parent} && {sys.executable} -c '{code}'", "--nodes=2"))

    expected = Allocation(job=end.job, partition="gpu", nodes=2, nodelist="n[1-2]", cluster="small", node="n1")
    assert (tmp_path / f"{end.job}.out").read_text().strip() == str(expected)


def test_outside_of_a_job_there_is_none() -> None:
    assert scheduler.allocation({"SLURM_CONF": "x"}) is None
    assert scheduler.allocation({"SLURM_JOB_ID": "1"}) == Allocation(job="1", partition="", nodes=0)


@pytest.mark.parametrize(
    ("clock", "seconds"), [("0:05", 5), ("1:02:03", 3723), ("2-01:00:00", 176400), ("INVALID", 0), ("", 0), ("7", 7)]
)
def test_clocks(clock: str, seconds: float) -> None:
    assert scheduler._seconds(clock) == seconds


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("BadConstraints", True), ("DependencyNeverSatisfied", True), ("QOSMaxNodePerJobLimit", True),
        ("AssocMaxWallDurationPerJobLimit", True), ("QOSMaxGRESPerNode", True), ("QOSMinGRES", True), ("InvalidQOS", True),
        ("Priority", False), ("Resources", False), ("BeginTime", False), ("QOSMaxNodePerUserLimit", False),
        ("QOSMaxJobsPerUserLimit", False), ("AssocGrpNodeLimit", False), ("PartitionNodeLimit", False),
        ("JobHeldUser", False), ("ReqNodeNotAvail", False), ("Dependency", False), ("None", False),
    ],
)  # fmt: skip
def test_which_reasons_no_waiting_mends(reason: str, hopeless: bool) -> None:
    assert (scheduler._HOPELESS.fullmatch(reason) is not None) is hopeless


# With accounts and qualities of service: the testbed, which is shared, so nothing is broken here.


@pytest.fixture(scope="module")
def bed() -> Any:
    if not (TESTS / "testbed/machine.py").is_file():
        pytest.skip("there is no testbed beside these tests")
    from testbed import machine

    lacking = machine.missing()
    if lacking:
        pytest.skip(f"the testbed needs {' '.join(lacking)}")
    return machine.up()


@pytest.fixture
def archer(bed: Any, monkeypatch: pytest.MonkeyPatch) -> site.Site:
    monkeypatch.setenv("SLURM_CONF", str(bed.slurm_conf))
    return site.parse((TESTS.parent / "sites/archer2.yaml").read_text(), "archer2.yaml")


@pytest.mark.parametrize(
    ("option", "words", "remedy"),
    [
        ("--qos=nosuch", "Invalid qos specification", "--qos"),
        ("--account=nosuch", "Invalid account or account/partition combination specified", "--account"),
        ("--nodes=3", "Node count specification invalid", "fewer nodes"),
        ("--time=120:00:00", "Requested time limit is invalid", "less time"),
    ],
)
def test_what_the_books_refuse(archer: site.Site, tmp_path: Path, option: str, words: str, remedy: str) -> None:
    good = ("--account=z19", "--qos=standard", "--partition=standard", "--time=1")

    with pytest.raises(SchedulerError, match=words) as error:
        scheduler.submit(batch(tmp_path, "true", *good, option))

    assert remedy in error.value.hint


def test_a_job_in_the_words_of_a_shipped_site_is_taken_and_accounted_for(archer: site.Site, bed: Any) -> None:
    part = archer.partition("gpu-rocm5")
    shape = job.shape_for(part, nodes=2, ranks=8, minutes=5)
    folder = bed.work / f"scheduler-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    said = job.directives(archer, part, shape, job.Billing(account="z19"), name="t", output=f"{folder}/%j.out")
    body = [f"{' '.join(job.srun(archer, part, shape))} bash -c 'echo \"$SLURM_NTASKS $CRAY_MPICH_DIR\"'", "exit 5"]
    script = folder / "job.sh"
    script.write_text(job.script(archer, part, said, body))
    try:
        end = ended(script, limit=60)

        output = (folder / f"{end.job}.out").read_text()
        assert (end.state, end.code, end.nodes) == ("FAILED", 5, "nid[200001-200002]"), output
        lines = output.splitlines()[-8:]
        assert len(set(lines)) == 1
        assert lines[0].startswith("8 /")
        number, cluster = scheduler._parts(end.job)
        # the books are written a little later
        for _ in range(50):
            recorded = scheduler._recorded(end.job, number, cluster)
            if recorded.nodes == end.nodes:
                break
            time.sleep(0.2)
        assert (recorded.state, recorded.code, recorded.nodes) == (end.state, end.code, end.nodes)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("system", ["lmod", "tcl"])
def test_a_module_that_is_not_there_ends_the_script_with_either_module_system(
    bed: Any, tmp_path: Path, system: str
) -> None:
    init = {"lmod": Path("/usr/share/lmod/lmod/init/bash"), "tcl": bed.tcl_init}[system]
    one = site.parse(SITE.replace("{system: none}", f"{{system: {system}, init: {init}}}"), "small.yaml")
    for name, version in (("good", "1.0"), ("other", "2.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / version).write_text("#%Module\nsetenv MADE_BY modules\n")
    part = replace(one.partition("gpu"), module_paths=(str(tmp_path),), modules=("good", "other/2.0"))
    start = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def ran(modules: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        text = job.script(one, replace(part, modules=modules), [], ['echo "$MADE_BY"'])
        return subprocess.run(["bash", "-c", text], env=start, capture_output=True, text=True, check=False, timeout=60)

    good, bad = ran(("good", "other/2.0")), ran(("good", "nosuch/1"))

    assert (good.returncode, good.stdout) == (0, "modules\n"), good.stderr
    assert (bad.returncode, bad.stdout) == (job.NOT_PREPARED, "")
    assert "envbuilder: the module nosuch/1 cannot be loaded" in bad.stderr
