"""A diagnosis, and the catalogue of causes, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from envbuilder.causes import AREAS

if TYPE_CHECKING:
    from envbuilder.diagnose import Diagnosis
    from envbuilder.symptoms import Finding

SCHEMA = 1


def render(diagnosis: Diagnosis) -> str:
    """What failed, why, how one can see that, and what to do; where nothing is known, what to send to somebody who may."""
    lines = [diagnosis.subject]
    if diagnosis.state:
        lines.append(f"  {diagnosis.state}")
    for check in diagnosis.checks:
        lines += ["", f"check failed: {check.check}", f"  cause:    {check.cause}"]
        if check.witnessed:
            lines.append(f"  evidence: {check.witnessed}")
        lines.append(f"  remedy:   {check.remedy}")
    for finding in diagnosis.findings:
        lines += ["", *_finding(finding, several=len(diagnosis.seen) > 1)]
    if not diagnosis.named:
        lines += ["", *_unknown(diagnosis)]
    elif diagnosis.well:
        lines += ["", "nothing failed"]
    return "\n".join(lines) + "\n"


def document(diagnosis: Diagnosis, exit_code: int) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "schema": SCHEMA,
        "subject": diagnosis.subject,
        "state": diagnosis.state,
        "named": diagnosis.named,
        "exit_code": exit_code,
        "logs": [asdict(one) for one in diagnosis.seen],
        "checks": [asdict(check) for check in diagnosis.checks],
        "causes": [
            {
                "name": one.cause.name,
                "says": one.says,
                "hint": one.cause.hint,
                "follows_from": one.follows_from,
                "log": one.log,
                "proof": [asdict(line) for line in one.proof],
                "remedy": one.cause.remedy,
                "sources": list(one.cause.sources),
            }
            for one in diagnosis.findings
        ],
        "last": [asdict(line) for line in diagnosis.last],
        "last_of": diagnosis.last_of,
    }


def catalogue() -> str:
    """Every cause by its area: the name and the sentence."""
    lines = []
    for area, causes in AREAS.items():
        lines += [f"{area}:", *(f"  {cause.name:26} {cause.what}" for cause in causes), ""]
    return "\n".join(lines)


def catalogue_document() -> list[dict[str, Any]]:
    """The same as plain data, with signs and remedies."""
    return [{"area": area, **asdict(cause)} for area, causes in AREAS.items() for cause in causes]


def _finding(finding: Finding, *, several: bool) -> Iterator[str]:
    kind = "hint" if finding.cause.hint else "cause"
    yield f"{kind}: {finding.cause.name}: {finding.says}"
    if finding.follows_from:
        yield f"  follows from {finding.follows_from}"
    place = f"{finding.log} " if several else ""
    for number, line in enumerate(finding.proof):
        yield f"  {'proof:  ' if number == 0 else '        '} {place}line {line.number}: {line.text.strip()}"
    yield f"  remedy:  {finding.cause.remedy}"
    yield f"  from:    {'; '.join(finding.cause.sources)}"


def _unknown(diagnosis: Diagnosis) -> Iterator[str]:
    if not diagnosis.seen:
        yield "there is no log of a failure to read"
        return
    read = sum(one.lines for one in diagnosis.seen)
    yield f"no known cause in {read} line{'' if read == 1 else 's'}; this says nothing of whether there is one"
    if diagnosis.last:
        yield f"last lines that may tell (of {diagnosis.last_of}):"
        yield from (f"  line {line.number}: {line.text.strip()}" for line in diagnosis.last)
    yield "to ask for help, send: the log from its first error on, the command, the site and partition, and"
    yield "  `envbuilder envs show ENV`; look through all of it for names and tokens before you send it"
