"""Environments of conda's packages, for real: a whole one is proven, and each broken one is named."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import conda_channel as made
import pytest
import yaml
from breaking import Copy, copied, flip, make_wheel, uv

pytestmark = pytest.mark.real
ENVBUILDER = (sys.executable, "-m", "envbuilder")
BAND = {
    "schema": 1,
    "name": "band",
    "summary": "Packages of conda's channels and of the index",
    "imports": ["jinja2", "rich"],
    "variants": [{"version": "1.0", "python": ">=3.9"}],
    "conda": {"packages": ["jinja2", "markdown-it-py", "greeting"]},
    "packages": ["rich>=13", "jinja2>=3"],
}
SMALL = {**BAND, "name": "small", "imports": ["jinja2"], "packages": []}


@dataclass(frozen=True)
class World:
    """A store, a site whose mirror has the channel, and recipes."""

    home: Path
    folder: Path

    def site(self, channel: str, partition: dict[str, object] | None = None, **keys: object) -> Path:
        """A site that takes conda's default channel from here."""
        from rattler import Channel

        from envbuilder.conda import DEFAULT_CHANNEL

        host = {"features": ["cpu", "mpi"], "mpi": {"provider": "wheel", "package": "mpich"}, **(partition or {})}
        document = {
            "schema": 1, "name": "here", "summary": "This machine and a mirror", "default_partition": "host",
            "partitions": {"host": host}, "mirrors": {Channel(DEFAULT_CHANNEL).base_url: channel}, **keys,
        }  # fmt: skip
        return self._written("site.yaml", document)

    def recipe(self, document: dict[str, object]) -> Path:
        return self._written(f"{document['name']}/recipe.yaml", document)

    def _written(self, name: str, document: dict[str, object]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document))
        return path

    def command(self, *words: str | Path) -> tuple[str, ...]:
        return (*ENVBUILDER, *map(str, words))

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "ENVBUILDER_HOME": str(self.home), "ENVBUILDER_SITE": str(self.folder / "site.yaml")}

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), env=self.env, capture_output=True, text=True, timeout=300, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def build(self, recipe: Path, *words: str | Path) -> Path:
        done = self.run("build", recipe, "--builder", "conda", *words)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def refused(self, *words: str | Path) -> str:
        """What is said where something is refused, and that nothing of it is visible."""
        done = self.run(*words)
        assert done.returncode not in (0, 70), done.stderr
        assert json.loads(self.run("envs", "list", "--json").stdout) == []
        return done.stderr


@pytest.fixture
def world(tmp_path: Path, conda_channel: Path) -> World:
    """A world of its own for each test."""
    made_here = World(home=tmp_path / "store", folder=tmp_path)
    made_here.site(conda_channel.as_uri())
    return made_here


@pytest.fixture(scope="module")
def band(tmp_path_factory: pytest.TempPathFactory, test_home: Path, conda_channel: Path) -> tuple[World, Path]:
    """The good environment, in the store that is kept, and its world."""
    kept = World(home=test_home, folder=tmp_path_factory.mktemp("band"))
    kept.site(conda_channel.as_uri())
    return kept, kept.build(kept.recipe(BAND))


@pytest.fixture
def copy(band: tuple[World, Path], tmp_path: Path) -> Copy:
    return copied(band[1], tmp_path / "store")


def test_a_whole_environment_is_proven_and_the_gate_opens(band: tuple[World, Path]) -> None:
    world, prefix = band
    done = world.run("verify", prefix.name, "--json")
    (said,) = json.loads(done.stdout)["environments"]

    outcomes = {one["check"]: one for one in said["outcomes"]}
    assert {one["status"] for one in said["outcomes"]} == {"pass"}, done.stdout
    assert {"interpreter", "files-intact", "one-owner", "requirements", "versions"} <= set(outcomes)
    assert str(prefix / "bin") in outcomes["interpreter"]["witnessed"]
    code = "import sys, os, jinja2, rich; print(sys.prefix, os.environ['CONDA_PREFIX'])"
    ran = world.run("run", prefix.name, "--", "python", "-c", code)
    assert ran.stdout.split() == [str(prefix), str(prefix)], ran.stderr


@pytest.mark.slow
def test_ranks_are_proven_with_what_is_compiled_by_its_own_interpreter(
    test_home: Path, band: tuple[World, Path]
) -> None:
    world, _ = band
    prefix = world.build(Path("mpi4py"))
    outcomes = json.loads(world.run("verify", prefix.name, "--json").stdout)["environments"][0]["outcomes"]

    assert {one["status"] for one in outcomes} == {"pass"}, outcomes
    library = next(one["witnessed"] for one in outcomes if one["check"] == "mpi-library")
    assert str(prefix / "lib") in library


