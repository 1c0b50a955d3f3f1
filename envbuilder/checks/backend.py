"""Rung 2: what really computed, from what oneDNN reports of itself and what the build of PyTorch can do."""

from __future__ import annotations

from collections.abc import Mapping

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.reading import Facts, only, part
from envbuilder.evidence import Evidence, Expectation

# What computes. `reorder` only moves data; `gemm_api` is called by frameworks whose oneDNN operations are off, too.
COMPUTING = frozenset({"convolution", "deconvolution", "inner_product", "matmul", "rnn"})
_OFF = frozenset({"0", "false", "off", "no"})


def _executed(framework: str, evidence: Evidence) -> tuple[Mapping[str, int], int] | Failed | NotRun:
    """Executions by primitive in the training of a framework, and the number of lines that oneDNN wrote."""
    facts = part(evidence, f"{framework}_training")
    if isinstance(facts, (Failed, NotRun)):
        return NotRun(facts.cause) if isinstance(facts, Failed) else facts
    told = facts.get("onednn", {})
    counts = {str(kind): int(entry["count"]) for kind, entry in told.get("primitives", {}).items()}
    return counts, int(told.get("lines", 0))


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} x{count}" for kind, count in sorted(counts.items()))


def _judged(counts: Mapping[str, int], lines: int, reason: Failed | None, who: str) -> Finding:
    computed = {kind: count for kind, count in counts.items() if kind in COMPUTING}
    if computed:
        others = {kind: count for kind, count in counts.items() if kind not in COMPUTING}
        beside = f" (beside them, not counted: {_told(others)})" if others else ""
        return Passed(f"executed in the training steps: {_told(computed)}{beside}")
    if reason is not None:
        return Failed(reason.cause, reason.remedy, f"oneDNN reported: {_told(counts) or 'nothing'}")
    if not lines:
        return Failed(
            f"oneDNN reported nothing at all while {who} trained: this build has no oneDNN, or its reports were compiled "
            "out, so that nothing can be proven",
            "use a build with oneDNN and its verbose mode",
        )
    return Failed(
        f"no oneDNN primitive computed anything while {who} trained: oneDNN reported only {_told(counts) or 'no execution'}",
        f"find out what keeps {who} from oneDNN; `gemm_api` and `reorder` are no evidence",
    )


def _tensorflow(_: Expectation, evidence: Evidence) -> Finding:
    seen = _executed("tensorflow", evidence)
    if isinstance(seen, (Failed, NotRun)):
        return seen
    return _judged(*seen, _tensorflow_off(evidence), "TensorFlow")


def _tensorflow_off(evidence: Evidence) -> Failed | None:
    environment = part(evidence, "environment")
    if isinstance(environment, (Failed, NotRun)):
        return None
    value = str(environment.get("TF_ENABLE_ONEDNN_OPTS", ""))
    if value.strip().lower() in _OFF:
        return Failed(
            f"TF_ENABLE_ONEDNN_OPTS={value} is set: TensorFlow's oneDNN operations are off and Eigen did the work",
            "unset TF_ENABLE_ONEDNN_OPTS",
        )
    return None


def _torch(_: Expectation, evidence: Evidence) -> Finding:
    seen = _executed("torch", evidence)
    if isinstance(seen, (Failed, NotRun)):
        return seen
    return _judged(*seen, _torch_off(evidence), "PyTorch")


def _torch_off(evidence: Evidence) -> Failed | None:
    facts = part(evidence, "torch")
    if isinstance(facts, (Failed, NotRun)):
        return None
    if facts.get("mkldnn_available") is False:
        return Failed(
            "this build of PyTorch has no oneDNN (torch.backends.mkldnn.is_available() is False)",
            "use a build with USE_MKLDNN=ON",
        )
    if facts.get("mkldnn_enabled") is False:
        return Failed(
            f"oneDNN is switched off in PyTorch: torch.backends.mkldnn.enabled is False{_custom(evidence)}",
            "remove what calls torch.backends.mkldnn.set_flags(False)",
        )
    return None


def _custom(evidence: Evidence) -> str:
    """A clause that names the sitecustomize that ran at the start, the usual place of such switches."""
    rank = only(evidence)
    if isinstance(rank, (Failed, NotRun)):
        return ""
    file = rank.facts.get("interpreter", {}).get("sitecustomize", "")
    return f" ({file} ran when the interpreter started)" if file else ""


def _backends(expectation: Expectation, evidence: Evidence) -> Finding:
    facts = part(evidence, "torch")
    if isinstance(facts, (Failed, NotRun)):
        return facts
    told = "; ".join(f"{label} {_answer(facts, key)}" for label, key in _BACKENDS)
    if not facts.get("distributed"):
        return Failed("this build of PyTorch has no torch.distributed", "use a build with USE_DISTRIBUTED=1", told)
    if "mpi4py" in expectation.features and "torch-mpi" not in expectation.features and not facts.get("gloo"):
        return Failed(
            "this build of PyTorch has no gloo, which DistributedDataParallel on CPUs needs",
            "use a build with gloo",
            told,
        )
    return Passed(told)


_BACKENDS = (
    ("oneDNN", "mkldnn_enabled"),
    ("gloo", "gloo"),
    ("MPI", "mpi"),
    ("NCCL", "nccl"),
    ("CUDA", "cuda"),
    ("ROCm", "hip"),
)


def _answer(facts: Facts, key: str) -> str:
    value = facts.get(key)
    return str(value) if isinstance(value, str) else "yes" if value else "no"


_WITNESSES = (
    "oneDNN's own report (ONEDNN_VERBOSE) of the primitives that it executed in the training steps, in the formats of its "
    "versions 2 and 3: at least one convolution, deconvolution, inner product, matrix multiplication or RNN."
)

CHECKS: tuple[Check, ...] = (
    Check(
        name="tensorflow-onednn",
        rung=2,
        title="TensorFlow computes with oneDNN",
        source="single",
        judge=_tensorflow,
        features=frozenset({"tensorflow", "onednn"}),
        witnesses=_WITNESSES,
        mistakes="The start-up line 'oneDNN custom operations are on' and IsMklEnabled() are flags. With "
        "TF_ENABLE_ONEDNN_OPTS=0 oneDNN reports more executions, not fewer, all of them gemm_api calls from Eigen. The loss "
        "is the same to seven digits.",
        fails="No computing primitive in the report; TF_ENABLE_ONEDNN_OPTS is named where it is the reason.",
    ),
    Check(
        name="torch-onednn",
        rung=2,
        title="PyTorch computes with oneDNN",
        source="single",
        judge=_torch,
        features=frozenset({"torch", "onednn"}),
        witnesses=_WITNESSES,
        mistakes="torch.backends.mkldnn.is_available() tells how PyTorch was built, not what ran. Linear layers go to MKL and "
        "report nothing, so a network without a convolution shows nothing.",
        fails="No computing primitive in the report: a build without oneDNN and oneDNN switched off are told apart.",
    ),
    Check(
        name="torch-backends",
        rung=2,
        title="what this PyTorch can communicate with",
        source="single",
        judge=_backends,
        features=frozenset({"torch"}),
        witnesses="gloo, MPI, NCCL, CUDA and ROCm, each asked of the live build on its own.",
        mistakes="A backend that a build did not find is left out with a warning, and missed by those who ask for it.",
        fails="gloo is missing where ranks train over gloo. With torch-mpi they train over MPI: see torch-has-mpi.",
    ),
)
