"""A first site file for a machine, made from what it shows: what was seen is written, what was concluded is marked.

Pure text. A line ends in `# guess: why` where it is a conclusion, and begins with `# unknown:` where only a person or the
machine's documents can tell. What the file says besides was seen on the day that stands in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from envbuilder.recipe import NAME
from envbuilder.survey import Limits, Nodes, Survey
from envbuilder.target import Compiler, Mpi, Python

_SCRATCH = ("SCRATCH", "PSCRATCH", "SCRATCHDIR", "WORK", "WORKDIR", "PROJECT", "PROJECTDIR")
# microarchitecture levels of the x86-64 psABI, by flags that only they have
_LEVELS = (
    ("x86_64_v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    ("x86_64_v3", {"avx2", "bmi2", "fma", "movbe"}),
    ("x86_64_v2", {"sse4_2", "popcnt"}),
)
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Programs:
    """What the login shell's PATH leads to."""

    python: Python | None = None
    mpi: Mpi | None = None
    mpicc: str = ""
    compilers: Mapping[str, Compiler] = field(default_factory=dict)
    gpu_vendor: str = ""
    gpu_arch: str = ""
    runtime: str = ""


def render(name: str, survey: Survey, programs: Programs, today: date) -> str:
    """The text of the site file."""
    parts = (
        _head(name, survey, today),
        _detect(survey),
        _modules(survey),
        _scheduler(survey),
        _paths(survey),
        _container(programs),
        _partitions(survey, programs),
    )
    return "\n".join("\n".join(part) + "\n" for part in map(list, parts))


def _head(name: str, survey: Survey, today: date) -> Iterator[str]:
    kind = f"Slurm cluster {survey.batch.cluster}" if survey.batch.cluster else "machine"
    yield f"# Written by `envbuilder sites init` on {survey.hostname}, {today}. Check each guess, fill in what is unknown,"
    yield f"# then: envbuilder lint {name}.yaml && envbuilder sites doctor {name}"
    yield "schema: 1"
    yield f"name: {_text(name)}"
    yield f"summary: {_text(f'{name}, a {kind}')}  # guess: say what it is, where, and whose"
    yield f"valid_from: {_text(str(today))}"
    yield "# unknown: valid_until, until when these facts hold; the machine's announcements tell"
    yield "sources:"
    yield f"  seen: {{title: What the machine showed to envbuilder, date: {_text(str(today))}}}"


def _detect(survey: Survey) -> Iterator[str]:
    pattern = re.sub(r"\d+$", "[0-9]*", survey.hostname)
    why = (
        "the other login nodes are numbered likewise"
        if pattern != survey.hostname
        else "this login node is the only one"
    )
    yield "detect:"
    yield f"  hostname: {_text(pattern)}  # guess: {why}"
    if survey.batch.cluster:
        yield f"  cluster: {_text(survey.batch.cluster)}"
    if survey.domain:
        yield f"  domain: {_text(survey.domain)}"


def _modules(survey: Survey) -> Iterator[str]:
    shell = survey.shell
    yield f"modules:  # {shell.how}"
    yield f"  system: {shell.system}"
    if shell.system != "none":
        if shell.loaded:
            yield f"  # A login loads {', '.join(shell.loaded)}."
        yield "  # unknown: reset, forbidden; whether `module purge` or `module restore` break things here"
        yield "  source: [seen]"


def _container(programs: Programs) -> Iterator[str]:
    if programs.runtime:
        yield "container:"
        yield f"  runtime: {programs.runtime}"
        yield "  # unknown: what the host's MPI needs in images; `envbuilder sites trace-binds` derives it from a run"
        yield "  source: [seen]"


