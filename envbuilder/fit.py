"""Whether a recipe can work on a partition, decided from the two files alone: before anything is loaded or downloaded."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping

from envbuilder.document import where
from envbuilder.errors import InputError
from envbuilder.partition import Partition
from envbuilder.recipe import Recipe, Variant


def misfit(
    recipe: Recipe, variant: Variant, partition: Partition, facts: Mapping[str, str], *, own_python: bool = False
) -> str:
    """Why this variant cannot work on this partition, or nothing.

    `facts` maps the keys of a condition (site, partition, arch, mpi, provider, gpu) to their values; with `own_python` the
    user names an interpreter, and the partition's does not count. Raises `InputError` for a condition on something else.
    """
    python = "" if own_python else _other_python(variant, partition)
    return (
        _infeasible(recipe, variant, facts)
        or _lacking(recipe, partition)
        or _unpromised(recipe, partition)
        or "; ".join(filter(None, (_other_toolkit(variant, partition), python)))
    )


def _infeasible(recipe: Recipe, variant: Variant, facts: Mapping[str, str]) -> str:
    known = {**facts, "variant": variant.version}
    for entry in recipe.infeasible:
        conditions = [part.strip().partition("=") for part in entry.when.split(",")]
        unknown = [key for key, _, _ in conditions if key not in known]
        if unknown:
            raise InputError(
                f"{where(entry.when)}infeasible: unknown condition {unknown[0]!r}",
                hint=f"known are {', '.join(sorted(known))}",
            )
        if all(fnmatch.fnmatchcase(known[key], value) for key, _, value in conditions):
            return f"{entry.why} ({entry.when})"
    return ""


def _lacking(recipe: Recipe, partition: Partition) -> str:
    lacking = [need for need in recipe.needs if need not in partition.offers()]
    return f"the partition does not offer {', '.join(lacking)}, which the recipe needs" if lacking else ""


def _unpromised(recipe: Recipe, partition: Partition) -> str:
    """Variables of modules that the recipe compiles with: a site that has them says so under `promises`."""
    values = [value for source in recipe.sources.values() for value in source.env.values()]
    asked = {name for value in values for name in re.findall(r"\bmodules\.(\w+)", value)}
    missing = sorted(asked - set(partition.promises))
    if not missing:
        return ""
    return f"it is compiled with {' and '.join(missing)} of the site's modules, which the partition does not promise"


def _other_toolkit(variant: Variant, partition: Partition) -> str:
    """An index tag (rocm5.2) against the toolkit that the partition's modules load (rocm@6.3.4).

    The libraries of a GPU toolkit are named alike in all its versions, and the module's come before the wheel's
    (pytorch/builder#1468), so a wheel for another version installs cleanly and runs wrong.
    """
    if not variant.toolkit:
        return ""
    from packaging.requirements import Requirement

    wanted = Requirement(variant.toolkit)
    gpu = partition.gpu
    if not gpu.toolkit:
        return ""
    tag = f" (index tag {variant.tag})" if variant.tag else ""
    if wanted.name != gpu.toolkit_name or not wanted.specifier.contains(gpu.toolkit_version):
        return f"it is built for {variant.toolkit}{tag}, and the partition has {gpu.toolkit}"
    return ""


def _other_python(variant: Variant, partition: Partition) -> str:
    """The Python that the site's module has, against those for which wheels exist (their ABI tags)."""
    version = partition.python.version
    if not version:
        return ""
    from packaging.specifiers import SpecifierSet

    if SpecifierSet(variant.python).contains(version):
        return ""
    tag = "cp" + "".join(version.split(".")[:2])
    return f"it needs Python {variant.python}, and the partition's is {version}: no wheel of it has the ABI tag {tag}"
