"""Locks: they read back as themselves, and whatever else is in the folder is refused with one message."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from envbuilder import compare, lock, recipe, store
from envbuilder.errors import EnvbuilderError, InputError
from envbuilder.lock import Lock

ASKED = samples.request(recipe.parse(json.dumps(samples.RECIPE), "r.yaml"))


def _sealed(bodies: dict[str, str], **changes: Any) -> Lock:
    """Load a lock whose envelope fits these bodies: what an editor who also mends the hashes can bring about."""
    request = {**ASKED.to_document(), **changes}
    made = Lock(request=request, site="s", partition="p", created_by={}, bodies=bodies)
    return lock.from_envelope(json.loads(json.dumps(made.envelope())), bodies, "lock.json")


def _bodies() -> dict[str, str]:
    return dict(samples.locked(ASKED).bodies)


def test_a_lock_with_sources_reads_back_with_the_same_digest(tmp_path: Path) -> None:
    first = samples.locked(ASKED)

    store.write_lock(tmp_path / "lock", first)
    found = store.read_lock(tmp_path / "lock")

    assert found.digest == first.digest
    assert found.envelope() == first.envelope()
    assert found.sources == ("mpi4py",)
    assert [artefact.is_wheel for artefact in found.artefacts("pylock.source-mpi4py.toml")] == [False]


def test_the_digest_is_of_request_and_bodies_alone() -> None:
    made = samples.locked(ASKED)
    values = {"request": made.request, "bodies": made.bodies}

    assert Lock(site="x", partition="y", created_by={"uv": "9"}, **values).digest == made.digest
    for body in made.bodies:
        other = {**made.bodies, body: made.bodies[body] + "\n# another\n"}
        assert Lock(site="s", partition="p", created_by={}, request=made.request, bodies=other).digest != made.digest
    for key in made.request:
        request = {**made.request, key: "other"}
        assert Lock(site="s", partition="p", created_by={}, request=request, bodies=made.bodies).digest != made.digest


@given(st.integers(min_value=0))
def test_a_body_with_injuries_and_mended_hashes_is_read_or_refused(seed: int) -> None:
    dice = random.Random(seed)
    bodies = _bodies()
    name = dice.choice(sorted(bodies))
    text = bodies[name]
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(text))
        text = dice.choice(
            [
                lambda: text[:at] + dice.choice("x[]=\"'{}\n,.#") + text[at + 1 :],
                lambda: text[:at] + text[at + dice.randrange(40) :],
                lambda: text[:at],
                lambda: text.replace('"', dice.choice(["", "'", '"""']), 1),
                lambda: text.replace(
                    '"1"', dice.choice(["1", "[]", "{}", "2020-01-01", "1e9", "true", '"!!"', "nan"]), 1
                ),
                lambda: text.replace("https://example.org", dice.choice(["http://[x", "file://", "\\u0000", "a b"]), 1),
                lambda: (
                    text + dice.choice(["x = " + "9" * 5000, "x = " + "[" * 5000, "[[packages]]\n", "[packages]\n"])
                ),
                lambda: text + text[text.find("[[packages]]") :],
                lambda: text.replace("name", "marker", 1),
                lambda: text.replace("wheels", dice.choice(["vcs", "archive", "directory", "index", "sdist"]), 1),
            ]
        )()
        text = text or "\n"
    bodies[name] = text

    try:
        found = _sealed(bodies)
    except InputError as error:
        assert "lock.json" in error.message or "pylock" in error.message
        assert error.hint
    else:
        for body in found.bodies:
            assert all(len(artefact.sha256) == 64 for artefact in found.artefacts(body))
            assert all(found.packages(body).values())


@pytest.mark.parametrize("name", sorted(samples.locked(ASKED).bodies))
def test_no_body_may_be_missing_even_with_a_mended_envelope(name: str) -> None:
    bodies = _bodies()
    del bodies[name]

    with pytest.raises(InputError, match=f"{name} is missing") as caught:
        _sealed(bodies)

    assert "envbuilder lock" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "old", "new", "words"),
    [
        ("pylock.toml", 'sha256 = "', 'sha256 = "x', "has no sha256"),
        ("pylock.toml", 'sha256 = "', 'sha256 = "x\\n-r /etc/passwd', "has no sha256"),
        ("pylock.toml", "https://example.org/", "https://example.org/\\n--index-url x/", "is not an address"),
        ("pylock.source-mpi4py.toml", "https://example.org/", "https://example.org/ -r x/", "is not an address"),
        ("pylock.toml", 'version = "1"\n', "", "has no version"),
        ("pylock.source-mpi4py.toml", "sdist = {", "#", "not a lock file|names no file"),
        ("pylock.toml", 'lock-version = "1.0"', "", "not a lock file"),
        ("pylock.toml", 'lock-version = "1.0"', 'lock-version = "2.0"', "not a lock file"),
    ],
)
def test_what_could_not_be_installed_is_refused_when_it_is_read(body: str, old: str, new: str, words: str) -> None:
    bodies = _bodies()
    assert old in bodies[body]
    bodies[body] = bodies[body].replace(old, new)

    with pytest.raises(InputError, match=words):
        _sealed(bodies)


