"""The probe of N processes: the MPI that each one really has, and a data-parallel training step."""

import importlib
import os
from typing import Any

from . import horovod, interpreter, mapped, mpi

FRAMEWORKS = {"torch": "torch_ranks", "tensorflow": "tensorflow_ranks"}
HOROVOD = {"tensorflow": "horovod_tensorflow"}
STATE: "dict[str, Any]" = {}  # the module of mpi4py, once MPI runs


def run(report, asked):
    """Measure, part by part. What every rank must be able to do first (imports) is agreed on before it is used."""
    report.part("environment", interpreter.environment)
    report.enter("import-mpi4py")
    MPI = mpi.imported()  # noqa: N806 - the name that mpi4py gives the module
    _all(report, "mpi", mpi.library, MPI)
    report.enter("MPI_Init")
    if not MPI.Is_initialized():
        MPI.Init_thread()
    STATE["MPI"] = MPI
    _all(report, "world", mpi.world, MPI)
    _all(report, "collectives", mpi.collectives, MPI)
    for framework, module in FRAMEWORKS.items():
        if framework in asked["features"]:
            _framework(report, framework, module, asked["steps"])
    if "horovod" in asked["features"]:
        _horovod(report, asked)
    report.part("libraries_at_end", mapped.mpi_libraries)


def _all(report, name, measure, MPI):  # noqa: N803
    if not report.part(name, measure, MPI):
        raise RuntimeError("cannot go on after " + name)


def _framework(report, framework, module, steps):
    """The data-parallel step, unless the framework cannot be imported on some rank: then no rank enters it."""
    MPI = STATE["MPI"]  # noqa: N806 - the name that mpi4py gives the module
    loaded = report.part("import-" + framework, _imported, framework)
    if not MPI.COMM_WORLD.allreduce(int(loaded), op=MPI.MIN):
        report.facts[framework] = {"error": {"kind": "Skipped", "message": framework + " is not there on all ranks"}}
        return
    step = importlib.import_module("." + module, __package__)
    if not report.part(framework, step.measure, report, MPI, steps):
        raise RuntimeError("cannot go on after " + framework)


def _horovod(report, asked):
    """Horovod's step in each framework whose extension is loaded on all ranks."""
    MPI = STATE["MPI"]  # noqa: N806
    if not report.part("horovod", horovod.built, asked["features"]):
        raise RuntimeError("cannot go on after horovod")
    for framework, facts in report.facts["horovod"]["frameworks"].items():
        name = "horovod_" + framework
        loaded = bool(facts["mapped"]) and facts["error"] is None
        everywhere = MPI.COMM_WORLD.allreduce(int(loaded), op=MPI.MIN)
        if not everywhere or framework not in HOROVOD:
            why = "no training through Horovod is known here for " if everywhere else "not every rank loaded it for "
            report.facts[name] = {"error": {"kind": "Skipped", "message": why + framework}}
            continue
        step = importlib.import_module("." + HOROVOD[framework], __package__)
        if not report.part(name, step.measure, report, MPI, asked["steps"], facts["mapped"][0]):
            raise RuntimeError("cannot go on after " + name)


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
    MPI.Finalize()
    report.enter("done")
    report.write()


def _kinds(report):
    return {fact["error"]["kind"] for fact in report.facts.values() if isinstance(fact, dict) and fact.get("error")}
