"""What a probe saw (evidence), what should hold (expectation), and what a check made of the two (outcome).

All three are plain frozen data that can be written to disk and read back. Evidence never says "ok": a probe
measures, a check judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from envbuilder.errors import FINE, NOT_VERIFIED, SAID_NO

EVIDENCE_SCHEMA = 1

Status = Literal["pass", "fail", "not-run"]
RUNGS: dict[int, str] = {0: "static", 1: "import", 2: "backend", 3: "train", 4: "ranks"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MpiExpectation:
    """The MPI library that every rank must have mapped.

    `provider` is `wheel` (inside the environment) or `system`. `library` is the real path, `soname` its DT_SONAME,
    `build_id` its GNU build-id in hex ("" where the library has none), `sha256` of the file as hex, `name` the
    implementation (mpich, openmpi, ...), `version` its version.
    """

    provider: Literal["wheel", "system"]
    name: str
    version: str
    soname: str
    library: str
    build_id: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What must hold in an environment, drawn from its manifest and lock; see `envbuilder.verify.expect`.

    `packages` maps each distribution's normalised name to its locked version; `records` maps it to the sha256 of its
    RECORD file as it was right after the installation; `written` maps each file that envbuilder itself wrote (relative
    to the prefix) to its sha256. `features` are the recipe's, and choose the checks. `gpu` and `base` are those of
    `environment.Environment`; `ranks` are spread over `nodes`, each with `cpus_per_rank` CPUs of the launch profile (0: it
    says none). `module_folders` are those that the site's modules put into LD_LIBRARY_PATH, `preloads` the libraries that
    LD_PRELOAD may name (`library`, `why`), `data` the variables that lead to what programs read (`variable`, `why`).
    `gpu_vendor` is whose GPUs the nodes have (`none`, `amd`, ...), whatever the recipe computes on; "" where that is not
    known. `image` (or `pack`) is that of `environment.Environment`; then `prefix` is a place inside it. `conda` maps
    conda packages to version and build. `image_key` is the
    public key that it must be signed with, "" where nobody names one.
    """

    environment: str
    digest: str
    prefix: str
    python: str
    features: tuple[str, ...]
    imports: tuple[str, ...]
    packages: Mapping[str, str]
    records: Mapping[str, str]
    written: Mapping[str, str]
    mpi: MpiExpectation | None
    ranks: int
    nodes: int = 1
    cpus_per_rank: int = 0
    gpu: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] | None = None
    module_folders: tuple[str, ...] = ()
    preloads: tuple[Mapping[str, str], ...] = ()
    data: tuple[Mapping[str, str], ...] = ()
    gpu_vendor: str = ""
    image: Mapping[str, Any] | None = None
    image_key: str = ""
    pack: Mapping[str, Any] | None = None
    conda: Mapping[str, str] = field(default_factory=dict)
    spack: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankEvidence:
    """One probe in one process. `facts` is the probe's own JSON; `error` is set when it ended early.

    `phase` is the last phase that the probe announced, `finished` whether it wrote its final file, `seconds` its wall
    time inside the process.
    """

    probe: str
    rank: int
    phase: str
    finished: bool
    seconds: float
    facts: Mapping[str, Any]
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRun:
    """One launch of one probe: which launcher, how it ended, what each rank wrote.

    `code` is the launcher's exit code (negative for a signal), `timed_out` whether we ended it, `output` the tail of
    its merged stdout and stderr, `seconds` the wall time of the launch, `asked` the number of ranks asked for.
    """

    probe: str
    launcher: str
    asked: int
    code: int
    timed_out: bool
    seconds: float
    output: str
    ranks: tuple[RankEvidence, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything that one verify saw: `static` facts of rung 0, and one `ProbeRun` per probe that was launched."""

    static: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, ProbeRun] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one check says.

    `pass` comes with what was witnessed, `fail` with cause and remedy, `not-run` with the reason in `cause`.
    """

    check: str
    rung: int
    title: str
    status: Status
    witnessed: str = ""
    cause: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Every outcome, the evidence behind them, and what it cost in seconds (`probe_seconds`: the probes' own run time)."""

    outcomes: tuple[Outcome, ...]
    evidence: Evidence
    control: Path
    seconds: float
    static_seconds: float
    probe_seconds: float

    @property
    def exit_code(self) -> int:
        """0 if all passed, 1 if one failed, 4 if none failed but one could not be made (or there was none)."""
        states = {outcome.status for outcome in self.outcomes}
        if "fail" in states:
            return SAID_NO
        return FINE if states == {"pass"} else NOT_VERIFIED
