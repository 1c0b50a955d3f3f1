"""How far gradients are from what they are compared with, in units of the derived bound (see docs/bounds.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envbuilder.checks.base import Failed, Finding, NotRun, Passed
from envbuilder.checks.reading import Facts, number

WORDS = {
    "truth": "the right gradient",
    "reference": "the gradient of one process with the whole batch",
    "reference_truth": "the right gradient",
}
SAID = ("truth", "reference")


def worst(facts: Facts, against: tuple[str, ...], ranks: int = 1) -> Finding:
    """Judge the comparisons of the first and of the last step; a ratio above 1 is further away than rounding allows.

    A step in which rounding could switch a ReLU has no bound and is left out; at least the first must have one.
    """
    told = []
    for step in ("first", "last"):
        facts_of_step = facts.get(step)
        if not isinstance(facts_of_step, Mapping):
            return Failed(f"the gradients of the {step} step were not compared", "verify again")
        if facts_of_step.get("comparable") is not True:
            if step == "first":
                return NotRun(
                    f"no bound holds for the first step (operand roundoff {facts_of_step.get('operand_unit')})"
                )
            told.append(f"{step} step: left out, no bound holds where rounding may switch a ReLU")
            continue
        for name in against:
            failed = _failed(step, name, facts_of_step, ranks)
            if failed is not None:
                return failed
        told.append(f"{step} step: {_passed(against, facts_of_step)}")
    return Passed(f"against {' and '.join(WORDS[name] for name in against if name in SAID)}: {'; '.join(told)}")


def _passed(against: tuple[str, ...], facts: Facts) -> str:
    compared = [fact for name in against for fact in facts[name].values()]
    if all(fact.get("equal") is True for fact in compared):
        return "equal bit for bit"
    return f"within {max(number(fact.get('max_ratio')) for fact in compared):.2g} of the bound"


def _failed(step: str, against: str, facts: Facts, ranks: int) -> Failed | None:
    tensors = facts.get(against)
    if not isinstance(tensors, Mapping) or not tensors:
        return Failed(f"{WORDS[against]} was not computed for the {step} step", "verify again")
    for name, fact in tensors.items():
        if not number(fact.get("max_ratio")) <= 1:
            what = f"the gradient of {name}" if against != "reference_truth" else f"one process' gradient of {name}"
            place = f"{step} step: {what} differs from {WORDS[against]}"
            return _beyond(place, fact, number(facts.get("scale")), ranks)
    return None


def _beyond(place: str, fact: Any, scale: float, ranks: int) -> Failed:
    return Failed(
        f"{place} by {number(fact.get('max_difference')):.3g}, {number(fact.get('max_ratio')):.3g} times what rounding "
        f"allows{_looks_like(scale, ranks)}",
        "find what changes gradients: a patched operation or reduction, a communication hook, or a broken kernel "
        "(compare with ONEDNN_MAX_CPU_ISA=AVX2)",
        f"all gradients together are {scale:.6g} times the right ones",
    )


def _looks_like(scale: float, ranks: int) -> str:
    if scale == 0:
        return "; it is zero"
    if ranks > 1 and abs(scale - ranks) < 1e-3 * ranks:
        return f"; it is {ranks} times the right one: summed over the ranks and not averaged"
    return ""
