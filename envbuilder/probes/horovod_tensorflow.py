"""Horovod in TensorFlow: what it says of its world, operations with known results, a data-parallel training."""

import horovod.tensorflow
import numpy  # noqa: ICN001 - whole names in the probes
import tensorflow  # noqa: ICN001

from . import exact
from .horovod import state
from .tensorflow_model import Trainer
from .training import Course, compared

COUNT = 256
hvd = horovod.tensorflow


def measure(report, MPI, steps, extension):  # noqa: N803 - the name that mpi4py gives the module
    """Train on this rank's shard, gradients averaged by Horovod's tape; compare on rank 0, once Horovod has ended."""
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    report.enter("horovod-init tensorflow")
    hvd.init()
    facts = {"state": state(hvd, extension)}
    report.enter("horovod-collectives tensorflow")
    facts["collectives"] = _collectives(rank, size)
    trainer = Trainer(rank * exact.SHARD, exact.SHARD, hvd.DistributedGradientTape)
    course = Course(trainer, steps, lambda doing: report.enter("horovod tensorflow " + doing))
    facts.update(course.facts())
    report.enter("horovod-shutdown tensorflow")
    hvd.shutdown()  # before this thread speaks MPI again, which not every MPI allows beside Horovod's
    report.enter("horovod-reference tensorflow")
    if rank == 0:
        facts.update(compared(course, Trainer(0, size * exact.SHARD), size * exact.SHARD))
    comm.Barrier()
    return facts


def _collectives(rank, size):
    """Horovod's operations beside their right results for the ranks of MPI: element i of rank r is (r+1)*(i+1)/8."""
    steps = numpy.arange(1, COUNT + 1, dtype="float32") / 8
    summed = hvd.allreduce(tensorflow.constant((rank + 1) * steps), op=hvd.Sum, name="probe.sum").numpy()
    right = size * (size + 1) // 2 * steps
    wrong = [int(i) for i in numpy.nonzero(summed != right)[0]]
    at = wrong[0] if wrong else 0
    gathered = hvd.allgather(tensorflow.constant([rank]), name="probe.gather").numpy()
    sent = hvd.broadcast(tensorflow.constant(rank), root_rank=hvd.size() - 1, name="probe.broadcast").numpy()
    return {
        "floats": {
            "count": COUNT,
            "wrong": len(wrong),
            "first_wrong": wrong[0] if wrong else -1,
            "seen": float(summed[at]),
            "right": float(right[at]),
        },
        "gathered": {"seen": [int(one) for one in gathered], "right": list(range(size))},
        "broadcast": {"seen": int(sent), "right": size - 1},
    }
