"""The static witness of GPU code: for which GPUs a tree's libraries carry code, and which GPU libraries really get loaded.

The libraries of ROCm and CUDA that lie in a wheel are found through DT_RUNPATH, so LD_LIBRARY_PATH (which modules named
`rocm` or `cuda` set) comes before them: pytorch/builder#1468, ROCm/pytorch#1340.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envbuilder import gpu_code, linking
from envbuilder.elf import ElfFacts
from envbuilder.linking import Linker

# the run-time libraries of ROCm and CUDA; libcuda and libnvidia-ml are the driver's and never in a wheel
_RUNTIME = re.compile(
    r"lib(amdhip64|amd_comgr|MIOpen|migraphx|rccl|hsa|hip|roc|cu(dart|blas|dnn|fft|sparse|solver|rand|pti|file)|nccl|nvrtc"
    r"|nvJitLink|nvToolsExt|nvshmem)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """A GPU library of the tree that LD_LIBRARY_PATH replaces for `object`: paths, and GNU build-ids in hex ("" if none).

    `by_module` says whether a module of the partition put that folder there.
    """

    library: str
    bundled: str
    bundled_build_id: str
    taken: str
    taken_build_id: str
    object: str
    by_module: bool


def gpu_facts(
    prefix: Path,
    objects: Iterable[str],
    *,
    vendor: str,
    arch: str,
    toolkit: str,
    wheel_toolkit: str,
    env: Mapping[str, str],
    module_folders: Iterable[str] = (),
) -> dict[str, Any]:
    """What the checks of `envbuilder.checks.gpu` judge, for the ELF objects at these paths relative to `prefix`.

    `vendor` (`amd`) and `arch` (`gfx90a`) are the partition's, `toolkit` (`rocm@5.2.3`) what its modules load and
    `wheel_toolkit` (`rocm@5.2`) what the wheels were built for; each "" if not known. `env` holds the variables of the
    process that would import the tree, `module_folders` what the modules put into its LD_LIBRARY_PATH. Symbolic links are
    passed over: what they lead to is read once. A library whose device code is a stub without kernels does not count. Raises
    OSError.
    """
    paths = {name: prefix / name for name in objects}
    paths = {name: path for name, path in paths.items() if not path.is_symlink()}
    found = [
        {"object": name, "targets": list(code.targets), "unreadable": code.unreadable}
        for name, path in sorted(paths.items())
        if (code := gpu_code.read(path)) is not None and (code.targets or code.unreadable)
    ]
    facts = linking.objects(paths.values())
    bundled = _bundled(facts)
    ours = {os.path.normpath(folder) for folder in module_folders}
    replaced = {
        one.library: one for one in reversed(list(_replaced(facts, bundled, linking.linker(env), prefix, ours)))
    }
    return {
        "vendor": vendor,
        "arch": arch,
        "toolkit": toolkit,
        "wheel_toolkit": wheel_toolkit,
        "objects": found,
        "count": len(found),
        "bundled": sorted(bundled),
        "shadowed": [asdict(one) for _, one in sorted(replaced.items())],
    }


def _bundled(found: Mapping[Path, ElfFacts]) -> dict[str, Path]:
    """The GPU libraries of a tree, by the names that others need them by."""
    libraries: dict[str, Path] = {}
    for path, facts in found.items():
        for name in (facts.soname, path.name):
            if _RUNTIME.match(name):
                libraries.setdefault(name, path)
    return libraries


def _replaced(
    found: Mapping[Path, ElfFacts], bundled: Mapping[str, Path], search: Linker, prefix: Path, ours: AbstractSet[str]
) -> Iterator[Replaced]:
    """Every need of a bundled library that is taken from a folder of LD_LIBRARY_PATH instead."""
    if not search.library_path:
        return
    folders = {os.path.normpath(folder) for folder in search.library_path}
    # what is opened by name (rocBLAS and MIOpen by TensorFlow) is nobody's need: a plain dlopen looks there first too
    opened = {library: (path, found[path]) for library, path in bundled.items()}
    needs = [(path, facts, library) for path, facts in found.items() for library in facts.needed if library in bundled]
    needs += [(path, facts, library) for library, (path, facts) in opened.items() if facts.soname in ("", library)]
    for path, facts, library in needs:
        taken = search.resolve(library, os.path.dirname(os.path.realpath(path)), facts)
        own = bundled[library]
        if not taken or os.path.normpath(os.path.dirname(taken)) not in folders or _inside(taken, prefix):
            continue
        theirs = linking.objects([Path(taken)]).get(Path(taken))
        yield Replaced(
            library=library,
            bundled=str(own),
            bundled_build_id=found[own].build_id,
            taken=taken,
            taken_build_id=theirs.build_id if theirs else "",
            object=str(path.relative_to(prefix)),
            by_module=os.path.normpath(os.path.dirname(taken)) in ours,
        )


def _inside(path: str, prefix: Path) -> bool:
    return os.path.realpath(path).startswith(f"{os.path.realpath(prefix)}{os.sep}")
