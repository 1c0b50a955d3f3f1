"""What a failure of rung 0 does to the rest of a verify. The faults themselves are in the zoo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from breaking import Copy, copied

pytestmark = pytest.mark.real


@pytest.fixture
def copy(mpi4py_env: Path, tmp_path: Path) -> Copy:
    return copied(mpi4py_env, tmp_path / "store")


def test_a_failed_rung_leaves_the_later_ones_not_run(copy: Copy) -> None:
    (copy.site_packages / "stray.py").write_text("")

    verdict = copy.verify()

    later = {one["status"] for one in verdict.outcomes if one["rung"] > 0}
    assert later == {"not-run"}
    assert all("rung 0 (static) failed" in one["cause"] for one in verdict.outcomes if one["rung"] > 0)


def test_keep_going_climbs_on(copy: Copy) -> None:
    (copy.site_packages / "stray.py").write_text("")

    verdict = copy.verify("--keep-going")

    verdict.assert_fails("no-extra-files", "stray.py")
    assert {one["status"] for one in verdict.outcomes if one["rung"] > 0} == {"pass"}


def test_a_failed_verify_leaves_no_proof(copy: Copy) -> None:
    copy.verify().assert_passes()
    proofs = copy.home / "proofs" / copy.identifier
    assert len(list(proofs.glob("*.json"))) == 1

    (copy.site_packages / "stray.py").write_text("")
    copy.verify()

    assert not list(proofs.glob("*.json"))


def test_a_vanished_tree_is_told_and_not_a_pass(copy: Copy) -> None:
    shutil.rmtree(copy.prefix)
    env = {**os.environ, "ENVBUILDER_HOME": str(copy.home)}

    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "verify", "--json"], env=env, capture_output=True, text=True, check=False
    )

    assert done.returncode == 4
    assert "its tree is gone" in done.stderr
    assert json.loads(done.stdout)["passed"] is False
