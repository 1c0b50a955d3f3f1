"""What the Spack builder decides: what Spack is asked, what is locked, the plan, what the tree must have. No Spack runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples

from envbuilder import cli, inventory, recipe, sbom, spack_lock, spack_machine, store, witness
from envbuilder import lock as lock_format
from envbuilder.builders import spack
from envbuilder.builders.base import LockOptions
from envbuilder.document import load_yaml
from envbuilder.effect import Effect
from envbuilder.errors import InputError, StoreError
from envbuilder.evidence import Expectation
from envbuilder.externals import External
from envbuilder.lock import Lock
from envbuilder.partition import Cpu, Partition
from envbuilder.plan import Plan, Run, Write
from envbuilder.recipe import Recipe
from envbuilder.request import Request, concrete, specs, with_spack
from envbuilder.target import Compiler, Mpi, Python, Target

GCC = "gcc (Debian 12.2.0-14+deb12u1) 12.2.0"
MPICH = Mpi(
    provider="system", name="mpich", version="4.0.2", soname="libmpich.so.12", library="/usr/lib/x/libmpich.so.12.2.2",
    build_id="b", sha256="5" * 64, mpicc="/usr/bin/mpicc", mpiexec="/usr/bin/mpiexec",
)  # fmt: skip
TARGET = samples.target(
    python=Python(path="/opt/py/bin/python3.11", version="3.11.7", soabi="cpython-311-x86_64-linux-gnu", headers=True),
    mpi=MPICH,
    compiler=Compiler(path="/usr/bin/cc", version=GCC, cxx="/usr/bin/c++"),
)
HERE = Partition(features=("cpu", "mpi"))
RECIPE: dict[str, Any] = {
    "schema": 1, "name": "small", "summary": "s", "features": ["mpi4py"], "needs": ["cpu", "mpi"],
    "specs": ["py-mpi4py@4:"], "imports": ["mpi4py.MPI"], "variants": [{"version": "1", "python": ">=3.10"}],
    "packages": ["mpi4py"],
    "sources": {"mpi4py": {"sdist": "mpi4py", "why": "w", "build_requires": ["pip"]}},
}  # fmt: skip


def parsed(**changes: Any) -> Recipe:
    return recipe.parse(json.dumps({**RECIPE, **changes}), "recipe.yaml")


def asked(wanted: Recipe, partition: Partition = HERE, target: Target = TARGET, fortran: str = "") -> dict[str, Any]:
    rendered = specs(wanted, wanted.variants[0], target)
    found = spack_machine.document(wanted, rendered, partition, target, fortran)["spack"]
    assert isinstance(found, dict)
    return found


def requested(target: Target = TARGET) -> Request:
    wanted = parsed()
    document = {"spack": asked(wanted, target=target)}
    return with_spack(concrete(wanted, wanted.variants[0], HERE, target), document)


def solved() -> dict[str, Any]:
    """A lock in the form that Spack 1.1 writes, of what is read in it."""
    arch = {"platform": "linux", "platform_os": "debian12", "target": {"name": "zen2"}}

    def spec(name: str, version: str, *below: tuple[str, str], **more: Any) -> dict[str, Any]:
        edges = [{"name": one, "hash": f"h{one}", "parameters": {"deptypes": [kind]}} for one, kind in below]
        return {
            "name": name, "version": version, "arch": arch, "parameters": {}, "dependencies": edges,
            "hash": f"h{name}", **more,
        }  # fmt: skip

    found = [
        spec(
            "py-mpi4py", "4.1.1", ("mpich", "link"), ("python-venv", "run"), ("python", "run"), ("py-cython", "build")
        ),
        spec("python-venv", "1.0", ("python", "run")),
        spec("mpich", "4.0.2", external={"path": "/usr", "module": None}),
        spec("python", "3.11.7", external={"path": "/opt/py", "module": None}),
        spec("py-cython", "3.1.3"),
    ]
    return {
        "_meta": {"file-type": "spack-lockfile", "lockfile-version": 6, "specfile-version": 5},
        "roots": [{"hash": "hpy-mpi4py", "spec": "py-mpi4py@4:"}],
        "concrete_specs": {one["hash"]: one for one in found},
    }


def locked(document: dict[str, Any] | None = None) -> Lock:
    bodies = {lock_format.MAIN: spack._NOTHING, spack_lock.BODY: json.dumps(document or solved())}
    made = Lock(request=requested().to_document(), site="s", partition="p", created_by={"spack": "1"}, bodies=bodies)
    return lock_format.from_envelope(made.envelope(), bodies, "lock.json")


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file by the name of Spack on the PATH. It is found, and never run."""
    program = tmp_path / "bin" / "spack"
    program.parent.mkdir()
    program.write_text("#!/bin/false\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


# What Spack is asked


def test_what_the_machine_was_found_with_become_externals() -> None:
    found = asked(parsed(), fortran="/usr/bin/gfortran")
    packages = found["packages"]

    assert found["specs"] == ["py-mpi4py@4:"]
    assert (found["view"], found["concretizer"]["reuse"]) == (False, False)
    assert packages["python"] == {"buildable": False, "externals": [{"spec": "python@3.11.7", "prefix": "/opt/py"}]}
    assert packages["mpich"] == {"buildable": False, "externals": [{"spec": "mpich@4.0.2", "prefix": "/usr"}]}
    assert packages["mpi"] == {"buildable": False, "require": ["mpich@4.0.2"]}
    assert packages["gcc"]["externals"] == [
        {
            "spec": "gcc@12.2.0 languages:='c,c++,fortran'",
            "prefix": "/usr",
            "extra_attributes": {
                "compilers": {"c": "/usr/bin/cc", "cxx": "/usr/bin/c++", "fortran": "/usr/bin/gfortran"}
            },
        }
    ]
    assert [packages[language]["require"] for language in ("c", "cxx", "fortran")] == [["gcc@12.2.0"]] * 3


def test_what_the_site_declares_goes_first() -> None:
    declared = (
        External(spec="python@3.11.7 +ssl", prefix="/sw/python"),
        External(spec="cray-mpich@8.1.27", prefix="/opt/cray/mpich"),
        External(spec="cce@16.0", prefix="/opt/cce", compilers={"c": "/opt/cce/bin/craycc"}),
    )
    cray = replace(MPICH, name="cray-mpich", version="8.1.27")
    found = asked(parsed(), replace(HERE, externals=declared), replace(TARGET, mpi=cray))["packages"]

    assert [one["prefix"] for one in found["python"]["externals"]] == ["/sw/python"]
    assert [one["prefix"] for one in found["cray-mpich"]["externals"]] == ["/opt/cray/mpich"]
    assert "gcc" not in found
    assert found["c"] == {"require": ["cce@16.0"]}


def test_the_library_tells_where_cray_mpich_is_and_the_modules_lead_there() -> None:
    library = "/opt/cray/pe/mpich/8.1.27/ofi/gnu/9.1/lib/libmpi_gnu_91.so.12"
    cray = replace(MPICH, name="cray-mpich", version="8.1.27.26", library=library, mpicc="/opt/cray/bin/cc -shared")
    found = asked(parsed(), replace(HERE, modules=("PrgEnv-gnu",)), replace(TARGET, mpi=cray))["packages"]

    assert found["cray-mpich"]["externals"] == [
        {"spec": "cray-mpich@8.1.27.26", "prefix": "/opt/cray/pe/mpich/8.1.27/ofi/gnu/9.1", "modules": ["PrgEnv-gnu"]}
    ]
    assert found["mpi"]["require"] == ["cray-mpich@8.1.27.26"]


def test_what_is_compiled_runs_here_unless_the_site_names_the_processor() -> None:
    elsewhere = replace(HERE, cpu=Cpu(target="zen2"))

    assert asked(parsed())["concretizer"]["targets"]["host_compatible"] is True
    found = asked(parsed(), elsewhere)
    assert found["concretizer"]["targets"]["host_compatible"] is False
    assert found["packages"]["all"]["target"] == ["zen2"]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        (GCC, "12.2.0"),
        ("cc (SUSE Linux) 7.5.0", "7.5.0"),
        ("gcc-11 (SUSE Linux) 11.3.0", "11.3.0"),
        ("x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14) 12.2.0", "12.2.0"),
        ("gcc (GCC) 11.2.0 20210728 (Cray Inc.)", "11.2.0"),
    ],
)
def test_gcc_is_known_by_what_it_says(said: str, version: str) -> None:
    found = asked(parsed(), target=replace(TARGET, compiler=Compiler(path="/opt/gcc/bin/gcc", version=said)))

    assert found["packages"]["gcc"]["externals"][0]["spec"].startswith(f"gcc@{version} ")


