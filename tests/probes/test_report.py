from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envbuilder.probes import elf, mapped
from envbuilder.probes.report import RANKS, Report, launcher_world, plain


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in RANKS:
        for name in names:
            monkeypatch.delenv(name, raising=False)


def read(path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(path.read_text())
    return document


def test_the_final_file(tmp_path: Path) -> None:
    report = Report("single", str(tmp_path))
    assert report.part("answer", lambda: 42)
    report.write()

    document = read(tmp_path / "single.0.json")

    assert document["finished"] is True
    assert document["phase"] == "answer"
    assert document["facts"]["answer"] == 42  # type: ignore[index]
    assert document["error"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["single.0.json", "single.0.phase.json"]


def test_a_part_that_fails_keeps_the_others(tmp_path: Path) -> None:
    report = Report("single", str(tmp_path))

    assert report.part("before", lambda: 1)
    assert not report.part("broken", lambda: 1 / 0)
    assert report.part("after", lambda: 2)

    assert report.facts["broken"]["error"]["kind"] == "ZeroDivisionError"
    assert report.error["kind"] == "ZeroDivisionError"
    assert "1 / 0" in report.error["traceback"]
    assert (report.facts["before"], report.facts["after"]) == (1, 2)


def test_processes_of_one_rank_leave_a_file_each(tmp_path: Path) -> None:
    reports = [Report("ranks", str(tmp_path)) for _ in range(3)]
    for report in reports:
        report.write()

    assert len({report.stem for report in reports}) == 3
    assert reports[1].stem == f"ranks.0.{os.getpid()}"
    assert len([path for path in tmp_path.glob("ranks.0*.json") if "phase" not in path.name]) == 3


def test_the_phase_file_carries_what_must_survive(tmp_path: Path) -> None:
    report = Report("ranks", str(tmp_path))
    report.facts["mpi"] = {"implementation": "/x/libmpi.so"}
    report.facts["torch"] = {"much": 1}
    report.enter("torch step 1: forward")

    document = read(tmp_path / "ranks.0.phase.json")

    assert document["phase"] == "torch step 1: forward"
    assert document["facts"] == {
        "process": {"pid": os.getpid(), "host": os.uname().nodename, "turn": 2, "launcher": ""},
        "mpi": {"implementation": "/x/libmpi.so"},
    }


def test_mpiexec_counts_inside_a_job_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("PMI_RANK", "3")
    monkeypatch.setenv("PMI_SIZE", "4")

    assert launcher_world() == {"variable": "PMI_RANK", "rank": 3, "size": 4}


def test_no_number_is_lost_on_the_way_through_json() -> None:
    document = {"a": [float("nan"), float("inf")], "b": (float("-inf"), 1.5)}

    assert plain(document) == {"a": ["nan", "inf"], "b": ["-inf", 1.5]}


def library(tmp_path: Path, *options: str) -> Path:
    source = tmp_path / "empty.c"
    source.write_text("int answer(void) { return 42; }\n")
    made = tmp_path / "libmpi_made.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", *options, "-o", str(made), str(source)], check=True)
    return made


def test_the_identity_of_a_shared_object(tmp_path: Path) -> None:
    made = library(tmp_path, "-Wl,-soname,libmade.so.1", "-Wl,--build-id=0x0123456789abcdef")

    assert elf.identity(str(made)) == {"soname": "libmade.so.1", "build_id": "0123456789abcdef"}


def test_a_shared_object_without_identity(tmp_path: Path) -> None:
    assert elf.identity(str(library(tmp_path, "-Wl,--build-id=none"))) == {"soname": "", "build_id": ""}


def test_what_a_shared_object_needs(tmp_path: Path) -> None:
    library(tmp_path, "-Wl,-soname,libmade.so.1")
    source, user = tmp_path / "use.c", tmp_path / "use.so"
    source.write_text("extern int answer(void); int use(void) { return answer(); }\n")
    options = ["-nostdlib", "-Wl,--no-as-needed", f"-L{tmp_path}", "-l:libmpi_made.so.1", "-lm"]
    subprocess.run(["cc", "-shared", "-fPIC", "-o", user, source, *options], check=True)

    assert elf.needed(str(user)) == ["libmade.so.1", "libm.so.6"]
    assert elf.needed(str(library(tmp_path, "-nostdlib"))) == []


def test_other_files_have_no_identity(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match="not a 64-bit"):
        elf.identity(str(tmp_path / "text"))


def test_a_mapped_library_and_the_owner_of_its_symbol(tmp_path: Path) -> None:
    made = library(tmp_path, "-Wl,-soname,libmpi_made.so.1")
    code = f"""
import ctypes, json
from envbuilder.probes import mapped
ctypes.CDLL({str(made)!r})
print(json.dumps([mapped.mpi_libraries(), mapped.owner({str(made)!r}, "answer"), mapped.owner({str(made)!r}, "none")]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    libraries, owner, nobody = json.loads(done.stdout)

    assert [one["path"] for one in libraries] == [str(made)]
    assert libraries[0]["soname"] == "libmpi_made.so.1"
    assert libraries[0]["implements"] is False
    assert libraries[0]["inode"] == made.stat().st_ino
    assert (owner, nobody) == (str(made), "")


def test_names_of_mpi_libraries() -> None:
    for name in ("libmpi.so.12", "libmpi_cray.so.12", "libmpich.so.12.2.2", "libmpi_gtl_hsa.so", "libopen-pal.so.80"):
        assert mapped.MPI_NAMES.match(name), name
    for name in ("libmkl_mpi.so", "libc.so.6", "libimpi.so"):
        assert not mapped.MPI_NAMES.match(name), name
