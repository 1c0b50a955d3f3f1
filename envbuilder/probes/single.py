"""The probe of one process: interpreter, imports, versions, backends, a training of a few steps."""

import importlib
import os
import sys

from . import exact, folders, gpu, horovod, imports, interpreter, onednn
from .training import Course, judged_step

FRAMEWORKS = {"torch": "torch_model", "tensorflow": "tensorflow_model"}
SAMPLES = 2 * exact.SHARD


def run(report, asked):
    """Measure, part by part; a part that fails leaves the others their chance."""
    report.part("interpreter", interpreter.interpreter)
    report.part("environment", interpreter.environment)
    # both spellings, old and new, before a framework is imported: oneDNN reads them once, when it is loaded
    os.environ["ONEDNN_VERBOSE"] = os.environ["DNNL_VERBOSE"] = "1"
    report.part("caches", folders.writable, asked["caches"])
    report.part("data", folders.readable, asked.get("data", []))
    report.part("distributions", interpreter.distributions, asked["distributions"])
    report.part("imports", imports.imported, asked["imports"])
    for framework, module in FRAMEWORKS.items():
        if framework in asked["features"]:
            loaded = report.part(framework, _capabilities, module)
            if loaded:
                report.part(framework + "_training", _training, report, module, asked["steps"])
            if loaded and framework == "torch" and "torch-mpi" in asked["features"]:
                report.part("torch_mpi", _torch_mpi)
    if "horovod" in asked["features"]:
        report.part("horovod", horovod.built, asked["features"])
    if {"gpu", "torch"} <= set(asked["features"]) and report.part("gpu", gpu.seen) and report.facts["gpu"]["devices"]:
        report.part("gpu_compute", gpu.computed, report, len(report.facts["gpu"]["devices"]))


def _torch_mpi():
    return importlib.import_module(".torch_mpi", __package__).built()


def _capabilities(module):
    return _model(module).capabilities()


def _model(name):
    return importlib.import_module("." + name, __package__)


def _training(report, module, steps):
    model = _model(module)
    log = report.path(report.stem + "." + module.split("_")[0] + ".onednn.log")
    with onednn.stdout_in(log):
        course = Course(model.Trainer(0, SAMPLES), steps, report.enter)
    facts = course.facts()
    facts["onednn"] = onednn.counted(log)
    facts["first"] = judged_step(course.start, SAMPLES, course.first)
    facts["last"] = judged_step(course.before_last, SAMPLES, course.last)
    return facts


def leave(report):
    """Announce the end; frameworks are not unloaded, they do that on exit."""
    report.enter("done")
    report.write()
    sys.stdout.flush()
