"""Signed proofs, with the real ssh-keygen: whose word counts, and what an edit or a forgery looks like."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from envbuilder import signature
from envbuilder.errors import GateError, HostError, InputError

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")


def keygen(folder: Path, name: str, passphrase: str = "") -> Path:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", path], check=True)
    return path


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signed proof and the file of allowed signers."""
    private = keygen(tmp_path, "ada")
    signers = tmp_path / "signers"
    signers.write_text(f"ada@example.org {private.with_suffix('.pub').read_text()}")
    proof = tmp_path / "proof.json"
    signature.keep(proof, '{"result": "PASSED"}\n', private)
    return proof, signers


def test_whose_word_it_is(signed: tuple[Path, Path]) -> None:
    proof, signers = signed

    assert signature.signer(proof, signers) == "ada@example.org"
    assert signature.signer(proof, None) == "an unknown key"


def test_unsigned(tmp_path: Path) -> None:
    proof = tmp_path / "proof.json"
    signature.keep(proof, "{}", None)

    assert signature.signer(proof, None) == ""


@pytest.mark.parametrize("known", [True, False])
def test_an_edited_proof(signed: tuple[Path, Path], known: bool) -> None:
    proof, signers = signed
    proof.write_text(proof.read_text().replace("PASSED", "passed"))

    with pytest.raises(
        GateError, match="the signature of the proof does not fit what it says: it was edited or forged"
    ):
        signature.signer(proof, signers if known else None)


def test_a_stranger_s_signature(signed: tuple[Path, Path], tmp_path: Path) -> None:
    proof, signers = signed
    signature.sign(proof, keygen(tmp_path, "mallory"))

    with pytest.raises(GateError, match="signed by somebody who is not among the allowed signers"):
        signature.signer(proof, signers)


def test_the_signature_of_another_kind_of_document(signed: tuple[Path, Path], tmp_path: Path) -> None:
    """What somebody signed for git is no word on a proof."""
    proof, signers = signed
    signature.path_of(proof).unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", tmp_path / "ada", "-n", "git", proof], check=True)

    with pytest.raises(GateError):
        signature.signer(proof, signers)


def test_a_new_proof_does_not_stand_beside_an_old_signature(signed: tuple[Path, Path]) -> None:
    proof, _ = signed
    signature.keep(proof, '{"result": "PASSED", "again": 1}\n', None)

    assert signature.signer(proof, None) == ""


def test_a_key_that_cannot_be_used(tmp_path: Path) -> None:
    proof = tmp_path / "proof.json"
    locked = keygen(tmp_path, "locked", "a passphrase")

    with pytest.raises(HostError, match="the proof could not be signed with"):
        signature.keep(proof, "{}", locked)
    with pytest.raises(InputError, match="which is no file"):
        signature.key({signature.KEY_VARIABLE: str(tmp_path / "nothing")})
    assert signature.key({}) is None
    assert proof.is_file()
