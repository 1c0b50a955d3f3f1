"""The one place that writes to the terminal.

Results go to stdout, everything for people to stderr. A message has a kind (`step`, `note`, `warning`, `error`); the kind
decides prefix and colour, and the prefix alone carries the meaning. While work runs, a terminal shows one living line: what,
how far, since when, where the log is. Elsewhere each step is one plain line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console as RichConsole

_COLOURS = {"step": "36", "note": "2", "warning": "33", "error": "31", "done": "32"}
_PREFIXES = {"step": "", "note": "note: ", "warning": "warning: ", "error": "error: ", "done": ""}

Tick = Callable[[str], None]


class Console:
    """Writes for people and for machines; `quiet` silences steps and notes, never warnings, errors or results."""

    def __init__(self, *, quiet: bool = False, json: bool = False) -> None:
        self.quiet = quiet
        self.json = json
        self._living = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self._colour = (sys.stderr.isatty() and not os.environ.get("NO_COLOR")) or bool(os.environ.get("FORCE_COLOR"))

    @property
    def results_in_colour(self) -> bool:
        """Whether stdout is a terminal that wants colour."""
        if os.environ.get("NO_COLOR"):
            return False
        return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))

    def result(self, text: str) -> None:
        """A result, on stdout; what its encoding cannot say is shown by escapes."""
        line = text if text.endswith("\n") else f"{text}\n"
        sys.stdout.write(line if _sayable(line) else _escaped_for_stdout(line))
        sys.stdout.flush()

    def document(self, document: object) -> None:
        """A result for machines, on stdout."""
        from envbuilder.document import to_json

        text = to_json(document)
        self.result(text if _sayable(text) else to_json(document, ascii_only=True))

    def note(self, text: str) -> None:
        """Something worth knowing."""
        self._say("note", text)

    def done(self, text: str) -> None:
        """Something that is finished."""
        self._say("done", text)

    def warning(self, text: str) -> None:
        """Something that may be wrong."""
        self._say("warning", text)

    def error(self, message: str, hint: str = "") -> None:
        """Something that failed, with what to do instead."""
        self._say("error", f"{message}\n  hint: {hint}" if hint else message)

    @contextmanager
    def step(self, title: str, *, number: int = 0, of: int = 0, log: Path | None = None) -> Iterator[Tick]:
        """Show a piece of work while it runs; the yielded function updates how far it is."""
        head = f"[{number}/{of}] {title}" if of else title
        started = time.monotonic()
        if not self._living:
            self._say("step", head)
            yield _ignore
            return
        with self._rich().status(_escaped(head)) as status:

            def tick(progress: str) -> None:
                since = f"{time.monotonic() - started:.0f} s"
                parts = [part for part in (progress, since, f"log {log}" if log else "") if part]
                status.update(f"{_escaped(head)} [dim]{_escaped(' · '.join(parts))}[/dim]")

            tick("")
            yield tick
        self._say("step", f"{head} ({time.monotonic() - started:.1f} s)")

    def _say(self, kind: str, text: str) -> None:
        if self.quiet and kind in ("step", "note", "done"):
            return
        line = f"{_PREFIXES[kind]}{text}"
        if self._colour:
            line = f"\033[{_COLOURS[kind]}m{line}\033[0m"
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def _rich(self) -> RichConsole:
        from rich.console import Console as RichConsole

        return RichConsole(stderr=True, highlight=False, emoji=False)


def _sayable(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8", sys.stdout.errors or "strict")
    except UnicodeEncodeError:
        return False
    return True


def _escaped_for_stdout(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _ignore(progress: str) -> None:
    """What a step without a living line does with its progress."""


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
