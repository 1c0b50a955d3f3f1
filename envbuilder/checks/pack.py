"""The check of packed trees: whether the file is the one that was made."""

from __future__ import annotations

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.evidence import Evidence, Expectation


def _is_packed(expectation: Expectation) -> bool:
    return expectation.pack is not None


def _file(expectation: Expectation, evidence: Evidence) -> Finding:
    pack = expectation.pack or {}
    seen = evidence.static.get("image")
    if not seen:
        return NotRun("the packed tree was not read")
    if seen.get("error"):
        return Failed(f"{pack['file']} cannot be read: {seen['error']}", "pack the environment again")
    if seen["sha256"] != pack["sha256"]:
        return Failed(
            f"{pack['file']} is not the packed tree that was made: its content changed",
            "pack the environment again",
            f"sha256 {seen['sha256'][:12]} ({seen['size']} bytes); made was {pack['sha256'][:12]}",
        )
    return Passed(f"sha256 {seen['sha256'][:12]}, {seen['size'] / 1e6:.0f} MB, of {pack['of']}")


CHECKS: tuple[Check, ...] = (
    Check(
        name="pack-file",
        rung=0,
        title="the packed tree is the one that was made",
        source="image",
        judge=_file,
        where=_is_packed,
        only="for a packed tree",
        witnesses="The sha256 of the whole file, beside that of the manifest.",
        mistakes="The files as seen through the mount are compared one by one, too, but only those that a RECORD or the "
        "manifest names; what else the file holds, bytecode among it, only its sha256 tells.",
        fails="Another sha256, or a file that is gone. Nothing is then run in it.",
    ),
)
