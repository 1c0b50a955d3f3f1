"""Measure images beside what they are compared with; see benchmarks/README.md. Needs Apptainer on the PATH."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable

from common import ENVBUILDER, Place, Result, compared, main

RECIPE = "tensorflow-onednn@2.21.0"
SMALL = "mpi4py"
IMAGE = ("--builder", "apptainer")


def _pinned(place: Place, six: str) -> dict[str, str]:
    """The variables under which the recipe `second` is TensorFlow's with one pure-Python package in this version."""
    folder = place.scratch / f"recipes-{six}" / "second"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(
        "schema: 1\nname: second\nsummary: one with a pinned package\nextends: tensorflow-onednn\n"
        f'variants: [{{version: "2.21.0", python: ">=3.10,<3.14"}}]\npackages: ["six=={six}"]\n'
    )
    return {"ENVBUILDER_RECIPE_PATH": str(folder.parent)}


def _store(place: Place, name: str, *kept: str) -> Place:
    """A store with nothing in it but what is kept of the other one, by hard links."""
    home = place.scratch / name
    for below in kept:
        source = place.home / below
        if source.is_dir():
            shutil.copytree(source, home / below, copy_function=os.link)
    return Place(home=home, scratch=place.scratch)


def _rebuild(place: Place, name: str, *kept: str) -> tuple[float, float]:
    """Seconds of a build in a store with so much in it, and of the next one, for which one package changed.

    Both are locked beforehand, and the time of that is added: a minute later an index may have another version of what is
    compiled, and that would be another change than this one.
    """
    recipes = {six: _pinned(place, six) for six in ("1.16.0", "1.17.0")}
    locks, locking = [], []
    for six, variables in recipes.items():
        locks.append(("build", "second", *IMAGE, "--lock", str(place.scratch / f"lock-{six}")))
        locking.append(place.run(ENVBUILDER, "lock", "second", *IMAGE, "-o", locks[-1][-1], env=variables))
    before, after = recipes.values()
    place.run(ENVBUILDER, *locks[0], env=before)  # fetches
    fresh = _store(place, name, "cache/artefacts", *kept)
    full = locking[0] + fresh.run(ENVBUILDER, *locks[0], env=before)
    again = locking[1] + fresh.run(ENVBUILDER, *locks[1], env=after)
    shutil.rmtree(fresh.home)
    return again, full


def rebuild(place: Place) -> Result:
    """A build after a change of one pure-Python package beside the full one, in a store with downloads and nothing else."""
    again, full = _rebuild(place, "full")
    return Result(name="image after a small change / full build", ours=again, theirs=full, rounds=1, limit=0.25)


def repack(place: Place) -> Result:
    """The same where the base's layers and the compiled wheels were there for the full build, too; no limit was set for it."""
    again, full = _rebuild(place, "kept", "bases", "wheels")
    return Result(name="the same, with the base at hand", ours=again, theirs=full, rounds=1, limit=1)


def enter(place: Place) -> Result:
    """`envbuilder run`, with its gate, beside a bare `apptainer exec` of the same image."""
    place.run(ENVBUILDER, "build", SMALL, *IMAGE)
    place.run(ENVBUILDER, "verify", f"{SMALL}.sif")
    environment = json.loads(place.output(ENVBUILDER, "envs", "show", f"{SMALL}.sif", "--json"))
    image = environment["image"]
    bare = (image["runtime"]["program"], "--silent", "exec", "--userns", image["file"], "true")
    a, b = compared(lambda: place.run(ENVBUILDER, "run", f"{SMALL}.sif", "--", "true"), lambda: place.run(*bare), 25)
    return Result(name="envbuilder run / apptainer exec", ours=a, theirs=b, rounds=25, limit=1.2)


def opens(place: Place) -> Result:
    """The files of the host that `import tensorflow` opens in a tree, beside those in an image."""
    place.run(ENVBUILDER, "build", RECIPE)
    place.run(ENVBUILDER, "build", RECIPE, *IMAGE)
    said = place.output(ENVBUILDER, "import-cost", RECIPE, f"{RECIPE}.sif", "--json")
    tree, image = json.loads(said)["environments"]
    now = image["importing"]["host_opens"]
    note = f"before the import starts the runtime itself opens {image['starting']['host_opens']}"
    return Result(
        name="opens of an import, tree / image",
        ours=max(1, now),
        theirs=tree["importing"]["host_opens"],
        rounds=1,
        limit=100,
        at_least=True,
        note=note,
        unit="files",
    )


TOPICS: dict[str, Callable[[Place], Result]] = {
    "rebuild": rebuild,
    "repack": repack,
    "enter": enter,
    "opens": opens,
}

if __name__ == "__main__":
    sys.exit(main(TOPICS, str(__doc__)))
