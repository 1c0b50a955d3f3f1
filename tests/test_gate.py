"""The gate: what a proof is bound to, and what it says when it stays shut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from breaking import Copy, copied

from envbuilder import gate, gate_memo, proof, store
from envbuilder.effect import Effect
from envbuilder.environment import Environment
from envbuilder.errors import GateError, StoreError
from envbuilder.evidence import Outcome
from envbuilder.proof import Circumstances, Proof
from envbuilder.store import Store

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)
HOST = {"machine": "m", "hostname": "h", "kernel": "Linux 6", "arch": "x86_64", "libc": "glibc 2.36", "cpu": "c"}
HERE = Circumstances(partition="host", host=HOST, tree="t", variables={}, libraries={"/usr/bin/python3": "1 1"})


def _environment(prefix: str = "/store/envs/e-1-abc") -> Environment:
    return Environment(
        identifier="e-1-abc",
        builder="venv",
        recipe="e",
        version="1",
        site="local",
        partition="host",
        prefix=prefix,
        digest="d" * 64,
        lock_digest="l" * 64,
        python={"path": "/usr/bin/python3", "version": "3.11.7", "soabi": ""},
        features=(),
        imports=(),
        packages={},
        records={},
        written={},
        mpi=None,
        settings=(),
        caches="/store/cache/run",
        max_proof_age_hours=168,
        created="2026-11-20T11:00:00.000+00:00",
        created_by="envbuilder 0",
        seconds=1.0,
    )


def _proof(**changes: object) -> Proof:
    values: dict[str, object] = {
        "environment": "e-1-abc",
        "digest": "d" * 64,
        "site": "local",
        "partition": "host",
        "made": NOW - timedelta(hours=1),
        "circumstances": HERE,
        "checks": (),
        "ranks": 2,
    }
    return Proof(**{**values, **changes})  # type: ignore[arg-type]


def _why(found: Proof, today: Circumstances = HERE) -> str:
    return "; ".join(gate.reasons(found, _environment(), today, NOW))


def test_a_fresh_proof_of_this_environment_holds() -> None:
    assert not _why(_proof())


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (_proof(digest="e" * 64), "another environment"),
        (_proof(environment="other-1-abc"), "another environment"),
        (_proof(partition="gpu"), "made on local/gpu, this is local/host"),
        (_proof(site="archer2"), "made on archer2/host"),
        (_proof(made=NOW - timedelta(hours=169)), "7.0 days old, and 7.0 days is the limit"),
        (_proof(made=NOW + timedelta(hours=1)), "dated in the future"),
    ],
)
def test_a_proof_that_is_not_this_one(found: Proof, words: str) -> None:
    assert words in _why(found)


@pytest.mark.parametrize(
    ("today", "words"),
    [
        (replace(HERE, host={**HOST, "kernel": "Linux 7"}), "kernel was Linux 6 and is Linux 7"),
        (replace(HERE, host={**HOST, "machine": "n"}), "made on another host"),
        (replace(HERE, host={**HOST, "cpu": "d"}), "cpu was c and is d"),
        (replace(HERE, tree="u"), "files of the environment changed"),
        (replace(HERE, libraries={"/usr/bin/python3": "1 2"}), "/usr/bin/python3 changed"),
        (
            replace(HERE, variables={"TF_ENABLE_ONEDNN_OPTS": "0"}),
            "TF_ENABLE_ONEDNN_OPTS changed since it was made: was unset",
        ),
        (replace(HERE, variables={"LD_PRELOAD": "/x.so"}), "LD_PRELOAD"),
    ],
)
def test_circumstances_that_changed(today: Circumstances, words: str) -> None:
    assert words in _why(_proof(), today)


def test_a_new_name_of_the_host_is_no_other_host() -> None:
    assert not _why(_proof(), replace(HERE, host={**HOST, "hostname": "dhcp-7"}))


def test_variables_that_choose_code_are_decisive_and_others_are_not() -> None:
    env = {
        "LD_LIBRARY_PATH": "/x",
        "PYTHONPATH": "",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ONEDNN_VERBOSE": "1",
        "HOME": "/root",
        "OMP_NUM_THREADS": "4",
        "MPI4PY_LIBMPI": "/y",
    }

    assert set(proof.decisive(env)) == {"LD_LIBRARY_PATH", "MPI4PY_LIBMPI", "ONEDNN_MAX_CPU_ISA"}


def test_a_statement_reads_back_as_the_proof_it_was(tmp_path: Path) -> None:
    outcome = Outcome(check="c", rung=0, title="t", status="pass", witnessed="w")
    document = proof.statement(_environment(), HERE, (outcome,), {}, made=NOW.isoformat(), ranks=2)
    place = Store(tmp_path)
    path = proof.save(place, _environment(), "host", document)

    found = proof.load(path)

    assert found == _proof(made=NOW, checks=({"check": "c", "outcome": "pass", "witnessed": "w"},))
    assert document["_type"] == "https://in-toto.io/Statement/v1"


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("subject"),
        lambda d: d["predicate"].update(result="FAILED"),
        lambda d: d["predicate"]["envbuilder"]["checks"].append({"check": "x", "outcome": "fail"}),
        lambda d: d["predicate"]["envbuilder"]["checks"].append({"check": "x", "outcome": "not-run"}),
        lambda d: d["predicate"]["envbuilder"].update(checks=[]),
        lambda d: d["predicate"]["envbuilder"].update(made="yesterday"),
        lambda d: d["predicate"]["envbuilder"].update(made="2026-11-20T12:00:00"),
        lambda d: d["predicate"]["envbuilder"].pop("host"),
        lambda d: d.update(predicateType="other"),
        lambda d: d.update(predicate=[]),
        lambda d: d["predicate"]["envbuilder"].update(schema=2),
        lambda d: d["predicate"]["envbuilder"].update(variables=None),
    ],
)
def test_a_damaged_proof_is_no_proof(damage: object, tmp_path: Path) -> None:
    outcome = Outcome(check="c", rung=0, title="t", status="pass", witnessed="w")
    document = proof.statement(_environment(), HERE, (outcome,), {}, made=NOW.isoformat(), ranks=2)
    damage(document)  # type: ignore[operator]
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(document))

    with pytest.raises(StoreError):
        proof.load(path)


def _proven(place: Store, environment: Environment, base: dict[str, str], **changes: object) -> Path:
    """A proof that holds under `base` right now, changed as told."""
    outcome = Outcome(check="c", rung=0, title="t", status="pass", witnessed="w")
    now = replace(gate.circumstances(environment, base), **changes)
    document = proof.statement(environment, now, (outcome,), {}, made=store.now(), ranks=2)
    return proof.save(place, environment, now.partition, document)


CLUSTER = {"scheduler": {"cpu": "standard", "gpu": "gpu"}, "partition": "cpu"}
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_PARTITION": "standard", "SLURM_CLUSTER_NAME": "big", "SLURM_JOB_NUM_NODES": "2"}


@pytest.fixture
def clustered(tmp_path: Path) -> tuple[Store, Environment]:
    """An environment of a site with a batch system."""
    tree = tmp_path / "envs" / "e-1-abc"
    tree.mkdir(parents=True)
    return Store(tmp_path), replace(_environment(str(tree)), **CLUSTER)


def _memo(place: Store, environment: Environment, base: dict[str, str], patch: pytest.MonkeyPatch) -> str:
    """What the memo of the gate says, after it opened once."""
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            patch.delenv(name)
    for name, value in base.items():
        patch.setenv(name, value)
    if not gate_memo.recall(str(place.root), environment.identifier, os.environ):
        gate.remember(place, environment, gate.check(place, environment), "it opened")
    return gate_memo.recall(str(place.root), environment.identifier, os.environ)


def test_what_opened_once_opens_at_once(
    clustered: tuple[Store, Environment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place, environment = clustered
    tree = Path(environment.prefix)
    (tree / "lib").mkdir()
    (tree / "lib" / "libx.so.1").write_bytes(b"one")
    place.manifest(environment.identifier).parent.mkdir()
    place.manifest(environment.identifier).write_text("{}")
    path = _proven(place, environment, JOB)
    again = lambda: gate_memo.recall(str(place.root), environment.identifier, os.environ)  # noqa: E731
    assert _memo(place, environment, JOB, monkeypatch) == "it opened"

    for variable, value in (
        ("LD_LIBRARY_PATH", "/other"),
        ("SLURM_JOB_PARTITION", "gpu"),
        ("ONEDNN_MAX_CPU_ISA", "SSE41"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert again() == ""
    for change in (
        lambda: (tree / "lib" / "stray.py").write_text(""),
        lambda: (tree / "lib" / "libx.so.1").write_bytes(b"other"),
        lambda: path.write_text(path.read_text() + " "),
        lambda: place.manifest(environment.identifier).write_text("{ }"),
    ):
        assert _memo(place, environment, JOB, monkeypatch) == "it opened"
        change()
        assert again() == ""
        if path.read_text().endswith(" "):
            path.write_text(path.read_text().rstrip(" "))
        _proven(place, environment, JOB)
    monkeypatch.setattr(gate_memo.time, "time", lambda: 4e9)
    assert again() == ""


def test_a_library_that_need_not_be_there_and_is_not(
    clustered: tuple[Store, Environment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A site's optional binds of an image: the gate opens where one is missing, and looks anew when it comes."""
    place, tree = clustered
    optional = tmp_path / "libxpmem.so.0"
    container = {"optional_binds": [str(optional)]}
    image = {
        "file": str(tmp_path / "x.sif"),
        "sha256": "0" * 64,
        "binds": {},
        "library_path": "",
        "container": container,
    }
    environment = replace(tree, builder="apptainer", image={**image, "prefix": "/e", "runtime": {"name": "apptainer"}})
    place.manifest(environment.identifier).parent.mkdir()
    place.manifest(environment.identifier).write_text("{}")
    _proven(place, environment, JOB)
    assert _memo(place, environment, JOB, monkeypatch) == "it opened"

    optional.write_bytes(b"a library")

    assert gate_memo.recall(str(place.root), environment.identifier, os.environ) == ""
    with pytest.raises(GateError, match=r"the library .*libxpmem\.so\.0 changed"):
        gate.check(place, environment, JOB)


