"""Which variant of the GPU recipes each shipped partition gets, by the two files alone, and what is refused with which words."""

from __future__ import annotations

import pytest

from envbuilder import catalog, fit, partition, prepare, recipe
from envbuilder.catalog import FoundRecipe
from envbuilder.errors import InputError
from envbuilder.places import data_root
from envbuilder.site import Site
from envbuilder.wish import Wish

NOWHERE = {"HOME": "/nowhere"}
GETS = {
    "pytorch-rocm": {
        ("archer2", "gpu"): "2.9.1",
        ("archer2", "gpu-rocm5"): "1.13.1",
        ("frontier", "gpu"): "2.10.0",
    },
    "pytorch-cuda": {
        ("perlmutter", "gpu"): "2.9.1",
        ("kestrel", "gpu-rhel8"): "2.9.1",
        ("kestrel", "gpu-rhel9"): "2.10.0",
        ("cirrus", "gpu"): "1.13.1",
    },
}


def found(name: str, site_name: str) -> tuple[FoundRecipe, Site]:
    return catalog.find_recipe(name, NOWHERE), catalog.find_site(site_name, NOWHERE)[0]


def possible(name: str, site_name: str, partition_name: str, *, python: str = "") -> tuple[str, ...]:
    """The versions that can work there."""
    recipe_found, site = found(name, site_name)
    wish = Wish(recipe=name, site=site_name, partition=partition_name, python=python)
    return tuple(row.version for row in prepare._possible(recipe_found, site, partition_name, wish))


@pytest.mark.parametrize(
    ("name", "where", "version"), [(name, *one) for name, row in GETS.items() for one in row.items()]
)
def test_the_toolkit_of_a_partition_decides_the_variant(name: str, where: tuple[str, str], version: str) -> None:
    assert possible(name, *where) == (version,)


def test_each_shipped_partition_gets_a_build_for_its_toolkit_or_a_refusal_with_reasons() -> None:
    """Whatever the site files will say: a row that is offered is for the partition's GPU and its toolkit."""
    for origin in sorted(data_root().glob("sites/*.yaml")):
        for name, vendor in (("pytorch-rocm", "amd"), ("pytorch-cuda", "nvidia")):
            shipped, site = found(name, origin.stem)
            for at, here in site.partitions.items():
                try:
                    versions = possible(name, origin.stem, str(at))
                except InputError as error:
                    assert str(error).count(f"{name}@") == len(shipped.recipe.variants)
                    continue
                assert here.gpu.vendor == vendor
                if here.gpu.toolkit:
                    assert len(versions) == 1, (site.name, at, versions)


@pytest.mark.parametrize(
    ("name", "site_name", "at", "reason", "hint"),
    [
        ("pytorch-cuda@2.10.0", "perlmutter", "gpu", "built for cuda>=13,<14 (index tag cu130), and the partition has cuda@12.4", "what fits there: pytorch-cuda@2.9.1"),
        ("pytorch-cuda@2.9.1", "kestrel", "gpu-rhel9", "(index tag cu126), and the partition has cuda@13.2", "pytorch-cuda@2.10.0"),
        ("pytorch-cuda@2.10.0", "kestrel", "gpu-rhel8", "(index tag cu130), and the partition has cuda@12.4", "pytorch-cuda@2.9.1"),
        ("pytorch-cuda@2.9.1", "cirrus", "gpu", "(index tag cu126), and the partition has cuda@11.6", "pytorch-cuda@1.13.1"),
        ("pytorch-cuda", "cirrus", "cpu", "these nodes have no NVIDIA GPU; use pytorch-cpu", "it fits --partition gpu"),
        ("pytorch-nccl", "perlmutter", "gpu", "compiled with CUDA_HOME and NCCL_HOME of the site's modules, which the partition does not promise", ""),
        ("pytorch-rocm", "perlmutter", "gpu", "a build for AMD GPUs; use pytorch-cuda (gpu=nvidia)", ""),
        ("pytorch-cpu", "archer2", "cpu-22.12", "no wheel of it has the ABI tag cp39", "it fits --partition cpu"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_reason_and_what_would(
    name: str, site_name: str, at: str, reason: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        possible(name, site_name, at)

    assert reason in str(caught.value)
    assert hint in str(caught.value.hint)


def test_toolkit_and_python_are_told_together() -> None:
    with pytest.raises(InputError) as caught:
        possible("pytorch-rocm@2.9.1", "archer2", "gpu-rocm5")

    assert "(index tag rocm6.3), and the partition has rocm@5.2.3; it needs Python >=3.10" in str(caught.value)
    assert "ABI tag cp39" in str(caught.value)


def test_an_interpreter_of_the_user_s_own_leaves_the_toolkit() -> None:
    with pytest.raises(InputError) as caught:
        possible("pytorch-rocm@2.9.1", "archer2", "gpu-rocm5", python="/usr/bin/python3")

    assert "rocm@5.2.3" in str(caught.value)
    assert "ABI" not in str(caught.value)


def test_a_toolkit_of_another_name_does_not_fit_whatever_its_version() -> None:
    row = recipe.Variant(version="1", toolkit="rocm>=6.3,<6.4", tag="rocm6.3")
    made = recipe.Recipe(schema=1, name="r", summary="s", variants=(row,))

    for toolkit, fits in (
        ("rocm@6.3.4", True),
        ("cuda@6.3.4", False),
        ("rocm@6.4", False),
        ("rocm@6.3", True),
        ("", True),
    ):
        here = partition.Partition(gpu=partition.Gpu(vendor="amd", toolkit=toolkit))
        assert (fit.misfit(made, row, here, {}) == "") is fits, toolkit
