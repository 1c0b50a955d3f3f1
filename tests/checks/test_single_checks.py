from __future__ import annotations

import math
from typing import Any

import pytest
from made import PREFIX, causes, judged, process, run, single

from envbuilder.evidence import Outcome


def judge(facts: dict[str, Any], **changes: Any) -> dict[str, Outcome]:
    return judged(run("single", process("single", 0, facts)), **changes)


def test_healthy() -> None:
    outcomes = judge(single())

    assert {name: outcome.cause for name, outcome in outcomes.items() if outcome.status != "pass"} == {}
    assert len(outcomes) == 11


def test_every_check_says_what_it_witnesses_and_how_it_fails() -> None:
    from envbuilder.checks import CHECKS

    mine = [check for check in CHECKS if check.source != "static"]
    assert all(check.witnesses and check.mistakes and check.fails for check in mine)
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_no_evidence_fails_or_is_not_run_and_never_passes() -> None:
    for changed in (judged(run("single", code=-11)), judge({}), judge({name: {} for name in single()})):
        assert "pass" not in {outcome.status for outcome in changed.values()}
    assert "was killed by SIGSEGV" in judged(run("single", code=-11))["import"].cause


def test_each_missing_part_is_noticed() -> None:
    """Whatever part of the evidence is lost, some check says so."""
    for name in single():
        if name == "environment":  # empty when nothing is set
            continue
        facts = single()
        del facts[name]
        assert {outcome.status for outcome in judge(facts).values()} != {"pass"}, name


def test_a_cache_in_a_home_that_the_node_lacks() -> None:
    facts = single()
    facts["interpreter"]["host"] = "nid001001"
    facts["caches"]["TORCH_HOME"] = {"path": "/home/one/torch", "error": "/home/one: No such file or directory"}

    outcome = judge(facts)["caches-writable"]

    assert outcome.cause == (
        "TORCH_HOME=/home/one/torch cannot be written on nid001001: /home/one: No such file or directory"
    )
    assert "unset the variable" in outcome.remedy


@pytest.mark.parametrize(
    ("file", "environment", "words"),
    [
        ("/opt/modules/numpy/__init__.py", {"PYTHONPATH": "/other:/opt/modules"}, "PYTHONPATH puts /opt/modules first"),
        ("/home/one/.local/lib/python3.11/site-packages/numpy/__init__.py", {}, "the user site directory"),
        ("/usr/lib/python3/dist-packages/numpy/__init__.py", {}, "outside of the environment"),
        (PREFIX + "-other/numpy/__init__.py", {}, "outside of the environment"),
    ],
)
def test_a_module_from_elsewhere(file: str, environment: dict[str, str], words: str) -> None:
    facts = single()
    facts["environment"] = environment
    facts["imports"]["numpy"].update(file=file, real_file=file)

    assert words in causes(judge(facts))["import"]


def test_a_module_of_the_standard_library_is_no_stranger() -> None:
    facts = single()
    facts["imports"]["numpy"].update(
        file="/python/lib/python3.11/json/__init__.py", real_file="/python/lib/python3.11/json/__init__.py"
    )

    assert judge(facts)["import"].status == "pass"


def test_site_packages_of_the_base_python_are_strangers() -> None:
    facts = single()
    file = "/python/lib/python3.11/site-packages/numpy/__init__.py"
    facts["imports"]["numpy"].update(file=file, real_file=file)

    assert judge(facts)["import"].status == "fail"


def test_a_prefix_reached_by_a_symbolic_link_is_the_same() -> None:
    facts = single()
    for name in ("numpy", "torch"):
        facts["imports"][name]["real_file"] = f"/cache/{name}/__init__.py"

    assert judge(facts)["import"].status == "pass"


def test_a_requirement_that_is_not_met() -> None:
    facts = single()
    facts["distributions"]["torch"]["requires"] = ["numpy<2,>=1.22"]

    cause = causes(judge(facts))["requirements"]

    assert cause == "torch 2.13.0+cpu requires numpy<2,>=1.22, and 2.1.0 is installed"


@pytest.mark.parametrize(
    ("counts", "lines", "words"),
    [
        ({"gemm_api": 14680}, 14700, "no oneDNN primitive computed anything"),
        ({"gemm_api": 8, "reorder": 4}, 30, "gemm_api x8, reorder x4"),
        ({}, 7, "no execution"),
        ({}, 0, "oneDNN reported nothing at all"),
    ],
)
def test_no_computing_primitive(counts: dict[str, int], lines: int, words: str) -> None:
    facts = single()
    facts["torch_training"]["onednn"] = {
        "primitives": {name: {"count": n} for name, n in counts.items()},
        "lines": lines,
    }

    assert words in causes(judge(facts))["torch-onednn"]


def test_a_build_without_onednn() -> None:
    facts = single()
    facts["torch_training"]["onednn"] = {"primitives": {}, "lines": 0}
    facts["torch"].update(mkldnn_available=False, mkldnn_enabled=True)

    assert "this build of PyTorch has no oneDNN" in causes(judge(facts))["torch-onednn"]


def test_gloo_and_mpi_are_told_apart() -> None:
    facts = single()
    assert "gloo yes; MPI no" in judge(facts)["torch-backends"].witnessed

    facts["torch"]["gloo"] = False
    assert "no gloo" in causes(judge(facts))["torch-backends"]
    assert judge(facts, features=("mpi4py", "torch", "torch-mpi"))["torch-backends"].status == "pass"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number(loss: float) -> None:
    facts = single()
    facts["torch_training"]["losses"][1] = loss

    assert f"the loss is {loss} in step 2" in causes(judge(facts))["torch-loss-falls"]


def test_a_loss_that_rises() -> None:
    facts = single()
    facts["torch_training"]["losses"].reverse()

    assert "does not fall" in causes(judge(facts))["torch-loss-falls"]


def test_one_tensor_that_rests() -> None:
    facts = single()
    facts["torch_training"]["moved"]["dense.bias"] = 0.0

    assert causes(judge(facts))["torch-parameters-moved"].startswith("dense.bias did not move")


def test_a_gradient_just_beyond_the_bound() -> None:
    facts = single()
    fact = facts["torch_training"]["last"]["truth"]["conv.weight"]
    fact.update(equal=False, max_ratio=1.0)
    assert judge(facts)["torch-gradients"].status == "pass"

    for ratio in (1.0000001, math.nan, math.inf):
        fact["max_ratio"] = ratio
        assert "last step: the gradient of conv.weight" in causes(judge(facts))["torch-gradients"]


def test_a_step_without_bound_is_left_out_but_not_both() -> None:
    facts = single()
    facts["torch_training"]["last"]["comparable"] = False
    assert "left out" in judge(facts)["torch-gradients"].witnessed

    facts["torch_training"]["first"]["comparable"] = False
    assert judge(facts)["torch-gradients"].status == "not-run"


def test_a_training_that_raises() -> None:
    facts = single()
    facts["torch_training"] = {"error": {"kind": "RuntimeError", "message": "could not create a primitive\nmore"}}

    outcomes = judge(facts)

    assert (
        causes(outcomes)["torch-loss-falls"] == "torch_training ended with RuntimeError: could not create a primitive"
    )
    assert outcomes["torch-onednn"].status == "not-run"
