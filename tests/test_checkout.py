"""Commits as sources: the same tar each time, nothing of a repository runs, and a tag that moves is noticed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from compiling import REPLACED, TOLD, Bench, answer_repository, answers, commit, git, git_cache

from envbuilder import checkout
from envbuilder.errors import EnvbuilderError, InputError
from envbuilder.source import Git


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("commits"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return answer_repository(tmp_path / "git")


def test_a_commit_gives_the_same_tar_anywhere_and_runs_nothing(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Git(url=repository.as_uri(), tag="v1.0", submodules=True)
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[filter "evil"]\n  smudge = touch {tmp_path}/canary; cat\n[core]\n  hooksPath = {tmp_path}/hooks\n'
    )
    (tmp_path / "hooks").mkdir()
    for hook in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (tmp_path / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
        (tmp_path / "hooks" / hook).chmod(0o755)
    tars = []
    for number in range(2):
        parts = checkout.settled(asked, git_cache(tmp_path / f"store{number}"))
        sink = io.BytesIO()
        checkout.write(parts, git_cache(tmp_path / f"store{number}"), sink)
        tars.append(sink.getvalue())
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))

    assert tars[0] == tars[1]
    assert not (tmp_path / "canary").exists()
    assert [part.path for part in parts] == ["", "third/deep"]
    with tarfile.open(fileobj=io.BytesIO(tars[0])) as whole:
        names = whole.getnames()
        assert whole.extractfile("id.txt").read() == b"$Format:%D$\n"  # type: ignore[union-attr]
    assert {"third/deep/deep.h", "kept.txt", "answer.cpp", ".gitmodules"} <= set(names)
    without = checkout.settled(Git(url=repository.as_uri(), tag="v1.0"), git_cache(tmp_path / "store0"))
    assert without == parts[:1]


def test_mirrors_hold_for_repositories_and_their_submodules(repository: Path, tmp_path: Path) -> None:
    git(repository, "submodule", "--quiet", "set-url", "third/deep", "git@example.org:deep")
    commit(repository, {})
    git(repository, "tag", "v1.1")
    cache = git_cache(tmp_path / "store", {"https://example.org/": repository.parent.as_uri()})

    parts = checkout.settled(Git(url="https://example.org/answer", tag="v1.1", submodules=True), cache)

    assert [part.url for part in parts] == ["https://example.org/answer", "https://example.org/deep"]
    checkout.write(parts, cache, io.BytesIO())


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("../deep", "https://example.org/a/deep"),
        ("../../x/deep.git", "https://example.org/x/deep.git"),
        ("git@host.org:x/deep.git", "https://host.org/x/deep.git"),
        ("ssh://git@host.org/x", "https://host.org/x"),
        ("https://host.org/x", "https://host.org/x"),
    ],
)
def test_addresses_of_submodules(url: str, wanted: str) -> None:
    assert checkout._address("https://example.org/a/whole.git", url) == wanted


@pytest.mark.parametrize("url", ["ext::sh -c touch% canary", "--upload-pack=touch canary", "/etc", "file:///x;y"])
def test_a_strange_submodule_is_refused(repository: Path, tmp_path: Path, url: str) -> None:
    modules = f'[submodule "d"]\n\tpath = third/deep\n\turl = "{url}"\n'
    strange = commit(repository, {".gitmodules": modules})

    with pytest.raises(EnvbuilderError) as caught:
        checkout.settled(Git(url=repository.as_uri(), commit=strange, submodules=True), git_cache(tmp_path / "store"))

    assert caught.value.hint
    assert not list(tmp_path.rglob("canary*"))


def test_a_tag_that_does_not_mean_the_commit_is_refused(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "v1.0^{}")
    url = repository.as_uri()
    assert checkout.settled(Git(url=url, tag="v1.0", commit=first), git_cache(tmp_path / "s"))[0].commit == first
    second = commit(repository, {"new": ""})
    git(repository, "tag", "-f", "v1.0")

    with pytest.raises(
        InputError, match=f"v1.0 is not the commit that the recipe says: it means {second}, not {first}"
    ):
        checkout.settled(Git(url=url, tag="v1.0", commit=first), git_cache(tmp_path / "s"))
    with pytest.raises(InputError, match="has no tag v9"):
        checkout.settled(Git(url=url, tag="v9"), git_cache(tmp_path / "s"))
    gone = checkout.settled(Git(url=url, commit="0" * 40), git_cache(tmp_path / "s"))
    with pytest.raises(EnvbuilderError, match=r"no commit|cannot be fetched"):
        checkout.write(gone, git_cache(tmp_path / "s"), io.BytesIO())


@pytest.mark.real
def test_a_commit_with_a_submodule_is_built_and_stays_when_the_tag_moves(
    bench: Bench, repository: Path, tmp_path: Path
) -> None:
    source = {"git": {"url": repository.as_uri(), "tag": "v1.0", "submodules": True}, **TOLD}
    bench.wants(**source, patches=[{**REPLACED, "by": "ANSWER 77"}])
    lock = tmp_path / "lock"
    assert bench.run("lock", "tiny", "-o", str(lock)).returncode == 0
    body = (lock / "pylock.source-answer.toml").read_text()
    first = git(repository, "rev-parse", "v1.0^{}")
    assert f'commit-id = "{first}"' in body
    assert git(repository.parent / "deep", "rev-parse", "HEAD") in body

    commit(repository, {"answer/__init__.py": "raise SystemError\n"})
    git(repository, "tag", "-f", "v1.0")
    # in a store that has never seen it, from the lock alone: the old commit
    there = tmp_path / "store"
    assert answers(bench.build("--lock", str(lock), ENVBUILDER_HOME=str(there)))[0] == 77

    done = bench.run("lock", "tiny", "-o", str(lock))
    assert done.returncode == 2
    assert f"the tag v1.0 was moved since it was locked: from {first}" in done.stderr
    assert (lock / "pylock.source-answer.toml").read_text() == body
    assert bench.run("lock", "tiny", "-o", str(lock), "--upgrade", "answer").returncode == 0
    assert (lock / "pylock.source-answer.toml").read_text() != body
