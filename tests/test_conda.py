"""Conda's part of requests, locks and plans, and what the witness makes of conda-meta; nothing is solved or installed."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples

from envbuilder import conda, conda_meta, fetched, inventory, prepare, recipe, request, witness
from envbuilder import lock as lock_format
from envbuilder.builders import conda as builder
from envbuilder.catalog import FoundRecipe
from envbuilder.errors import HostError, InputError
from envbuilder.evidence import Expectation
from envbuilder.lock import Lock
from envbuilder.partition import Cpu, Gpu, Partition
from envbuilder.plan import Product, Remove, Run, Write
from envbuilder.wish import Wish

PYTHON = {
    "name": "python", "version": "3.12.4", "build": "h0_0_cpython", "build_number": 0, "subdir": "linux-64",
    "depends": ["openssl"], "sha256": "1" * 64, "channel": "https://conda.example.org/forge/",
    "url": "https://conda.example.org/forge/linux-64/python-3.12.4-h0_0_cpython.conda",
}  # fmt: skip
JINJA = {
    "name": "jinja2", "version": "3.1.6", "build": "py_0", "build_number": 0, "subdir": "noarch", "noarch": "python",
    "depends": ["python"], "sha256": "2" * 64, "channel": "https://conda.example.org/forge/",
    "url": "https://conda.example.org/forge/noarch/jinja2-3.1.6-py_0.conda", "distributions": {"jinja2": "3.1.6"},
}  # fmt: skip


def _asked() -> request.Request:
    return samples.request(recipe.parse(json.dumps(samples.RECIPE), "r"))


def _locked(*packages: dict[str, Any]) -> Lock:
    """The lock that the samples make, with conda packages below it."""
    base = samples.locked(_asked())
    text = conda.body("linux-64", packages or (JINJA, PYTHON))
    asked = {"channels": ["forge"], "packages": [], "platform": "linux-64", "virtual_packages": {"__glibc": "2.31"}}
    found = replace(base, request={**base.request, "conda": asked}, bodies={**base.bodies, conda.BODY: text})
    return lock_format.from_envelope(found.envelope(), found.bodies, "l")


def test_virtual_packages_are_the_partitions() -> None:
    partition = Partition(
        cpu=Cpu(target="zen3"),
        gpu=Gpu(vendor="nvidia", toolkit="cuda@12.4"),
        virtual_packages={"__glibc": "2.28", "__linux": "4.18"},
    )

    assert conda.virtual_packages(partition, "x86_64", "2.99") == {
        "__unix": "0", "__linux": "4.18", "__archspec": "zen3", "__glibc": "2.28", "__cuda": "12.4",
    }  # fmt: skip
    assert conda.virtual_packages(Partition(), "x86_64", "2.36")["__archspec"] == "x86_64"
    assert "__cuda" not in conda.virtual_packages(
        Partition(gpu=Gpu(vendor="amd", toolkit="rocm@6.3.4")), "x86_64", "2.36"
    )
    assert conda.generic({"__archspec": "zen3", "__glibc": "2.28"}) == [
        ["__archspec", "1", "zen3"],
        ["__glibc", "2.28", "0"],
    ]
    with pytest.raises(InputError, match="which C library the nodes have"):
        conda.virtual_packages(Partition(), "x86_64", "")


def test_another_architecture_is_refused() -> None:
    with pytest.raises(HostError, match="no packages for riscv64"):
        conda.platform("riscv64")


def test_a_request_asks_conda_for_python_and_what_the_recipe_wants() -> None:
    written = recipe.parse(json.dumps(samples.RECIPE), "r")
    asked = samples.request(written)
    full = request.with_conda(asked, written, written.variants[0], samples.target(), {"__glibc": "2.31"})

    assert asked.conda is None
    assert "conda" not in asked.to_document(), "locks that were made before there was a conda stay fresh"
    assert full.conda is not None
    assert full.conda.packages == (f"python {samples.target().python.minor}.*", "numpy >=1.26,<2")
    assert full.to_document()["conda"]["virtual_packages"] == {"__glibc": "2.31"}
    bare = replace(written, conda=recipe.CondaPart())
    again = request.with_conda(asked, bare, written.variants[0], samples.target(), {})
    assert again.conda is not None
    assert again.conda.channels == (conda.DEFAULT_CHANNEL,)


@pytest.mark.parametrize("spec", ["numpy[build=x]", "numpy; x", "-numpy", "numpy @ file:///x", "../numpy", "num py"])
def test_what_is_no_package_of_conda_is_refused_in_a_recipe(spec: str) -> None:
    with pytest.raises(InputError, match="conda"):
        recipe.parse(json.dumps({**samples.RECIPE, "conda": {"packages": [spec]}}), "r")


def test_a_layer_adds_to_what_its_base_takes_from_conda() -> None:
    base = recipe.parse(json.dumps(samples.RECIPE), "r")
    layer = replace(base, conda=recipe.CondaPart(channels=("mine", "conda-forge"), packages=("gcc",)))

    assert recipe.layered(layer, base).conda == recipe.CondaPart(
        channels=("conda-forge", "mine"), packages=("numpy >=1.26,<2", "gcc")
    )


def test_a_lock_knows_conda_packages_and_the_distributions_in_them() -> None:
    locked = _locked()

    assert locked.packages()["jinja2"] == "3.1.6"
    assert "python" not in locked.packages()
    assert locked.packages(conda.BODY) == {"jinja2": "3.1.6 py_0", "python": "3.12.4 h0_0_cpython"}
    assert [one.file for one in locked.artefacts(conda.BODY)] == [
        "jinja2-3.1.6-py_0.conda", "python-3.12.4-h0_0_cpython.conda",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ({**PYTHON, "sha256": ""}, "has no sha256"),
        ({**PYTHON, "sha256": "x" * 64}, "has no sha256"),
        ({**PYTHON, "url": "https://conda.example.org/a b"}, "is not an address"),
        ({**PYTHON, "name": "../python"}, "is no name of a conda package"),
        ({key: value for key, value in PYTHON.items() if key != "version"}, "not a conda package"),
        ({**JINJA, "distributions": {"mpi4py": "9.9"}}, "mpi4py is in conda.json and in pylock.toml"),
    ],
)
def test_a_lock_that_says_too_little_or_too_much_is_refused(package: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        _locked(PYTHON, package)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "conda-packages"}', '{"kind": "x", "packages": []}'])
def test_a_body_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"l: not "):
        conda.records(text, "l")


def test_a_lock_without_the_conda_part_that_it_asked_for_is_refused() -> None:
    locked = _locked()
    bodies = {name: text for name, text in locked.bodies.items() if name != conda.BODY}
    envelope = locked.envelope()
    del envelope["bodies"][conda.BODY]

    with pytest.raises(InputError, match=r"conda\.json is missing"):
        lock_format.from_envelope(envelope, bodies, "l")


def test_a_plan_puts_conda_first_and_compiles_with_what_it_brought(tmp_path: Path) -> None:
    place = samples.workplace(tmp_path)
    planned = builder.plan(_locked(), samples.target(), replace(place, site=replace(place.site, mirrors={
        "https://conda.example.org/forge": "file:///mirror",
    })))  # fmt: skip
    names = [type(step).__name__ for step in planned.steps]
    installs = next(step for step in planned.steps if isinstance(step, Run))
    (asked,) = (
        step.text for step in planned.steps if isinstance(step, Write) and step.path.name == "conda.install.json"
    )
    commands = [step.argv for step in planned.actions() if isinstance(step, Run)]

    assert names.index("Run") < names.index("Product")
    assert installs.argv[1] == "-I"
    assert {one["url"] for one in json.loads(asked)["packages"]} == {
        "file:///mirror/linux-64/python-3.12.4-h0_0_cpython.conda", "file:///mirror/noarch/jinja2-3.1.6-py_0.conda",
    }  # fmt: skip
    assert planned.python is not None
    assert planned.python.version == "3.12.4"
    assert planned.python.path == str(planned.prefix / "bin" / "python")
    makes_venvs = [argv for argv in commands if "venv" in argv]
    assert makes_venvs
    assert all(planned.python.path in argv for argv in makes_venvs)
    assert not [argv for argv in commands if "sync" in argv and str(planned.prefix) in " ".join(argv)]
    assert any(isinstance(step, Remove) and step.path.name == "conda.install.json" for step in planned.steps)


def test_the_place_of_an_environment_does_not_decide_what_is_compiled(tmp_path: Path) -> None:
    one, other = (
        builder.plan(_locked(), samples.target(), samples.workplace(tmp_path), prefix=tmp_path / name) for name in "ab"
    )
    wheels = [[step.path for step in plan.steps if isinstance(step, Product)] for plan in (one, other)]

    assert wheels[0] == wheels[1] != []
    upgraded = builder.plan(_locked({**PYTHON, "sha256": "3" * 64}), samples.target(), samples.workplace(tmp_path))
    assert [step.path for step in upgraded.steps if isinstance(step, Product)] != wheels[0]


def test_without_py_rattler_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "find_spec", lambda _: None)

    with pytest.raises(HostError, match="py-rattler") as caught:
        builder.plan(_locked(), samples.target(), samples.workplace(tmp_path))
    assert "envbuilder[conda]" in caught.value.hint


@pytest.mark.parametrize(("wanted", "minor"), [("3.12", "3.12"), ("", prepare.host.own_python().minor)])
def test_the_python_is_a_version(wanted: str, minor: str) -> None:
    python = prepare._conda_python(_choice(wanted))

    assert python.minor == minor
    assert python.soabi.startswith(f"cpython-{minor.replace('.', '')}-")


@pytest.mark.parametrize("wanted", ["/usr/bin/python3", "3", "3.12.1", "2.7", "3.9"])
def test_a_python_that_conda_cannot_bring_is_refused(wanted: str) -> None:
    with pytest.raises(InputError, match=r"conda brings the interpreter|no Python fits"):
        prepare._conda_python(_choice(wanted))


def test_a_layer_on_a_module_is_refused() -> None:
    with pytest.raises(InputError, match="stands on a module"):
        prepare._conda_python(_choice("3.12", base=samples.RECIPE["base"]))


def _choice(wanted: str, **more: object) -> prepare.Choice:
    plain = {key: value for key, value in samples.RECIPE.items() if key != "base"}
    written = recipe.parse(json.dumps({**plain, **more}), "r")
    site = samples.workplace(Path("/nowhere")).site
    return prepare.Choice(
        wish=Wish(recipe="full", builder="conda", python=wanted),
        found=FoundRecipe(recipe=written, version="", origins=()),
        site=site,
        site_origin=prepare.Origin(name="", path=Path("/nowhere")),
        partition=next(iter(site.partitions)),
        rows=written.variants,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that conda and an index filled, by hand."""
    files = {
        "bin/tool": "#!/opt/here\n",
        "lib/libone.so.1": "one",
        "lib/python3.12/site-packages/both.py": "x = 1\n",
        "lib/python3.12/site-packages/both-1.0.dist-info/RECORD": "both.py,sha256=stale,3\n",
        "lib/python3.12/site-packages/other.py": "y = 1\n",
        "lib/python3.12/site-packages/__pycache__/both.cpython-312.pyc": "as old as its source",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "lib" / "libone.so").symlink_to("libone.so.1")
    mine = [name for name in files if "other" not in name]
    paths = [{"_path": name, "path_type": "hardlink", "sha256": _sha256(files[name])} for name in mine]
    paths[0] |= {"sha256": "0" * 64, "sha256_in_prefix": _sha256(files["bin/tool"]), "prefix_placeholder": "/opt/there"}
    paths[-1]["sha256"] = "0" * 64
    paths.append({"_path": "lib/libone.so", "path_type": "softlink", "sha256": _sha256("one")})
    _record(tmp_path, "both", paths)
    info = tmp_path / "lib/python3.12/site-packages/other-2.0.dist-info"
    info.mkdir()
    mark = base64.urlsafe_b64encode(hashlib.sha256(b"y = 1\n").digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(f"other.py,sha256={mark},6\nother-2.0.dist-info/RECORD,,\n")
    (tmp_path / "bin" / "activate").write_text("")
    return tmp_path


def _record(prefix: Path, name: str, paths: list[dict[str, Any]]) -> Path:
    path = prefix / "conda-meta" / f"{name}-1.0-0.json"
    path.parent.mkdir(exist_ok=True)
    document = {"name": name, "version": "1.0", "build": "0", "paths_data": {"paths": paths, "paths_version": 1}}
    path.write_text(json.dumps(document))
    return path


def _facts(prefix: Path, stock: inventory.Inventory) -> dict[str, Any]:
    expectation = Expectation(
        environment="e-1-0", digest="", prefix=str(prefix), python="3.12.4", features=(), imports=(),
        packages={"both": "1.0", "other": "2.0"}, records=stock.records, written=stock.written, mpi=None, ranks=1,
        conda={"both": "1.0 0"},
    )  # fmt: skip
    return witness.witness(expectation, {})


def test_the_witness_takes_conda_for_the_owner_of_what_it_brought(tree: Path) -> None:
    stock = inventory.take(tree)
    facts = _facts(tree, stock)

    assert set(stock.records) == {"conda:both", "other"}
    assert set(stock.written) == {"bin/activate"}
    assert {name: facts["files"][name]["count"] for name in ("missing", "changed", "unreadable")} == {
        "missing": 0, "changed": 0, "unreadable": 0,
    }  # fmt: skip
    assert facts["extra"]["count"] == facts["owners"]["count"] == facts["records"]["changed"]["count"] == 0
    assert facts["distributions"]["missing"] == facts["distributions"]["additional"] == []
    assert facts["distributions"]["other_version"] == {}


def test_the_same_file_from_both_worlds_is_no_conflict_and_another_one_is(tree: Path) -> None:
    stock = inventory.take(tree)
    record = tree / "lib/python3.12/site-packages/other-2.0.dist-info/RECORD"
    mark = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).rstrip(b"=").decode()
    before = record.read_text()
    record.write_text(f"{before}both.py,sha256={mark},6\n")
    assert _facts(tree, stock)["owners"]["count"] == 0

    record.write_text(f"{before}both.py,sha256={mark[:-1]}A,6\n")
    (owners,) = _facts(tree, stock)["owners"]["first"]
    assert owners["distributions"] == ["conda:both", "other"]


