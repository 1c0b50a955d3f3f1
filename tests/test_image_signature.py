"""Signatures of images: made and looked at by a real Apptainer on a tiny SIF, judged by the check, wanted by the gate."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from test_gate import HERE, NOW, _environment, _proof

from envbuilder import cli, gate, image_signature, proof, runtime, store
from envbuilder.checks.image_signature import CHECKS
from envbuilder.document import to_json
from envbuilder.environment import Environment
from envbuilder.errors import BAD_INPUT, GateError, HostError, InputError
from envbuilder.evidence import Evidence, Expectation, Outcome
from envbuilder.runtime import Runtime

IMAGE = {"prefix": "/opt/envbuilder/env", "file": "/store/envs/e-1-abc/image.sif", "sha256": "a" * 64, "base": "debian-12", "binds": {}, "mpi": "image",
         "runtime": {"program": "/nowhere/apptainer", "name": "apptainer", "version": "1.4.5"}}  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return made_key(tmp_path / "key.pem")


@pytest.fixture
def program(apptainer_path: str) -> Runtime:
    return runtime.find({"PATH": apptainer_path})


@pytest.fixture
def sif(tmp_path: Path, program: Runtime) -> Path:
    """A SIF with two objects and no file system: enough to sign, in no time."""
    path = tmp_path / "image.sif"
    content = tmp_path / "content"
    run(program, "sif", "new", path)
    for text in ("one", "two"):
        content.write_text(text * 1000)
        run(program, "sif", "add", "--datatype", "7", "--groupid", "1", path, content)
    return path


def run(program: Runtime, *words: str | Path) -> None:
    subprocess.run([program.program, *words], check=True, capture_output=True)


def made_key(path: Path) -> Path:
    for words in (
        ("genpkey", "-algorithm", "ed25519", "-out", path),
        ("pkey", "-in", path, "-pubout", "-out", public(path)),
    ):
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    return path


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def seen(program: Runtime, sif: Path, key: Path) -> dict[str, Any]:
    known = {"program": program.program, "name": program.name, "version": program.version}
    return image_signature.look(known, sif, public(key))


def judged(facts: dict[str, Any] | None) -> Outcome:
    (check,) = CHECKS
    expectation = Expectation(
        environment="e-1-abc", digest="d", prefix="/opt/envbuilder/env", python="3.11", features=(), imports=(),
        packages={}, records={}, written={}, mpi=None, ranks=2, image=IMAGE, image_key="/keys/k.pub",
    )  # fmt: skip
    assert check.applies(expectation)
    assert not check.applies(replace(expectation, image_key=""))
    assert not check.applies(replace(expectation, image=None))
    return check.outcome(check.judge(expectation, Evidence(static={"image": {"signature": facts}} if facts else {})))


@pytest.mark.real
def test_a_signed_image_passes_under_its_key_and_fails_under_another(
    program: Runtime, sif: Path, key: Path, tmp_path: Path
) -> None:
    before = sif.read_bytes()
    unsigned = judged(seen(program, sif, key))

    signed, digest = image_signature.signed(program, sif, key)

    assert unsigned.status == "fail"
    assert "is not signed" in unsigned.cause
    assert "envbuilder sign e-1-abc" in unsigned.remedy
    assert sif.read_bytes() == before  # other environments hold it by a link
    assert digest[:12] in signed.name
    assert judged(seen(program, signed, key)).status == "pass"
    other = judged(seen(program, signed, made_key(tmp_path / "other.pem")))
    assert other.status == "fail"
    assert "is signed with another key than" in other.cause
    # a second signature takes the place of the first, under which a verify would fail
    again, _ = image_signature.signed(program, signed, tmp_path / "other.pem")
    assert judged(seen(program, again, tmp_path / "other.pem")).status == "pass"
    assert judged(seen(program, again, key)).status == "fail"
    assert list(tmp_path.glob(".*.part")) == []


@pytest.mark.real
def test_what_was_changed_or_added_after_signing_is_named(
    program: Runtime, sif: Path, key: Path, tmp_path: Path
) -> None:
    signed, _ = image_signature.signed(program, sif, key)
    whole = signed.read_bytes()
    signed.write_bytes(whole.replace(b"twotwo", b"tootoo", 1))
    changed = judged(seen(program, signed, key))
    signed.write_bytes(whole)
    (tmp_path / "overlay").write_text("x" * 1000)
    run(program, "sif", "add", "--datatype", "7", signed, tmp_path / "overlay")
    added = judged(seen(program, signed, key))

    assert changed.status == "fail"
    assert "was changed after it was signed" in changed.cause
    assert added.status == "fail"
    assert "was changed after it was signed" in added.cause


@pytest.mark.real
def test_what_cannot_be_looked_at_is_not_run(program: Runtime, sif: Path, key: Path, tmp_path: Path) -> None:
    gone = judged(seen(program, sif, tmp_path / "gone.pem"))
    (tmp_path / "no.sif").write_text("no image")
    none = judged(seen(program, tmp_path / "no.sif", key))

    assert gone.status == "not-run"
    assert "cannot be read" in gone.cause
    assert none.status == "not-run"
    assert "apptainer says: " in none.cause
    assert judged(None).status == "not-run"


@pytest.mark.real
def test_a_key_that_cannot_sign_is_refused(program: Runtime, sif: Path, key: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        image_signature.signed(program, sif, tmp_path / "gone.pem")
    with pytest.raises(HostError, match=r"could not be signed with .*: unknown private key PEM file type"):
        image_signature.signed(program, sif, public(key))
    assert sorted(path.name for path in tmp_path.glob("*.sif")) == ["image.sif"]
    assert list(tmp_path.glob(".*.part")) == []


def in_image(**changes: object) -> Environment:
    return replace(_environment(), image={**IMAGE, **changes})


def test_a_proof_is_of_one_file_and_one_key(tmp_path: Path) -> None:
    outcome = Outcome(check="image-signature", rung=0, title="", status="pass", witnessed="w")
    document = proof.statement(in_image(), HERE, (outcome,), {}, made=NOW.isoformat(), ranks=2, image_key="k" * 64)
    path = tmp_path / "proof.json"
    path.write_text(to_json(document))

    found = proof.load(path)

    assert (found.image, found.image_key) == ("a" * 64, "k" * 64)
    assert gate.reasons(replace(found, made=NOW - timedelta(hours=1)), in_image(), HERE, NOW) == ()
    (why,) = gate.reasons(found, in_image(sha256="b" * 64), HERE, NOW)
    assert "another file of the image: it was signed or replaced since" in why


@pytest.mark.real
def test_the_gate_wants_a_proof_under_the_key_that_is_named(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(image_signature.KEY_VARIABLE, raising=False)
    (tmp_path / "tree").mkdir()
    place = store.Store(tmp_path / "store")
    environment = replace(in_image(), prefix=str(tmp_path / "tree"))
    named = {image_signature.KEY_VARIABLE: str(public(key))}
    today = gate.circumstances(environment, {})

    def proven(mark: str) -> None:
        made = datetime.now(timezone.utc).isoformat()
        document = proof.statement(environment, today, (), {}, made=made, ranks=2, image_key=mark)
        document["predicate"]["envbuilder"]["checks"] = [{"check": "image-file", "outcome": "pass", "witnessed": ""}]
        proof.save(place, environment, "host", document)

    proven("")
    assert gate.check(place, environment, {}).image_key == ""
    with pytest.raises(GateError, match=r"without looking at the image's signature, and .* must be signed with"):
        gate.check(place, environment, named)
    site_says = replace(environment, signers={"image_key": str(public(key))})
    with pytest.raises(GateError, match="must be signed with"):
        gate.check(place, site_says, {})
    proven(image_signature.mark(public(key)))
    assert gate.check(place, environment, named).image_key
    assert gate.check(place, environment, {}).image_key  # more than is asked for
    other = made_key(tmp_path / "other.pem")
    with pytest.raises(GateError, match="it was made under another key"):
        gate.check(place, environment, {image_signature.KEY_VARIABLE: str(public(other))})


def test_only_an_image_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path))
    place = store.Store(tmp_path)
    store.publish(place, replace(_environment(), prefix=str(tmp_path)), ())

    assert cli.main(["sign", "e-1-abc", "--key", "k.pem"]) == BAD_INPUT
    assert "is not in an image" in capsys.readouterr().err


def test_a_proof_of_a_tree_has_one_subject() -> None:
    document = proof.statement(_environment(), HERE, (), {}, made=NOW.isoformat(), ranks=2)

    assert [one["name"] for one in document["subject"]] == ["e-1-abc"]
    assert _proof().image == ""
