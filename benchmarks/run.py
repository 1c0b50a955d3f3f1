"""Measure envbuilder beside what it is compared with; see benchmarks/README.md."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import ENVBUILDER, Place, Result, compared, main
from uv import find_uv_bin

import envbuilder

RECIPE = "tensorflow-onednn"
SOURCE = "mpi4py"


def start(place: Place) -> Result:
    """`envbuilder --help` beside a bare interpreter."""
    a, b = compared(lambda: place.run(ENVBUILDER, "--help"), lambda: place.run(sys.executable, "-c", "pass"), 25)
    return Result(name="envbuilder --help / python -c pass", ours=a, theirs=b, rounds=25, limit=4)


def noop(place: Place) -> Result:
    """Building what is built beside a bare interpreter."""
    place.run(ENVBUILDER, "build", RECIPE)
    a, b = compared(lambda: place.run(ENVBUILDER, "build", RECIPE), lambda: place.run(sys.executable, "-c", "pass"), 25)
    return Result(name="build of what is built / python -c pass", ours=a, theirs=b, rounds=25, limit=10)


def warm(place: Place) -> Result:
    """A warm rebuild beside a raw `uv pip sync` of the same lock into a new venv, with the same cache.

    Nothing that decides the environment has changed since it was built, so its plan is carried out again.
    """
    place.run(ENVBUILDER, "build", RECIPE)
    body = place.output(ENVBUILDER, "lock", RECIPE) + "/pylock.toml"
    env = {"UV_CACHE_DIR": str(place.home / "cache" / "uv"), "UV_NO_CONFIG": "1"}

    def ours() -> float:
        place.forget(RECIPE)
        return place.run(ENVBUILDER, "build", RECIPE)

    def theirs() -> float:
        venv = tempfile.mkdtemp(dir=place.scratch)
        first = place.run(find_uv_bin(), "venv", venv, env=env)
        return first + place.run(find_uv_bin(), "pip", "sync", "--python", f"{venv}/bin/python", body, env=env)

    a, b = compared(ours, theirs, 5)
    return Result(name="warm rebuild / uv venv + uv pip sync", ours=a, theirs=b, rounds=5, limit=1.3)


def shared(place: Place) -> Result:
    """A second environment, whose compiled wheel another one has already, beside a raw sync of its lock; the wheel included."""
    folder = place.scratch / "recipes" / "second"
    folder.mkdir(parents=True)
    text = (
        f"schema: 1\nname: second\nsummary: another environment with the same MPI\nextends: {RECIPE}\n"
        'variants: [{version: "2.21.0", python: ">=3.10,<3.14"}]\npackages: [pyyaml]\n'
    )
    (folder / "recipe.yaml").write_text(text)
    second = {"ENVBUILDER_RECIPE_PATH": str(folder.parent)}
    place.run(ENVBUILDER, "build", RECIPE)
    body = place.output(ENVBUILDER, "lock", "second", env=second) + "/pylock.toml"
    cached = {"UV_CACHE_DIR": str(place.home / "cache" / "uv"), "UV_NO_CONFIG": "1"}
    place.run(ENVBUILDER, "build", "second", env=second)
    kept = json.loads(place.output(ENVBUILDER, "build", "second", "--explain-cache", "--json", env=second))["wheels"]
    assert [one["kept"] for one in kept] == [True]

    def ours() -> float:
        place.forget("second")
        # it is the first build of its kind that counts: all that is remembered is what the machine answered to others
        for memo in (place.home / "memos").iterdir():
            if not memo.name.startswith("host-"):
                memo.unlink()
        return place.run(ENVBUILDER, "build", "second", env=second)

    def theirs() -> float:
        venv = tempfile.mkdtemp(dir=place.scratch)
        first = place.run(find_uv_bin(), "venv", venv, env=cached)
        return first + place.run(find_uv_bin(), "pip", "sync", "--python", f"{venv}/bin/python", body, env=cached)

    a, b = compared(ours, theirs, 5)
    place.run(ENVBUILDER, "envs", "rm", "second")
    return Result(name="build that shares a wheel / uv venv + uv pip sync", ours=a, theirs=b, rounds=5, limit=1.3)


def source(place: Place) -> Result:
    """mpi4py's environment with nothing compiled, from a fresh source, beside the compilation in it, timed where it runs.

    Two runs of one compiler differ by more than the limit on machines that others use, too; so both sides are of one run.
    What the same command takes by itself, without ccache before it, is in the note.
    """
    lock = str(place.scratch / "lock")
    place.run(ENVBUILDER, "lock", SOURCE, "-o", lock)
    build = (ENVBUILDER, "build", SOURCE, "--lock", lock)
    place.run(*build)
    (wheel,) = json.loads(place.output(*build, "--explain-cache", "--json"))["wheels"]
    bare = _bare(place, place.scratch / "bare", lock)
    used: dict[str, list[float]] = {"ours": [], "inside": [], "bare": []}

    def ours() -> float:
        place.run(ENVBUILDER, "envs", "rm", SOURCE)
        shutil.rmtree(wheel["path"])
        shutil.rmtree(place.home / "cache" / "ccache", ignore_errors=True)
        before = _cpu()
        wall = place.run(*build)
        used["ours"].append(_cpu() - before)
        log = max((place.home / "logs").glob("*-build-mpi4py*.log"), key=lambda path: path.stat().st_mtime)
        used["inside"].append(
            float(re.findall(r"^the compilation took ([0-9.]+) s$", log.read_text(), re.MULTILINE)[-1])
        )
        return wall

    def alone() -> float:
        before = _cpu()
        wall = bare()
        used["bare"].append(_cpu() - before)
        return wall

    a, b = compared(ours, alone, 3)
    note = f"alone {b:.1f} s; processor time, the least of each: {min(used['ours']):.1f} and {min(used['bare']):.1f} s"
    inside = statistics.median(used["inside"][1:])
    return Result(
        name="build from source / the compilation in it", ours=a, theirs=inside, rounds=3, limit=1.05, note=note
    )


def _cpu() -> float:
    """The processor time of all programs that were run and have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _bare(place: Place, work: Path, lock: str) -> Callable[[], float]:
    """The compilation of a plan, in another folder: what runs it anew and tells its seconds."""
    steps = json.loads(place.output(ENVBUILDER, "plan", SOURCE, "--lock", lock, "--json"))["steps"]
    (made,) = (step["steps"] for step in steps if step["do"] == "product")
    (unpack,) = (step for step in made if step["do"] == "run" and step["title"].startswith("unpack "))
    (spec,) = (step["text"] for step in made if step["do"] == "write" and step["path"].endswith("/compile.json"))
    planned = json.loads(spec)["work"]
    command = [word.replace(planned, str(work)) for word in json.loads(spec)["command"]]
    env = {name: value.replace(planned, str(work)) for name, value in unpack["env"].items()}
    body = f"{lock}/pylock.build-{SOURCE}.toml"
    cached = {"UV_CACHE_DIR": str(place.home / "cache" / "uv"), "UV_NO_CONFIG": "1"}
    place.run(find_uv_bin(), "venv", "--python", sys.executable, str(work / "env"), env=cached)
    place.run(find_uv_bin(), "pip", "sync", "--python", str(work / "env" / "bin" / "python"), body, env=cached)
    tool = Path(envbuilder.__file__).parent / "workshop" / "unpack.py"

    def seconds() -> float:
        shutil.rmtree(work / "out", ignore_errors=True)
        shutil.rmtree(work / "source", ignore_errors=True)
        _, _, _, archive, mark, _ = unpack["argv"]
        place.run(sys.executable, str(tool), archive, mark, str(work / "source"))
        started = time.perf_counter()
        subprocess.run(command, cwd=work, env=env, capture_output=True, check=True)
        return time.perf_counter() - started

    return seconds


