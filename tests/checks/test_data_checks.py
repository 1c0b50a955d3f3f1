"""Data that a recipe names: on the first node and on those of every rank."""

from __future__ import annotations

from typing import Any

from made import judged, process, rank, run, single

from envbuilder.evidence import Outcome

DATA = ({"variable": "TRAIN", "why": "the training set"}, {"variable": "MESH", "why": "the mesh"})
FACTS = {
    "TRAIN": {"path": "/work/train", "error": "", "host": "nid1"},
    "MESH": {"path": "/work/mesh.h5", "error": "", "host": "nid1"},
}
WITHOUT_TORCH = {"features": ("mpi4py",), "imports": ("numpy",)}


def judge(facts: dict[str, Any], *ranks: dict[str, Any]) -> Outcome:
    """The outcome of the check, for what one process and the ranks saw."""
    one = run("single", process("single", 0, {**single(), "data": facts}))
    more = [process("ranks", number, {**rank(number), "data": seen}) for number, seen in enumerate(ranks)]
    runs = (one, run("ranks", *more)) if more else (one,)
    return judged(*runs, **WITHOUT_TORCH, data=DATA)["data-readable"]


def on(host: str, **errors: str) -> dict[str, Any]:
    return {name: {**fact, "host": host, "error": errors.get(name, "")} for name, fact in FACTS.items()}


def test_all_is_there() -> None:
    assert judge(FACTS).witnessed == "TRAIN=/work/train, MESH=/work/mesh.h5, on 1 host"
    assert judge(FACTS, on("nid1"), on("nid2")).witnessed.endswith("on 2 hosts")


def test_a_node_of_a_later_rank_lacks_it() -> None:
    outcome = judge(FACTS, on("nid1"), on("nid2", MESH="No such file or directory"))

    assert outcome.cause == "MESH=/work/mesh.h5 (the mesh) cannot be read on nid2: No such file or directory"
    assert "file system that the compute nodes have" in outcome.remedy


def test_no_value() -> None:
    facts = {**FACTS, "TRAIN": {"path": "", "error": "it has no value", "host": "nid1"}}

    outcome = judge(facts)

    assert outcome.cause == "TRAIN has no value on nid1, and is to lead to data (the training set)"
    assert "`environment`" in outcome.remedy


def test_a_probe_that_did_not_look() -> None:
    assert judge({}).status == "not-run"


def test_a_recipe_without_data_has_no_such_check() -> None:
    one = run("single", process("single", 0, single()))

    assert "data-readable" not in judged(one, **WITHOUT_TORCH)
