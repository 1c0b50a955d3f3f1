"""Faults of a build, for real: killed, crowded, fed damaged files, out of disk, cut off from the network."""

from __future__ import annotations

import functools
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from breaking import flip, make_wheel, uv

from envbuilder import compare, store
from envbuilder.store import Store

pytestmark = pytest.mark.real

RECIPE = """\
schema: 1
name: tiny
summary: Two small packages, one of them built from source
variants:
  - version: "1"
    python: ">=3.8"
packages: ["alpha{alpha}", "beta"]
sources:
  beta:
    sdist: beta
    why: to have something that is built
    build_requires: ["pip>=23", "setuptools>=68"]
    without_compiler: build
"""

ENVBUILDER = (sys.executable, "-m", "envbuilder")


class Bench:
    """A store, a recipe of two tiny packages, and a folder of their files that pip's find-links points to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "store"
        self.links = root / "links"
        self.recipes = root / "recipes"
        for version in ("1.0", "2.0"):
            make_wheel(self.links, "alpha", version, {"alpha.py": f"version = {version!r}\n" * 2000})
        _make_sdist(self.links, "beta", "1.0")
        self.wants("<2")

    def wants(self, alpha: str) -> None:
        """Let the recipe ask for this alpha."""
        path = self.recipes / "tiny" / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECIPE.format(alpha=alpha))

    def env(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENVBUILDER_")}
        links = " ".join(filter(None, [str(self.links), os.environ.get("PIP_FIND_LINKS", "")]))
        return {
            **kept,
            "ENVBUILDER_HOME": str(self.home),
            "ENVBUILDER_RECIPE_PATH": str(self.recipes),
            "PIP_FIND_LINKS": links,
            **variables,
        }

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*ENVBUILDER, *words], env=self.env(**variables), capture_output=True, text=True, timeout=300, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def build(self, **variables: str) -> Path:
        done = self.run("build", "tiny", **variables)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*ENVBUILDER, *words],
            env=self.env(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a test run in the background of a shell hands an ignored SIGINT down
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # noqa: PLW1509 - no threads here
        )


def _make_sdist(folder: Path, name: str, version: str) -> Path:
    import io
    import tarfile

    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n[tool.setuptools]\npy-modules = ["{name}"]\n',
        f"{name}.py": f"version = {version!r}\n",
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    }
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _alpha(prefix: Path) -> str:
    code = "import alpha, beta; print(alpha.version, beta.version)"
    return subprocess.run(
        [prefix / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()[0]


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments_the_old_or_the_new_environment_is_there(bench: Bench, seed: int) -> None:
    """Eleven kills in each of five stores, spread over a whole build that changes the environment."""
    dice = random.Random(seed)
    old = bench.build()
    bench.wants(">=2")
    started = time.monotonic()
    new = bench.build()
    whole = time.monotonic() - started
    good = {old.name: _frozen(old, bench.root / "old"), new.name: _frozen(new, bench.root / "new")}

    for round_ in range(11):
        _back_to(bench, old.name, forget_wheel=round_ % 2 == 0, forget_work=round_ % 4 != 1)
        process = bench.start("build", "tiny")
        time.sleep(dice.uniform(0, whole * 1.1))
        _kill_with_children(process)

        listed = json.loads(bench.run("envs", "list", "--json").stdout)
        current = [entry for entry in listed if entry["current"]]
        assert {entry["identifier"] for entry in listed} <= set(good)
        assert len(current) == 1
        for entry in listed:
            assert not compare.trees(Path(entry["prefix"]), good[entry["identifier"]]), entry
        assert bench.build().name == new.name
        assert not compare.trees(new, good[new.name])
    assert _alpha(new) == "2.0"


def _frozen(prefix: Path, to: Path) -> Path:
    shutil.copytree(prefix, to, symlinks=True)
    activate = to / "bin" / "activate"
    activate.write_text(activate.read_text().replace(str(prefix), str(to)))
    return to


def _back_to(bench: Bench, identifier: str, *, forget_wheel: bool, forget_work: bool) -> None:
    """The state before the change: only the old environment, and sometimes no kept wheel, and no memo of the work."""
    place = Store(bench.home)
    for environment in store.environments(place):
        if environment.identifier != identifier:
            store.withdraw(place, environment.identifier)
    store.point(place, store.find(place, identifier), ("tiny", "tiny@1"))
    if forget_work:
        shutil.rmtree(bench.home / "memos", ignore_errors=True)
    if forget_wheel:
        shutil.rmtree(bench.home / "wheels", ignore_errors=True)


def _kill_with_children(process: subprocess.Popen[str]) -> None:
    """SIGKILL to envbuilder and to whatever it started; each program it starts has a process group of its own."""
    children = _descendants(process.pid)
    for pid in [process.pid, *children]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def _descendants(pid: int) -> list[int]:
    said = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = dict(tuple(map(int, line.split())) for line in said.splitlines())
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_that_was_started(bench: Bench, number: int) -> None:
    process = bench.start("build", "tiny")
    deadline = time.monotonic() + 60
    while not (children := _descendants(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not [child for child in children if Path(f"/proc/{child}/cmdline").exists() and _alive(child)]
    assert bench.build()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_eight_builds_at_once_do_the_work_once(bench: Bench) -> None:
    processes = [bench.start("build", "tiny") for _ in range(8)]
    results = [(process.communicate(timeout=300), process.returncode) for process in processes]

    assert {code for _, code in results} == {0}, [said for (_, said), _ in results]
    assert len({out for (out, _), _ in results}) == 1
    logs = "".join(path.read_text() for path in (bench.home / "logs").glob("*.log"))
    assert len(re.findall(r"^\$ .*uv venv .*/envs/", logs, re.MULTILINE)) == 1
    assert len(re.findall(r"^\$ .*(?: -m pip wheel |/tools/compile\.py )", logs, re.MULTILINE)) == 1
    assert len(re.findall(r"^\$ .* pip compile .*/pylock\.toml --format", logs, re.MULTILINE)) == 1


@pytest.mark.parametrize("victim", ["alpha-1.0-py3-none-any.whl", "beta-1.0.tar.gz"])
def test_a_flipped_byte_in_a_downloaded_artefact_is_refused(bench: Bench, victim: str) -> None:
    assert bench.run("lock", "tiny").returncode == 0
    artefact = bench.links / victim
    good = artefact.read_bytes()
    shutil.rmtree(bench.home / "cache", ignore_errors=True)
    flip(artefact)

    done = bench.run("build", "tiny")

    assert done.returncode == 3
    assert "was refused" in done.stderr, done.stderr
    assert victim.partition("-")[0] in done.stderr
    assert json.loads(bench.run("envs", "list", "--json").stdout) == []
    artefact.write_bytes(good)
    assert _alpha(bench.build()) == "1.0"


def test_a_flipped_byte_in_any_artefact_of_mpi4py_is_refused(mpi4py_env: Path, test_home: Path, tmp_path: Path) -> None:
    """Every artefact of the real lock, build requirements included: uv and pip are given a damaged file each time."""
    found = store.read_lock(next((test_home / "locks").glob("mpi4py@*")) / "local.host")
    python = mpi4py_env / "bin" / "python"
    refused = set()
    for body in found.bodies:
        for artefact in _one_each(found.artefacts(body)):
            good = _fetched(artefact.url, tmp_path / "good")
            bad = tmp_path / "bad" / artefact.file
            bad.parent.mkdir(exist_ok=True)
            shutil.copy(good, bad)
            flip(bad)
            wanted = tmp_path / "wanted.txt"
            wanted.write_text(f"{artefact.package} @ {bad.as_uri()} --hash=sha256:{artefact.sha256}\n")
            target = tmp_path / "target"
            done = uv(
                "pip", "install", "--no-deps", "--require-hashes", "--no-build", "--no-cache", "--python", python,
                "--target", target, "-r", wanted, check=False,
            )  # fmt: skip
            if artefact.is_wheel:
                assert done.returncode != 0, artefact.file
                assert "hash mismatch" in done.stderr.lower() or "failed to extract" in done.stderr.lower(), done.stderr
                assert not [path for path in target.glob("*") if not path.name.startswith(".")]
            refused.add(artefact.package)
    assert refused >= {"mpich", "mpi4py", "cython", "setuptools", "pip"}


def _one_each(artefacts: tuple[object, ...]) -> list[object]:
    first: dict[str, object] = {}
    for artefact in artefacts:
        first.setdefault(artefact.package, artefact)  # type: ignore[attr-defined]
    return list(first.values())


def _fetched(url: str, folder: Path) -> Path:
    import ssl
    import urllib.request

    from envbuilder import pip_config

    folder.mkdir(exist_ok=True)
    path = folder / url.rpartition("/")[2]
    if not path.exists():
        context = ssl.create_default_context(cafile=pip_config.read(os.environ).cert)
        with urllib.request.urlopen(url, context=context) as source:
            path.write_bytes(source.read())
    return path


def test_a_damaged_kept_wheel_is_refused_and_made_anew(bench: Bench) -> None:
    bench.build()
    (kept,) = (bench.home / "wheels").glob("*/beta-*.whl")
    flip(kept)
    bench.wants(">=2")

    done = bench.run("build", "tiny")

    assert done.returncode == 3
    assert "kept wheel was changed" in done.stderr
    assert _alpha(bench.build()) == "2.0"


def test_a_second_environment_does_not_compile_again(bench: Bench) -> None:
    bench.build()
    bench.wants(">=2")
    bench.build()

    logs = "".join(path.read_text() for path in (bench.home / "logs").glob("*.log"))
    assert len(re.findall(r"^\$ .*(?: -m pip wheel |/tools/compile\.py )", logs, re.MULTILINE)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_clear_message_and_resumable(bench: Bench) -> None:
    bench.home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", bench.home], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine allows no mounts")
    try:
        done = bench.run("build", "tiny")
        assert done.returncode == 3
        assert "no space is left" in done.stderr.lower(), done.stderr
        assert "hint:" in done.stderr
        assert json.loads(bench.run("envs", "list", "--json").stdout) == []
        subprocess.run(["mount", "-o", "remount,size=300m", bench.home], check=True)
        assert _alpha(bench.build()) == "1.0"
    finally:
        subprocess.run(["umount", "-l", bench.home], check=False)


class _Index(http.server.ThreadingHTTPServer):
    """A package index over a folder; `fail_after` bytes of a file it drops the connection, while that is set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fail_after: int | None = None
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Index

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        self.server.asked.append(self.path)
        if parts[0] == "files":
            return self._file(self.server.folder / parts[1])
        names = sorted(path.name for path in self.server.folder.iterdir())
        wanted = [name for name in names if len(parts) > 1 and name.lower().startswith(parts[1].replace("-", "_"))]
        if not wanted:
            self.send_error(404)
            return None
        page = "".join(
            f'<a href="/files/{name}#sha256={_sha256(self.server.folder / name)}">{name}</a>\n' for name in wanted
        )
        return self._answer(page.encode(), "text/html")

    def _file(self, path: Path) -> None:
        content = path.read_bytes()
        limit = self.server.fail_after
        if limit is not None and len(content) > limit and self.command == "GET":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:limit])
            self.close_connection = True
            return
        self._answer(content, "application/octet-stream")

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@functools.cache
def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(bench: Bench, tmp_path: Path) -> Iterator[_Index]:
    """An index of the tiny packages and of what the build needs; nothing else is reachable."""
    folder = tmp_path / "served"
    shutil.copytree(bench.links, folder)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "pip", "setuptools"], check=True
    )
    server = _Index(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    shutil.rmtree(bench.links)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _only(index: _Index) -> dict[str, str]:
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index.url, "PIP_FIND_LINKS": "", "UV_HTTP_RETRIES": "0"}


