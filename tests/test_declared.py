"""What a site file says of preloaded libraries and a recipe of data: read strictly, kept with the environment, and judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples
from zoo.making import compiled

from envbuilder import catalog, lint, preload, recipe
from envbuilder.errors import InputError
from envbuilder.places import Origin, data_root

SITE = """\
schema: 1
name: counted
summary: A machine that counts what is run
sources: {M: {title: a manual}}
default_partition: host
partitions:
  host:
    features: [cpu, mpi]
    mpi: {provider: wheel, package: mpich}
allowed_preloads:
  - {library: libcounter.so.1, why: the centre counts what is run, source: [M]}
"""
RECIPE = """\
schema: 1
name: with-data
summary: mpi4py, and data that it reads
extends: mpi4py
data:
  - {variable: DATASET_DIR, why: the training set}
"""


def seen(entry: str, path: str = "", soname: str = "") -> dict[str, str]:
    return {"entry": entry, "path": path or entry, "soname": soname}


# preloaded libraries


def test_spaces_and_colons_separate_the_entries() -> None:
    assert preload.parts(" /a/libx.so:liby.so  /b/libz.so\t") == ("/a/libx.so", "liby.so", "/b/libz.so")
    assert preload.parts("") == preload.parts(" : ") == ()


@pytest.mark.parametrize(
    ("library", "entry", "allowed"),
    [
        ("libx.so", seen("/opt/x/libx.so"), True),
        ("libx.so", seen("libx.so", "/usr/lib/libx.so.1.2"), True),
        ("libx.so.1", seen("/opt/x/libx-1.2.so", soname="libx.so.1"), True),
        ("libx.so", seen("/opt/x/libxx.so"), False),
        ("libx.so", seen("/opt/libx.so/liby.so"), False),
        ("/opt/x/libx.so", seen("/opt/x/libx.so"), True),
        ("/opt/x/libx.so", seen("/opt/y/libx.so"), False),
        ("/opt/x/libx.so", seen("/opt/link/libx.so", "/opt/x/libx.so"), True),
        ("/opt/$LIB/libx.so", seen("/opt/$LIB/libx.so", ""), True),
        ("/opt/x/libx.so", seen("libx.so", ""), False),
    ],
)
def test_a_name_allows_it_anywhere_and_a_path_that_file_alone(
    library: str, entry: dict[str, str], allowed: bool
) -> None:
    assert (preload.reason(entry, [{"library": library, "why": "because"}]) == "because") is allowed


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("library: libcounter.so.1, ", "", "library: is missing"),
        ("why: the centre counts what is run, ", "", "why: is missing"),
        ("source: [M]}", "source: [X]}", "'X' is not a key of `sources`"),
        ("libcounter.so.1", "lib counter", "is not of the required form; write for example 'libxalt_init.so'"),
        ("libcounter.so.1", "/opt/counter/", "is not of the required form"),
        ("allowed_preloads", "allowed_preload", "did you mean 'allowed_preloads'?"),
    ],
)
def test_mistakes_in_the_site_file(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "counted.yaml"
    path.write_text(SITE.replace(old, new))

    (said,) = lint.lint_site(Origin(name="counted", path=path))

    assert words.replace(": is missing", "") in said
    assert said.startswith(f"{path}:")


# data


def test_data_of_a_recipe_and_of_its_base() -> None:
    base = recipe.parse((data_root() / "recipes" / "mpi4py" / "recipe.yaml").read_text(), "base.yaml")
    layer = recipe.parse(RECIPE, "layer.yaml")

    both = recipe.layered(layer, replace(base, data=(recipe.Data(variable="MESH", why="the mesh"),)))

    assert [one.variable for one in both.data] == ["MESH", "DATASET_DIR"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("DATASET_DIR", "dataset dir", "is not of the required form; write for example 'DEEPCAM_DATA'"),
        (", why: the training set", "", "why"),
        ("variable: DATASET_DIR", "path: /data", "unknown key 'path'"),
    ],
)
def test_mistakes_in_the_recipe(old: str, new: str, words: str) -> None:
    with pytest.raises(InputError, match=r"layer\.yaml:\d+:\d+: data\[0\]") as error:
        recipe.parse(RECIPE.replace(old, new), "layer.yaml")

    assert words in error.value.message


def test_a_request_without_data_is_the_one_that_older_locks_answer() -> None:
    found = catalog.find_recipe("mpi4py", {}).recipe

    assert "data" not in samples.request(found).to_document()
    more = replace(found, data=(recipe.Data(variable="DATASET_DIR", why="the training set"),))
    assert samples.request(more).to_document()["data"] == [{"variable": "DATASET_DIR", "why": "the training set"}]


# all the way


class Place:
    """A store with a site file and a recipe of its own; wheels are those of the other tests."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = folder / "store"
        self.home.mkdir()
        for kept in ("wheels", "cache"):
            (home / kept).mkdir(parents=True, exist_ok=True)
            (self.home / kept).symlink_to(home / kept)
        self.site = folder / "counted.yaml"
        self.site.write_text(SITE)
        self.recipe = folder / "with-data" / "recipe.yaml"
        self.recipe.parent.mkdir()
        self.recipe.write_text(RECIPE)
        self.data = folder / "data"
        self.data.mkdir()
        (self.data / "sample.h5").write_text("x")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "ENVBUILDER_HOME": str(self.home), "DATASET_DIR": str(self.data), **variables}
        command = [sys.executable, "-m", "envbuilder", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)

    def build(self) -> None:
        done = self.run("build", str(self.recipe), "--site", str(self.site))
        assert done.returncode == 0, done.stderr

    def verify(self, **variables: str) -> dict[str, dict[str, Any]]:
        done = self.run("verify", "with-data", "--json", **variables)
        assert done.stdout, done.stderr
        (one,) = json.loads(done.stdout)["environments"]
        return {row["check"]: row for row in one["outcomes"]}


def failed(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["cause"] for name, row in rows.items() if row["status"] != "pass"}


@pytest.mark.real
def test_from_the_files_to_the_gate(tmp_path: Path, test_home: Path) -> None:
    place = Place(tmp_path, test_home)
    counter = compiled("int nothing;\n", tmp_path / "libcounter.so.1")
    place.build()

    rows = place.verify(LD_PRELOAD=str(counter))

    assert failed(rows) == {}
    told = f"LD_PRELOAD has {counter}, which the site allows: the centre counts what is run"
    assert told in rows["no-shadowing-libraries"]["witnessed"]
    assert f"DATASET_DIR={place.data}" in rows["data-readable"]["witnessed"]
    assert place.run("gate", "with-data", LD_PRELOAD=str(counter)).returncode == 0

    # another file under the name: the proof was made with what it was
    compiled("int another;\n", counter)
    refused = place.run("gate", "with-data", LD_PRELOAD=str(counter))
    assert refused.returncode == 1
    assert f"the library {counter} changed since it was made" in refused.stderr

    # without the data, on a machine that has them elsewhere
    assert "DATASET_DIR=/nowhere (the training set)" in failed(place.verify(DATASET_DIR="/nowhere"))["data-readable"]

    # the site no longer allows it, and the environment follows its site file with the next build
    place.site.write_text(SITE.partition("allowed_preloads")[0])
    place.build()
    assert failed(place.verify(LD_PRELOAD=str(counter)))["no-shadowing-libraries"] == f"LD_PRELOAD is set: {counter}"