def test_a_damaged_memo_says_nothing(clustered: tuple[Store, Environment], monkeypatch: pytest.MonkeyPatch) -> None:
    place, environment = clustered
    place.manifest(environment.identifier).parent.mkdir()
    place.manifest(environment.identifier).write_text("{}")
    _proven(place, environment, JOB)
    assert _memo(place, environment, JOB, monkeypatch)
    (file,) = place.path("memos").glob("gate-*.json")

    for text in ("", "[]", "{}", file.read_text()[:-9], file.read_text().replace('"schema": 1', '"schema": 2')):
        file.write_text(text)
        assert gate_memo.recall(str(place.root), environment.identifier, os.environ) == ""


def test_on_a_cluster_the_gate_opens_in_a_job_of_the_proof_s_partition(clustered: tuple[Store, Environment]) -> None:
    place, environment = clustered
    _proven(place, environment, JOB)

    assert gate.check(place, environment, JOB).partition == "cpu"
    # another node of the same partition is the same host
    assert gate.check(place, environment, {**JOB, "SLURMD_NODENAME": "nid2"}).partition == "cpu"


def test_on_a_login_node_the_gate_says_that_it_opens_in_jobs(clustered: tuple[Store, Environment]) -> None:
    place, environment = clustered
    _proven(place, environment, JOB)

    with pytest.raises(GateError, match=r"is for the nodes of .*/cpu, and this is not a job there") as caught:
        gate.check(place, environment, {})
    assert "envbuilder job e-1-abc" in caught.value.hint


