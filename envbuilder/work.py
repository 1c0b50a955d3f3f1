"""The work that a build is: everything that carrying it out needs, as plain data that can be kept and done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from envbuilder import plan as plan_format
from envbuilder.environment import Environment
from envbuilder.plan import Plan
from envbuilder.target import Mpi


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A plan, what its manifest says beforehand (`manifest.draft`), the MPI of its target, and the site's mirrors."""

    plan: Plan
    draft: Environment
    mpi: Mpi | None
    mirrors: Mapping[str, str]

    def to_document(self) -> dict[str, Any]:
        """Plain data, without the network settings of the plan."""
        return {
            "plan": self.plan.to_document(),
            "draft": self.draft.to_document(),
            "mpi": asdict(self.mpi) if self.mpi else None,
            "mirrors": {str(prefix): str(mirror) for prefix, mirror in self.mirrors.items()},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], network: Mapping[str, str]) -> Work:
        """The work of a document, if all that its plan would compile is there; raises what `plan.from_document` does."""
        return cls(
            plan=plan_format.from_document(document["plan"], network),
            draft=Environment.from_document(document["draft"], "the kept work"),
            mpi=Mpi(**document["mpi"]) if document["mpi"] else None,
            mirrors=document["mirrors"],
        )
