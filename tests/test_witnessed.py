"""What two environments were seen to do, side by side: what differs, and which results must be the same bits."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples

from envbuilder import witnessed
from envbuilder.cli import main
from envbuilder.errors import InputError
from envbuilder.store import Store, publish

PACKAGES = {"tensorflow-cpu": "2.21.0", "numpy": "2.4.6"}
EVIDENCE: dict[str, Any] = {
    "static": {"libraries": {"outside": {"/lib/libc.so.6": {"soname": "libc.so.6", "build_id": "aa", "found": "x"}}}},
    "runs": {
        "single": {
            "asked": 1,
            "ranks": [
                {
                    "rank": 0,
                    "facts": {
                        "environment": {"OMP_NUM_THREADS": "2"},
                        "tensorflow_training": {
                            "gradient_digest": "g1",
                            "parameter_digest": "p1",
                            "onednn": {"primitives": {"convolution": {"implementations": ["jit:avx512_core"]}}},
                        },
                    },
                }
            ],
        },
        "ranks": {
            "asked": 2,
            "ranks": [
                {"rank": 1, "facts": {}},
                {
                    "rank": 0,
                    "facts": {
                        "tensorflow": {"gradient_digest": "g2", "parameter_digest": "p2"},
                        "libraries_at_end": [
                            {"soname": "libmpi.so.12", "build_id": "", "sha256": "bb", "implements": True},
                            {"soname": "libmpi_helper.so.1", "build_id": "cc", "sha256": "", "implements": False},
                        ],
                    },
                },
            ],
        },
    },
}
Change = Callable[[dict[str, Any]], None]


def _facts(evidence: dict[str, Any], probe: str) -> dict[str, Any]:
    (found,) = (one["facts"] for one in evidence["runs"][probe]["ranks"] if one["rank"] == 0)
    return dict(found)


def _compared(*changes: Change, packages: dict[str, str] | None = None) -> witnessed.Likeness:
    """The evidence beside one that was changed."""
    other = copy.deepcopy(EVIDENCE)
    for change in changes:
        change(other)
    return witnessed.compared(
        witnessed.seen(EVIDENCE, PACKAGES), witnessed.seen(other, PACKAGES if packages is None else packages)
    )


def _other_bits(probe: str, name: str) -> Change:
    return lambda evidence: _facts(evidence, probe)[name].update(gradient_digest="other")


def _four_ranks(evidence: dict[str, Any]) -> None:
    evidence["runs"]["ranks"]["asked"] = 4


def _other_mpi(evidence: dict[str, Any]) -> None:
    _facts(evidence, "ranks")["libraries_at_end"][0].update(sha256="other")


def _other_kernel(evidence: dict[str, Any]) -> None:
    _facts(evidence, "single")["tensorflow_training"]["onednn"]["primitives"]["convolution"].update(
        implementations=["jit:sse41"]
    )


def test_the_same_is_equal_in_everything() -> None:
    found = _compared()

    assert found.differences == ()
    assert (found.equal, found.unequal, found.unexplained) == (4, (), ())


def test_other_libraries_are_named_and_change_no_result() -> None:
    found = _compared(_other_mpi, lambda one: one["static"]["libraries"]["outside"].clear())

    assert [one.what for one in found.differences] == ["libraries: libc.so.6", "mpi: libmpi.so.12"]
    assert found.equal == 4


def test_other_bits_from_the_same_kernels_on_the_same_versions_are_explained_by_nothing() -> None:
    found = _compared(_other_bits("single", "tensorflow_training"))

    assert found.unexplained == ("single: tensorflow_training: gradient_digest",)
    assert found.equal == 3


@pytest.mark.parametrize(
    ("changes", "packages", "why"),
    [
        ((_other_kernel,), PACKAGES, "other kernels, or another number of threads or ranks"),
        ((), {**PACKAGES, "numpy": "2.4.7"}, "other versions of packages"),
        ((_four_ranks,), PACKAGES, "other kernels, or another number of threads or ranks"),
        ((), {"tensorflow-cpu": "2.21.0", "numpy": "2.4.6", "mpich": "5.0"}, ""),
        ((_other_mpi,), PACKAGES, ""),
    ],
)
def test_what_explains_other_bits_of_ranks(changes: tuple[Change, ...], packages: dict[str, str], why: str) -> None:
    """Two ranks have one order of summation, so their MPI explains nothing; nor does a package that only one side has."""
    found = _compared(*changes, _other_bits("ranks", "tensorflow"), packages=packages)

    assert found.explained == {"ranks: tensorflow: gradient_digest": why}
    assert bool(found.unexplained) == (not why)


def test_another_mpi_may_sum_four_ranks_in_another_order() -> None:
    first, second = copy.deepcopy(EVIDENCE), copy.deepcopy(EVIDENCE)
    for one in (first, second):
        _four_ranks(one)
    _other_mpi(second)
    _other_bits("ranks", "tensorflow")(second)

    found = witnessed.compared(witnessed.seen(first, PACKAGES), witnessed.seen(second, PACKAGES))

    assert set(found.explained.values()) == {"another MPI sums 4 ranks in an order of its own"}


def _stored(place: Store, name: str, evidence: dict[str, Any] | None) -> None:
    publish(place, samples.environment(identifier=name, packages=PACKAGES), ())
    (place.root / "envs" / name).mkdir(parents=True)
    if evidence is not None:
        run = place.path("runs", name, "20260101T000000.000000Z-1")
        run.mkdir(parents=True)
        (run / "evidence.json").write_text(json.dumps(evidence))
    # a verify that was ended before it wrote what it saw
    place.path("runs", name, "20270101T000000.000000Z-1").mkdir(parents=True)


def test_the_newest_verify_that_came_to_its_end_counts(tmp_path: Path) -> None:
    place = Store(tmp_path)
    _stored(place, "e-1-aaa", EVIDENCE)

    assert witnessed.last(place, samples.environment(identifier="e-1-aaa")).ranks == 2


def test_without_a_verify_there_is_nothing_to_compare(tmp_path: Path) -> None:
    place = Store(tmp_path)
    _stored(place, "e-1-aaa", None)

    with pytest.raises(InputError, match="no verify of e-1-aaa") as error:
        witnessed.last(place, samples.environment(identifier="e-1-aaa"))

    assert error.value.hint == "envbuilder verify e-1-aaa"


@pytest.mark.parametrize(("bits", "code"), [("g1", 0), ("other", 1)])
def test_the_command_fails_where_results_should_be_equal_and_are_not(
    bits: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, other = Store(tmp_path), copy.deepcopy(EVIDENCE)
    _facts(other, "single")["tensorflow_training"].update(gradient_digest=bits)
    _stored(place, "e-1-aaa", EVIDENCE)
    _stored(place, "e-1-bbb", other)
    monkeypatch.setenv("ENVBUILDER_HOME", str(tmp_path))

    assert main(["diff", "--witnessed", "e-1-aaa", "e-1-bbb"]) == code

    said = capsys.readouterr().err
    assert f"{4 - code} results of training are equal, bit for bit" in said
    assert ("the same kernels ran on the same versions" in said) == bool(code)
    assert main(["diff", "--witnessed", "e-1-aaa", "e-1-bbb", "--json"]) == code
    assert len(json.loads(capsys.readouterr().out)["unexplained"]) == code
