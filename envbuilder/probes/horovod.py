"""Horovod: its extension for each framework, which version that was built for, its world, a training through it.

What differs between frameworks is in `horovod_tensorflow` and `horovod_torch`.
"""

import glob
import importlib
import importlib.util
import json
import os
from typing import Any

from . import elf, exact, mapped
from .report import described
from .training import Course, compared

FRAMEWORKS = ("tensorflow", "torch")
CALLED = {"pytorch": "torch"}  # what Horovod's build calls a framework, and its module
COUNT = 256


def built(features):
    """For each framework of the recipe: Horovod's extension files, whether they are mapped once it is imported.

    An exception while importing is kept beside the other facts: it is often the consequence of what they say.
    """
    folder = _folder()
    facts = {"folder": folder, "built_for": _built_for(folder), "frameworks": {}}
    for framework in FRAMEWORKS:
        if framework in features:
            facts["frameworks"][framework] = _extension(folder, framework)
    return facts


def _folder():
    found = importlib.util.find_spec("horovod")
    places = list(found.submodule_search_locations or ()) if found is not None else []
    if not places:
        raise ImportError("horovod is not there")
    return places[0]


def _built_for(folder):
    """The versions of the frameworks that Horovod's build wrote down."""
    try:
        with open(os.path.join(folder, "metadata.json"), encoding="utf-8") as source:
            return {CALLED.get(name, str(name)): str(version) for name, version in json.load(source).items()}
    except (OSError, ValueError):
        return {}


def _extension(folder, framework):
    facts: "dict[str, Any]" = {
        "files": sorted(glob.glob(os.path.join(folder, framework, "mpi_lib*.so"))),
        "error": None,
    }
    try:
        facts["installed"] = str(importlib.import_module(framework).__version__)
        importlib.import_module("horovod." + framework)
    except Exception as error:
        facts["error"] = described(error)
    there = mapped.files()
    facts["mapped"] = [path for path in facts["files"] if os.path.realpath(path) in there]
    facts["needs"] = {path: elf.needed(path) for path in facts["files"]}
    return facts


def measure(report, MPI, steps, extension, side):  # noqa: N803 - the name that mpi4py gives the module
    """Train on this rank's shard, gradients averaged by Horovod; compare on rank 0, once Horovod has ended.

    `side` is the module of the framework, `extension` the path of the library that Horovod has for it.
    """
    comm = MPI.COMM_WORLD
    rank, size = comm.Get_rank(), comm.Get_size()
    report.enter("horovod-init " + side.NAME)
    side.hvd.init()
    facts = {"state": _state(side.hvd, extension)}
    report.enter("horovod-collectives " + side.NAME)
    facts["collectives"] = _collectives(side, rank, size)
    trainer = side.Averaging(rank * exact.SHARD, exact.SHARD)
    course = Course(trainer, steps, lambda doing: report.enter("horovod {} {}".format(side.NAME, doing)))
    facts.update(course.facts())
    report.enter("horovod-shutdown " + side.NAME)
    side.hvd.shutdown()  # before this thread speaks MPI again, which not every MPI allows beside Horovod's
    report.enter("horovod-reference " + side.NAME)
    if rank == 0:
        facts.update(compared(course, side.Trainer(0, size * exact.SHARD), size * exact.SHARD))
    comm.Barrier()
    return facts


def _collectives(side, rank, size):
    """Horovod's operations beside their right results for the ranks of MPI: element i of rank r is (r+1)*(i+1)/8."""
    hvd, tensor, values = side.hvd, side.tensor, side.values
    right = [size * (size + 1) // 2 * (i + 1) / 8 for i in range(COUNT)]
    given = tensor([(rank + 1) * (i + 1) / 8 for i in range(COUNT)])
    summed = values(hvd.allreduce(given, op=hvd.Sum, name="probe.sum"))
    wrong = [i for i, (value, wanted) in enumerate(zip(summed, right)) if value != wanted]
    at = wrong[0] if wrong else 0
    sent = values(hvd.broadcast(tensor([rank]), root_rank=hvd.size() - 1, name="probe.broadcast"))
    return {
        "floats": {
            "count": COUNT,
            "wrong": len(wrong),
            "first_wrong": wrong[0] if wrong else -1,
            "seen": summed[at],
            "right": right[at],
        },
        "gathered": {
            "seen": values(hvd.allgather(tensor([rank]), name="probe.gather")),
            "right": list(range(size)),
        },
        "broadcast": {"seen": sent[0], "right": size - 1},
    }


def _state(hvd, path):
    """What a started Horovod says of itself in this rank, and whose MPI the extension at `path` calls."""
    return {
        "rank": hvd.rank(),
        "size": hvd.size(),
        "local_rank": hvd.local_rank(),
        "local_size": hvd.local_size(),
        "mpi_built": bool(hvd.mpi_built()),
        "mpi_enabled": bool(hvd.mpi_enabled()),
        "mpi_threads": bool(hvd.mpi_threads_supported()) if hvd.mpi_enabled() else False,
        "gloo_built": bool(hvd.gloo_built()),
        "gloo_enabled": bool(hvd.gloo_enabled()),
        "extension": path,
        "needs": elf.needed(path),
        "implementation": mapped.owner(path, "PMPI_Init_thread"),
    }
