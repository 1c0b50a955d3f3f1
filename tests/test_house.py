"""The house holds: imports go downwards, one place for each effect, help is light, the wheel carries its data."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from breaking import uv

import envbuilder
from envbuilder import cli, errors, lint, places, recipe, site

PACKAGE = Path(envbuilder.__file__).parent
ROOT = PACKAGE.parent

FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "errors modes spec_versions",
        "document process template causes.*",
        "console shape spec spec_reader symptoms",
        "source evidence environment effect gate_memo spec_text wish",
        "recipe run_memo",
        "externals",
        "partition target",
        "conda plan spack_lock",
        "work",
        "site preload container lock checks.base fit described",
        "activation_script conda_meta elf sif_header mounts traces gpu_code lock places request pip_config site_rules toolchain",
        "activation apt_sources base_image catalog dpkg host job modules packed reachable runtime scheduler signature store",
        "host_memo host_mpi linking inventory image image_signature",
        "builders.base artefacts bundle kept_wheels checkout download told launcher compare memo checks.reading",
        "gpu_witness trace_binds survey",
        "doctor_stack lint proof spack_config spack_environment resolve sbom workflows witness manifest witnessed conda_files checks.* first_site",
        "doctor_places",
        "contents doctor drift inside programs spack_site",
        "examine parity report.* spack_machine",
        "builders.installing",
        "builders.source",
        "builders.venv builders.definition",
        "builders.apptainer builders.conda builders.containerfile builders.spack",
        "builders",
        "prepare gate build verify diagnose",
        "fetched import_cost layers nodes offline pack prove report.import_table today",
        "prepare_image adopted",
        "build_job verify_job",
        "job_script",
        "cli.*",
    )
)


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(("probes", "workshop", "__", "_data")):
            found[name] = path
    return found


def _imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it but for type checking alone."""
    found: set[str] = set()
    for node in _walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "envbuilder":
            inner = node.module.removeprefix("envbuilder").lstrip(".")
            for alias in node.names:
                whole = f"{inner}.{alias.name}".lstrip(".")
                found.add(whole if whole in _modules() else inner)
    return found - {""}


def _walk(tree: ast.AST) -> list[ast.AST]:
    """Every node that runs: blocks under `if TYPE_CHECKING` are for the type checker."""
    nodes, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        nodes.append(node)
        waiting += ast.iter_child_nodes(node)
    return nodes


def _floor(module: str) -> int:
    for number, floor in reversed(list(enumerate(FLOORS))):
        if module in floor:
            return number
    for number, floor in enumerate(FLOORS):
        if any(entry.endswith(".*") and (module + ".").startswith(entry[:-1]) for entry in floor):
            return number
    raise AssertionError(f"{module} stands on no floor: give it one in FLOORS")


def test_imports_go_downwards_and_in_no_circle() -> None:
    wrong = []
    graph = {module: _imports(path) for module, path in _modules().items()}
    for module, imported in graph.items():
        wrong += [f"{module} -> {other}" for other in sorted(imported) if _floor(other) > _floor(module)]
    assert not wrong
    done: set[str] = set()
    while graph:
        free = {module for module, imported in graph.items() if imported - {module} <= done}
        assert free, f"a circle among {sorted(graph)}"
        done |= free
        graph = {module: imported for module, imported in graph.items() if module not in free}


