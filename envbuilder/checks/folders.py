"""Rung 1: whether the folders that frameworks write to can be written where the probes ran, and data be read."""

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


def _data(expectation: Expectation, evidence: Evidence) -> Finding:
    facts = part(evidence, "data")
    if isinstance(facts, (Failed, NotRun)):
        return facts
    ranks = evidence.runs["ranks"].ranks if "ranks" in evidence.runs else ()
    seen = [facts, *(found for rank in ranks if isinstance(found := rank.facts.get("data"), Mapping))]
    for one in expectation.data:
        name = one["variable"]
        told = [found[name] for found in seen if isinstance(found.get(name), Mapping)]
        if not told:
            return NotRun(f"the probe did not look at {name}")
        wrong = [fact for fact in told if fact.get("error")]
        if wrong:
            on = ", ".join(sorted({str(fact.get("host")) for fact in wrong}))
            return _unreadable(name, one["why"], str(wrong[0].get("path")), f"{on}: {wrong[0]['error']}")
    hosts = {str(fact.get("host")) for found in seen for fact in found.values()}
    paths = ", ".join(f"{one['variable']}={facts[one['variable']]['path']}" for one in expectation.data)
    return Passed(f"{paths}, on {word(len(hosts), 'host')}")


def _has_data(expectation: Expectation) -> bool:
    return bool(expectation.data)


def _unreadable(name: str, why: str, path: str, told: str) -> Failed:
    if not path:
        return Failed(
            f"{name} has no value on {told.partition(':')[0]}, and is to lead to data ({why})",
            "set it in the recipe's `environment`, in the site's `launch.env`, or in the shell that verifies (which a job that "
            "inherits nothing does not see)",
        )
    return Failed(
        f"{name}={path} ({why}) cannot be read on {told}",
        "put the data on a file system that the compute nodes have (scratch or work, seldom HOME), readable for you, and let "
        f"{name} lead there",
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
        mistakes="Everything works on a login node; in the job HOME is not there, and kernels are compiled again in each "
        "run, or the library gives up.",
        fails="A folder that cannot be made or written, with the variable, the node and the operating system's reason.",
    ),
    Check(
        name="data-readable",
        rung=1,
        title="data that programs read are there",
        source="single",
        judge=_data,
        where=_has_data,
        only="whose recipe names `data`",
        witnesses="Where each variable of the recipe's `data` leads: the first entry of the folder, or the first byte of "
        "the file, is read by a process of the environment on the node where the probes run, and by every rank.",
        mistakes="The path is there on the login node. On the compute nodes it is another file system, or the empty folder "
        "on which one would be mounted, and a program finds no samples after an hour in the queue.",
        fails="A variable without a value; a path that is not there, is empty or may not be read, with the node and the "
        "operating system's reason.",
    ),
)