def test_a_lost_network_is_one_clear_message_and_resumable(bench: Bench, index: _Index) -> None:
    assert bench.run("lock", "tiny", **_only(index)).returncode == 0
    index.fail_after = 200_000

    done = bench.run("build", "tiny", **_only(index))

    assert done.returncode == 3
    assert "the network gave out" in done.stderr, done.stderr
    assert "hint:" in done.stderr
    index.fail_after = None
    assert _alpha(bench.build(**_only(index))) == "1.0"


def test_an_index_that_is_gone_is_one_clear_message(bench: Bench, index: _Index) -> None:
    gone = {**_only(index), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}

    done = bench.run("build", "tiny", **gone)

    assert done.returncode == 3
    assert "does not answer" in done.stderr, done.stderr


def _with_index(bench: Bench, url: str) -> None:
    path = bench.recipes / "tiny" / "recipe.yaml"
    path.write_text(path.read_text() + f"indexes: [{{url: '{url}', why: a test}}]\n")


def test_a_recipe_s_index_out_of_reach_is_no_error_where_find_links_has_the_files(bench: Bench) -> None:
    _with_index(bench, "http://127.0.0.1:9/simple")

    assert _alpha(bench.build()) == "1.0"


def test_a_recipe_s_index_is_used_where_find_links_has_nothing(bench: Bench, index: _Index) -> None:
    _with_index(bench, index.url)

    assert _alpha(bench.build()) == "1.0"
    assert any("alpha" in path for path in index.asked)


