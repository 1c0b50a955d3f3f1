"""Jobs of Slurm: submit one, look at it, wait for its end, cancel it; and the allocation that we are in.

Two things are certain here. A job is never left behind unnoticed: who leaves by an error or Ctrl-C takes it along, even
when that comes in the middle of the submission. And a controller that does not answer for a while loses nothing: clients
would wait for it without an end, so each has a time-out, and the question is asked again.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from envbuilder import process
from envbuilder.errors import EnvbuilderError, HostError, VerifyError
from envbuilder.process import Command, EnvPatch, Finished

CLIENT_SECONDS = 10.0
SUBMIT_SECONDS = 60.0
CANCEL_SECONDS = 30.0
PATIENCE_SECONDS = 1800.0
_FORGOTTEN_SECONDS = 20.0
_STANDS_SECONDS = 3.0
_PAUSES = (0.2, 2.0)

# How a job can end (squeue(1), "Job state codes").
# fmt: off
ENDS = frozenset({
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED"
})
_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
# fmt: on
UNKNOWN, _SILENT = "UNKNOWN", "SILENT"

# Reasons that no waiting mends, as documented in https://slurm.schedmd.com/job_reason_codes.html: those of which it says
# "never", and those by which the request itself is not allowed or is beyond what any one job may have. Not among them:
# limits per user or group, which other jobs use up; a partition or reservation that may come back; PartitionNodeLimit,
# which is also said of nodes that are down; holds, which a person releases.
_HOPELESS = re.compile(
    r"BadConstraints|DependencyNeverSatisfied|DeadLine|AccountNotAllowed|InvalidAccount|InvalidQOS|QOSNotAllowed"
    r"|ReservationDeleted|PartitionTimeLimit|MaxMemPerLimit|(QOS|Assoc)Max\w+Per(Job(Limit)?|Node)|QOSMin\w+"
)
_REMEDIES = {
    "Invalid qos specification": "choose another with --qos; `sacctmgr show assoc user=$USER format=account,qos` lists yours",
    "Invalid account or": "give one of yours with --account; `sacctmgr show assoc user=$USER format=account` lists them",
    "Node count specification invalid": "ask for fewer nodes; `sinfo` shows how many each partition has",
    "Requested time limit is invalid": "ask for less time; `scontrol show partition` shows the longest",
    "Requested node configuration": "no node there has so many cores, GPUs or memory; see `sinfo -o '%P %D %c %m %G'`",
    "Invalid partition name": "mend `scheduler: {partition: ...}` in the site file; `sinfo -s` lists the partitions",
    "Invalid feature specification": "mend `scheduler: {constraint: ...}` in the site file; `sinfo -o '%P %f'` lists them",
    "Unable to contact slurm controller": "nothing was submitted; try again when Slurm is back",
}  # fmt: skip
# An answer that was lost says nothing about whether the job was taken.
_LOST = re.compile(r"timed out|receive failure|send failure|shutdown failure|Zero Bytes", re.IGNORECASE)
_OURS = "envbuilder"


class SchedulerError(VerifyError):
    """Slurm refused a job, or cannot say how it ended; the message has Slurm's own words."""


class ControllerGone(SchedulerError):
    """Slurm's controller, or its accounting, does not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """A job as Slurm sees it: state and reason in its own words, its nodes as a list such as `nid[001001-001002]`.

    `code` and `signal` are those of the batch script, once it has ended; `seconds` is how long it ran, `restarts` how often
    Slurm has begun it anew. The state is `UNKNOWN` for a job that Slurm has no record of.
    """

    job: str
    state: str
    reason: str = ""
    nodes: str = ""
    code: int = 0
    signal: int = 0
    seconds: float = 0.0
    restarts: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDS


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEnd(JobStatus):
    """The last status of a job."""

    @property
    def good(self) -> bool:
        """Whether it ran to its end and its script returned 0."""
        return self.state == "COMPLETED" and not self.code and not self.signal

    def __str__(self) -> str:
        how = self.state.lower().replace("_", " ")
        if self.signal and self.state == "FAILED":
            how = f"was killed by signal {self.signal}"
        elif self.state == "FAILED":
            how = f"failed with exit code {self.code}" if self.code else f"failed: {self.reason or 'no reason given'}"
        again = f", begun {self.restarts + 1} times" if self.restarts else ""
        return f"job {self.job} {how} after {self.seconds:.0f} s{f' on {self.nodes}' if self.nodes else ''}{again}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The job that we are in; `node` is the node that we are on, empty on a login node that only holds the allocation."""

    job: str
    partition: str
    nodes: int
    nodelist: str = ""
    cluster: str = ""
    node: str = ""