def test_nothing_is_brought_twice(band: tuple[World, Path]) -> None:
    _, prefix = band
    lock = prefix / "share" / "envbuilder"
    packages = {one["name"]: one for one in json.loads((lock / "conda.json").read_text())["packages"]}
    body = (lock / "pylock.toml").read_text()
    installers = {
        path.parent.name.split("-")[0]: path.read_text().strip() for path in prefix.rglob("*.dist-info/INSTALLER")
    }

    assert installers["jinja2"] == installers["markdown_it_py"] == installers["mdurl"] == "conda"
    assert installers["rich"] == installers["pygments"] == "uv"
    assert packages["jinja2"]["distributions"].keys() == {"jinja2"}
    assert {name for name in ("jinja2", "markupsafe", "markdown-it-py", "mdurl") if f'name = "{name}"' in body} == set()
    assert 'name = "rich"' in body
    assert all(len(one["sha256"]) == 64 for one in packages.values())
    assert not [one["url"] for one in packages.values() if one["url"].startswith("file:")], "a mirror got into the lock"


def test_what_is_built_already_is_found(band: tuple[World, Path]) -> None:
    world, prefix = band
    done = world.run("build", world.folder / "band" / "recipe.yaml", "--builder", "conda", "--json")

    said = json.loads(done.stdout)
    assert said["reused"]
    assert said["environment"]["prefix"] == str(prefix)
    assert said["environment"]["builder"] == "conda"
    assert said["environment"]["conda"]["greeting"] == "1.0 0"
    assert prefix.name in world.run("envs", "list").stdout


def test_activation_is_of_this_environment_and_undone(band: tuple[World, Path], tmp_path: Path) -> None:
    _, prefix = band
    script = (
        f"export VIRTUAL_ENV=/mine; . {prefix}/bin/activate\n"
        'echo "$CONDA_PREFIX ${VIRTUAL_ENV-none} $(command -v python) $(greeting)"\n'
        'deactivate; echo "${CONDA_PREFIX-none} $VIRTUAL_ENV"\n'
    )
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-euc", script], env=env, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [f"{prefix} none {prefix}/bin/python hello from {prefix}", "none /mine"]
    assert list(tmp_path.iterdir()) == []


def _flipped_library(copy: Copy) -> None:
    flip(copy.one("lib/libssl.so*"))


def _flipped_stdlib(copy: Copy) -> None:
    flip(copy.one("lib/python*/json/__init__.py"))


def _flipped_with_prefix(copy: Copy) -> None:
    flip(copy.prefix / "share" / "greeting" / "place", 1)


def _removed(copy: Copy) -> None:
    (copy.site_packages / "jinja2" / "loaders.py").unlink()


def _record_with_its_file(copy: Copy) -> None:
    import hashlib

    record = copy.one("conda-meta/jinja2-*.json")
    module = copy.site_packages / "jinja2" / "loaders.py"
    old = hashlib.sha256(module.read_bytes()).hexdigest()
    module.write_text(module.read_text() + "\n# edited\n")
    assert old in record.read_text()
    record.write_text(record.read_text().replace(old, hashlib.sha256(module.read_bytes()).hexdigest()))


def _foreign(copy: Copy) -> None:
    (copy.prefix / "lib" / "libssl.so").write_text("")


def _other_version(copy: Copy) -> None:
    record = copy.one("conda-meta/greeting-*.json")
    record.write_text(record.read_text().replace('"version": "1.0"', '"version": "1.1"'))


def _another_package(copy: Copy) -> None:
    document = json.loads(copy.one("conda-meta/greeting-*.json").read_text())
    document |= {"name": "stranger", "files": [], "paths_data": {"paths": [], "paths_version": 1}}
    (copy.prefix / "conda-meta" / "stranger-1.0-0.json").write_text(json.dumps(document))


def _package_gone(copy: Copy) -> None:
    record = copy.one("conda-meta/greeting-*.json")
    for path in json.loads(record.read_text())["files"]:
        (copy.prefix / path).unlink()
    record.unlink()


def _two_owners(copy: Copy) -> None:
    wheel = make_wheel(copy.home / "wheels", "intruder", "1.0", {"jinja2/loaders.py": "# mine\n"})
    uv("pip", "install", "-q", "-p", copy.prefix / "bin" / "python", "--no-index", "--no-deps", wheel)


def _replaced_by_uv(copy: Copy) -> None:
    wheel = make_wheel(copy.home / "wheels", "jinja2", "3.9", {"jinja2/__init__.py": "# mine\n"})
    uv("pip", "install", "-q", "-p", copy.prefix / "bin" / "python", "--no-index", "--no-deps", "--reinstall", wheel)


