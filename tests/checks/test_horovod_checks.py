from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made import LIBRARY, PREFIX, causes, course, judged, process, rank, run, single

from envbuilder.evidence import Outcome

SITE = f"{PREFIX}/lib/python3.11/site-packages/horovod"
FEATURES = ("mpi4py", "tensorflow", "horovod")
NAMES = {"horovod-built", "horovod-mpi", "horovod-gradients"}

Facts = dict[str, Any]
Fault = Callable[[Facts], object]


LIBRARIES = {"tensorflow": "mpi_lib", "torch": "mpi_lib_v2"}  # as Horovod names its extensions


def built(*frameworks: str) -> Facts:
    """What a healthy build holds for these frameworks."""
    files = {name: f"{SITE}/{name}/{LIBRARIES[name]}.cpython-311-x86_64-linux-gnu.so" for name in frameworks}
    return {
        "folder": SITE,
        "built_for": dict.fromkeys(frameworks, "2.13.0"),
        "frameworks": {
            name: {"files": [file], "mapped": [file], "needs": {file: []}, "error": None, "installed": "2.13.0"}
            for name, file in files.items()
        },
    }


def worker(number: int, size: int = 2, *, framework: str = "tensorflow") -> Facts:
    """The facts of one healthy rank."""
    facts = rank(number, size, framework)
    facts["horovod"] = built(framework)
    facts[f"horovod_{framework}"] = {
        **course(),
        "state": {
            "rank": number,
            "size": size,
            "mpi_built": True,
            "mpi_enabled": True,
            "mpi_threads": True,
            "gloo_built": False,
            "gloo_enabled": False,
            "needs": ["libmpi.so.12", "libc.so.6"],
            "implementation": LIBRARY,
        },
        "collectives": {
            "floats": {"count": 256, "wrong": 0, "first_wrong": -1, "seen": 0.375, "right": 0.375},
            "gathered": {"seen": [0, 1], "right": [0, 1]},
            "broadcast": {"seen": 1, "right": 1},
        },
    }
    return facts


def alone(facts: Facts, features: tuple[str, ...] = FEATURES) -> Outcome:
    """What the one process is judged to have."""
    told = {**single("tensorflow"), "horovod": facts}
    return judged(run("single", process("single", 0, told)), features=features)["horovod-built"]


def together(*facts: Facts, features: tuple[str, ...] = FEATURES) -> dict[str, Outcome]:
    """What the ranks are judged to have."""
    ranks = [process("ranks", number, one) for number, one in enumerate(facts)]
    outcomes = judged(run("ranks", *ranks, asked=2), features=features)
    return {name: outcome for name, outcome in outcomes.items() if name in NAMES}


def broken(fault: Fault) -> dict[str, str]:
    """The causes where the second rank has a fault."""
    second = worker(1)
    fault(second["horovod_tensorflow"])
    return causes(together(worker(0), second))


@pytest.mark.parametrize(("framework", "label"), [("tensorflow", "TensorFlow"), ("torch", "PyTorch")])
def test_healthy(framework: str, label: str) -> None:
    features = ("mpi4py", framework, "horovod")
    ranks = [worker(number, framework=framework) for number in range(2)]

    outcomes = {
        "horovod-built": alone(built(framework), features),
        **together(*ranks, features=features),
    }

    assert {name: outcome.cause for name, outcome in outcomes.items() if outcome.status != "pass"} == {}
    assert set(outcomes) == NAMES
    assert f"{label} 2.13.0: {LIBRARIES[framework]}.cpython-311" in outcomes["horovod-built"].witnessed
    assert (
        f"{label}: 2 ranks, controller and operations over {LIBRARY} (libmpi.so.12)"
        in outcomes["horovod-mpi"].witnessed
    )
    assert outcomes["horovod-gradients"].witnessed.startswith(f"{label}: bit for bit on 2 ranks")


