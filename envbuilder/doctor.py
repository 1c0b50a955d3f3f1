"""Does a site file tell the truth about the machine that one is on? Field by field, with what was found and how.

Pure: the file (`Site`) and what the machine showed (`survey`) on one side, rows on the other. A field that the file does not
state has no row. What cannot be seen from where one is does not pass: it was not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase

from envbuilder import doctor_places, doctor_stack
from envbuilder.doctor_places import Places
from envbuilder.doctor_stack import Row, failed, judged, not_run
from envbuilder.errors import FINE, NOT_VERIFIED, SAID_NO
from envbuilder.partition import Partition
from envbuilder.site import Site
from envbuilder.survey import Batch, Nodes, Stack, Survey

_SOON_DAYS = 60
_MEMORY = (0.85, 1.02)


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """What the paths of the site are here: expanded, and why they cannot be used ("" where they can)."""

    root: str = ""
    root_why: str = ""
    caches: str = ""
    caches_why: str = ""
    home: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Everything that was looked at.

    `stacks` are those of the partitions that were looked into, `mirrors` maps each local address to why it does not answer
    ("" where it does), `init_there` says whether the script of `modules.init` is there, `places` what of images and of
    installed packages is.
    """

    survey: Survey
    stacks: Mapping[str, Stack]
    folders: Folders = field(default_factory=Folders)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    init_there: bool = True
    places: Places = field(default_factory=Places)


def judge(site: Site, found: Findings, today: date) -> tuple[Row, ...]:
    """A row for each field that the file states; those of the partitions that were looked into, and why the others were not."""
    rows = [*_site(site, found, today), *_scheduler(site, found)]
    rows += doctor_places.container(site.container, site.partitions, found.stacks, found.places)
    for name, partition in site.partitions.items():
        if name in found.stacks:
            rows += _partition(site, name, partition, found, today)
        elif not partition.current(today.isoformat()):
            why = "kept for the record; name it with --partition to look into it"
            rows.append(not_run((name, "valid"), _span(partition), why))
    return tuple(rows)


def exit_code(rows: tuple[Row, ...]) -> int:
    """0 if all passed, 1 if one failed, 4 if none failed but one could not be looked at."""
    states = {row.status for row in rows}
    if "fail" in states:
        return SAID_NO
    return FINE if states == {"pass"} else NOT_VERIFIED


def _site(site: Site, found: Findings, today: date) -> Iterator[Row]:
    survey = found.survey
    here = {"hostname": survey.hostname, "domain": survey.domain, "cluster": survey.batch.cluster}
    for key, pattern in site.detect.items():
        name, value = f"detect.{key}", here[key]
        if not value:
            yield not_run(("", name), pattern, survey.batch.why if key == "cluster" else f"this machine has no {key}")
        elif key == "hostname" and survey.allocation and not fnmatchcase(value, pattern):
            yield not_run(("", name), pattern, f"it is {value}, a node of a job; the pattern is for login nodes")
        else:
            yield judged(("", name), pattern, fnmatchcase(value, pattern), value, _HOW[key])
    if site.valid_from or site.valid_until:
        good = (site.valid_from or "") <= today.isoformat() <= (site.valid_until or "9999")
        yield judged(("", "valid"), _span(site), good, _days(site, today), "today's date")
    yield from _modules(site, found)
    yield from _paths(site, found)
    for address, why in found.mirrors.items():
        upstream = next((key for key, value in site.mirrors.items() if value == address), "")
        yield judged(("", f"mirrors.{upstream}"), address, not why, why or "it answers", "a request")


_HOW = {"hostname": "uname", "domain": "the full name of this host", "cluster": "scontrol show config"}


def _span(of: Site | Partition) -> str:
    return f"{of.valid_from or '...'} to {of.valid_until or '...'}"


def _days(of: Site | Partition, today: date) -> str:
    if not of.valid_until:
        return f"today is {today}"
    left = (date.fromisoformat(of.valid_until) - today).days
    return f"today is {today}, {left} days left" if 0 <= left <= _SOON_DAYS else f"today is {today}"


def _modules(site: Site, found: Findings) -> Iterator[Row]:
    shell, says = found.survey.shell, str(site.modules.system)
    there = f"{shell.system} {shell.version}".strip()
    if says == "none":
        note = there if shell.system == "none" else f"{there} is there and not used"
        yield judged(("", "modules.system"), says, good=True, found=note, how=shell.how)
    else:
        yield judged(("", "modules.system"), says, shell.system == says, there, shell.how)
    if site.modules.init:
        said = "it is there" if found.init_there else "there is no such file"
        yield judged(("", "modules.init"), str(site.modules.init), found.init_there, said, "a look")


def _paths(site: Site, found: Findings) -> Iterator[Row]:
    folders, paths = found.folders, site.paths
    for name, says, path, why in (
        ("paths.root", paths.root, folders.root, folders.root_why),
        ("paths.caches", paths.caches, folders.caches, folders.caches_why),
    ):
        if says:
            said = why or f"{path}, writable"
            yield judged(("", name), str(says), not why, said, "the nearest folder that exists; nothing was created")
    if site.scheduler.kind != "none":
        says = "yes" if paths.home_on_compute else "no"
        if not found.survey.allocation:
            why = "only a job sees what its nodes have; run this in one"
            yield not_run(("", "paths.home_on_compute"), says, why)
        else:
            said = "HOME is there" if folders.home else "HOME is not there"
            yield judged(
                ("", "paths.home_on_compute"), says, folders.home == paths.home_on_compute, said, "in this job"
            )


