"""Evidence as the probes write it, made without a framework: the network of the probes in plain Python trains it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from envbuilder import checks
from envbuilder.evidence import Evidence, Expectation, MpiExpectation, Outcome, ProbeRun, RankEvidence
from envbuilder.probes import exact, training
from envbuilder.probes.report import plain

PREFIX = "/store/envs/one"
LIBRARY = PREFIX + "/lib/libmpi.so.12"
SHA = "ad61" * 16


class Trainer:
    """What the probes ask of a framework, in plain Python."""

    def __init__(self, first: int, count: int) -> None:
        self.batch = exact.batch(first, count)
        self.present = exact.weights()
        self.slopes: dict[str, list[float]] = {}

    def rate(self) -> float:
        """The learning rate."""
        return exact.RATE

    def gradient(self, announce: Callable[[str], None]) -> float:
        """Forward and backward."""
        announce("backward")
        step = exact.Pass(*self.batch, self.present)
        self.slopes = step.gradients
        return step.loss

    def update(self) -> None:
        """Plain SGD."""
        self.present = {
            name: [value - exact.RATE * slope for value, slope in zip(flat, self.slopes[name], strict=True)]
            for name, flat in self.present.items()
        }

    def gradients(self) -> dict[str, list[float]]:
        """The gradients."""
        return self.slopes

    def parameters(self) -> dict[str, list[float]]:
        """The parameters."""
        return self.present


def course(samples: int = 8, steps: int = 3) -> dict[str, Any]:
    """The facts of a healthy training, with the comparisons of `single`."""
    done = training.Course(Trainer(0, samples), steps, lambda _: None)
    facts = done.facts()
    facts["onednn"] = {"primitives": {"convolution": {"count": 6}, "gemm_api": {"count": 9}}, "lines": 20}
    facts["first"] = training.judged_step(done.start, samples, done.first, done.first)
    facts["last"] = training.judged_step(done.before_last, samples, done.last, done.last)
    return facts


def imports(*names: str) -> dict[str, Any]:
    """Modules inside the environment."""
    return {
        name: {
            "already": False,
            "file": f"{PREFIX}/lib/python3.11/site-packages/{name}/__init__.py",
            "real_file": f"{PREFIX}/lib/python3.11/site-packages/{name}/__init__.py",
            "version": "1.0",
            "seconds": 0.5,
            "files": 10,
            "shared_objects": 3,
        }
        for name in names
    }


def single(framework: str = "torch") -> dict[str, Any]:
    """The facts of a healthy `single` probe."""
    site = f"{PREFIX}/lib/python3.11/site-packages"
    distributions = {
        name: {"version": version, "location": site, "real_location": site, "requires": requires, "shadowed": []}
        for name, version, requires in (
            ("torch", "2.13.0+cpu", ["numpy<3", "networkx; extra == 'graphs'", "tomli; python_version < '3.8'"]),
            ("numpy", "2.1.0", []),
        )
    }
    return {
        "interpreter": {
            "prefix": PREFIX,
            "real_prefix": PREFIX,
            "stdlib": "/python/lib/python3.11",
            "user_site": "/home/one/.local/lib/python3.11/site-packages",
            "sitecustomize": "",
            "markers": {"python_version": "3.11", "sys_platform": "linux"},
        },
        "environment": {},
        "caches": {
            "TORCH_HOME": {"path": "/scratch/torch", "error": ""},
            "HF_HOME": {"path": "/scratch/hf", "error": ""},
        },
        "distributions": distributions,
        "imports": imports("numpy", framework),
        framework: {"mkldnn_available": True, "mkldnn_enabled": True, "distributed": True, "gloo": True, "mpi": False},
        f"{framework}_training": course(),
    }


def rank(number: int, size: int = 2, framework: str = "torch") -> dict[str, Any]:
    """The facts of one healthy rank."""
    library = {"path": LIBRARY, "realpath": LIBRARY, "sha256": SHA, "build_id": "", "soname": "libmpi.so.12"}
    library["implements"] = True  # type: ignore[assignment]
    return {
        "process": {"pid": 100 + number, "host": "node1", "turn": 20, "launcher": "PMI_RANK"},
        "environment": {},
        "world": {
            "rank": number,
            "size": size,
            "host": "node1",
            "launcher": {"variable": "PMI_RANK"},
            "thread_level": {"by": "mpi4py", "asked": "multiple", "provided": "multiple"},
        },
        "affinity": {
            "host": "node1",
            "cpus": "0-1",
            "around": "0-1",
            "cpuset": "0-1",
            "quota": 0,
            "variables": {"OMP_NUM_THREADS": "1"},
        },
        "threads": {"cpus": "0-1", "count": 4, "computing": {framework: 1}, "own": {"OMP_NUM_THREADS": "1"}},
        "mpi": {
            "library_version": "MPICH 5",
            "extension": "/x/MPI.so",
            "owner": LIBRARY,
            "implementation": LIBRARY,
            "libraries": [library],
        },
        "libraries_at_end": [library],
        "collectives": {
            "integers": {"seen": 1, "right": 1},
            "floats": {"count": 1024, "wrong": 0, "first_wrong": -1, "seen": 0.375, "right": 0.375},
            "gathered": {"seen": [0, 1], "right": [0, 1]},
            "broadcast": {"seen": "from 1", "right": "from 1"},
        },
        framework: course(),
    }


def process(probe: str, number: int, facts: Mapping[str, Any], **changes: Any) -> RankEvidence:
    """The evidence of one process, through JSON as in life."""
    values = {"phase": "done", "finished": True, "seconds": 1.0, **changes}
    return RankEvidence(probe=probe, rank=number, facts=json.loads(json.dumps(plain(facts))), **values)


def run(probe: str, *processes: RankEvidence, asked: int = 0, **changes: Any) -> ProbeRun:
    """One launch."""
    values = {"launcher": "hydra", "code": 0, "timed_out": False, "seconds": 9.0, "output": "", **changes}
    return ProbeRun(probe=probe, asked=asked or len(processes), ranks=processes, **values)


def expectation(**changes: Any) -> Expectation:
    """What the recipe, the lock and the manifest say."""
    values: dict[str, Any] = {
        "environment": "one",
        "digest": "0" * 64,
        "prefix": PREFIX,
        "python": "3.11.7",
        "features": ("mpi4py", "torch", "onednn"),
        "imports": ("numpy", "torch"),
        "packages": {"torch": "2.13.0+cpu", "numpy": "2.1.0"},
        "records": {},
        "written": {},
        "mpi": MpiExpectation(
            provider="wheel",
            name="mpich",
            version="5.0.2",
            soname="libmpi.so.12",
            library=LIBRARY,
            build_id="",
            sha256=SHA,
        ),
        "ranks": 2,
    }
    return Expectation(**{**values, **changes})


def judged(*runs: ProbeRun, **changes: Any) -> dict[str, Outcome]:
    """The outcomes of the checks that these runs serve."""
    reasons = dict.fromkeys({"static", "single", "ranks"} - {one.probe for one in runs}, "not gathered")
    evidence = Evidence(runs={one.probe: one for one in runs})
    outcomes = checks.judge(expectation(**changes), evidence, reasons)
    return {outcome.check: outcome for outcome in outcomes if outcome.cause != "not gathered"}


def causes(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """The causes of all failures."""
    return {name: outcome.cause for name, outcome in outcomes.items() if outcome.status == "fail"}