@pytest.mark.parametrize(
    "compiler", [None, Compiler(path="/usr/bin/clang", version="Debian clang version 14.0.6"), Compiler(path="/usr/bin/cc", version="")]
)  # fmt: skip
def test_a_compiler_that_nobody_knows_is_not_left_to_spack(compiler: Compiler | None) -> None:
    with pytest.raises(InputError, match=r"not known of s/p, so Spack cannot be held to it:\n    compilers: "):
        asked(parsed(), target=replace(TARGET, compiler=compiler))


def test_recipes_that_spack_cannot_build_are_refused() -> None:
    with pytest.raises(InputError, match="small has no `specs`"):
        asked(parsed(specs=[]))
    with pytest.raises(InputError, match="small needs warmup-scheduler, which Spack has no package for"):
        asked(parsed(not_in_spack=["warmup-scheduler"]))


# The request and the lock


def test_nothing_of_the_package_index_is_left_in_the_request() -> None:
    found = requested().to_document()

    assert (found["requirements"], found["indexes"], found["sources"]) == ([], [], {})
    assert found["spack"]["spack"]["specs"] == ["py-mpi4py@4:"]
    assert "spack" not in replace(requested(), spack=None).to_document()


def test_a_lock_holds_what_spack_chose_and_is_read_back() -> None:
    lock = locked()

    assert lock.packages() == {"mpi4py": "4.1.1"}
    assert lock.packages(spack_lock.BODY) == {
        "py-mpi4py": "4.1.1 hpy-mpi4py", "python-venv": "1.0 hpython-venv",
        "mpich": "4.0.2 external /usr", "python": "3.11.7 external /opt/py",
    }  # fmt: skip
    assert [one.name for one in lock.spack().built] == ["py-mpi4py", "python-venv"]
    assert lock.spack().count == 5
    assert lock.artefacts(spack_lock.BODY) == ()
    other = solved()
    other["concrete_specs"]["hpy-mpi4py"]["version"] = "4.1.0"
    assert locked(other).digest != lock.digest


