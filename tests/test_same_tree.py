"""One lock gives one tree, whoever builds it and when: compiled apart, under another HOME, umask, time zone and user."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from compiling import EXTENSION, TOLD, Bench

from envbuilder import compare, modes

# What would tell two compilations apart, beside the debug information that Python's own flags ask for.
DATED = EXTENSION + 'extern "C" const char *made() { return __DATE__ " " __TIME__ " " __FILE__; }\n'
NOBODY = 65534
# a user who may read what root's Python is made of, and owns nothing
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search", "--",
)  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A store that was moved away after a build in it, and the environment there."""

    store: Path
    identifier: str

    @property
    def prefix(self) -> Path:
        return self.store / "envs" / self.identifier

    @property
    def created(self) -> str:
        return str(json.loads((self.store / "manifests" / f"{self.identifier}.json").read_text())["created"])


class Place:
    """A lock, and a path where one store after the other is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench = Bench(root / "bench", files={"answer.cpp": DATED})
        self.bench.wants(archive={"url": self.bench.archive.as_uri(), "sha256": self.bench.sha256}, **TOLD)
        self.store = root / "free" / "store"
        self.store.parent.mkdir()
        self.store.parent.chmod(0o777)
        self.lock = root / "lock"
        done = self.bench.run("lock", "tiny", "-o", str(self.lock), ENVBUILDER_HOME=str(root / "locking"))
        assert done.returncode == 0, done.stderr
        assert not (root / "locking" / "wheels").exists()

    def build(self, name: str, *start: str, umask: int, **variables: str) -> Built:
        """Build in a store that is not there yet, and move it away."""
        home = self.root / "free" / f"{name}-home"
        home.mkdir()
        home.chmod(0o777)
        before = os.umask(umask)
        try:
            done = subprocess.run(
                [*start, sys.executable, "-m", "envbuilder", "build", "tiny", "--lock", str(self.lock)],
                env=self.bench.env(ENVBUILDER_HOME=str(self.store), HOME=str(home), **variables),
                cwd=home, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
        finally:
            os.umask(before)
        assert done.returncode == 0, done.stderr
        assert "wheel of answer" in done.stderr, "it must have compiled"
        moved = self.root / name
        self.store.rename(moved)
        return Built(moved, Path(done.stdout.strip()).name)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Not in pytest's own folder, which is closed to other users."""
    root = Path(tempfile.mkdtemp(prefix="same-tree-"))
    root.chmod(0o755)
    try:
        yield Place(root)
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def first(place: Place) -> Built:
    return place.build("first", umask=0o022, TZ="UTC")


def _modes(root: Path) -> dict[str, int]:
    """The modes of all files and folders below a folder; a link has none."""
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode)
        for path in root.rglob("*")
        if not path.is_symlink()
    }


def _equal(first: Built, second: Built) -> None:
    """Equal in everything but owners, times, and where the store stands now: there are no exceptions, not even bytecode."""
    assert first.identifier == second.identifier
    assert first.created < second.created
    assert compare.trees(first.prefix, second.prefix) == ()
    assert _modes(first.prefix) == _modes(second.prefix)
    assert not list(first.prefix.rglob("*.pyc")), "what `compare` leaves out is not there"
    assert (first.prefix / "bin/activate").read_bytes() == (second.prefix / "bin/activate").read_bytes()
    (one,), (other,) = (list(built.store.glob("wheels/*")) for built in (first, second))
    assert one.name == other.name
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in other.iterdir()
    }
    (library,) = first.prefix.glob("lib/python*/site-packages/answer/*.so")
    assert b"Jan  1 1980 00:00:00" in library.read_bytes(), "the compiler was told the time"


@pytest.mark.real
def test_another_home_umask_and_time_give_the_same_tree(place: Place, first: Built) -> None:
    second = place.build(
        "second", umask=0o077, TZ="Pacific/Kiritimati", LANG="tr_TR.UTF-8", LC_ALL="C", USER="another",
        SOURCE_DATE_EPOCH="1", PYTHONHASHSEED="1", PIP_FIND_LINKS=str(place.bench.links),
    )  # fmt: skip

    _equal(first, second)
    # the umask decides who may enter, and nothing below
    assert [stat.S_IMODE(built.store.stat().st_mode) for built in (first, second)] == [0o755, 0o700]
    closed = {name: oct(mode) for name, mode in _modes(second.store).items() if mode & 0o444 != 0o444}
    assert closed == {}


@pytest.mark.real
def test_another_user_gives_the_same_tree(place: Place, first: Built) -> None:
    if os.getuid():
        pytest.skip("only root can become another user")
    tried = subprocess.run([*AS_NOBODY, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"another user cannot run this Python: {tried.stderr.strip()}")

    second = place.build("another-user", *AS_NOBODY, umask=0o027)

    assert {path.lstat().st_uid for path in second.prefix.rglob("*")} == {NOBODY}
    _equal(first, second)


@pytest.mark.parametrize(
    ("said", "umask", "mode"),
    [("", 0o022, 0o755), ("", 0o077, 0o700), ("owner", 0o022, 0o700), ("group", 0o077, 0o750), ("all", 0o077, 0o755)],
)
def test_the_site_says_who_may_look_into_a_new_store(said: str, umask: int, mode: int, tmp_path: Path) -> None:
    root = tmp_path / "store"
    before = os.umask(umask)
    try:
        with modes.steady():
            modes.make_root(root, said)
            (root / "below").mkdir()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)

    assert stat.S_IMODE(root.stat().st_mode) == mode
    assert stat.S_IMODE((root / "below").stat().st_mode) == 0o755
    root.chmod(0o711)
    modes.make_root(root, "group")
    assert stat.S_IMODE(root.stat().st_mode) == 0o711, "one that is there is the user's own"


@pytest.mark.real
def test_a_command_in_the_environment_has_the_users_umask(place: Place, first: Built) -> None:
    command = [sys.executable, "-m", "envbuilder", "run", "--ungated", "tiny", "--", "sh", "-c", "umask"]
    before = os.umask(0o037)
    try:
        env = place.bench.env(ENVBUILDER_HOME=str(first.store))
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    finally:
        os.umask(before)

    assert done.stdout.strip() == "0037"
