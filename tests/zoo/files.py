"""Files that are not as they were installed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from breaking import Copy, flip, uv

from zoo.base import Case, Fault, Names, Scene

REBUILD = ("--rebuild",)


def _in_a_copy(change: Callable[[Scene, Copy], None], scene: Scene) -> Case:
    copy = scene.copy()
    change(scene, copy)
    return Case(copy=copy)


def _flipped_library(_: Scene, copy: Copy) -> None:
    flip(copy.one("lib/python*/site-packages/mpi4py/MPI*.so"))


def _flipped_module(_: Scene, copy: Copy) -> None:
    flip(copy.site_packages / "mpi4py" / "run.py", 3)


def _edited_activation(_: Scene, copy: Copy) -> None:
    with (copy.prefix / "bin" / "activate").open("a") as script:
        script.write("export OMP_NUM_THREADS=64\n")


def _record_with_its_file(_: Scene, copy: Copy) -> None:
    module = copy.site_packages / "mpi4py" / "run.py"
    record = copy.one("lib/python*/site-packages/mpi4py-*.dist-info/RECORD")
    old = _record_hash(module)
    module.write_text(module.read_text() + "\n# edited\n")
    assert old in record.read_text()
    record.write_text(record.read_text().replace(old, _record_hash(module)))


def _record_hash(path: Path) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()


def _removed(_: Scene, copy: Copy) -> None:
    (copy.site_packages / "mpi4py" / "futures" / "server.py").unlink()


def _truncated(_: Scene, copy: Copy) -> None:
    (copy.site_packages / "mpi4py" / "run.py").write_text("")


def _truncated_library(_: Scene, copy: Copy) -> None:
    library = copy.one("lib/python*/site-packages/mpi4py/MPI*.so")
    library.write_bytes(library.read_bytes()[:4096])


def _extra_pth(_: Scene, copy: Copy) -> None:
    (copy.site_packages / "faster.pth").write_text("import os\n")


def _bytecode_alone(_: Scene, copy: Copy) -> None:
    folder = copy.site_packages / "mpi4py" / "__pycache__"
    folder.mkdir(exist_ok=True)
    (folder / "hidden.cpython-311.pyc").write_bytes(b"\0" * 16)


def _other_version(scene: Scene, copy: Copy) -> None:
    scene.install(copy, "mpi4py", "4.0.99", {"mpi4py/__init__.py": "__version__ = '4.0.99'\n"})


def _stranger(scene: Scene, copy: Copy) -> None:
    scene.install(copy, "stranger", "1.0", {"stranger.py": ""})


def _uninstalled(_: Scene, copy: Copy) -> None:
    uv("pip", "uninstall", "--python", copy.prefix / "bin" / "python", "--quiet", "mpich")


def _twice(_: Scene, copy: Copy) -> None:
    (metadata,) = copy.site_packages.glob("mpi4py-*.dist-info")
    other = metadata.with_name("mpi4py-3.1.6.dist-info")
    shutil.copytree(metadata, other)
    text = (other / "METADATA").read_text()
    version = metadata.name.removeprefix("mpi4py-").removesuffix(".dist-info")
    (other / "METADATA").write_text(text.replace(f"\nVersion: {version}\n", "\nVersion: 3.1.6\n"))


def _two_owners(scene: Scene, copy: Copy) -> None:
    for name in ("tensorflow", "tensorflow-cpu"):
        scene.install(copy, name, "2.0", {"tensorflow/__init__.py": f"origin = {name!r}\n"})


def _unreadable(_: Scene, copy: Copy) -> None:
    """Root can read everything, so the file is replaced by what no one can read as a file."""
    module = copy.site_packages / "mpi4py" / "run.py"
    module.unlink()
    module.mkdir()


def _interpreter_gone(_: Scene, copy: Copy) -> None:
    link = copy.prefix / "bin" / "python"
    link.unlink()
    link.symlink_to("/nowhere/python3")


def _interpreter_upgraded(_: Scene, copy: Copy) -> None:
    settings = copy.prefix / "pyvenv.cfg"
    built = json.loads(copy.manifest.read_text())["python"]["version"]
    settings.write_text(settings.read_text().replace(built, "3.11.99"))


def _system_packages(_: Scene, copy: Copy) -> None:
    settings = copy.prefix / "pyvenv.cfg"
    settings.write_text(settings.read_text().replace("site-packages = false", "site-packages = true"))


def _fault(name: str, broken: str, change: Callable[[Scene, Copy], None], *names: Names, stop: bool = False) -> Fault:
    from zoo.base import Look

    return Fault(
        name=name,
        broken=broken,
        start="mpi4py_env",
        make=partial(_in_a_copy, change),
        names=names,
        look=Look(options=() if stop else ("--keep-going",)),
    )


ENTRIES: tuple[Fault, ...] = (
    _fault(
        "flipped-byte-in-a-library",
        "One bit of a shared object is wrong, as a failing disk or a bad copy leaves it.",
        _flipped_library,
        Names(check="files-intact", cause=("changed since they were installed", "mpi4py/MPI."), remedy=REBUILD),
        stop=True,
    ),
    _fault(
        "flipped-byte-in-a-module",
        "One bit of a Python file is wrong.",
        _flipped_module,
        Names(check="files-intact", cause=("mpi4py/run.py",), remedy=REBUILD),
        stop=True,
    ),
    _fault(
        "edited-activation",
        "Somebody appended a setting to the environment's own activation script.",
        _edited_activation,
        Names(check="files-intact", cause=("bin/activate",), remedy=REBUILD),
    ),
    _fault(
        "record-edited-with-its-file",
        "A module was patched by hand together with its hash in RECORD, so that the package agrees with itself.",
        _record_with_its_file,
        Names(check="files-intact", cause=("RECORD of mpi4py",), remedy=REBUILD),
    ),
    _fault(
        "removed-file",
        "A file is gone, as after the purge of a scratch file system by age.",
        _removed,
        Names(check="files-intact", cause=("missing", "server.py"), remedy=REBUILD),
    ),
    _fault(
        "truncated-module",
        "A Python file is empty, as a full quota leaves it; it still imports.",
        _truncated,
        Names(check="files-intact", cause=("changed", "mpi4py/run.py"), remedy=REBUILD),
    ),
    _fault(
        "truncated-library",
        "A shared object ends early, as a copy that was cut off leaves it.",
        _truncated_library,
        Names(check="files-intact", cause=("changed", "mpi4py/MPI."), remedy=REBUILD),
        Names(check="import", cause=(("was killed by SIGBUS", "file too short"),), remedy=(("by hand", "build the"),)),
    ),
    _fault(
        "unreadable-file",
        "A file cannot be read: rights that were taken away, or an input/output error.",
        _unreadable,
        Names(check="files-intact", cause=("cannot be read", "run.py"), remedy=("right to read",)),
    ),
    _fault(
        "pth-file-behind-the-lock",
        "A .pth file that no package brought runs code in every interpreter.",
        _extra_pth,
        Names(check="no-extra-files", cause=("faster.pth",), remedy=("remove them",)),
    ),
    _fault(
        "bytecode-without-a-source",
        "Bytecode lies there whose source is gone: the rest of a removal that was not whole.",
        _bytecode_alone,
        Names(check="no-extra-files", cause=("hidden.cpython-311.pyc",), remedy=("remove them",)),
    ),
    _fault(
        "upgraded-behind-the-lock",
        "Somebody ran pip install in the environment and got another version.",
        _other_version,
        Names(check="distributions", cause=("mpi4py is 4.0.99", "locked is 4."), remedy=REBUILD),
    ),
    _fault(
        "stranger",
        "Somebody installed a package that is not in the lock.",
        _stranger,
        Names(check="distributions", cause=("stranger is not in the lock",), remedy=REBUILD),
    ),
    _fault(
        "uninstalled",
        "A package was uninstalled; the rest still looks whole.",
        _uninstalled,
        Names(check="distributions", cause=("mpich is missing",), remedy=REBUILD),
        Names(check="libraries-resolve", cause=("libmpi.so.12",), remedy=("install the package",)),
    ),
    _fault(
        "installed-twice",
        "An installer that was interrupted left the metadata of an older version beside the new ones.",
        _twice,
        Names(check="distributions", cause=("mpi4py is installed twice",), remedy=REBUILD),
    ),
    _fault(
        "two-owners-of-a-file",
        "tensorflow and tensorflow-cpu bring the same files; the last one installed won.",
        _two_owners,
        Names(
            check="one-owner", cause=("tensorflow and tensorflow-cpu", "tensorflow/__init__.py"), remedy=("keep one",)
        ),
    ),
    _fault(
        "interpreter-gone",
        "The module with the interpreter was removed from the machine.",
        _interpreter_gone,
        Names(check="interpreter", cause=("gone",), remedy=REBUILD),
        stop=True,
    ),
    _fault(
        "interpreter-upgraded",
        "The interpreter below the environment is another version than the one that it was built on.",
        _interpreter_upgraded,
        Names(check="interpreter", cause=("3.11.99", "built for"), remedy=REBUILD),
    ),
    _fault(
        "system-packages-let-in",
        "pyvenv.cfg was edited so that the system's packages are seen.",
        _system_packages,
        Names(check="interpreter", cause=("system's packages",), remedy=REBUILD),
    ),
)
