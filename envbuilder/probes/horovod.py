"""What Horovod's build holds: its extension for each framework, which framework it was built for, what it loads."""

import glob
import importlib
import importlib.util
import json
import os
from typing import Any

from . import elf, mapped
from .report import described

FRAMEWORKS = ("tensorflow", "torch")


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
            return {str(name): str(version) for name, version in json.load(source).items()}
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


def state(hvd, path):
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
