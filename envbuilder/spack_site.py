"""A first site file from a centre's configuration of Spack. Pure text.

What the configuration says is written, what was concluded from it ends in `# guess: why`, and what it does not tell begins
with `# unknown:`, as in the file that `envbuilder sites init` writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date

from envbuilder import spec_text
from envbuilder.externals import External
from envbuilder.partition import KEY
from envbuilder.spack_config import Centre, version_of

_REMARKS = 20


def render(name: str, folder: str, centre: Centre, today: date) -> str:
    """The text of the site file; `folder` is where the configuration was read."""
    mpi, python = centre.first(centre.mpi) if centre.mpi else None, centre.first("python")
    compiler = _compiler(centre)
    modules = tuple(dict.fromkeys(one for external in (compiler, mpi, python) if external for one in external.modules))
    lines = [
        *_head(name, folder, today),
        *_system(centre, modules),
        "default_partition: nodes",
        "partitions:",
        "  nodes:",
        "    summary: The nodes that Spack is configured for  # guess: one class; split it if they differ",
        "    source: [spack]",
        f"    features: [cpu{', mpi' if mpi else ''}]  # guess: what the configuration has",
        *_hardware(centre),
        "    internet: false  # guess: compute nodes seldom reach outside",
        "    builds_on: login  # guess: compilers and modules of the login node are those of these nodes",
        *_modules(modules),
        *_python(python),
        *_mpi(mpi),
        *_compilers(compiler),
        *_job(centre),
        *_externals(centre),
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, folder: str, today: date) -> Iterator[str]:
    yield f"# Written by `envbuilder sites import-spack` on {today} from {_comment(folder)}. Check each guess, fill in what is"
    yield f"# unknown, then: envbuilder lint {name}.yaml && envbuilder sites doctor {name}"
    yield "schema: 1"
    yield f"name: {_text(name)}"
    yield f"summary: {_text(f'{name}, as its configuration of Spack has it')}  # guess: say what it is, where, and whose"
    yield f"valid_from: {_text(str(today))}  # guess: the day on which it was read"
    yield "# unknown: valid_until, until when these facts hold; the machine's announcements tell"
    yield "sources:"
    yield f"  spack: {{title: The centre's configuration of Spack, date: {_text(str(today))}}}"
    yield "# unknown: detect, how to know that one is on this machine"


def _system(centre: Centre, modules: tuple[str, ...]) -> Iterator[str]:
    system = centre.module_system or ("lmod" if modules else "none")
    why = "Spack writes such modules" if centre.module_system else "the externals name modules"
    why = why if modules or centre.module_system else "no external names any"
    yield "modules:"
    yield f"  system: {system}  # guess: {why}"
    yield "scheduler:"
    kind = "slurm" if centre.scheduler == "slurm" else "none"
    told = f"Benchpark's variables say {_comment(centre.scheduler)}" if centre.scheduler else "Spack does not tell"
    yield f"  kind: {kind}" + ("" if kind == "slurm" else f"  # guess: {told}")
    yield "# unknown: paths, a store that compute nodes see, and whether they have HOME"


def _hardware(centre: Centre) -> Iterator[str]:
    facts = [f"target: {centre.target}"] if centre.target else []
    facts += [f"cores: {centre.cores}"] if centre.cores else []
    yield f"    cpu: {{{', '.join(facts)}, source: [spack]}}" if facts else "    # unknown: cpu"
    if centre.fabric:
        yield f"    fabric: {_text(centre.fabric)}"
    if not centre.gpu_vendor:
        return
    toolkit = centre.first("hip" if centre.gpu_vendor == "amd" else "cuda")
    kind = "rocm" if centre.gpu_vendor == "amd" else "cuda"
    version = re.match(r"[0-9]+(\.[0-9]+)*", version_of(toolkit)) if toolkit else None
    yield "    gpu:"
    yield f"      vendor: {centre.gpu_vendor}"
    if centre.gpu_model:
        yield f"      model: {_text(centre.gpu_model)}"
    if centre.gpu_arch:
        yield f"      arch: {_text(centre.gpu_arch)}"
    if centre.gpus:
        yield f"      count: {min(centre.gpus, 64)}"
    if version and centre.gpu_vendor != "intel":
        yield f"      toolkit: {kind}@{version.group()}  # guess: the newest that Spack knows"
    else:
        yield "      # unknown: toolkit, as rocm@6.3.4"
    yield "      source: [spack]"


def _modules(modules: tuple[str, ...]) -> Iterator[str]:
    if modules:
        yield f"    modules: [{', '.join(map(_text, modules))}]  # guess: those of compiler, MPI and Python, in this order"
        yield "    # unknown: promises, variables that those modules set and that must have a value"


def _python(python: External | None) -> Iterator[str]:
    version = re.match(r"[0-9]+\.[0-9]+(\.[0-9]+)?", version_of(python)) if python else None
    if python is None or version is None:
        yield "    # unknown: python; the one on PATH is taken"
        return
    command = f"{python.prefix}/bin/python3" if python.prefix.startswith("/") and not python.modules else "python3"
    yield "    python:"
    yield f"      command: {_text(command)}  # guess: where a Python has its program"
    yield f"      version: {_text(version.group())}"
    yield "      source: [spack]"


def _mpi(mpi: External | None) -> Iterator[str]:
    if mpi is None:
        yield "    mpi: {provider: detect, package: mpich}  # guess: Spack has no external MPI, so the wheel would be taken"
        return
    command, why = f"{mpi.prefix}/bin/mpicc", "where an MPI has its wrapper"
    if mpi.name == "cray-mpich":
        command, why = "cc", "Cray's wrapper links with it, with the modules of its compiler"
    elif mpi.modules or not mpi.prefix.startswith("/"):
        command, why = "mpicc", "the modules put it on PATH"
    yield "    mpi:"
    yield "      provider: system"
    yield f"      mpicc: {_text(command)}  # guess: {why}"
    yield f"      name: {mpi.name}"
    if re.fullmatch(r"[0-9][0-9A-Za-z.]*", version_of(mpi)):
        yield f"      version: {_text(version_of(mpi))}"
    yield "      # unknown: soname, the library that ranks must have mapped"
    yield "      source: [spack]"


def _compiler(centre: Centre) -> External | None:
    with_programs = [one for one in centre.externals if one.compilers]
    return centre.first("gcc") or next(iter(with_programs), None)


def _compilers(compiler: External | None) -> Iterator[str]:
    programs = compiler.compilers if compiler else {}
    words = [
        f"{key}: {_text(programs[language])}"
        for key, language in (("cc", "c"), ("cxx", "cxx"), ("fc", "fortran"))
        if re.fullmatch(r"[A-Za-z0-9_./+-]+", programs.get(language, ""))
    ]
    if words and compiler is not None:
        yield f"    compilers: {{{', '.join(words)}, source: [spack]}}  # guess: {compiler.name}, of those that Spack knows"
    else:
        yield "    # unknown: compilers; cc and c++ of PATH are taken"


def _job(centre: Centre) -> Iterator[str]:
    if centre.scheduler != "slurm":
        return
    yield "    # unknown: scheduler.partition, the scheduler's own name for these nodes"
    if centre.gpu_vendor:
        yield "    scheduler:"
        yield "      gpus: total  # guess: --gpus of the job"


def _externals(centre: Centre) -> Iterator[str]:
    for remark in centre.remarks[:_REMARKS]:
        yield f"    # unknown: {_comment(remark)}"
    if len(centre.remarks) > _REMARKS:
        yield f"    # unknown: {len(centre.remarks) - _REMARKS} more of that kind"
    if not centre.externals:
        return
    yield "    externals:"
    for one in centre.externals:
        yield f"      - spec: {_text(str(spec_text.parse(one.spec)))}"
        if one.prefix:
            yield f"        prefix: {_text(one.prefix)}"
        if one.modules:
            yield f"        modules: [{', '.join(map(_text, one.modules))}]"
        if one.compilers:
            programs = ", ".join(f"{language}: {_text(path)}" for language, path in one.compilers.items())
            yield f"        compilers: {{{programs}}}"
        yield "        source: [spack]"


def _text(value: str) -> str:
    """A text in YAML, quoted so that it stays what it is."""
    plain = re.fullmatch(KEY, value) and not re.fullmatch(r"(?i)y|n|yes|no|on|off|true|false|null", value)
    return value if plain else json.dumps(value)


def _comment(text: str) -> str:
    return " ".join(text.split())[:160]
