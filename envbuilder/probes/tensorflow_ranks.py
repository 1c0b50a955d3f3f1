"""The data-parallel step in TensorFlow: gradients averaged through mpi4py."""

import numpy  # noqa: ICN001 - whole names in the probes

from . import exact
from .tensorflow_model import Trainer, capabilities
from .training import Course, compared


def measure(report, MPI, steps):  # noqa: N803 - the name that mpi4py gives the module
    """Train on this rank's shard, gradients summed by Allreduce and divided by the ranks; compare on rank 0."""
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    facts = {"capabilities": capabilities(), "backend": "mpi4py", "world": size}
    trainer = Trainer(rank * exact.SHARD, exact.SHARD)

    def averaged():
        mine = trainer.flat()
        total = numpy.empty_like(mine)
        comm.Allreduce(mine, total, op=MPI.SUM)
        trainer.set_flat(total / numpy.float32(size))

    course = Course(trainer, steps, lambda doing: report.enter("tensorflow " + doing), averaged)
    facts.update(course.facts())
    report.enter("tensorflow-reference")
    if rank == 0:
        facts.update(compared(course, Trainer(0, size * exact.SHARD), size * exact.SHARD))
    comm.Barrier()
    return facts
