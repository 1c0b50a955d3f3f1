"""Real Lmod and real Tcl modules: what a load did, and each way in which it fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from testbed import machine

from envbuilder import modules
from envbuilder.effect import Loaded
from envbuilder.errors import HostError, InputError
from envbuilder.partition import Export, Partition
from envbuilder.site import Modules, Site

pytestmark = pytest.mark.real

LMOD = "/usr/share/lmod/lmod/init/bash"


def site(system: str, init: Path | str, folder: Path, *names: str, **changes: object) -> tuple[Site, Partition]:
    partition = Partition(modules=names, module_paths=(str(folder),), **changes)  # type: ignore[arg-type]
    made = Site(
        schema=1,
        name="made",
        summary="",
        partitions={"p": partition},
        default_partition="p",
        modules=Modules(system=system, init=str(init)),
    )
    return made, partition


@pytest.fixture(params=["lmod", "tcl"])
def system(request: pytest.FixtureRequest, testbed: machine.Testbed, tmp_path: Path) -> tuple[str, Path, Path]:
    """A module system, the script that defines `module`, and an empty folder for modulefiles."""
    folder = tmp_path / "modulefiles"
    folder.mkdir()
    return (request.param, Path(LMOD) if request.param == "lmod" else testbed.tcl_init, folder)


def write(system: tuple[str, Path, Path], name: str, lua: str, tcl: str) -> None:
    kind, _, folder = system
    path = folder / (f"{name}.lua" if kind == "lmod" else name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lua if kind == "lmod" else f"#%Module\n{tcl}")


def load(system: tuple[str, Path, Path], *names: str, **changes: object) -> Loaded:
    loaded = modules.load(*site(*system, *names, **changes))
    assert loaded is not None
    return loaded


def test_an_ordered_load_and_its_effect(system: tuple[str, Path, Path]) -> None:
    write(system, "mpi/8.1", 'setenv("MPI_DIR","/opt/mpi")\nprepend_path("PATH","/opt/mpi/bin")',
          "setenv MPI_DIR /opt/mpi\nprepend-path PATH /opt/mpi/bin")  # fmt: skip
    write(
        system,
        "rocm/5.2.3",
        'prepend_path("LD_LIBRARY_PATH","/opt/rocm/lib")',
        "prepend-path LD_LIBRARY_PATH /opt/rocm/lib",
    )

    loaded = load(system, "mpi", "rocm/5.2.3")

    assert [name for name in loaded.names if name in {"mpi/8.1", "rocm/5.2.3"}] == ["mpi/8.1", "rocm/5.2.3"]
    assert loaded.effect.set["MPI_DIR"] == "/opt/mpi"
    applied = loaded.effect.apply({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/mine"})
    assert applied["PATH"].startswith("/opt/mpi/bin:")
    assert applied["LD_LIBRARY_PATH"] == "/opt/rocm/lib:/mine"
    assert all(Path(file).is_file() for file in loaded.files)


def test_values_that_a_careless_reader_gets_wrong(system: tuple[str, Path, Path]) -> None:
    value = "two  words, 'quoted' and \"more\" $HOME $(echo run) `id` \\ !é "
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    write(system, "odd/1", f'setenv("ODD","{escaped}")', "setenv ODD {" + value + "}")

    assert load(system, "odd").effect.set["ODD"] == value


def test_a_modulefile_that_talks(system: tuple[str, Path, Path]) -> None:
    write(
        system,
        "loud/1",
        'LmodMessage("read the news")\nsetenv("LOUD","1")',
        'puts stderr "read the news"\nsetenv LOUD 1',
    )

    loaded = load(system, "loud")

    assert loaded.effect.set["LOUD"] == "1"
    assert "read the news" in loaded.said


def test_a_modulefile_that_only_warns_is_loaded(system: tuple[str, Path, Path]) -> None:
    """Lmod returns 1 for it."""
    write(
        system,
        "old/1",
        'setenv("OLD","1")\nLmodWarning("will be retired")',
        'setenv OLD 1\nputs stderr "will be retired"',
    )
    write(system, "new/1", 'setenv("NEW","1")', "setenv NEW 1")

    assert {"OLD", "NEW"} <= set(load(system, "old", "new").effect.set)


def test_a_module_that_is_not_there(system: tuple[str, Path, Path]) -> None:
    write(system, "good/1", 'setenv("GOOD","1")', "setenv GOOD 1")

    with pytest.raises(
        HostError, match=r"the module nosuch/9 cannot be loaded on this machine:\n(.|\n)*nosuch"
    ) as failed:
        load(system, "good", "nosuch/9")

    assert "module avail nosuch" in failed.value.hint


def test_a_version_that_is_gone(system: tuple[str, Path, Path]) -> None:
    write(system, "toolkit/6.3.4", 'setenv("KIT","6")', "setenv KIT 6")

    with pytest.raises(HostError, match=r"the module toolkit/5\.2\.3 cannot be loaded"):
        load(system, "toolkit/5.2.3")


def test_a_module_whose_own_load_fails(system: tuple[str, Path, Path]) -> None:
    write(system, "chain/1", 'load("lacking/1")\nsetenv("CHAIN","1")', "module load lacking/1\nsetenv CHAIN 1")
    write(system, "after/1", 'setenv("AFTER","1")', "setenv AFTER 1")

    with pytest.raises(HostError, match=r"the module chain cannot be loaded on this machine:\n(.|\n)*lacking/1"):
        load(system, "chain", "after")


def test_a_modulefile_that_breaks(system: tuple[str, Path, Path]) -> None:
    write(system, "broken/1", 'LmodError("licence server unreachable")', 'error "licence server unreachable"')

    with pytest.raises(
        HostError, match=r"the module broken/1 cannot be loaded on this machine:\n(.|\n)*licence server unreachable"
    ):
        load(system, "broken/1")


def test_a_promise_that_is_not_kept(system: tuple[str, Path, Path]) -> None:
    write(system, "rocm/1", 'setenv("ROCM_PATH","/opt/rocm")', "setenv ROCM_PATH /opt/rocm")

    with pytest.raises(
        HostError, match="the modules rocm loaded, and CRAY_ROCM_DIR has no value, which the site promises"
    ):
        load(system, "rocm", promises=("ROCM_PATH", "CRAY_ROCM_DIR"))


def test_a_module_that_replaces_another_of_the_list(system: tuple[str, Path, Path]) -> None:
    write(system, "gnu/1", 'family("compiler")\nsetenv("PE","gnu")', "conflict cray\nsetenv PE gnu")
    write(system, "cray/1", 'family("compiler")\nsetenv("PE","cray")', "conflict gnu\nsetenv PE cray")

    with pytest.raises(HostError, match=r"(gnu does not stay loaded|the module cray cannot be loaded)"):
        load(system, "gnu", "cray")


def test_an_order_that_only_works_one_by_one(system: tuple[str, Path, Path]) -> None:
    """Lmod looks for all modules of one command before it loads the first, which may bring in the folder of the others."""
    write(system, "hidden/deep/1", 'setenv("DEEP","1")', "setenv DEEP 1")
    folder = system[2] / "hidden"
    write(system, "door/1", f'prepend_path("MODULEPATH","{folder}")', f"module use {folder}")

    assert load(system, "door", "deep/1").effect.set["DEEP"] == "1"


def test_exports_come_last(system: tuple[str, Path, Path]) -> None:
    write(
        system,
        "cpe/22",
        'prepend_path("CRAY_LD_LIBRARY_PATH","/opt/22/lib")',
        "prepend-path CRAY_LD_LIBRARY_PATH /opt/22/lib",
    )
    write(
        system,
        "rocm/5",
        'prepend_path("LD_LIBRARY_PATH","/opt/rocm/lib")',
        "prepend-path LD_LIBRARY_PATH /opt/rocm/lib",
    )
    exports = (
        Export(prepend="LD_LIBRARY_PATH", to="${CRAY_LD_LIBRARY_PATH}", why="not the default"),
        Export(set="HDF5_USE_FILE_LOCKING", to="FALSE", why="Lustre"),
    )

    effect = load(system, "cpe", "rocm", exports_after_modules=exports).effect

    assert effect.apply({})["LD_LIBRARY_PATH"] == "/opt/22/lib:/opt/rocm/lib"
    assert effect.set["HDF5_USE_FILE_LOCKING"] == "FALSE"


def test_an_export_of_a_variable_that_no_module_sets(system: tuple[str, Path, Path]) -> None:
    write(system, "cpe/22", 'setenv("A","1")', "setenv A 1")

    with pytest.raises(InputError, match="exports_after_modules: NO_SUCH has no value once the modules are loaded"):
        load(system, "cpe", exports_after_modules=(Export(set="B", to="${NO_SUCH}", why=""),))


def test_nothing_of_the_caller_s_is_seen(system: tuple[str, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write(system, "plain/1", 'setenv("PLAIN","1")', "setenv PLAIN 1")
    before = load(system, "plain").effect
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "PATH", "MODULEPATH", "LOADEDMODULES", "BASH_ENV"):
        monkeypatch.setenv(name, f"/canary:{os.environ.get(name, '')}")

    assert load(system, "plain").effect == before
    assert "canary" not in str(before.to_document())


def test_a_machine_without_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = tmp_path / "init"
    init.write_text("unset -f module; unset MODULEPATH\n")

    with pytest.raises(HostError, match="a login shell on this machine does not define `module`"):
        modules.load(*site("lmod", init, tmp_path, "x"))


def test_shell_metacharacters_in_a_site_are_names(system: tuple[str, Path, Path], tmp_path: Path) -> None:
    """The format refuses them; should one get through, it is still an argument."""
    canary = tmp_path / "canary"
    with pytest.raises(HostError):
        load(system, f"$(touch {canary})", f"; touch {canary}")
    assert not canary.exists()


def test_the_effect_is_what_a_shell_would_have(system: tuple[str, Path, Path]) -> None:
    write(
        system,
        "a/1",
        'setenv("A_1","x")\nprepend_path("LD_LIBRARY_PATH","/opt/a")',
        "setenv A_1 x\nprepend-path LD_LIBRARY_PATH /opt/a",
    )
    loaded = load(system, "a")
    _, init, folder = system
    code = f'. "{init}"; module use "{folder}"; module load a 2>/dev/null; echo "$A_1 $LD_LIBRARY_PATH"'
    said = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", code], env=modules.bare(), capture_output=True, text=True, check=True
    )

    applied = loaded.effect.apply(modules.bare())
    assert said.stdout.split() == [applied["A_1"], applied["LD_LIBRARY_PATH"]]
