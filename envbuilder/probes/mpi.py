"""What mpi4py says and does: the world, the library behind it, collective operations with known results."""

import socket
from array import array

from . import mapped
from .report import launcher_world


def imported():
    """mpi4py's module, MPI not yet started."""
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    return MPI


def world(MPI):  # noqa: N803 - the name that mpi4py gives the module
    """Rank and size as MPI says and as the launcher says, the thread level, and the host."""
    return {
        "rank": MPI.COMM_WORLD.Get_rank(),
        "size": MPI.COMM_WORLD.Get_size(),
        "launcher": launcher_world(),
        "thread_level": MPI.Query_thread(),
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
