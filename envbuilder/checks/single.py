"""Rung 1: what one process imports, from where, in which version, and at what cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from envbuilder.checks.backend import CHECKS as BACKEND
from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.folders import CHECKS as FOLDERS
from envbuilder.checks.gpu_device import CHECKS as GPU_DEVICE
from envbuilder.checks.horovod import BUILT
from envbuilder.checks.reading import Facts, ending, inside, only, part, said, tail, word
from envbuilder.checks.requirements import CHECKS as REQUIREMENTS
from envbuilder.checks.requirements import broken
from envbuilder.checks.torch_mpi import LINKED
from envbuilder.checks.training import CHECKS as TRAINING
from envbuilder.evidence import Evidence, Expectation

_OUTSIDE = "start it through `envbuilder run`, or unset the variable"
_INTO_IMAGE = (
    "start it through `envbuilder run`, or a runtime with --cleanenv; unset PYTHONPATH under its names for images, too: "
    "APPTAINERENV_PYTHONPATH, SINGULARITYENV_PYTHONPATH"
)


def _import(expectation: Expectation, evidence: Evidence) -> Finding:
    rank = only(evidence)
    if isinstance(rank, (Failed, NotRun)):
        return rank
    run = evidence.runs["single"]
    if not rank.finished:
        return Failed(
            f"the process {ending(run)} in phase '{rank.phase}'",
            "run the import by hand in the environment; the last lines of the log are below",
            tail(run),
        )
    for name in ("imports", "interpreter"):
        facts = part(evidence, name)
        if isinstance(facts, (Failed, NotRun)):
            return facts
    return _imported(expectation, rank.facts)


def _imported(expectation: Expectation, facts: Facts) -> Finding:
    imports = facts["imports"]
    for name in expectation.imports:
        fact = imports.get(name)
        if not isinstance(fact, Mapping):
            return Failed(f"the probe did not try to import {name}", "verify again")
        failed = _import_failed(name, fact, facts, expectation)
        if failed is not None:
            return failed
    count = word(len(expectation.imports), "module")
    where = "from inside the environment"
    if expectation.base is not None:
        where += f" or the module {expectation.base['module']} below it"
    return Passed(f"{count} {where}: {_listed(expectation, imports)}")


def _listed(expectation: Expectation, facts: Facts) -> str:
    return ", ".join(f"{name} {facts[name].get('version', '')}".strip() for name in expectation.imports)


def _import_failed(name: str, fact: Facts, facts: Facts, expectation: Expectation) -> Failed | None:
    error = fact.get("error")
    if isinstance(error, Mapping):
        return _not_imported(name, fact, error, facts)
    if _from_environment(fact, facts, expectation):
        return None
    return Failed(
        f"{name} was imported from {fact.get('file', '')}, outside of the environment{_by(str(fact.get('file', '')), facts)}",
        _INTO_IMAGE if expectation.image else _OUTSIDE,
        f"expected below {expectation.prefix}",
    )


def _not_imported(name: str, fact: Facts, error: Facts, facts: Facts) -> Failed:
    trace = str(error.get("traceback", ""))
    _, unmet = broken(facts)
    if unmet:
        return Failed(
            f"{name} cannot be imported: {said(error)}; {unmet[0]}",
            "correct the recipe's packages, lock and build anew",
            trace,
        )
    by = _foreign(trace, facts) or _by(str(fact.get("top", "")), facts) or _library_path(error, facts)
    return Failed(
        f"{name} cannot be imported: {_reason(error)}{by or _passed_over(fact)}",
        _OUTSIDE if by else "read the traceback; if a file is missing or foreign, build the environment anew",
        trace,
    )


def _reason(error: Facts) -> str:
    """An exception in one line; where it is advice around another one, as NumPy's is, the other one."""
    inner = re.search(r"^Original error was: (.+)$", str(error.get("message", "")), re.MULTILINE)
    return f"{error.get('kind')}: {inner.group(1)}" if inner else said(error)


def _library_path(error: Facts, facts: Facts) -> str:
    """A clause that names the folder of LD_LIBRARY_PATH which holds the library that an exception names."""
    for entry in str(facts.get("environment", {}).get("LD_LIBRARY_PATH", "")).split(":"):
        if entry and f"{entry.rstrip('/')}/" in str(error.get("message", "")):
            return f": LD_LIBRARY_PATH puts {entry} first"
    return ""


def _passed_over(fact: Facts) -> str:
    """A clause that names the extensions of a module that Python does not find: it passed over those of another ABI."""
    names = [str(name) for name in fact.get("passed_over", ())]
    return f"; {', '.join(names)} is there, and was compiled for another Python" if names else ""


def _foreign(trace: str, facts: Facts) -> str:
    """A clause that names the file of a traceback that comes in by a variable, if there is one."""
    for file in re.findall(r'File "([^"]+)"', trace):
        by = _by(file, facts)
        if by:
            return f"; {file} takes part{by}"
    return ""


