"""Where this machine's apt takes a suite's packages from, so that a base is made from the same place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/etc/apt")


def mirror(suite: str, root: Path = ROOT) -> str:
    """The address for a suite in apt's configuration, or nothing. Reads both formats of sources.list(5)."""
    for path in (root / "sources.list", *sorted((root / "sources.list.d").glob("*"))):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        entries = _stanzas(text) if path.suffix == ".sources" else _lines(text) if path.suffix == ".list" else ()
        for address, suites in entries:
            if suite in suites and re.fullmatch(r"(https?|file)://[^\s\"'{}]+", address):
                return address
    return ""


def _stanzas(text: str) -> Iterator[tuple[str, list[str]]]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t]+.*)*)", lines, re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").strip() != "no":
            for address in fields.get("URIs", "").split():
                yield address, fields.get("Suites", "").split()


def _lines(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.splitlines():
        found = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
        if found:
            yield found[1], [found[2]]