def _scheduler(survey: Survey) -> Iterator[str]:
    batch = survey.batch
    yield "scheduler:"
    if batch.why:
        yield f"  kind: none  # guess: {_comment(batch.why)}"
        return
    yield "  kind: slurm"
    enforced = set(batch.enforced.split(","))
    required = ["account"] if enforced & {"associations", "limits", "safe"} else []
    if required:
        yield f"  required: [account, partition, time]  # guess: AccountingStorageEnforce is {_comment(batch.enforced)}"
    else:
        yield "  # unknown: required, which of account, partition, qos, time a job must name"
    if survey.shell.system != "none":
        yield "  login_shell: true  # guess: a login shell has `module` wherever the login node has it"
    yield "  # unknown: export; jobs that inherit nothing (`none`) depend on nothing that a user has set"
    if batch.qos:
        yield "  # unknown: which QoS goes with which partition, and which of them are yours"
        if any(_KEY.fullmatch(name) for name in batch.qos):
            yield "  qos:"
        for name, limits in batch.qos.items():
            yield from _qos(name, limits)
    else:
        yield f"  # unknown: qos; {_comment(batch.qos_why)}"
    yield "  source: [seen]"


def _qos(name: str, limits: Limits) -> Iterator[str]:
    said = [
        f"{key}: {value}"
        for key, value in (("max_nodes", limits.max_nodes), ("max_minutes", limits.max_minutes))
        if 0 < value <= 1_000_000
    ]
    if _KEY.fullmatch(name):
        yield f"    {_text(name)}: {{{', '.join(said)}}}"
    else:
        yield f"    # unknown: the QoS {_comment(name)} has a name that cannot be written here"


def _paths(survey: Survey) -> Iterator[str]:
    env = survey.shell.env
    scratch = next((one for one in _SCRATCH if env.get(one, "").startswith("/")), "")
    yield "paths:"
    if scratch:
        yield f'  root: "${{{scratch}}}/envbuilder"  # guess: ${scratch} is large, kept, and seen by compute nodes'
        yield f'  caches: "${{{scratch}}}/envbuilder-caches"  # guess: as root'
    elif "/home/" in env.get("HOME", "") and not survey.batch.why:
        yield "  # unknown: root; a file system that compute nodes see, such as one that HOME has a twin on"
    else:
        yield "  # unknown: root, a file system that compute nodes see; without it $XDG_DATA_HOME is taken"
    yield "  # unknown: whether compute nodes have HOME (look in a job); true is taken"
    yield "  home_on_compute: true  # guess: most have"


def _partitions(survey: Survey, programs: Programs) -> Iterator[str]:
    found = {_name(name): (name, nodes) for name, nodes in survey.batch.partitions.items()}
    chosen = next((name for name, (_, nodes) in found.items() if nodes.default), next(iter(found), "host"))
    why = (
        ""
        if any(nodes.default for _, nodes in found.values()) or not found
        else "  # guess: the first; Slurm has no default"
    )
    yield f"default_partition: {chosen}{why}"
    yield "partitions:"
    if not found:
        yield from _partition("host", "", None, survey, programs)
    for name, (slurm, nodes) in found.items():
        yield from _partition(name, slurm, nodes, survey, programs)


def _name(text: str) -> str:
    """A name as the format has it."""
    lowered = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")
    return lowered if re.fullmatch(NAME, lowered) else "host"


def _partition(name: str, slurm: str, nodes: Nodes | None, survey: Survey, programs: Programs) -> Iterator[str]:
    yield f"  {_text(name)}:"
    count = f"{nodes.count} nodes, longest job {nodes.limit}" if nodes else "this machine"
    yield f"    summary: {_text(f'{slurm or name}: {count}')}"
    yield "    source: [seen]"
    yield from _cpu(nodes, survey)
    yield from _gpu(nodes, programs)
    mpi = programs.mpi is not None
    yield f"    features: [cpu{', mpi' if mpi or nodes is None else ''}]  # guess: what there is on the login node"
    if nodes is not None:
        yield "    internet: false  # guess: compute nodes seldom reach outside"
        yield "    builds_on: login  # guess: compilers and modules of the login node are those of these nodes"
    if survey.shell.system != "none":
        yield "    modules: []  # guess: what a login loads is enough"
        yield "    # unknown: modules for Python, MPI and GPUs, with versions; `module avail` lists them"
        yield "    # unknown: promises, variables that those modules set and that must have a value"
    yield from _tools(programs)
    yield from _job(slurm, nodes, survey)


