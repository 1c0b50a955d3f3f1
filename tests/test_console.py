"""The console: results on stdout, words for people on stderr, meaning never in the colour alone."""

from __future__ import annotations

import io
import json
import sys

import pytest

from envbuilder.console import Console


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _say_everything(console: Console) -> None:
    console.note("a note")
    console.done("a done")
    console.warning("a warning")
    console.error("an error", "a hint")
    with console.step("a step", number=1, of=2) as tick:
        tick("half")
    console.result("a result")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


def test_each_kind_has_its_place_and_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    _say_everything(Console())

    said = capsys.readouterr()
    assert said.out == "a result\n"
    assert said.err == "note: a note\na done\nwarning: a warning\nerror: an error\n  hint: a hint\n[1/2] a step\n"


def test_quiet_keeps_warnings_errors_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    _say_everything(Console(quiet=True))

    said = capsys.readouterr()
    assert said.out == "a result\n"
    assert said.err == "warning: a warning\nerror: an error\n  hint: a hint\n"


def test_colour_on_a_terminal_adds_nothing_but_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    told = []
    for variables in ({"TERM": "xterm"}, {"TERM": "dumb", "NO_COLOR": "1"}, {"TERM": "dumb", "FORCE_COLOR": "1"}):
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        terminal = _Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        console = Console()
        console.warning("w")
        console.error("e", "h")
        told.append(terminal.getvalue())

    assert "\033[" in told[0]
    assert "\033[" not in told[1]
    assert "\033[" in told[2]
    assert {re.sub(r"\033\[\d*m", "", text) for text in told} == {"warning: w\nerror: e\n  hint: h\n"}


def test_a_living_line_shows_markup_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A title with brackets is no markup of the terminal library."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")

    with Console().step("install [bold]x[/bold] [/]") as tick:
        tick("[red]3 of 4[/red]")

    assert "install [bold]x[/bold] [/]" in terminal.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_stdout_can_be_written_to(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", sink)
    console = Console()

    console.result("✓ é \udcff")
    console.document({"a": "✓ é \udcff"})

    written = sink.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    line, _, rest = written.partition("\n")
    assert "\\udcff" in line
    assert json.loads(rest) == {"a": "✓ é \udcff"}


def test_an_exception_in_a_step_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.StringIO(), _Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(KeyboardInterrupt), Console().step("x"):
            raise KeyboardInterrupt
