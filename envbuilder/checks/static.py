"""The checks of rung 0: files, owners, distributions, libraries, interpreter. No import, no process of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envbuilder import preload
from envbuilder.checks.base import Check, Failed, Finding, Passed
from envbuilder.evidence import Evidence, Expectation


def _rebuild(expectation: Expectation) -> str:
    return f"build it again from the lock: envbuilder build {_recipe(expectation)} --rebuild"


def _recipe(expectation: Expectation) -> str:
    """`name@version` of an identifier `name-version-digest`."""
    name, version, _ = expectation.environment.rsplit("-", 2)
    return f"{name}@{version}"


def _some(listed: Mapping[str, Any], limit: int = 3) -> str:
    shown = ", ".join(str(one) for one in listed["first"][:limit])
    more = listed["count"] - min(limit, len(listed["first"]))
    return f"{shown} and {more} more" if more > 0 else shown


def _files_intact(expectation: Expectation, evidence: Evidence) -> Finding:
    files, records = evidence.static["files"], evidence.static["records"]
    if records["changed"]["count"]:
        names = _some(records["changed"])
        return Failed(f"the RECORD of {names} is not the one that was installed", _rebuild(expectation))
    for kind, words in (("changed", "changed since they were installed"), ("missing", "missing")):
        if files[kind]["count"]:
            return Failed(
                f"{files[kind]['count']} file(s) {words}: {_some(files[kind])}",
                _rebuild(expectation),
                f"{files['count']} files hashed against RECORD and the manifest",
            )
    unreadable = [*files["unreadable"]["first"], *records["unreadable"]["first"]]
    if unreadable:
        return Failed(f"cannot be read: {', '.join(unreadable[:3])}", "give yourself the right to read the tree")
    return Passed(f"{files['count']} files and {records['count']} RECORDs are as they were installed")


def _no_extra_files(expectation: Expectation, evidence: Evidence) -> Finding:
    extra = evidence.static["extra"]
    if extra["count"]:
        return Failed(
            f"{extra['count']} file(s) belong to no distribution: {_some(extra)}",
            f"remove them, or {_rebuild(expectation)}",
        )
    return Passed(f"each of {evidence.static['count']} files belongs to a distribution or to envbuilder")


def _one_owner(expectation: Expectation, evidence: Evidence) -> Finding:
    owners = evidence.static["owners"]
    if owners["count"]:
        first = owners["first"][0]
        names = " and ".join(first["distributions"])
        return Failed(
            f"{names} both own {first['count']} file(s), such as {first['example']}: the last one installed won",
            f"keep one of them in the recipe; then {_rebuild(expectation)}",
        )
    return Passed("no file has two owners")


def _distributions(expectation: Expectation, evidence: Evidence) -> Finding:
    found = evidence.static["distributions"]
    mistakes = [
        *(f"{name} is {pair['found']}, locked is {pair['locked']}" for name, pair in found["other_version"].items()),
        *(f"{name} is missing" for name in found["missing"]),
        *(f"{name} is not in the lock" for name in found["additional"]),
        *(f"{name} is installed twice" for name in found["twice"]),
    ]
    if mistakes:
        return Failed(f"not what the lock says: {'; '.join(mistakes[:5])}", _rebuild(expectation))
    return Passed(f"{found['count']} distributions, all at their locked versions")


def _libraries_resolve(expectation: Expectation, evidence: Evidence) -> Finding:
    libraries = evidence.static["libraries"]
    if libraries["missing"]["count"]:
        needs = "; ".join(f"{one['object']} needs {one['library']}" for one in libraries["missing"]["first"][:3])
        outside = "load the module or install the package that has it"
        if expectation.image:
            outside = (
                "build the image on a base that has it (--base NAME), or let the host's in: --mpi host for its MPI"
            )
        return Failed(
            f"{libraries['missing']['count']} shared librar(ies) are nowhere: {needs}",
            f"{outside}; if it belongs to the tree, {_rebuild(expectation)}",
        )
    if len(libraries["machines"]) > 1:
        kinds = ", ".join(f"{count} of {name}" for name, count in libraries["machines"].items())
        return Failed(f"objects for different machines lie in one tree: {kinds}", _rebuild(expectation))
    optional = libraries["optional"]
    lacking = sorted({one["library"] for one in optional["first"]})
    passed_over = f"; plug-ins that lack {', '.join(lacking)} will be passed over" if lacking else ""
    return Passed(f"the needs of {libraries['objects']} ELF objects resolve{passed_over}")


def _no_shadowing(expectation: Expectation, evidence: Evidence) -> Finding:
    libraries = evidence.static["libraries"]
    inside = [one for one in libraries["shadowed"]["first"] if _matters(one, expectation)]
    if inside:
        one = inside[0]
        return Failed(
            f"LD_LIBRARY_PATH puts another {one['library']} first: {one['taken']} instead of {one['instead_of']}",
            "unset LD_LIBRARY_PATH, or take that folder out of it",
            f"needed by {one['object']}",
        )
    reasons = {one["entry"]: preload.reason(one, expectation.preloads) for one in libraries.get("preloads", ())}
    strange = [entry for entry, why in reasons.items() if why is None]
    if strange:
        beside = " beside what the site allows" if len(strange) < len(reasons) else ""
        return Failed(
            f"LD_PRELOAD is set: {' '.join(strange)}{beside}",
            "unset LD_PRELOAD, or take that out of it; where the site wants it in every process, its file says so under "
            "`allowed_preloads`: then build again",
        )
    allowed = "; ".join(f"LD_PRELOAD has {entry}, which the site allows: {why}" for entry, why in reasons.items())
    return Passed("; ".join(filter(None, (_library_path(libraries, evidence, bool(allowed)), allowed))))


def _library_path(libraries: Mapping[str, Any], evidence: Evidence, preloaded: bool) -> str:
    set_to = libraries["variables"].get("LD_LIBRARY_PATH")
    nothing = (
        "nothing but GPU libraries, see gpu-libraries" if evidence.static.get("gpu", {}).get("shadowed") else "nothing"
    )
    if set_to:
        return f"LD_LIBRARY_PATH changes {nothing} ({set_to})"
    return "LD_LIBRARY_PATH is not set" if preloaded else "LD_LIBRARY_PATH and LD_PRELOAD are not set"


def _matters(one: Mapping[str, str], expectation: Expectation) -> bool:
    """A library of the tree, the MPI or the interpreter's own: those decide what runs. Others may be the system's business."""
    mpi = expectation.mpi.library if expectation.mpi else ""
    inside = one["instead_of"].startswith(f"{expectation.prefix}/")
    # a system's library is found by its soname, which is a link
    return inside or mpi in (one["instead_of"], one.get("real")) or one["library"].startswith("libpython")


def _interpreter(expectation: Expectation, evidence: Evidence) -> Finding:
    facts = evidence.static["interpreter"]
    if "error" in facts:
        return Failed(facts["error"], _rebuild(expectation))
    if not facts["executable"] or not facts.get("inside", True):
        how = (
            "is gone or cannot be run"
            if not facts["executable"]
            else "lies outside of the environment, which has its own"
        )
        return Failed(f"the interpreter {facts['target']} {how}", _rebuild(expectation))
    said_by = "conda-meta" if expectation.conda else "pyvenv.cfg"
    if facts["version"] != facts["expected"]:
        return Failed(
            f"{said_by} says Python {facts['version'] or 'nothing'}, built for {facts['expected']}",
            _rebuild(expectation),
        )
    if facts["system_site_packages"] and expectation.base is None:
        return Failed("pyvenv.cfg lets the system's packages in", _rebuild(expectation))
    if expectation.base is not None and not facts["system_site_packages"]:
        return Failed("pyvenv.cfg keeps out the packages of the module it is a layer on", _rebuild(expectation))
    return Passed(f"Python {facts['version']} at {facts['target']}")


CHECKS: tuple[Check, ...] = (
    Check(
        name="interpreter",
        rung=0,
        title="the interpreter is there and is the one it was built on",
        source="static",
        judge=_interpreter,
        witnesses="pyvenv.cfg, or conda's record of its package python; and the file that bin/python leads to.",
        mistakes="`python --version` of whatever python comes first on the PATH.",
        fails="The interpreter was removed or upgraded, or system site packages were let in.",
    ),
    Check(
        name="files-intact",
        rung=0,
        title="every file is as it was installed",
        source="static",
        judge=_files_intact,
        witnesses="The sha256 of every file against its RECORD, or conda's record of its package; the sha256 of every such "
        "record against the manifest. Of what Spack built, the manifest has the sha256 of every file.",
        mistakes="`pip check` looks at metadata only; a RECORD edited together with its file satisfies a plain comparison.",
        fails="A byte was flipped, a file was edited or removed, a RECORD was rewritten. Bytecode is not compared.",
    ),
    Check(
        name="no-extra-files",
        rung=0,
        title="no file came in behind the lock",
        source="static",
        judge=_no_extra_files,
        witnesses="Every file below the prefix against all RECORDs and the files that envbuilder wrote.",
        mistakes="Comparing RECORDs finds what changed, not what was added, such as a .pth or sitecustomize.py.",
        fails="A file that nobody owns, or bytecode without a source.",
    ),
    Check(
        name="one-owner",
        rung=0,
        title="no file has two owners",
        source="static",
        judge=_one_owner,
        witnesses="The paths of all RECORDs.",
        mistakes="Installers overwrite silently, and both distributions look installed.",
        fails="Two distributions bring the same file, as tensorflow and tensorflow-cpu do.",
    ),
    Check(
        name="distributions",
        rung=0,
        title="the distributions are those of the lock",
        source="static",
        judge=_distributions,
        witnesses="The folders of metadata in site-packages against the lock; of what Spack built, whose names differ, "
        "against those that it brought.",
        mistakes="`pip list` by itself says what is there, not what should be.",
        fails="A distribution is missing, added, doubled or of another version.",
    ),
    Check(
        name="libraries-resolve",
        rung=0,
        title="every needed shared library is found",
        source="static",
        judge=_libraries_resolve,
        witnesses="DT_NEEDED of every ELF object, searched for as ld.so does under the variables of the moment.",
        mistakes="Importing tries only what is imported; metadata knows nothing of libraries outside Python.",
        fails="A library was removed or belongs to a module that is not loaded, or an object is for another machine.",
    ),
    Check(
        name="no-shadowing-libraries",
        rung=0,
        title="no variable puts other libraries first",
        source="static",
        judge=_no_shadowing,
        witnesses="The same search with and without LD_LIBRARY_PATH, and LD_PRELOAD.",
        mistakes="Everything resolves, imports and runs; it is just another library, an MPI of another machine for example.",
        fails="LD_LIBRARY_PATH replaces a library of the tree, the MPI or the interpreter's own; LD_PRELOAD names what the "
        "site file does not allow (`allowed_preloads`). The GPU libraries of a recipe for GPUs are left to gpu-libraries.",
    ),
)