def pip(place: Place) -> Result:
    """A warm rebuild beside `python -m venv` and pip from the same pins, wheels only, one round: it takes a minute."""
    place.run(ENVBUILDER, "build", RECIPE)
    environment = json.loads(place.output(ENVBUILDER, "envs", "show", RECIPE, "--json"))
    pins = [f"{name}=={version}" for name, version in sorted(environment["packages"].items())]
    place.forget(RECIPE)
    ours = place.run(ENVBUILDER, "build", RECIPE)
    venv = place.scratch / "pip"
    python = environment["python"]["path"]
    theirs = place.run(python, "-m", "venv", str(venv))
    theirs += place.run(f"{venv}/bin/python", "-m", "pip", "install", "--quiet", *pins)
    return Result(
        name="python -m venv + pip / warm rebuild",
        ours=ours,
        theirs=theirs,
        rounds=1,
        limit=5,
        at_least=True,
        note="pip compiles bytecode and has no cache where the index forbids one",
    )


def verify(place: Place) -> Result:
    """`envbuilder verify` beside the same probes run by hand, from the control directory that it left."""
    prefix = place.output(ENVBUILDER, "build", RECIPE)
    document = json.loads(place.output(ENVBUILDER, "verify", RECIPE, "--json"))
    control = Path(document["environments"][0]["evidence"])

    def ours() -> float:
        return place.run(ENVBUILDER, "verify", RECIPE)

    def theirs() -> float:
        again = Path(tempfile.mkdtemp(dir=place.scratch))
        shutil.copytree(control / "envbuilder_probes", again / "envbuilder_probes")
        shutil.copy(control / "input.json", again)
        threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
        line = (
            f'. "{prefix}/bin/activate" && cd "{again}" && python -m envbuilder_probes single "{again}" && '
            f'OMP_NUM_THREADS={threads} mpiexec -n 2 python -m envbuilder_probes ranks "{again}"'
        )
        return place.run("bash", "-c", line)

    a, b = compared(ours, theirs, 5)
    return Result(name="verify / its probes run by hand", ours=a, theirs=b, rounds=5, limit=1.15)