def test_the_proof_of_another_partition(clustered: tuple[Store, Environment]) -> None:
    place, environment = clustered
    _proven(place, environment, JOB)

    with pytest.raises(GateError, match=r"no proof for .*/gpu.*\(there is one for cpu\)") as caught:
        gate.check(place, environment, {**JOB, "SLURM_JOB_PARTITION": "gpu"})
    assert caught.value.hint.endswith("--partition gpu")


def test_the_proof_of_another_cluster(clustered: tuple[Store, Environment]) -> None:
    place, environment = clustered
    _proven(place, environment, JOB)

    with pytest.raises(GateError, match="another host: cluster was big and is small"):
        gate.check(place, environment, {**JOB, "SLURM_CLUSTER_NAME": "small"})


def test_a_proof_that_was_moved_to_another_partition(clustered: tuple[Store, Environment]) -> None:
    place, environment = clustered
    path = _proven(place, environment, JOB)
    path.rename(proof.path_of(place, environment, "gpu"))

    with pytest.raises(GateError, match=r"it was made on .*/cpu, this is .*/gpu"):
        gate.check(place, environment, {**JOB, "SLURM_JOB_PARTITION": "gpu"})


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_modulefile_of_the_build_that_is_no_longer_the_same(
    what: str, clustered: tuple[Store, Environment], tmp_path: Path
) -> None:
    place, environment = clustered
    modulefile = tmp_path / "rocm.lua"
    modulefile.write_text("one")
    loaded = {"effect": Effect().to_document(), "files": [str(modulefile)]}
    environment = replace(environment, modules=loaded)
    _proven(place, environment, JOB)
    assert gate.check(place, environment, JOB)

    if what == "gone":
        modulefile.unlink()
    else:
        modulefile.write_text("other")

    with pytest.raises(GateError, match=f"the modulefile {modulefile} changed since it was made"):
        gate.check(place, environment, JOB)