def test_another_machine_makes_the_lock_stale() -> None:
    other = requested(replace(TARGET, mpi=replace(MPICH, version="4.3.0"))).to_document()

    assert lock_format.stale(locked(), requested().to_document()) == ()
    assert any(line.startswith("spack.spack.packages.mpich.externals") for line in lock_format.stale(locked(), other))


def test_a_lock_without_spacks_or_with_a_damaged_one_is_refused() -> None:
    lock = locked()
    bodies = {lock_format.MAIN: lock.bodies[lock_format.MAIN]}
    without = replace_bodies(lock, bodies)
    with pytest.raises(InputError, match=r"lock\.json: spack\.lock is missing"):
        lock_format.from_envelope(without.envelope(), bodies, "lock.json")
    for text, words in (
        ("{", "not JSON"),
        ("{}", "not a whole lock of Spack"),
        ('{"_meta": {"file-type": "x"}}', "not a lock"),
    ):
        bodies = {**lock.bodies, spack_lock.BODY: text}
        with pytest.raises(InputError, match=rf"^spack\.lock: {words}"):
            lock_format.from_envelope(replace_bodies(lock, bodies).envelope(), bodies, "lock.json")


def replace_bodies(lock: Lock, bodies: dict[str, str]) -> Lock:
    return Lock(request=lock.request, site="s", partition="p", created_by={}, bodies=bodies)


# The plan


def planned(tmp_path: Path, target: Target = TARGET, lock: Lock | None = None, generation: int = 0) -> Plan:
    return spack.plan(lock or locked(), target, samples.workplace(tmp_path), generation=generation)


