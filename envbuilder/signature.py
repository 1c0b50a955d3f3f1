"""Signatures of proofs: SSH signatures (ssh-keygen -Y, as git uses them), with keys that people already have.

A proof without one guards against mistakes, not against forgers. The signature lies beside the proof, as `NAME.sig`; the
file of allowed signers (ssh-keygen(1), ALLOWED SIGNERS) says whose word counts at a site.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from envbuilder import process
from envbuilder.document import write_atomically
from envbuilder.errors import GateError, HostError, InputError
from envbuilder.process import Command

NAMESPACE = "envbuilder-proof"
KEY_VARIABLE = "ENVBUILDER_SIGNING_KEY"
SIGNERS_VARIABLE = "ENVBUILDER_ALLOWED_SIGNERS"
_SECONDS = 30.0


def key(env: Mapping[str, str]) -> Path | None:
    """The key to sign with, or None; raises `InputError` when the one that is named is not there."""
    named = env.get(KEY_VARIABLE, "")
    if not named:
        return None
    path = Path(named).expanduser()
    if not path.is_file():
        raise InputError(
            f"{KEY_VARIABLE} names {path}, which is no file", hint="name a private key for ssh, or unset it"
        )
    return path


def sign(proof: Path, private: Path) -> Path:
    """Sign a proof; the signature replaces the one before. Raises `HostError` when ssh-keygen cannot.

    A key with a passphrase has to be in the agent: nobody is asked here.
    """
    beside = path_of(proof)
    beside.unlink(missing_ok=True)
    done = process.capture(
        Command(argv=("ssh-keygen", "-Y", "sign", "-f", str(private), "-n", NAMESPACE, str(proof))), timeout=_SECONDS
    )
    if done.code != 0 or not beside.is_file():
        raise HostError(
            f"the proof could not be signed with {private}: {_said(done.output)}",
            hint="a key with a passphrase must be in the agent (ssh-add); or leave the proof unsigned",
        )
    return beside


def path_of(proof: Path) -> Path:
    """Where the signature of a proof lies."""
    return proof.with_name(f"{proof.name}.sig")


def signer(proof: Path, signers: Path | None) -> str:
    """Who signed a proof: a principal of the allowed signers, `an unknown key` where no such file is known, "" unsigned.

    Raises `GateError` when the signature is wrong for what the proof says now, or is that of somebody whose word does not
    count.
    """
    beside = path_of(proof)
    if not beside.is_file():
        return ""
    if signers is None:
        done = _checked(proof, ("-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(beside)))
        return "an unknown key" if done else _wrong(proof)
    if not _checked(proof, ("-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(beside))):
        return _wrong(proof)
    found = process.capture(
        Command(argv=("ssh-keygen", "-Y", "find-principals", "-s", str(beside), "-f", str(signers))), timeout=_SECONDS
    )
    for name in found.output.splitlines() if found.code == 0 else ():
        if _checked(
            proof, ("-Y", "verify", "-n", NAMESPACE, "-s", str(beside), "-f", str(signers), "-I", name.strip())
        ):
            return name.strip()
    raise GateError(f"the proof is signed by somebody who is not among the allowed signers ({signers})")


def keep(proof: Path, document: str, private: Path | None) -> None:
    """Write a proof and, with a key, its signature; an old signature never stands beside a new proof."""
    path_of(proof).unlink(missing_ok=True)
    write_atomically(proof, document)
    if private is not None:
        sign(proof, private)


def _checked(proof: Path, arguments: tuple[str, ...]) -> bool:
    """Whether ssh-keygen accepts a signature of the proof's content, which it reads from its standard input."""
    content = proof.read_bytes()
    return process.fed(Command(argv=("ssh-keygen", *arguments)), content, timeout=_SECONDS).code == 0


def _wrong(proof: Path) -> str:
    raise GateError(f"the signature of the proof does not fit what it says: it was edited or forged ({proof})")


def _said(output: str) -> str:
    return re.sub(r"\s+", " ", output).strip()[-300:]
