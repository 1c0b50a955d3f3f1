"""What a check is: a pure function from expectation and evidence to a finding.

A check module lists `Check` values; `envbuilder.checks` joins them and judges. A check runs only where the recipe asks
for its features and where the evidence that it needs was gathered; otherwise its outcome is `not-run`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from envbuilder.evidence import Evidence, Expectation, Outcome

Source = Literal["image", "static", "single", "ranks"]


@dataclass(frozen=True, slots=True)
class Passed:
    """The check holds; `witnessed` is one line of what was seen."""

    witnessed: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The check does not hold: the cause in one sentence, the remedy as something to do or run, what was seen."""

    cause: str
    remedy: str
    witnessed: str = ""


@dataclass(frozen=True, slots=True)
class NotRun:
    """The check could not be made, and why. It never counts as passed."""

    why: str


Finding = Passed | Failed | NotRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check: its name, its rung, which features call for it, which evidence it needs, and its judgement.

    `features` must all be among the recipe's features for the check to apply (an empty set applies always), and `where`
    must hold, which `only` says in words. `mistakes` says what fools weaker checks; the reference page of the checks is
    generated from these texts.
    """

    name: str
    rung: int
    title: str
    source: Source
    judge: Callable[[Expectation, Evidence], Finding]
    features: frozenset[str] = frozenset()
    where: Callable[[Expectation], bool] | None = None
    only: str = ""
    witnesses: str = ""
    mistakes: str = ""
    fails: str = ""

    def applies(self, expectation: Expectation) -> bool:
        """Whether the recipe's features call for this check, and it has a sense there."""
        asked = self.features <= frozenset(expectation.features)
        return asked and (self.where is None or self.where(expectation))

    def outcome(self, finding: Finding) -> Outcome:
        """The finding with the name, rung and title of this check."""
        match finding:
            case Passed(witnessed):
                return Outcome(check=self.name, rung=self.rung, title=self.title, status="pass", witnessed=witnessed)
            case Failed(cause, remedy, witnessed):
                return Outcome(
                    check=self.name,
                    rung=self.rung,
                    title=self.title,
                    status="fail",
                    cause=cause,
                    remedy=remedy,
                    witnessed=witnessed,
                )
            case NotRun(why):
                return Outcome(check=self.name, rung=self.rung, title=self.title, status="not-run", cause=why)