def test_spack_sees_no_configuration_but_ours_and_its_own(named: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    runs = [step for step in plan.steps if isinstance(step, Run) and step.argv[0] == str(named)]
    folder = tmp_path / "spack" / "environments" / plan.identifier

    assert len(runs) == 3
    for run in runs:
        assert run.argv[1:7] == ("--color", "never", "-C", str(folder / "scope"), "-e", str(folder))
        assert {name: value for name, value in run.env.items() if name.startswith("SPACK")} == {
            "SPACK_DISABLE_LOCAL_CONFIG": "1", "SPACK_USER_CACHE_PATH": str(tmp_path / "spack" / "user"),
        }  # fmt: skip
    assert [run.argv[7] for run in runs] == ["install", "verify", "view"]
    assert runs[1].argv[9:] == runs[2].argv[12:] == ("/hpy-mpi4py", "/hpython-venv")
    written = {step.path: step.text for step in plan.steps if isinstance(step, Write)}
    assert written[folder / "spack.lock"] == locked().bodies[spack_lock.BODY]
    assert load_yaml(written[folder / "spack.yaml"], "x").value["spack"].value["specs"].value[0].value == "py-mpi4py@4:"
    assert str(tmp_path / "spack" / "opt") in written[folder / "scope" / "config.yaml"]
    assert written[plan.prefix / "share" / "envbuilder" / "spack.lock"] == locked().bodies[spack_lock.BODY]
    assert plan.prefix / "bin" / "activate" in written


def test_a_plan_is_named_by_all_that_it_is_made_of(named: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    other = solved()
    other["concrete_specs"]["hpy-cython"]["version"] = "3.1.2"
    names = {
        planned(tmp_path).identifier,
        planned(tmp_path, lock=locked(other)).identifier,
        planned(tmp_path, replace(TARGET, mpi=replace(MPICH, build_id="c"))).identifier,
        planned(tmp_path, generation=1).identifier,
    }

    assert plan.identifier in names
    assert len(names) == 4
    again = next(
        step.text
        for step in planned(tmp_path, generation=1).steps
        if isinstance(step, Write) and step.path.name == "config.yaml"
    )
    assert str(tmp_path / "spack" / "opt-1") in again  # what is damaged is not taken again


def test_another_python_than_the_targets_is_refused(named: Path, tmp_path: Path) -> None:
    other = solved()
    other["concrete_specs"]["hpython"]["version"] = "3.12.1"
    with pytest.raises(InputError, match=r"Spack takes Python 3\.12\.1, and envbuilder was to use 3\.11\.7"):
        planned(tmp_path, lock=locked(other))
    del other["concrete_specs"]["hpython"]["external"]
    with pytest.raises(InputError, match=r"Spack takes Python 3\.12\.1, built by Spack"):
        planned(tmp_path, lock=locked(other))


def test_options_that_spack_has_no_like_of_are_refused(named: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--upgrade NAME and --exclude-newer are not for --builder spack"):
        spack.lock(requested(), TARGET, LockOptions(upgrade=("mpi4py",)), samples.workplace(tmp_path))


def test_a_bill_of_materials_has_what_spack_built_and_what_it_took() -> None:
    contents = sbom.Contents(
        lock=locked(), target=TARGET, sha256="", release={}, system=None, bound=(), properties={}, moment=None
    )
    found = {one["name"]: one for one in sbom.document(contents)["components"]}

    assert set(found) == {"py-mpi4py", "python-venv", "mpich", "python"}
    assert found["mpich"]["purl"] == "pkg:generic/mpich@4.0.2"
    said = {one["name"]: one["value"] for one in found["mpich"]["properties"]}
    assert said == {"envbuilder:from": "external /usr", "envbuilder:spack-hash": "hmpich"}


# The tree


def tree(root: Path) -> Path:
    """A tree in which a file is not as its RECORD says, as Spack's relocation leaves it."""
    about = root / "lib" / "python3.11" / "site-packages" / "mpi4py-4.1.1.dist-info"
    about.mkdir(parents=True)
    (about.parent / "mpi4py.py").write_text(f"where = '{root}'\n")
    (about / "RECORD").write_text(f"mpi4py.py,sha256={'A' * 43},3\nmpi4py-4.1.1.dist-info/RECORD,,\n")
    for name in ("py-mpi4py", "python-venv"):
        (root / ".spack" / name).mkdir(parents=True)
        (root / ".spack" / name / "spec.json").write_text(json.dumps({"spec": {"nodes": [{"hash": f"h{name}"}]}}))
    return root


def facts(root: Path, found: inventory.Inventory, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "environment": "e", "digest": "d", "prefix": str(root), "python": "3.11.7", "features": (), "imports": (),
        "packages": inventory.distributions(root), "records": found.records, "written": found.written, "mpi": None,
        "ranks": 2, "spack": locked().packages(spack_lock.BODY),
    }  # fmt: skip
    return witness.witness(Expectation(**{**values, **changes}), {})


def test_of_spacks_trees_the_manifest_knows_every_file(tmp_path: Path) -> None:
    root = tree(tmp_path)
    found = inventory.take(root, whole=True)

    assert len(found.written) == 4
    seen = facts(root, found)
    assert (seen["files"]["changed"]["count"], seen["extra"]["count"], seen["distributions"]["missing"]) == (0, 0, [])
    assert facts(root, found, spack={})["files"]["count"] == 4
    file = root / "lib" / "python3.11" / "site-packages" / "mpi4py.py"
    file.write_text(file.read_text().replace("where", "there"))
    (root / ".spack" / "python-venv" / "spec.json").unlink()
    (root / "stray").write_text("")
    seen = facts(root, found)
    assert seen["files"]["changed"]["first"] == ["lib/python3.11/site-packages/mpi4py.py"]
    assert seen["files"]["missing"]["first"] == [".spack/python-venv/spec.json"]
    assert seen["extra"]["first"] == ["stray"]


def test_a_package_that_spack_left_out_of_the_tree_is_named(tmp_path: Path) -> None:
    wanted = locked().packages(spack_lock.BODY)
    root = tree(tmp_path)

    inventory.refuse_lacking(root, wanted)
    (root / ".spack" / "python-venv" / "spec.json").write_text('{"spec": {"nodes": [{"hash": "another"}]}}')
    with pytest.raises(StoreError, match=r"Spack did not copy python-venv 1.0 hpython-venv into .*: another is there"):
        inventory.refuse_lacking(root, wanted)
    shutil.rmtree(root / ".spack" / "py-mpi4py")
    with pytest.raises(StoreError, match=r"Spack did not copy py-mpi4py 4.1.1 hpy-mpi4py into .*: nothing is there"):
        inventory.refuse_lacking(root, wanted)


# The commands


def test_without_a_spack_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    if shutil.which("spack"):
        pytest.skip("the system itself has a Spack")

    for verb in ("build", "lock", "plan"):
        assert cli.main([verb, "mpi4py", "--builder", "spack"]) == 2
        said = capsys.readouterr().err
        assert "--builder spack needs a Spack, and there is no `spack` on the PATH" in said
        assert "setup-env.sh" in said
        assert "Traceback" not in said
    assert spack.missing(TARGET) == "there is no spack on the PATH"
    assert not list((tmp_path / "store").glob("locks/**/lock.json"))


def test_a_spack_of_the_modules_is_found(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    from envbuilder.effect import Around, Loaded

    effect = Effect(paths={"PATH": Around(before=(str(named.parent),))})
    loaded = Loaded(system="lmod", asked=("spack",), names=("spack/1.1",), files=(), effect=effect)

    assert spack.program_of(replace(TARGET, modules=loaded)) == str(named)


def test_what_is_spacks_own_is_left_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    assert cli.main(["build", "mpi4py", "--builder", "spack", "--explain-cache"]) == 2
    assert "Spack keeps what it built by its own hashes" in capsys.readouterr().err
    store.write_lock(tmp_path / "lock", locked())
    assert cli.main(["export", "environment.yml", str(tmp_path / "lock")]) == 2
    assert "this lock is Spack's" in capsys.readouterr().err


def test_a_site_that_builds_on_its_nodes_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("ENVBUILDER_SITE_PATH", raising=False)
    assert (
        cli.main(["build", "pytorch-cuda@2.9.1", "--builder", "spack", "--site", "kestrel", "--partition", "gpu-rhel8"])
        == 2
    )
    assert "builds on its nodes from a bundle, and Spack fetches its sources itself" in capsys.readouterr().err