def allocation(env: Mapping[str, str]) -> Allocation | None:
    """The allocation that an environment belongs to, or None outside of any (sbatch(1), "Output environment variables")."""
    job = env.get("SLURM_JOB_ID", "")
    if not job:
        return None
    count = env.get("SLURM_JOB_NUM_NODES", "")
    return Allocation(
        job=job, partition=env.get("SLURM_JOB_PARTITION", ""), nodes=int(count) if count.isdecimal() else 0,
        nodelist=env.get("SLURM_JOB_NODELIST", ""), cluster=env.get("SLURM_CLUSTER_NAME", ""),
        node=env.get("SLURMD_NODENAME", ""),
    )  # fmt: skip


def submit(script: Path, *, env: EnvPatch | None = None) -> str:
    """Submit a batch script and return the job: its number, with `;cluster` where Slurm names one.

    The script says everything: SBATCH_* variables, which would silently win over its lines, are taken out of the
    environment (`env` is a patch on what is left). The job starts in the script's folder. Raises `SchedulerError` with
    Slurm's reason, and `ControllerGone` when it is not known whether the job was taken.
    """
    path = script.resolve()
    # the only way to find a job whose number was lost on its way to us
    mark = "" if "--comment" in path.read_text(encoding="utf-8") else f"{_OURS}-{uuid.uuid4().hex}"
    argv = ("sbatch", "--parsable", *((f"--comment={mark}",) if mark else ()), str(path))
    command = Command(argv=argv, env={**_without("SBATCH_"), **(env or {})}, cwd=path.parent)
    try:
        done = _run(command, SUBMIT_SECONDS)
    except KeyboardInterrupt:
        job = _marked(mark)
        if job:
            cancel(job)
        raise
    found = re.findall(r"^[0-9]+(?:;\S+)?$", done.output, re.MULTILINE)
    if done.code == 0 and found:
        return str(found[-1])
    lost = done.code == 0 or done.timed_out or _LOST.search(done.output)
    job = _marked(mark) if lost else ""
    if not job:
        said = _said(done.output)
        hint = next((remedy for words, remedy in _REMEDIES.items() if words in said), "")
        raise SchedulerError(f"Slurm did not take the job: {said}", hint=hint)
    return job


def status(job: str) -> JobStatus:
    """A job as it is now: from the queue, after that from the controller's memory, after that from the accounting.

    Raises `ControllerGone` when there is no answer within `CLIENT_SECONDS`.
    """
    number, cluster = _parts(job)
    shown = f"--format={_OURS}|%i|%T|%M|%N|%r"
    for line in _asked("squeue", *cluster, "--noheader", "--states=all", f"--jobs={number}", shown).splitlines():
        ours, _, rest = line.strip().partition("|")
        fields = rest.split("|", 4)
        if ours == _OURS and len(fields) == 5 and fields[0] == number and fields[1] not in ENDS:
            return JobStatus(job=job, state=fields[1], reason=fields[4], nodes=fields[3], seconds=_seconds(fields[2]))
    remembered = _asked("scontrol", *cluster, "--oneliner", "show", "job", number)
    if f"JobId={number} " in remembered:
        return _remembered(job, remembered)
    return _recorded(job, number, cluster)


