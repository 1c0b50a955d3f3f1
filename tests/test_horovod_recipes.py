"""The recipes that compile Horovod: what is said of each of its parts, and a build that does not find one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from envbuilder import catalog, places

RECIPES = ["pytorch-horovod", "tensorflow-horovod"]
PARTS = {"torch": "PYTORCH", "tensorflow": "TENSORFLOW", "mxnet": "MXNET", "gloo": "GLOO", "mpi4py": "MPI"}


@pytest.mark.parametrize("name", RECIPES)
def test_horovod_is_built_with_what_the_recipe_claims_and_without_all_else(name: str) -> None:
    """A part of which nothing is said is taken where it is found, and left out where it is not: so each is spoken of."""
    recipe, _ = catalog.merged(catalog.recipe_origin(name, {}), {})
    env = recipe.sources["horovod"].env

    said = {variable: value for variable, value in env.items() if re.match("HOROVOD_WITH(OUT)?_", variable)}

    assert said == {
        f"HOROVOD_WITH{'' if feature in recipe.features else 'OUT'}_{part}": "1" for feature, part in PARTS.items()
    }


@pytest.mark.real
def test_a_framework_that_is_not_found_ends_the_build(tmp_path: Path) -> None:
    """Without HOROVOD_WITH_PYTORCH=1, Horovod's own build leaves PyTorch out and succeeds: its log is all there is."""
    name = "horovod-without-its-framework"
    shipped = places.data_root() / "recipes" / "pytorch-horovod" / "recipe.yaml"
    source = yaml.safe_load(shipped.read_text())["sources"]["horovod"]
    del source["env"]["HOROVOD_WITH_PYTORCH"]
    source["build_requires"] = [one for one in source["build_requires"] if not one.startswith("torch")]
    recipe = {"schema": 1, "name": name, "summary": name, "extends": "pytorch-horovod"}
    (tmp_path / name).mkdir()
    (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "sources": {"horovod": source}}))

    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "build", name],
        env={**os.environ, "ENVBUILDER_HOME": str(tmp_path / "store"), "ENVBUILDER_RECIPE_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )

    assert done.returncode not in (0, 2), done.stdout
    assert "what CMake does not find, Horovod is built without" in done.stderr
    assert "Could NOT find Pytorch" in done.stderr
    assert "Traceback" not in done.stderr
