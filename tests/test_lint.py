"""Lint: every mistake of a file, each with its place and its remedy, found without building anything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import samples
import yaml
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import cli, lint, places
from envbuilder.places import Origin

LINE = re.compile(r"^[^\n]+:\d+:\d+: .+[;(].+", re.DOTALL)
WRONG: list[Any] = [
    None,
    True,
    3.10,
    "{{ nothing.at.all }}",
    "{{ variant.version",
    "../..",
    "gpu=",
    "moon=full",
    [],
    {},
    "PATH",
]


def _lint(folder: Path, document: Any) -> list[str]:
    path = folder / "full.yaml"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return lint.lint_recipe(Origin(name="full", path=path), {"HOME": "/nowhere"})


def test_the_sample_has_no_mistake(tmp_path: Path) -> None:
    assert _lint(tmp_path, samples.RECIPE) == []


@given(st.data())
def test_any_change_of_a_recipe_gives_lines_with_places(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(list(samples.spots(samples.RECIPE))))
    wrong = data.draw(st.sampled_from(WRONG))

    for line in _lint(tmp_path_factory.mktemp("lint"), samples.changed(samples.RECIPE, path, wrong)):
        assert LINE.search(line), line


@pytest.mark.parametrize(
    "origin", sorted(places.data_root().glob("recipes/*/recipe.yaml")), ids=lambda path: path.parent.name
)
def test_no_shipped_recipe_thinks_that_a_zero_leaves_a_part_of_horovod_out(origin: Path) -> None:
    """Horovod looks for what is WITH=0 all the same; only WITHOUT=1 leaves it out."""
    recipe = yaml.safe_load(origin.read_text())
    variables = {
        name: value for source in recipe.get("sources", {}).values() for name, value in source.get("env", {}).items()
    }

    assert {name: value for name, value in variables.items() if re.match("HOROVOD_WITH_", name) and value != "1"} == {}
    assert {
        name: value for name, value in variables.items() if re.match("HOROVOD_WITHOUT_", name) and value != "1"
    } == {}


def test_every_row_is_rendered_and_every_setting_judged(tmp_path: Path) -> None:
    document = {
        **samples.RECIPE,
        "variants": [{"version": "2"}, {"version": "1", "packages": ["x=={{ nothing }}"]}],
        "environment": [{"set": "PATH", "to": "x", "why": "w"}, {"unset": "HOME", "why": "w"}],
    }

    found = _lint(tmp_path, document)

    assert len(found) == 3
    assert any("'nothing' is undefined" in line for line in found)
    assert any("PATH belongs to the shell" in line for line in found)
    assert any("HOME belongs to the shell" in line for line in found)


def test_a_mistake_in_a_base_is_told_at_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base" / "recipe.yaml"
    base.parent.mkdir()
    base.write_text("schema: 1\nname: base\nsummary: 3.10\nvariants: [{version: '1'}]\n")
    layer = tmp_path / "layer.yaml"
    layer.write_text("schema: 1\nname: layer\nsummary: x\nextends: base\n")

    (line,) = lint.lint_recipe(Origin(name="layer", path=layer), {"ENVBUILDER_RECIPE_PATH": str(tmp_path)})

    assert line.startswith(f"{base}:3:10: ")


@pytest.mark.parametrize(("extends", "lacking"), [("", "mpi4py and torch"), ("mpi4py", "torch"), ("pytorch-cpu", "")])
def test_a_feature_that_stands_on_others(extends: str, lacking: str, tmp_path: Path) -> None:
    """Where a base has them, the layer need not say so."""
    path = tmp_path / "over.yaml"
    base = f"extends: {extends}\n" if extends else ""
    path.write_text(f"schema: 1\nname: over\nsummary: x\n{base}features: [torch-mpi]\nvariants: [{{version: '1'}}]\n")

    found = lint.lint_recipe(Origin(name="over", path=path), {"HOME": "/nowhere"})

    told = [line for line in found if "features: " in line]
    assert len(told) == bool(lacking)
    assert all(line.startswith(f"{path}:") and f"torch-mpi needs {lacking} beside it; write" in line for line in told)


def test_the_command_tells_all_files_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("schema: 1\nname: r\nsummary: no\n")
    Path("s.yaml").write_text("schema: 1\nname: s\npartitions: {}\n")
    Path("b.yaml").write_bytes(b"\xff")
    Path("good.yaml").write_text(json.dumps(samples.RECIPE))

    assert cli.main(["lint", "r.yaml", "s.yaml", "b.yaml", "good.yaml", "deepcam"]) == 2
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert {line.split(":")[0] for line in lines} == {"r.yaml", "s.yaml", "b.yaml"}
    assert "in 3 file(s)" in said.err

    assert cli.main(["lint", "--json", "r.yaml", "good.yaml"]) == 2
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["mistakes"] == 1
    assert document["files"]["good.yaml"] == []
    assert not said.err

    assert cli.main(["lint", "good.yaml", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