def _other_interpreter(copy: Copy) -> None:
    (copy.prefix / "bin" / "python").unlink()
    (copy.prefix / "bin" / "python").symlink_to(made.interpreter().path)


def _record_damaged(copy: Copy) -> None:
    copy.one("conda-meta/greeting-*.json").write_text('{"name": "greeting"')


@pytest.mark.parametrize(
    ("damage", "check", "words"),
    [
        (_flipped_library, "files-intact", ("changed since they were installed", "lib/libssl")),
        (_flipped_stdlib, "files-intact", ("json/__init__.py",)),
        (_flipped_with_prefix, "files-intact", ("share/greeting/place",)),
        (_removed, "files-intact", ("missing", "jinja2/loaders.py")),
        (_record_with_its_file, "files-intact", ("RECORD of conda:jinja2",)),
        (_foreign, "no-extra-files", ("lib/libssl.so",)),
        (_other_version, "distributions", ("conda:greeting is 1.1 0, locked is 1.0 0",)),
        (_another_package, "distributions", ("conda:stranger is not in the lock",)),
        (_package_gone, "distributions", ("conda:greeting is missing",)),
        (_two_owners, "one-owner", ("conda:jinja2 and intruder both own", "jinja2/loaders.py")),
        (_replaced_by_uv, "distributions", ("jinja2 is 3.9",)),
        (_other_interpreter, "interpreter", ("lies outside of the environment",)),
        (_record_damaged, "files-intact", ("conda-meta/greeting-1.0-0.json",)),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_is_broken_is_named(
    copy: Copy, damage: Callable[[Copy], None], check: str, words: tuple[str, ...]
) -> None:
    damage(copy)

    copy.verify().assert_fails(check, *words)


def test_an_untouched_copy_passes_what_the_broken_ones_fail(copy: Copy) -> None:
    copy.verify().assert_passes()


def test_a_request_that_cannot_be_met_names_the_conflict(world: World) -> None:
    recipe = world.recipe({**SMALL, "conda": {"packages": ["drum", "harp"]}})
    said = world.refused("lock", recipe, "--builder", "conda")
    for word in ("drum 1.0 would require", "flute 1.*", "harp 1.0 would require", "flute 2.*"):
        assert word in said, said

    recipe = world.recipe({**SMALL, "conda": {"packages": ["nothing-like-it"]}})
    assert "nothing-like-it" in world.refused("lock", recipe, "--builder", "conda")
    recipe = world.recipe({**SMALL, "conda": {"packages": ["jinja2"]}, "packages": ["jinja2<3"]})
    said = world.refused("lock", recipe, "--builder", "conda")
    assert "jinja2<3" in said
    assert f"conda brings jinja2 {_version('jinja2')}" in said, said


def test_what_is_compiled_here_is_not_taken_from_conda_too(world: World) -> None:
    source = {"sdist": "MarkupSafe", "why": "a reason", "build_requires": ["setuptools"], "without_compiler": "fail"}
    recipe = world.recipe({**SMALL, "packages": ["MarkupSafe"], "sources": {"safe": source}})

    said = world.refused("lock", recipe, "--builder", "conda")
    assert "the conda package markupsafe brings MarkupSafe, which the recipe compiles" in said


def _version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


@pytest.mark.parametrize(
    ("package", "lacking", "facts"),
    [
        ("for-gpus", "__cuda >=12.4", {"gpu": {"vendor": "nvidia", "toolkit": "cuda@12.4"}}),
        ("for-gpus", "__cuda >=12.4", {"virtual_packages": {"__cuda": "13.0"}}),
        ("for-zen4", "__archspec * zen4", {"cpu": {"target": "zen4"}}),
        ("for-new-machines", "__glibc >=99", {"virtual_packages": {"__glibc": "99.1"}}),
    ],
)
def test_the_nodes_decide_and_not_this_machine(
    world: World, conda_channel: Path, package: str, lacking: str, facts: dict[str, object]
) -> None:
    recipe = world.recipe({**SMALL, "conda": {"packages": [package]}})
    assert lacking in world.refused("lock", recipe, "--builder", "conda")

    world.site(conda_channel.as_uri(), facts)
    done = world.run("lock", recipe, "--builder", "conda", "--json")
    assert done.returncode == 0, done.stderr
    assert package in (Path(json.loads(done.stdout)["lock"]) / "conda.json").read_text()


def test_nodes_behind_a_batch_system_have_to_be_described(world: World, conda_channel: Path) -> None:
    recipe = world.recipe(SMALL)
    slurm = {"scheduler": {"kind": "slurm"}}
    world.site(conda_channel.as_uri(), **slurm)
    assert "which C library the nodes have" in world.refused("lock", recipe, "--builder", "conda")

    world.site(conda_channel.as_uri(), {"virtual_packages": {"__glibc": "2.31"}}, **slurm)
    done = world.run("lock", recipe, "--builder", "conda", "--json")
    assert done.returncode == 0, done.stderr
    envelope = json.loads((Path(json.loads(done.stdout)["lock"]) / "lock.json").read_text())
    assert envelope["request"]["conda"]["virtual_packages"]["__glibc"] == "2.31"


@pytest.fixture
def liar(tmp_path: Path, conda_channel: Path) -> Path:
    """A channel that has another package than its index says."""
    channel = tmp_path / "liar"
    shutil.copytree(conda_channel, channel)
    good = made.greeting()
    made.write(replace(good, files={**good.files, "share/greeting/more": b"a surprise\n"}), channel)
    return channel


@pytest.fixture
def served(liar: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=liar))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("over", ["file", "http"])
def test_a_channel_that_lies_is_refused(world: World, liar: Path, served: str, conda_channel: Path, over: str) -> None:
    recipe = world.recipe(SMALL)
    world.site(liar.as_uri() if over == "file" else served)

    said = world.refused("build", recipe, "--builder", "conda")
    assert "not the one that was locked, and was refused" in said
    assert "greeting-1.0-0.conda" in said

    world.site(conda_channel.as_uri())
    prefix = world.build(recipe)
    assert not (prefix / "share" / "greeting" / "more").exists(), "what was refused came back from a cache"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_one_that_is_ended_leaves_nothing_half_visible(world: World, sign: signal.Signals) -> None:
    recipe = world.recipe(SMALL)
    started = subprocess.Popen(
        world.command("build", recipe, "--builder", "conda"),
        env=world.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # noqa: PLW1509 - no threads here
    )
    # the moment at which conda's packages are being put in; where it is missed, what follows holds all the same
    while started.poll() is None and not list(world.home.glob("envs/*/lib")):
        time.sleep(0.005)
    started.send_signal(sign)
    started.communicate(timeout=60)

    if started.returncode != 0:
        assert started.returncode == (130 if sign is signal.SIGINT else -sign)
        assert json.loads(world.run("envs", "list", "--json").stdout) == []
    prefix = world.build(recipe)
    assert world.run("verify", prefix.name).returncode == 0


def test_a_bundle_builds_the_same_where_there_is_no_channel(world: World, tmp_path: Path) -> None:
    recipe = world.recipe(SMALL)
    bundle = tmp_path / "small.bundle.tar"
    done = world.run("bundle", recipe, "--builder", "conda", "-o", bundle)
    assert done.returncode == 0, done.stderr
    first = world.build(recipe)

    elsewhere = replace(world, home=tmp_path / "other-store")
    elsewhere.site((tmp_path / "no-such-channel").as_uri())
    second = elsewhere.build(recipe, "--offline", bundle)
    locks = [path / "share" / "envbuilder" / "lock.json" for path in (first, second)]
    assert locks[0].read_bytes() == locks[1].read_bytes()
    assert subprocess.run([second / "bin" / "greeting"], capture_output=True, text=True, check=True).stdout.endswith(
        f"{second}\n"
    )


def test_a_damaged_tree_is_made_anew_and_not_from_what_was_damaged_with_it(world: World) -> None:
    recipe = world.recipe(SMALL)
    prefix = world.build(recipe)
    flip(prefix / "lib" / f"python{made.interpreter().minor}" / "json" / "decoder.py")
    assert world.run("verify", prefix.name).returncode == 1

    again = world.build(recipe, "--rebuild")
    assert world.run("verify", again.name).returncode == 0


def test_a_lock_is_kept_and_one_package_of_it_upgraded(world: World, conda_channel: Path, tmp_path: Path) -> None:
    channel = tmp_path / "channel"
    shutil.copytree(conda_channel, channel)
    for version in ("1.0", "2.0"):
        (channel / "noarch" / f"flute-{version}-0.conda").unlink()
    made.write(made.text("flute", "1.0"), channel)
    made.index(channel)
    world.site(channel.as_uri())
    recipe = world.recipe({**SMALL, "conda": {"packages": ["flute", "jinja2"]}})

    def flute(*words: str) -> str:
        done = world.run("lock", recipe, "--builder", "conda", "--json", *words)
        assert done.returncode == 0, done.stderr
        packages = json.loads((Path(json.loads(done.stdout)["lock"]) / "conda.json").read_text())["packages"]
        return str(next(one["version"] for one in packages if one["name"] == "flute"))

    assert flute() == "1.0"
    made.write(made.text("flute", "2.0"), channel)
    made.index(channel)
    assert flute() == "1.0"
    assert flute("--upgrade", "flute") == "2.0"
