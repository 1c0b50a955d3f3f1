"""A Spack environment (`spack.yaml`) for a recipe on a partition, from the files and a lock alone. Pure.

The forms are those of Spack 1.x (its documentation, pages "Package Settings", "Configuring Compilers", "Environments"):
compilers are externals with `extra_attributes`, and what must be taken is said by `require`. A requirement on `all` would hold
for externals as well, and make them unusable; so compilers are required of the languages `c`, `cxx` and `fortran`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envbuilder import spec_text
from envbuilder.externals import LANGUAGES, External
from envbuilder.lock import MAIN, Artefact, Lock, source_body
from envbuilder.partition import Partition
from envbuilder.recipe import Recipe
from envbuilder.spec import Spec

NAMESPACE = "envbuilder"
# packages of Spack that one installation of the toolkit is
ROCM = (
    "comgr", "hip", "hipblas", "hipcub", "hipfft", "hiprand", "hipsolver", "hipsparse", "hsa-rocr-dev", "llvm-amdgpu",
    "miopen-hip", "rccl", "rocblas", "rocfft", "rocm-core", "rocm-device-libs", "rocm-smi-lib", "rocminfo", "rocprim",
    "rocrand", "rocsolver", "rocsparse", "rocthrust", "roctracer-dev",
)  # fmt: skip
_MPI = ("cray-mpich", "mpich", "openmpi")
# distributions that carry what Spack has as packages of other kinds
_CARRIED = re.compile(
    r"(nvidia|intel|cuda|mkl|rocm|pytorch-triton)\b.*|mpich|openmpi|impi-rt|tbb|tcmlib|umf|onemkl.*|oneccl.*"
)
_GCC_LANGUAGES = {"c": "c", "cxx": "c++", "fortran": "fortran"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SpackEnvironment:
    """What is written: the document of `spack.yaml`, other files by path, and what the site's file does not tell."""

    document: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def environment(recipe: Recipe, specs: tuple[Spec, ...], partition: Partition, lock: Lock | None) -> SpackEnvironment:
    """The environment; with a lock, its versions are required of Python packages."""
    unknown: list[str] = []
    packages: dict[str, dict[str, Any]] = {"all": _all(partition)}
    _compilers(partition, packages, unknown)
    _mpi(partition, packages, unknown)
    _python(partition, packages, unknown)
    _toolkit(partition, packages, unknown)
    for external in partition.externals:
        _add(packages, external)
    files = _own_packages(recipe, lock, unknown)
    for name, version in _locked(lock).items():
        packages.setdefault(name, {})["require"] = [f"@={version}"]
    names = [f"py-{_plain(name)}" for name in recipe.not_in_spack] if files else []
    spack: dict[str, Any] = {"specs": [*map(str, specs), *names]}
    if files:
        spack["repos"] = {NAMESPACE: f"./repo/spack_repo/{NAMESPACE}"}
    spack |= {
        "view": True,
        "concretizer": {
            "unify": True,
            "reuse": False,
            "static_analysis": True,
            # the login node that this is read on need not be like the nodes that it is for
            "targets": {"host_compatible": False, "granularity": "microarchitectures"},
        },
        # exact versions are asked for, whatever Spack thinks of them by now
        "config": {"deprecated": True},
        "packages": {name: packages[name] for name in ("all", *sorted(set(packages) - {"all"}))},
    }
    return SpackEnvironment(document={"spack": spack}, files=files, unknown=tuple(unknown))


def _all(partition: Partition) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if partition.cpu.target:
        found["target"] = [str(partition.cpu.target)]
    if partition.mpi.provider != "none":
        found["providers"] = {"mpi": [_mpi_name(partition)]}
    arch = partition.gpu.arch
    if partition.gpu.vendor == "nvidia" and arch.startswith("sm_"):
        found["variants"] = [f"cuda_arch={arch.removeprefix('sm_')}"]
    elif partition.gpu.vendor == "amd" and arch:
        found["variants"] = [f"amdgpu_target={arch}"]
    return found


def _mpi_name(partition: Partition) -> str:
    if partition.mpi.provider == "system":
        return str(partition.mpi.name) or "mpich"
    return str(partition.mpi.package)


def _compilers(partition: Partition, packages: dict[str, dict[str, Any]], unknown: list[str]) -> None:
    """Each language is required of the compiler that is the partition's, else of gcc, else of the first one for it."""
    declared = [one for one in partition.externals if one.compilers]
    declared.sort(key=lambda one: (one.compilers.get("c") != partition.compilers.cc, one.name != "gcc"))
    for language in LANGUAGES:
        first = next((one for one in declared if language in one.compilers), None)
        if first is not None:
            packages[language] = {"require": [_exact(first)]}
    if not declared:
        toolkit = partition.gpu.toolkit
        without = f"; where none goes with {toolkit}, it finds no answer" if toolkit else ""
        unknown.append(
            f"compilers: Spack takes those that it finds on PATH{without}. Load the modules and run `spack compiler find`, or "
            "write an entry with `compilers` under `externals` of the partition"
        )


def _mpi(partition: Partition, packages: dict[str, dict[str, Any]], unknown: list[str]) -> None:
    if partition.mpi.provider != "system":
        return
    name, version = _mpi_name(partition), partition.mpi.version
    declared = next((one for one in partition.externals if one.name == name), None)
    if declared is None and (not version or not partition.modules or name not in _MPI):
        what = "which version it is" if not version else "where it lies"
        unknown.append(
            f"MPI: {what}; an entry for {name} under `externals` of the partition tells, and Spack does not build one"
        )
        packages["mpi"] = {"buildable": False}
        return
    external = declared or External(spec=f"{name}@{version}", modules=partition.modules)
    packages["mpi"] = {"buildable": False, "require": [_exact(external)]}
    if declared is None:
        _add(packages, external)