def modules(place: Place) -> Result:
    """The capture of ten modules' effect beside the bare `module load` in a shell that is started the same way."""
    from envbuilder import modules as door
    from envbuilder.partition import Partition
    from envbuilder.site import Modules, Site

    folder = place.scratch / "modulefiles"
    names = [f"part{number}/1.{number}" for number in range(10)]
    for number, name in enumerate(names):
        path = folder / f"{name}.lua"
        path.parent.mkdir(parents=True)
        path.write_text(
            f'setenv("PART{number}","x")\nprepend_path("PATH","/opt/part{number}/bin")\n'
            f'prepend_path("LD_LIBRARY_PATH","/opt/part{number}/lib")\n'
        )
    partition = Partition(modules=tuple(names), module_paths=(str(folder),))
    site = Site(
        schema=1,
        name="bench",
        summary="",
        partitions={"p": partition},
        default_partition="p",
        modules=Modules(system="lmod"),
    )
    line = f". /etc/profile; module use {folder}; module load {' '.join(names)}"

    def ours() -> float:
        started = time.perf_counter()
        assert door.load(site, partition)
        return time.perf_counter() - started

    def theirs() -> float:
        started = time.perf_counter()
        subprocess.run(["bash", "--noprofile", "--norc", "-c", line], env=door.bare(), capture_output=True, check=True)
        return time.perf_counter() - started

    a, b = compared(ours, theirs, 15)
    return Result(name="capture of 10 modules / module load", ours=a, theirs=b, rounds=15, limit=1.2)


def gate(place: Place) -> Result:
    """The gate on a valid proof beside `envbuilder --version`; the second time it opens, and all that follow."""
    place.run(ENVBUILDER, "build", RECIPE)
    place.run(ENVBUILDER, "verify", RECIPE)
    place.run(ENVBUILDER, "gate", RECIPE)
    a, b = compared(lambda: place.run(ENVBUILDER, "gate", RECIPE), lambda: place.run(ENVBUILDER, "--version"), 25)
    return Result(name="gate on a valid proof / --version", ours=a, theirs=b, rounds=25, limit=1.5)


def lint(place: Place) -> Result:
    """Linting every shipped recipe against every partition of every shipped site; beside two seconds."""
    seconds = statistics.median(place.run(ENVBUILDER, "lint") for _ in range(5))
    return Result(name="lint of all recipes and sites / 2 s", ours=seconds, theirs=2.0, rounds=5, limit=1)


def drift(place: Place) -> Result:
    """What changed on the host since TensorFlow's proof; beside five seconds."""
    place.run(ENVBUILDER, "build", RECIPE)
    place.run(ENVBUILDER, "verify", RECIPE)
    seconds = statistics.median(place.run(ENVBUILDER, "drift", RECIPE) for _ in range(5))
    return Result(name="drift of TensorFlow's environment / 5 s", ours=seconds, theirs=5.0, rounds=5, limit=1)


TOPICS: dict[str, Callable[[Place], Result]] = {
    "start": start,
    "noop": noop,
    "warm": warm,
    "shared": shared,
    "source": source,
    "pip": pip,
    "verify": verify,
    "modules": modules,
    "gate": gate,
    "lint": lint,
    "drift": drift,
}


if __name__ == "__main__":
    sys.exit(main(TOPICS, str(__doc__)))
