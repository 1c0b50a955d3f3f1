"""What is wrong with a site although each of its keys is well formed: facts that contradict each other, with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator

from envbuilder import container
from envbuilder.container import Container, HostSide
from envbuilder.document import where
from envbuilder.partition import Partition
from envbuilder.site import Site

# what each vendor's GPUs are called in device code, and whose toolkit compiles for them
_ARCHES = {"amd": r"gfx[0-9a-f]+", "nvidia": r"sm_[0-9]+[a-z]?"}
_TOOLKITS = {"amd": "rocm", "nvidia": "cuda", "intel": "oneapi"}


def mistakes(site: Site) -> list[str]:
    """Every contradiction, as `file:line:column: key: what is wrong; what to write`."""
    found = [*_about_paths(site), *_about_container(site)]
    for name, partition in site.partitions.items():
        found += [f"{place}partitions.{name}.{text}" for place, text in _about(site, partition)]
    return found


def _about_paths(site: Site) -> Iterator[str]:
    root = str(site.paths.root)
    if not site.paths.home_on_compute and re.match(r"~|\$HOME\b|\$\{HOME\}", root):
        yield (
            f"{where(site.paths.root)}paths.root: {root} lies in HOME, which compute nodes do not have; name a folder that "
            "they see"
        )
    if site.valid_from and site.valid_until and site.valid_from > site.valid_until:
        yield f"{where(site.valid_until)}valid_until: {site.valid_until} is before valid_from ({site.valid_from}); mend one"


def _about_container(site: Site) -> Iterator[str]:
    one = site.container
    yield from _about_binds(one, "container")
    for key, side in one.mpi.items():
        path = f"container.mpi.{key}"
        stated = [(two.mpi.name, two.mpi.version, two.fabric) for two in site.partitions.values() if two.mpi.name]
        # a partition that does not state its version may have any
        if not any(container.fits(key, name, version or container.parts(key)[1], net) for name, version, net in stated):
            known = (
                ", ".join(sorted({f"{n}@{v}/{net}".replace("@/", "/").rstrip("/") for n, v, net in stated})) or "none"
            )
            yield f"{_first(side)}{path}: no partition has this MPI on this network; they have {known}"
        yield from _about_binds(side, path)
        bound = [
            container.ends(bind)[1] for bind in (*one.binds, *one.optional_binds, *side.binds, *side.optional_binds)
        ]
        for folder in side.library_path:
            inside = f"{folder.rstrip('/')}/"
            if not any(
                f"{target.rstrip('/')}/".startswith(inside) or inside.startswith(f"{target.rstrip('/')}/")
                for target in bound
            ):
                yield f"{where(folder)}{path}.library_path: nothing is bound to {folder}; bind it, or leave it out"


def _about_binds(one: Container | HostSide, path: str) -> Iterator[str]:
    for bind in (*one.binds, *one.optional_binds):
        if container.hides(bind):
            target = container.ends(bind)[1]
            yield f"{where(bind)}{path}: {target} is what an image has of its own; bind the folders below it that are needed"
    for name, value in one.env.items():
        if name in ("LD_LIBRARY_PATH", "LD_PRELOAD"):
            yield f"{where(value)}{path}.env: {name} is not set by hand; write folders of libraries under `library_path`"


def _first(side: HostSide) -> str:
    """The place of an entry: that of the first text in it."""
    return next((where(text) for text in (*side.binds, *side.optional_binds, *side.library_path, *side.source)), "")


def _about(site: Site, partition: Partition) -> Iterator[tuple[str, str]]:
    gpu = partition.gpu
    if gpu.vendor in _ARCHES and not gpu.arch:
        yield where(gpu.vendor), "gpu: the key 'arch' is missing; device code cannot be checked without it"
    elif gpu.vendor in _ARCHES and not re.fullmatch(_ARCHES[gpu.vendor], gpu.arch):
        yield where(gpu.arch), f"gpu.arch: {gpu.arch!r} is no arch of {gpu.vendor}; write it as {_ARCHES[gpu.vendor]}"
    if gpu.toolkit and gpu.toolkit_name != _TOOLKITS.get(gpu.vendor):
        wanted = _TOOLKITS.get(gpu.vendor, "none")
        yield (
            where(gpu.toolkit),
            f"gpu.toolkit: {gpu.toolkit_name} is not the toolkit of {gpu.vendor}; write {wanted}@VERSION",
        )
    if partition.valid_from and partition.valid_until and partition.valid_from > partition.valid_until:
        yield where(partition.valid_until), f"valid_until: it is before valid_from ({partition.valid_from}); mend one"
    seen: dict[str, str] = {}
    for module in partition.modules:
        name = module.partition("/")[0]
        if name in seen and not name.startswith("craype"):
            yield where(module), f"modules: {seen[name]} and {module} are versions of one module; keep one"
        seen[name] = module
    for export in partition.exports_after_modules:
        if export.unset and export.to:
            yield where(export.to), "exports_after_modules: `unset` takes no `to`; remove it"
        if not export.unset and not export.to:
            yield where(export.set or export.prepend), "exports_after_modules: the key 'to' is missing; add `to: ...`"
    if "partition" in site.scheduler.required and not partition.scheduler.partition:
        place = where(partition.scheduler.source[0]) if partition.scheduler.source else where(site.scheduler.kind)
        yield place, "scheduler.partition: the scheduler's own name is missing; add `scheduler: {partition: ...}`"
    if gpu.count and site.scheduler.kind == "slurm" and partition.scheduler.gpus == "none":
        yield (
            where(gpu.vendor),
            "scheduler.gpus: jobs would get no GPU; add `gpus: total`, `per-node`, `gres` or `per-task`",
        )
