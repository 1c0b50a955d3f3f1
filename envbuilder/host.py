"""Look at this machine: interpreters, the system's MPI, the C compiler, and what identifies the host.

Everything here is found afresh each time; nothing is guessed. What a library or a compiler is, is taken from the thing
itself (a program compiled and run, an ELF header), not from the name of a file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envbuilder import process, toolchain
from envbuilder.document import where
from envbuilder.effect import Loaded
from envbuilder.errors import HostError
from envbuilder.partition import MpiContract, Partition
from envbuilder.process import Command
from envbuilder.site import Site
from envbuilder.target import Central, Mpi, Python, System, Target
from envbuilder.toolchain import which

_ASK_PYTHON = """
import json, os, platform, sys, sysconfig
print(json.dumps({"path": getattr(sys, "_base_executable", sys.executable), "version": platform.python_version(),
"soabi": sysconfig.get_config_var("SOABI") or "",
"headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h"))}))
"""

# of two copies the first on sys.path is the one that is imported
_ASK_PACKAGES = """
import json, re, sys
from importlib import metadata
found = {}
for one in metadata.distributions():
    name = re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower()
    if name:
        found.setdefault(name, one.version)
print(json.dumps({"packages": dict(sorted(found.items())), "paths": [p for p in sys.path if p]}))
"""

_ASK_MPI = r"""
#include <mpi.h>
#include <stdio.h>
#include <string.h>
int main(void) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  char *end = strchr(text, '\n');
  if (end) *end = 0;
  printf("version %s\n", text);
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[4096];
  while (maps && fgets(line, sizeof line, maps)) {
    char *path = strchr(line, '/');
    if (path) printf("mapped %s", path);
  }
  return 0;
}
"""


def uv() -> str:
    """The path of the uv that came with envbuilder; raises `HostError` when it is missing."""
    from uv import find_uv_bin

    try:
        return find_uv_bin()
    except FileNotFoundError as error:
        raise HostError("uv is missing", hint="python -m pip install uv") from error


def find_python(
    specifier: str, wanted: str = "", *, command: str = "", env: Mapping[str, str] | None = None
) -> Python | None:
    """An interpreter whose version fits `specifier` (PEP 440), or None.

    `wanted` is a path or a version such as `3.12`; without it envbuilder's own interpreter is taken if it fits, else the
    newest one that uv finds on the machine. Where the site names a `command`, that is the one, as found in `env`.
    """
    if "/" in wanted:
        python = ask_python(wanted, env)
        return python if _fits(python.version, specifier, "") else None
    if command:
        python = site_python(command, env)
        if _fits(python.version, specifier, wanted):
            return python
        if not wanted:
            return None
    own = own_python()
    if _fits(own.version, specifier, wanted):
        return own
    for path in _installed_pythons(specifier, wanted):
        return ask_python(path)
    return None


def own_python() -> Python:
    """The interpreter that envbuilder itself runs on, outside of any virtual environment."""
    include = sysconfig.get_paths(vars={"base": sys.base_prefix, "installed_base": sys.base_prefix})["include"]
    return Python(
        path=str(getattr(sys, "_base_executable", sys.executable)),
        version=platform.python_version(),
        soabi=str(sysconfig.get_config_var("SOABI") or ""),
        headers=os.path.exists(os.path.join(include, "Python.h")),
    )


def site_python(command: str, env: Mapping[str, str] | None) -> Python:
    """The interpreter of that command in `env`; raises `HostError` when there is none."""
    path = which(command, env)
    if path is None:
        raise HostError(
            f"the site's Python is the command {command}, and it is not on the PATH",
            hint="is the module that has it in the partition's `modules`?",
        )
    return ask_python(path, env)


def ask_python(path: str, env: Mapping[str, str] | None = None) -> Python:
    """The interpreter at a path, by its own words; raises `HostError` when it does not answer."""
    done = process.capture(Command(argv=(path, "-I", "-c", _ASK_PYTHON)), timeout=60, base=env)
    try:
        return Python(**json.loads(done.output.splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as error:
        raise HostError(f"{path} does not answer as a Python interpreter does") from error


def central(module: str, python: Python, env: Mapping[str, str] | None) -> Central:
    """What the interpreter of a module finds in `env`; raises `HostError` when it cannot tell."""
    done = process.capture(Command(argv=(python.path, "-c", _ASK_PACKAGES)), timeout=300, base=env)
    try:
        told = json.loads(done.output.splitlines()[-1])
        return Central(module=module, packages=told["packages"], paths=tuple(told["paths"]))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise HostError(
            f"{python.path} cannot list the packages of the module {module}:\n{done.output[-2000:]}"
        ) from error


def find_system_mpi(mpicc: str, env: Mapping[str, str] | None = None) -> Mpi | None:
    """The MPI that `mpicc` links with, witnessed by a program that it compiles and that runs; None without an mpicc.

    `mpicc` may end in an option, as Cray's `cc -shared` does. Raises `HostError` when there is one and it does not work.
    """
    program, space, option = mpicc.partition(" ")
    path = which(program, env)
    if path is None:
        return None
    version, mapped = _witness_mpi(path, env)
    from envbuilder import elf

    for library in sorted(mapped, key=lambda one: "libmpi" not in one):  # those of another name only where none has it
        facts = elf.read(Path(library)) if os.path.isfile(library) else None
        # a library that only helps MPI, such as libmpi_gtl_hsa, may be mapped before it and is named like it
        if facts is not None and re.match(r"libmpi", facts.soname) and elf.defines(Path(library), "MPI_Init"):
            return Mpi(
                provider="system",
                name=_mpi_name(version),
                version=_mpi_version(version),
                soname=facts.soname,
                library=os.path.realpath(library),
                build_id=facts.build_id,
                sha256=sha256(Path(library)),
                mpicc=f"{path}{space}{option}",
                mpicxx=_beside(path, "mpicxx"),
                mpiexec=_beside(path, "mpiexec"),
            )
    raise HostError(f"a program compiled by {path} has no MPI library mapped", hint="is it a static MPI?")


def target(
    site: Site,
    partition_name: str,
    python: Python,
    *,
    with_mpi: bool = True,
    modules: Loaded | None = None,
    base: str = "",
    known: System | None = None,
) -> Target:
    """The partition as found on this machine; raises `HostError` when what it promises is not there.

    `with_mpi` is False for a recipe that needs none: then none is looked for, and none gets into its lock. `modules` is what
    loading the partition's modules did, `base` the one of them that a layer stands on, `known` what need not be asked again.
    """
    partition = site.partition(partition_name)
    env = modules.effect.apply(os.environ) if modules else None
    found = Target(
        site=site.name,
        partition=partition_name,
        arch=platform.machine(),
        libc=_libc(),
        gpu=partition.gpu.vendor,
        python=python,
        mpi=known.mpi if known else toolchain.wrapping(find_mpi(partition, env), env) if with_mpi else None,
        compiler=known.compiler if known else toolchain.compilers(partition, env),
        gpu_arch=partition.gpu.arch,
        toolkit=partition.gpu.toolkit,
        modules=modules,
        central=central(base, python, env) if base else None,
    )
    return replace(found, tools=known.tools if known else toolchain.tools(found))


def find_mpi(partition: Partition, env: Mapping[str, str] | None = None) -> Mpi | None:
    """The MPI of a partition, by its contract; raises `HostError` when a promised one is missing or is another one."""
    contract = partition.mpi
    if contract.provider == "none":
        return None
    if contract.provider in ("detect", "system"):
        found = find_system_mpi(contract.mpicc, env)
        if found is not None:
            _refuse_other_mpi(found, contract)
            if contract.mpicc.partition(" ")[0] == partition.compilers.cc:  # the compilers themselves link with MPI
                return replace(found, mpicxx=which(partition.compilers.cxx, env) or "")
            return found
        if contract.provider == "system":
            raise HostError(
                f"the site promises a system MPI, and {contract.mpicc} is not on the PATH",
                hint="load its module, or write `mpi: {provider: wheel}` in the site file",
            )
    return Mpi(provider="wheel", name=contract.package, package=contract.package)


def identity(cluster: str = "") -> dict[str, str]:
    """What makes this host this host, for proofs: machine, kernel, C library, CPU. Values are plain text.

    The nodes of a cluster's partition stand for each other: with its name given, the node itself does not count.
    """
    uname = os.uname()
    return {
        **({"cluster": cluster} if cluster else {"machine": _machine_id()}),
        "hostname": uname.nodename,
        "kernel": f"{uname.sysname} {uname.release}",
        "arch": uname.machine,
        "libc": _libc(),
        "cpu": _cpu_model(),
    }


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    state = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def fits(version: str, specifier: str) -> bool:
    """Whether a version of Python is one of those that a specifier (PEP 440) allows."""
    return _fits(version, specifier, "")


def _fits(version: str, specifier: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    if wanted and not (version == wanted or version.startswith(f"{wanted}.")):
        return False
    return version in SpecifierSet(specifier)


def _installed_pythons(specifier: str, wanted: str) -> list[str]:
    """Paths of CPython interpreters that fit, newest first; found by uv, which knows where they hide."""
    done = process.capture(
        Command(
            argv=(
                uv(),
                "python",
                "list",
                "--only-installed",
                "--no-python-downloads",
                "--output-format",
                "json",
                "--quiet",
            ),
            env={"UV_NO_CONFIG": "1"},
        ),
        timeout=120,
    )
    start = done.output.find("[{")
    entries = json.loads(done.output[start:]) if done.code == 0 and start >= 0 else []
    return [
        entry["path"]
        for entry in entries
        if entry.get("implementation") == "cpython" and _fits(entry["version"], specifier, wanted)
    ]


def _refuse_other_mpi(found: Mpi, contract: MpiContract) -> None:
    """A compiler wrapper that links with another MPI than the site says makes environments that run wrong."""
    if contract.soname and found.soname != contract.soname:
        raise HostError(
            f"{where(contract.soname)}the site says that {contract.mpicc} links with {contract.soname}, and a program "
            f"compiled by {found.mpicc} has {found.soname} mapped ({found.library})",
            hint="are the partition's modules the right ones? else mend `soname` in the site file",
        )
    version = str(contract.version)
    if version and found.version != version and not found.version.startswith(f"{version}."):
        raise HostError(
            f"{where(contract.version)}the site says that {contract.mpicc} links with {contract.name or 'its MPI'} {version}, "
            f"and a program compiled by {found.mpicc} has {found.version} mapped ({found.library})",
            hint="a version that is not the default one needs its folder on LD_LIBRARY_PATH (`exports_after_modules`); else "
            "mend `version` in the site file",
        )


def _witness_mpi(mpicc: str, env: Mapping[str, str] | None) -> tuple[str, list[str]]:
    with tempfile.TemporaryDirectory(prefix="envbuilder-mpi-") as folder:
        source, program = Path(folder, "ask.c"), Path(folder, "ask")
        source.write_text(_ASK_MPI)
        built = process.capture(Command(argv=(mpicc, "-o", str(program), str(source))), timeout=120, base=env)
        if built.code != 0:
            raise HostError(f"{mpicc} cannot compile a small MPI program:\n{built.output.strip()}")
        ran = process.capture(Command(argv=(str(program),)), timeout=60, base=env)
    lines = [line.partition(" ") for line in ran.output.splitlines()]
    versions = [rest for kind, _, rest in lines if kind == "version"]
    if ran.code != 0 or not versions:
        raise HostError(f"a small MPI program compiled by {mpicc} does not run:\n{ran.output.strip()}")
    return versions[0], list(dict.fromkeys(rest for kind, _, rest in lines if kind == "mapped"))


def _mpi_name(version: str) -> str:
    lowered = version.lower()
    for mark, name in (
        ("cray mpich", "cray-mpich"),
        ("open mpi", "openmpi"),
        ("intel", "intel-mpi"),
        ("mpich", "mpich"),
    ):
        if mark in lowered:
            return name
    return "mpi"


def _mpi_version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+\w*", text)
    return found.group() if found else text[:40]


def _beside(mpicc: str, program: str) -> str:
    """A program of the same MPI: beside its compiler wrapper, with the same suffix where Debian adds one."""
    folder, name = os.path.split(mpicc)
    suffix = name.removeprefix("mpicc") if name.startswith("mpicc") else ""
    for candidate in (f"{program}{suffix}", program):
        path = os.path.join(folder, candidate)
        if os.access(path, os.X_OK):
            return path
    return ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return "unknown"


def _machine_id() -> str:
    """A digest of the machine's id, so that a proof can be shown around without giving the id away."""
    try:
        text = Path("/etc/machine-id").read_text().strip()
    except OSError:
        text = ""
    return hashlib.sha256(f"envbuilder {text or os.uname().nodename}".encode()).hexdigest()[:32]


@functools.cache
def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    mark = hashlib.sha256(" ".join(sorted(flags.group(1).split())).encode()).hexdigest()[:12] if flags else ""
    return f"{found.group(1) if found else platform.processor()} {mark}".strip()