def _from_environment(fact: Facts, facts: Facts, expectation: Expectation) -> bool:
    python = facts["interpreter"]
    roots = (expectation.prefix, str(python.get("prefix", "")), str(python.get("real_prefix", "")))
    paths = (str(fact.get("file", "")), str(fact.get("real_file", "")))
    if not paths[0]:  # built into the interpreter
        return True
    stdlib = str(python.get("stdlib", ""))
    if inside(paths[1], stdlib) and "site-packages" not in paths[1]:
        return True
    if expectation.base is not None:  # of a layer only what it does not install itself may come from the module below
        roots = (*roots, *expectation.base["paths"])
    return any(inside(path, *roots) for path in paths)


def _by(path: str, facts: Facts) -> str:
    """A clause that says what put a path onto sys.path: PYTHONPATH, the user site, or something else; "" if nothing."""
    environment, python = facts.get("environment", {}), facts.get("interpreter", {})
    for entry in str(environment.get("PYTHONPATH", "")).split(":"):
        if entry and inside(path, entry.rstrip("/")):
            return f": PYTHONPATH puts {entry} first"
    user = str(python.get("user_site", ""))
    if user and inside(path, user):
        return ": the user site directory comes before the environment (PYTHONNOUSERSITE=1 keeps it out)"
    home = str(environment.get("PYTHONHOME", ""))
    if home and inside(path, home):
        return f": PYTHONHOME={home}"
    return ""


def _versions(expectation: Expectation, evidence: Evidence) -> Finding:
    found = part(evidence, "distributions")
    if isinstance(found, (Failed, NotRun)):
        return found
    rank = only(evidence)
    if isinstance(rank, (Failed, NotRun)):
        return rank
    wrong = [
        text
        for name, version in sorted(expectation.packages.items())
        if (text := _wrong_version(name, version, found.get(name), rank.facts, expectation))
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return Failed(
            wrong[0] + more, "if a variable is named, unset it; else build the environment anew", "\n".join(wrong)
        )
    return Passed(
        f"{word(len(expectation.packages), 'distribution')} in the locked versions, all inside the environment"
    )


def _wrong_version(name: str, version: str, fact: Any, facts: Facts, expectation: Expectation) -> str:
    if not isinstance(fact, Mapping):
        return f"{name} {version} is in the lock and the interpreter does not find it"
    place = str(fact.get("location", ""))
    by = _by(place, facts)
    if not _same_version(version, str(fact.get("version", ""))):
        return f"{name} is {fact.get('version')}, the lock says {version}; it was found in {place}{by}"
    python = facts.get("interpreter", {})
    roots = (expectation.prefix, str(python.get("prefix", "")), str(python.get("real_prefix", "")))
    if not any(inside(path, *roots) for path in (place, str(fact.get("real_location", "")))):
        return f"{name} {version} was found in {place}, outside of the environment{by}"
    return ""


def _same_version(left: str, right: str) -> bool:
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right


def _cost(expectation: Expectation, evidence: Evidence) -> Finding:
    facts = part(evidence, "imports")
    if isinstance(facts, (Failed, NotRun)):
        return facts
    lines = []
    for name in expectation.imports:
        fact = facts.get(name)
        if not isinstance(fact, Mapping) or not all(key in fact for key in ("seconds", "files", "shared_objects")):
            return Failed(f"what importing {name} costs was not measured", "verify again")
        if "error" in fact:
            return NotRun(f"{name} could not be imported")
        if not fact.get("already") and not fact["files"] and not fact["shared_objects"]:
            return Failed(
                f"importing {name} opened no file that the audit hook saw, so the count means nothing",
                "look for what takes audit events away (an embedded or frozen interpreter)",
            )
        lines.append(f"{name} {fact['seconds']:.2f} s, {fact['files']} files, {fact['shared_objects']} shared objects")
    return Passed("; ".join(lines) or "nothing to import")


CHECKS: tuple[Check, ...] = (
    Check(
        name="import",
        rung=1,
        title="modules import, from inside the environment",
        source="single",
        judge=_import,
        witnesses="Each module of the recipe is imported in a live interpreter, and its file lies inside the environment.",
        mistakes="Metadata say that a package is there while PYTHONPATH or the user site puts another copy before it; "
        "a broken shared library shows only when it is loaded.",
        fails="A module that raises on import, a process that dies while importing, a module from elsewhere; the variable "
        "that brought it in is named.",
    ),
    Check(
        name="versions",
        rung=1,
        title="the interpreter finds the locked versions",
        source="single",
        judge=_versions,
        witnesses="importlib.metadata in the live interpreter finds every locked distribution, in the locked version, inside "
        "the environment.",
        mistakes="Listing the files of site-packages does not see what comes before it on sys.path.",
        fails="A distribution that is missing, has another version or is found elsewhere.",
    ),
    *REQUIREMENTS,
    *FOLDERS,
    Check(
        name="import-cost",
        rung=1,
        title="what importing costs",
        source="single",
        judge=_cost,
        witnesses="Seconds, files opened by Python (counted by an audit hook) and shared objects mapped, by module.",
        mistakes="Time alone depends on caches; the number of files is what a parallel file system feels.",
        fails="When it was not measured. The figures themselves are reported and not judged.",
    ),
    *BACKEND,
    *LINKED,
    *BUILT,
    *GPU_DEVICE,
    *TRAINING,
)