def test_a_link_that_is_gone_and_a_record_that_cannot_be_read_are_told(tree: Path) -> None:
    stock = inventory.take(tree)
    (tree / "lib" / "libone.so").unlink()
    assert _facts(tree, stock)["files"]["missing"]["first"] == ["lib/libone.so"]

    (tree / "conda-meta" / "both-1.0-0.json").write_text("[]")
    assert "conda-meta/both-1.0-0.json" in _facts(tree, stock)["records"]["unreadable"]["first"][0]
    assert conda_meta.installed(tree)[0] == ()


def test_a_rebuild_forgets_what_rattler_kept(tmp_path: Path) -> None:
    from envbuilder.store import Store

    kept = tmp_path / "cache" / "conda" / "pkgs"
    for name in ("jinja2-3.1.6-py_0", "jinja2-3.1.6-py_1"):
        (kept / name).mkdir(parents=True)
        (kept / f"{name}.lock").write_text("")
    place = samples.workplace(tmp_path)
    prepared = prepare.Prepared(
        wish=Wish(recipe="full", builder="conda"), site=place.site, target=samples.target(),
        request=_asked(), origins=(), place=place, store=Store(root=tmp_path),
    )  # fmt: skip

    fetched.forget(prepared, _locked())

    assert sorted(path.name for path in kept.iterdir()) == ["jinja2-3.1.6-py_1", "jinja2-3.1.6-py_1.lock"]
