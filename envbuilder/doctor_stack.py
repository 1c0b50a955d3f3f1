"""The part of the doctor that judges what the modules of one partition bring, and the rows that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from envbuilder.evidence import Status
from envbuilder.partition import Partition
from envbuilder.survey import Stack
from envbuilder.target import Compiler, Mpi, Python


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One field of a site file: what the file says, what was found, and how; `partition` is empty for the site's own.

    `found` of a field that was not looked at says why not.
    """

    partition: str
    field: str
    says: str
    status: Status
    found: str
    how: str = ""


def judged(place: tuple[str, str], says: str, good: bool, found: str, how: str) -> Row:
    """A row that passes or fails; `place` is the partition and the field."""
    status: Status = "pass" if good else "fail"
    return Row(partition=place[0], field=place[1], says=says, status=status, found=found, how=how)


def failed(place: tuple[str, str], says: str, found: str, how: str) -> Row:
    """A row that fails."""
    return judged(place, says, good=False, found=found, how=how)


def not_run(place: tuple[str, str], says: str, why: str) -> Row:
    """A row that could not be looked at."""
    return Row(partition=place[0], field=place[1], says=says, status="not-run", found=why)


def rows(name: str, partition: Partition, stack: Stack, *, on_its_nodes: bool) -> Iterator[Row]:
    """The rows of a partition's modules and of everything that is found in their environment.

    Modules that are for compute nodes alone (`builds_on: compute`) may be missing elsewhere.
    """
    reason = excused(partition, on_its_nodes=on_its_nodes)
    yield from _modules(name, partition, stack, reason)
    if not stack.ready:
        why = "its modules do not load here" if stack.failed or stack.why else ""
        for field, says in _rest(partition):
            yield not_run((name, field), says, reason or why)
        return
    yield from _variables(name, partition, stack)
    yield from _python(name, partition, stack)
    yield from _compilers(name, partition, stack)
    yield from _mpi(name, partition, stack)
    yield from _gpu(name, partition, stack)


def excused(partition: Partition, *, on_its_nodes: bool) -> str:
    """Why what a partition has need not be here, or nothing."""
    if on_its_nodes or partition.builds_on == "login":
        return ""
    return "its modules are for its nodes; run this in a job there"


def _modules(name: str, partition: Partition, stack: Stack, excused: str) -> Iterator[Row]:
    if not partition.modules:
        return
    says = ", ".join(partition.modules)
    how = "one login shell for the whole list"
    if stack.ready:
        loaded = ", ".join(stack.loaded.names) if stack.loaded else ""
        yield judged((name, "modules"), says, good=True, found=f"loaded: {loaded}", how=how)
    elif excused:
        missing = ", ".join(stack.failed) or stack.why
        yield not_run((name, "modules"), says, f"{excused} (here: {missing})")
    elif stack.why:
        yield failed((name, "modules"), says, stack.why, how)
    for module, said in ({} if excused else stack.failed).items():
        words = " ".join(said.split()) or "it is not loaded afterwards"
        yield failed((name, "modules"), module, words, how)


def _rest(partition: Partition) -> Iterator[tuple[str, str]]:
    """The fields that need the modules, with what the file says."""
    if partition.promises:
        yield "promises", ", ".join(partition.promises)
    if partition.exports_after_modules:
        yield (
            "exports_after_modules",
            ", ".join(one.set or one.prepend or one.unset for one in partition.exports_after_modules),
        )
    if partition.python.command:
        yield "python", f"{partition.python.command} {partition.python.version}".strip()
    yield (
        "compilers",
        ", ".join(one for one in (partition.compilers.cc, partition.compilers.cxx, partition.compilers.fc) if one),
    )
    if partition.mpi.provider in ("detect", "system"):
        yield (
            "mpi",
            f"{partition.mpi.provider} {partition.mpi.name} {partition.mpi.version} {partition.mpi.soname}".strip(),
        )
    if partition.mpi.gtl:
        yield "mpi.gtl", str(partition.mpi.gtl)
    if partition.gpu.arch:
        yield "gpu.arch", str(partition.gpu.arch)
    if partition.gpu.toolkit:
        yield "gpu.toolkit", str(partition.gpu.toolkit)


