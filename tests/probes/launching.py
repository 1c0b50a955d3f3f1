"""Run a probe in an environment as verify does, faults included, and let the checks judge."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from envbuilder import checks, probes
from envbuilder.evidence import Evidence, Expectation, MpiExpectation, Outcome, ProbeRun
from envbuilder.process import Command, capture, patched
from envbuilder.verify import read_evidence

QUIET = {"PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}

# Runs code after a module was imported: a fault in the environment, not in the probe.
HOOK = """
import importlib.abc, importlib.util, sys

def fault(module):
{code}

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def then(module):
            run(module)
            fault(module)
        spec.loader.exec_module = then
        return spec

sys.meta_path.insert(0, Finder())
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An environment under test and what its recipe would say."""

    prefix: Path
    features: tuple[str, ...]
    imports: tuple[str, ...]
    ranks: int = 2
    packages: Mapping[str, str] = field(default_factory=dict)

    def expectation(self) -> Expectation:
        """What must hold: everything that is installed, and the MPI of the prefix."""
        return Expectation(
            environment="test",
            digest="0" * 64,
            prefix=str(self.prefix),
            python="3",
            features=self.features,
            imports=self.imports,
            packages=self.packages or installed(self.prefix),
            records={},
            written={},
            mpi=mpi_of(self.prefix),
            ranks=self.ranks,
        )


def installed(prefix: Path) -> dict[str, str]:
    """Every distribution of a prefix with its version, as its metadata say."""
    found = {}
    for file in prefix.glob("lib/python*/site-packages/*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(file.read_text(encoding="utf-8"))
        found[fields["Name"].lower().replace("_", "-").replace(".", "-")] = fields["Version"]
    return found


def mpi_of(prefix: Path) -> MpiExpectation:
    library = (prefix / "lib" / "libmpi.so.12").resolve()
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    return MpiExpectation(
        provider="wheel",
        name="mpich",
        version="5",
        soname="libmpi.so.12",
        library=str(library),
        build_id="",
        sha256=digest,
    )


def lay_out(subject: Subject, control: Path, steps: int = 8) -> Path:
    """A control directory as the runner makes it."""
    control.mkdir(parents=True)
    source = Path(probes.__file__).parent
    shutil.copytree(source, control / "envbuilder_probes", ignore=shutil.ignore_patterns("__pycache__"))
    question = {
        "schema": 1,
        "features": list(subject.features),
        "imports": list(subject.imports),
        "ranks": subject.ranks,
        "steps": steps,
        "distributions": sorted(subject.expectation().packages),
        "caches": ["HOME"],
    }
    (control / "input.json").write_text(json.dumps(question))
    return control


def sitecustomize(directory: Path, module: str, code: str) -> dict[str, str]:
    """A directory for PYTHONPATH whose sitecustomize runs `code` (with `module`) after the module was imported."""
    directory.mkdir(parents=True)
    body = textwrap.indent(textwrap.dedent(code).strip(), "    ")
    (directory / "sitecustomize.py").write_text(HOOK.format(module=module, code=body))
    return {"PYTHONPATH": str(directory)}


def launch(
    subject: Subject,
    probe: str,
    control: Path,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 180,
    started: int | None = None,
    mpiexec: Path | None = None,
) -> ProbeRun:
    """One launch of a probe; `started` starts another number of ranks than is asked for, `mpiexec` by another launcher."""
    lay_out(subject, control)
    argv = (str(subject.prefix / "bin" / "python"), "-m", "envbuilder_probes", probe, str(control))
    asked = 1
    if probe == "ranks":
        asked = subject.ranks
        argv = (str(mpiexec or subject.prefix / "bin" / "mpiexec"), "-n", str(started or asked), *argv)
    done = capture(Command(argv=argv, env={**QUIET, **(env or {})}, cwd=control), timeout=timeout)
    return _run(
        probe, control, asked, code=done.code, output=done.output, seconds=done.seconds, timed_out=done.timed_out
    )


def launch_apart(subject: Subject, control: Path, count: int) -> ProbeRun:
    """`count` processes of the `ranks` probe without a launcher: each is a world of its own."""
    lay_out(subject, control)
    argv = [str(subject.prefix / "bin" / "python"), "-m", "envbuilder_probes", "ranks", str(control)]
    began = time.monotonic()
    running = [subprocess.Popen(argv, cwd=control, env=patched(QUIET)) for _ in range(count)]
    codes = [process.wait(180) for process in running]
    return _run(
        "ranks", control, subject.ranks, code=max(codes), output="", seconds=time.monotonic() - began, timed_out=False
    )


def _run(probe: str, control: Path, asked: int, *, code: int, output: str, seconds: float, timed_out: bool) -> ProbeRun:
    return ProbeRun(
        probe=probe,
        launcher="hydra" if probe == "ranks" else "direct",
        asked=asked,
        code=code,
        timed_out=timed_out,
        seconds=seconds,
        output=output,
        ranks=tuple(read_evidence(control, probe)),
    )


def judged(subject: Subject, *runs: ProbeRun) -> dict[str, Outcome]:
    """The outcomes of all checks for which these runs gathered evidence, by name."""
    reasons = dict.fromkeys(("static", "single", "ranks"), "not gathered")
    for run in runs:
        del reasons[run.probe]
    evidence = Evidence(runs={run.probe: run for run in runs})
    return {
        outcome.check: outcome
        for outcome in checks.judge(subject.expectation(), evidence, reasons)
        if outcome.cause != "not gathered"
    }


def failures(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """The causes of all failed checks."""
    return {name: outcome.cause for name, outcome in outcomes.items() if outcome.status == "fail"}


def assert_all_pass(outcomes: Mapping[str, Outcome]) -> None:
    assert {
        name: (outcome.status, outcome.cause) for name, outcome in outcomes.items() if outcome.status != "pass"
    } == {}
    assert outcomes


def scratch_copy(prefix: Path, to: Path) -> Path:
    """A copy whose files are hard links: replace files in it, never write into them."""
    subprocess.run(["cp", "-al", str(prefix), str(to)], check=True)
    for config in (to / "pyvenv.cfg",):
        text = config.read_text()
        os.unlink(config)
        config.write_text(text)
    return to
