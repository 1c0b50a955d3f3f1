"""Rung 3: a training of a few steps in one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.gradients import worst
from envbuilder.checks.reading import Facts, number, part
from envbuilder.evidence import Evidence, Expectation

FRAMEWORKS = {"tensorflow": "TensorFlow", "torch": "PyTorch"}


def losses_finding(losses: list[float], what: str, still: bool, rate: float) -> Finding:
    """Whether a sequence of losses is finite and falls; `still` says that no parameter moved."""
    if len(losses) < 2:
        return Failed(f"{what} was recorded for {len(losses)} steps only", "verify again")
    for step, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            return Failed(
                f"{what} is {loss} in step {step}",
                "look for what makes the arithmetic overflow or divide by zero; the network and its data are fixed and tame",
                _sequence(losses),
            )
    if losses[-1] < losses[0]:
        return Passed(f"{what} {losses[0]:.6g} -> {losses[-1]:.6g} in {len(losses)} steps")
    why = f": no parameter moved, and the optimizer's learning rate is {rate:g}" if still else ""
    return Failed(
        f"{what} does not fall ({losses[0]:.6g} -> {losses[-1]:.6g} in {len(losses)} steps){why}",
        "find what sets the learning rate or keeps the update from being applied" if still else "compare the gradients",
        _sequence(losses),
    )


def _sequence(losses: list[float]) -> str:
    return "losses: " + " ".join(f"{loss:.6g}" for loss in losses)


def still(facts: Facts) -> bool:
    """Whether no parameter moved at all."""
    moved = facts.get("moved")
    return isinstance(moved, Mapping) and bool(moved) and all(number(change) == 0 for change in moved.values())


def _falls(facts: Facts) -> Finding:
    losses = [number(loss) for loss in facts.get("losses", ())]
    return losses_finding(losses, "the loss", still(facts), number(facts.get("rate")))


def _finite(facts: Facts) -> Finding:
    told = facts.get("finite")
    if not isinstance(told, Mapping) or not told:
        return Failed("the parameters were not recorded", "verify again")
    bad = [name for name, finite in told.items() if finite is not True]
    if bad:
        return Failed(
            f"after the training {', '.join(bad)} is not finite (NaN or infinity)",
            "see where the loss stops being finite",
        )
    return Passed(f"all of {', '.join(told)}")


def _moved(facts: Facts) -> Finding:
    told = facts.get("moved")
    if not isinstance(told, Mapping) or not told:
        return Failed("how far the parameters moved was not recorded", "verify again")
    changes = {name: number(change) for name, change in told.items()}
    if any(math.isnan(change) for change in changes.values()):
        return NotRun("the parameters are not finite")
    resting = [name for name, change in changes.items() if change == 0]
    if resting:
        rate = number(facts.get("rate"))
        why = f": the optimizer's learning rate is {rate:g}" if rate == 0 else f" (learning rate {rate:g})"
        return Failed(
            f"{', '.join(resting)} did not move in the training{why}",
            "find what sets the learning rate or keeps the update from being applied",
        )
    return Passed("largest change: " + ", ".join(f"{name} {change:.3g}" for name, change in changes.items()))


def _right(facts: Facts) -> Finding:
    return worst(facts, ("truth",))


_KINDS: tuple[tuple[str, str, Callable[[Facts], Finding], str, str, str], ...] = (
    (
        "loss-falls",
        "the loss falls",
        _falls,
        "The loss before each of the steps is finite, and the last one is smaller than the first.",
        "A loss that is printed once says nothing; equal losses do not show that equal things computed them.",
        "A loss that is NaN or infinite, naming the step, or one that does not fall; a learning rate of zero is named.",
    ),
    (
        "parameters-finite",
        "the parameters are finite",
        _finite,
        "Every parameter after the training is finite.",
        "A NaN in one filter can hide behind a ReLU, with a loss that looks fine.",
        "A tensor with NaN or infinity, by name.",
    ),
    (
        "parameters-moved",
        "the parameters moved",
        _moved,
        "Every tensor of parameters has changed.",
        "The loss can fall while a layer is frozen.",
        "A tensor that did not move, by name; a learning rate of zero is named.",
    ),
    (
        "gradients",
        "the gradients are right",
        _right,
        (
            "The gradients of the first and the last step against the right ones, computed in float64 without the framework, "
            "within a derived bound; see docs/bounds.md."
        ),
        "A comparison with a tolerance that was found by trying passes whatever was there when it was tried.",
        "A tensor whose gradient is further away than rounding allows.",
    ),
)


def _judge(framework: str, judge: Callable[[Facts], Finding]) -> Callable[[Expectation, Evidence], Finding]:
    def judged(_: Expectation, evidence: Evidence) -> Finding:
        facts = part(evidence, f"{framework}_training")
        return facts if isinstance(facts, (Failed, NotRun)) else judge(facts)

    return judged


CHECKS: tuple[Check, ...] = tuple(
    Check(
        name=f"{framework}-{name}",
        rung=3,
        title=f"{label}: {title}",
        source="single",
        judge=_judge(framework, judge),
        features=frozenset({framework}),
        witnesses=witnesses,
        mistakes=mistakes,
        fails=fails,
    )
    for framework, label in FRAMEWORKS.items()
    for name, title, judge, witnesses, mistakes, fails in _KINDS
)