def test_neither_place_has_it_and_both_are_named(bench: Bench) -> None:
    _with_index(bench, "http://127.0.0.1:9/simple")
    for path in bench.links.iterdir():
        path.unlink()

    done = bench.run("build", "tiny", PIP_NO_INDEX="1")

    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr
    assert "find-links" in done.stderr


def test_gc_removes_remains_and_spares_what_a_build_uses(bench: Bench) -> None:
    kept = bench.build()
    broken = bench.home / "envs" / "tiny-1-0123456789ab"
    (broken / "bin").mkdir(parents=True)
    (bench.home / "work" / "abc").mkdir(parents=True)
    used = bench.home / "envs" / "tiny-1-ffffffffffff"
    used.mkdir()

    with store.guarded(Store(bench.home), f"env-{used.name}", lambda _: None):
        assert "0123456789ab" in bench.run("gc", "--dry-run").stdout
        assert broken.exists()
        assert bench.run("gc").returncode == 0
        assert used.exists()

    assert not broken.exists()
    assert not (bench.home / "work" / "abc").exists()
    assert _alpha(kept) == "1.0"


def test_rebuild_mends_a_file_that_was_damaged_in_the_cache_too(bench: Bench) -> None:
    prefix = bench.build()
    module = next(prefix.glob("lib/python*/site-packages/alpha.py"))
    assert module.stat().st_nlink > 1, "files are hard links into the cache"
    flip(module, 3)

    done = bench.run("build", "tiny", "--rebuild")

    assert done.returncode == 0, done.stderr
    again = Path(done.stdout.strip())
    assert again != prefix
    assert not prefix.exists()
    assert next(again.glob("lib/python*/site-packages/alpha.py")).read_text().startswith("version = ")
    listed = json.loads(bench.run("envs", "list", "--json").stdout)
    assert [entry["identifier"] for entry in listed] == [again.name]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_printed_script_builds_the_same_tree(bench: Bench, tmp_path: Path, umask: int) -> None:
    prefix = bench.build()
    here = tmp_path / "by hand $(touch canary)"
    here.mkdir()
    printed = subprocess.run(
        [*ENVBUILDER, "plan", "tiny", "--script"], env=bench.env(), cwd=here, capture_output=True, text=True, check=True
    ).stdout
    env = bench.env(HOME=str(here), ENVBUILDER_HOME="/nowhere")

    done = subprocess.run(
        ["bash"], input=printed, cwd=here, env=env, text=True, capture_output=True, umask=umask, check=False
    )

    assert done.returncode == 0, done.stderr
    assert bench.run("diff", "tiny", str(here / prefix.name)).returncode == 0
    assert not (here / "canary").exists()


