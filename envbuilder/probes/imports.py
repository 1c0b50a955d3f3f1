"""What importing costs: seconds, files opened, shared objects mapped."""

import importlib
import os
import sys
import time
from typing import Any

from . import mapped
from .report import described


class _Opened:
    """Counts the files that Python opens, through an audit hook (which cannot be removed again)."""

    def __init__(self):
        self.count = 0
        sys.addaudithook(self._heard)

    def _heard(self, event, arguments):
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            self.count += 1


def imported(names):
    """Import the modules in this order and say for each what it cost and where it came from.

    A module that an earlier one pulled in costs nothing here; `already` says so.
    """
    opened = _Opened()
    facts = {}
    for name in names:
        if name.split(".")[0] == "mpi4py":
            _without_init()
        already = name in sys.modules
        before, objects, began = opened.count, mapped.shared_objects(), time.monotonic()
        fact: dict[str, Any] = {"already": already}
        try:
            module = importlib.import_module(name)
        except Exception as error:
            fact["error"] = described(error)
            # an extension that fails leaves no line in the traceback; its package says where it lies
            top = sys.modules.get(name.split(".")[0])
            fact["top"] = _file(top) if top else ""
            fact["passed_over"] = _passed_over(error)
        else:
            fact.update(_where(module, name))
        fact["seconds"] = round(time.monotonic() - began, 4)
        fact["files"] = opened.count - before
        fact["shared_objects"] = len(mapped.shared_objects() - objects)
        facts[name] = fact
    return facts


def _where(module, name):
    """The file of the module, that of its top package, and the version that it gives itself."""
    top = sys.modules.get(name.split(".")[0], module)
    version = getattr(module, "__version__", None) or getattr(top, "__version__", None)
    return {
        "file": _file(module),
        "real_file": os.path.realpath(_file(module)) if _file(module) else "",
        "version": str(version) if version else "",
    }


def _file(module):
    file = getattr(module, "__file__", None)
    if not file:  # a namespace package
        places = list(getattr(module, "__path__", ()))
        file = places[0] if places else ""
    return os.path.abspath(file) if file else ""


def _passed_over(error):
    """The extensions in the package of a module that was not found, which bear its name and the tag of another ABI."""
    package, _, name = (getattr(error, "name", None) or "").rpartition(".")
    if not isinstance(error, ModuleNotFoundError) or package not in sys.modules:
        return []
    found = []
    for folder in getattr(sys.modules[package], "__path__", ()):
        if os.path.isdir(folder):
            found += [file for file in os.listdir(folder) if file.startswith(name + ".") and file.endswith(".so")]
    return sorted(found)


def _without_init():
    """Import mpi4py.MPI without MPI_Init: one process outside a launcher has no right to start an MPI everywhere."""
    try:
        mpi4py = importlib.import_module("mpi4py")
    except Exception:
        return
    mpi4py.rc.initialize = False
