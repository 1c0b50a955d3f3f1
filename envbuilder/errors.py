"""What can go wrong, who must act, and the exit code that says so.

Every failure that envbuilder expects is an `EnvbuilderError`: one message, one hint (what to do instead), one exit
code. The command line catches it in a single place; anything else that escapes is a bug of ours (exit code 70).
"""

from __future__ import annotations

FINE = 0
SAID_NO = 1
BAD_INPUT = 2
BUILD_FAILED = 3
NOT_VERIFIED = 4
OUR_BUG = 70
INTERRUPTED = 130

EXIT_CODES: dict[int, str] = {
    FINE: "fine",
    SAID_NO: "a check failed, a lock is stale, two things differ, or the gate says no",
    BAD_INPUT: "a mistake in the input: recipe, site, lock or command line",
    BUILD_FAILED: "the build failed; nothing was published and the next run resumes",
    NOT_VERIFIED: "the verification could not run, or not enough of it",
    OUR_BUG: "a bug in envbuilder",
    INTERRUPTED: "interrupted",
}


class EnvbuilderError(Exception):
    """A failure that is known; `hint` says what to write or run instead."""

    exit_code = BUILD_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(EnvbuilderError):
    """The user's recipe, site, lock or command line is wrong; the user must edit it."""

    exit_code = BAD_INPUT


class HostError(EnvbuilderError):
    """The machine lacks something that was asked for (a Python, an MPI, a compiler, disk space)."""

    exit_code = BUILD_FAILED


class CommandFailed(EnvbuilderError):
    """A program that we ran failed; the message carries its last lines and names the log."""

    exit_code = BUILD_FAILED

    def __init__(self, message: str, *, hint: str = "", code: int = 1, output: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.output = output


class StoreError(EnvbuilderError):
    """The store cannot be read or written, or does not hold what was asked for."""

    exit_code = BUILD_FAILED


class UnknownName(InputError):
    """A recipe, site, partition or environment of that name does not exist."""


class VerifyError(EnvbuilderError):
    """The verification could not be carried out."""

    exit_code = NOT_VERIFIED


class GateError(EnvbuilderError):
    """The gate says no: there is no proof that fits this environment on this machine today."""

    exit_code = SAID_NO
