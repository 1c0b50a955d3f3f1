"""Every check, and the judgement of one verify's evidence by all of them."""

from __future__ import annotations

from envbuilder.checks import gpu, image, image_signature, pack, single, static
from envbuilder.checks import ranks as ranks_checks
from envbuilder.checks.base import Check, NotRun
from envbuilder.evidence import Evidence, Expectation, Outcome

CHECKS: tuple[Check, ...] = (
    *image.FILE_CHECKS,
    *image_signature.CHECKS,
    *pack.CHECKS,
    *static.CHECKS,
    *gpu.CHECKS,
    *single.CHECKS,
    *ranks_checks.CHECKS,
    *image.RANKS_CHECKS,
)


def judge(expectation: Expectation, evidence: Evidence, reasons: dict[str, str]) -> tuple[Outcome, ...]:
    """The outcome of every check that the recipe's features call for, in the order of the ladder.

    `reasons` says for each source of evidence that was not gathered (`static`, `single`, `ranks`) why it was not.
    """
    return tuple(
        check.outcome(NotRun(reasons[check.source]) if check.source in reasons else check.judge(expectation, evidence))
        for check in CHECKS
        if check.applies(expectation)
    )
