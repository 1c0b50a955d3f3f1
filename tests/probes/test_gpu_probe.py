"""The probe of GPUs where there is none: on the real CPU build of PyTorch, and its parts that need no device."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import Subject, judged, launch

from envbuilder import checks, probes
from envbuilder.evidence import Evidence
from envbuilder.probes import gpu

AMD = {"vendor": "amd", "arch": "gfx90a", "toolkit": "rocm@6.3.4", "wheel_toolkit": "rocm@6.3"}


@pytest.mark.real
def test_the_cpu_build_on_a_gpu_recipe_fails_and_without_a_gpu_nothing_passes(torch_env: Path, tmp_path: Path) -> None:
    subject = Subject(prefix=torch_env, features=("mpi4py", "torch", "gpu"), imports=("torch",))
    run = launch(subject, "single", tmp_path / "control")
    facts = run.ranks[0].facts["gpu"]
    assert (facts["hip"], facts["cuda"], facts["available"], facts["devices"]) == (None, None, False, [])
    assert "gpu_compute" not in run.ranks[0].facts

    reasons = dict.fromkeys(("static", "ranks"), "not gathered")
    for vendor, build in (("amd", "ROCm for gfx90a"), ("nvidia", "CUDA for gfx90a")):
        expectation = replace(subject.expectation(), gpu={**AMD, "vendor": vendor})
        found = checks.judge(expectation, Evidence(runs={"single": run}), reasons)
        (outcome,) = (one for one in found if one.check == "gpu-device")
        assert outcome.status == "fail"
        assert "is a CPU build" in outcome.cause
        assert build in outcome.cause
    assert judged(subject, run)["gpu-device"].status == "not-run"


@pytest.mark.real
@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("", ()),
        ("torch.matmul = lambda a, b: a.double().matmul(b.double()).float() + 1", ("matmul",)),
        ("torch.matmul = lambda a, b: (a / 3) @ (b * 3)", ("matmul",)),
        ("torch.nn.functional.conv2d = lambda a, b, f=torch.nn.functional.conv2d: f(a, b).flip(3)", ("convolution",)),
        (
            "torch.nn.functional.conv2d = lambda a, b, f=torch.nn.functional.conv2d: f(a, b) * float('nan')",
            ("convolution",),
        ),
    ],
)
def test_the_computation_is_right_on_a_cpu_and_a_fault_in_it_shows(
    torch_env: Path, fault: str, wrong: tuple[str, ...]
) -> None:
    """What would run on a GPU, told to run on the CPU: the answers are known to be right there, and faults are seen."""
    code = f"import sys, json; sys.path.insert(0, {str(Path(probes.__file__).parent.parent)!r}); import torch; {fault or 'pass'}\n"
    code += "from probes import gpu, report; print(json.dumps(report.plain(gpu.on_device('cpu'))))"
    done = subprocess.run([torch_env / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)

    answer = json.loads(done.stdout)
    assert answer["where"] == "cpu"
    for operation, bound in (("matmul", 0), ("convolution", 0.5)):
        facts = answer[operation]
        assert facts["count"] == facts["expected"] > 1000
        right = facts["largest"] != "nan" and (facts["largest"] < bound or facts["largest"] == 0)
        assert right is (operation not in wrong)


def test_the_truth_is_made_of_small_integers() -> None:
    """Every partial sum stays exact in float32, and every operand in TF32."""
    assert gpu.SIZE * gpu.LARGEST**2 < 2**24
    assert gpu.LARGEST < 2**11
    left = [1] * gpu.SIZE**2
    assert gpu._product(left, left) == [gpu.SIZE] * gpu.SIZE**2
    assert len(set(gpu._convolution([1] * (gpu.exact.FILTERS * gpu.exact.PATCH)))) > 3


def test_only_what_the_device_itself_recorded_is_a_kernel(tmp_path: Path) -> None:
    """A trace as PyTorch writes it, made up: no test machine has a device that records one."""
    events: list[dict[str, Any]] = [
        {"cat": "cpu_op", "name": "aten::mm", "dur": 90.0},
        {"cat": "cuda_runtime", "name": "hipLaunchKernel", "dur": 5.0},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "dur": 9.0, "args": {"device": 0}},
        {"cat": "kernel", "name": "Cijk_Ailk", "dur": 7.5, "args": {"device": 0}},
        {"cat": "Kernel", "name": "conv", "dur": 2.0},
        {"name": "no category"},
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))

    assert gpu.kernels(trace) == {"kernels": 2, "microseconds": 9.5, "names": ["Cijk_Ailk", "conv"]}
    trace.write_text(json.dumps({"traceEvents": events[:3]}))
    assert gpu.kernels(trace)["kernels"] == 0


@pytest.mark.parametrize(
    ("versions", "archs"),
    [((90010,), ["gfx90a"]), ((0, 90010, 90010), ["gfx90a"]), ((90402, 110001), ["gfx1101", "gfx942"]), ((), [])],
)
def test_the_kernel_driver_s_numbers(tmp_path: Path, versions: tuple[int, ...], archs: list[str]) -> None:
    """The driver's folder, made up: node 0 is a CPU with the version 0."""
    for number, version in enumerate(versions):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {version}\nempty \n")

    assert gpu.kfd(str(tmp_path)) == archs
