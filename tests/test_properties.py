"""Whatever is thrown at it: never a traceback, always a message; for files a place, and nothing of them ever runs."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import cli, lock, places, recipe, site, store
from envbuilder.activation import Activation, Setting, script
from envbuilder.document import load_yaml
from envbuilder.errors import EnvbuilderError, InputError
from envbuilder.plan import Move, Plan, Product, Remove, Run, Seal, Write
from envbuilder.report import plan_script

PLACE = re.compile(r"^[^\n]*?:\d+:\d+: ", re.MULTILINE)
SHIPPED = [path.read_text() for path in sorted(places.data_root().glob("recipes/*/recipe.yaml"))]
SITES = [path.read_text() for path in sorted(places.data_root().glob("sites/*.yaml"))]
NASTY = [
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "' ; touch canary '",
    '" ; touch canary "',
    "a\\",
    "*",
    "~",
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(NASTY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def mutated(text: str, seed: int) -> str:
    """A shipped file with a few random injuries: what a person's slip or a stranger's malice looks like."""
    dice = random.Random(seed)
    lines = text.splitlines()
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(lines))
        line = lines[at]
        lines[at : at + 1] = dice.choice(
            [
                list,
                lambda: [line, line],
                lambda: [line.replace(":", "", 1)],
                lambda: [
                    line.partition(":")[0] + ": " + dice.choice(["1.10", "no", "[]", "{}", "~", "!x y", "&a b", "*a"])
                ],
                lambda: [line.partition(":")[0] + ": " + json.dumps(dice.choice(NASTY))],
                lambda: ["\t" + line],
                lambda: [" " + line],
                lambda: ["unknown_key: 1", line],
                lambda: [line + " \x00"],
                lambda: [line + "é\u202e\U0001f40d"],
                lambda: [line + " {{ x.__class__ }}"],
                lambda: [line + " {% raw %}"],
                lambda: ["---", line],
                lambda: ["<<: *x", line],
                lambda: [line[: dice.randrange(len(line) + 1)]],
                lambda: [line.replace(dice.choice(line or " "), dice.choice("'\"[]{}:#&*!|>%@`"))],
            ]
        )()
        lines = lines or [""]
    return "\n".join(lines) + "\n"


@given(st.sampled_from(SHIPPED), st.integers(min_value=0))
def test_an_injured_recipe_is_read_or_refused_with_its_place(text: str, seed: int) -> None:
    try:
        recipe.parse(mutated(text, seed), "r.yaml")
    except InputError as error:
        assert PLACE.search(error.message), error.message
        assert error.hint or "; " in error.message or "not valid YAML" in error.message or "empty" in error.message


@given(st.sampled_from(SITES), st.integers(min_value=0))
def test_an_injured_site_is_read_or_refused_with_its_place(text: str, seed: int) -> None:
    try:
        site.parse(mutated(text, seed), "s.yaml")
    except InputError as error:
        assert PLACE.search(error.message), error.message


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_yaml(text, "x.yaml")
    except InputError as error:
        assert "x.yaml:" in error.message


@given(values)
def test_any_document_in_a_recipe_s_place(value: object) -> None:
    try:
        recipe.parse(json.dumps(value), "r.yaml")
    except InputError as error:
        assert "r.yaml:" in error.message


def _lock() -> tuple[dict[str, object], dict[str, str]]:
    body = (
        'lock-version = "1.0"\ncreated-by = "uv"\n\n[[packages]]\nname = "x"\nversion = "1"\n'
        'wheels = [{ url = "https://example.org/x-1-py3-none-any.whl", hashes = { sha256 = "' + "0" * 64 + '" } }]\n'
    )
    request = {
        "recipe": "x", "version": "1", "features": [], "imports": [], "requirements": ["x"], "indexes": [],
        "sources": {}, "settings": [], "target": {},
    }  # fmt: skip
    made = lock.Lock(request=request, site="local", partition="host", created_by={}, bodies={"pylock.toml": body})
    return made.envelope(), {"pylock.toml": body}


def test_a_lock_reads_back_as_itself() -> None:
    envelope, bodies = _lock()

    found = lock.from_envelope(json.loads(json.dumps(envelope)), bodies, "lock.json")

    assert found.envelope() == envelope
    assert found.packages() == {"x": "1"}
    assert [artefact.file for artefact in found.artefacts()] == ["x-1-py3-none-any.whl"]


@given(st.data())
def test_a_damaged_lock_is_refused(data: st.DataObject) -> None:
    envelope, bodies = _lock()
    keys = data.draw(st.lists(st.sampled_from(sorted(envelope)), min_size=1, max_size=3))
    for key in keys:
        envelope[key] = data.draw(values)

    try:
        found = lock.from_envelope(envelope, bodies, "lock.json")
    except InputError as error:
        assert "lock.json" in error.message
    else:
        assert found.bodies == bodies


@given(st.integers(min_value=0))
def test_an_edited_body_is_refused(seed: int) -> None:
    envelope, bodies = _lock()
    dice = random.Random(seed)
    text = bodies["pylock.toml"]
    at = dice.randrange(len(text))
    edited = text[:at] + dice.choice("x[]=\"'{}\n\x00é") + text[at + 1 :]
    if edited == text:
        return

    with pytest.raises(InputError, match="edited after it was locked"):
        lock.from_envelope(envelope, {"pylock.toml": edited}, "lock.json")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('hashes = { sha256 = "' + "0" * 64 + '" }', 'hashes = { md5 = "0" }', "no sha256"),
        ('wheels = [{ url = "https://example.org/x-1-py3-none-any.whl"', "wheels = []\n#", "not a lock file"),
        ('lock-version = "1.0"', 'lock-version = "9.0"', "not a lock file"),
        ('name = "x"', "name = 1", "not a lock file"),
        ("[[packages]]", "[[packages", "not TOML"),
    ],
)
def test_a_body_that_cannot_be_trusted(old: str, new: str, words: str) -> None:
    envelope, bodies = _lock()
    text = bodies["pylock.toml"].replace(old, new)
    assert text != bodies["pylock.toml"]
    forged = lock.Lock(
        request=envelope["request"], site="local", partition="host", created_by={}, bodies={"pylock.toml": text}
    )  # type: ignore[arg-type]

    with pytest.raises(InputError, match=words):
        lock.from_envelope(forged.envelope(), forged.bodies, "lock.json")


def test_lock_of_another_kind_or_schema() -> None:
    envelope, bodies = _lock()

    with pytest.raises(InputError, match="not an envbuilder lock"):
        lock.from_envelope({**envelope, "kind": "other"}, bodies, "lock.json")
    with pytest.raises(InputError, match="schema 2 is not the 1") as caught:
        lock.from_envelope({**envelope, "schema": 2}, bodies, "lock.json")
    assert "upgrade" in caught.value.hint


def test_half_a_lock_on_disk(tmp_path: Path) -> None:
    envelope, bodies = _lock()
    whole = tmp_path / "lock"
    store.write_lock(whole, lock.from_envelope(envelope, bodies, "l"))
    assert store.read_lock(whole).digest

    for damage in ("", "{", "[]", "null", "\x00", '{"kind": "envbuilder-lock"}'):
        (whole / "lock.json").write_text(damage)
        with pytest.raises(InputError):
            store.read_lock(whole)


def test_a_writer_killed_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    envelope, bodies = _lock()
    whole = tmp_path / "lock"
    store.write_lock(whole, lock.from_envelope(envelope, bodies, "l"))
    os.rename(whole, tmp_path / ".lock.old")

    assert store.read_lock(whole).packages() == {"x": "1"}


def test_a_folder_with_other_things_is_not_replaced_by_a_lock(tmp_path: Path) -> None:
    envelope, bodies = _lock()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")

    with pytest.raises(InputError, match="more than a lock"):
        store.write_lock(tmp_path / "out", lock.from_envelope(envelope, bodies, "l"))
    assert (tmp_path / "out" / "thesis.tex").exists()


words = st.sampled_from(
    ["build", "lock", "plan", "diff", "verify", "run", "gate", "envs", "gc", "lint", "schema", "recipes", "sites", "list",
     "show", "rm", "mpi4py", "nothing", "../x", "--json", "--quiet", "--site", "local", "--partition", "-o", "--upgrade",
     "--exclude-newer", "yesterday", "--", "python", "--ranks", "0", "-1", "--junit", "/nowhere/x", "@", "", "a\nb",
     "--script", "--check", "--lock", "--dry-run", "recipe", "site", "$(id)", "\x00", "é"]
)  # fmt: skip


@given(st.lists(words, max_size=6))
def test_any_command_line_ends_in_a_message_and_a_known_code(line: list[str]) -> None:
    """In-process, with nothing to reach: no index, no find-links, an empty store."""
    if line[:1] == ["run"] and "--ungated" in line:
        return
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(os.environ["PYTEST_SCRATCH"])
        for name in [*os.environ]:
            if name.startswith(("PIP_", "UV_", "ENVBUILDER_", "XDG_")):
                patch.delenv(name)
        patch.setenv("ENVBUILDER_HOME", str(folder / "store"))
        patch.setenv("HOME", str(folder))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_NO_INDEX", "1")
        patch.chdir(folder)

        code = cli.main(line)

    assert code in (0, 1, 2, 3, 4)


@pytest.fixture(autouse=True, scope="module")
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["PYTEST_SCRATCH"] = str(tmp_path_factory.mktemp("scratch"))


@pytest.mark.parametrize("nasty", [*NASTY, "two\nlines", "\ttab", "$HOME", "%s", "\\n", "é", "END-"])
def test_nothing_of_a_plan_is_evaluated_by_the_shell(nasty: str, tmp_path: Path) -> None:
    prefix = tmp_path / "tree"
    plan = Plan(
        name="x@1",
        identifier="x-1-abc",
        prefix=prefix,
        inputs={},
        network={"UV_INDEX": nasty},
        steps=(
            Write(title=nasty, path=prefix / "one", text=nasty),
            Write(title="t", path=prefix / "two", text=nasty + "\n"),
            Run(title=nasty, argv=("printf", "%s", nasty), env={"A": nasty}, clean=True),
            Product(
                title=nasty,
                path=tmp_path / "kept",
                actions=(
                    Write(title="t", path=tmp_path / "work" / "f", text="x\n"),
                    Seal(title="t", folder=tmp_path / "work"),
                    Move(title="t", source=tmp_path / "work", target=tmp_path / "kept"),
                    Remove(title="t", path=tmp_path / "work"),
                ),
            ),
            Seal(title="t", folder=tmp_path / "kept", check=True),
        ),
    )
    text = plan_script.render(plan)

    done = subprocess.run(["sh"], input=text, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("canary"))
    assert (prefix / "one").read_text() == nasty
    assert (prefix / "two").read_text() == nasty + "\n"
    assert nasty in done.stdout


@pytest.mark.parametrize("nasty", [*NASTY, "two\nlines", "$HOME"])
def test_nothing_of_a_setting_is_evaluated_at_activation(nasty: str, tmp_path: Path) -> None:
    chosen = Activation(
        prefix=tmp_path / "tree",
        name="x-1-abc",
        settings=(Setting(name="FROM_RECIPE", value=nasty, why=nasty),),
        caches=tmp_path / "caches",
        prepend_path=(),
    )
    (tmp_path / "activate").write_text(script(chosen))

    done = subprocess.run(
        ["bash", "-c", '. ./activate; printf %s "$FROM_RECIPE"'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == nasty
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("part", ["..", "", ".", "a/b", "/etc", "a\0b"])
def test_no_name_leads_out_of_the_store(part: str, tmp_path: Path) -> None:
    with pytest.raises(EnvbuilderError):
        store.Store(tmp_path).path("envs", part)
