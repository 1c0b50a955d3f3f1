"""What a machine has, as externals for Spack: the interpreter, the MPI and the compilers that a target was found with. Pure.

The site file goes first: what it declares under `externals` is not looked up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from envbuilder import spack_environment
from envbuilder.errors import InputError
from envbuilder.externals import External
from envbuilder.partition import MpiContract, Partition
from envbuilder.recipe import Recipe
from envbuilder.spack_config import MPIS
from envbuilder.spec import Spec
from envbuilder.target import Compiler, Mpi, Target

# what GCC says of itself, by whatever name it is called
_GCC = re.compile(r"\S*(?:cc|gcc|\+\+)\S*(?: \([^)]*\))? (?P<version>\d+(?:\.\d+)+)\b")


def document(
    recipe: Recipe, specs: tuple[Spec, ...], partition: Partition, target: Target, fortran: str = ""
) -> dict[str, Any]:
    """The environment (`spack.yaml`) that is concretized and installed here; `fortran` is the compiler beside the one for C.

    Raises `InputError` for a recipe without specs, and with all that Spack would take from elsewhere or build anew because
    neither the site file nor the machine says what there is.
    """
    if not recipe.specs:
        raise InputError(f"{recipe.name} has no `specs`, which are what Spack is told", hint="add them to the recipe")
    if recipe.not_in_spack:
        raise InputError(
            f"{recipe.name} needs {', '.join(recipe.not_in_spack)}, which Spack has no package for",
            hint="leave --builder out; `envbuilder export spack --lock DIR` writes packages of its own for such",
        )
    whole = completed(partition, target, fortran)
    made = spack_environment.environment(recipe, specs, whole, None)
    if made.unknown:
        lines = "\n".join(f"    {line}" for line in made.unknown)
        raise InputError(
            f"not known of {target.site}/{target.partition}, so Spack cannot be held to it:\n{lines}",
            hint="write it in the site file (`externals`), or leave --builder out",
        )
    spack = dict(made.document["spack"])
    return {"spack": {**spack, "view": False, "concretizer": _concretizer(spack["concretizer"], partition)}}


def completed(partition: Partition, target: Target, fortran: str = "") -> Partition:
    """The partition with externals for what the target was found with and it does not declare."""
    declared = {one.name for one in partition.externals}
    compiled = any(one.compilers for one in partition.externals)
    found = [
        *((_python(target, partition),) if "python" not in declared else ()),
        *(_mpi(target.mpi, partition) if not declared & set(MPIS) else ()),
        *(_compiler(target.compiler, fortran, partition) if not compiled else ()),
    ]
    contract = partition.mpi
    if target.mpi is not None and target.mpi.provider == "system":
        contract = replace(contract, provider="system", name=target.mpi.name, version=_version(target.mpi.version))
    elif target.mpi is None:
        contract = MpiContract(provider="none")
    return replace(partition, externals=(*partition.externals, *found), mpi=contract)


def _concretizer(settings: Mapping[str, Any], partition: Partition) -> dict[str, Any]:
    """On the machine that it is for, what is compiled must run here unless the site names a microarchitecture."""
    here = not partition.cpu.target
    return {**settings, "targets": {**settings["targets"], "host_compatible": here}}


def _python(target: Target, partition: Partition) -> External:
    folder = os.path.dirname(os.path.dirname(target.python.path))
    return External(spec=f"python@{target.python.version}", prefix=folder, modules=partition.modules)


def _mpi(mpi: Mpi | None, partition: Partition) -> Iterator[External]:
    """The machine's MPI, where its compiler wrapper is; Cray's wrappers lie elsewhere, and its library tells."""
    if mpi is None or mpi.provider != "system" or not _version(mpi.version):
        return
    program = mpi.library if mpi.name == "cray-mpich" else mpi.mpicc.partition(" ")[0]
    folder = os.path.dirname(os.path.dirname(program))
    yield External(spec=f"{mpi.name}@{_version(mpi.version)}", prefix=folder, modules=partition.modules)


def _compiler(compiler: Compiler | None, fortran: str, partition: Partition) -> Iterator[External]:
    found = _GCC.match(compiler.version) if compiler else None
    if compiler is None or found is None:
        return
    programs = {"c": compiler.path, "cxx": compiler.cxx, "fortran": fortran}
    yield External(
        spec=f"gcc@{found['version']}",
        prefix=os.path.dirname(os.path.dirname(compiler.path)),
        modules=partition.modules,
        compilers={language: path for language, path in programs.items() if path},
    )


def _version(text: str) -> str:
    """The number in what an MPI says of its version."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found.group() if found else ""
