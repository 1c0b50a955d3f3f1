"""Rung 4: which MPI library every rank really has, and whether its collective operations give the right results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.reading import Facts, set_variables, word
from envbuilder.evidence import Evidence, Expectation, MpiExpectation, RankEvidence


def ranks_with(evidence: Evidence, name: str) -> list[RankEvidence] | NotRun:
    """The ranks, if each of them has the facts of this name."""
    run = evidence.runs.get("ranks")
    if run is None:
        return NotRun("the probe of several ranks was not run")
    without = [rank.rank for rank in run.ranks if not _has(rank, name)]
    if without or not run.ranks:
        who = ", ".join(map(str, without)) or "any"
        return NotRun(f"rank {who} left no facts about '{name}'; see ranks-started")
    return list(run.ranks)


def _has(rank: RankEvidence, name: str) -> bool:
    found = rank.facts.get(name)
    return isinstance(found, Mapping) and "error" not in found


def _library(expectation: Expectation, evidence: Evidence) -> Finding:
    expected = expectation.mpi
    if expected is None:
        return NotRun("the lock names no MPI library")
    run = evidence.runs.get("ranks")
    if run is None:
        return NotRun("the probe of several ranks was not run")
    # ranks that died later still tell which library they had
    seen = [rank for rank in run.ranks if _has(rank, "mpi")]
    for rank in seen:
        failed = _wrong_library(rank, expected)
        if failed is not None:
            return failed
    complete = ranks_with(evidence, "mpi")
    if isinstance(complete, NotRun):
        return complete
    facts = complete[0].facts["mpi"]
    tool = _between(facts)
    return Passed(
        f"{word(len(complete), 'rank')}: {facts.get('implementation')} ({facts.get('library_version')}), the only one mapped, "
        f"called by {_short(str(facts.get('extension', '')))}{tool}"
    )


def _short(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _between(facts: Facts) -> str:
    owner, library = facts.get("owner"), facts.get("implementation")
    return f", with {owner} in between" if owner and owner != library else ""


def _wrong_library(rank: RankEvidence, expected: MpiExpectation) -> Failed | None:
    facts = rank.facts["mpi"]
    implementation = str(facts.get("implementation", ""))
    if not implementation:
        return Failed(
            f"rank {rank.rank}: mpi4py binds no PMPI_Init_thread of any mapped library",
            "build mpi4py anew against the MPI",
        )
    libraries = _implementing(rank.facts)
    used = next((library for library in libraries if library.get("realpath") == implementation), {})
    if implementation != expected.library and not _NAMED.search(_short(implementation)):
        return Failed(
            f"rank {rank.rank}: the MPI that mpi4py calls ({facts.get('library_version')}) was linked statically into "
            f"{implementation}, and is not {expected.library} ({expected.name} {expected.version})",
            "link what has it inside with the shared library and build it anew: without -static, libmpi.a and libmpich.a",
            f"found: {_identity(used)}; expected: soname {expected.soname}, sha256 {expected.sha256[:12]}",
        )
    if implementation != expected.library and not _same(used, expected):
        return Failed(
            f"rank {rank.rank} uses {implementation} ({facts.get('library_version')}), and not "
            f"{expected.library} ({expected.name} {expected.version}){_by(rank.facts)}",
            _remedy(rank.facts),
            f"found: {_identity(used)}; expected: soname {expected.soname}, sha256 {expected.sha256[:12]}",
        )
    if used.get("sha256") and expected.sha256 and not _same(used, expected):
        return Failed(
            f"rank {rank.rank}: {implementation} is not the file that was there when the environment was built",
            "build the environment anew, or restore the library",
            f"found: {_identity(used)}; expected: sha256 {expected.sha256[:12]}",
        )
    if len(libraries) > 1:
        return _several(rank, libraries, implementation)
    return None


def _several(rank: RankEvidence, libraries: list[Mapping[str, Any]], used: str) -> Failed:
    """More than one MPI in a process: which one mpi4py calls, and what brought the others."""
    told = [
        f"{library.get('realpath')}{_needed_by(library) if library.get('realpath') != used else ' (which mpi4py calls)'}"
        for library in libraries
    ]
    own = rank.facts["mpi"].get("extension")
    others = [library for library in libraries if library.get("realpath") != used]
    bringing = [str(path) for library in others for path in library.get("needed_by", ()) if path != own]
    return Failed(
        f"rank {rank.rank} has {len(libraries)} MPI libraries mapped: {' and '.join(told)}{_by(rank.facts)}",
        f"build {', '.join(map(_short, bringing[:3]))} anew for the MPI of mpi4py" if bringing else _remedy(rank.facts),
    )


def _needed_by(library: Mapping[str, Any]) -> str:
    """What was linked with it, of the objects that are mapped."""
    paths = [str(path) for path in library.get("needed_by", ())]
    if paths:
        return f" (needed by {', '.join(paths[:3])})"
    return "" if _NAMED.search(_short(str(library.get("realpath", "")))) else " (which has it linked in statically)"


def _implementing(facts: Facts) -> list[Mapping[str, Any]]:
    """The mapped libraries that implement MPI, at the end of the probe where it came so far, each file once."""
    listed = facts.get("libraries_at_end") or facts["mpi"].get("libraries", ())
    by_file = {library.get("realpath"): library for library in listed if library.get("implements")}
    return [by_file[path] for path in sorted(by_file, key=str)]


def _same(library: Mapping[str, Any], expected: MpiExpectation) -> bool:
    """Whether a mapped library is the expected one, wherever it lies: by content or by build-id."""
    if expected.sha256 and library.get("sha256") == expected.sha256:
        return True
    return bool(expected.build_id) and library.get("build_id") == expected.build_id


def _identity(library: Mapping[str, Any]) -> str:
    return f"soname {library.get('soname')}, sha256 {str(library.get('sha256', ''))[:12]}"


def _by(facts: Facts) -> str:
    told = set_variables(facts)
    return f"; set in the rank: {told}" if told else ""


def _remedy(facts: Facts) -> str:
    told = set_variables(facts)
    if not told:
        return "build the environment anew for this MPI, or load the modules that it was built with"
    names = ", ".join(item.partition("=")[0] for item in told.split(", ") if "=" in item)
    moved = "; if it is the site's own folder, which leads to another version now, build the environment anew"
    return (
        f"unset {names}, or take the directory of the other MPI out of it{moved if 'LD_LIBRARY_PATH' in names else ''}"
    )


def _allreduce(_: Expectation, evidence: Evidence) -> Finding:
    ranks = ranks_with(evidence, "collectives")
    if isinstance(ranks, NotRun):
        return ranks
    for rank in ranks:
        facts = rank.facts["collectives"]
        floats = facts["floats"]
        if floats["wrong"]:
            return Failed(
                f"rank {rank.rank}: Allreduce of {floats['count']} float64 is wrong in {floats['wrong']} elements; element "
                f"{floats['first_wrong']} is {floats['seen']}, right is {floats['right']}",
                "look for what stands between mpi4py and MPI; try another transport (FI_PROVIDER=tcp, UCX_TLS=tcp)",
            )
        for name in ("integers", "gathered", "broadcast"):
            if facts[name]["seen"] != facts[name]["right"]:
                return Failed(
                    f"rank {rank.rank}: {_WORDS[name]} gave {facts[name]['seen']}, right is {facts[name]['right']}",
                    "look for what stands between mpi4py and MPI",
                )
    count = ranks[0].facts["collectives"]["floats"]["count"]
    return Passed(f"integers, {count} float64 (exact), allgather in order, broadcast, on {word(len(ranks), 'rank')}")


_NAMED = re.compile(r"^lib[a-z_]*mpi[^/]*\.so")

_WORDS = {
    "integers": "allreduce of the ranks",
    "gathered": "allgather of the ranks",
    "broadcast": "broadcast from the last rank",
}

CHECKS: tuple[Check, ...] = (
    Check(
        name="mpi-library",
        rung=4,
        title="every rank uses the expected MPI library",
        source="ranks",
        judge=_library,
        features=frozenset({"mpi4py"}),
        witnesses="In each live rank: the library whose PMPI_Init_thread mpi4py's extension binds (dladdr), every mapped "
        "library that implements MPI (/proc/self/maps), their paths, sha256, soname and build-id.",
        mistakes="mpi4py's published wheel takes whatever libmpi comes first, and MPIs of one ABI share the soname "
        "libmpi.so.12. ldd resolves with the variables of the shell that runs it, not with those of the rank.",
        fails="Another library than the lock's (by path, content or build-id), its file changed, or more than one mapped; "
        "LD_LIBRARY_PATH, LD_PRELOAD and MPI4PY_LIBMPI are named when they are set.",
    ),
    Check(
        name="mpi-allreduce",
        rung=4,
        title="collective operations give the right results",
        source="ranks",
        judge=_allreduce,
        features=frozenset({"mpi4py"}),
        witnesses="All-reduce of integers and of 1024 float64 with a known sum, exact in any order; allgather; broadcast.",
        mistakes="A sum of ones is right when every rank adds its own value only, in a world of one.",
        fails="A result that is not the one in closed form, by rank, operation and element.",
    ),
)
