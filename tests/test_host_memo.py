"""What a machine answered is taken again while nothing shows that it would answer otherwise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from envbuilder import host, host_memo
from envbuilder.partition import Compilers, MpiContract, Partition
from envbuilder.process import Command, Finished
from envbuilder.site import Site
from envbuilder.target import Target

pytestmark = pytest.mark.skipif(not shutil.which("mpicc"), reason="needs an MPI of the system")


@dataclass
class Machine:
    """A store, a compiler wrapper that calls the real one, and every program that was asked something."""

    store: Path
    mpicc: Path
    site: Site
    asked: list[str]

    def target(self, *, with_mpi: bool = True) -> tuple[Target, bool]:
        """What is found, and whether anything was asked."""
        self.asked.clear()
        found = host_memo.target(self.store, self.site, "all", host.own_python(), with_mpi=with_mpi)
        return found, bool(self.asked)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    mpicc = folder / "mpicc"
    mpicc.write_text(f'#!/bin/sh\nexec {shutil.which("mpicc")} "$@"\n')
    mpicc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    asked: list[str] = []
    really = host.process.capture

    def capture(command: Command, **rest: object) -> Finished:
        asked.append(command.argv[0])
        return really(command, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(host.process, "capture", capture)
    partition = Partition(mpi=MpiContract(provider="system", mpicc="mpicc"), compilers=Compilers(), features=("mpi",))
    store = tmp_path / "store"
    store.mkdir()
    site = Site(schema=1, name="s", summary="s", partitions={"all": partition}, default_partition="all")
    return Machine(store=store, mpicc=mpicc, site=site, asked=asked)


def memo_of(machine: Machine) -> Path:
    (found,) = (machine.store / "memos").iterdir()
    return found


def test_the_second_look_asks_nothing(machine: Machine) -> None:
    first, asked = machine.target()
    second, again = machine.target()

    assert (asked, again) == (True, False)
    assert first == second
    assert first.mpi is not None
    assert first.mpi.soname.startswith("libmpi")


def test_a_shell_elsewhere_is_the_same_machine(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.target()
    monkeypatch.setenv("PWD", "/elsewhere")

    assert not machine.target()[1]


def test_a_recipe_without_mpi_is_another_question(machine: Machine) -> None:
    machine.target()
    found, asked = machine.target(with_mpi=False)

    assert asked
    assert found.mpi is None


@pytest.mark.parametrize("variable", ["LD_LIBRARY_PATH", "CPATH", "MPICH_CC"])
def test_another_variable_is_another_question(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, variable: str, tmp_path: Path
) -> None:
    machine.target()
    monkeypatch.setenv(variable, "cc" if variable.endswith("CC") else str(tmp_path))

    assert machine.target()[1]


def test_a_wrapper_that_changed_is_asked_again(machine: Machine) -> None:
    machine.target()
    machine.mpicc.write_text(machine.mpicc.read_text() + "# changed\n")

    assert machine.target()[1]


def test_a_wrapper_that_broke_is_not_passed_over(machine: Machine) -> None:
    machine.target()
    machine.mpicc.write_text("#!/bin/sh\nexit 1\n")

    with pytest.raises(host.HostError, match="cannot compile a small MPI program"):
        machine.target()


def test_a_program_that_comes_before_it_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PATH is the same; what is found on it is not."""
    first = machine.mpicc.parent.parent / "first"
    first.mkdir()
    monkeypatch.setenv("PATH", f"{first}:{os.environ['PATH']}")
    machine.target()
    shutil.copy(machine.mpicc, first / "mpicc")

    found, asked = machine.target()

    assert asked
    assert found.mpi is not None
    assert found.mpi.mpicc == str(first / "mpicc")


def test_a_library_that_would_be_found_first_is_seen(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A real one: a copy of the system's with another content, put into a folder that the loader searches first."""
    folder = tmp_path / "lib"
    folder.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    before, _ = machine.target()
    assert before.mpi is not None
    shutil.copy(before.mpi.library, folder / before.mpi.soname)

    found, asked = machine.target()

    assert asked
    assert found.mpi is not None
    assert found.mpi.library == str(folder / before.mpi.soname)


def test_an_answer_holds_for_a_day(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.target()
    monkeypatch.setattr(host_memo, "_today", lambda: "2999-12-31")

    assert machine.target()[1]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mpi": 1}'])
def test_a_damaged_memo_is_none(machine: Machine, text: str) -> None:
    machine.target()
    memo_of(machine).write_text(text)

    found, asked = machine.target()

    assert asked
    assert json.loads(memo_of(machine).read_text())["mpi"]["soname"] == found.mpi.soname  # type: ignore[union-attr]


def test_a_store_that_is_not_there_is_not_made(machine: Machine) -> None:
    machine.store.rmdir()

    assert machine.target()[1]
    assert not machine.store.exists()


def test_without_a_right_to_write_it_asks_each_time(machine: Machine) -> None:
    if os.getuid() == 0:
        (machine.store / "memos").write_text("a file where the folder would be")
    else:
        machine.store.chmod(0o555)

    assert machine.target()[1]
    assert machine.target()[1]


def test_nothing_of_the_environment_is_written_down(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cret-word")
    machine.target()

    done = subprocess.run(["grep", "-r", "s3cret-word", str(machine.store)], capture_output=True, check=False)
    assert done.returncode == 1
