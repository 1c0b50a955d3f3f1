"""Rung 4: the data-parallel training step of a framework on several ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.gradients import worst
from envbuilder.checks.mpi import ranks_with
from envbuilder.checks.reading import Facts, number, word
from envbuilder.checks.training import FRAMEWORKS, losses_finding, still
from envbuilder.evidence import Evidence, Expectation, RankEvidence

_DIGESTS = (
    ("gradient_digest", "the reduced gradients of the first step"),
    ("last_gradient_digest", "the reduced gradients of the last step"),
    ("parameter_digest", "the parameters after the training"),
)


def equal(framework: str, ranks: list[RankEvidence]) -> Finding:
    """Whether gradients and parameters in the facts of this name are the same on all ranks, bit for bit."""
    apart = _apart(framework, ranks)
    if apart is not None:
        return apart
    for key, what in _DIGESTS:
        digests = {rank.rank: str(rank.facts[framework].get(key, "")) for rank in ranks}
        if not all(digests.values()):
            return Failed(f"{what} were not recorded on every rank", "verify again")
        common, _ = Counter(digests.values()).most_common(1)[0]
        others = [rank for rank, digest in digests.items() if digest != common]
        if others:
            told = ", ".join(f"rank {rank} {digest[:12]}" for rank, digest in sorted(digests.items()))
            return Failed(
                f"{what} are not the same on all ranks: {_against(others, len(ranks))}",
                "find what differs between the ranks: a hook or patch, an environment variable, a broken reduction",
                told,
            )
    first = str(ranks[0].facts[framework]["gradient_digest"])
    last = len(ranks[0].facts[framework].get("losses", ()))
    return Passed(
        f"bit for bit on {word(len(ranks), 'rank')}, steps 1 and {last}, parameters too (sha256 {first[:12]})"
    )


def _apart(framework: str, ranks: list[RankEvidence]) -> Failed | None:
    """Process groups that are smaller than the world: each trains by itself, and nothing says so."""
    worlds = {rank.rank: rank.facts[framework].get("world") for rank in ranks}
    small = {rank: world for rank, world in worlds.items() if world is not None and world != len(ranks)}
    if not small:
        return None
    number_of_rank, world = min(small.items())
    return Failed(
        f"the process group of rank {number_of_rank} has {word(int(number(world)), 'rank')}, and {word(len(ranks), 'rank')} "
        "were started: the groups train apart",
        "find what decides rank and size: RANK and WORLD_SIZE must be the launcher's on each rank, not those of a shell",
    )


def _against(others: list[int], count: int) -> str:
    names = ", ".join(map(str, others))
    return f"rank {names} differs from the other {count - len(others)}" if count > 2 else "the two ranks differ"


def reference(framework: str, ranks: list[RankEvidence]) -> Finding:
    """Whether the gradients in the facts of this name are those of one process with the whole batch, and right."""
    facts = next((rank.facts[framework] for rank in ranks if rank.rank == 0), None)
    if not isinstance(facts, Mapping):
        return NotRun("there is no rank 0")
    return worst(facts, ("reference", "truth", "reference_truth"), len(ranks))


def results(who: str, rank: int, told: Facts) -> Failed | None:
    """What is wrong with an all-reduce, an allgather and a broadcast of this library, whose right results are known."""
    floats = told.get("floats", {})
    remedy = f"compare with mpi-allreduce: where that passes, the fault is in {who} or in what patches it"
    if number(floats.get("wrong")) != 0:
        return Failed(
            f"rank {rank}: {who}'s allreduce of {floats.get('count')} float32 is wrong in {floats.get('wrong')} "
            f"elements; element {floats.get('first_wrong')} is {floats.get('seen')}, right is {floats.get('right')}",
            remedy,
        )
    for name, words in (("gathered", "allgather of the ranks"), ("broadcast", "broadcast from the last rank")):
        one: Facts = told.get(name, {})
        if not one or one.get("seen") != one.get("right"):
            return Failed(f"rank {rank}: {who}'s {words} gave {one.get('seen')}, right is {one.get('right')}", remedy)
    return None


def _loss(framework: str, ranks: list[RankEvidence]) -> Finding:
    courses = [[number(loss) for loss in rank.facts[framework].get("losses", ())] for rank in ranks]
    for rank, losses in zip(ranks, courses, strict=True):
        bad = [step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)]
        if bad:
            return Failed(
                f"the loss of rank {rank.rank} is {losses[bad[0] - 1]} in step {bad[0]}",
                "look for what makes the arithmetic overflow or divide by zero on this rank",
            )
    if len({len(losses) for losses in courses}) != 1:
        return Failed("the ranks trained for different numbers of steps", "verify again")
    means = [sum(step) / len(step) for step in zip(*courses, strict=True)]
    facts = ranks[0].facts[framework]
    return losses_finding(
        means, f"the mean loss of {word(len(ranks), 'rank')}", still(facts), number(facts.get("rate"))
    )


_KINDS: tuple[tuple[str, str, Callable[[str, list[RankEvidence]], Finding], str, str, str], ...] = (
    (
        "gradients-equal",
        "gradients equal on all ranks",
        equal,
        (
            "sha256 of the reduced gradients of the first and the last step and of the parameters after the training, on each "
            "rank: equal bit for bit."
        ),
        "Equal losses do not show it: each rank has its own samples, and a mean over ranks hides what one of them does.",
        "A rank whose gradients or parameters differ, by number.",
    ),
    (
        "gradients-reference",
        "gradients equal to one process with the whole batch",
        reference,
        (
            "The reduced gradients of the first and the last step, on rank 0, against one process with the whole batch and "
            "against the right gradients (float64, without the framework), within a derived bound; bit-equality is reported."
        ),
        (
            "Ranks that agree can agree on a wrong thing: a sum without the mean, one rank's shard only, gradients of the step "
            "before. A tolerance found by trying does not tell a per cent from a rounding."
        ),
        "A tensor further away than rounding allows; a sum over the ranks that was not averaged is named.",
    ),
    (
        "ranks-loss",
        "the loss over all ranks falls",
        _loss,
        "The mean over the ranks of the loss before each step: finite on every rank, and smaller at the end.",
        "The loss of rank 0 alone does not show that another rank has NaN.",
        "A loss that is not finite, by rank and step; a mean loss that does not fall.",
    ),
)


def on_ranks(
    framework: str, judge: Callable[[str, list[RankEvidence]], Finding]
) -> Callable[[Expectation, Evidence], Finding]:
    """The judgement of the facts of this name, where all the ranks that were asked for left them."""

    def judged(expectation: Expectation, evidence: Evidence) -> Finding:
        ranks = ranks_with(evidence, framework)
        if isinstance(ranks, NotRun):
            return ranks
        if len(ranks) < 2:
            return NotRun("one rank only: there is nothing to compare")
        if len(ranks) != expectation.ranks:
            return NotRun(f"{len(ranks)} of {expectation.ranks} ranks were there; see ranks-started")
        return judge(framework, ranks)

    return judged


CHECKS: tuple[Check, ...] = tuple(
    Check(
        name=f"{framework}-{name}",
        rung=4,
        title=f"{label}: {title}",
        source="ranks",
        judge=on_ranks(framework, judge),
        features=frozenset({framework, "mpi4py"}),
        witnesses=witnesses,
        mistakes=mistakes,
        fails=fails,
    )
    for framework, label in FRAMEWORKS.items()
    for name, title, judge, witnesses, mistakes, fails in _KINDS
)
