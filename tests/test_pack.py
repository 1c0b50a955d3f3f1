"""A tree in one file: the same bytes each time, proven where it is mounted, seen by one command alone, and broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples
from breaking import Copy, Verdict, copied, flip

from envbuilder import cli, packed, run_memo, store
from envbuilder.errors import HostError

PACK = {
    "file": "/store/envs/p/tree.sqfs",
    "sha256": "a" * 64,
    "size": 1,
    "prefix": "/store/envs/e-1-abc",
    "of": "e-1-abc",
}


def fuse() -> bool:
    """Whether this machine lets its users mount by FUSE in namespaces of their own."""
    tools = all(shutil.which(name) for name in ("mksquashfs", "squashfuse_ll", "unshare"))
    alone = ("unshare", "--user", "--mount", "sh", "-c", "exec 3<>/dev/fuse")
    return tools and subprocess.run(alone, capture_output=True, check=False).returncode == 0


needs_fuse = pytest.mark.skipif(
    not fuse() and not os.environ.get("CI"),
    reason="lacking packages: squashfs-tools squashfuse, or /dev/fuse is closed",
)


def run(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ENVBUILDER_HOME": str(home), **variables}
    command = [sys.executable, "-m", "envbuilder", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)


def pack(one: Copy, *options: str) -> dict[str, Any]:
    done = run(one.home, "pack", one.identifier, "--json", *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["environment"])


def verdict(home: Path, identifier: str, **variables: str) -> Verdict:
    done = run(home, "verify", identifier, "--json", "--keep-going", **variables)
    assert done.stdout, done.stderr
    return Verdict(done.returncode, json.loads(done.stdout)["environments"][0]["outcomes"], done.stderr)


def test_the_tree_of_a_pack_is_where_it_was_built() -> None:
    one = samples.environment(pack=PACK, prefix="/store/envs/p")

    assert one.tree == PACK["prefix"]
    assert replace(one, pack=None).tree == "/store/envs/p"
    assert store.names(one, asked_by_version=False) == ("e@1.pack", "e.pack")


def test_a_pack_that_is_gone_is_named() -> None:
    with pytest.raises(HostError, match=r"the packed tree is gone: /store/envs/p/tree\.sqfs"):
        packed.words(PACK, {})


def test_what_packing_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tree.sqfs"
    file.write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HostError, match="squashfuse is not on the PATH") as said:
        packed.words({**PACK, "file": str(file)}, {})
    assert packed.VARIABLE in said.value.hint
    with pytest.raises(HostError, match="unsquashfs is not on the PATH"):
        packed.words({**PACK, "file": str(file)}, {packed.VARIABLE: str(tmp_path / "local")})


def test_a_start_is_remembered_for_the_same_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_memo.gate_memo, "recall", lambda *_: "it opened")
    env = {"PATH": "/bin", "PMI_RANK": "0"}
    there = str(tmp_path / "there")
    Path(there).touch()
    words, patch = ("env", "A=1"), {"X": None, "Y": "y"}
    run_memo.remember(str(tmp_path), "e-1-abc", words=words, patch=patch, needed=(there,), env=env)

    again = lambda env: run_memo.recall(str(tmp_path), "e-1-abc", env)  # noqa: E731
    assert again(env) == (list(words), patch)
    assert again({**env, "PMI_RANK": "1"}) == (list(words), patch)
    assert again({"PATH": "/bin"}) is None  # no rank
    assert again({**env, "PATH": "/other"}) is None
    assert "/bin" not in next(tmp_path.glob("memos/*")).read_text()
    monkeypatch.setattr(run_memo.gate_memo, "recall", lambda *_: "")
    assert again(env) is None
    monkeypatch.setattr(run_memo.gate_memo, "recall", lambda *_: "it opened")
    os.unlink(there)
    assert again(env) is None


def test_only_trees_are_packed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path))
    place = store.locate(os.environ)
    for made in (
        samples.environment(pack=PACK, identifier="e-1-p"),
        samples.environment(identifier="e-1-gone", prefix="/gone"),
    ):
        store.publish(place, made, ())

    assert cli.main(["pack", "e-1-p"]) == 2
    assert "e-1-p is packed already" in capsys.readouterr().err
    assert cli.main(["pack", "e-1-gone"]) != 0
    assert "its tree is gone (/gone)" in capsys.readouterr().err
    assert cli.main(["pack", "e-1-gone", "-o", "/nowhere/x"]) == 2
    assert "-o: /nowhere/x cannot be written" in capsys.readouterr().err


@pytest.mark.real
@needs_fuse
def test_a_packed_tree_is_proven_where_it_was_built(mpi4py_env: Path, tmp_path: Path) -> None:
    one = copied(mpi4py_env, tmp_path / "store")
    out = tmp_path / "it.sqfs"

    first = pack(one, "-o", str(out))
    second = pack(one)

    assert first["pack"]["sha256"] == second["pack"]["sha256"]
    assert first["identifier"] == second["identifier"]
    assert out.read_bytes() == Path(first["pack"]["file"]).read_bytes()
    assert list((one.home / "work").iterdir()) == []
    # nothing of the tree is needed any more but its place
    shutil.rmtree(one.prefix)
    assert run(one.home, "run", first["identifier"], "--", "true").returncode == 1
    verdict(one.home, first["identifier"]).assert_passes()
    code = (
        "import mpi4py, os, sys; print(mpi4py.__file__); print(mpi4py.__cached__); print(os.getcwd());"
        "sys.exit([line for line in open('/proc/mounts') if sys.prefix in line] == [])"
    )
    for _ in range(2):  # the second time by what the first noted
        seen = run(one.home, "run", first["identifier"], "--", "python", "-c", code)
        assert seen.returncode == 0, seen.stderr
        file, bytecode, folder = seen.stdout.split()
        assert file.startswith(f"{one.prefix}/lib/")
        assert bytecode.startswith(f"{one.prefix}/lib/")
        assert folder == os.getcwd()
    assert list(one.prefix.iterdir()) == []  # nobody else saw it
    assert run(one.home, "run", first["identifier"], "--", "sh", "-c", "exit 7").returncode == 7
    assert run(one.home, "run", first["identifier"], "--", "sh", "-c", f"touch {one.prefix}/x").returncode != 0


@pytest.mark.real
@needs_fuse
def test_a_packed_tree_is_extracted_where_that_is_wanted(mpi4py_env: Path, tmp_path: Path) -> None:
    one = copied(mpi4py_env, tmp_path / "store")
    made = pack(one, "--compression", "lz4")
    shutil.rmtree(one.prefix)
    local = tmp_path / "local"

    verdict(one.home, made["identifier"], ENVBUILDER_EXTRACT=str(local)).assert_passes()

    (tree,) = local.glob(f"*/{made['pack']['sha256']}")
    assert (tree / "bin" / "python").is_symlink()
    # what was extracted is looked at, not only the file that it came from
    (module,) = tree.glob("lib/python*/site-packages/mpi4py/__init__.py")
    module.chmod(0o644)
    flip(module)
    broken = verdict(one.home, made["identifier"], ENVBUILDER_EXTRACT=str(local))
    assert set(broken.failures()) >= {"files-intact"}


@pytest.mark.real
@needs_fuse
def test_a_pack_that_was_changed_is_not_run(mpi4py_env: Path, tmp_path: Path) -> None:
    one = copied(mpi4py_env, tmp_path / "store")
    made = pack(one)
    assert verdict(one.home, made["identifier"]).code == 0
    flip(Path(made["pack"]["file"]))

    broken = verdict(one.home, made["identifier"])

    broken.assert_fails("pack-file", "is not the packed tree that was made")
    assert {outcome["status"] for outcome in broken.outcomes if outcome["check"] != "pack-file"} == {"not-run"}
    assert run(one.home, "run", made["identifier"], "--", "true").returncode == 1
    # packing anew mends it
    assert pack(one)["identifier"] == made["identifier"]
    assert verdict(one.home, made["identifier"]).code == 0
