"""Rung 1: whether the folders that frameworks write to can be written where the probes ran."""

from __future__ import annotations

from collections.abc import Mapping

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.reading import part, word
from envbuilder.evidence import Evidence, Expectation


def _caches(_: Expectation, evidence: Evidence) -> Finding:
    facts = part(evidence, "caches")
    if isinstance(facts, (Failed, NotRun)):
        return facts
    if not facts:
        return NotRun("no variable that names a cache has a value in this process")
    wrong = {name: fact for name, fact in facts.items() if not isinstance(fact, Mapping) or fact.get("error")}
    if not wrong:
        folders = sorted({str(fact["path"]) for fact in facts.values()})
        return Passed(f"{word(len(folders), 'folder')} of {word(len(facts), 'variable')}, below {_common(folders)}")
    name, fact = next(iter(sorted(wrong.items())))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    host = _host(evidence)
    return Failed(
        f"{name}={fact.get('path')} cannot be written{host}: {fact.get('error')}{more}",
        "unset the variable, so that the site's folder is taken, or let ENVBUILDER_CACHE name a folder that the nodes can "
        "write; HOME is often not there on compute nodes",
        "\n".join(f"{name}: {fact.get('error')}" for name, fact in sorted(wrong.items())),
    )


def _host(evidence: Evidence) -> str:
    found = part(evidence, "interpreter")
    return f" on {found['host']}" if isinstance(found, Mapping) and found.get("host") else ""


def _common(folders: list[str]) -> str:
    """The longest folder that all of them are in."""
    first, last = folders[0].split("/"), folders[-1].split("/")
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return "/".join(first[:same]) or "/"


CHECKS: tuple[Check, ...] = (
    Check(
        name="caches-writable",
        rung=1,
        title="caches lie where they can be written",
        source="single",
        judge=_caches,
        witnesses="A file is made in each folder that a cache variable names (MIOPEN_USER_DB_PATH, TORCH_HOME, ...), by a "
        "process on the node where the probes ran.",
        mistakes="Everything works on a login node; in the job HOME is not there, and kernels are compiled again in each run, "
        "or the library gives up.",
        fails="A folder that cannot be made or written, with the variable, the node and the operating system's reason.",
    ),
)
