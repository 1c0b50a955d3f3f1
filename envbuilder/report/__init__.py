"""Renderings of plans, outcomes and differences. Each returns text; nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass

from envbuilder.environment import Environment
from envbuilder.errors import NOT_VERIFIED
from envbuilder.evidence import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """An environment with its verdict, or with the reason (`why`) why there is none."""

    environment: Environment
    verdict: Verdict | None
    why: str = ""

    @property
    def exit_code(self) -> int:
        """That of the verdict; 4 where the verification could not run."""
        return self.verdict.exit_code if self.verdict else NOT_VERIFIED
