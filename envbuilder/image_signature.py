"""Signatures of images: the runtime's own (`apptainer sign`, `apptainer verify`), with a pair of PEM keys.

A signature lies inside the file and covers every object of it; so signing makes another file, with another sha256. Whose
signature counts is said by a public key that the site or the user names.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envbuilder import process
from envbuilder.errors import HostError, InputError
from envbuilder.host import sha256
from envbuilder.process import Command
from envbuilder.runtime import Runtime, find_again

KEY_VARIABLE = "ENVBUILDER_IMAGE_KEY"
# Both read every byte of the image.
_SECONDS = 3600.0


def key(site_key: str, env: Mapping[str, str]) -> Path | None:
    """The public key that images must be signed with: the site's, else the user's own; None where nobody names one."""
    named = site_key or env.get(KEY_VARIABLE, "")
    return Path(named).expanduser().absolute() if named else None


def mark(public: Path | None) -> str:
    """The sha256 of a public key, which is what a proof holds of it; "" for none and `unreadable` for one that is gone."""
    if public is None:
        return ""
    try:
        return sha256(public)
    except OSError:
        return "unreadable"


def signed(program: Runtime, image: Path, private: Path) -> tuple[Path, str]:
    """A signed copy of an image beside it, and its sha256; it has this signature alone, whatever the image had before.

    Raises `InputError` for a key that is none, `HostError` when the runtime cannot sign with it.
    """
    if not private.is_file():
        raise InputError(
            f"--key: {private} is no file", hint="make one: openssl genpkey -algorithm ed25519 -out key.pem"
        )
    part = image.with_name(f".{image.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(image, part)
        part.chmod(0o755)
        for number in _signatures(program, part):  # a verify under one key fails where there is another's, too
            _done(program, ("sif", "del", number, str(part)), private)
        _done(program, ("sign", "--key", str(private), str(part)), private)
        digest = sha256(part)
        target = image.with_name(f"signed-{digest[:12]}.sif")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target, digest


def _signatures(program: Runtime, image: Path) -> tuple[str, ...]:
    """The numbers of the objects of a SIF that are signatures, the last first."""
    listed = process.checked(Command(argv=(program.program, "--quiet", "sif", "list", str(image))), timeout=_SECONDS)
    found = re.findall(r"^(\d+)\s*\|.*\|\s*Signature\b", listed, re.MULTILINE)
    return tuple(sorted(found, key=int, reverse=True))


def _done(program: Runtime, words: tuple[str, ...], private: Path) -> None:
    done = process.capture(Command(argv=(program.program, "--quiet", *words)), timeout=_SECONDS)
    if done.code != 0:
        raise HostError(
            f"the image could not be signed with {private}: {_last(done.output)}",
            hint="it takes a private key in PEM without a passphrase: openssl genpkey -algorithm ed25519 -out key.pem",
        )


def look(known: Mapping[str, str], image: Path, public: Path) -> dict[str, Any]:
    """What a runtime (the `known` one, if it is there still) says of the signatures in an image, under a public key.

    `holds` is whether every object is covered by one that fits the key, `said` the last line.
    """
    facts: dict[str, Any] = {"key": str(public), "mark": mark(public)}
    if facts["mark"] == "unreadable":
        return {**facts, "error": f"the key {public} cannot be read"}
    try:
        program = find_again(known, os.environ).program
        command = Command(argv=(program, "--quiet", "verify", "--key", str(public), str(image)))
        done = process.capture(command, timeout=_SECONDS)
    except HostError as error:
        return {**facts, "error": error.message}
    return {**facts, "holds": done.code == 0, "said": _last(done.output)}


def _last(output: str) -> str:
    lines = [line for line in output.splitlines() if re.search(r"[A-Za-z]", line)]
    return re.sub(r"^[A-Z]+:\s+", "", lines[-1].strip())[:300] if lines else "nothing"
