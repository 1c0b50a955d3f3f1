"""Where recipes and sites are found, and which file wins."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import samples

from envbuilder import catalog, places
from envbuilder.errors import InputError, UnknownName


def _recipe(folder: Path, name: str, **changes: object) -> Path:
    path = folder / name / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**samples.RECIPE, "name": name, "extends": "mpi4py", **changes}))
    return path


def _site(folder: Path, name: str, summary: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({**samples.SITE, "name": name, "summary": summary}))
    return path


def test_the_first_place_that_has_a_site_wins_and_the_whole_file_wins(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home")}
    assert catalog.find_site("local", env)[0].default_partition == "host"

    for folder, key, value in (
        (tmp_path / "home/.config/envbuilder/sites", "HOME", str(tmp_path / "home")),
        (tmp_path / "xdg/envbuilder/sites", "XDG_CONFIG_HOME", str(tmp_path / "xdg")),
        (tmp_path / "b", "ENVBUILDER_SITE_PATH", f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path / 'b'}"),
        (tmp_path / "a", "ENVBUILDER_SITE_PATH", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}"),
    ):
        mine = _site(folder, "local", f"from {folder.name}")
        env[key] = value
        found, origin = catalog.find_site("local", env)
        assert origin.path == mine
        assert found.summary == f"from {folder.name}"
        assert set(found.partitions) == {"cpu"}
        assert [entry.path for entry in catalog.sites(env) if entry.name == "local"] == [mine]
        assert places.still_means("local", mine, env)


def test_the_first_place_that_has_a_recipe_wins(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "ENVBUILDER_RECIPE_PATH": f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}"}
    second = _recipe(tmp_path / "b", "pytorch-cpu")
    assert catalog.find_recipe("pytorch-cpu", env).origins[0].path == second

    first = _recipe(tmp_path / "a", "pytorch-cpu")
    found = catalog.find_recipe("pytorch-cpu", env)

    assert found.origins[0].path == first
    assert [row.version for row in found.recipe.variants] == ["1.0"]
    assert [entry.path for entry in catalog.recipes(env) if entry.name == "pytorch-cpu"] == [first]
    # a layer of the shipped ones now stands on the user's
    assert catalog.find_recipe("deepcam", env).origins[1].path == first


def test_a_recipe_cannot_be_a_layer_on_the_one_it_shadows(tmp_path: Path) -> None:
    _recipe(tmp_path, "mpi4py", extends="mpi4py")

    with pytest.raises(InputError, match=r"recipe\.yaml:1:\d+: extends: .*circle.*mpi4py -> mpi4py"):
        catalog.find_recipe("mpi4py", {"ENVBUILDER_RECIPE_PATH": str(tmp_path)})


def test_layers_are_not_endless(tmp_path: Path) -> None:
    for number in range(20):
        _recipe(tmp_path, f"r{number}", extends=f"r{number + 1}")

    with pytest.raises(InputError, match="too deep"):
        catalog.find_recipe("r0", {"ENVBUILDER_RECIPE_PATH": str(tmp_path)})


def test_the_chosen_version_must_be_there(tmp_path: Path) -> None:
    assert catalog.find_recipe("tensorflow-onednn@2.13.0", {}).version == "2.13.0"
    with pytest.raises(InputError, match="no variant '9'") as caught:
        catalog.find_recipe("tensorflow-onednn@9", {})
    assert "2.13.0" in caught.value.hint
    path = _recipe(tmp_path, "x")
    assert catalog.find_recipe(f"{path}@1.0", {}).version == "1.0"
    assert catalog.find_recipe(str(path.parent), {}).recipe.name == "x"


@pytest.mark.parametrize(
    ("name", "guess"),
    [("tensorflow-onedn", "tensorflow-onednn"), ("pytorch-cp", "pytorch-cpu"), ("depcam", "deepcam"), ("zzz", "")],
)
def test_a_name_that_is_nearly_right(name: str, guess: str) -> None:
    with pytest.raises(UnknownName) as caught:
        catalog.find_recipe(name, {"HOME": "/nowhere"})

    assert (f"did you mean {guess!r}?" in caught.value.hint) == bool(guess)
    assert "known are deepcam, deepcam-nccl, mpi4py" in caught.value.hint


@pytest.mark.parametrize("name", ["nothing", "", "..", "../local", "a b", "x" * 80, "l\0", "lokal", "./x.yaml", "/etc"])
def test_site_names_that_mean_nothing(name: str) -> None:
    with pytest.raises(InputError) as caught:
        catalog.find_site(name, {"HOME": "/nowhere"})

    assert caught.value.hint


def test_a_site_must_have_the_name_of_its_file(tmp_path: Path) -> None:
    _site(tmp_path, "there", "x").rename(tmp_path / "here.yaml")

    with pytest.raises(InputError, match=r"here\.yaml:1:\d+: .*calls itself 'there'"):
        catalog.find_site("here", {"ENVBUILDER_SITE_PATH": str(tmp_path)})
