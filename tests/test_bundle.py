"""Bundles: the same lock gives the same bytes, nothing of a stranger's tar is believed, and a build needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import samples
from breaking import make_wheel
from hypothesis import given, settings
from hypothesis import strategies as st

from envbuilder import artefacts, bundle, cli, compare, download, offline, prepare, recipe
from envbuilder import lock as lock_format
from envbuilder.console import Console
from envbuilder.download import Network
from envbuilder.errors import HostError, InputError
from envbuilder.lock import Artefact, Lock
from envbuilder.pip_config import PipConfig
from envbuilder.plan import Fetch, Remove, Run, Write
from envbuilder.prepare import Prepared
from envbuilder.store import Store
from envbuilder.target import Python
from envbuilder.wish import Wish

PASSWORD = "hunter-two"
BLOCK = 512


def _quiet(*_: object) -> None:
    pass


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _body(name: str, *files: tuple[str, str]) -> str:
    """A body of one distribution with these files (address, sha256)."""
    listed = [f'{{ url = "{url}", hashes = {{ sha256 = "{mark}" }} }}' for url, mark in files]
    kind = f"wheels = [{', '.join(listed)}]" if files[0][0].endswith(".whl") else f"sdist = {listed[0]}"
    return f'lock-version = "1.0"\ncreated-by = "t"\n\n[[packages]]\nname = "{name}"\nversion = "1"\n{kind}\n'


@dataclass(frozen=True)
class Bench:
    """A folder of made-up artefacts, the lock that names them, and what a build of it would have prepared."""

    root: Path
    lock: Lock
    prepared: Prepared

    def at(self, name: str) -> Prepared:
        """The same on a machine of its own, with an empty store."""
        root = self.root / name
        place = replace(self.prepared.place, root=root, log=root / "log")
        return replace(self.prepared, store=Store(root), place=place)

    def bundle(self, name: str = "b.tar", **changes: Any) -> Path:
        prepared = replace(self.prepared, **changes)
        return offline.bundle(prepared, self.lock, self.root / name, Console(quiet=True), {}).path

    def locked(self, prefix: str) -> Lock:
        """The lock with all files below another address."""
        links = (self.root / "links").as_uri()
        bodies = {name: text.replace(links, prefix) for name, text in self.lock.bodies.items()}
        made = replace(self.lock, bodies=bodies)
        return lock_format.from_envelope(made.envelope(), bodies, "lock.json")


def _bench(root: Path) -> Bench:
    links = root / "links"
    document = {**samples.RECIPE, "indexes": [], "variants": [{"version": "1.0", "packages": ["numpy"]}]}
    asked = samples.request(recipe.parse(json.dumps(document), "r.yaml"))
    wheels = [
        make_wheel(links, name, "1", {f"{name}.py": f"name = {name!r}\n" * 99}) for name in ("mpi4py", "numpy", "pip")
    ]
    sdist = links / "mpi4py-1.tar.gz"
    sdist.write_bytes(b"made up" * 1000)
    named = {path.name.split("-")[0]: (path.as_uri(), _mark(path.read_bytes())) for path in wheels}
    main = _body("mpi4py", named["mpi4py"]) + "\n" + _body("numpy", named["numpy"]).partition("\n\n")[2]
    bodies = {
        lock_format.MAIN: main,
        lock_format.source_body("mpi4py"): _body("mpi4py", (sdist.as_uri(), _mark(sdist.read_bytes()))),
        lock_format.build_body("mpi4py"): _body("pip", named["pip"]),
    }
    made = Lock(request=asked.to_document(), site="s", partition="p", created_by={"uv": "1"}, bodies=bodies)
    place = samples.workplace(root / "store")
    prepared = Prepared(
        wish=Wish(recipe="full"), site=place.site, target=samples.target(), request=asked, origins=(), place=place,
        store=Store(root / "store"),
    )  # fmt: skip
    return Bench(root, lock_format.from_envelope(made.envelope(), bodies, "lock.json"), prepared)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return _bench(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One for properties, which look at many bundles and change none."""
    made = _bench(tmp_path_factory.mktemp("shared"))
    made.bundle()
    return made


def _kept(prepared: Prepared) -> list[str]:
    return sorted(path.name for path in artefacts.folder(prepared.store.root).rglob("*") if path.is_file())


def _take(prepared: Prepared, path: Path) -> Prepared:
    return offline.take(prepared, bundle.read(path), Console(quiet=True))


