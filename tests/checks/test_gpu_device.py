"""The check that a GPU computes, on made-up evidence: no machine of the tests has a GPU of the kinds that it judges."""

from __future__ import annotations

from typing import Any

import pytest
from made import judged, process, run, single

from envbuilder.checks.gpu_device import CHECKS
from envbuilder.evidence import Outcome

AMD = {"vendor": "amd", "arch": "gfx90a", "toolkit": "rocm@6.3.4", "wheel_toolkit": "rocm@6.3"}
NVIDIA = {"vendor": "nvidia", "arch": "sm_90", "toolkit": "cuda@12.6", "wheel_toolkit": "cuda@12.6"}
RIGHT = {"count": 4, "expected": 4, "largest": 0.0}


def seen(**changes: Any) -> dict[str, Any]:
    """What the probe says on a node with two MI210."""
    device = {"name": "AMD Instinct MI210", "arch": "gfx90a:sramecc+:xnack-", "memory": 2**36}
    made = {"host": "nid200001", "version": "2.9.1+rocm6.3", "hip": "6.3.42134", "cuda": None, "available": True}
    return {**made, "archs": ["gfx908", "gfx90a"], "devices": [device, device], "variables": {}, **changes}


def answer(number: int = 0, **changes: Any) -> dict[str, Any]:
    """What one device answers."""
    made = {"number": number, "where": f"cuda:{number}", "matmul": RIGHT, "convolution": RIGHT}
    return {**made, "kernels": 3, "microseconds": 41.5, "names": ["Cijk_Ailk_Bljk_SB"], **changes}


def judge(gpu: dict[str, Any], *answers: dict[str, Any], expected: dict[str, str] | None = None) -> Outcome:
    facts = {**single(), "gpu": gpu, "gpu_compute": {"devices": list(answers or (answer(0), answer(1)))}}
    return _outcome(facts, expected)


def _outcome(facts: dict[str, Any], expected: dict[str, str] | None = None, **changes: Any) -> Outcome:
    values = {"features": ("mpi4py", "torch", "gpu"), "gpu": AMD if expected is None else expected, **changes}
    return judged(run("single", process("single", 0, facts)), **values)["gpu-device"]


def without(*names: str) -> dict[str, Any]:
    facts = {**single(), "gpu": seen(), "gpu_compute": {"devices": [answer(0), answer(1)]}}
    return {name: value for name, value in facts.items() if name not in names}


def test_a_device_that_computes_passes_and_says_what_it_did() -> None:
    outcome = judge(seen())

    assert outcome.status == "pass"
    for words in ("2 devices", "AMD Instinct MI210", "gfx90a", "6 kernels in 83 us", "Cijk_Ailk"):
        assert words in outcome.witnessed


def test_rounding_in_a_convolution_passes() -> None:
    near = {"convolution": {**RIGHT, "largest": 0.01}}

    assert judge(seen(), answer(0, **near), answer(1, **near)).status == "pass"


def test_without_a_device_it_is_never_run() -> None:
    hidden = {"available": False, "archs": [], "devices": []}

    outcome = judge(seen(**hidden, variables={"ROCR_VISIBLE_DEVICES": ""}))

    assert outcome.status == "not-run"
    for words in ("no GPU in this process", "nid200001", "ROCR_VISIBLE_DEVICES=''", "in a job"):
        assert words in outcome.cause
    assert judge(seen(devices=[])).status == "not-run"
    assert _outcome(without("gpu_compute") | {"gpu": seen(**hidden)}).status == "not-run"


