"""torch.distributed over MPI: what the build links with, the process group of MPI, operations with known results."""

import os
import re

import torch
from torch import distributed

from . import elf, mapped

COUNT = 256
BACKENDS = ("gloo", "mpi", "nccl", "ucc", "xccl")


def available():
    """Whether torch.distributed says that it has MPI: a global of a Python module, never evidence of what is linked."""
    return bool(getattr(distributed, "is_mpi_available", lambda: False)())


def built():
    """What the build says of itself, and by ELF: PyTorch's own libraries, and all that they need, as far as it is mapped."""
    told = re.search(r"\bUSE_MPI=(\w+)", torch.__config__.show())
    own = libraries()
    return {
        "available": available(),
        "backends": [
            name for name in BACKENDS if getattr(distributed, "is_{}_available".format(name), lambda: False)()
        ],
        "use_mpi": told.group(1) if told else "",
        "libraries": own,
        "objects": _objects(own),
    }


def libraries():
    """The shared objects of PyTorch's own folder that this process has mapped."""
    folder = os.path.realpath(os.path.join(os.path.dirname(torch.__file__), "lib"))
    return sorted(path for path in mapped.shared_objects() if os.path.dirname(os.path.realpath(path)) == folder)


def _objects(starts):
    """Soname and needs of these objects and of all that they need, as far as it is mapped, by path."""
    by_name: "dict[str, str]" = {}
    for path in sorted(mapped.shared_objects()):
        by_name.setdefault(_soname(path) or os.path.basename(path), path)
    found = {}
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path not in found:
            needs = _needs(path)
            found[path] = {"soname": _soname(path), "needs": needs}
            waiting += [by_name[name] for name in needs if name in by_name]
    return found


def _needs(path):
    try:
        return elf.needed(path)
    except (OSError, ValueError):
        return []


def _soname(path):
    try:
        return elf.identity(path)["soname"]
    except (OSError, ValueError):
        return ""


def start():
    """Form the group; MPI is started by that, unless it runs and this PyTorch asks. Returns what `mpi.start` does."""
    distributed.init_process_group("mpi")
    return {"by": "torch", "asked": "serialized"}


def joined(report, MPI):  # noqa: N803 - the name that mpi4py gives the module
    """The group of MPI, on all ranks or on none: what the group itself says, whose MPI PyTorch calls, operations over it."""
    comm = MPI.COMM_WORLD
    facts = {"available": available(), "libraries": {}}
    if not comm.allreduce(int(facts["available"]), op=MPI.MIN):
        facts["left_out"] = "torch.distributed has no MPI on all ranks"
        return facts
    if not distributed.is_initialized():
        report.enter("torch-mpi init_process_group")
        start()
    facts["libraries"] = {path: _called(path) for path in libraries()}
    facts["group"] = group()
    report.enter("torch-mpi collectives")
    if (facts["group"]["rank"], facts["group"]["size"]) == (comm.Get_rank(), comm.Get_size()):
        facts["collectives"] = _collectives(comm.Get_rank(), comm.Get_size())
    return facts


def _called(path):
    """The MPI that calls from this library reach; "" for one that is not linked with any, whatever else the process has."""
    return mapped.owner(path, "PMPI_Init_thread") if mapped.beneath(path, "PMPI_Init_thread") else ""


def group(of=None):
    """What a process group (the default one) says of itself; `kind` and `says` come from the object that communicates."""
    asked = of or distributed.distributed_c10d._get_default_group()  # noqa: SLF001 - there is no public way
    backend = asked._get_backend(torch.device("cpu")) if hasattr(asked, "_get_backend") else asked  # noqa: SLF001
    return {
        "registered": str(distributed.get_backend(asked)),
        "kind": type(backend).__name__,
        "says": str(backend.name()),
        "rank": distributed.get_rank(asked),
        "size": distributed.get_world_size(asked),
    }


def _collectives(rank, size):
    """torch.distributed's operations beside their right results: element i of rank r is (r+1)*(i+1)/8."""
    steps = torch.arange(1, COUNT + 1, dtype=torch.float32) / 8
    summed, right = (rank + 1) * steps, size * (size + 1) // 2 * steps
    distributed.all_reduce(summed)
    wrong = [int(i) for i in (summed != right).nonzero().flatten()]
    at = wrong[0] if wrong else 0
    gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    distributed.all_gather(gathered, torch.tensor([rank]))
    sent = torch.tensor([rank])
    distributed.broadcast(sent, size - 1)
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
