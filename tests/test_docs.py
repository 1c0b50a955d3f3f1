"""The pages of the shipped sites say what the files say, and nothing about the day on which they were made."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from envbuilder import catalog, places

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

import generate_sites

NO_USER = {"HOME": "/nonexistent"}
NAMES = sorted(path.stem for path in places.data_root().glob("sites/*.yaml"))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generate_sites.pages()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_every_partition_module_note_and_source(name: str, pages: dict[str, str]) -> None:
    site, _ = catalog.find_site(name, NO_USER)
    page = pages[f"sites/{name}.md"]

    assert [row for row in site.partitions if f"\n## Partition {row}\n" not in page] == []
    modules = [module for one in site.partitions.values() for module in one.modules]
    assert [module for module in modules if f"module load {module}" not in page] == []
    assert sum(len(one.notes) for one in site.partitions.values()) <= page.count("\n- ")
    assert [source.url for source in site.sources.values() if source.url and f"]({source.url})" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_address_on_a_page_leads_somewhere_on_it(name: str, pages: dict[str, str]) -> None:
    page = pages[f"sites/{name}.md"]
    places_on_it = {*re.findall(r'<a id="([^"]+)">', page)}
    places_on_it |= {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^## (.+)$", page, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= places_on_it


def test_a_default_of_the_format_is_not_shown_as_a_fact(pages: dict[str, str]) -> None:
    cirrus, _ = catalog.find_site("cirrus", NO_USER)

    assert cirrus.partitions["cpu"].internet  # by default: the file says nothing, and its notes say that it is unknown
    assert "reach the internet" not in pages["sites/cirrus.md"]


def test_what_ended_before_the_newest_source_is_history_and_offers_no_build(pages: dict[str, str]) -> None:
    _, _, old = pages["sites/archer2.md"].partition("## Partition gpu-rocm5")

    assert "**History: these facts ended on 2026-04-22.** On the same nodes `gpu` followed." in old
    assert "--partition gpu-rocm5" not in old
    assert "--partition gpu\n" in pages["sites/archer2.md"]


def test_what_does_not_fit_has_its_reason(pages: dict[str, str]) -> None:
    row = next(line for line in pages["sites/archer2.md"].splitlines() if line.startswith("| [pytorch-rocm]"))

    assert "does not fit | these nodes have no AMD GPU" in row
