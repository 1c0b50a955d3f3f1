"""Verify an environment on the nodes that it is for: the whole verify runs in a job, with the site's launcher for the ranks.

So the libraries, the HOME and the kernel that are witnessed are those of the compute nodes, and the proof is made there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from envbuilder import nodes as remote
from envbuilder.environment import Environment
from envbuilder.errors import FINE, VerifyError
from envbuilder.evidence import Evidence, Outcome, Verdict
from envbuilder.nodes import Nodes
from envbuilder.scheduler import JobEnd
from envbuilder.store import Store

_BY_ITSELF = ("COMPLETED", "FAILED")


def verify(
    place: Store, environment: Environment, nodes: Nodes, options: tuple[str, ...], tick: Callable[[str], None]
) -> tuple[Verdict, JobEnd]:
    """The verdict of a job on those nodes, and how the job ended.

    `options` are those of the inner `envbuilder verify`. Raises what `nodes.run` does, and `VerifyError` with the reason
    when the verification could not run there.
    """
    words = (
        "verify", environment.identifier, "--site", str(nodes.site_file), "--partition", nodes.partition,
        "--nodes", str(nodes.shape.nodes), "--ranks", str(nodes.shape.ranks), "--json", *options,
    )  # fmt: skip
    answer = remote.run(place, nodes, words, environment.recipe, tick)
    try:
        (entry,) = answer.document["environments"]
        why = entry["why_not"]
        verdict = None if why else _read(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise VerifyError(f"{answer.end}, with an answer that is none", hint=f"see {answer.folder}") from error
    if verdict is None:
        raise VerifyError(f"on the nodes: {why}", hint=f"the job's files: {answer.folder}")
    if interrupted(answer.end, verdict):
        raise VerifyError(
            f"{answer.end}, and with it the verification: what failed in it says nothing about the environment",
            hint=f"run the same command again; the job's files: {answer.folder}",
        )
    return verdict, answer.end


def interrupted(end: JobEnd, verdict: Verdict) -> bool:
    """Whether a verdict is that of ranks that ended because their job was ended by another (scancel, its limit, a node).

    Slurm gives a job's script time between SIGTERM and SIGKILL, which is enough to write down that ranks died.
    """
    return end.state not in _BY_ITSELF and verdict.exit_code != FINE


def _read(entry: Mapping[str, Any]) -> Verdict:
    cost = entry["cost"]
    return Verdict(
        outcomes=tuple(Outcome(**outcome) for outcome in entry["outcomes"]),
        evidence=Evidence(),
        control=Path(entry["evidence"]),
        seconds=float(cost["seconds"]),
        static_seconds=float(cost["static"]),
        probe_seconds=float(cost["probes"]),
    )
