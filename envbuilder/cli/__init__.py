"""The command line: parser, wiring, and the single place where failures become messages and exit codes.

Start-up counts: nothing is imported here that `--help` does not need; each command imports its own verbs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from envbuilder.errors import BAD_INPUT, FINE, INTERRUPTED, OUR_BUG

TYPE_CHECKING = False  # type checkers know the name; importing it would cost every start 2 ms
if TYPE_CHECKING:
    from envbuilder.console import Console


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`envbuilder.errors` lists them)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:
        from envbuilder import run_memo

        run_memo.start(words, os.environ)
    from envbuilder.cli.parser import parse

    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - a caller that closed them wants to hear nothing
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        arguments = parse(words)
    except SystemExit as stop:
        return _flushed(stop.code if isinstance(stop.code, int) else BAD_INPUT)
    except BrokenPipeError:
        return _left_by_its_reader()
    return _guarded(arguments, words)


def _guarded(arguments: object, words: list[str]) -> int:
    from envbuilder import modes
    from envbuilder.console import Console
    from envbuilder.errors import EnvbuilderError

    console = Console(quiet=getattr(arguments, "quiet", False), json=getattr(arguments, "json", False))
    _let_terminate_clean_up()
    try:
        with modes.steady():
            return FINE if _opens_at_once(arguments, console) else int(arguments.run(arguments, console))  # type: ignore[attr-defined]
    except EnvbuilderError as error:
        console.error(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        console.error("interrupted; nothing half-done is visible, the same command goes on from here")
        return INTERRUPTED
    except BrokenPipeError:
        return _left_by_its_reader()
    except OSError as error:
        return _operating_system(error, console)
    except Exception:  # noqa: BLE001 - the last resort: a bug of ours becomes a report, not a traceback
        return _our_bug(console, words)


def _opens_at_once(arguments: object, console: Console) -> bool:
    """Whether the gate opens on what it found the last time; where the store is must be told without reading a site."""
    root = os.environ.get("ENVBUILDER_HOME")
    if getattr(arguments, "verb", "") != "gate" or not root or console.json:
        return False
    from envbuilder import gate_memo

    line = gate_memo.recall(root, str(arguments.environment), os.environ)  # type: ignore[attr-defined]
    if line:
        console.done(line)
    return bool(line)


def _flushed(code: int) -> int:
    """The exit code of a help text, which a reader may leave before its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _left_by_its_reader()
    return code


def _left_by_its_reader() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FINE


def _operating_system(error: OSError, console: object) -> int:
    import errno

    from envbuilder.console import Console
    from envbuilder.errors import BUILD_FAILED

    assert isinstance(console, Console)  # noqa: S101 - for the type checker
    place = f"{error.filename}: " if error.filename else ""
    hint = "check the permissions of the path"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = (
            "free space (`envbuilder gc` helps) or set ENVBUILDER_HOME to another disk, then run the same command again"
        )
    if error.errno == errno.ENAMETOOLONG:
        place, hint = f"{str(error.filename)[:80]}...: ", "give a shorter name"
    console.error(f"{place}{error.strerror or error}", hint)
    return BUILD_FAILED


def _our_bug(console: object, words: list[str]) -> int:
    import platform
    import shlex
    import tempfile
    import traceback

    from envbuilder import __version__
    from envbuilder.console import Console

    assert isinstance(console, Console)  # noqa: S101 - for the type checker
    report = (
        f"envbuilder {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"command: envbuilder {shlex.join(words)}\n\n{traceback.format_exc()}"
    )
    with tempfile.NamedTemporaryFile("w", prefix="envbuilder-bug-", suffix=".txt", delete=False) as sink:
        sink.write(report)
    last = traceback.format_exc().strip().splitlines()[-1]
    console.error(f"a bug in envbuilder: {last}", f"please report it with the file {sink.name}")
    return OUR_BUG


def _let_terminate_clean_up() -> None:
    """A polite kill unwinds like Ctrl-C, so that programs we started end with us and locks are released."""
    import signal

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish is respected
            signal.signal(number, interrupt)