def test_each_framework_of_the_recipe_is_judged() -> None:
    """Horovod for both: what is wrong with the second one is not hidden by the first."""
    ranks = [{**worker(number), **worker(number, framework="torch")} for number in range(2)]
    for facts in ranks:
        facts["horovod"] = built("tensorflow", "torch")
    ranks[1]["horovod_torch"]["state"]["gloo_enabled"] = True
    ranks[1]["horovod_torch"]["gradient_digest"] = "f" * 64

    found = causes(together(*ranks, features=(*FEATURES, "torch")))

    assert found["horovod-mpi"].startswith("rank 1: Horovod has MPI and works over gloo")
    assert found["horovod-gradients"].startswith("PyTorch: the reduced gradients of the first step are not the same")


def test_recipes_without_horovod_are_not_asked() -> None:
    assert not NAMES & set(judged(run("ranks", process("ranks", 0, rank(0)))))


# the build


def of_tensorflow(**changes: Any) -> Facts:
    facts = built("tensorflow")
    facts["frameworks"]["tensorflow"].update(changes)
    return facts


NOT_BUILT = {"kind": "ImportError", "message": "Extension horovod.tensorflow has not been built: no such file"}
UNDEFINED = {"kind": "NotFoundError", "message": "undefined symbol: _ZN10tensorflow8OpKernel"}

BUILDS: list[tuple[Facts, str]] = [
    (of_tensorflow(files=[], mapped=[], error=NOT_BUILT), "Horovod was built without TensorFlow"),
    (of_tensorflow(installed="2.13.1"), "Horovod was built for TensorFlow 2.13.0, and 2.13.1 is installed"),
    (of_tensorflow(installed="2.21.0", error=UNDEFINED, mapped=[]), "for TensorFlow 2.13.0, and 2.21.0 is installed"),
    ({**built("tensorflow"), "built_for": {}}, "built for no version of TensorFlow that it tells, and 2.13.0"),
    (of_tensorflow(error=UNDEFINED), "importing horovod.tensorflow ended with NotFoundError: undefined symbol"),
    (of_tensorflow(mapped=[]), "is not mapped"),
    (of_tensorflow(installed="", error=NOT_BUILT), "TensorFlow, which Horovod is to serve, ended with ImportError"),
    ({"error": {"kind": "ImportError", "message": "horovod is not there"}}, "horovod ended with ImportError: horovod is"),
    ({**built("tensorflow"), "frameworks": {}}, "what Horovod has for TensorFlow was not looked at"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "words"), BUILDS, ids=[words for _, words in BUILDS])
def test_a_build_that_is_not_what_it_should_be(facts: Facts, words: str) -> None:
    outcome = alone(facts)

    assert outcome.status == "fail"
    assert words in outcome.cause
    assert outcome.remedy


def test_the_framework_that_is_missing_is_the_one_named() -> None:
    facts = built("tensorflow", "torch")
    facts["frameworks"]["torch"].update(files=[], mapped=[])

    outcome = alone(facts, (*FEATURES, "torch"))

    assert "built without PyTorch: there is no horovod/torch/mpi_lib*.so" in outcome.cause
    assert "HOROVOD_WITH_PYTORCH=1" in outcome.remedy


def test_nothing_to_serve_is_no_success() -> None:
    assert alone(built(), ("mpi4py", "horovod")).status == "not-run"
    statuses = {outcome.status for outcome in judged(run("ranks", process("ranks", 0, worker(0)), process("ranks", 1, worker(1))), features=("mpi4py", "horovod")).values() if outcome.check in NAMES}  # fmt: skip
    assert statuses == {"not-run"}


# the world


def state(**changes: Any) -> Fault:
    return lambda facts: facts["state"].update(changes)


def result(name: str, **changes: Any) -> Fault:
    return lambda facts: facts["collectives"][name].update(changes)


