"""Sites: each kind of mistake once, with its place and its remedy; and the shipped ones, fact by fact."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from envbuilder import catalog, lint, site
from envbuilder.document import read_text
from envbuilder.errors import InputError
from envbuilder.places import Origin, data_root

GOOD = """\
schema: 1
name: here
summary: A machine
sources: {M: {title: a manual}}
modules: {system: lmod, forbidden: [purge], source: [M]}
scheduler: {kind: slurm, required: [account], qos: {standard: {max_nodes: 4}}, source: [M]}
paths: {root: /work/envs, home_on_compute: false}
default_partition: gpu
partitions:
  gpu:
    features: [cpu, mpi]
    gpu: {vendor: amd, arch: gfx90a, count: 4, toolkit: rocm@6.3.4, source: [M]}
    modules: [PrgEnv-gnu/8.4.0, rocm/6.3.4]
    promises: [ROCM_PATH]
    exports_after_modules:
      - {prepend: LD_LIBRARY_PATH, to: "${CRAY_LD_LIBRARY_PATH}", why: not the default}
    python: {command: python3, version: 3.11.7}
    mpi: {provider: system, mpicc: cc -shared, soname: libmpi_gnu_91.so.12}
    scheduler: {partition: gpu, gpus: total}
    launch: {launcher: srun, options: [--hint=nomultithread]}
