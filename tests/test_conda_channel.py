"""The packages of the local channel are real: py-rattler's own calls install them, and the interpreter stands by itself."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import conda_channel as made
import pytest

pytestmark = pytest.mark.real
PROBE = """
import bz2, ctypes, curses, hashlib, json, lzma, readline, sqlite3, ssl, sys, sysconfig, uuid, zlib
import jinja2, markupsafe._speedups
print(json.dumps({
    "prefix": sys.prefix, "path": sys.path[1:], "stdlib": sysconfig.get_path("stdlib"), "site": sysconfig.get_path("purelib"),
    "libdir": sysconfig.get_config_var("LIBDIR"), "include": sysconfig.get_path("include"),
    "scripts": sysconfig.get_path("scripts"), "modules": [jinja2.__file__, markupsafe._speedups.__file__, ssl.__file__],
    "maps": sorted({line.split()[-1] for line in open("/proc/self/maps") if "/" in line and ".so" in line}),
}))
"""


@pytest.fixture(scope="module")
def prefix(conda_channel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that was made without envbuilder."""
    place = tmp_path_factory.mktemp("by-rattler")
    made.by_rattler(
        "from rattler import BuildString, Gateway, GenericVirtualPackage, PackageName, Version, install, solve",
        "glibc = GenericVirtualPackage(PackageName('__glibc'), Version('2.17'), BuildString('0'))",
        f"wanted = ['python {made.interpreter().minor}.*', 'jinja2', 'markdown-it-py', 'greeting']",
        f"gateway = Gateway(cache_dir={str(place / 'repodata')!r})",
        f"records = await solve([{conda_channel.as_uri()!r}], wanted, gateway=gateway, platforms=['linux-64', 'noarch'],",
        "    virtual_packages=[glibc])",
        f"await install(records, {str(place / 'env')!r}, cache_dir={str(place / 'packages')!r}, show_progress=False)",
    )
    return place / "env"


def _said(prefix: Path) -> dict[str, object]:
    command = [prefix / "bin" / "python", "-I", "-c", PROBE]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_the_interpreter_has_everything_from_the_environment(prefix: Path) -> None:
    said = _said(prefix)

    assert said["prefix"] == str(prefix)
    # Debian's own interpreter has the whole machine for its place, and cannot be told where its libraries were
    told = () if made.interpreter().base == "/usr" else ("libdir",)
    folders = [said[name] for name in ("stdlib", "site", "include", "scripts", *told)]
    assert [one for one in (*folders, *said["path"], *said["modules"]) if not str(one).startswith(f"{prefix}/")] == []
    outside = {os.path.basename(path) for path in said["maps"] if not path.startswith(f"{prefix}/")}
    assert {name for name in outside if not made._GLIBC.fullmatch(name)} == set()
    inside = {os.path.basename(path) for path in said["maps"] if path.startswith(f"{prefix}/")}
    assert [name for name in inside if name.startswith("libssl.so")], "the witness saw no library of the environment"


def test_the_linker_finds_every_library_in_it_without_running_anything(prefix: Path) -> None:
    objects = [path for path in prefix.rglob("*.so*") if not path.is_symlink()]
    objects.append(prefix / "bin" / f"python{made.interpreter().minor}")
    needs = [need for path in objects for need in made._needs(path).items()]

    assert len(objects) > 20
    assert [path for _, path in needs if path.startswith(str(prefix))]
    wrong = [(name, path) for name, path in needs if not (path.startswith(f"{prefix}/") or made._GLIBC.fullmatch(name))]
    assert wrong == []


def test_no_file_names_the_place_that_it_came_from(prefix: Path) -> None:
    old = made.interpreter().base
    if old in ("/usr", "/usr/local"):
        pytest.skip("the machine's own folders are named by everything")
    names = [path for path in prefix.rglob("*") if path.is_file() and old.encode() in path.read_bytes()]

    assert names == []


def test_a_place_is_put_into_text_and_into_binaries(prefix: Path) -> None:
    done = subprocess.run([prefix / "bin" / "greeting"], capture_output=True, text=True, check=True)

    assert done.stdout == f"hello from {prefix}\n"
    assert (prefix / "share" / "greeting" / "place").read_text() == f"{prefix}/share\n"
    script = subprocess.run([prefix / "bin" / "markdown-it", "--version"], capture_output=True, text=True, check=True)
    assert "markdown-it" in script.stdout


def test_extensions_can_be_compiled_with_it(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "one.c").write_text(
        '#include <Python.h>\nstatic struct PyModuleDef d = {PyModuleDef_HEAD_INIT, "one"};\n'
        "PyMODINIT_FUNC PyInit_one(void) { return PyModule_Create(&d); }\n"
    )
    asks = [prefix / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    include = subprocess.run(asks, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-I{include}", "-o", tmp_path / "one.so", tmp_path / "one.c"], check=True
    )

    done = subprocess.run([prefix / "bin" / "python", "-c", "import one"], cwd=tmp_path, check=False)
    assert include.startswith(str(prefix))
    assert done.returncode == 0