def _python(partition: Partition, packages: dict[str, dict[str, Any]], unknown: list[str]) -> None:
    if any(one.name == "python" for one in partition.externals):
        return
    if partition.python.version and partition.modules:
        _add(packages, External(spec=f"python@{partition.python.version}", modules=partition.modules))
    else:
        unknown.append(
            "Python: Spack builds its own; an entry for python under `externals` of the partition is taken instead"
        )


def _toolkit(partition: Partition, packages: dict[str, dict[str, Any]], unknown: list[str]) -> None:
    name, version = partition.gpu.toolkit_name, partition.gpu.toolkit_version
    names = {"rocm": ROCM, "cuda": ("cuda",)}.get(name, ())
    declared = {one.name for one in partition.externals}
    modules = tuple(one for one in partition.modules if re.match(rf"{name}|cudatoolkit|nvhpc|nvidia", one.lower()))
    missing = [one for one in names if one not in declared]
    if missing and not modules:
        unknown.append(f"{name}: no module of the partition names it; entries under `externals` tell where it lies")
        return
    for one in missing:
        _add(packages, External(spec=f"{one}@{version}", modules=modules))


def _add(packages: dict[str, dict[str, Any]], external: External) -> None:
    spec = spec_text.parse(external.spec)
    text = str(spec)
    if spec.name == "gcc" and external.compilers and spec.variant("languages") is None:
        languages = ",".join(_GCC_LANGUAGES[one] for one in LANGUAGES if one in external.compilers)
        text = f"{text} languages:='{languages}'"
    entry: dict[str, Any] = {"spec": text}
    if external.prefix:
        entry["prefix"] = str(external.prefix)
    if external.modules:
        entry["modules"] = [str(one) for one in external.modules]
    if external.compilers:
        entry["extra_attributes"] = {
            "compilers": {one: str(external.compilers[one]) for one in LANGUAGES if one in external.compilers}
        }
    known = packages.setdefault(spec.name, {})
    known["buildable"] = False
    known.setdefault("externals", []).append(entry)


def _exact(external: External) -> str:
    spec = spec_text.parse(external.spec)
    return f"{spec.name}@{spec.versions}"


# From the lock


def _locked(lock: Lock | None) -> dict[str, str]:
    """Spack's names of the Python packages of a lock, and their versions without local labels (`+cpu`)."""
    if lock is None:
        return {}
    return {
        f"py-{_plain(name)}": version.partition("+")[0]
        for name, version in sorted(lock.packages().items())
        if not _CARRIED.fullmatch(name) and "!" not in version
    }


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _own_packages(recipe: Recipe, lock: Lock | None, unknown: list[str]) -> dict[str, str]:
    """A repository with a package for each distribution that Spack does not know; all of them, or none."""
    if not recipe.not_in_spack:
        return {}
    named = ", ".join(recipe.not_in_spack)
    if lock is None:
        unknown.append(f"{named}: Spack has no package, and there is no lock to write one from (envbuilder lock)")
        return {}
    folder = f"repo/spack_repo/{NAMESPACE}"
    files = {f"{folder}/repo.yaml": f"repo:\n  namespace: {NAMESPACE}\n  api: v2.2\n"}
    for name in recipe.not_in_spack:
        artefact = _artefact(lock, _plain(name))
        if artefact is None:
            unknown.append(f"{named}: the lock names no file of {name} that Spack could fetch")
            return {}
        files[f"{folder}/packages/py_{_plain(name).replace('-', '_')}/package.py"] = _package(
            recipe, lock, name, artefact
        )
    return files


def _artefact(lock: Lock, name: str) -> Artefact | None:
    """The source of a distribution, else a wheel for any machine; only what can be fetched from an address."""
    bodies = [source_body(one) for one in lock.sources if _plain(lock.distribution(one)) == name]
    found = [one for body in (*bodies, MAIN) for one in lock.artefacts(body) if _plain(one.package) == name]
    usable = [one for one in found if re.match(r"https?://", one.url) and not one.is_commit]
    sources = [one for one in usable if not one.is_wheel]
    return next(iter([*sources, *(one for one in usable if one.file.endswith("-none-any.whl"))]), None)


def _package(recipe: Recipe, lock: Lock, name: str, artefact: Artefact) -> str:
    plain = _plain(name)
    words = "".join(part.capitalize() for part in plain.split("-"))
    source = next((one for one in recipe.sources.values() if _plain(one.distribution) == plain), None)
    requires = (
        [re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in source.build_requires]
        if source
        else ["setuptools"]
    )
    build = [] if artefact.is_wheel else [one for one in map(_plain, requires) if one != "pip"]
    lines = [
        f"# Written by envbuilder from the lock of {lock.recipe}@{lock.version}.",
        "from spack_repo.builtin.build_systems.python import PythonPackage",
        "",
        "from spack.package import *",
        "",
        "",
        f"class Py{words}(PythonPackage):",
        f'    """The Python distribution {plain}, as the lock has it."""',
        "",
        f"    url = {artefact.url!r}",
        "",
        f"    version({artefact.version!r}, sha256={artefact.sha256!r}{', expand=False' if artefact.is_wheel else ''})",
        "",
        '    depends_on("python", type=("build", "run"))',
        *(f'    depends_on("py-{one}", type="build")' for one in build),
    ]
    return "\n".join(lines) + "\n"
