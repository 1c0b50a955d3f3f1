"""Sources by http, from a server on this machine: redirections, mirrors, what breaks in the middle, repositories, bundles."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from compiling import SITE, TOLD, Bench, answer_repository, answers, commit, git, git_cache

from envbuilder import artefacts, checkout, told
from envbuilder.checkout import Cache
from envbuilder.errors import EnvbuilderError, HostError
from envbuilder.lock import Artefact
from envbuilder.pip_config import PipConfig
from envbuilder.source import Git


class Server(http.server.ThreadingHTTPServer):
    """Files of a folder at /files, its repositories at /git, as git serves them, and at /dumb, as files.

    What is below /moved is redirected to where it is without. The first `broken` answers end in the middle.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.broken = 0
        self.asked: list[str] = []

    def at(self, *parts: str) -> str:
        return "/".join((f"http://127.0.0.1:{self.server_port}", *parts))


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(self.path)
        if path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.server.at(self.path.removeprefix("/moved/")))
            self.end_headers()
        elif path.startswith("/git/"):
            self._git(b"")
        else:
            file = self.server.folder / path.removeprefix("/files/").removeprefix("/dumb/")
            self._answer(200, [], file.read_bytes()) if file.is_file() else self.send_error(404)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self._git(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _git(self, content: bytes) -> None:
        address = urlsplit(self.path)
        env = {
            **os.environ, "GIT_PROJECT_ROOT": str(self.server.folder), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": address.path.removeprefix("/git"), "QUERY_STRING": address.query, "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(content)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "GIT_CONFIG_GLOBAL": os.devnull,
        }  # fmt: skip
        said = subprocess.run(["git", "http-backend"], input=content, env=env, capture_output=True, check=True).stdout
        head, _, body = said.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().splitlines()]
        status = next((int(value.split()[0]) for name, _, value in lines if name == "Status"), 200)
        self._answer(status, [(name, value) for name, _, value in lines if name != "Status"], body)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.server.broken -= 1
        self.wfile.write(body[: len(body) // 2] if self.server.broken >= 0 else body)


def _serving(folder: Path) -> Iterator[Server]:
    with Server(folder) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    yield from _serving(tmp_path / "served")


# Archives


def _archive(server: Server, content: bytes = b"made up" * 1000) -> Artefact:
    (server.folder / "a.tar.gz").write_bytes(content)
    mark = hashlib.sha256(content).hexdigest()
    return Artefact(package="a", version="1", file="a.tar.gz", url=server.at("files/a.tar.gz"), sha256=mark)


def _cache(root: Path, retries: int = 0) -> Cache:
    made = git_cache(root)
    return replace(made, network=replace(made.network, pip=PipConfig(retries=retries)))


def _kept(root: Path) -> list[Path]:
    return [path for path in artefacts.folder(root).rglob("*") if path.is_file()]


def test_an_archive_comes_by_http_through_a_redirection(server: Server, tmp_path: Path) -> None:
    wanted = replace(_archive(server), url=server.at("moved/moved/files/a.tar.gz"))

    path = told.obtain(wanted, (), _cache(tmp_path))

    assert path.read_bytes() == b"made up" * 1000
    assert server.asked == ["/moved/moved/files/a.tar.gz", "/moved/files/a.tar.gz", "/files/a.tar.gz"]


def test_an_archive_that_ends_in_the_middle_is_asked_for_again_and_never_kept(server: Server, tmp_path: Path) -> None:
    wanted = _archive(server)
    server.broken = 2
    with pytest.raises(HostError, match=r"a\.tar\.gz cannot be fetched: .*ended after 3500 of 7000 bytes"):
        told.obtain(wanted, (), _cache(tmp_path, retries=1))
    assert _kept(tmp_path) == []

    server.broken = 1
    assert told.obtain(wanted, (), _cache(tmp_path, retries=1)).read_bytes() == b"made up" * 1000


def test_an_archive_with_another_sha256_is_refused_and_never_kept(server: Server, tmp_path: Path) -> None:
    wanted = _archive(server)
    (server.folder / "a.tar.gz").write_bytes(b"another")

    with pytest.raises(HostError, match=f"its sha256 is {hashlib.sha256(b'another').hexdigest()}, not {wanted.sha256}"):
        told.obtain(wanted, (), _cache(tmp_path))
    assert _kept(tmp_path) == []


def test_an_archive_that_is_not_there_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    wanted = replace(_archive(server), url=server.at("files/gone.tar.gz"))

    with pytest.raises(HostError, match=r"gone\.tar\.gz cannot be fetched: HTTP status 404"):
        told.obtain(wanted, (), _cache(tmp_path, retries=3))
    assert len(server.asked) == 1


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("http"))


def _site(path: Path, server: Server) -> Path:
    """The tests' site, with a mirror on the server."""
    path.write_text(SITE.read_text() + f"mirrors: {{'https://example.org/': '{server.at('moved/files')}'}}\n")
    return path


@pytest.mark.real
def test_a_build_takes_an_archive_from_the_mirror_of_the_site(bench: Bench, server: Server, tmp_path: Path) -> None:
    shutil.copy(bench.archive, server.folder)
    bench.site = _site(tmp_path / "mirrored.yaml", server)
    bench.wants(archive={"url": "https://example.org/answer-1.0.tar.gz", "sha256": bench.sha256}, **TOLD)
    lock = tmp_path / "lock"
    assert bench.run("lock", "tiny", "-o", str(lock)).returncode == 0
    assert 'url = "https://example.org/answer-1.0.tar.gz"' in (lock / "pylock.source-answer.toml").read_text()

    # each way to fail, and then the same command again
    (server.folder / "answer-1.0.tar.gz").rename(server.folder / "aside")
    assert "HTTP status 404" in bench.fails("--lock", str(lock))
    (server.folder / "answer-1.0.tar.gz").write_bytes(b"another")
    assert "is damaged or not the one that was locked, and was refused" in bench.fails("--lock", str(lock))
    assert _kept(bench.root / "store") == []
    (server.folder / "aside").rename(server.folder / "answer-1.0.tar.gz")
    server.broken = 1
    prefix = bench.build("--lock", str(lock))

    assert answers(prefix)[0] == 41
    assert server.asked[-2:] == ["/moved/files/answer-1.0.tar.gz", "/files/answer-1.0.tar.gz"]
    assert str(server.server_port) not in json.dumps([path.read_text() for path in lock.iterdir()])


# Repositories


@pytest.fixture
def repository(server: Server) -> Path:
    """One with a submodule, whose commits are not the last ones of their branches."""
    whole = answer_repository(server.folder)
    for one in (whole, server.folder / "deep"):
        commit(one, {"later": ""})
        git(one, "update-server-info")
        git(one, "config", "http.receivepack", "false")
    return whole


def _tar(url: str, root: Path) -> tuple[bytes, list[str]]:
    """The tar of a tag, and its commits."""
    parts = checkout.settled(Git(url=url, tag="v1.0", submodules=True), git_cache(root))
    sink = io.BytesIO()
    checkout.write(parts, git_cache(root), sink)
    return sink.getvalue(), [part.commit for part in parts]


@pytest.mark.parametrize("way", ["git", "dumb", "moved/git"])
def test_a_commit_comes_by_http(way: str, server: Server, repository: Path, tmp_path: Path) -> None:
    below = "answer/.git" if way == "dumb" else "answer"
    if way == "dumb":  # plain files have no idea of what `../deep` means below `.git`
        os.symlink(server.folder / "deep" / ".git", repository / "deep")

    made, commits = _tar(server.at(way, below), tmp_path / "there")

    assert (made, commits) == _tar(repository.as_uri(), tmp_path / "here")
    assert len(commits) == 2
    assert all(one.startswith(f"/{way}/") or "moved" in way for one in server.asked)
    kinds = {one.rpartition("/")[2].partition("?")[0] for one in server.asked}
    assert ("git-upload-pack" in kinds) == (way != "dumb")


def test_a_repository_that_is_not_there_is_named_with_gits_own_words(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"(?s)git/gone cannot be fetched by git:.*not found") as caught:
        _tar(server.at("git/gone"), tmp_path)

    assert "127.0.0.1" in caught.value.hint


def test_a_repository_that_breaks_in_the_middle_leaves_nothing_that_counts(
    server: Server, repository: Path, tmp_path: Path
) -> None:
    url = server.at("git/answer")
    commits = checkout.settled(Git(url=url, tag="v1.0"), git_cache(tmp_path))
    server.broken = 10**6
    with pytest.raises(EnvbuilderError, match=r"answer cannot be fetched by git|has no commit"):
        checkout.write(commits, git_cache(tmp_path), io.BytesIO())

    server.broken = 0
    checkout.write(commits, git_cache(tmp_path), io.BytesIO())


@pytest.mark.real
def test_a_bundle_of_a_commit_with_a_submodule_needs_no_server(
    bench: Bench, server: Server, repository: Path, tmp_path: Path
) -> None:
    bench.site = SITE
    bench.wants(git={"url": server.at("git/answer"), "tag": "v1.0", "submodules": True}, **TOLD)
    lock, bundle = tmp_path / "lock", tmp_path / "b.tar"
    assert bench.run("lock", "tiny", "-o", str(lock)).returncode == 0
    # in a store that has neither the commits nor the tar of them
    elsewhere = {"ENVBUILDER_HOME": str(tmp_path / "bundling")}
    done = bench.run("bundle", "tiny", "--lock", str(lock), "-o", str(bundle), **elsewhere)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(repository)
    shutil.rmtree(server.folder / "deep")
    before = len(server.asked)

    there = bench.build("--offline", str(bundle), ENVBUILDER_HOME=str(tmp_path / "store"))

    assert answers(there)[0] == 41
    assert len(server.asked) == before
    assert not (tmp_path / "store" / "cache" / "git").exists()
    # the control: without the bundle it is asked for, and is not there any more
    done = bench.run("build", "tiny", "--lock", str(lock), ENVBUILDER_HOME=str(tmp_path / "control"))
    assert done.returncode == 3
    assert "cannot be fetched by git" in done.stderr
    assert len(server.asked) > before
