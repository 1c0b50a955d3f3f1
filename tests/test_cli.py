"""The command line: whatever is typed ends in a message and a known code; results alone on stdout."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from envbuilder import cli, process, recipe, store
from envbuilder.errors import BAD_INPUT, EXIT_CODES, INTERRUPTED, OUR_BUG

COMMANDS: dict[str, tuple[str, ...]] = {
    "build": (
        "recipe",
        "--lock",
        "--offline",
        "--rebuild",
        "--json",
        "-q",
        "--site",
        "--partition",
        "--python",
        "--builder",
    ),
    "lock": (
        "recipe",
        "-o",
        "--check",
        "--upgrade",
        "--upgrade-all",
        "--exclude-newer",
        "--json",
        "--python",
        "--site",
    ),
    "bundle": ("recipe", "--lock", "-o", "--json", "--partition", "--python"),
    "plan": ("recipe", "--lock", "--script", "--json", "--partition", "--python"),
    "diff": ("place", "place", "--json", "--site"),
    "verify": ("place", "--json", "--junit", "--ranks", "--timeout", "--keep-going"),
    "run": ("place", "--ungated", "command"),
    "gate": ("place", "--json"),
    "envs list": ("--json", "--site"),
    "envs show": ("place", "--json"),
    "envs rm": ("nothing", "--json"),
    "gc": ("--dry-run", "--json", "--site"),
    "lint": ("recipe", "place", "--json"),
    "schema": ("kind",),
    "recipes list": ("--json",),
    "recipes show": ("recipe", "--json"),
    "sites list": ("--json",),
    "sites show": ("site", "--json"),
}
FLAGS = {"--rebuild", "--json", "-q", "--check", "--upgrade-all", "--script", "--keep-going", "--ungated", "--dry-run"}
ODD = (
    "",
    " ",
    "-",
    "--",
    "..",
    "/",
    "~",
    "\n",
    "é",
    "\udcff",
    "$(id)",
    "@",
    "x" * 300,
    "a/" * 3000,
    "--json",
    "-x",
    "None",
    "0",
    "-1",
)
VALUES: dict[str, tuple[str, ...]] = {
    "recipe": ("mpi4py", "mpi4p", "mpi4py@4.1", "mpi4py@", "mpi4py@9", "good.yaml", "broken.yaml", "local.yaml", "binary.yaml",
               "./good.yaml@1.0", "lock"),
    "place": ("lock", "broken-lock", "other-lock", "empty", "notes", "e", "e@1", "e-1-aaa", "tree", "good.yaml", "nothing"),
    "nothing": ("f", "nothing", "../x", "/"),
    "site": ("local", "lokal", "full.yaml", "broken.yaml", "./full.yaml"),
    "kind": ("recipe", "site", "nothing"),
    "command": ("-- true", "--", "-- no-such-program", "true", "-- -- --"),
    "--lock": ("lock", "broken-lock", "empty", "nothing", "notes"),
    "--offline": ("lock", "good.yaml", "binary.yaml", "nothing", "/dev/zero"),
    "-o": ("out", "empty", "notes", "good.yaml", "lock", "broken-lock", "/proc/nothing", "a/b/c"),
    "--partition": ("host", "gpu", ""),
    "--site": ("local", "lokal", "full.yaml", "broken.yaml", "binary.yaml"),
    "--python": ("3.11", "3", "2.7", "/bin/true", "/bin/echo", "/nothing/python", ">=3", "python3", "9" * 99),
    "--builder": ("venv", "conda"),
    "--upgrade": ("numpy", "-r", "--help", "a b", "mpi4py"),
    "--exclude-newer": ("2026-01-31", "yesterday", "2026-13-01", "9999-12-31T23:59:59Z", "0001-01-01", "2026-01-31T10:00+99:00"),
    "--junit": ("out.xml", "nothing/out.xml", "empty", "/"),
    "--ranks": ("1", "0", "-1", "two", "1e3", "9" * 400, "٣"),
    "--timeout": ("1", "0", "1.5"),
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def _run(words: list[str]) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(words)
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with good and broken files, and a store with two environments that are empty trees."""
    folder = tmp_path_factory.mktemp("place")
    asked = samples.request(recipe.parse(json.dumps(samples.RECIPE), "r.yaml"))
    # an index of its own would be looked for on the network
    alone = {key: value for key, value in samples.RECIPE.items() if key != "indexes"} | {
        "variants": [{"version": "1.0"}]
    }
    (folder / "good.yaml").write_text(json.dumps(alone))
    (folder / "tmp").mkdir()
    (folder / "broken.yaml").write_text("schema: 1\nname: 3.10\n\tx")
    (folder / "full.yaml").write_text(json.dumps(samples.SITE))
    (folder / "local.yaml").write_text("partitions:\n  x\n")
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    for name in ("lock", "broken-lock", "other-lock"):
        store.write_lock(folder / name, samples.locked(asked))
    (folder / "broken-lock" / "pylock.toml").write_text("[[")
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.tex").write_text("")
    (folder / "tree").mkdir()
    (folder / "tree" / "pyvenv.cfg").write_text("")
    at = store.Store(folder / "store")
    for name in ("e", "f"):
        made = samples.environment(identifier=f"{name}-1-aaa", recipe=name, prefix=str(at.prefix(f"{name}-1-aaa")))
        Path(made.prefix).mkdir(parents=True)
        store.publish(at, made, (name, f"{name}@1"))
    return folder