def test_lock_check_upgrade_and_plain_uv_pip_sync(bench: Bench, tmp_path: Path) -> None:
    bench.wants("")
    bench.links.joinpath("alpha-2.0-py3-none-any.whl").rename(tmp_path / "later.whl")
    out = tmp_path / "lock"
    assert bench.run("lock", "tiny", "-o", str(out)).returncode == 0
    assert store.read_lock(out).packages() == {"alpha": "1.0", "beta": "1.0"}
    assert all(
        artefact.sha256 for body in store.read_lock(out).bodies for artefact in store.read_lock(out).artefacts(body)
    )

    (tmp_path / "later.whl").rename(bench.links / "alpha-2.0-py3-none-any.whl")
    bench.run("lock", "tiny", "-o", str(out))
    assert store.read_lock(out).packages()["alpha"] == "1.0", "what is locked stays"
    shutil.copytree(out, tmp_path / "before")
    bench.run("lock", "tiny", "-o", str(out), "--upgrade", "alpha")
    assert store.read_lock(out).packages() == {"alpha": "2.0", "beta": "1.0"}
    told = bench.run("diff", str(tmp_path / "before"), str(out))
    assert told.returncode == 1
    assert "alpha: 1.0" in told.stdout
    assert "beta" not in told.stdout

    assert bench.run("lock", "tiny", "-o", str(out), "--check").returncode == 0
    assert _alpha(Path(bench.run("build", "tiny", "--lock", str(out)).stdout.strip())) == "2.0"
    bench.wants("<2")
    stale = bench.run("lock", "tiny", "-o", str(out), "--check")
    assert stale.returncode == 1
    assert "requirements" in stale.stdout
    refused = bench.run("build", "tiny", "--lock", str(out))
    assert refused.returncode == 2
    assert "stale" in refused.stderr

    plain = tmp_path / "plain"
    uv("venv", "-q", plain)
    uv("pip", "sync", "-q", "--python", plain / "bin/python", out / "pylock.toml", env=bench.env())
    assert _alpha(plain) == "2.0"