def test_probes_import_nothing_of_ours_and_nobody_imports_them() -> None:
    for path in PACKAGE.glob("probes/*.py"):
        assert "envbuilder." not in path.read_text().replace("envbuilder_probes", ""), path
    for path in _modules().values():
        assert not re.search(r"^\s*(from|import) envbuilder\.(probes|workshop)", path.read_text(), re.MULTILINE), path
    for path in PACKAGE.glob("workshop/*.py"):
        assert not re.search(r"^\s*(from|import) envbuilder", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize(
    ("pattern", "homes"),
    [
        (r"^\s*(import|from) subprocess\b", {"process"}),
        (r"\bos\.(system|popen|spawn|exec)", {"process", "run_memo"}),
        (r"^\s*import yaml\b", {"document"}),
        (r"(?<!\.)\bprint\(", {"host"}),
        (r"sys\.std(out|err)\b", {"console", "cli", "cli.parser"}),
        (r"shell\s*=\s*True", set()),
        (r"\beval\(|\bpickle\b", set()),
    ],
)
def test_each_effect_has_one_place(pattern: str, homes: set[str]) -> None:
    users = {name for name, path in _modules().items() if re.search(pattern, path.read_text(), re.MULTILINE)}

    assert users <= homes


def test_files_are_short() -> None:
    long = {name: len(path.read_text().splitlines()) for name, path in _modules().items()}

    assert {name: count for name, count in long.items() if count > 420} == {}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, envbuilder.cli as c; c.main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr

    loaded = {name.strip("' ").split(".")[0] for name in said.strip("[]\n").split(",")}
    assert not loaded & {"yaml", "jinja2", "packaging", "rich", "uv", "filelock", "elftools", "tomllib", "dataclasses"}


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        # a build of what is built already
        (
            ("cli.making", "memo"),
            {
                "http.client",
                "yaml",
                "jinja2",
                "packaging",
                "elftools",
                "rattler",
                "envbuilder.build",
                "envbuilder.prepare",
            },
        ),
        # one that has all that it takes
        (
            ("cli.making", "memo", "prepare", "build", "offline"),
            {"http.client", "ssl", "urllib.request", "rich", "rattler"},
        ),
    ],
)
def test_builds_import_nothing_that_they_do_not_need(modules: tuple[str, ...], heavy: set[str]) -> None:
    imports = "; ".join(f"import envbuilder.{name}" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert not set(done.stdout.split()) & heavy


def test_exit_codes_are_distinct_and_told_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out

    assert len(errors.EXIT_CODES) == 7
    assert all(re.search(rf"\b{code}\b", told) for code in errors.EXIT_CODES)


@pytest.mark.parametrize(
    "origin", sorted(places.data_root().glob("recipes/*/recipe.yaml")), ids=lambda path: path.parent.name
)
def test_shipped_recipes_hold_against_reader_schema_and_lint(origin: Path) -> None:
    jsonschema.validate(yaml.safe_load(origin.read_text()), recipe.json_schema())

    assert lint.lint_recipe(places.Origin(name=origin.parent.name, path=origin), {"HOME": "/nowhere"}) == []


@pytest.mark.parametrize("origin", sorted(places.data_root().glob("sites/*.yaml")), ids=lambda path: path.stem)
def test_shipped_sites_hold_against_reader_schema_and_lint(origin: Path) -> None:
    jsonschema.validate(yaml.safe_load(origin.read_text()), site.json_schema())

    assert lint.lint_site(places.Origin(name=origin.stem, path=origin)) == []


@pytest.mark.parametrize(
    "change",
    [{"schema": "1"}, {"name": "../x"}, {"unknown": 1}, {"features": ["x"]}, {"packages": "numpy"}, {"variants": [{}]}],
)
def test_the_schema_refuses_what_the_reader_refuses(change: dict[str, object]) -> None:
    document = {"schema": 1, "name": "x", "summary": "s", "variants": [{"version": "1"}], **change}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, recipe.json_schema())
    with pytest.raises(errors.InputError):
        recipe.parse(json.dumps(document), "x")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ["build", "lock", "plan", "bundle", "diff", "verify", "run", "gate", "envs", "envs list", "envs show", "envs rm", "gc",
                "lint", "schema", "recipes", "recipes list", "recipes show", "sites list", "sites show",
                "sites doctor", "sites init", "sites trace-binds", "drift", "doctor", "sign", "import",
                "export sbom", "export containerfile", "export workflow",
                "export spack", "sites import-spack", "parity"]  # fmt: skip
    for command in commands:
        assert cli.main([*command.split(), "--help"]) == 0
        assert "usage: envbuilder" in capsys.readouterr().out


def test_a_bug_of_ours_is_a_report_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("made up")

    monkeypatch.setattr("envbuilder.catalog.recipes", broken)

    assert cli.main(["recipes", "list"]) == errors.OUR_BUG
    said = capsys.readouterr().err
    assert "a bug in envbuilder: RuntimeError: made up" in said
    report = re.search(r"\S+envbuilder-bug-\S+\.txt", said)
    assert report
    assert "Traceback" in Path(report.group()).read_text()
    os.unlink(report.group())


def test_an_interrupt_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("envbuilder.catalog.recipes", interrupted)

    assert cli.main(["recipes", "list"]) == errors.INTERRUPTED


def test_results_for_machines_are_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["recipes", "list"], ["sites", "list"], ["recipes", "show", "deepcam"], ["lint"]):
        assert cli.main([*command, "--json"]) == 0
        json.loads(capsys.readouterr().out)


@pytest.mark.real
def test_the_wheel_carries_its_data(tmp_path: Path) -> None:
    uv("build", "-q", "--wheel", "-o", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    uv("venv", "-q", tmp_path / "venv", "-p", sys.executable)
    uv("pip", "install", "-q", "-p", tmp_path / "venv/bin/python", wheel)

    done = subprocess.run(
        [tmp_path / "venv/bin/envbuilder", "recipes", "list", "--json"],
        cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert {row["name"] for row in json.loads(done.stdout)} >= {"tensorflow-onednn", "pytorch-cpu", "deepcam", "mpi4py"}
    assert all("_data" in row["file"] for row in json.loads(done.stdout))
    assert list((tmp_path / "venv").glob("lib/python*/site-packages/envbuilder/_data/containers/README.md"))
