"""What mpi4py says and does: the world, the library behind it, collective operations with known results."""

import importlib.metadata
import os
import re
import socket
from array import array

from . import mapped
from .report import launcher_world

LEVELS = ("single", "funneled", "serialized", "multiple")


def imported():
    """mpi4py's module, MPI not yet started."""
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI


def torch_starts():
    """Whether the PyTorch that is there can only start MPI itself, and must not find it running: the versions before 2.1.

    They do not ask whether it runs (pytorch/pytorch#33943, #105023), and MPI must not be started twice.
    """
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(number) for number in re.findall("[0-9]+", version)[:2]) < (2, 1)


def start(MPI):  # noqa: N803 - the name that mpi4py gives the module
    """Start MPI as importing mpi4py does, unless it runs; who started it, and the thread level that was asked for."""
    if MPI.Is_initialized():
        return {"by": "another library", "asked": ""}
    level = asked_level()
    if level:
        MPI.Init_thread(getattr(MPI, "THREAD_" + level.upper()))
    else:
        MPI.Init()
    return {"by": "mpi4py", "asked": level or LEVELS[0]}


def asked_level():
    """The thread level that mpi4py asks for: its variables come before `mpi4py.rc`; "" for MPI_Init, which asks for none."""
    import mpi4py

    threads = os.environ.get("MPI4PY_RC_THREADS", str(mpi4py.rc.threads))
    level = os.environ.get("MPI4PY_RC_THREAD_LEVEL", mpi4py.rc.thread_level)
    return "" if threads.lower() in ("0", "n", "no", "f", "false", "off") else level.lower()


def world(MPI, started):  # noqa: N803
    """Rank and size as MPI says and as the launcher says, the thread level beside how MPI was started, and the host."""
    levels = {getattr(MPI, "THREAD_" + level.upper()): level for level in LEVELS}
    return {
        "rank": MPI.COMM_WORLD.Get_rank(),
        "size": MPI.COMM_WORLD.Get_size(),
        "launcher": launcher_world(),
        "thread_level": dict(started, provided=levels.get(MPI.Query_thread(), "")),
        "host": socket.gethostname(),
        "processor": MPI.Get_processor_name(),
    }


def library(MPI):  # noqa: N803
    """The MPI behind mpi4py, which need not be started: what it says of itself, what is mapped, whose functions mpi4py calls.

    A profiling tool may stand between mpi4py and MPI_Init_thread; behind PMPI_Init_thread stands the library itself.
    """
    return {
        "library_version": MPI.Get_library_version().strip("\0 \n").splitlines()[0],
        "standard": list(MPI.Get_version()),
        "extension": MPI.__file__,
        "owner": mapped.owner(MPI.__file__, "MPI_Init_thread"),
        "implementation": mapped.owner(MPI.__file__, "PMPI_Init_thread"),
        "libraries": mapped.mpi_libraries(),
    }


def collectives(MPI):  # noqa: N803
    """Collective operations beside their right results, which have closed forms.

    integers: the sum of all ranks. floats: element i of rank r is (r+1)*(i+1)/8; sums are exact in float64.
    gathered: the ranks in order. broadcast: the last rank's word.
    """
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    triangle = size * (size + 1) // 2
    given = array("d", [(rank + 1) * (i + 1) / 8 for i in range(1024)])
    summed = array("d", bytes(8 * len(given)))
    comm.Allreduce([given, MPI.DOUBLE], [summed, MPI.DOUBLE], op=MPI.SUM)
    right = [triangle * (i + 1) / 8 for i in range(1024)]
    wrong = [i for i, (value, wanted) in enumerate(zip(summed, right)) if value != wanted]
    return {
        "integers": {"seen": comm.allreduce(rank), "right": triangle - size},
        "floats": {
            "count": len(right),
            "wrong": len(wrong),
            "first_wrong": wrong[0] if wrong else -1,
            "seen": summed[wrong[0]] if wrong else summed[0],
            "right": right[wrong[0]] if wrong else right[0],
        },
        "gathered": {"seen": comm.allgather(rank), "right": list(range(size))},
        "broadcast": {
            "seen": comm.bcast("from {}".format(rank), root=size - 1),
            "right": "from {}".format(size - 1),
        },
    }