def test_without_a_proof_the_gate_says_what_would_mend_it(tmp_path: Path) -> None:
    tree = tmp_path / "envs" / "e-1-abc"
    tree.mkdir(parents=True)

    with pytest.raises(GateError) as caught:
        gate.check(Store(tmp_path), _environment(str(tree)), {})

    assert "no proof" in caught.value.message
    assert caught.value.hint == "run envbuilder verify e-1-abc"


def test_the_fingerprint_sees_edits_additions_and_removals_but_not_bytecode(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one")
    first = proof.tree_fingerprint(tmp_path)

    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"x")
    assert proof.tree_fingerprint(tmp_path) == first

    (tmp_path / "b.py").write_text("")
    added = proof.tree_fingerprint(tmp_path)
    assert added != first

    (tmp_path / "b.py").unlink()
    assert proof.tree_fingerprint(tmp_path) == first

    (tmp_path / "a.py").write_text("two")
    os.utime(tmp_path / "a.py", ns=(1, 1))
    assert proof.tree_fingerprint(tmp_path) != first


@pytest.fixture
def copy(mpi4py_env: Path, tmp_path: Path) -> Copy:
    return copied(mpi4py_env, tmp_path / "store")


def _envbuilder(copy: Copy, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ENVBUILDER_HOME": str(copy.home), **variables}
    command = [sys.executable, "-m", "envbuilder", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.real
def test_run_and_gate_follow_the_proof(copy: Copy) -> None:
    name = copy.identifier
    asks = ("run", name, "--", "python", "-c", "import sys, mpi4py; print(sys.prefix)")

    before = _envbuilder(copy, *asks)
    assert before.returncode == 1
    assert f"envbuilder verify {name}" in before.stderr
    assert not before.stdout

    ungated = _envbuilder(copy, "run", "--ungated", *asks[1:])
    assert ungated.returncode == 0
    assert ungated.stdout.strip() == str(copy.prefix)
    assert "ungated" in ungated.stderr

    copy.verify().assert_passes()
    proven = _envbuilder(copy, *asks)
    assert (proven.returncode, proven.stdout.strip()) == (0, str(copy.prefix))
    assert _envbuilder(copy, "gate", name).returncode == 0

    decided = _envbuilder(copy, *asks, TF_ENABLE_ONEDNN_OPTS="0")
    assert decided.returncode == 1
    assert "TF_ENABLE_ONEDNN_OPTS" in decided.stderr

    (copy.site_packages / "stray.py").write_text("")
    changed = _envbuilder(copy, "gate", name, "--json")
    assert changed.returncode == 1
    assert "files of the environment changed" in json.loads(changed.stdout)["why"]


@pytest.mark.real
def test_run_passes_the_command_s_own_exit_code_and_arguments_on(copy: Copy) -> None:
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = _envbuilder(copy, "run", "--ungated", copy.identifier, "--", "python", "-c", code, "a b", "$(c)", "--json")

    assert done.returncode == 7
    assert done.stdout.strip() == "['a b', '$(c)', '--json']"


@pytest.mark.real
def test_run_of_a_program_that_is_not_there(copy: Copy) -> None:
    done = _envbuilder(copy, "run", "--ungated", copy.identifier, "--", "no-such-program")

    assert done.returncode == 3
    assert "cannot run no-such-program" in done.stderr


@pytest.mark.real
def test_a_failed_verify_under_other_variables_leaves_the_proof_alone(copy: Copy, tmp_path: Path) -> None:
    copy.verify().assert_passes()

    copy.verify(LD_PRELOAD=str(copy.prefix / "lib" / "libmpi.so.12")).assert_fails(
        "no-shadowing-libraries", "LD_PRELOAD"
    )

    environment = store.find(Store(copy.home), copy.identifier)
    assert proof.path_of(Store(copy.home), environment).is_file()