@pytest.fixture
def quiet_world(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing to reach: no index, no find-links, no user's configuration."""
    _isolate(place, monkeypatch)
    yield place
    _assert_no_report_of_a_bug(place)


def _assert_no_report_of_a_bug(place: Path) -> None:
    reports = [path.read_text() for path in (place / "tmp").glob("envbuilder-bug-*")]
    assert not reports, reports[0]


def _isolate(place: Path, patch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("PIP_", "UV_", "ENVBUILDER_", "XDG_")):
            patch.delenv(name)
    patch.setenv("ENVBUILDER_HOME", str(place / "store"))
    patch.setenv("HOME", str(place))
    patch.setenv("TMPDIR", str(place / "tmp"))
    patch.setattr(tempfile, "tempdir", None)
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("UV_OFFLINE", "1")
    patch.chdir(place)
    patch.setattr(process, "replace_this_process", lambda _: None)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with most of what it wants, in any order, and now and then something odd."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    words: list[str] = []
    for part in COMMANDS[command]:
        if part.startswith("-"):
            if draw(st.integers(0, 3)):
                continue
            words.append(part)
        if part not in FLAGS:
            chosen = draw(st.sampled_from(VALUES[part] if draw(st.integers(0, 5)) else ODD))
            words += shlex.split(chosen) if part == "command" and "'" not in chosen else [chosen]
    if not draw(st.integers(0, 5)):
        words.insert(draw(st.integers(0, len(words))), draw(st.sampled_from(ODD)))
    return [*command.split(), *words]


@settings(max_examples=150)
@given(lines())
def test_any_command_line_ends_in_a_message_and_a_known_code(place: Path, line: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _isolate(place, patch)
        said = _run(line)

    _assert_no_report_of_a_bug(place)
    assert said.code in set(EXIT_CODES) - {OUR_BUG, INTERRUPTED}, (line, said)
    assert "Traceback" not in said.err
    if said.code:
        assert said.err or said.out, line
    if said.code == BAD_INPUT and "lint" not in line[:1]:
        assert said.err.startswith(("error: ", "lock ", "note: ", "resolve ", "verify ")), (line, said)
        assert "error: " in said.err
        assert "hint: " in said.err or ":1:" in said.err or ":2:" in said.err, (line, said)
        assert not said.out
    if "--json" in line and said.out and "usage: " not in said.out and "--script" not in line and line[0] != "run":
        json.loads(said.out)


@pytest.mark.parametrize("line", ["", "nothing", "build", "envs", "envs nothing", "schema", "diff a", "run e", "run", "recipes x",
                                  "gate e -- x", "build mpi4py -- x", "verify --ranks 0", "build mpi4py --builder pip"])  # fmt: skip
def test_a_wrong_command_line_is_two_lines_on_stderr(line: str, quiet_world: Path) -> None:
    said = _run(line.split())

    assert said.code == BAD_INPUT
    assert not said.out
    first, second = said.err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("  hint: see `envbuilder")


def test_run_without_a_command_says_where_to_write_it(quiet_world: Path) -> None:
    assert "after `--`" in _run(["run", "e"]).err
    assert "after `--`" in _run(["run", "e", "--"]).err
    assert "unrecognized arguments: python" in _run(["run", "e", "python"]).err


def test_quiet_leaves_results_alone(quiet_world: Path) -> None:
    for line in (["envs", "list"], ["recipes", "list"], ["gc", "--dry-run"], ["diff", "lock", "other-lock"]):
        loud, quiet = _run(line), _run([*line, "--quiet"])
        assert (quiet.code, quiet.out) == (loud.code, loud.out)
        assert not quiet.err


@pytest.mark.parametrize(
    "line",
    ["recipes list", "recipes show deepcam", "sites list", "sites show local", "envs list", "envs show e", "gc --dry-run",
     "diff lock other-lock", "lint", "plan good.yaml --lock lock"],
)  # fmt: skip
def test_results_for_machines_are_alone_on_stdout(line: str, quiet_world: Path) -> None:
    said = _run([*line.split(), "--json"])

    assert said.code in (0, 1, 2), said
    if said.code == 0:
        json.loads(said.out)
    else:
        assert not said.out


def test_equal_and_different_have_their_codes(quiet_world: Path) -> None:
    assert _run(["diff", "lock", "other-lock"]).code == 0
    text = (quiet_world / "other-lock" / "lock.json").read_text()
    (quiet_world / "other-lock" / "lock.json").write_text(text.replace('"1.0"', '"1.1"'))
    try:
        said = _run(["diff", "lock", "other-lock", "--json"])
    finally:
        (quiet_world / "other-lock" / "lock.json").write_text(text)
    assert said.code == 1
    assert json.loads(said.out)["differences"][0]["what"] == "request.version"
    assert _run(["gate", "e"]).code == 1


def test_an_unknown_recipe_names_the_nearest(quiet_world: Path) -> None:
    said = _run(["build", "mpi4p"])

    assert said.code == BAD_INPUT
    assert "did you mean 'mpi4py'?" in said.err


def test_a_lock_of_another_request_is_refused_with_what_differs(quiet_world: Path) -> None:
    said = _run(["plan", "mpi4py", "--lock", "lock"])

    assert said.code == BAD_INPUT
    assert "the lock is stale" in said.err
    assert "recipe: full -> mpi4py" in said.err
    assert "envbuilder lock mpi4py" in said.err


def _process(*words: str, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "envbuilder", *words]
    return subprocess.run(command, capture_output="stdout" not in kwargs, check=False, **kwargs)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(
    ("line", "code"), [("recipes list", 0), ("nothing", 2), ("--help", 0), ("lint broken.yaml", 2)]
)
def test_closed_streams_change_no_exit_code(line: str, code: int, streams: str, quiet_world: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m envbuilder {line} {streams}'], check=False, capture_output=True
    )

    assert done.returncode == code, done
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(quiet_world: Path) -> None:
    for line in ("schema recipe", "--help"):
        command = f'"{sys.executable}" -m envbuilder {line} | (exec <&-; true); echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert done.stdout.strip() == "0"


def test_a_full_device_is_named(quiet_world: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = _process("recipes", "list", stdout=full, stderr=subprocess.PIPE)

    assert done.returncode == 3
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_with_one_message_and_130(number: int, quiet_world: Path) -> None:
    code = (
        "import sys, time, envbuilder.catalog as c, envbuilder.cli as cli\n"
        "def slow(*_): print('ready', flush=True); time.sleep(60)\nc.recipes = slow\nsys.exit(cli.main(['recipes', 'list']))"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout
    assert started.stdout.readline() == "ready\n"
    before = time.monotonic()
    started.send_signal(number)
    _, err = started.communicate(timeout=20)

    assert started.returncode == INTERRUPTED
    assert err.startswith("error: interrupted")
    assert "Traceback" not in err
    assert time.monotonic() - before < 10


def test_hostile_bytes_in_names_are_messages(quiet_world: Path) -> None:
    for words in (["build", b"\xff"], ["lint", b"\xff.yaml"], ["diff", b"\xff", "lock"], ["envs", "show", b"\xff/x"],
                  ["plan", "mpi4py", "--python", b"/\xff"]):  # fmt: skip
        done = _process(*words)  # type: ignore[arg-type]
        assert done.returncode in (2, 3), done
        assert done.stderr.startswith(b"error: "), done


def test_a_store_that_cannot_be_named_or_written(quiet_world: Path) -> None:
    (quiet_world / "file").write_text("")
    for home in (b"/tmp/\xff", str(quiet_world / "file" / "below").encode(), b"/proc/nothing"):
        done = _process("lock", "mpi4py", env={**os.environb, b"ENVBUILDER_HOME": home})
        assert done.returncode in (2, 3), done
        assert b"error: " in done.stderr
        assert b"bug" not in done.stderr