def _variables(name: str, partition: Partition, stack: Stack) -> Iterator[Row]:
    if partition.promises:
        lacking = [one for one in partition.promises if not stack.env.get(one)]
        said = f"no value: {', '.join(lacking)}" if lacking else "all have a value"
        how = "the environment after the modules"
        yield judged((name, "promises"), ", ".join(partition.promises), not lacking, said, how)
    for variable, lacking_names in stack.unexpanded.items():
        said = f"no value: {', '.join(lacking_names)}" if lacking_names else "its value can be made"
        how = "the environment after the modules"
        yield judged((name, "exports_after_modules"), variable, not lacking_names, said, how)


def _python(name: str, partition: Partition, stack: Stack) -> Iterator[Row]:
    wanted = partition.python
    if not wanted.command:
        return
    says, found = f"{wanted.command} {wanted.version}".strip(), stack.python
    if not isinstance(found, Python):
        yield failed((name, "python"), says, found or "it does not answer", "asked for its version")
        return
    good = not wanted.version or _minor(wanted.version) == _minor(found.version)
    patch = good and wanted.version.count(".") == 2 and wanted.version != found.version
    note = "; another patch release, which wheels do not mind" if patch else ""
    yield judged((name, "python"), says, good, f"{found.version} at {found.path}{note}", "asked for its version")


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _compilers(name: str, partition: Partition, stack: Stack) -> Iterator[Row]:
    for kind, found in stack.compilers.items():
        says = str(getattr(partition.compilers, kind))
        good = isinstance(found, Compiler)
        said = (
            f"{found.version} at {found.path}" if isinstance(found, Compiler) else found or "it is not there, or fails"
        )
        yield judged((name, f"compilers.{kind}"), says, good, said, f"{says} --version")


def _mpi(name: str, partition: Partition, stack: Stack) -> Iterator[Row]:
    contract, found = partition.mpi, stack.mpi
    if contract.provider in ("detect", "system"):
        how = f"a program that {contract.mpicc} compiled, and what it has mapped"
        if isinstance(found, Mpi):
            yield judged((name, "mpi"), contract.provider, True, f"{found.name} {found.version}, {found.library}", how)
            if contract.name:
                yield judged((name, "mpi.name"), str(contract.name), found.name == contract.name, found.name, how)
            if contract.version:
                good = f"{found.version}.".startswith(f"{contract.version}.")
                yield judged((name, "mpi.version"), str(contract.version), good, found.version, how)
            if contract.soname:
                said = f"{found.soname} ({found.library})"
                yield judged((name, "mpi.soname"), str(contract.soname), found.soname == contract.soname, said, how)
        elif found is None and contract.provider == "detect":
            said = f"no {contract.mpicc}: the wheel {contract.package} is taken"
            yield judged((name, "mpi"), "detect", good=True, found=said, how="the PATH")
        else:
            yield failed((name, "mpi"), contract.provider, found or f"there is no {contract.mpicc} on the PATH", how)
    if contract.gtl:
        how = "the search paths of the modules and the linker's cache"
        yield judged((name, "mpi.gtl"), str(contract.gtl), bool(stack.gtl), stack.gtl or "it is nowhere", how)


def _gpu(name: str, partition: Partition, stack: Stack) -> Iterator[Row]:
    gpu = partition.gpu
    if gpu.vendor == "none":
        return
    if gpu.arch:
        program = "rocminfo" if gpu.vendor == "amd" else "nvidia-smi"
        said = stack.gpus
        if said.text:
            yield judged((name, "gpu.arch"), str(gpu.arch), gpu.arch in said.text.split(), said.text, program)
        else:
            yield not_run((name, "gpu.arch"), str(gpu.arch), said.why or "nothing says which GPUs these are")
    if gpu.toolkit:
        told, wanted = stack.toolkit, gpu.toolkit_version
        if told.text:
            good = f"{told.text}.".startswith(f"{wanted}.") or f"{wanted}.".startswith(f"{told.text}.")
            yield judged((name, "gpu.toolkit"), str(gpu.toolkit), good, told.text, "the toolkit's own word")
        else:
            yield not_run((name, "gpu.toolkit"), str(gpu.toolkit), told.why or "nothing says which version it is")
