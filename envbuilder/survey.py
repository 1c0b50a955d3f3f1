"""What a machine shows of itself: login shell, module system, batch system, and what a partition's modules bring.

Looks and changes nothing. `doctor` compares it with a site file, `first_site` writes one from it. What does not answer is
kept with the reason, never guessed.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from envbuilder import host, linking, modules, process, scheduler, toolchain
from envbuilder.effect import Loaded, expanded
from envbuilder.errors import EnvbuilderError, HostError
from envbuilder.partition import Partition
from envbuilder.process import Command
from envbuilder.site import Site
from envbuilder.target import Compiler, Mpi, Python

_SHELL = r"""
folder=$1 init=$2
. /etc/profile >/dev/null 2>&1 </dev/null
if [ -n "$init" ]; then . "$init" >/dev/null 2>&1 </dev/null; fi
type module >/dev/null 2>&1 && { echo yes >"$folder/module"; module --version >"$folder/version" 2>&1 </dev/null; }
cat /proc/self/environ >"$folder/environ"
"""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a program said: `text` where it answered, `why` where it did not."""

    text: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shell:
    """A login shell: its variables, the module system that it has (`lmod`, `tcl`, `none`) and that one's version."""

    env: Mapping[str, str]
    system: str
    version: str = ""
    how: str = ""

    @property
    def loaded(self) -> tuple[str, ...]:
        """The modules that a login loads."""
        return tuple(name for name in self.env.get("LOADEDMODULES", "").split(":") if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """A partition of the batch system; sets of the values that its nodes have, memory in MiB."""

    cpus: frozenset[int]
    cores: frozenset[int]
    memory: frozenset[int]
    gres: frozenset[str]
    features: frozenset[str]
    count: int = 0
    default: bool = False
    limit: str = ""

    def gpus(self) -> frozenset[int]:
        """The numbers of GPUs that its nodes have."""
        found = re.compile(r"gpu(?::[A-Za-z0-9_.-]*[A-Za-z_][A-Za-z0-9_.-]*)?:(\d+)")
        return frozenset(sum(int(match[1]) for match in found.finditer(text)) for text in self.gres or {""})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """A quality of service as the accounting has it; 0 is no limit."""

    max_minutes: int = 0
    max_nodes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The batch system; `why` says why there is no answer, `qos_why` the same of its accounting."""

    cluster: str = ""
    partitions: Mapping[str, Nodes] = field(default_factory=dict)
    qos: Mapping[str, Limits] = field(default_factory=dict)
    enforced: str = ""
    mpi: tuple[str, ...] = ()
    why: str = ""
    qos_why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """What the modules of one partition bring: None in `loaded` with `failed` or `why` where they do not load.

    Each of the rest is what was found, None for what there is not, or the words of a failure.
    """

    loaded: Loaded | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    unexpanded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    python: Python | str | None = None
    compilers: Mapping[str, Compiler | str | None] = field(default_factory=dict)
    mpi: Mpi | str | None = None
    gtl: str = ""
    gpus: Answer = field(default_factory=Answer)
    toolkit: Answer = field(default_factory=Answer)

    @property
    def ready(self) -> bool:
        """Whether there is an environment in which the rest was looked at."""
        return not self.failed and not self.why


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The machine: names, login shell, batch system, the allocation that we are in (the scheduler's partition)."""

    hostname: str
    domain: str
    shell: Shell
    batch: Batch
    allocation: str = ""
    cpu: str = ""
    flags: frozenset[str] = frozenset()


def survey(init: str = "") -> Survey:
    """Look at the machine; `init` is sourced where a login shell does not define `module`."""
    shell = login_shell(init)
    name, _, domain = os.uname().nodename.partition(".")
    here = scheduler.allocation(os.environ)
    model, flags = _cpu()
    return Survey(
        hostname=name,
        domain=domain or socket.getfqdn().partition(".")[2],
        shell=shell,
        batch=batch(shell.env),
        allocation=here.partition if here is not None else "",
        cpu=model,
        flags=flags,
    )


def login_shell(init: str) -> Shell:
    """The login shell of the machine, without the user's own start-up files."""
    start = modules.bare()
    with tempfile.TemporaryDirectory(prefix="envbuilder-survey-") as name:
        folder = Path(name)
        argv = ("bash", "--noprofile", "--norc", "-c", _SHELL, "envbuilder", name, init)
        process.capture(Command(argv=argv), timeout=60, base=start)
        try:
            entries = (folder / "environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        except OSError:
            entries = []
        version = _content(folder / "version")
        defined = (folder / "module").exists()
    env = {**start, **{key: value for key, found, value in (one.partition("=") for one in entries) if found}}
    if not defined:
        return Shell(env=env, system="none", how="a login shell does not define `module`")
    number = re.search(r"\d+(\.\d+)+", version)
    # what `module` itself says comes first: the variables of another module system may be left over
    if re.search(r"Lua|Modules Release|VERSION=", version):
        system, how = "lmod" if "Lua" in version else "tcl", "`module --version` in a login shell"
    elif env.get("LMOD_VERSION"):
        return Shell(env=env, system="lmod", version=env["LMOD_VERSION"], how="LMOD_VERSION of a login shell")
    else:
        system = "tcl"
        how = f"{'MODULES_CMD' if env.get('MODULES_CMD') else '`module`'} of a login shell, which is not Lmod's"
    return Shell(env=env, system=system, version=number.group() if number else "", how=how)


def batch(env: Mapping[str, str]) -> Batch:
    """Slurm, as its clients describe it."""
    nodes = ask(env, "sinfo", "--noheader", "--format=%R|%P|%c|%z|%m|%G|%f|%D|%l")
    if nodes.why:
        return Batch(why=nodes.why, qos_why=nodes.why)
    config = ask(env, "scontrol", "show", "config").text
    settings = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", config, re.MULTILINE))
    qos = ask(env, "sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=name,maxwall,maxtres")
    plugins = ask(env, "srun", "--mpi=list").text
    return Batch(
        cluster=settings.get("ClusterName", ""),
        partitions=partitions(nodes.text),
        qos=qualities(qos.text),
        enforced=settings.get("AccountingStorageEnforce", ""),
        mpi=tuple(re.findall(r"^\s+(\w+)\s*$", plugins, re.MULTILINE)),
        qos_why=qos.why or ("" if qos.text.strip() else "sacctmgr names none"),
    )


def partitions(said: str) -> dict[str, Nodes]:
    """The partitions in the answer of sinfo, which has a line for each kind of node."""
    found: dict[str, Nodes] = {}
    for line in said.splitlines():
        fields = [one.strip() for one in line.split("|")]
        if len(fields) != 9:
            continue
        name, marked, cpus, layout, memory, gres, features, count, limit = fields
        old = found.get(name, Nodes(cpus=_NONE, cores=_NONE, memory=_NONE, gres=frozenset(), features=frozenset()))
        sockets = [int(one) for one in re.findall(r"\d+", layout)]
        found[name] = Nodes(
            cpus=old.cpus | _numbers(cpus),
            cores=old.cores | (frozenset({sockets[0] * sockets[1]}) if len(sockets) > 1 else _NONE),
            memory=old.memory | _numbers(memory),
            gres=old.gres | frozenset({gres} - {"(null)", ""}),
            features=old.features | frozenset(set(features.split(",")) - {"(null)", ""}),
            count=old.count + sum(_numbers(count)),
            default=marked.endswith("*"),
            limit=limit,
        )
    return found


def qualities(said: str) -> dict[str, Limits]:
    """The QoS in the answer of sacctmgr."""
    found = {}
    for line in said.splitlines():
        name, _, rest = line.strip().partition("|")
        wall, _, tres = rest.partition("|")
        nodes = re.search(r"\bnode=(\d+)", tres)
        if name:
            found[name] = Limits(max_minutes=_minutes(wall), max_nodes=int(nodes[1]) if nodes else 0)
    return found


def stack(site: Site, partition: Partition, base: Mapping[str, str]) -> Stack:
    """What the modules of a partition bring, by one capture; `base` are the variables where there are none."""
    try:
        loaded, failed = modules.attempt(site, replace(partition, promises=(), exports_after_modules=()))
    except EnvbuilderError as error:
        return Stack(why=error.message)
    if failed:
        return Stack(failed={error.module: error.said for error in failed})
    env = loaded.effect.apply(modules.bare()) if loaded else dict(base)
    unexpanded = {}
    for export in partition.exports_after_modules:
        name = str(export.set or export.prepend or export.unset)
        value, missing = expanded(export.to, env)
        lacking = tuple(one for one in missing if one != export.prepend)
        unexpanded[name] = lacking
        if not lacking and not export.unset:
            env[name] = value if export.set else ":".join(one for one in (value, env.get(name, "")) if one)
    return _looked(partition, Stack(loaded=loaded, env=env, unexpanded=unexpanded))


def _looked(partition: Partition, here: Stack) -> Stack:
    """The same with what is found in its environment."""
    env, contract, named = here.env, partition.mpi, partition.compilers
    python: Python | str | None = None
    if partition.python.command:
        python = _tried(lambda: host.site_python(partition.python.command, env))
    compilers = {name: command for name, command in (("cc", named.cc), ("cxx", named.cxx), ("fc", named.fc)) if command}
    return replace(
        here,
        python=python,
        compilers={name: _tried(partial(toolchain.find_compiler, command, env)) for name, command in compilers.items()},
        mpi=_tried(lambda: host.find_system_mpi(contract.mpicc, env))
        if contract.provider in ("detect", "system")
        else None,
        gtl=library(contract.gtl, env) if contract.gtl else "",
        gpus=_gpus(partition.gpu.vendor, env),
        toolkit=toolkit(partition.gpu.toolkit_name, env),
    )


def library(name: str, env: Mapping[str, str]) -> str:
    """Where a library is that programs of these modules would find, or nothing."""
    flags = [value.removeprefix("-L") for key, value in env.items() if value.startswith("-L/") and "GTL" in key]
    folders = [*env.get("LD_LIBRARY_PATH", "").split(":"), *env.get("CRAY_LD_LIBRARY_PATH", "").split(":"), *flags]
    for folder in filter(None, folders):
        # a name without a version is that of any
        for path in sorted(Path(folder).glob(f"{name}*")):
            return str(path)
    return linking.linker(env).cache.get(name, "")


def toolkit(name: str, env: Mapping[str, str]) -> Answer:
    """The version of the GPU toolkit that modules bring."""
    if name == "rocm" and env.get("ROCM_PATH"):
        file = Path(env["ROCM_PATH"], ".info", "version")
        text = _content(file)
        return Answer(text=text.partition("-")[0]) if text else Answer(why=f"there is no {file}")
    if name == "rocm":
        return Answer(why="ROCM_PATH is not set")
    if name == "cuda":
        said = ask(env, "nvcc", "--version")
        found = re.search(r"release (\d+(\.\d+)+)", said.text)
        return Answer(text=found[1]) if found else Answer(why=said.why or "nvcc names no release")
    return Answer(why=f"there is no way to ask for the version of {name}" if name else "")


def ask(env: Mapping[str, str], *argv: str) -> Answer:
    """What a program says in a few seconds."""
    try:
        # the program is looked for in the environment that it is asked about
        argv = (_found(argv[0], env), *argv[1:])
        done = process.capture(Command(argv=argv), timeout=scheduler.CLIENT_SECONDS, base=env)
    except HostError as error:
        return Answer(why=error.message)
    if done.timed_out or done.code:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
        last = next((line.strip() for line in reversed(plain.splitlines()) if line.strip()), "no reason given")
        return Answer(why=f"{os.path.basename(argv[0])} {'does not answer' if done.timed_out else f'failed: {last}'}")
    return Answer(text=done.output)


def _gpus(vendor: str, env: Mapping[str, str]) -> Answer:
    """Architectures of the GPUs that this node has, as `gfx90a` or `sm_80`."""
    if vendor in ("none", "intel"):
        return Answer(why="there is no way to ask for the architecture of Intel's" if vendor == "intel" else "")
    if vendor == "amd":
        said = ask(env, "rocminfo")
        found = re.findall(r"^\s*Name:\s+(gfx\w+)", said.text, re.MULTILINE)
    else:
        said = ask(env, "nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
        found = [f"sm_{one.replace('.', '')}" for one in re.findall(r"^\d+\.\d+", said.text, re.MULTILINE)]
    names = " ".join(found)
    return Answer(text=names) if names else Answer(why=said.why or "this node has no GPU")


def gpus(env: Mapping[str, str]) -> tuple[str, str]:
    """Vendor and architecture of the GPUs of this node; empty where none answers."""
    for vendor in ("amd", "nvidia"):
        said = _gpus(vendor, env)
        if said.text:
            return vendor, said.text.split()[0]
    return "", ""


def _tried(look: Callable[[], T]) -> T | str:
    try:
        return look()
    except EnvbuilderError as error:
        return error.message


def _found(program: str, env: Mapping[str, str]) -> str:
    import shutil

    path = shutil.which(program, path=env.get("PATH"))
    if path is None:
        raise HostError(f"there is no {program} on the PATH")
    return path


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


_NONE: frozenset[int] = frozenset()


def _numbers(text: str) -> frozenset[int]:
    """`256` or `128+` as a set."""
    found = re.match(r"\d+", text)
    return frozenset({int(found.group())}) if found else _NONE


def _minutes(clock: str) -> int:
    days, _, rest = clock.rpartition("-")
    parts = rest.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return 0
    return int(days or 0) * 1440 + int(parts[0]) * 60 + int(parts[1])


def _cpu() -> tuple[str, frozenset[str]]:
    text = _content(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    return (model[1] if model else ""), frozenset(flags[1].split() if flags else ())
