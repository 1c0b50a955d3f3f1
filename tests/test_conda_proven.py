"""Packages in folders are compared with the lock, and read again only where they can have changed since."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import conda_channel as made
import pytest

import envbuilder


@pytest.fixture
def tool() -> ModuleType:
    """The tool of the workshop, for which no file is too young to be remembered."""
    path = Path(envbuilder.__file__).parent / "workshop" / "conda.py"
    spec = importlib.util.spec_from_file_location("workshop_conda", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SETTLED_NS = -(10**18)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "one-1.0-0.conda"
    path.write_bytes(b"a package of conda")
    return path


def entry(path: Path) -> dict[str, str]:
    return {"url": path.as_uri(), "sha256": hashlib.sha256(b"a package of conda").hexdigest()}


def compared(tool: ModuleType, path: Path, cache: Path) -> Any:
    """One comparison, as an installation makes it; what was remembered is written."""
    proven = tool.Remembered(f"{cache}.proven.json")
    tool.refuse_other(entry(path), proven)
    proven.write()
    return proven


def test_what_was_compared_is_not_read_again(tool: ModuleType, package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "pkgs"
    assert compared(tool, package, cache).found
    again = compared(tool, package, cache)

    assert (list(again.known), again.found) == ([str(package)], {})
    other = {**entry(package), "sha256": "0" * 64}  # what is known is one sum of one file
    with pytest.raises(tool.RefusedError, match=r"hash mismatch: the sha256 of one-1\.0-0\.conda"):
        tool.refuse_other(other, again)


def test_a_flipped_byte_is_found_though_size_and_time_are_as_they_were(
    tool: ModuleType, package: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "pkgs"
    compared(tool, package, cache)
    was = package.stat()
    package.write_bytes(b"A package of conda")
    while package.stat().st_ctime_ns == was.st_ctime_ns:  # the kernel's clock ticks every few milliseconds
        os.utime(package, ns=(was.st_atime_ns, was.st_mtime_ns))
    os.utime(package, ns=(was.st_atime_ns, was.st_mtime_ns))

    assert (package.stat().st_mtime_ns, package.stat().st_size) == (was.st_mtime_ns, was.st_size)
    with pytest.raises(tool.RefusedError, match="hash mismatch"):
        compared(tool, package, cache)


def test_another_file_in_its_place_is_read(tool: ModuleType, package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "pkgs"
    compared(tool, package, cache)
    beside = tmp_path / "beside"
    beside.write_bytes(b"B package of conda")
    shutil.copystat(package, beside)
    beside.replace(package)

    with pytest.raises(tool.RefusedError, match="hash mismatch"):
        compared(tool, package, cache)


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(
    tool: ModuleType, package: Path, tmp_path: Path
) -> None:
    tool.SETTLED_NS = 10**18  # type: ignore[attr-defined]

    assert compared(tool, package, tmp_path / "pkgs").found == {}
    assert not (tmp_path / "pkgs.proven.json").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"x": 1}'])
def test_a_damaged_memory_is_forgotten(tool: ModuleType, package: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "pkgs.proven.json").write_text(text)

    assert compared(tool, package, tmp_path / "pkgs").found
    assert not compared(tool, package, tmp_path / "pkgs").found


def brought(tool: ModuleType, package: Path, cache: Path) -> dict[str, str]:
    """What the tool takes for the distributions in a package, as a solving does; what was remembered is written."""
    remembered = tool.Remembered(f"{cache}.distributions.json")
    places = tool.Places({}, {}, None, None, remembered)
    found = asyncio.run(tool.distributions(package.as_uri(), places))
    remembered.write()
    assert isinstance(found, dict)
    return found


@pytest.mark.skipif(bool(made.lacking()), reason="no conda package can be made here")
def test_what_a_package_brings_is_remembered_until_it_is_another_file(tool: ModuleType, tmp_path: Path) -> None:
    def package(version: str) -> Path:
        about = f"site-packages/flute-{version}.dist-info/METADATA"
        return made.write(made.text("flute", "1.0", files={about: b"Name: flute"}), tmp_path / version)

    first, second, cache = package("1.0"), package("2.0"), tmp_path / "cache"
    assert brought(tool, first, cache) == {"flute": "1.0"}
    kept = (tmp_path / "cache.distributions.json").read_text()
    assert brought(tool, first, cache) == {"flute": "1.0"}
    assert (tmp_path / "cache.distributions.json").read_text() == kept
    shutil.copystat(first, second)
    second.replace(first)
    assert brought(tool, first, cache) == {"flute": "2.0"}
    tool._METADATA = tool.re.compile("nothing is one")  # another rule finds other things  # type: ignore[attr-defined]
    assert brought(tool, first, cache) == {}
