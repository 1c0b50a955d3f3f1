"""What dpkg says is installed: its status file, as deb-control(5) and dpkg-query(1) describe it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

STATUS = Path("/var/lib/dpkg/status")
RELEASE = Path("/etc/os-release")


def packages(text: str) -> tuple[dict[str, str], ...]:
    """The installed packages in a status file, by name: `name`, `version`, `arch`, `source` and `source_version`."""
    found: list[dict[str, str]] = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version = fields["Package"], fields["Version"]
        source, _, other = fields.get("Source", name).partition(" ")
        found.append(
            {
                "name": name,
                "version": version,
                "arch": fields.get("Architecture", ""),
                "source": source,
                "source_version": other.strip("()") or version,
            }
        )
    return tuple(sorted(found, key=lambda one: (one["name"], one["arch"])))


def release(text: str) -> dict[str, str]:
    """What an os-release(5) file says: `id`, `version` and `name`, each "" where it does not."""
    said = dict(_settings(text))
    return {"id": said.get("ID", ""), "version": said.get("VERSION_ID", ""), "name": said.get("PRETTY_NAME", "")}


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            yield key.strip(), value.strip().strip("\"'")
