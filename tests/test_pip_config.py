"""pip's own configuration, read as pip reads it, and handed to uv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from breaking import make_wheel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envbuilder import host, pip_config
from envbuilder.errors import InputError
from envbuilder.process import patched
from envbuilder.reachable import reachable

URLS = ["https://one.example/simple", "https://two.example/simple", "file:///srv/three"]


def _env(home: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], **variables}


def _pip_says(env: dict[str, str]) -> dict[str, str]:
    """What the real pip of this interpreter makes of the same environment, later places winning."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env=env, capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, str] = {}
    for scope in ("global", "install", ":env:"):
        for line in said.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(f"{scope}."):
                found[key.removeprefix(f"{scope}.")] = value.strip("'").replace("\\n", "\n")
    return found


options = st.fixed_dictionaries(
    {},
    optional={
        "index-url": st.sampled_from(URLS),
        "extra-index-url": st.lists(st.sampled_from(URLS), min_size=1, max_size=3).map("\n    ".join),
        "trusted-host": st.sampled_from(["one.example", "one.example two.example"]),
        "timeout": st.sampled_from(["5", "60"]),
        "no-index": st.sampled_from(["true", "false"]),
    },
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options, options, options)
def test_our_reading_is_pip_s_reading(
    tmp_path: Path, user: dict[str, str], install: dict[str, str], variables: dict[str, str]
) -> None:
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    sections = {"global": user, "install": install}
    file.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in part.items())
            for name, part in sections.items()
        )
    )
    named = {f"PIP_{key.upper().replace('-', '_')}": " ".join(value.split()) for key, value in variables.items()}
    env = _env(tmp_path, **named)

    ours, theirs = pip_config.read(env), _pip_says(env)

    assert ours.index_url == theirs.get("index-url")
    assert ours.extra_index_urls == tuple(theirs.get("extra-index-url", "").split())
    assert ours.trusted_hosts == tuple(theirs.get("trusted-host", "").split())
    assert ours.no_index == (theirs.get("no-index", "false") == "true")
    if "timeout" in theirs:
        assert ours.timeout == float(theirs["timeout"])


def test_a_file_named_by_a_variable_and_none_at_all(tmp_path: Path) -> None:
    file = tmp_path / "mine.conf"
    file.write_text("[global]\nindex-url = https://mine.example/simple\n")

    assert pip_config.read(_env(tmp_path, PIP_CONFIG_FILE=str(file))).index_url == "https://mine.example/simple"
    assert pip_config.read(_env(tmp_path, PIP_CONFIG_FILE=os.devnull)) == pip_config.PipConfig()


def test_a_broken_file_is_the_user_s_to_mend(tmp_path: Path) -> None:
    file = tmp_path / "mine.conf"
    file.write_text("index-url without a section\n")

    with pytest.raises(InputError, match=r"mine\.conf"):
        pip_config.read(_env(tmp_path, PIP_CONFIG_FILE=str(file)))


def test_uv_resolves_from_pip_s_find_links_and_keeps_nothing_of_the_user_s_own(tmp_path: Path) -> None:
    make_wheel(tmp_path / "links", "alpha", "1.0", {"alpha.py": ""})
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[global]\nno-index = true\nfind-links = {tmp_path / 'links'}\n    {tmp_path / 'gone'}\n")
    env = _env(tmp_path, UV_INDEX_URL="https://elsewhere.example", UV_PRERELEASE="allow")
    config = pip_config.read(env)

    done = subprocess.run(
        [host.uv(), "pip", "compile", "-", "--no-header", "--python", sys.executable],
        input="alpha", env=patched(pip_config.uv_environment(config), env), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "alpha==1.0" in done.stdout
    assert any("gone" in note for note in pip_config.notes(config))


def test_certificates_that_are_not_there_are_told_before_uv_runs(tmp_path: Path) -> None:
    config = pip_config.read(_env(tmp_path, PIP_CERT="/nowhere/ca.pem", PIP_CONFIG_FILE=os.devnull))

    with pytest.raises(InputError, match=r"/nowhere/ca\.pem"):
        pip_config.uv_environment(config)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://up.example/simple/x", "file:///mirror/x"),
        ("https://up.example/simple", "file:///mirror"),
        ("https://up.example/simpler/x", "https://up.example/simpler/x"),
        ("https://user:secret@up.example/simple/x", "file:///mirror/x"),
        ("https://up.example/simple/special/x", "https://near.example/x"),
    ],
)
def test_mirrors_replace_the_longest_prefix(url: str, expected: str) -> None:
    mirrors = {
        "https://up.example/simple": "file:///mirror",
        "https://up.example/simple/special": "https://near.example",
    }

    assert pip_config.mirrored(url, mirrors) == expected


def test_credentials_are_never_shown(tmp_path: Path) -> None:
    url = "https://user:secret@one.example/simple"
    config = pip_config.read(_env(tmp_path, PIP_INDEX_URL=url, PIP_CONFIG_FILE=os.devnull))

    assert "secret" not in pip_config.redact(f"$ uv --index {url}")
    assert pip_config.uv_environment(config)["UV_DEFAULT_INDEX"] == url


def test_what_does_not_answer_is_told_in_words(tmp_path: Path) -> None:
    config = pip_config.PipConfig()

    assert reachable(tmp_path.as_uri(), config, {}) is None
    assert "no directory" in str(reachable((tmp_path / "gone").as_uri(), config, {}))
    assert "refuse" in str(reachable("http://127.0.0.1:9/simple", config, {}, timeout=2)).lower()
