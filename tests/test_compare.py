"""Differences between locks and between trees."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import samples

from envbuilder import compare, recipe

ASKED = samples.request(recipe.parse(json.dumps(samples.RECIPE), "r.yaml"))


def test_equal_locks_and_the_kinds_of_difference() -> None:
    first = samples.locked(ASKED)
    other = replace(first, bodies={**first.bodies, "pylock.toml": samples.body("mpi4py", "2")})
    bare = replace(first, bodies={"pylock.toml": first.bodies["pylock.toml"]})
    asked = replace(first, request={**first.request, "version": "2.0"})

    assert compare.locks(first, first) == ()
    (found,) = compare.locks(first, other)
    assert (found.what, found.kind) == ("pylock.toml: mpi4py", "changed")
    assert found.first.startswith("1 (")
    assert found.second.startswith("2 (")
    assert {found.kind for found in compare.locks(first, bare)} == {"removed"}
    assert {found.kind for found in compare.locks(bare, first)} == {"added"}
    (found,) = compare.locks(first, asked)
    assert (found.what, found.first, found.second) == ("request.version", "1.0", "2.0")


def _tree(root: Path) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "lib" / "package" / "__pycache__").mkdir(parents=True)
    (root / "bin" / "activate").write_text(f"VIRTUAL_ENV={root}\n")
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o755)
    (root / "lib" / "package" / "a.py").write_text("A = 1\n")
    (root / "lib" / "package" / "__pycache__" / "a.pyc").write_text(str(root))
    (root / "lib64").symlink_to("lib")
    return root


def test_trees_at_two_places_are_equal(tmp_path: Path) -> None:
    assert compare.trees(_tree(tmp_path / "one"), _tree(tmp_path / "another place")) == ()


@pytest.mark.parametrize(
    ("change", "what", "kind"),
    [
        (lambda tree: (tree / "lib/package/a.py").write_text("A = 2\n"), "lib/package/a.py", "changed"),
        (lambda tree: (tree / "lib/package/b.py").write_text(""), "lib/package/b.py", "added"),
        (lambda tree: (tree / "lib/package/a.py").unlink(), "lib/package/a.py", "removed"),
        (lambda tree: (tree / "bin/tool").chmod(0o644), "bin/tool", "changed"),
        (lambda tree: (tree / "bin/activate").write_text("VIRTUAL_ENV=/else\n"), "bin/activate", "changed"),
        (lambda tree: ((tree / "lib64").unlink(), (tree / "lib64").symlink_to("bin")), "lib64", "changed"),
        (lambda tree: ((tree / "bin/tool").unlink(), (tree / "bin/tool").symlink_to("/bin/sh")), "bin/tool", "changed"),
        (lambda tree: os.symlink("nowhere", tree / "broken"), "broken", "added"),
    ],
)
def test_each_difference_of_a_tree(change: Callable[[Path], object], what: str, kind: str, tmp_path: Path) -> None:
    first, second = _tree(tmp_path / "one"), _tree(tmp_path / "two")
    change(second)

    (found,) = compare.trees(first, second)
    assert (found.what, found.kind) == (what, kind)
    assert found.first != found.second


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    first, second = _tree(tmp_path / "one"), _tree(tmp_path / "two")
    shutil.rmtree(second / "lib64", ignore_errors=True)
    (second / "round").symlink_to(second)

    assert [found.what for found in compare.trees(first, second)] == ["round"]
