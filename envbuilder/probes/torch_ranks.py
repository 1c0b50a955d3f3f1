"""The data-parallel step in PyTorch: DistributedDataParallel over the group of MPI where that is there, else over gloo."""

import os
import socket
from datetime import timedelta

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from . import exact, torch_mpi
from .torch_model import Trainer, capabilities
from .training import Course, compared

WAIT = timedelta(minutes=10)


def measure(report, MPI, steps):  # noqa: N803 - the name that mpi4py gives the module
    """Train on this rank's shard, gradients averaged by DistributedDataParallel; compare on rank 0."""
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    facts = {"capabilities": capabilities()}
    report.enter("torch-rendezvous")
    over_mpi = distributed.is_initialized()
    if not over_mpi:
        _rendezvous(comm)
    facts["backend"] = distributed.get_backend()
    facts["world"] = distributed.get_world_size()
    facts["interface"] = os.environ.get("GLOO_SOCKET_IFNAME", "")
    report.enter("torch-wrap")
    trainer = Trainer(rank * exact.SHARD, exact.SHARD, DistributedDataParallel)
    if over_mpi:
        facts["group"] = torch_mpi.group(trainer.called.process_group)
    course = Course(trainer, steps, lambda doing: report.enter("torch " + doing))
    facts.update(course.facts())
    report.enter("torch-reference")
    if rank == 0:
        facts.update(compared(course, Trainer(0, size * exact.SHARD), size * exact.SHARD))
    comm.Barrier()
    report.enter("torch-close")
    distributed.destroy_process_group()
    return facts


def _rendezvous(comm):
    """Form gloo's group through a TCP store on rank 0, whose address travels by MPI: no shared files, no guessed port.

    On one host gloo gets the loopback interface, unless the user chose one: a host name often resolves to nothing.
    """
    hosts = comm.allgather(socket.gethostname())
    alone = len(set(hosts)) == 1
    if alone:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    address = "127.0.0.1" if alone else hosts[0]
    rank, size = comm.Get_rank(), comm.Get_size()
    store = None
    if rank == 0:
        store = distributed.TCPStore(address, 0, size, is_master=True, timeout=WAIT, wait_for_workers=False)
    port = comm.bcast(store.port if store is not None else None, root=0)
    if store is None:
        store = distributed.TCPStore(address, port, size, is_master=False, timeout=WAIT, wait_for_workers=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=WAIT)
