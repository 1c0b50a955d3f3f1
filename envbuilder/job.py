"""What a batch job says: the options for sbatch, the launcher's arguments and the whole script, in a site's own words.

Pure: nothing is submitted and nothing is run here. What comes from site files and from the command line reaches a shell
quoted, and Slurm's own reader of `#SBATCH` lines only in characters that it takes as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote

from envbuilder.document import where
from envbuilder.errors import InputError
from envbuilder.partition import Export, Partition
from envbuilder.site import Qos, Scheduler, Site

# What may say the account and the like when the command line does not; the caller reads them, the first that is set wins.
ACCOUNT_VARIABLES = ("ENVBUILDER_ACCOUNT", "SBATCH_ACCOUNT", "SLURM_ACCOUNT")
QOS_VARIABLES = ("ENVBUILDER_QOS", "SBATCH_QOS", "SLURM_QOS")

# The exit code of a script that ended before its body: a module, a promised variable or a value was not to be had.
NOT_PREPARED = 98

_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*(=.*)?\Z", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@+%*=&|~^!-]*\Z")
_QUOTABLE = re.compile(r"""[^\x00-\x1f\x7f"\\]*\Z""")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")
_IN_PATH = re.compile(
    r"\$(?P<plain>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<change>/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]*)?\}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How large a job is: nodes, ranks over all of them, minutes of wall time (0: the site's default), GPUs of each node.

    `gpus_per_node` 0 is none. `cpus_per_rank` 0 divides a node's cores among the ranks on it.
    """

    nodes: int = 1
    ranks: int = 1
    minutes: int = 0
    gpus_per_node: int = 0
    cpus_per_rank: int = 0

    @property
    def ranks_per_node(self) -> int:
        """The ranks of the fullest node."""
        return -(-self.ranks // self.nodes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Billing:
    """Whose time a job takes, as the user asked; empty is not given. `options` are further ones for sbatch, as written."""

    account: str = ""
    qos: str = ""
    reservation: str = ""
    options: tuple[str, ...] = ()


def shape_for(
    partition: Partition,
    *,
    nodes: int,
    ranks: int,
    minutes: int,
    gpus_per_node: int | None = None,
    cpus_per_rank: int = 0,
) -> Shape:
    """The shape of a job on a partition; where no GPUs are said (`None`), all that a node has.

    Raises `InputError` when no such job can be.
    """
    gpus = partition.gpu.count if gpus_per_node is None else gpus_per_node
    shape = Shape(nodes=nodes, ranks=ranks, minutes=minutes, gpus_per_node=gpus, cpus_per_rank=cpus_per_rank)
    _sound(partition, shape)
    return shape


def qos_for(site: Site, partition: Partition, shape: Shape, asked: str = "") -> tuple[str, Qos | None]:
    """The quality of service for a job and its rules: the one asked for, else the site's first that holds it.

    One that the site file does not know is left for Slurm to judge, which refuses a wrong one at once; then, and where the
    site lists none, the rules are None. Raises `InputError` with the limits when the one asked for does not hold the job,
    or none does.
    """
    known = site.scheduler.qos
    fit = [name for name, rules in known.items() if _holds(rules, partition, shape)]
    if asked or not known:
        if asked in known and asked not in fit:
            raise InputError(
                f"{asked} does not hold {_size(shape)} on {_where(partition)}: {_limits(asked, known[asked])}",
                hint=f"{' and '.join(fit)} would" if fit else f"there are {_those_of(site, partition) or 'none'}",
            )
        return asked, known.get(asked)
    if fit:
        return fit[0], known[fit[0]]
    raise InputError(
        f"no QoS of {site.name} holds {_size(shape)} on {_where(partition)}",
        hint=_those_of(site, partition) or "the site file lists none there",
    )


def directives(
    site: Site, partition: Partition, shape: Shape, billing: Billing, *, name: str, output: str
) -> tuple[str, ...]:
    """The options for sbatch, each as `--name=value`; of two with one name the later wins.

    In this order: what the shape needs, the site's options, the partition's, those of the QoS, the user's. What the
    partition refuses (`Directives.refuses`) is left out. `output` is where the job writes, with Slurm's patterns such as
    `%j`. Raises `InputError` when the job does not fit the site or lacks what it must say; one error names all of it.
    """
    _sound(partition, shape)
    chosen, rules = qos_for(site, partition, shape, billing.qos)
    asked = (
        *_generated(site, partition, shape, billing, chosen, name=name, output=output),
        *site.scheduler.options,
        *partition.scheduler.options,
        *(rules.options if rules else ()),
        *billing.options,
    )
    refused = set(partition.scheduler.refuses)
    said = tuple(option for option in _merged(asked) if _key(option) not in refused)
    _complete(site.scheduler, said, site.name)
    return said


def srun(site: Site, partition: Partition, shape: Shape) -> tuple[str, ...]:
    """The launcher's arguments: everything about the ranks is said here, for srun takes little over from the job.

    Since Slurm 22.05 srun does not read the job's --cpus-per-task (srun(1), SRUN_CPUS_PER_TASK); and a step of fewer nodes
    than its job is refused unless it says how many GPUs it wants. Raises `InputError` for an impossible shape.
    """
    _sound(partition, shape)
    cpus = _cpus(partition, shape)
    asked = (
        f"--nodes={shape.nodes}",
        f"--ntasks={shape.ranks}",
        f"--ntasks-per-node={shape.ranks_per_node}",
        *((f"--cpus-per-task={cpus}",) if cpus else ()),
        *_gpus(partition, shape),
        *site.scheduler.srun_options,
        *partition.launch.options,
    )
    return ("srun", *_merged(asked))


def script(
    site: Site,
    partition: Partition,
    options: Sequence[str],
    body: Sequence[str],
    *,
    extra_modules: Sequence[str] = (),
    with_modules: bool = True,
) -> str:
    """A batch script: `options` (those of `directives`), the modules, the partition's variables, then `body`.

    `body` holds lines for bash that are quoted already; they run under `set -euo pipefail`. With modules come the
    variables that are set after them; without, the body's own activation has to bring both. A module that cannot be loaded
    or does not stay loaded, and a variable without the value that the site promises, end the job with `NOT_PREPARED`.
    Raises `InputError` for a value that cannot be written.
    """
    login = " --login" if site.scheduler.login_shell and with_modules else ""
    lines = [f"#!/bin/bash{login}", *(_directive(option) for option in options), ""]
    # after --export=none srun would hand that on, and ranks lack what is set here; and PATH may be bash's own, not exported
    lines += ["unset SLURM_EXPORT_ENV", "export PATH", ""]
    if with_modules:
        lines.append(f'_envbuilder_stop() {{ echo "envbuilder: $1" >&2; exit {NOT_PREPARED}; }}')
        lines += _module_lines(site, partition, (*partition.modules, *extra_modules))
    # not before: profile scripts and module systems read variables that are not set
    lines += ["set -euo pipefail"]
    lines += _export_lines(partition.exports_after_modules) if with_modules else []
    lines += [f"export {_variable(key)}={quote(_text(value))}" for key, value in partition.launch.env.items()]
    lines += [f"export SRUN_CPUS_PER_TASK={quote(cpus)}" for cpus in _values(options, "cpus-per-task")]
    return "\n".join([*lines, "", *body, ""])


def _sound(partition: Partition, shape: Shape) -> None:
    cores, gpus = partition.cpu.cores, partition.gpu.count
    if shape.nodes < 1 or shape.ranks < shape.nodes or shape.minutes < 0:
        raise InputError(f"{shape.ranks} ranks on {_size(shape)} cannot be", hint="at least one node, a rank on each")
    if cores and shape.ranks_per_node > cores:
        raise InputError(f"{shape.ranks_per_node} ranks on a node of {cores} cores", hint="take more nodes")
    if not 0 <= shape.gpus_per_node <= gpus:
        raise InputError(
            f"{shape.gpus_per_node} GPUs of a node were asked for on {_where(partition)}",
            hint=f"its nodes have {gpus}" if gpus else "its nodes have none",
        )


def _holds(rules: Qos, partition: Partition, shape: Shape) -> bool:
    offered = not rules.partitions or partition.scheduler.partition in rules.partitions
    few = not rules.max_nodes or shape.nodes <= rules.max_nodes
    return offered and few and (not rules.max_minutes or shape.minutes <= rules.max_minutes)


def _limits(name: str, rules: Qos) -> str:
    parts = [f"at most {_nodes(rules.max_nodes)}"] if rules.max_nodes else []
    parts += [f"at most {_clock(rules.max_minutes)}"] if rules.max_minutes else []
    parts += [f"on {' and '.join(rules.partitions)}"] if rules.partitions else []
    return f"{name}: {', '.join(parts) or 'no limits'}"


def _those_of(site: Site, partition: Partition) -> str:
    known, there = site.scheduler.qos.items(), partition.scheduler.partition
    return "; ".join(_limits(key, one) for key, one in known if not one.partitions or there in one.partitions)


def _size(shape: Shape) -> str:
    return _nodes(shape.nodes) + (f" for {_clock(shape.minutes)}" if shape.minutes else "")


def _nodes(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'}"


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def _where(partition: Partition) -> str:
    return f"partition {partition.scheduler.partition}" if partition.scheduler.partition else "this partition"


def _cpus(partition: Partition, shape: Shape) -> int:
    """Cores of a rank; 0 when the site does not know what a node has. With some of a node's GPUs comes that part of them."""
    cores, gpus = partition.cpu.cores, partition.gpu.count
    cores = cores * shape.gpus_per_node // gpus if 0 < shape.gpus_per_node < gpus else cores
    return shape.cpus_per_rank or (max(1, cores // shape.ranks_per_node) if cores else 0)


def _generated(
    site: Site, partition: Partition, shape: Shape, billing: Billing, qos: str, *, name: str, output: str
) -> Iterator[str]:
    rules = partition.scheduler
    pairs = (
        ("job-name", name), ("output", output), ("partition", rules.partition), ("qos", qos), ("account", billing.account),
        ("reservation", billing.reservation), ("time", _clock(shape.minutes) if shape.minutes else ""),
        ("constraint", rules.constraint), ("export", site.scheduler.export), ("nodes", str(shape.nodes)),
        ("ntasks", str(shape.ranks)), ("ntasks-per-node", str(shape.ranks_per_node)),
        ("cpus-per-task", str(_cpus(partition, shape) or "")),
    )  # fmt: skip
    yield from (f"--{key}={value}" for key, value in pairs if value)
    yield from _gpus(partition, shape)


def _gpus(partition: Partition, shape: Shape) -> tuple[str, ...]:
    """The option that asks for GPUs, in the partition's own vocabulary."""
    each, rules = shape.gpus_per_node, partition.scheduler
    if not each:
        return ()
    if rules.gpus == "per-task":
        count, rest = divmod(each * shape.nodes, shape.ranks)
        if rest or not count:
            raise InputError(
                f"{each * shape.nodes} GPUs cannot be shared out among {shape.ranks} ranks",
                hint="this partition gives GPUs to ranks: take as many ranks as GPUs, or an integral part of them",
            )
        return (f"--gpus-per-task={count}",)
    return {
        "none": (),
        "total": (f"--gpus={each * shape.nodes}",),
        "per-node": (f"--gpus-per-node={each}",),
        "gres": (f"--gres={rules.gres}:{each}",),
    }[rules.gpus]


def _key(option: str) -> str:
    """The name of an option, without dashes and value."""
    name, given, _ = option.partition("=")
    if not _OPTION.match(option) or (given and not name.startswith("--")):
        raise InputError(f"{where(option)}{option!r} is not an option", hint="write --name or --name=value")
    return name.lstrip("-")


def _merged(options: Sequence[str]) -> tuple[str, ...]:
    """Each option once, where it first stood, as it was last said."""
    return tuple({_key(option): option for option in options}.values())


def _values(options: Sequence[str], name: str) -> list[str]:
    return [option.partition("=")[2] for option in options if _key(option) == name]


def _complete(rules: Scheduler, said: Sequence[str], site: str) -> None:
    missing = [name for name in rules.required if name not in set(map(_key, said))]
    if not missing:
        return
    remedies = {
        "account": f"--account, or {' or '.join(ACCOUNT_VARIABLES)} in the environment",
        "qos": f"--qos, or {' or '.join(QOS_VARIABLES)} in the environment",
        "time": "--time",
        "partition": "`scheduler: {partition: ...}` in the site file",
    }
    raise InputError(
        f"jobs at {site} must say {' and '.join(missing)}",
        hint="; ".join(f"{name}: {remedies.get(name, '--' + name)}" for name in missing),
    )


def _directive(option: str) -> str:
    """A line that sbatch reads. Its reader knows quotes and takes an unquoted # for the start of a comment."""
    _key(option)
    if _PLAIN.match(option):
        return f"#SBATCH {option}"
    name, _, value = option.partition("=")
    if not _QUOTABLE.match(value):
        message = f"{where(option)}{name} cannot be written into a job script: {value!r}"
        raise InputError(message, hint="leave out quotes, backslashes and control characters")
    return f'#SBATCH {name}="{value}"'


def _module_lines(site: Site, partition: Partition, modules: Sequence[str]) -> list[str]:
    system = site.modules
    if system.system == "none" or not (modules or system.reset):
        return []
    paths = (*((system.init,) if system.init else ()), *partition.module_paths)
    named = {match["name"] or match["plain"]: path for path in paths for match in _IN_PATH.finditer(path)}
    lines = [_needed(name, f"{path} names it") for name, path in named.items()]
    lines += [f". {_path(system.init)} || {_stop(f'{system.init} cannot be read')}"] if system.init else []
    lines.append(f"type module >/dev/null 2>&1 || {_stop('this shell has no module command')}")
    if system.reset:
        lines.append(f"module {quote(_text(system.reset))} || {_stop(f'module {system.reset} failed')}")
    lines += [f"module use {_path(folder)} || {_stop(f'no modules in {folder}')}" for folder in partition.module_paths]
    if not modules:
        return [*lines, *(_needed(name, "the modules promise it") for name in partition.promises), ""]
    # an old module command fails with exit code 0, and Lmod's ends with 1 for a module that loads and warns
    lines += [
        "_envbuilder_loaded() {",
        '    case ":${LOADEDMODULES-}:" in *":$1:"* | *":$1/"*) return 0 ;; esac',
        '    module is-loaded "$1" >/dev/null 2>&1',
        "}",
    ]
    lines += [
        f"module load {name} || _envbuilder_loaded {name} || {_stop(f'the module {one} cannot be loaded')}"
        for one in modules
        for name in [quote(_text(one))]
    ]
    # a later module may replace an earlier one
    lines += [
        f"_envbuilder_loaded {quote(one)} || {_stop(f'the module {one} does not stay loaded')}" for one in modules
    ]
    return [*lines, *(_needed(name, "the modules promise it") for name in partition.promises), ""]


def _export_lines(exports: Sequence[Export]) -> list[str]:
    lines: list[str] = []
    for export in exports:
        lines += [f"# {why}" for why in [" ".join(export.why.split())] if why]
        target = _variable(export.set or export.prepend or export.unset)
        if export.unset:
            lines.append(f"unset {target}")
            continue
        # an empty entry of a search path is the current folder: a value that is not there must not become one
        names = dict.fromkeys(match["name"] for match in _REFERENCE.finditer(export.to))
        lines += [_needed(name, f"{target} is set from it") for name in names]
        rest = f'"${{{target}:+:${{{target}}}}}"' if export.prepend else ""
        lines.append(f"export {target}={_expanding(export.to, _REFERENCE)}{rest}")
    return lines


def _needed(name: str, why: str) -> str:
    return f'[ -n "${{{_variable(name)}-}}" ] || {_stop(f"{name} has no value; {why}")}'


def _stop(message: str) -> str:
    return f"_envbuilder_stop {quote(_text(message))}"


def _variable(name: str) -> str:
    if not _NAME.match(name):
        raise InputError(f"{where(name)}{name!r} cannot be the name of a variable")
    return str(name)


def _text(value: str) -> str:
    if "\0" in value:
        raise InputError(f"{where(value)}{value!r} has a character that no shell can pass on")
    return str(value)


def _path(text: str) -> str:
    """A path of a site file for a shell: `~`, `$NAME`, `${NAME}` and `${NAME/from/to}` expand, nothing else does."""
    if text == "~" or text.startswith("~/"):
        text = "${HOME}" + text[1:]
    return _expanding(text, _IN_PATH)


def _expanding(text: str, reference: re.Pattern[str]) -> str:
    """One word for a shell, in which only what `reference` finds is expanded."""
    parts, end = [], 0
    for match in reference.finditer(_text(text)):
        found = match.groupdict()
        name, change = found["name"] or found["plain"], found.get("change") or ""
        parts += [_literal(text[end : match.start()]), f'"${{{name}{change}}}"']
        end = match.end()
    return "".join([*parts, _literal(text[end:])]) or "''"


def _literal(text: str) -> str:
    return quote(text) if text else ""