def wait(job: str, *, limit: float, tick: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> JobEnd:
    """Wait for the end of a job, however long it runs; it may be pending for `limit` seconds in all.

    `tick` is told at every look what the job does. A job that is pending for too long, or for a reason that waiting does
    not mend, is cancelled and reported as a `SchedulerError`. While the controller does not answer nothing is given up;
    after `patience` seconds of that, `ControllerGone` names the job, which goes on.
    """
    spent: dict[str, float] = defaultdict(float)
    pause, last, before, ran = _PAUSES[0], time.monotonic(), "", False
    while True:
        now = _look(job)
        if now.ended:
            return JobEnd(**{name: getattr(now, name) for name in JobStatus.__slots__})
        kind, moment = _kind(now), time.monotonic()
        spent[kind] = moment - last + (spent[kind] if kind in {before, "pending"} else 0.0)
        ran = ran or kind == "running"
        tick(_words(now, spent[kind], again=ran))
        _give_up_on_silence(now, spent[kind], patience)
        _give_up_on_pending(now, spent, limit)
        pause = min(_PAUSES[1], pause * 1.4) if kind == before else _PAUSES[0]
        last, before = moment, kind
        time.sleep(pause)


def cancel(job: str) -> None:
    """Cancel a job; one that has ended is left as it is. Raises `SchedulerError` when Slurm did not take it."""
    number, cluster = _parts(job)
    deadline = time.monotonic() + CANCEL_SECONDS
    while True:
        try:
            _asked("scancel", *cluster, number)
        except ControllerGone as error:
            if time.monotonic() > deadline:
                why = f"job {job} could not be cancelled: {error.message}"
                raise SchedulerError(why, hint=f"later: scancel {number}") from error
            time.sleep(_PAUSES[1])
        else:
            return


@contextmanager
def submitted(script: Path, *, env: EnvPatch | None = None) -> Iterator[str]:
    """A submitted job for the time of a block: left by an exception or Ctrl-C, the block takes its job along.

    Raises what `submit` raises, and `SchedulerError` instead of the exception when the job could not be cancelled.
    """
    job = submit(script, env=env)
    try:
        yield job
    except BaseException as error:
        try:
            cancel(job)
        except SchedulerError as failed:
            why = error.message if isinstance(error, EnvbuilderError) else type(error).__name__
            raise SchedulerError(f"{why}; and {failed.message}", hint=failed.hint) from error
        raise


def _run(command: Command, seconds: float) -> Finished:
    try:
        return process.capture(command, timeout=seconds)
    except HostError as error:
        raise SchedulerError(
            error.message, hint="is this a machine with Slurm, and are its clients on PATH?"
        ) from error


def _asked(*argv: str) -> str:
    """What a client of Slurm says, without what a user's own settings would filter; nothing of a job that is not known."""
    command = Command(argv=argv, env=_without("SQUEUE_", "SCANCEL_", "SACCT_", "SLURM_TIME_FORMAT"))
    done = _run(command, CLIENT_SECONDS)
    if done.code == 0:
        return done.output
    if "Invalid job id" in done.output or "accounting storage is disabled" in done.output:
        return ""
    said = "no answer" if done.timed_out else _said(done.output)
    raise ControllerGone(f"{argv[0]} failed: {said}", hint="is Slurm up, and is this one of its machines?")


def _without(*prefixes: str) -> dict[str, str | None]:
    return {name: None for name in os.environ if name.startswith(prefixes)}


def _parts(job: str) -> tuple[str, tuple[str, ...]]:
    """The number of a job, and the option that names its cluster where it has one."""
    number, _, cluster = job.partition(";")
    return number, ((f"--clusters={cluster}",) if cluster else ())


def _seconds(clock: str) -> float:
    """`[days-][[hours:]minutes:]seconds` as seconds; 0 for what is none."""
    days, _, rest = clock.rpartition("-")
    if not re.fullmatch(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}", clock):
        return 0.0
    total = 0
    for part in rest.split(":"):
        total = total * 60 + int(part)
    return float(total + 86400 * int(days or 0))


def _remembered(job: str, line: str) -> JobStatus:
    fields = dict(re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S*)", line))
    code, signal = _exit(fields.get("ExitCode", ""))
    return JobStatus(
        job=job, state=fields.get("JobState", UNKNOWN), reason=fields.get("Reason", ""),
        nodes=fields.get("NodeList", "").replace("(null)", ""), code=code, signal=signal,
        seconds=_seconds(fields.get("RunTime", "")), restarts=int(fields.get("Restarts", "0")),
    )  # fmt: skip


def _recorded(job: str, number: str, cluster: tuple[str, ...]) -> JobStatus:
    wanted = "--format=JobIDRaw,State,ExitCode,ElapsedRaw,NodeList"
    said = _asked("sacct", *cluster, "--allocations", "--noheader", "--parsable2", f"--jobs={number}", wanted)
    for line in said.splitlines():
        fields = line.strip().split("|")
        # "CANCELLED by 1000"; a job that runs in the books alone has been lost
        if len(fields) == 5 and fields[0] == number and fields[1].split()[0] in ENDS:
            code, signal = _exit(fields[2])
            nodes = fields[4].replace("None assigned", "")
            return JobStatus(
                job=job, state=fields[1].split()[0], nodes=nodes, code=code, signal=signal, seconds=float(fields[3] or 0)
            )  # fmt: skip
    return JobStatus(job=job, state=UNKNOWN)


def _exit(text: str) -> tuple[int, int]:
    code, _, signal = text.partition(":")
    return int(code or 0), int(signal or 0)


def _look(job: str) -> JobStatus:
    try:
        return status(job)
    except ControllerGone as error:
        return JobStatus(job=job, state=_SILENT, reason=error.message)


def _kind(now: JobStatus) -> str:
    named = {UNKNOWN: "unknown", _SILENT: "silent"}
    return "pending" if now.state in _WAITING else named.get(now.state, "running")


def _words(now: JobStatus, elapsed: float, *, again: bool) -> str:
    if now.state == _SILENT:
        return f"job {now.job}: Slurm does not answer, {elapsed:.0f} s"
    if now.state == UNKNOWN:
        return f"job {now.job}: Slurm does not know it, {elapsed:.0f} s"
    if now.state in _WAITING:
        return f"job {now.job} {'requeued, ' if again else ''}pending: {now.reason}, {elapsed:.0f} s"
    return f"job {now.job} {now.state.lower()}{f' on {now.nodes}' if now.nodes else ''}, {now.seconds:.0f} s"


def _give_up_on_silence(now: JobStatus, elapsed: float, patience: float) -> None:
    number = _parts(now.job)[0]
    if now.state == _SILENT and elapsed > patience:
        raise ControllerGone(
            f"Slurm has not answered for {elapsed:.0f} s ({now.reason}); job {now.job} may still be running",
            hint=f"later: squeue --jobs={number}, or scancel {number}",
        )
    if now.state == UNKNOWN and elapsed > _FORGOTTEN_SECONDS:
        raise SchedulerError(
            f"nobody knows how job {now.job} ended: Slurm has forgotten it, and its accounting has no record",
            hint="look into the job's output",
        )


def _give_up_on_pending(now: JobStatus, spent: dict[str, float], limit: float) -> None:
    """Cancel a job that waits in vain; one that starts in that moment is let go on."""
    moment, reason = time.monotonic(), now.reason.partition(",")[0]
    hopeless = now.state in _WAITING and _HOPELESS.fullmatch(reason) is not None
    # the scheduler's first glance is sometimes wrong
    spent["hopeless since"] = (spent["hopeless since"] or moment) if hopeless else 0.0
    hopeless = hopeless and moment - spent["hopeless since"] >= _STANDS_SECONDS
    if now.state not in _WAITING or not (hopeless or spent["pending"] > limit):
        return
    number, cluster = _parts(now.job)
    with suppress(ControllerGone):
        _asked("scancel", *cluster, "--state=PENDING", number)
        if status(now.job).state != "CANCELLED":
            return
        why, hint = f"was still pending after {spent['pending']:.0f} s", "allow more time in the queue, or ask for less"
        if hopeless:
            why = "would never have started"
            hint = "the request breaks a rule of the partition, the QoS or the account: ask for less, or elsewhere"
        raise SchedulerError(f"job {now.job} {why} ({now.reason}) and was cancelled", hint=hint)


def _marked(mark: str) -> str:
    """The job that carries a mark, empty when the controller has answered and there is none."""
    deadline, answers = time.monotonic() + SUBMIT_SECONDS, 0
    while mark and answers < 3 and time.monotonic() < deadline:
        said = ""
        with suppress(ControllerGone):
            said = _asked("squeue", "--noheader", "--states=all", f"--user={os.geteuid()}", f"--format={_OURS}|%i|%k")
            answers += 1
        found = re.search(rf"^{_OURS}\|([0-9]+)\|{mark}\s*$", said, re.MULTILINE)
        if found:
            return found[1]
        time.sleep(_PAUSES[1] / 2)
    if answers:
        return ""
    raise ControllerGone(
        "sbatch got no answer: it is not known whether the job was submitted",
        hint=f"look for it with `squeue --me -o '%i %k'`{f', its comment is {mark}' if mark else ''}",
    )


def _said(output: str) -> str:
    """Slurm's own words on one line, without the names of its programs."""
    lines = (re.sub(r"^(s[a-z]+: )?(error: )?", "", line).strip() for line in output.splitlines())
    return "; ".join(line.removeprefix("Batch job submission failed: ") for line in lines if line) or "no reason given"