def test_exclude_newer_takes_what_was_there_then(bench: Bench, tmp_path: Path) -> None:
    """Against the machine's own index: build tools published before 2025 only."""
    bench.recipes.joinpath("tiny", "recipe.yaml").write_text(
        RECIPE.partition("packages:")[0] + 'packages: ["packaging"]\n'
    )
    # nothing local: files without a date of publication are never old enough
    (tmp_path / "nothing").mkdir()
    env = {"PIP_EXTRA_INDEX_URL": (tmp_path / "nothing").as_uri(), "PIP_FIND_LINKS": str(tmp_path / "nothing")}
    done = bench.run("lock", "tiny", "-o", str(tmp_path / "then"), "--exclude-newer", "2024-12-31", **env)
    assert done.returncode == 0, done.stderr

    assert store.read_lock(tmp_path / "then").packages()["packaging"] == "24.2"
    wrong = bench.run("lock", "tiny", "--exclude-newer", "yesterday")
    assert wrong.returncode == 2
    assert "not a date" in wrong.stderr


def test_a_no_op_build_is_known_without_resolving_and_an_edit_is_noticed(bench: Bench) -> None:
    first = bench.build()
    logs = len(list((bench.home / "logs").glob("*")))
    assert bench.build() == first
    assert len(list((bench.home / "logs").glob("*"))) == logs

    bench.wants(">=2")
    assert bench.build() != first
    bench.wants("<2")
    assert bench.build() == first
    assert store.current(Store(bench.home), "tiny") == first.name
