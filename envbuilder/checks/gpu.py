"""The checks of rung 0 on GPUs: device code for the partition's GPU, and which of the GPU libraries get loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envbuilder import gpu_code
from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.evidence import Evidence, Expectation

_UNSEEN = NotRun("the tree was not searched for device code: no partition with a GPU was named")


def _gpu_code(_: Expectation, evidence: Evidence) -> Finding:
    facts = evidence.static.get("gpu")
    if not facts or not facts["arch"]:
        return _UNSEEN
    arch, objects = facts["arch"], facts["objects"]
    if not objects:
        return Failed(
            f"no library has device code for any GPU: a CPU build was installed, {arch} is needed",
            f"take the packages from the index of their GPU builds{_for_toolkit(facts)}, and lock again",
            "no .hip_fatbin and no .nv_fatbin in any ELF object",
        )
    lacking = [one for one in objects if not gpu_code.covers(one["targets"], arch)]
    wrong = [one for one in lacking if not one["unreadable"]]
    seen = f"{len(objects)} libraries with device code"
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more such libraries)" if len(wrong) > 1 else ""
        return Failed(
            f"{first['object']} has device code for {_words(first['targets'])}, {arch} is needed{more}",
            f"choose a version whose wheels are built for {arch}, or build it from source for {arch}, and lock again",
            seen,
        )
    if lacking:
        first = lacking[0]
        return NotRun(f"it cannot be told whether {first['object']} has code for {arch}: {first['unreadable']}")
    targets = sorted({target for one in objects for target in one["targets"]})
    return Passed(f"{seen}, each for {arch}; together for {_words(targets)}")


def _gpu_libraries(_: Expectation, evidence: Evidence) -> Finding:
    facts = evidence.static.get("gpu")
    if not facts:
        return _UNSEEN
    replaced = facts["shadowed"]
    if not replaced:
        return Passed(f"LD_LIBRARY_PATH replaces none of the {len(facts['bundled'])} GPU libraries in the tree")
    different = [one for one in replaced if not _same(one)]
    if not different:
        return Passed(
            f"LD_LIBRARY_PATH replaces {len(replaced)} GPU librar(ies) by the very same: {_pairs(replaced)}, by build-id"
        )
    toolkit, wheel = facts["toolkit"], facts["wheel_toolkit"]
    # of a folder that no module of the partition put there nobody knows which toolkit it is
    wrong = [one for one in different if not (one["by_module"] and _agree(toolkit, wheel))]
    if not wrong:
        return Passed(f"LD_LIBRARY_PATH comes first, with {toolkit} for wheels built for {wheel}: {_pairs(different)}")
    first = wrong[0]
    ids = f"build-ids {first['taken_build_id'] or 'none'} and {first['bundled_build_id'] or 'none'}"
    wanted = f"; the wheels are for {wheel}" if wheel else ""
    return Failed(
        f"LD_LIBRARY_PATH puts another {first['library']} first: {first['taken']} instead of {first['bundled']}{wanted}",
        "take that folder out of LD_LIBRARY_PATH, or load a toolkit of the wheels' major and minor version",
        f"needed by {first['object']}; {ids}; {len(wrong)} librar(ies) in all",
    )


def _for_toolkit(facts: Mapping[str, Any]) -> str:
    return f" for {facts['toolkit']}" if facts["toolkit"] else ""


def _words(targets: list[str]) -> str:
    return ", ".join(targets) or "no GPU"


def _same(one: Mapping[str, str]) -> bool:
    """By build-id: a wheel's copy has other search paths written into it, so the bytes differ though the code does not."""
    return bool(one["bundled_build_id"]) and one["bundled_build_id"] == one["taken_build_id"]


def _pairs(replaced: list[Mapping[str, str]], limit: int = 3) -> str:
    shown = ", ".join(f"{one['library']} from {one['taken']}" for one in replaced[:limit])
    return f"{shown} and {len(replaced) - limit} more" if len(replaced) > limit else shown


def _agree(first: str, second: str) -> bool:
    """Whether two toolkits (`rocm@5.2.3`, `rocm@5.2`) are the same in name, major and minor version."""
    return _minor(first) == _minor(second) != ()


def _minor(toolkit: str) -> tuple[str, ...]:
    name, _, version = toolkit.partition("@")
    parts = version.split(".")
    return (name, *parts[:2]) if name and len(parts) >= 2 else ()


CHECKS: tuple[Check, ...] = (
    Check(
        name="gpu-code",
        rung=0,
        title="device code for the partition's GPU is in every GPU library",
        source="static",
        judge=_gpu_code,
        features=frozenset({"gpu"}),
        witnesses="The targets in the offload bundles and fat binaries of every ELF object, against the partition's GPU.",
        mistakes="A GPU that is found and a framework that imports; the first kernel fails, or PTX is compiled for minutes. "
        "A search for gfx names in the whole file finds every processor that LLVM knows.",
        fails="A wheel built for other GPUs, or the CPU build of the same name and version. Code in files beside a library, "
        "or compiled when it is first run, is not seen; nor is a single kernel that lacks a target.",
    ),
    Check(
        name="gpu-libraries",
        rung=0,
        title="the wheels' own GPU libraries are the ones that get loaded",
        source="static",
        judge=_gpu_libraries,
        features=frozenset({"gpu"}),
        witnesses="For each GPU library in the tree the file that LD_LIBRARY_PATH puts before it, compared by build-id.",
        mistakes="Everything resolves; but RUNPATH comes after LD_LIBRARY_PATH, so a module of another ROCm or CUDA wins.",
        fails="A toolkit's folder in LD_LIBRARY_PATH has a library that the wheels bring too, in another major or minor "
        "version than they were built for; or a folder that none of the partition's modules put there has another build.",
    ),
)
