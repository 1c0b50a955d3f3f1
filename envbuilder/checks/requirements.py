"""Rung 1: whether the installed versions meet what the installed distributions require of each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.reading import Facts, only, part, word
from envbuilder.evidence import Evidence, Expectation


def broken(facts: Facts, ours: Collection[str] = ()) -> tuple[int, list[str]]:
    """How many requirements could be judged from the facts of a probe, and a sentence for each that is not met.

    `ours` are the distributions of the environment itself; what others below it, such as those of a module, ask of each
    other is not judged. Empty: all are.
    """
    found, python = facts.get("distributions"), facts.get("interpreter")
    if not isinstance(found, Mapping) or not isinstance(python, Mapping):
        return 0, []
    markers = {str(key): str(value) for key, value in dict(python.get("markers", {})).items()}
    judged, wrong = 0, []
    for name, fact in sorted(found.items()):
        for text in fact.get("requires", ()) if isinstance(fact, Mapping) else ():
            if ours and name not in ours and _name(str(text)) not in ours:
                continue
            verdict = _unmet(str(text), found, markers)
            judged += verdict is not None
            if verdict:
                wrong.append(f"{name} {fact.get('version')} requires {verdict}")
    return judged, wrong


def _requirements(expectation: Expectation, evidence: Evidence) -> Finding:
    for name in ("distributions", "interpreter"):
        facts = part(evidence, name)
        if isinstance(facts, (Failed, NotRun)):
            return facts
    rank = only(evidence)
    if isinstance(rank, (Failed, NotRun)):
        return rank
    if not rank.facts["distributions"]:
        return NotRun("the interpreter finds none of the locked distributions")
    judged, wrong = broken(rank.facts, expectation.packages if expectation.base else ())
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return Failed(wrong[0] + more, "correct the recipe's packages, lock and build anew", "\n".join(wrong))
    return Passed(f"{word(judged, 'requirement')} between {word(len(rank.facts['distributions']), 'distribution')} met")


def _name(text: str) -> str:
    try:
        return canonicalize_name(Requirement(text).name)
    except InvalidRequirement:
        return ""


def _unmet(text: str, found: Facts, markers: dict[str, str]) -> str | None:
    """None where the requirement does not concern this environment, "" where it is met, else what is wrong."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    if requirement.marker is not None and not requirement.marker.evaluate({**markers, "extra": ""}):
        return None
    fact = found.get(canonicalize_name(requirement.name))
    if not isinstance(fact, Mapping):
        return None
    version = str(fact.get("version", ""))
    try:
        met = requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return None
    return "" if met else f"{requirement.name}{requirement.specifier}, and {version} is installed"


CHECKS: tuple[Check, ...] = (
    Check(
        name="requirements",
        rung=1,
        title="installed versions meet each other's requirements",
        source="single",
        judge=_requirements,
        witnesses="Every requirement that an installed distribution states, evaluated for this interpreter, against the "
        "versions that are installed.",
        mistakes="An import can succeed with a version that the package was not made for.",
        fails="A requirement that the installed version does not meet, such as NumPy 2 under a package made for NumPy 1. "
        "Optional packages that are absent do not count.",
    ),
)
