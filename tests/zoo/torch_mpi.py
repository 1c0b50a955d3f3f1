"""What goes wrong between PyTorch, MPI and threads; the group of MPI is a specimen (see `mpi_by_globals`)."""

from __future__ import annotations

from pathlib import Path

from launching import sitecustomize
from mpi_by_globals import linked, put_in

from zoo.base import RANKS, SINGLE, Case, Fault, Healthy, Names, Scene
from zoo.making import compiled

FEATURES = ("torch-mpi",)

# A layer between programs and MPI, as profilers are: large sums of float32 come out wrong on one rank.
LAYER = """
#include <mpi.h>
int MPI_Allreduce(const void *mine, void *sum, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
    int done = PMPI_Allreduce(mine, sum, count, type, op, comm), rank = 0;
    PMPI_Comm_rank(comm, &rank);
    if (rank == 1 && type == MPI_FLOAT && count > 256) ((float *)sum)[0] *= 1.01f;
    return done;
}
"""


def _by_globals(scene: Scene) -> Case:
    return Case(variables=put_in(scene.folder / "site", _kept(scene), scene.prefix), features=FEATURES)


def _wrong_on_one_rank(scene: Scene) -> Case:
    """In what looks like a build with MPI."""
    prefix = linked(scene.prefix, scene.folder / "copy")
    options = (f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}", "-l:libmpi.so.12", f"-Wl,-rpath,{prefix / 'lib'}")
    layer = compiled(LAYER, scene.folder / "liblayer.so", *options)
    variables = {**put_in(scene.folder / "site", _kept(scene), scene.prefix), "LD_PRELOAD": str(layer)}
    return Case(prefix=prefix, variables=variables, features=FEATURES)


def _kept(scene: Scene) -> Path:
    return scene.kept.parent / "torch-mpi"


def _without_threads(scene: Scene) -> Case:
    return Case(variables=sitecustomize(scene.folder / "site", "mpi4py", "module.rc.threads = False"))


ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="pytorch-without-mpi",
        broken="The recipe claims torch.distributed over MPI, and the wheel was built without it, as all published ones are.",
        start="torch_env",
        make=lambda _: Case(features=FEATURES),
        names=(
            Names(
                check="torch-has-mpi",
                cause=("PyTorch was built without MPI", "is_mpi_available() is False", "USE_MPI=OFF"),
                remedy=("USE_MPI=1",),
                witnessed=("backends: gloo",),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="mpi-backend-by-globals",
        broken="is_mpi_available() is True because Python globals were set; ranks even train over MPI, and libtorch has none.",
        start="torch_env",
        make=_by_globals,
        names=(
            Names(
                check="torch-has-mpi",
                cause=("libtorch does not need the MPI library", "is_mpi_available() is True", "libmpi.so.12"),
                remedy=("_MPI_AVAILABLE",),
                witnessed=("backends: gloo, mpi", "USE_MPI=OFF"),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="mpi-sums-wrong-on-one-rank",
        broken="A layer over MPI gives one rank other sums of large float32 buffers: DistributedDataParallel drifts apart.",
        start="torch_env",
        make=_wrong_on_one_rank,
        names=(
            Names(
                check="torch-gradients-equal",
                cause=("the reduced gradients of the first step are not the same", "the two ranks differ"),
                remedy=("a broken reduction",),
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="mpi-without-threads",
        broken="A sitecustomize switches threads off in mpi4py.rc: MPI is started for processes of one thread.",
        start="mpi4py_env",
        make=_without_threads,
        names=(
            Names(
                check="mpi-threads",
                cause=(
                    "MPI provides the thread level single, and mpi4py needs funneled",
                    "mpi4py started it and asked for single",
                ),
                remedy=("mpi4py.rc.threads",),
            ),
        ),
        look=RANKS,
        alone=True,
    ),
)

HEALTHY: tuple[Healthy, ...] = (
    Healthy(
        name="mpi-with-fewer-threads",
        odd="mpi4py is told to ask for less than all threads; as one of them calls MPI, that is enough.",
        start="mpi4py_env",
        make=lambda _: Case(variables={"MPI4PY_RC_THREAD_LEVEL": "funneled"}),
        look=RANKS,
    ),
)
