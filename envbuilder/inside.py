"""What runs inside an image, by the image's own Python: the same eyes that look at a machine and at a tree.

This package and pyelftools are bound into the image for it; nothing of them stays there. A question and its answer are JSON
files in a folder that is bound, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from envbuilder import dpkg, host, inventory, mounts
from envbuilder.document import load_json, to_json, write_atomically
from envbuilder.errors import EnvbuilderError
from envbuilder.evidence import Expectation, MpiExpectation
from envbuilder.partition import MpiContract, Partition
from envbuilder.site import Site
from envbuilder.target import Mpi
from envbuilder.witness import witness


def main(words: list[str]) -> None:
    """Answer one question: `QUESTION FOLDER` are the words."""
    question, folder = words
    asked = load_json(Path(folder, "question.json"), "question")
    try:
        answer: dict[str, Any] = {"answer": QUESTIONS[question](asked)}
    except EnvbuilderError as error:
        answer = {"error": error.message, "hint": error.hint}
    write_atomically(Path(folder, "answer.json"), to_json(answer))


def look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The target that the image is: its Python, C library, MPI and compilers, found as on any machine."""
    partition = Partition(mpi=MpiContract(provider="detect", package=asked["mpi_wheel"]))
    site = Site(schema=1, name="image", summary="", partitions={"image": partition}, default_partition="image")
    return host.target(site, "image", host.own_python(), with_mpi=asked["with_mpi"]).to_document()


def take_stock(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The inventory of the tree, and the MPI library that ranks must have mapped."""
    prefix = Path(asked["prefix"])
    found = inventory.take(prefix)
    mpi = inventory.mpi_library(prefix, Mpi(**asked["mpi"])) if asked["mpi"] else None
    return {"records": found.records, "written": found.written, "mpi": mpi}


def look_at_files(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The static facts of the tree, under the variables that a process in the image has."""
    values = dict(asked["expectation"])
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    mpi = values["mpi"]
    found = witness(Expectation(**{**values, "mpi": MpiExpectation(**mpi) if mpi else None}), os.environ)
    if not values["image"]:
        return found
    return {**found, "mounts": mounts.over(Path("/proc/self/mountinfo").read_text("utf-8"), values["prefix"])}


def read_contents(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What an image says of itself, its lock, its distribution's packages (None where dpkg is not what it has), its Python."""
    about = Path(asked["about"])
    folder, status, release = about / "lock", Path(asked["status"]), Path(asked["release"])
    envelope = folder / "lock.json"
    python = host.own_python()
    told = about / "about.json"
    return {
        "about": load_json(told, "image's own description") if told.is_file() else {},
        "libc": host.identity()["libc"],
        "envelope": load_json(envelope, "lock") if envelope.is_file() else None,
        "bodies": {path.name: path.read_text("utf-8") for path in sorted(folder.glob("pylock*.toml"))},
        "packages": list(dpkg.packages(status.read_text("utf-8", "replace"))) if status.is_file() else None,
        "release": dpkg.release(release.read_text("utf-8", "replace") if release.is_file() else ""),
        "python": {"path": python.path, "version": python.version, "soabi": python.soabi},
    }


QUESTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "contents": read_contents,
    "look": look,
    "stock": take_stock,
    "static": look_at_files,
}