@pytest.mark.parametrize(
    ("build", "expected", "words"),
    [
        ({"hip": None}, AMD, ("a CPU build", "torch.version.hip is None", "ROCm for gfx90a is needed")),
        ({"hip": None, "cuda": "12.6"}, AMD, ("a CUDA build", "ROCm for gfx90a")),
        ({"hip": None}, NVIDIA, ("a CPU build", "torch.version.cuda is None", "CUDA for sm_90")),
        ({}, NVIDIA, ("a HIP build", "CUDA for sm_90")),
    ],
)
def test_a_build_for_something_else_fails_with_and_without_a_device(
    build: dict[str, Any], expected: dict[str, str], words: tuple[str, ...]
) -> None:
    for devices in ({}, {"available": False, "devices": []}):
        outcome = judge(seen(**build, **devices), expected=expected)

        assert outcome.status == "fail"
        assert all(word in outcome.cause for word in words), outcome.cause
        assert "index" in outcome.remedy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"archs": ["gfx908", "gfx942"]}, ("device 0", "a gfx90a", "built for gfx908, gfx942")),
        ({"archs": []}, ("built for no GPU",)),
        ({"devices": [{"name": "MI250X", "arch": "gfx942"}]}, ("MI250X", "a gfx942", "the environment is for gfx90a")),
        ({"devices": [seen()["devices"][0], {"name": "another", "arch": "gfx908"}]}, ("device 1 (another)", "gfx908")),
    ],
)
def test_another_architecture_fails(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    outcome = judge(seen(**changes))

    assert outcome.status == "fail"
    assert all(word in outcome.cause for word in words), outcome.cause


def test_an_architecture_that_nobody_tells_is_not_run() -> None:
    assert judge(seen(devices=[{"name": "a GPU", "arch": ""}])).status == "not-run"


def test_nvidia_takes_code_for_an_older_minor_version_and_ptx() -> None:
    gpu = seen(hip=None, cuda="12.6", devices=[{"name": "GH200", "arch": "sm_90"}])

    for archs, status in ((["sm_80", "sm_90"], "pass"), (["compute_80"], "pass"), (["sm_80", "sm_86"], "fail")):
        outcome = judge({**gpu, "archs": archs}, answer(), expected=NVIDIA)
        assert outcome.status == status, (archs, outcome.cause)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matmul": {**RIGHT, "largest": 1.0}}, "the matmul on cuda:0 is wrong: off by 1 "),
        ({"matmul": {**RIGHT, "largest": 1e-6}}, "the matmul"),
        ({"matmul": {**RIGHT, "largest": "nan"}}, "off by nan"),
        ({"matmul": {**RIGHT, "count": 3}}, "the matmul"),
        ({"matmul": {}}, "the matmul"),
        ({"convolution": {**RIGHT, "largest": 0.5}}, "the convolution on cuda:0 is wrong: off by 0.5"),
        ({"convolution": {**RIGHT, "largest": "inf"}}, "off by inf"),
        ({"kernels": 0, "microseconds": 0, "names": []}, "no kernel was recorded on cuda:0"),
        ({"microseconds": 0}, "no kernel was recorded"),
        ({"where": "cpu"}, "the result lies on cpu"),
    ],
)
def test_a_wrong_or_unwitnessed_result_fails(changes: dict[str, Any], words: str) -> None:
    first = judge(seen(), answer(0, **changes), answer(1))
    second = judge(seen(), answer(0), answer(1, **{**changes, "where": changes.get("where", "cuda:0")}))

    for outcome in (first, second):
        assert outcome.status == "fail"
        assert words in outcome.cause
        assert outcome.remedy


def test_a_device_that_did_not_compute_is_noticed() -> None:
    assert judge(seen(), answer(0)).status == "fail"


def test_an_error_on_the_device_fails_in_its_own_words() -> None:
    words = "HIP error: invalid device function"
    facts = without() | {"gpu_compute": {"error": {"kind": "RuntimeError", "message": words}}}

    outcome = _outcome(facts)

    assert outcome.status == "fail"
    assert words in outcome.cause


def test_missing_evidence_never_passes() -> None:
    assert {_outcome(without(name)).status for name in ("gpu", "gpu_compute")} == {"not-run"}
    assert _outcome({}).status == "not-run"
    assert _outcome(without(), {}).status == "not-run"
    assert _outcome(without(), {**AMD, "vendor": "intel"}).status == "not-run"


def test_it_is_asked_of_gpu_recipes_only_and_says_what_it_is() -> None:
    (check,) = CHECKS

    assert (check.rung, check.source, check.features) == (2, "single", {"gpu"})
    assert check.witnesses
    assert check.mistakes
    assert check.fails
    assert "gpu-device" not in judged(run("single", process("single", 0, single())))