def test_the_source_of_a_compiled_distribution_is_one_sdist() -> None:
    two = samples.body("mpi4py", sdist=True) + samples.body("pip", sdist=True).partition("\n\n")[2]
    for wrong in (samples.body("mpi4py"), two):
        with pytest.raises(InputError, match="does not hold the one source"):
            _sealed({**_bodies(), "pylock.source-mpi4py.toml": wrong})
    with pytest.raises(InputError, match="does not hold the one source"):
        _sealed({**_bodies(), "pylock.toml": samples.body("other")})


@given(st.data())
def test_an_envelope_with_anything_in_it_is_read_or_refused(data: st.DataObject) -> None:
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    made = samples.locked(ASKED)
    envelope = json.loads(json.dumps(made.envelope()))
    spot = data.draw(st.sampled_from(list(samples.spots(envelope))))
    envelope = samples.changed(envelope, spot, data.draw(anything))

    try:
        found = lock.from_envelope(envelope, made.bodies, "lock.json")
    except InputError as error:
        assert error.message.startswith("lock.json: ")
        assert error.hint
    else:
        assert found.bodies == made.bodies
        assert (found.digest == made.digest) == (found.request == made.request)
        assert bool(lock.stale(made, found.request)) == (found.request != made.request)
        assert bool(compare.locks(made, found)) == (found.request != made.request)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_half_written_files(share: float, tmp_path: Path) -> None:
    whole = tmp_path / "lock"
    store.write_lock(whole, samples.locked(ASKED))
    for path in sorted(whole.iterdir()):
        kept = path.read_bytes()
        path.write_bytes(kept[: int(len(kept) * share)])
        with pytest.raises(InputError):
            store.read_lock(whole)
        path.unlink()
        with pytest.raises(InputError):
            store.read_lock(whole)
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError):
            store.read_lock(whole)
        path.write_bytes(kept)
    assert store.read_lock(whole).digest == samples.locked(ASKED).digest


def test_the_schema_of_the_future_names_the_upgrade() -> None:
    made = samples.locked(ASKED)
    for schema in (2, 10**30, "1", None, 0, [], "two"):
        with pytest.raises(InputError) as caught:
            lock.from_envelope({**made.envelope(), "schema": schema}, made.bodies, "lock.json")
        assert ("pip install --upgrade envbuilder" in caught.value.hint) == (isinstance(schema, int) and schema > 1)


def test_stale_names_what_changed() -> None:
    made = samples.locked(ASKED)
    today = {**ASKED.to_document(), "requirements": ["mpi4py>=5"], "version": "2.0"}

    assert lock.stale(made, ASKED.to_document()) == ()
    assert lock.stale(made, today) == (
        "requirements: [mpi4py>=4, numpy>=1.26, mpich] -> [mpi4py>=5]",
        "version: 1.0 -> 2.0",
    )


def test_a_folder_that_is_empty_takes_a_lock(tmp_path: Path) -> None:
    from envbuilder import prepare

    assert prepare.existing_lock(tmp_path) is None
    store.write_lock(tmp_path, samples.locked(ASKED))
    assert prepare.existing_lock(tmp_path)


@pytest.mark.parametrize("damage", ["edit", "envelope", "hash", "body"])
def test_diff_of_a_damaged_lock_is_a_message(damage: str, tmp_path: Path) -> None:
    """Through the whole command line, in a process of its own."""
    for name in ("a", "b"):
        store.write_lock(tmp_path / name, samples.locked(ASKED))
    main = tmp_path / "b" / "pylock.toml"
    if damage == "edit":
        main.write_text(main.read_text() + "\n")
    elif damage == "body":
        main.unlink()
    else:
        envelope = tmp_path / "b" / "lock.json"
        text = envelope.read_text()
        envelope.write_text(text[:50] if damage == "envelope" else text.replace("sha256:", "sha256:0"))

    done = subprocess.run(
        [sys.executable, "-m", "envbuilder", "diff", "a", "b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.startswith("error: ")
    assert "lock.json" in done.stderr
    assert "hint: " in done.stderr


@given(st.binary(max_size=200))
def test_any_bytes_as_a_body(content: bytes) -> None:
    try:
        lock.parse_body(content.decode("utf-8", "replace"), "pylock.toml")
    except EnvbuilderError as error:
        assert error.message.startswith("pylock.toml: ")
