"""Outcomes as JUnit XML, which continuous integration servers read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from envbuilder.evidence import RUNGS, Outcome
from envbuilder.report import Verified

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(verified: Sequence[Verified]) -> str:
    """A `testsuites` document: a suite for each environment, a case for each check; not-run is `skipped`."""
    root = Element("testsuites", name="envbuilder verify")
    for one in verified:
        outcomes = one.verdict.outcomes if one.verdict else ()
        seconds = one.verdict.seconds if one.verdict else 0.0
        suite = SubElement(
            root,
            "testsuite",
            name=one.environment.identifier,
            tests=str(len(outcomes)),
            failures=str(sum(outcome.status == "fail" for outcome in outcomes)),
            skipped=str(sum(outcome.status == "not-run" for outcome in outcomes)),
            errors=str(int(one.verdict is None)),
            time=f"{seconds:.3f}",
        )
        for outcome in outcomes:
            _case(suite, outcome)
        if one.verdict is None:
            case = SubElement(suite, "testcase", classname="verify", name="could not run", time="0")
            SubElement(case, "error", message=_clean(one.why))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _case(suite: Element, outcome: Outcome) -> None:
    classname = f"rung{outcome.rung}.{RUNGS[outcome.rung]}"
    case = SubElement(suite, "testcase", classname=classname, name=outcome.check, time="0")
    if outcome.status == "fail":
        failure = SubElement(case, "failure", message=_clean(outcome.cause), type=outcome.check)
        failure.text = _clean(f"{outcome.witnessed}\nremedy: {outcome.remedy}")
    elif outcome.status == "not-run":
        SubElement(case, "skipped", message=_clean(outcome.cause))
    else:
        SubElement(case, "system-out").text = _clean(outcome.witnessed)


def _clean(text: str) -> str:
    return _NOT_IN_XML.sub("?", text)
