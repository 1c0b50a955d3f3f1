"""The check of an image's signature, where a key is named."""

from __future__ import annotations

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.evidence import Evidence, Expectation


def _named(expectation: Expectation) -> bool:
    return expectation.image is not None and bool(expectation.image_key)


def _signed(expectation: Expectation, evidence: Evidence) -> Finding:
    image = expectation.image or {}
    seen = (evidence.static.get("image") or {}).get("signature")
    if not seen or seen.get("error"):
        return NotRun(seen["error"] if seen else "the image was not read")
    said = str(seen["said"])
    told = f"{image['runtime']['name']} says: {said}"
    if seen["holds"]:
        return Passed(f"signed with {seen['key']} (sha256 {seen['mark'][:12]}), every object of the image is covered")
    if "signature not found" in said:
        return Failed(
            f"{image['file']} is not signed, and {seen['key']} is the key that it must be signed with",
            f"have it signed by who has the private key: envbuilder sign {expectation.environment} --key KEY.pem",
            told,
        )
    if "integrity compromised" in said or "not associated with" in said:
        return Failed(
            f"{image['file']} was changed after it was signed", "fetch or build it anew, and do not run it", told
        )
    if "signature object" in said:
        return Failed(
            f"{image['file']} is signed with another key than {seen['key']}",
            "ask whoever published it which key is theirs; name that one, or do not run it",
            told,
        )
    return NotRun(told)


CHECKS: tuple[Check, ...] = (
    Check(
        name="image-signature",
        rung=0,
        title="the image is signed with the key that is named",
        source="image",
        judge=_signed,
        where=_named,
        only="in an image, where the site (`proof.image_key`) or ENVBUILDER_IMAGE_KEY names a public key",
        witnesses="What `apptainer verify --key` says of the file: whether a signature that fits the key covers every object "
        "of it, and if not, why.",
        mistakes="That a file is signed says nothing: anybody can sign, with a key of their own. And a signature that covers "
        "some objects leaves room for an overlay that it does not cover.",
        fails="No signature, another key's, or an object that was changed or added after it was signed. Nothing is then run "
        "in the image.",
    ),
)
