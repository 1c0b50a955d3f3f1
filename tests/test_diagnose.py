"""From logs to causes: each cause is named first in a log that shows it, and in no line that only looks alike."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from string import Formatter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import cli, diagnose, symptoms
from envbuilder.causes import CAUSES, Cause
from envbuilder.store import Store

LOGS = sorted((Path(__file__).parent / "logs").glob("*.log"))
NAMES = [cause.name for cause in CAUSES]

# A line for each cause that looks alike and is none.
ALIKE = {
    "slurm-oom-kill": "srun: error: nid001277: task 1: Exited with exit code 1 (memory was fine)",
    "slurm-wall-time": "slurmstepd: error: *** JOB 1 ON nid1 CANCELLED AT 2026-01-01T00:00:00 ***",
    "slurm-node-failed": "note: this job is requeued when a node fails",
    "slurm-preempted": "PreemptMode=REQUEUE is set for the partition",
    "slurm-cancelled": "slurmstepd: error: *** JOB 1 ON nid1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***",
    "slurm-qos": "qos=standard was chosen",
    "slurm-account": "account z19, account/partition gpu",
    "slurm-limits": "Job 12 is within its accounting limits",
    "slurm-time-limit-refused": "Requested time limit: 01:00:00",
    "slurm-partition": "partition specified: standard",
    "slurm-constraint": "feature specification: l40s",
    "slurm-memory-refused": "Memory specification: 4G",
    "slurm-configuration": "Requested node configuration: 2 nodes",
    "slurm-step-gres": "generic resource (gres): gpu:4",
    "slurm-no-controller": "contacted the slurm controller",
    "slurm-munge": "Munge decode took long",
    "slurm-folder-missing": "chdir to /work/z19",
    "slurm-program-missing": "execve(): tracing is on",
    "slurm-mpi-plugin": "srun: MPI types are... none pmi2",
    "module-command-missing": "ModuleNotFoundError: module: nothing of the kind",
    "module-unknown": "the module(s) are known",
    "module-needs-another": 'Lmod has detected: Cannot load module "x" because these module(s) are loaded',
    "module-conflict": 'Lmod has detected: Cannot load module "x" without these module(s) loaded: GCC',
    "conda-not-set-up": "conda activate worked",
    "interpreter-gone": "the interpreter is /usr/bin/python",
    "disk-full": "12 GB are left on device",
    "disk-quota": "quota: 1 GB of 2 GB",
    "read-only": "opened read-only: data.h5",
    "permission-denied": "PermissionError was caught and handled",
    "file-locking": "locked file a.h5",
    "too-many-files": "12 open files",
    "shared-memory-full": "shared memory: 64 GB",
    "memory-array": "Unable to allocate a rank to node 3",
    "dataloader-killed": "DataLoader worker 3 started",
    "threads-refused": "started 64 threads",
    "illegal-instruction": "instructions: see README",
    "other-architecture": "exec format: ELF",
    "killed": "3 requests were Killed  by the user",
    "stale-handle": "a stale lock was removed",
    "name-not-resolved": "resolved host packages.example.org in 2 ms; temporary failure rate 0",
    "certificate": "certificate verify ok",
    "proxy": "using proxy http://proxy.example.org:3128",
    "connection-refused": "Connected to 10.0.0.1",
    "network-timeout": "the collective operation timed out after a while",
    "numpy-2-under-numpy-1": "numpy 2.1.0, torch 2.7.1",
    "numpy-changed-size": "numpy.dtype('float64')",
    "sklearn-name": "import sklearn",
    "apex-name": "apex 0.1 from its repository",
    "hash-mismatch": "all hashes match",
    "archive-damaged": "Extracted archive in 2 s",
    "no-wheel-for-this-python": "Downloading numpy-2.1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
    "no-such-version": "a version that satisfies the requirement was found",
    "conflicting-requirements": "Resolved 12 packages in 3 ms",
    "managed-python": "environment at /scratch/env",
    "pkg-resources-gone": "DeprecationWarning: pkg_resources is deprecated as an API",
    "distutils-gone": "DeprecationWarning: distutils Version classes are deprecated",
    "build-isolation": "Getting requirements to build wheel: finished with status 'done'",
    "name-shadowed": "module 'torch' has no attribute 'zeross'",
    "protobuf-too-new": "Descriptors were created",
    "keras-3": "Using Keras 3 backend tensorflow",
    "module-missing": "No module named on the command line",
    "cxx-standard": "-- C++ standard: 17, a compiler for PyTorch was found",
    "torch-built-without-mpi": "-- Compiling with MPI support",
    "compiler-killed": "gcc: fatal error: no input files",
    "compiler-missing": "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.h5'",
    "mpi-headers-missing": "#include <mpi.h>",
    "python-headers-missing": "#include <Python.h>",
    "cmake-policy": "the option was removed from CMakeLists.txt",
    "git-missing": "git version 2.39.5",
    "wheel-missing": "running bdist_wheel",
    "libstdcxx-too-old": "./a: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./a)",
    "glibc-too-old": "./a: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by ./a)",
    "gtl-library-missing": "ImportError: libmpi_gnu_91.so.12: cannot open shared object file: No such file or directory",
    "mpi-library-missing": "ImportError: libmpi_gtl_hsa.so: cannot open shared object file: No such file or directory",
    "gpu-driver-library-missing": "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
    "cuda-library-missing": "a:1:1 [0] NCCL INFO NET/Plugin: libnccl.so: cannot open shared object file: No such file or directory",
    "rocm-library-missing": "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
    "library-missing": "ImportError: libamdhip64.so.6: cannot open shared object file: No such file or directory",
    "built-for-another-torch": "ImportError: a.so: undefined symbol: MPI_Session_init",
    "symbol-missing": "ImportError: a.so: undefined symbol: _ZN3c1017RegisterOperatorsD1Ev",
    "wrong-elf-class": "ELF 64-bit LSB shared object",
    "library-damaged": "file: too short a name",
    "static-tls": "TLS 1.3 was negotiated",
    "two-openmp": "OMP: Info #276: omp_set_nested routine deprecated",
    "openmp-affinity": "OMP: Info #254: pid 1 tid 1 thread 0 bound to OS proc set 0",
    "gtl-not-linked": "MPICH_GPU_SUPPORT_ENABLED=1, GTL library libmpi_gtl_hsa.so is linked",
    "openmpi-without-pmi": "srun: MPI types are... pmix pmi2",
    "ranks-alone": "rank 0 of 2",
    "openmpi-slots": "slots available: 4",
    "openmpi-as-root": "uid 0",
    "horovod-not-built": "Extension horovod.torch is built",
    "torch-without-mpi": "Distributed package doesn't have NCCL built in",
    "torch-without-nccl": "Distributed package doesn't have MPI built in",
    "mpi-abort": "MPI_Abort is called by rank 0 when a file is missing",
    "port-in-use": "port 29500 is free",
    "ranks-missing": "2 clients joined",
    "rendezvous-variables": "environment variable RANK is 0",
    "rendezvous-timeout": "The client socket has connected to (node1, 29500)",
    "network-interface": "NCCL INFO Bootstrap : Using hsn0:10.0.0.1<0>",
    "collective-timeout": "Timeout(ms)=600000",
    "rank-died": "Connection reset by peer while fetching a page",
    "no-code-for-gpu": "torch.cuda.get_arch_list() is ['sm_80', 'sm_90']",
    "driver-too-old": "Driver Version: 550.54.15 CUDA Version: 12.4",
    "torch-without-cuda": "Torch compiled with CUDA 12.6",
    "no-gpu": "4 GPUs are available",
    "gpu-permission": "/dev/kfd read-write: ok",
    "gpu-memory": "CUDA memory: 12 GiB allocated",
    "miopen-database": "MIOpen(HIP): Info [get_device_name] Raw device name: gfx90a",
    "nccl-system": "NCCL version 2.21.5+cuda12.4",
    "nccl-sockets": "a:1:1 [0] NCCL INFO Using network AWS Libfabric",
    "tensorflow-without-gpu": "GPU:0 will be used",
}  # fmt: skip


def _named(text: bytes | str) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    return [finding.cause.name for finding in symptoms.read(io.BytesIO(data), CAUSES).findings]


def _wanted(log: Path) -> str:
    return log.name.partition(".")[0]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_a_log_names_its_cause_first_and_the_proof_stands_in_it(log: Path) -> None:
    with log.open("rb") as source:
        reading = symptoms.read(source, CAUSES)
    if _wanted(log) in ("fine", "unknown"):
        assert reading.findings == ()
        return
    first = reading.findings[0]
    lines = log.read_text().splitlines()

    assert first.cause.name == _wanted(log)
    assert first.proof
    for line in first.proof:
        said = line.text.strip(".").strip()
        assert said in " ".join(lines[line.number - 1].split("\t")) or said[:40] in lines[line.number - 1]
    assert reading.lines == len(lines)
    assert "{" not in first.says


def test_every_cause_has_a_log_and_a_line_that_only_looks_alike() -> None:
    assert sorted({_wanted(log) for log in LOGS} - {"fine", "unknown"}) == sorted(NAMES)
    assert sorted(ALIKE) == sorted(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_a_line_that_only_looks_alike_does_not_name_it(name: str) -> None:
    assert name not in _named(f"a line before\n{ALIKE[name]}\na line after\n")


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_the_first_line_of_a_log_says_where_it_is_from(log: Path) -> None:
    first = log.read_text().splitlines()[0]

    assert re.fullmatch(
        r"# (written by .+, run for this file; paths and hosts are changed|rebuilt after .+: it cannot .+)", first
    )


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_a_cause_is_whole(cause: Cause) -> None:
    assert cause.what
    assert cause.remedy
    assert cause.sources
    assert not cause.what.endswith(".")
    assert set(cause.explains) <= set(NAMES) - {cause.name}
    captured: set[str] = set()
    for sign in cause.signs:
        assert len(sign.mark) >= 4
        assert not sign.pattern or len(sign.pattern) < 600
        captured |= set(re.compile(sign.pattern).groupindex)
    assert {field for _, field, _, _ in Formatter().parse(cause.says) if field} <= captured


def test_what_follows_from_another_comes_after_it() -> None:
    told = symptoms.read(
        io.BytesIO(
            b"bash: line 3: module: command not found\n"
            b"ImportError: libmpi_gnu_91.so.12: cannot open shared object file: No such file or directory\n"
            b"slurmstepd: error: *** JOB 1 ON nid1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
        ),
        CAUSES,
    ).findings

    assert [one.cause.name for one in told] == ["module-command-missing", "slurm-wall-time", "mpi-library-missing"]
    assert told[2].follows_from == "module-command-missing"


def test_an_exclusion_anywhere_in_the_log_counts() -> None:
    sockets = "n:1:1 [0] NCCL INFO NET/Socket : Using [0]hsn0:10.0.0.1<0>\n"

    assert _named(sockets) == ["nccl-sockets"]
    assert _named(sockets + "noise\n" * 9 + "n:1:1 [0] NCCL INFO Using network AWS Libfabric\n") == []


def test_colours_junk_and_progress_bars_do_no_harm() -> None:
    dressed = b"\x00\xff\xfe\n\x1b[1m\x1b[31merror\x1b[0m: GTL \x1b[4mlibrary is not linked\x1b[0m\n"
    told = symptoms.read(io.BytesIO(b"10%\r20%\rRead-only file system\r100%\n" + dressed), CAUSES).findings

    assert [one.cause.name for one in told] == ["read-only", "gtl-not-linked"]
    assert told[0].proof[0].text == "Read-only file system"
    assert told[1].proof[0] == symptoms.Line(3, "error: GTL library is not linked")


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 9, (1 << 20) - 8192 - 5, (1 << 20) + 3, 3 << 20])
def test_a_sign_is_found_wherever_blocks_end(before: int) -> None:
    for filler in (b"x" * before + b"\n", b"x\n" * (before // 2) + b"\n"):
        data = filler + b'Lmod: The following module(s) are unknown:\n"rocm/5"\n' + b"y" * 20_000 + b"\n"
        finding = symptoms.read(io.BytesIO(data), CAUSES).findings[0]

        assert finding.says == "there is no module rocm/5 here"
        assert finding.proof[0].number == filler.count(b"\n") + 1


def test_a_huge_log_takes_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        """Lines full of marks that fit no pattern, then one that does."""

        left = 48
        block = (b"cannot open shared object file, undefined symbol, NCCL INFO, No module named, \xff\n" * 13_500)[
            : 1 << 20
        ]

        def read(self, _size: int = -1) -> bytes:
            self.left -= 1
            return self.block if self.left > 0 else b"\nDisk quota exceeded\n" if self.left == 0 else b""

    tracemalloc.start()
    reading = symptoms.read(Endless(), CAUSES)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [one.cause.name for one in reading.findings] == ["disk-quota"]
    assert reading.size > 47 << 20
    assert peak < 40 << 20


@given(st.binary(max_size=3000))
def test_any_bytes_are_read(data: bytes) -> None:
    reading = symptoms.read(io.BytesIO(data), CAUSES)

    assert reading.size == len(data)
    assert all(line.text.isprintable() for line in reading.last)


@given(
    st.lists(st.sampled_from([sign.mark for cause in CAUSES for sign in cause.signs]), max_size=30),
    st.text(max_size=20),
)
def test_marks_in_any_order_are_read(marks: list[str], between: str) -> None:
    text = between.join(marks).encode("utf-8", "replace")
    reading = symptoms.read(io.BytesIO(text), CAUSES)

    for finding in reading.findings:
        assert all(line.text.isprintable() and len(line.text) < 400 for line in finding.proof)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_no_pattern_runs_away(cause: Cause) -> None:
    chosen = random.Random(cause.name)
    for sign in cause.signs:
        for filler in ("a", " ", "'", "a:", "/a.so", "1.", "(", "libmpi", chosen.choice('xyz_\\"')):
            text = (filler * 3000)[:900] + sign.mark + (filler * 3000)[:2900]
            started = time.monotonic()
            symptoms.read(io.BytesIO(text.encode()), (cause,))
            assert time.monotonic() - started < 5


# The command


def _doctor(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "envbuilder", "doctor", *words], capture_output=True, text=True, check=False, input="",
        env={**os.environ, "ENVBUILDER_HOME": "/nonexistent"},
    )  # fmt: skip


def test_a_log_is_told_with_proof_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    log = next(log for log in LOGS if log.stem == "gtl-not-linked")

    assert cli.main(["doctor", str(log)]) == 0
    told = capsys.readouterr().out
    assert "cause: gtl-not-linked: MPICH_GPU_SUPPORT_ENABLED is set" in told
    assert "proof:   line 2: MPICH ERROR" in told
    assert "remedy:  unset MPICH_GPU_SUPPORT_ENABLED" in told


def test_an_unknown_failure_is_said_to_be_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    log = next(log for log in LOGS if log.stem == "unknown.state-dict")

    assert cli.main(["doctor", str(log)]) == 1
    told = capsys.readouterr().out
    assert "no known cause in 8 lines" in told
    assert "line 6: RuntimeError: Error(s) in loading state_dict" in told
    assert "to ask for help, send:" in told


def test_a_hint_alone_explains_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.log"
    log.write_text("n:1:1 [0] NCCL INFO Using network Socket\nRuntimeError: something else\n")

    assert cli.main(["doctor", str(log)]) == 1
    told = capsys.readouterr().out
    assert "hint: nccl-sockets" in told
    assert "line 2: RuntimeError: something else" in told


def test_data_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(LOGS[0]), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["causes"][0]["name"] == _wanted(LOGS[0])
    assert document["causes"][0]["proof"][0]["number"] >= 1
    assert document["logs"][0]["lines"] > 1

    assert cli.main(["doctor", "--list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == NAMES
    assert cli.main(["doctor", "--list"]) == 0
    assert "gtl-not-linked" in capsys.readouterr().out


def test_standard_input_is_a_log() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "doctor", "-"],
        input=b"x\n\xffDisk quota exceeded\n",
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0
    assert b"disk-quota" in done.stdout


@pytest.mark.parametrize("words", [[], ["/nowhere/slurm-1.out"], ["no-such-environment"], ["/dev/null"], ["."]])
def test_bad_input_is_one_message(words: list[str]) -> None:
    done = _doctor(*words)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_may_not_be_read_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("x")
    (tmp_path / "a.log").chmod(0)
    if os.access(tmp_path / "a.log", os.R_OK):
        pytest.skip("this user may read everything")
    assert _doctor(str(tmp_path / "a.log")).returncode == 2


# Environments


def _written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_failed_build_is_found_by_its_recipe(tmp_path: Path) -> None:
    place = Store(tmp_path)
    _written(tmp_path / "logs" / "20260101T000000Z-build-deepcam@1.0-7.log", "Disk quota exceeded\n")
    _written(tmp_path / "logs" / "20260102T000000Z-build-deepcam@1.0-8.log", "$ uv pip sync\nNo space left on device\n")
    _written(tmp_path / "logs" / "20260103T000000Z-build-mpi4py@4.1-9.log", "GTL library is not linked\n")

    for name in ("deepcam", "deepcam@1.0"):
        told = diagnose.of_environment(place, name)
        assert [one.cause.name for one in told.findings] == ["disk-full"]
        assert "no environment of that name was built" in told.state
        assert told.named


def test_a_failed_verify_tells_its_checks_and_what_its_probes_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, run = Store(tmp_path), _environment(tmp_path, monkeypatch)
    failed = {
        "check": "imports",
        "status": "fail",
        "cause": "mpi4py.MPI cannot be imported",
        "remedy": "load it",
        "witnessed": "x",
    }
    _written(run / "outcomes.json", json.dumps([failed, {"check": "y", "status": "not-run"}]))
    _written(run / "single.log", "$ python -m envbuilder_probes\n")
    trace = {
        "kind": "ImportError",
        "traceback": "",
        "message": "libmpi_gnu_91.so.12: cannot open shared object file: No such",
    }
    _written(run / "single.0.json", json.dumps({"error": trace}))
    told = diagnose.of_environment(place, "mpi4py-4.1-abc")

    assert told.checks[0].cause == "mpi4py.MPI cannot be imported"
    assert [one.says for one in told.findings] == ["the MPI library libmpi_gnu_91.so.12 is not found"]
    assert told.findings[0].log.endswith("single.0.json")
    assert told.named
    assert "1 of 2 checks failed" in told.state


def test_a_passed_verify_is_well_and_none_at_all_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, run = Store(tmp_path), _environment(tmp_path, monkeypatch)
    told = diagnose.of_environment(place, "mpi4py-4.1-abc")
    assert not told.named
    assert "never verified" in told.state

    run.mkdir(parents=True)
    assert "did not come to its end" in diagnose.of_environment(place, "mpi4py-4.1-abc").state
    _written(run / "outcomes.json", json.dumps([{"check": "x", "status": "pass"}]))
    assert diagnose.of_environment(place, "mpi4py-4.1-abc").well

    _written(tmp_path / "logs" / "20260401T000000Z-build-mpi4py@4.1-8.log", "Disk quota exceeded\n")
    told = diagnose.of_environment(place, "mpi4py-4.1-abc")
    assert not told.well
    assert [one.cause.name for one in told.findings] == ["disk-quota"]


def test_damaged_evidence_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, run = Store(tmp_path), _environment(tmp_path, monkeypatch)
    _written(run / "outcomes.json", "[1, {")
    _written(run / "ranks.0.json", '{"error": 3}')

    assert "did not come to its end" in diagnose.of_environment(place, "mpi4py-4.1-abc").state


def _environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of an environment; where its one run is to be written."""

    class Found:
        identifier, recipe, version, created = "mpi4py-4.1-abc", "mpi4py", "4.1", "2026-03-01T10:00:00.000+00:00"

    monkeypatch.setattr("envbuilder.store.find", lambda _place, _name: Found)
    return root / "runs" / "mpi4py-4.1-abc" / "20260301T100500.000000Z-7"


@pytest.mark.real
def test_a_real_environment_is_looked_at(mpi4py_env: Path, test_home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "doctor", mpi4py_env.name, "--json"],
        env={**os.environ, "ENVBUILDER_HOME": str(test_home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    document = json.loads(done.stdout)
    assert document["subject"] == mpi4py_env.name
    assert document["causes"] == []