def _scheduler(site: Site, found: Findings) -> Iterator[Row]:
    batch = found.survey.batch
    if site.scheduler.kind == "none":
        return
    reached = f"{len(batch.partitions)} partitions of {batch.cluster or 'a cluster without a name'}"
    yield judged(("", "scheduler.kind"), str(site.scheduler.kind), not batch.why, batch.why or reached, "sinfo")
    if batch.why:
        return
    for name, qos in site.scheduler.qos.items():
        yield _qos(str(name), qos.max_minutes, qos.max_nodes, batch)
        for one in qos.partitions:
            if one not in batch.partitions:
                yield failed(("", f"scheduler.qos.{name}.partitions"), one, _known(batch.partitions), "sinfo")
    if site.scheduler.required:
        says = ", ".join(site.scheduler.required)
        enforced = f"AccountingStorageEnforce is {batch.enforced or 'unknown'}"
        why = f"only a submission shows what a job must say; {enforced}"
        yield not_run(("", "scheduler.required"), says, why)


def _qos(name: str, minutes: int, nodes: int, batch: Batch) -> Row:
    says = ", ".join(
        text for text in (f"{minutes} min" if minutes else "", f"{nodes} nodes" if nodes else "") if text
    ) or "there is one"  # fmt: skip
    where = f"scheduler.qos.{name}"
    if batch.qos_why:
        return not_run(("", where), says, f"the accounting does not answer: {batch.qos_why}")
    if name not in batch.qos:
        return failed(("", where), says, _known(batch.qos), "sacctmgr show qos")
    real = batch.qos[name]
    longer = [
        f"at most {limit} {unit}"
        for said, limit, unit in ((minutes, real.max_minutes, "min"), (nodes, real.max_nodes, "nodes"))
        if limit and said > limit
    ]
    told = f"{real.max_minutes or 'no limit of'} min, {real.max_nodes or 'no limit of'} nodes"
    return judged(("", where), says, not longer, ", ".join(longer) or told, "sacctmgr show qos")


def _known(names: Mapping[str, object]) -> str:
    return f"there is none of that name; there are {', '.join(sorted(names)) or 'none'}"


def _partition(site: Site, name: str, partition: Partition, found: Findings, today: date) -> Iterator[Row]:
    if partition.valid_from or partition.valid_until:
        good = partition.current(today.isoformat())
        yield judged((name, "valid"), _span(partition), good, _days(partition, today), "today's date")
    batch = found.survey.batch
    if site.scheduler.kind != "none" and partition.scheduler.partition:
        wanted = str(partition.scheduler.partition)
        nodes = batch.partitions.get(wanted)
        if batch.why:
            yield not_run((name, "scheduler.partition"), wanted, batch.why)
        elif nodes is None:
            yield failed((name, "scheduler.partition"), wanted, _known(batch.partitions), "sinfo")
        else:
            yield judged((name, "scheduler.partition"), wanted, good=True, found=f"{nodes.count} nodes", how="sinfo")
            yield from _nodes(name, partition, nodes)
    if partition.launch.launcher == "srun":
        plugins = ", ".join(batch.mpi)
        if plugins:
            yield judged((name, "launch"), "srun", good=True, found=f"MPI by {plugins}", how="srun --mpi=list")
        else:
            yield failed((name, "launch"), "srun", batch.why or "srun names no way to start MPI", "srun --mpi=list")
    there = site.scheduler.kind != "slurm" or found.survey.allocation == partition.scheduler.partition
    yield from doctor_stack.rows(name, partition, found.stacks[name], on_its_nodes=there)
    excused = doctor_stack.excused(partition, on_its_nodes=there)
    yield from doctor_places.externals(name, partition, found.places, excused=excused)


def _nodes(name: str, partition: Partition, nodes: Nodes) -> Iterator[Row]:
    """The hardware as the batch system is configured: what a job can ask for."""
    wanted = str(partition.scheduler.constraint)
    if wanted:
        unknown = [one for one in re.split(r"[&|*]", wanted) if one and not one.isdigit() and one not in nodes.features]
        known = ", ".join(sorted(nodes.features)) or "none"
        yield judged((name, "scheduler.constraint"), wanted, not unknown, f"features are {known}", "sinfo")
    cpu, gpu = partition.cpu, partition.gpu
    if cpu.cores:
        told = f"{_list(nodes.cores)} cores, {_list(nodes.cpus)} CPUs of Slurm"
        yield judged((name, "cpu.cores"), str(cpu.cores), cpu.cores in nodes.cores | nodes.cpus, told, "sinfo")
    if cpu.memory_gib:
        sizes = [size / 1024 / cpu.memory_gib for size in nodes.memory]
        good = any(_MEMORY[0] <= one <= _MEMORY[1] for one in sizes)
        told = f"{_list(nodes.memory)} MiB for jobs"
        yield judged((name, "cpu.memory_gib"), str(cpu.memory_gib), good, told, "sinfo")
    if gpu.vendor != "none" and gpu.count:
        good = gpu.count in nodes.gpus()
        told = f"{_list(nodes.gpus())} ({', '.join(sorted(nodes.gres)) or 'no gres'})"
        yield judged((name, "gpu.count"), str(gpu.count), good, told, "sinfo")


def _list(numbers: frozenset[int]) -> str:
    return "/".join(map(str, sorted(numbers))) or "unknown"