# What goes in


def test_the_same_lock_gives_the_same_bytes(bench: Bench) -> None:
    first = bench.bundle("first.tar").read_bytes()
    for path in bench.root.rglob("*.whl"):
        os.utime(path, (1, 1))
    second = bench.bundle("second.tar").read_bytes()

    assert first == second
    assert not list(bench.root.glob(".*.tmp"))


def test_it_is_a_plain_tar_with_the_manifest_first_and_each_needed_file_once(bench: Bench) -> None:
    path = bench.bundle()

    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
        manifest = json.load(archive.extractfile(members[0]))  # type: ignore[arg-type]
    names = [member.name for member in members]
    assert names[0] == "bundle.json"
    assert names[1:] == [entry["name"] for entry in manifest["files"]]
    # the wheel of mpi4py is not among them: it is compiled
    assert sorted(name.rpartition("/")[2] for name in names if name.startswith("artefacts")) == [
        "mpi4py-1.tar.gz", "numpy-1-py3-none-any.whl", "pip-1-py3-none-any.whl",
    ]  # fmt: skip
    assert {(member.uid, member.gid, member.uname, member.mtime, member.mode) for member in members} == {
        (0, 0, "", 315532800, 0o644)
    }
    assert (manifest["kind"], manifest["schema"], manifest["lock"]) == ("envbuilder-bundle", 1, bench.lock.digest)
    assert manifest["target"]["soabi"] == samples.target().python.soabi


def test_headers_are_the_same_on_every_python() -> None:
    """A bundle that one Python wrote is read by another; both compare these bytes."""
    headers = b"".join(bundle._header(name, 8**11 - 1) for name in ("bundle.json", "a" * 100, "artefacts/" + "b" * 200))

    assert _mark(headers) == "4eeab719b65597ba98e88ee22a832dff00b57540fd7a60edde437e56a6e77fed"


def test_of_several_wheels_the_best_that_fits_is_taken(bench: Bench) -> None:
    arch = os.uname().machine
    tags = ("cp312-cp312-win_amd64", "cp311-cp311-manylinux_2_17_" + arch, "cp312-cp312-manylinux_2_99_" + arch, "py3-none-any",
            "cp38-abi3-manylinux_2_17_" + arch, "cp312-cp312-manylinux_2_5_" + arch, "cp312-cp312-manylinux_2_17_" + arch)  # fmt: skip
    marks = {tag: _mark(tag.encode()) for tag in tags}

    def best(*offered: str) -> str:
        files = [(f"https://example.org/numpy-1-{tag}.whl", marks[tag]) for tag in offered]
        made = replace(bench.lock, bodies={**bench.lock.bodies, lock_format.MAIN: _body("numpy", *files)})
        (taken,) = artefacts.chosen(made, lock_format.MAIN, samples.target())
        return taken.file.removeprefix("numpy-1-").removesuffix(".whl")

    for offered in (tags, tags[::-1]):
        assert best(*offered) == tags[6]
    assert best(*tags[:6]) == tags[5]
    assert best(*tags[:5]) == tags[4]
    assert best(*tags[:4]) == "py3-none-any"
    with pytest.raises(InputError, match=r"no wheel of numpy 1 fits cpython-312") as caught:
        best(*tags[:3])
    assert caught.value.hint


def test_what_was_fetched_is_not_fetched_again(bench: Bench) -> None:
    bench.bundle("first.tar")
    for path in (bench.root / "links").iterdir():
        path.unlink()

    assert bench.bundle("second.tar").is_file()


def test_a_kept_file_that_was_damaged_is_fetched_again(bench: Bench) -> None:
    good = bench.bundle("first.tar").read_bytes()
    (kept,) = artefacts.folder(bench.prepared.store.root).rglob("numpy*.whl")
    kept.write_bytes(b"damaged")

    assert bench.bundle("second.tar").read_bytes() == good


def test_another_file_than_the_locked_one_is_refused_and_not_kept(bench: Bench) -> None:
    (bench.root / "links" / "numpy-1-py3-none-any.whl").write_bytes(b"another")

    with pytest.raises(HostError, match=r"numpy-1-py3-none-any\.whl is damaged or not the one that was locked"):
        bench.bundle()

    assert "numpy-1-py3-none-any.whl" not in _kept(bench.prepared)
    assert not list(bench.root.glob("*.tar"))
    assert not list(bench.root.glob(".*.tmp"))


