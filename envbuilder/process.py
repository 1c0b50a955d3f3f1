"""The one place that runs programs.

A `Command` is a value: argument tuple, environment patch, working directory. No shell ever sees it. The patch is
applied to a copy of the caller's environment; `None` removes a variable. Every program runs in its own process group,
so that a time-out or Ctrl-C ends it together with everything that it started.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import join
from typing import IO

from envbuilder import modes
from envbuilder.errors import CommandFailed, HostError

TAIL_LINES = 30
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1

EnvPatch = Mapping[str, "str | None"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program to run: `argv`, an environment patch (`None` unsets) and a working directory."""

    argv: tuple[str, ...]
    env: EnvPatch = field(default_factory=dict)
    cwd: Path | None = None

    def __str__(self) -> str:
        return join(self.argv)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What a program left: exit code (negative for a signal), its output, the wall time, whether it was timed out."""

    code: int
    output: str
    seconds: float
    timed_out: bool = False


def patched(env: EnvPatch, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of `base` (default: this process's environment) with the patch applied."""
    result = dict(os.environ if base is None else base)
    for name, value in env.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result


def capture(command: Command, *, timeout: float | None = None, base: Mapping[str, str] | None = None) -> Finished:
    """Run to the end and return the exit code with stdout and stderr merged; a failure is a result, not an exception.

    Raises `HostError` when the program does not exist.
    """
    started = time.monotonic()
    with _started(command, base, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end_group(process)
            output, _ = process.communicate()
            return Finished(code=process.returncode, output=output, seconds=time.monotonic() - started, timed_out=True)
    return Finished(code=process.returncode, output=output, seconds=time.monotonic() - started)


def fed(command: Command, content: bytes, *, timeout: float | None = None) -> Finished:
    """Run with these bytes on the standard input, otherwise like `capture`."""
    with tempfile.TemporaryFile() as source:
        source.write(content)
        source.seek(0)
        started = time.monotonic()
        with _started(
            command, None, stdout=subprocess.PIPE, text=True, errors="replace", stdin=source.fileno()
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                end_group(process)
                output, _ = process.communicate()
    return Finished(code=process.returncode, output=output, seconds=time.monotonic() - started)


def checked(command: Command, *, timeout: float | None = None) -> str:
    """The merged output of a program that must succeed; raises `CommandFailed` with its last lines."""
    done = capture(command, timeout=timeout)
    if done.code != 0:
        raise failure(command, done)
    return done.output


def logged(
    command: Command,
    log: Path,
    *,
    timeout: float | None = None,
    base: Mapping[str, str] | None = None,
    tick: Callable[[], None] | None = None,
    redact: Callable[[str], str] = str,
) -> Finished:
    """Run with all output appended to `log`; `tick` is called about ten times a second while it runs.

    The returned output holds what this command added to the log. `redact` is applied to the command line that is
    written to the log.
    """
    started = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as sink:
        sink.write(f"$ {redact(str(command))}\n")
        sink.flush()
        start_of_output = sink.tell()
        with _started(command, base, stdout=sink) as process:
            timed_out = _watch(process, started, timeout, tick)
    with log.open("rb") as source:
        source.seek(start_of_output)
        output = source.read().decode("utf-8", "replace")
    return Finished(code=process.returncode, output=output, seconds=time.monotonic() - started, timed_out=timed_out)


def failure(command: Command, done: Finished, *, log: Path | None = None, hint: str = "") -> CommandFailed:
    """The error that describes a failed program: its command line, how it ended, its last lines, its log."""
    how = "ran out of time" if done.timed_out else _ending(done.code)
    last = "\n".join("    " + line for line in done.output.strip().splitlines()[-TAIL_LINES:])
    message = f"{Path(command.argv[0]).name} {how}: {command}"
    if last:
        message += f"\n{last}"
    if log is not None:
        message += f"\n  full log: {log}"
    return CommandFailed(message, hint=hint, code=done.code, output=done.output)


def replace_this_process(command: Command) -> None:
    """Become the command (exec), with the caller's umask. Returns only by raising `HostError`: there is no such program."""
    env = patched(command.env)
    try:
        with modes.of_caller():
            os.execvpe(command.argv[0], list(command.argv), env)
    except OSError as error:
        raise HostError(f"cannot run {command.argv[0]}: {error.strerror}") from error


def end_group(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Terminate the whole process group of a program that we started; kill it if it lingers."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):
            return
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        # the leader is gone; a second round reaps group members that ignored the first signal
        if sign is signal.SIGTERM:
            continue


def _ending(code: int) -> str:
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"failed with exit code {code}"


def _watch(
    process: subprocess.Popen[bytes],
    started: float,
    timeout: float | None,
    tick: Callable[[], None] | None,
) -> bool:
    with _end_of(process) as ended:
        while not ended(_POLL_SECONDS):
            if tick is not None:
                tick()
            if timeout is not None and time.monotonic() - started > timeout:
                end_group(process)
                return True
    process.wait()
    return False


@contextmanager
def _end_of(process: subprocess.Popen[bytes]) -> Iterator[Callable[[float], bool]]:
    """A function that waits for the end of a program, for some seconds at most, and says whether it came.

    Popen's own wait looks every 50 ms, which adds up; a process file descriptor wakes at once. Kernels before 5.3 lack it.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        yield lambda seconds: _waited(process, seconds)
        return
    try:
        yield lambda seconds: bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _waited(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _started(
    command: Command,
    base: Mapping[str, str] | None,
    *,
    stdout: int | IO[str],
    text: bool = False,
    errors: str | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen]:  # type: ignore[type-arg]
    """Start in a process group of its own; whatever happens to us, the group is ended before we leave."""
    try:
        process = subprocess.Popen(
            command.argv,
            env=patched(command.env, base),
            cwd=command.cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=text,
            errors=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot run {command.argv[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            end_group(process)