WORLDS: list[tuple[Fault, str]] = [
    (
        state(mpi_built=False, mpi_enabled=False, gloo_built=True, gloo_enabled=True, size=1, rank=0),
        "rank 1: Horovod was built without MPI: gloo is what it has; it trains as if it were alone, without a word",
    ),
    (state(mpi_enabled=False, gloo_enabled=True), "rank 1: Horovod has MPI and works over gloo (HOROVOD_CONTROLLER=gloo)"),
    (state(gloo_enabled=True), "rank 1: Horovod has MPI and works over gloo"),
    (state(size=1, rank=0), "Horovod says rank 0 of 1, MPI says rank 1 of 2, and 2 ranks asked for; it trains as if"),
    (state(rank=0), "Horovod says rank 0 of 2, MPI says rank 1 of 2"),
    (state(implementation=""), "rank 1: Horovod's extension binds no PMPI_Init_thread of any mapped library"),
    (state(implementation="/opt/mpi/libmpi.so.12"), f"rank 1: Horovod uses /opt/mpi/libmpi.so.12, and mpi4py {LIBRARY}"),
    (state(needs=["libc.so.6"]), f"does not name {LIBRARY} among what it needs"),
    (
        result("floats", wrong=256, first_wrong=0, seen=0.25),
        "rank 1: Horovod's allreduce of 256 float32 is wrong in 256 elements; element 0 is 0.25, right is 0.375",
    ),
    (lambda facts: facts["collectives"].pop("floats"), "Horovod's allreduce"),
    (result("gathered", seen=[1]), "rank 1: Horovod's allgather of the ranks gave [1], right is [0, 1]"),
    (result("broadcast", seen=0), "rank 1: Horovod's broadcast from the last rank gave 0, right is 1"),
    (lambda facts: facts["collectives"].pop("broadcast"), "Horovod's broadcast"),
    (lambda facts: facts.pop("state"), "rank 1: Horovod was built without MPI"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "words"), WORLDS, ids=[words[:60] for _, words in WORLDS])
def test_a_world_that_is_not_the_one_of_mpi(fault: Fault, words: str) -> None:
    first, second = worker(0), worker(1)
    fault(second["horovod_tensorflow"])
    second["environment"] = {"HOROVOD_CONTROLLER": "gloo"}

    outcomes = together(first, second)

    assert words in causes(outcomes)["horovod-mpi"]
    assert outcomes["horovod-mpi"].remedy


def test_ranks_that_are_each_alone_for_mpi_too() -> None:
    first, second = worker(0, size=1), worker(0, size=1)

    cause = causes(together(first, second))["horovod-mpi"]

    assert (
        "Horovod says rank 0 of 1, MPI says rank 0 of 1, and 2 ranks asked for; it trains as if it were alone" in cause
    )


def test_a_rank_that_could_not_load_it() -> None:
    ranks = [worker(0), worker(1)]
    ranks[1]["horovod"]["frameworks"]["tensorflow"].update(files=[], mapped=[], error=NOT_BUILT)
    for facts in ranks:
        facts["horovod_tensorflow"] = {
            "error": {"kind": "Skipped", "message": "not every rank loaded it for tensorflow"}
        }

    outcomes = together(*ranks)

    assert causes(outcomes) == {"horovod-mpi": outcomes["horovod-mpi"].cause}
    assert outcomes["horovod-mpi"].cause.startswith("rank 1: Horovod was built without TensorFlow")
    assert outcomes["horovod-gradients"].status == "not-run"
    assert "not every rank loaded it for tensorflow; see horovod-built" in outcomes["horovod-gradients"].cause


def test_another_version_that_loads_is_for_the_other_check_to_say() -> None:
    ranks = [worker(0), worker(1)]
    for facts in ranks:
        facts["horovod"]["frameworks"]["tensorflow"]["installed"] = "2.13.1"

    assert causes(together(*ranks)) == {}


def test_a_rank_that_left_nothing_is_no_success() -> None:
    short = worker(1)
    del short["horovod_tensorflow"]

    for outcomes in (together(worker(0)), together(worker(0), short)):
        assert {outcome.status for outcome in outcomes.values()} == {"not-run"}


# the gradients


def test_a_rank_that_differs() -> None:
    causes_seen = broken(lambda facts: facts.update(gradient_digest="f" * 64))

    assert set(causes_seen) == {"horovod-gradients"}
    assert causes_seen["horovod-gradients"].startswith(
        "TensorFlow: the reduced gradients of the first step are not the same"
    )


def test_a_sum_that_was_not_averaged() -> None:
    first = worker(0)
    step = first["horovod_tensorflow"]["first"]
    step["scale"] = 2.0
    step["truth"]["conv.bias"].update(max_ratio=1000.0, max_difference=12.0)

    cause = causes(together(first, worker(1)))["horovod-gradients"]

    assert "first step: the gradient of conv.bias differs from the right gradient" in cause
    assert "2 times the right one: summed over the ranks and not averaged" in cause
