"""The command that goes from a failure to its cause: doctor."""

from __future__ import annotations

import os
import stat
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from envbuilder.console import Console
from envbuilder.errors import FINE, SAID_NO, InputError

if TYPE_CHECKING:
    from envbuilder.diagnose import Diagnosis


def diagnose(arguments: Namespace, console: Console) -> int:
    """`envbuilder doctor`: exit code 0 when a cause was named (or nothing had failed), 1 when none was recognised."""
    from envbuilder.report import diagnosis as rendering

    if arguments.list:
        if console.json:
            console.document(rendering.catalogue_document())
        else:
            console.result(rendering.catalogue())
        return FINE
    if not arguments.subject:
        raise InputError(
            "nothing to look at",
            hint="give a log, - for standard input, or an environment: envbuilder doctor slurm-42.out",
        )
    found = _look(arguments.subject, arguments.site)
    code = FINE if found.named else SAID_NO
    if console.json:
        console.document(rendering.document(found, code))
    else:
        console.result(rendering.render(found))
    return code


def _look(subject: str, site: str) -> Diagnosis:
    from envbuilder import diagnose as judging

    if subject == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("standard input is a terminal", hint="envbuilder doctor - < FILE, or give the file's name")
        return judging.of_log(sys.stdin.buffer, "standard input")
    if "\0" in subject:
        raise InputError("a path holds no zero byte", hint="give the path of a log, or an environment")
    if _is_log(subject):
        try:
            with open(subject, "rb") as source:
                return judging.of_log(source, subject)
        except OSError as error:
            raise InputError(f"{subject}: {error.strerror}", hint="give a file that you may read") from error
    from envbuilder.cli.place import opened

    return judging.of_environment(opened(site), subject)


def _is_log(subject: str) -> bool:
    """Whether this is a file. What looks like a path to one and is not there is said to be so; a pipe is as good."""
    try:
        mode = os.stat(subject).st_mode
    except OSError:
        if subject.endswith((".log", ".out", ".err", ".txt")):
            raise InputError(f"there is no file {subject}", hint="give the path of a log, or an environment") from None
        return False
    if stat.S_ISDIR(mode):
        return False
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        return True
    raise InputError(f"{subject} is neither a file nor a pipe", hint="give the path of a log")
