"""The probe of N processes: the MPI that each one really has, and a data-parallel training step."""

import importlib
import os
from typing import Any

from . import affinity, folders, horovod, interpreter, mapped, mpi

FRAMEWORKS = {"torch": "torch_ranks", "tensorflow": "tensorflow_ranks"}
HOROVOD = {"torch": "horovod_torch", "tensorflow": "horovod_tensorflow"}
STATE: "dict[str, Any]" = {}  # the module of mpi4py, and how MPI was started


def run(report, asked):
    """Measure, part by part. What every rank must be able to do first (imports) is agreed on before it is used."""
    report.part("environment", interpreter.environment)
    report.enter("import-mpi4py")
    MPI = mpi.imported()  # noqa: N806 - the name that mpi4py gives the module
    _all(report, "mpi", mpi.library, MPI)
    STATE["MPI"] = MPI
    STATE["started"] = _started(report, asked, MPI)
    _all(report, "world", mpi.world, MPI, STATE["started"])
    report.part("affinity", affinity.bound, asked.get("started_on", {}))
    report.part("data", folders.readable, asked.get("data", []))
    _all(report, "collectives", mpi.collectives, MPI)
    for framework, module in FRAMEWORKS.items():
        if framework in asked["features"]:
            _framework(report, framework, module, asked)
    if "horovod" in asked["features"]:
        _horovod(report, asked)
    report.part("threads", affinity.threads, asked.get("threads", {}))
    report.part("libraries_at_end", mapped.mpi_libraries)


def _started(report, asked, MPI):  # noqa: N803
    """Start MPI, or let PyTorch do it where it cannot join an MPI that runs."""
    group = None
    if "torch-mpi" in asked["features"] and mpi.torch_starts():
        report.enter("import-torch")
        group = importlib.import_module(".torch_mpi", __package__)
    report.enter("MPI_Init")
    return group.start() if group is not None and group.available() else mpi.start(MPI)


def _all(report, name, measure, *arguments):
    if not report.part(name, measure, *arguments):
        raise RuntimeError("cannot go on after " + name)


def _framework(report, framework, module, asked):
    """The data-parallel step, unless the framework cannot be imported on some rank: then no rank enters it."""
    MPI = STATE["MPI"]  # noqa: N806 - the name that mpi4py gives the module
    loaded = report.part("import-" + framework, _imported, framework)
    if not MPI.COMM_WORLD.allreduce(int(loaded), op=MPI.MIN):
        report.facts[framework] = {"error": {"kind": "Skipped", "message": framework + " is not there on all ranks"}}
        return
    if framework == "torch" and "torch-mpi" in asked["features"] and not _joined(report, MPI):
        return
    step = importlib.import_module("." + module, __package__)
    _all(report, framework, step.measure, report, MPI, asked["steps"])


def _joined(report, MPI):  # noqa: N803
    """Whether all ranks have PyTorch's process group of MPI: then the data-parallel step goes over it."""
    _all(report, "torch_mpi", importlib.import_module(".torch_mpi", __package__).joined, report, MPI)
    why = report.facts["torch_mpi"].get("left_out")
    if why:
        report.facts["torch"] = {"error": {"kind": "Skipped", "message": why}}
    return not why


def _horovod(report, asked):
    """Horovod's step in each framework whose extension is loaded on all ranks."""
    MPI = STATE["MPI"]  # noqa: N806
    if not report.part("horovod", horovod.built, asked["features"]):
        raise RuntimeError("cannot go on after horovod")
    for framework, facts in report.facts["horovod"]["frameworks"].items():
        name = "horovod_" + framework
        loaded = bool(facts["mapped"]) and facts["error"] is None
        if not MPI.COMM_WORLD.allreduce(int(loaded), op=MPI.MIN):
            report.facts[name] = {"error": {"kind": "Skipped", "message": "not every rank loaded it for " + framework}}
            continue
        side = importlib.import_module("." + HOROVOD[framework], __package__)
        _all(report, name, horovod.measure, report, MPI, asked["steps"], facts["mapped"][0], side)


def _imported(name):
    module = importlib.import_module(name)
    return {"version": str(getattr(module, "__version__", "")), "file": os.path.realpath(module.__file__ or "")}


def leave(report):
    """Finalize MPI. After an error, abort it instead: other ranks may be waiting for this one.

    The evidence was written before. The last phase says whether Finalize came back.
    """
    MPI = STATE.get("MPI")  # noqa: N806
    if MPI is None or not MPI.Is_initialized():
        return
    if report.error is not None and "Skipped" not in _kinds(report):
        MPI.COMM_WORLD.Abort(1)
        os._exit(1)  # Abort may come back before the launcher has acted
    report.enter("finalize")
    report.write()
    if STATE["started"]["by"] == "torch":
        return  # it does so itself when the process exits, and MPI must not be ended twice
    MPI.Finalize()
    report.enter("done")
    report.write()


def _kinds(report):
    return {fact["error"]["kind"] for fact in report.facts.values() if isinstance(fact, dict) and fact.get("error")}