def test_what_a_killed_fetch_left_is_no_file_and_is_written_over(bench: Bench) -> None:
    (wanted, *_) = artefacts.needed(bench.lock, bench.prepared.target)
    path = artefacts.kept(artefacts.folder(bench.prepared.store.root), wanted)

    def interrupted(sink: BinaryIO) -> None:
        sink.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artefacts.keep(bench.prepared.store, wanted, interrupted, _quiet)
    assert not list(path.parent.iterdir())
    path.with_name(".part").write_bytes(b"x" * 10**6)  # as a kill leaves it

    with tarfile.open(bench.bundle()) as archive:
        assert len(archive.getnames()) == 8
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_file_that_a_tar_cannot_hold_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_ARTEFACT", 100)

    with pytest.raises(InputError, match="too large for a bundle"):
        bench.bundle()
    assert not list(bench.root.glob("*.tar"))


@pytest.mark.parametrize("name", ["links", "nowhere/b.tar"])
def test_an_output_that_cannot_be_is_told_before_anything_is_fetched(bench: Bench, name: str) -> None:
    with pytest.raises(InputError) as caught:
        bench.bundle(name)

    assert "-o FILE" in caught.value.hint
    assert not _kept(bench.prepared)


# The network


class _Server(http.server.ThreadingHTTPServer):
    """Files of a folder, for those who know the password; the first `broken` answers end in the middle."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler))
        self.folder = folder
        self.broken = 0
        self.asked: list[str] = []
        self.password = ""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        wanted = "Basic " + base64.b64encode(f"me:{self.server.password}".encode()).decode()
        if self.server.password and self.headers.get("Authorization") != wanted:
            self.send_error(401)
            return
        path = self.server.folder / self.path.rpartition("/")[2]
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.server.broken -= 1
        self.wfile.write(content[: len(content) // 2] if self.server.broken >= 0 else content)


@pytest.fixture
def server(bench: Bench) -> Iterator[_Server]:
    with _Server(bench.root / "links") as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _fetched(url: str, network: Network) -> bytes:
    sink = io.BytesIO()
    download.fetch(url, sink, network, _quiet)
    return sink.getvalue()


def test_the_users_credentials_are_sent_and_stay_out_of_the_bundle(
    bench: Bench, server: _Server, tmp_path: Path
) -> None:
    server.password = PASSWORD
    lock = bench.locked(f"http://{server.host}")
    pip = PipConfig(index_url=f"http://me:{PASSWORD}@{server.host}/simple")
    prepared = replace(bench.prepared, place=replace(bench.prepared.place, pip=pip))

    path = offline.bundle(prepared, lock, tmp_path / "b.tar", Console(quiet=True), {}).path

    assert len(server.asked) == 3
    assert PASSWORD.encode() not in path.read_bytes()


def test_credentials_of_netrc_are_used(bench: Bench, server: _Server, tmp_path: Path) -> None:
    server.password = PASSWORD
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {PASSWORD}\n")
    url = f"http://{server.host}/mpi4py-1.tar.gz"
    network = Network(pip=PipConfig(retries=0), env={"NETRC": str(tmp_path / "netrc")})

    assert _fetched(url, network) == b"made up" * 1000
    with pytest.raises(HostError, match="HTTP status 401") as caught:
        _fetched(url, replace(network, env={"NETRC": "/nowhere"}))
    assert "netrc" in caught.value.hint


def test_credentials_go_to_no_other_host(server: _Server) -> None:
    pip = PipConfig(index_url=f"https://me:{PASSWORD}@one.example.org/simple")

    for url in ("https://two.example.org/x", "http://one.example.org/x", "https://one.example.org:444/x"):
        assert download.with_credentials(url, Network(pip=pip, env={"NETRC": "/nowhere"})) == url


def test_a_lock_with_a_password_in_it_is_not_bundled(bench: Bench) -> None:
    lock = bench.locked(f"https://me:{PASSWORD}@example.org")

    with pytest.raises(InputError, match="holds a user or a password") as caught:
        offline.bundle(bench.prepared, lock, bench.root / "b.tar", Console(quiet=True), {})
    assert PASSWORD not in caught.value.message


def test_a_connection_that_ends_in_the_middle_is_tried_again(server: _Server) -> None:
    server.broken = 1
    network = Network(pip=PipConfig(retries=1), env={})

    assert _fetched(f"http://{server.host}/mpi4py-1.tar.gz", network) == b"made up" * 1000
    server.broken = 2
    with pytest.raises(HostError, match=r"mpi4py-1\.tar\.gz cannot be fetched: .*ended after 3500 of 7000 bytes"):
        _fetched(f"http://{server.host}/mpi4py-1.tar.gz", network)


def test_a_file_that_is_gone_is_not_asked_for_twice(server: _Server) -> None:
    with pytest.raises(HostError, match="HTTP status 404") as caught:
        _fetched(f"http://me:{PASSWORD}@{server.host}/gone.whl", Network(pip=PipConfig(retries=3), env={}))

    assert len(server.asked) == 1
    assert PASSWORD not in caught.value.message


def test_uvs_own_switch_for_no_network_counts(server: _Server) -> None:
    with pytest.raises(HostError, match="UV_OFFLINE"):
        _fetched(f"http://{server.host}/mpi4py-1.tar.gz", Network(pip=PipConfig(), env={"UV_OFFLINE": "1"}))
    assert not server.asked


# What comes out


def test_the_plan_is_the_same_environment_from_the_bundles_files_alone(bench: Bench) -> None:
    bare = bench.at("there")
    pip = PipConfig(
        index_url=f"https://me:{PASSWORD}@example.org/simple", cert="/nowhere/ca.pem", find_links=("/nowhere",)
    )
    bare = replace(bare, place=replace(bare.place, pip=pip))
    lock = bench.locked("https://example.org")
    for artefact in artefacts.needed(bench.lock, bench.prepared.target):
        content = (bench.root / "links" / artefact.file).read_bytes()
        artefacts.keep(bench.prepared.store, artefact, lambda sink, bytes_=content: sink.write(bytes_), _quiet)  # type: ignore[misc]
    path = offline.bundle(bench.prepared, lock, bench.root / "b.tar", Console(quiet=True), {"UV_OFFLINE": "1"}).path

    taken = _take(bare, path)

    made = prepare.plan(taken, lock)
    online = prepare.plan(replace(bare, place=replace(bare.place, pip=PipConfig())), lock)
    assert (made.identifier, made.inputs) == (online.identifier, online.inputs)
    assert made.network["UV_OFFLINE"] == made.network["PIP_NO_INDEX"] == "1"
    assert PASSWORD not in str(made)
    texts = {step.path.name: step.text for step in made.actions() if isinstance(step, Write)}
    (fetched,) = (step.url for step in made.actions() if isinstance(step, Fetch))
    store_uri = artefacts.folder(taken.store.root).as_uri()
    for text in (texts["pylock.install.toml"], fetched):
        assert text.count(store_uri) == 1
        assert "example.org" not in text
    synced = [Path(step.argv[-1]) for step in made.actions() if isinstance(step, Run) and "sync" in step.argv]
    assert [path.name for path in synced] == ["pylock.build-mpi4py.toml", "pylock.install.toml"]
    # what names the places of one user does not stay in the tree
    assert synced[-1] in [step.path for step in made.actions() if isinstance(step, Remove)]


def test_unpacked_files_are_whole_and_a_second_time_costs_nothing(bench: Bench) -> None:
    path, there = bench.bundle(), bench.at("there")

    _take(there, path)
    first = {file: file.stat().st_mtime_ns for file in artefacts.folder(there.store.root).rglob("*.whl")}
    _take(there, path)

    assert _kept(there) == ["mpi4py-1.tar.gz", "numpy-1-py3-none-any.whl", "pip-1-py3-none-any.whl"]
    assert {file: file.stat().st_mtime_ns for file in first} == first
    for file in first:
        assert file.read_bytes() == (bench.root / "links" / file.name).read_bytes()


def test_a_file_that_vanished_after_unpacking_is_named_by_the_plan(bench: Bench) -> None:
    taken = _take(bench.at("there"), bench.bundle())
    (gone,) = artefacts.folder(taken.store.root).rglob("numpy*.whl")
    gone.unlink()

    with pytest.raises(InputError, match=r"numpy-1-py3-none-any\.whl is missing"):
        prepare.plan(taken, bench.lock)


def test_a_bundle_that_lacks_a_file_is_refused_by_its_name(bench: Bench) -> None:
    files = {
        artefact: bench.root / "links" / artefact.file
        for artefact in artefacts.needed(bench.lock, bench.prepared.target)
        if artefact.package != "numpy"
    }
    path = bundle.write(bench.root / "b.tar", bench.lock, files, _quiet).path

    with pytest.raises(
        InputError, match=r"lacks what is installed here .*\n    numpy-1-py3-none-any\.whl \(numpy 1\)"
    ) as caught:
        _take(bench.at("there"), path)
    assert "envbuilder bundle full@1.0" in caught.value.hint
    assert not _kept(bench.at("there"))


def test_the_wish_is_filled_from_the_bundle(bench: Bench) -> None:
    given = bundle.read(bench.bundle())

    assert offline.wish(Wish(recipe="", site="s"), given) == Wish(recipe="full@1.0", site="s", partition="p")
    assert offline.wish(Wish(recipe="", site="other"), given).partition == ""
    asked = Wish(recipe="./full.yaml", site="s", partition="q")
    assert offline.wish(asked, given) == asked


def _with_request(bench: Bench, **target: Any) -> Path:
    request = {**bench.lock.request, "target": {**bench.lock.request["target"], **target}}
    lock = replace(bench.lock, request=request)
    files = {one: bench.root / "links" / one.file for one in artefacts.needed(bench.lock, bench.prepared.target)}
    return bundle.write(bench.root / "b.tar", lock, files, _quiet).path


def test_a_bundle_for_another_machine_python_or_request_says_so(bench: Bench) -> None:
    there = bench.at("there")
    with pytest.raises(InputError, match="is for riscv128, and this machine is") as caught:
        offline.wish(there.wish, bundle.read(_with_request(bench, arch="riscv128")))
    assert "envbuilder bundle full@1.0" in caught.value.hint

    with pytest.raises(InputError, match=r"is for Python 3\.9 .*and the Python here is 3\.12\.0") as caught:
        _take(there, _with_request(bench, python="3.9", soabi="cpython-39-x86_64-linux-gnu"))
    assert "--python 3.9" in caught.value.hint

    with pytest.raises(InputError, match=r"the lock is stale:\n    target\.compiles: False -> True") as caught:
        _take(there, _with_request(bench, compiles=False))
    assert "--partition" in caught.value.hint

    other = replace(there, request=replace(there.request, version="2.0"))
    with pytest.raises(InputError, match=r"holds full@1\.0, not full@2\.0") as caught:
        _take(other, bench.bundle())
    assert "leave RECIPE out" in caught.value.hint
    assert not _kept(there)


def test_another_c_library_that_would_take_another_wheel_is_told(bench: Bench) -> None:
    """The environment must be the one that a network gives here; a wheel that merely works is another one."""
    python = Python(path="/p", version="3.12.0", soabi="cpython-312-x86_64-linux-gnu", headers=True)
    path = _with_request(bench)
    wanted = Artefact(package="numpy", version="1", file="numpy-1-other.whl", url="", sha256="0" * 64)

    with pytest.raises(InputError, match="lacks what is installed here"):
        offline._refuse_lacking((wanted,), bundle.read(path), samples.target(python=python))


# Strangers


def _refused(bench: Bench, content: bytes, name: str = "hostile.tar") -> InputError:
    """What is said of a file; nothing of it may be in the store afterwards."""
    path = bench.root / name
    path.write_bytes(content)
    there = bench.at("victim")
    with pytest.raises(InputError) as caught:
        _take(there, path)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert not _kept(there)
    assert "\n" not in caught.value.message or "stale" in caught.value.message
    assert caught.value.message.isprintable() or "stale" in caught.value.message
    return caught.value


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(shared: Bench, at: int, bit: int) -> None:
    content = bytearray((shared.root / "b.tar").read_bytes())
    content[at % len(content)] ^= 1 << bit

    _refused(shared, bytes(content))


@given(cut=st.integers(min_value=0))
def test_any_truncation_is_noticed(shared: Bench, cut: int) -> None:
    content = (shared.root / "b.tar").read_bytes()

    said = _refused(shared, content[: cut % len(content)])

    assert "cut off" in said.message or "no bundle" in said.message or "ends within" in said.message


def test_more_than_the_manifest_says_is_noticed(shared: Bench) -> None:
    content = (shared.root / "b.tar").read_bytes()

    assert "512 bytes more" in _refused(shared, content + bytes(BLOCK)).message


def _entry(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.type, entry.linkname = size, 315532800, kind, link
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def _forged(bench: Bench, change: Callable[[dict[str, Any]], None], tail: Callable[[bytes], bytes] = bytes) -> bytes:
    """The good bundle with another manifest, and with what follows changed."""
    content = (bench.root / "b.tar").read_bytes()
    size = int(content[124:135], 8)
    manifest = json.loads(content[BLOCK : BLOCK + size])
    rest = content[BLOCK + size + -size % BLOCK :]
    change(manifest)
    text = json.dumps(manifest).encode()
    return _entry("bundle.json", len(text)) + _padded(text) + tail(rest)


NAMES = st.one_of(
    st.sampled_from(
        ["/etc/passwd", "../../x", "artefacts/../../x", "lock/../../x", f"artefacts/{'0' * 64}/../x", f"artefacts/{'0' * 64}/x/y",
         "lock/evil.sh", "lock/pylock.toml/x", "", ".", "lock/", "bundle.json", "artefacts/x", f"artefacts/{'0' * 64}/.ssh",
         f"artefacts/{'0' * 64}/a\nb", f"artefacts/{'0' * 64}/{'a' * 300}", "lock/pylock.\x1b[31m.toml"]
    ),
    st.text(max_size=30),
)  # fmt: skip
KINDS = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
    ]
)


@given(name=NAMES, kind=KINDS, size=st.sampled_from([0, 1, 10**6]), link=st.sampled_from(["", "/etc", "../.."]))
def test_a_hostile_member_is_refused_though_the_manifest_names_it(
    shared: Bench, name: str, kind: bytes, size: int, link: str
) -> None:
    content = b"x" * size

    def name_it(manifest: dict[str, Any]) -> None:
        manifest["files"].append({"name": name, "sha256": _mark(content), "size": size})

    def append(rest: bytes) -> bytes:
        return (
            rest[: -2 * BLOCK] + _entry(name.replace("\0", ""), size, kind, link) + _padded(content) + bytes(2 * BLOCK)
        )

    _refused(shared, _forged(shared, name_it, append))


@given(kind=KINDS, link=st.sampled_from(["/etc/passwd", "../../x"]), name=NAMES)
def test_a_member_that_is_not_what_its_manifest_names_is_refused(
    shared: Bench, kind: bytes, link: str, name: str
) -> None:
    def swap(rest: bytes) -> bytes:
        good = rest[:BLOCK]
        bad = _entry(name.replace("\0", "")[:90], int(good[124:135], 8), kind, link)[-BLOCK:]
        return bad + rest[BLOCK:]

    said = _refused(shared, _forged(shared, lambda _: None, swap))

    assert "stands" in said.message


SIZES = st.one_of(st.integers(), st.sampled_from([8**11, 10**30, -1, True, None, "1", 1.0, [], 2**63]))
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=9), st.lists(st.integers(), max_size=2), st.just({}),
)  # fmt: skip


@settings(max_examples=200)
@given(key=st.sampled_from(["name", "sha256", "size"]), value=st.one_of(SIZES, ODD), number=st.integers(0, 6))
def test_a_manifest_with_another_value_is_refused(shared: Bench, key: str, value: object, number: int) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][number][key] = value

    before = json.loads((shared.root / "b.tar").read_bytes()[BLOCK:].split(b"\0")[0])["files"][number][key]
    if value != before:
        _refused(shared, _forged(shared, change))


@settings(max_examples=200)
@given(key=st.sampled_from(["kind", "schema", "recipe", "version", "lock", "target", "files", "site"]), value=ODD)
def test_a_head_with_another_value_is_refused(shared: Bench, key: str, value: object) -> None:
    before = json.loads((shared.root / "b.tar").read_bytes()[BLOCK:].split(b"\0")[0])[key]
    if value != before or isinstance(value, bool):
        _refused(shared, _forged(shared, lambda manifest: manifest.update({key: value})))


@given(st.binary(max_size=2000))
def test_any_bytes_are_no_bundle(shared: Bench, content: bytes) -> None:
    _refused(shared, content)


def test_other_kinds_and_newer_schemas_have_their_remedy(shared: Bench) -> None:
    assert "no bundle of envbuilder" in _refused(shared, _forged(shared, lambda m: m.update(kind="x"))).message

    newer = _refused(shared, _forged(shared, lambda m: m.update(schema=2)))
    assert "schema 2 is not the 1" in newer.message
    assert "--upgrade envbuilder" in newer.hint


def test_swapped_and_repeated_members_are_refused(shared: Bench) -> None:
    def twice(manifest: dict[str, Any]) -> None:
        manifest["files"].append(manifest["files"][-1])

    assert "twice" in _refused(shared, _forged(shared, twice)).message
    assert "out of order" in _refused(shared, _forged(shared, lambda m: m["files"].reverse())).message


def test_a_huge_manifest_is_not_read(shared: Bench) -> None:
    assert "too long" in _refused(shared, _entry("bundle.json", 8**11 - 1) + b"{").message


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing"])
def test_what_is_no_file_is_refused_at_once(bench: Bench, kind: str) -> None:
    path = bench.root / kind
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)

    with pytest.raises(InputError) as caught:
        bundle.read(path)
    assert caught.value.hint


# The command line


def test_the_command_line_refuses_with_code_2(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(bench.root / "store"))
    path = bench.bundle()
    (bench.root / "bad.tar").write_bytes(path.read_bytes()[:-1])

    for words, said in (
        (["--offline", str(bench.root / "bad.tar")], "cut off"),
        (["--offline", str(path), "--lock", "x"], "exclude each other"),
        (["mpi4py", "--offline", str(path)], "holds full@1.0, not mpi4py@"),
        ([], "required: RECIPE"),
    ):
        assert cli.main(["build", *words]) == 2
        streams = capsys.readouterr()
        assert said in streams.err
        assert "hint: " in streams.err
        assert not streams.out


# For real


def _unshared(fresh: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command without any network, for which the folder `fresh` is at `home`."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return subprocess.run(
        ["unshare", "--net", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(fresh), str(home), *words],
        env={**os.environ, "ENVBUILDER_HOME": str(home)}, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


@pytest.mark.real
def test_mpi4py_is_compiled_from_a_bundle_without_any_network(
    mpi4py_env: Path, test_home: Path, tmp_path: Path
) -> None:
    """Same path, same identifier, same tree: a fresh folder lies where the store is, in a mount namespace of its own."""
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    allowed = _unshared(fresh, test_home, "cat", "/proc/net/route")
    if allowed.returncode != 0:
        pytest.skip(f"unshare is refused on this machine: {allowed.stderr.strip()}")
    assert len(allowed.stdout.splitlines()) <= 1, "there must be no route"
    path, envbuilder = tmp_path / "b.tar", (sys.executable, "-m", "envbuilder")
    home = {**os.environ, "ENVBUILDER_HOME": str(test_home)}
    done = subprocess.run(
        [*envbuilder, "bundle", "mpi4py", "-o", str(path), "--json"],
        env=home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == _mark(path.read_bytes())

    # the control: one file less, and it is named at once
    given_ = bundle.read(path)
    place = artefacts.folder(test_home)
    files = {
        one: artefacts.kept(place, one) for one in given_.artefacts().values() if not one.file.startswith("cython-")
    }
    assert len(files) == len(given_.artefacts()) - 1
    bundle.write(tmp_path / "less.tar", given_.lock, files, _quiet)
    refused = _unshared(fresh, test_home, *envbuilder, "build", "--offline", str(tmp_path / "less.tar"))
    assert refused.returncode == 2
    assert "lacks what is installed here" in refused.stderr
    assert "cython-" in refused.stderr
    assert not (fresh / "cache").exists()
    # with no bundle at all it fails too: there really is no network
    alone = _unshared(fresh, test_home, *envbuilder, "build", "mpi4py")
    assert alone.returncode == 3, alone.stderr

    built = _unshared(fresh, test_home, *envbuilder, "build", "--offline", str(path))

    assert built.returncode == 0, built.stderr
    assert "wheel of mpi4py" in built.stderr
    assert Path(built.stdout.strip()) == mpi4py_env
    tree = fresh / "envs" / mpi4py_env.name
    assert {one.what for one in compare.trees(mpi4py_env, tree)} <= {"bin/activate"}
    # which names the path where the tree was built, not the one where it is looked at
    assert (tree / "bin/activate").read_bytes() == (mpi4py_env / "bin/activate").read_bytes()
    code = "from mpi4py import MPI; print(MPI.Get_library_version())"
    ran = _unshared(fresh, test_home, str(mpi4py_env / "bin/python"), "-c", code)
    assert ran.returncode == 0, ran.stderr
    assert "MPICH" in ran.stdout