"""


def mistakes(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "here.yaml"
    path.write_text(text)
    return [line.removeprefix(f"{path}:") for line in lint.lint_site(Origin(name="here", path=path))]


def test_a_good_site_has_none(tmp_path: Path) -> None:
    assert mistakes(GOOD, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("system: lmod", "system: lmodd", "5:19", "'lmodd' is not one of lmod, tcl, none (did you mean 'lmod'?)"),
        ("forbidden: [purge]", "forbidden: [purge], reset: purge", "5:52", "'purge' is forbidden here; leave `reset` out"),
        ("source: [M]}\nscheduler", "source: [X]}\nscheduler", "5:54", "'X' is not a key of `sources`; known are M"),
        ("system: lmod", "system: none", "13:15", "this site has no module system; write `modules: {system: lmod}`"),
        ("kind: slurm", "kind: pbs", "6:19", "'pbs' is not one of none, slurm"),
        ("kind: slurm", "kind: none", "20:24", "srun needs a batch system; write `scheduler: {kind: slurm}`"),
        ("required: [account]", "required: [money]", "6:37", "'money' is not one of account, partition, qos, time"),
        ("home_on_compute: false", "home_on_compute: maybe", "7:44", "must be true or false"),
        ("root: /work/envs", "root: $HOME/envs", "7:15", "lies in HOME, which compute nodes do not have"),
        ("root: /work/envs", "root: envs", "7:15", "'envs' is not of the required form; write for example '/data/$USER'"),
        ("default_partition: gpu", "default_partition: cpu", "8:20", "there is no partition 'cpu'"),
        ("vendor: amd", "vendor: ati", "12:19", "'ati' is not one of none, amd, intel, nvidia"),
        ("arch: gfx90a", "arch: sm_90", "12:30", "'sm_90' is no arch of amd"),
        (" arch: gfx90a,", "", "12:19", "the key 'arch' is missing"),
        ("rocm@6.3.4, s", "cuda@12.4, s", "12:57", "cuda is not the toolkit of amd; write rocm@VERSION"),
        ("toolkit: rocm@6.3.4", "toolkit: rocm6.3", "12:57", "'rocm6.3' is not of the required form; write for example 'rocm@6.3.4'"),
        ("rocm/6.3.4]", "rocm/6.3.4, rocm/5.2.3]", "13:45", "rocm/6.3.4 and rocm/5.2.3 are versions of one module"),
        ("PrgEnv-gnu/8.4.0", "$(id)", "13:15", "'$(id)' is not of the required form"),
        ("[ROCM_PATH]", '["ROCM PATH"]', "14:16", "is not of the required form"),
        ("prepend: LD_LIBRARY_PATH, ", "", "16:9", "needs exactly one of set, prepend, unset, has 0"),
        ("{prepend: LD_LIBRARY_PATH", "{set: A, prepend: LD_LIBRARY_PATH", "16:9", "needs exactly one of set, prepend, unset, has 2"),
        (' to: "${CRAY_LD_LIBRARY_PATH}",', "", "16:19", "the key 'to' is missing"),
        (", why: not the default", "", "16:9", "the key 'why' is missing"),
        ("version: 3.11.7", 'version: "3"', "17:41", "'3' is not of the required form; write for example '3.11.7'"),
        ("mpicc: cc -shared", "mpicc: cc -shared -lx", "18:36", "is not of the required form"),
        ("soname: libmpi", "soname: mpi", "18:56", "is not of the required form"),
        ("gpus: total", "gpus: some", "19:39", "'some' is not one of none, total, per-node, gres, per-task"),
        (", gpus: total", "", "12:19", "jobs would get no GPU"),
        ("--hint=nomultithread", "hint", "20:40", "is not of the required form"),
        ("max_nodes: 4", "max_nodes: many", "6:75", "must be a whole number, not text"),
        ("launcher: srun", "launcher: torchrun", "20:24", "'torchrun' is not one of srun, mpiexec, direct"),
        ("summary: A machine", "summary: A machine\nvalid_from: 2026-02-30", "4:13", "is not a date"),
        ("summary: A machine", "summary: A machine\nvalid_from: 2026-02-03\nvalid_until: 2025-01-01", "5:14", "before valid_from"),
        ("features: [cpu, mpi]", "features: [cpu, mpi]\n    modulse: []", "12:14", "unknown key 'modulse' (did you mean 'modules'?)"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_place_and_a_remedy(old: str, new: str, place: str, words: str, tmp_path: Path) -> None:
    assert GOOD.count(old) >= 1
    found = mistakes(GOOD.replace(old, new, 1), tmp_path)

    assert any(line.startswith(f"{place}: ") and words in line for line in found), found
    assert all("; " in line for line in found), "every mistake says what to write instead"


def shipped() -> list[Path]:
    return sorted((data_root() / "sites").glob("*.yaml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_the_shipped_sites_have_no_mistake(path: Path) -> None:
    assert lint.lint_site(Origin(name=path.stem, path=path)) == []


NINE = {"archer2", "cirrus", "frontier", "kebnekaise", "kestrel", "local", "lumi", "perlmutter", "uppmax"}


def test_every_machine_that_there_are_facts_for_is_shipped() -> None:
    assert {path.stem for path in shipped()} >= NINE


def uncited(value: Any, path: str) -> list[str]:
    """Tables of facts that say something and not where it comes from."""
    found: list[str] = []
    if is_dataclass(value):
        told = [
            entry for entry in fields(value) if entry.name != "source" and getattr(value, entry.name) != entry.default
        ]
        facts = [
            entry.name for entry in told if not is_dataclass(getattr(value, entry.name)) and getattr(value, entry.name)
        ]
        if any(entry.name == "source" for entry in fields(value)) and facts and not value.source:
            found.append(path)
        for entry in fields(value):
            found += uncited(getattr(value, entry.name), f"{path}.{entry.name}")
    elif isinstance(value, dict):
        for name, child in value.items():
            found += uncited(child, f"{path}.{name}")
    return found


@pytest.mark.parametrize("path", [path for path in shipped() if path.stem != "local"], ids=lambda path: path.stem)
def test_every_fact_of_a_shipped_site_has_a_source(path: Path) -> None:
    read = site.parse(read_text(path, "site"), str(path))

    missing = [place for place in uncited(read, path.stem) if not place.endswith(".mpi")]
    assert missing == []
    assert read.sources
    assert all(source.url or source.title for source in read.sources.values())
    used = {key for keys in site.cited(read) for key in keys}
    text = path.read_text()
    for key in set(read.sources) - used:
        assert re.search(rf"\[[^\]]*\b{re.escape(key)}\b[^\]]*\]", text), f"{key} is cited nowhere"


def test_the_generations_of_a_machine_stand_side_by_side() -> None:
    sites = {name: catalog.find_site(name, {})[0] for name in ("archer2", "cirrus", "kestrel")}

    archer2 = sites["archer2"]
    assert archer2.partitions["gpu"].gpu.toolkit == "rocm@6.3.4"
    assert archer2.partitions["gpu-rocm5"].gpu.toolkit == "rocm@5.2.3"
    assert archer2.valid_until == "2026-11-21"
    assert not archer2.partitions["gpu-rocm5"].current("2026-06-01")
    assert archer2.partitions["gpu"].current("2026-06-01")
    gpus = [one.gpu.arch for one in sites["cirrus"].partitions.values()]
    assert "sm_70" in gpus
    assert "" in gpus
    assert len([one for one in sites["kestrel"].partitions.values() if one.gpu.arch == "sm_90"]) >= 2


def test_an_expired_site_says_so_and_names_its_successor() -> None:
    from datetime import date

    text = GOOD.replace("summary: A machine", "summary: A machine\nvalid_until: 2025-01-01\nsuccessor: there")
    read = site.parse(text, "here.yaml")

    assert (
        read.expired(date(2025, 1, 2)) == "the facts of site here were valid until 2025-01-01; its successor is there"
    )
    assert read.expired(date(2025, 1, 1)) == ""


def test_a_partition_of_another_time_says_so() -> None:
    from datetime import date

    text = GOOD.replace("    features:", "    valid_until: 2025-01-01\n    features:")

    assert (
        site.parse(text, "f").expired(date(2025, 6, 1), "gpu")
        == "the facts of here/gpu are those of the beginning to 2025-01-01"
    )


@pytest.mark.parametrize(("ends", "more"), [("2025-01-01", True), ("2025-03-01", False)])
def test_a_partition_that_ended_before_its_site_says_so_too(ends: str, more: bool) -> None:
    from datetime import date

    text = GOOD.replace("    features:", f"    valid_until: {ends}\n    features:")
    text = text.replace("summary: A machine", "summary: A machine\nvalid_until: 2025-03-01")

    said = site.parse(text, "here.yaml").expired(date(2025, 6, 1), "gpu")

    assert said.startswith("the facts of site here were valid until 2025-03-01")
    assert ("; the facts of here/gpu are those of the beginning to 2025-01-01" in said) is more


def test_a_file_that_is_no_site() -> None:
    with pytest.raises(InputError, match="must be a mapping"):
        site.parse("[1, 2]", "f.yaml")
