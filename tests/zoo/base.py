"""What an entry of the zoo is: plain data, and one function that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from breaking import Copy, copied, make_wheel, uv
from filelock import FileLock
from launching import scratch_copy

Start = Literal[
    "mpi4py_env", "torch_env", "tensorflow_env", "tensorflow_2_13_env", "horovod_env", "torch_horovod_env", "mpi4py_image",
]  # fmt: skip
Words = tuple["str | tuple[str, ...]", ...]
"""What a text must contain; of several in a tuple, one."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an entry is looked at.

    `by` is `verify`, the command as a user runs it, with its `options`; or one launch of a probe, `single` or `ranks`, as
    verify launches it, judged by the checks: dearer environments are spared what their fault does not touch. `apart`
    starts the ranks without a launcher; `started` starts another number of them than is asked for. By `refused` a command
    (`Case.command`, by default verify) is run that must say no before anything starts: what it says stands for a check.
    """

    by: Literal["verify", "single", "ranks", "refused"] = "verify"
    options: tuple[str, ...] = ("--keep-going",)
    before: tuple[str, ...] = ()
    ranks: int = 2
    started: int | None = None
    apart: bool = False
    timeout: float = 180


VERIFY, SINGLE, RANKS = Look(), Look(by="single"), Look(by="ranks")
# What an error message is called among the checks.
REFUSAL = "refusal"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where an entry is made: a good environment, which nobody may touch, and an empty folder.

    `home` is the store of the tests, which has the good environments and stays between runs.
    """

    prefix: Path
    folder: Path
    home: Path

    @property
    def kept(self) -> Path:
        """A folder that stays between runs, for what is fetched."""
        return self.home / "specimens" / "zoo"

    def copy(self) -> Copy:
        """A whole copy of the environment, in a store of its own."""
        return copied(self.prefix, self.folder / "store")

    def linked(self) -> Path:
        """A copy of the tree whose files are hard links: to replace files in, never to write into."""
        return scratch_copy(self.prefix, self.folder / "copy")

    def install(self, copy: Copy, name: str, version: str, files: dict[str, str]) -> None:
        """Install a wheel that is made here, past the lock, as a hand with pip would."""
        wheel = make_wheel(self.folder / "wheels", name, version, files)
        python = copy.prefix / "bin" / "python"
        uv("pip", "install", "--python", python, "--no-deps", "--no-index", wheel, "--quiet")

    def fetched(self, package: str) -> Path:
        """The folder of another MPI, from its wheel; fetched once on a machine."""
        target = self.kept / package
        self.kept.mkdir(parents=True, exist_ok=True)
        with FileLock(self.kept / f"{package}.lock"):
            if not (target / ".whole").exists():
                uv("pip", "install", "--quiet", "--target", target, package)
                (target / ".whole").touch()
        return target


@dataclass(frozen=True, kw_only=True)
class Case:
    """An entry that was made: what to look at, under which variables, and `told`, which fills `{names}` in expected words.

    `copy` is a broken copy with a store of its own, `prefix` a broken tree without one; neither: the good one under these
    variables. `mpiexec` is another launcher for the ranks. `features` are claimed on top of the environment's own. `command`
    are the words of envbuilder that must be refused.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    copy: Copy | None = None
    prefix: Path | None = None
    mpiexec: Path | None = None
    features: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)


Make = Callable[[Scene], Case]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a verdict must say of a fault: this check fails, with these words in cause, remedy and what was witnessed."""

    check: str
    cause: Words
    remedy: Words
    witnessed: Words = ()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A broken environment.

    `names` must all be said, the first one is the fault's own name. Of all other checks those in `passing` may not fail
    (`alone`: none may), and those in `not_run` may not have been made. `code` is the exit code.
    """

    name: str
    broken: str
    start: Start
    make: Make
    names: tuple[Names, ...]
    look: Look = VERIFY
    alone: bool = False
    passing: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    code: int = 1
    slow: bool = False


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """An odd environment, or odd circumstances, in which nothing is wrong: every check must pass."""

    name: str
    odd: str
    start: Start
    make: Make = lambda _: Case()
    look: Look = Look(options=())
    slow: bool = False


Entry = Fault | Healthy