def _cpu(nodes: Nodes | None, survey: Survey) -> Iterator[str]:
    target = next((level for level, flags in _LEVELS if flags <= survey.flags), "")
    memory = min(nodes.memory, default=0) // 1024 if nodes is not None else 0
    if not (survey.cpu or target or memory or (nodes is not None and nodes.cores)):
        yield "    # unknown: cpu"
        return
    yield "    cpu:"
    if survey.cpu:
        yield f"      model: {_text(survey.cpu)}  # guess: that of {survey.hostname}; nodes may have another"
    if target:
        yield f"      target: {target}  # guess: from the flags of {survey.hostname}"
    if nodes is not None and nodes.cores:
        several = f"  # guess: its nodes have {_all(nodes.cores)}" if len(nodes.cores) > 1 else ""
        yield f"      cores: {min(nodes.cores)}{several}"
    if nodes is not None and memory:
        yield f"      memory_gib: {memory}  # guess: what Slurm gives to jobs ({_all(nodes.memory)} MiB)"
    yield "      # unknown: numa"


def _gpu(nodes: Nodes | None, programs: Programs) -> Iterator[str]:
    count = max(nodes.gpus(), default=0) if nodes is not None else int(bool(programs.gpu_vendor))
    if not count:
        return
    if not programs.gpu_vendor:
        gres = ", ".join(sorted(nodes.gres)) if nodes is not None else ""
        yield f"    # unknown: gpu, whose they are and for which architecture; Slurm says {_comment(gres)}. To be filled in:"
        yield f"    # gpu: {{vendor: amd, arch: gfx90a, count: {count}, toolkit: rocm@6.3.4}}"
        return
    yield "    gpu:"
    yield f"      vendor: {programs.gpu_vendor}"
    yield f"      arch: {programs.gpu_arch}  # guess: that of this node"
    yield f"      count: {count}"
    yield "      # unknown: toolkit, as rocm@6.3.4; the one that the modules load"


def _tools(programs: Programs) -> Iterator[str]:
    if programs.python is not None:
        yield "    python:  # guess: the login shell's; modules may bring a better one"
        yield f"      command: {_text('python3')}"
        yield f"      version: {_text(programs.python.version)}"
    mpi = programs.mpi
    if mpi is not None:
        yield "    mpi:  # guess: that of the login shell, as a program that it compiled has it mapped"
        yield "      provider: system"
        yield f"      mpicc: {_text(programs.mpicc)}"
        for key, value, form in (
            ("name", mpi.name, r"[A-Za-z][A-Za-z0-9_+.-]*"),
            ("version", mpi.version, r"[0-9][0-9A-Za-z.]*"),
            ("soname", mpi.soname, r"lib[A-Za-z0-9_.+-]+"),
        ):
            if re.fullmatch(form, value):
                yield f"      {key}: {_text(value)}"
    else:
        yield "    mpi: {provider: detect, package: mpich}  # guess: no mpicc was found, so the wheel would be taken"
    if programs.compilers:
        yield "    compilers:  # guess: those of the login shell"
        for key, one in programs.compilers.items():
            yield f"      {key}: {_text(one.path.rpartition('/')[2])}  # {_comment(one.version)}"


def _job(slurm: str, nodes: Nodes | None, survey: Survey) -> Iterator[str]:
    if nodes is None:
        return
    if not _KEY.fullmatch(slurm):
        yield f"    # unknown: scheduler.partition; the name {_comment(slurm)} cannot be written here"
    else:
        yield "    scheduler:"
        yield f"      partition: {_text(slurm)}"
        if max(nodes.gpus(), default=0):
            yield "      gpus: total  # guess: --gpus of the job"
    yield "    launch:"
    yield f"      launcher: srun  # guess: it starts MPI by {_comment(', '.join(survey.batch.mpi) or 'nothing that it names')}"


def _text(value: str) -> str:
    """A text in YAML, quoted so that it stays what it is."""
    return (
        value if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", value) and not _WORDS.fullmatch(value) else json.dumps(value)
    )


_WORDS = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null")


def _comment(text: str) -> str:
    return " ".join(text.split())[:160]


def _all(numbers: frozenset[int]) -> str:
    return "/".join(map(str, sorted(numbers)))
