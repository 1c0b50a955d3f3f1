"""The checks on GPU code and GPU libraries, on made evidence and on real trees of compiled libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import expectation

from envbuilder import gpu_witness
from envbuilder.checks import gpu
from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.evidence import Evidence

CODE, LIBRARIES = gpu.CHECKS
SITE = "lib/python3.11/site-packages/torch/lib"


def facts(*targets: str, **changes: Any) -> dict[str, Any]:
    """What the witness says of one library with these targets."""
    objects = [{"object": f"{SITE}/libtorch_hip.so", "targets": list(targets), "unreadable": ""}]
    made = {"vendor": "amd", "arch": "gfx90a", "toolkit": "rocm@5.2.3", "wheel_toolkit": "rocm@5.2", "objects": objects}
    return {**made, "count": 1, "bundled": ["libamdhip64.so"], "shadowed": [], **changes}


def replaced(**changes: Any) -> dict[str, Any]:
    one = {
        "by_module": True,
        "library": "libamdhip64.so.5",
        "bundled": f"/env/{SITE}/libamdhip64.so.5",
        "bundled_build_id": "aa",
    }
    return {**one, "taken": "/opt/rocm/lib/libamdhip64.so.5", "taken_build_id": "bb", "object": "x.so", **changes}


def judge(check: Check, found: dict[str, Any] | None) -> Finding:
    return check.judge(expectation(), Evidence(static={} if found is None else {"gpu": found}))


def test_code_for_the_gpu_passes_and_says_what_there_is() -> None:
    finding = judge(CODE, facts("gfx900", "gfx90a"))

    assert isinstance(finding, Passed)
    assert "gfx900, gfx90a" in finding.witnessed


def test_code_for_other_gpus_fails_and_names_library_targets_and_need() -> None:
    finding = judge(CODE, facts("gfx908", "gfx942"))

    assert isinstance(finding, Failed)
    for words in ("libtorch_hip.so", "gfx908, gfx942", "gfx90a is needed"):
        assert words in finding.cause
    assert "gfx90a" in finding.remedy


def test_one_wrong_library_among_right_ones_fails() -> None:
    objects = [*facts("gfx90a")["objects"], {"object": "libkernels.so", "targets": ["gfx908"], "unreadable": ""}]

    finding = judge(CODE, facts(objects=objects, count=2))

    assert isinstance(finding, Failed)
    assert "libkernels.so" in finding.cause


def test_a_cuda_build_on_an_amd_partition_fails() -> None:
    assert isinstance(judge(CODE, facts("sm_90", "compute_90")), Failed)


def test_no_device_code_at_all_fails_as_a_cpu_build() -> None:
    finding = judge(CODE, facts(objects=[], count=0))

    assert isinstance(finding, Failed)
    assert "a CPU build was installed" in finding.cause
    assert "rocm@5.2.3" in finding.remedy


def test_unreadable_is_not_run_unless_another_library_fails() -> None:
    unreadable = {"object": "libzstd.so", "targets": [], "unreadable": "compressed with zstd"}

    finding = judge(CODE, facts(objects=[unreadable]))
    worse = judge(CODE, facts(objects=[unreadable, *facts("gfx908")["objects"]]))

    assert isinstance(finding, NotRun)
    assert "compressed with zstd" in finding.why
    assert isinstance(worse, Failed)


def test_without_evidence_or_gpu_nothing_passes() -> None:
    assert isinstance(judge(CODE, None), NotRun)
    assert isinstance(judge(LIBRARIES, None), NotRun)
    assert isinstance(judge(CODE, facts("gfx90a", arch="")), NotRun)


def test_ptx_counts() -> None:
    assert isinstance(judge(CODE, facts("compute_80", arch="sm_90", vendor="nvidia")), Passed)


def test_libraries_in_their_place_pass() -> None:
    assert isinstance(judge(LIBRARIES, facts("gfx90a")), Passed)


def test_the_same_library_from_elsewhere_passes() -> None:
    finding = judge(LIBRARIES, facts(shadowed=[replaced(taken_build_id="aa")], wheel_toolkit=""))

    assert isinstance(finding, Passed)
    assert "/opt/rocm/lib/libamdhip64.so.5" in finding.witnessed


@pytest.mark.parametrize(
    "toolkits",
    [
        ("rocm@5.2.3", "rocm@5.7"),
        ("rocm@5.2.3", ""),
        ("", "rocm@5.2"),
        ("", ""),
        ("cuda@5.2.3", "rocm@5.2"),
        ("rocm", "rocm"),
    ],
)
def test_another_library_of_another_toolkit_fails_and_names_both(toolkits: tuple[str, str]) -> None:
    toolkit, wheel = toolkits
    finding = judge(LIBRARIES, facts(shadowed=[replaced()], toolkit=toolkit, wheel_toolkit=wheel))

    assert isinstance(finding, Failed)
    assert "/opt/rocm/lib/libamdhip64.so.5" in finding.cause
    assert f"/env/{SITE}/libamdhip64.so.5" in finding.cause
    assert "LD_LIBRARY_PATH" in finding.remedy


def test_another_library_of_the_same_toolkit_passes_and_says_which_is_taken() -> None:
    finding = judge(LIBRARIES, facts(shadowed=[replaced()]))

    assert isinstance(finding, Passed)
    assert "libamdhip64.so.5 from /opt/rocm/lib/libamdhip64.so.5" in finding.witnessed


def test_a_folder_that_no_module_put_there_may_be_any_toolkit() -> None:
    mine = replaced(library="libMIOpen.so", by_module=False)

    finding = judge(LIBRARIES, facts(shadowed=[replaced(), mine]))

    assert isinstance(finding, Failed)
    assert "another libMIOpen.so first" in finding.cause
    assert "1 librar(ies)" in finding.witnessed


def test_without_build_ids_nothing_is_the_same() -> None:
    shadowed = [replaced(bundled_build_id="", taken_build_id="")]

    assert isinstance(judge(LIBRARIES, facts(shadowed=shadowed, wheel_toolkit="")), Failed)


def test_they_apply_to_recipes_that_compute_on_gpus() -> None:
    for check in gpu.CHECKS:
        assert check.applies(expectation(features=("torch", "gpu")))
        assert not check.applies(expectation(features=("torch",)))
        assert check.witnesses
        assert check.mistakes
        assert check.fails


# Real trees


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A library with a search path to its own folder, and there the GPU library that it needs."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler on this machine")
    folder = tmp_path / "env" / SITE
    folder.mkdir(parents=True)
    library(folder / "libamdhip64.so.5", 1)
    compiled(folder / "libtorch_hip.so", "int hip(void); int go(void) { return hip(); }", f"-L{folder}", "-l:libamdhip64.so.5", "-Wl,--enable-new-dtags,-rpath,$ORIGIN")  # fmt: skip
    return tmp_path / "env"


def compiled(path: Path, code: str, *options: str) -> Path:
    source = path.with_suffix(".c")
    source.write_text(code)
    command = ["cc", "-shared", "-fPIC", "-Wl,--build-id", source, "-o", path, *options]
    subprocess.run(command, check=True, capture_output=True)
    source.unlink()
    return path


def library(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return compiled(path, f"int hip(void) {{ return {value}; }}", f"-Wl,-soname,{path.name}")


def seen(
    prefix: Path, toolkit: str = "", wheel_toolkit: str = "", modules: tuple[str, ...] = (), **env: str
) -> dict[str, Any]:
    objects = [str(path.relative_to(prefix)) for path in sorted(prefix.rglob("*.so*"))]
    return gpu_witness.gpu_facts(
        prefix, objects, vendor="amd", arch="gfx90a", toolkit=toolkit, wheel_toolkit=wheel_toolkit, env=env,
        module_folders=modules,
    )  # fmt: skip


def test_a_tree_by_itself_is_not_replaced(tree: Path) -> None:
    found = seen(tree)

    assert (found["bundled"], found["shadowed"]) == (["libamdhip64.so.5"], [])
    assert isinstance(judge(LIBRARIES, found), Passed)
    assert isinstance(judge(CODE, found), Failed)


def test_a_toolkit_in_ld_library_path_wins_over_the_wheel(tree: Path, tmp_path: Path) -> None:
    other = library(tmp_path / "rocm" / "libamdhip64.so.5", 2)

    found = seen(tree, "rocm@5.7.1", "rocm@5.2", LD_LIBRARY_PATH=f"/nowhere:{other.parent}/")
    finding = judge(LIBRARIES, found)

    assert isinstance(finding, Failed)
    assert str(other.parent) in finding.cause
    assert str(tree / SITE / other.name) in finding.cause
    assert "libtorch_hip.so" in finding.witnessed
    agreeing = ("rocm@5.2.3", "rocm@5.2")
    by_module = seen(tree, *agreeing, modules=(f"{other.parent}/",), LD_LIBRARY_PATH=str(other.parent))
    assert isinstance(judge(LIBRARIES, by_module), Passed)
    by_hand = judge(LIBRARIES, seen(tree, *agreeing, LD_LIBRARY_PATH=str(other.parent)))
    assert isinstance(by_hand, Failed)
    assert str(other.parent) in by_hand.cause


def test_the_loader_agrees(tree: Path, tmp_path: Path) -> None:
    """What the witness says is what ld.so does: the search is not only ours."""
    other = library(tmp_path / "rocm" / "libamdhip64.so.5", 2)
    code = f"import ctypes; print(ctypes.CDLL({str(tree / SITE / 'libtorch_hip.so')!r}).go())"

    for value, env in (("1", {}), ("2", {"LD_LIBRARY_PATH": str(other.parent)})):
        done = subprocess.run(
            ["python3", "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == value
        assert len(seen(tree, **env)["shadowed"]) == int(value) - 1


def test_a_copy_of_the_same_build_passes(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "rocm").mkdir()
    shutil.copy(tree / SITE / "libamdhip64.so.5", tmp_path / "rocm")

    found = seen(tree, LD_LIBRARY_PATH=str(tmp_path / "rocm"))

    assert len(found["shadowed"]) == 1
    assert isinstance(judge(LIBRARIES, found), Passed)


def test_a_library_that_is_only_opened_by_name_counts(tree: Path, tmp_path: Path) -> None:
    library(tree / SITE / "librocblas.so.0", 1)
    other = library(tmp_path / "rocm" / "librocblas.so.0", 2)

    found = seen(tree, LD_LIBRARY_PATH=str(other.parent))

    assert [one["library"] for one in found["shadowed"]] == ["librocblas.so.0"]


def test_other_libraries_and_the_trees_own_folder_do_not_count(tree: Path, tmp_path: Path) -> None:
    library(tree / SITE / "libgomp.so.1", 1)
    library(tmp_path / "rocm" / "libgomp.so.1", 2)

    assert seen(tree, LD_LIBRARY_PATH=f"{tmp_path / 'rocm'}:{tree / SITE}")["shadowed"] == []


@pytest.mark.parametrize(("arch", "passes"), [("gfx90a", True), ("gfx908", False)])
def test_real_device_code(tree: Path, hipcc: Callable[[Path, str], None], arch: str, passes: bool) -> None:
    """The negative control: the same library, compiled for another GPU."""
    hipcc(tree / SITE / "libkernels.so", arch)

    finding = judge(CODE, seen(tree))

    assert isinstance(finding, Passed if passes else Failed), finding
    if isinstance(finding, Failed):
        assert finding.cause == f"{SITE}/libkernels.so has device code for gfx908, gfx90a is needed"


@pytest.fixture
def hipcc(tmp_path: Path) -> Callable[[Path, str], None]:
    if not shutil.which("hipcc"):
        pytest.skip("hipcc is not on this machine: apt-get install hipcc libamdhip64-dev rocm-device-libs")

    def build(output: Path, arch: str) -> None:
        source = tmp_path / "k.hip"
        source.write_text("#include <hip/hip_runtime.h>\n__global__ void k(float *x) { x[threadIdx.x] *= 2; }\n")
        command = ["hipcc", f"--offload-arch={arch}", "-shared", "-fPIC", source, "-o", output]
        # where nvcc is on the PATH, hipcc would hand its work to it; it leaves folders where temporary files go
        env = {**os.environ, "HIP_PLATFORM": "amd", "TMPDIR": str(tmp_path)}
        subprocess.run(command, check=True, capture_output=True, env=env)

    return build
