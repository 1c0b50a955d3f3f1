"""What is mounted over a folder, read from /proc/self/mountinfo (proc(5)). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Where the runtimes keep their own files in every image: the file system that has it is the image's.
MARKER = "/.singularity.d"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """One mount: where it is, on which device, what of that device's file system, and of which kind."""

    at: str
    device: str
    root: str
    kind: str


def read(text: str) -> list[Mount]:
    """The mounts of a mountinfo, the latest last."""
    found = []
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) > 9 and "-" in words[6:]:
            kind = words[words.index("-", 6) + 1]
            found.append(Mount(at=_plain(words[4]), device=words[2], root=_plain(words[3]), kind=kind))
    return found


def over(text: str, folder: str) -> list[dict[str, str]]:
    """The mounts that hide a folder of an image, or parts of it: `at`, and `what` is mounted there."""
    mounts = read(text)
    own = _covering(mounts, MARKER)
    hiding = [one for one in mounts if one.at.startswith(f"{folder}/")]
    above = _covering(mounts, folder)
    # a runtime without overlays mounts each folder of the image by itself, from one place on one file system
    if above is not None and own is not None and _origin(above) != _origin(own):
        hiding.append(above)
    return [{"at": one.at, "what": f"{one.root} ({one.kind})"} for one in hiding]


def _covering(mounts: list[Mount], path: str) -> Mount | None:
    """The mount that a path is on: of the deepest ones, the latest."""
    found = [one for one in mounts if one.at in {"/", path} or path.startswith(f"{one.at}/")]
    return max(enumerate(found), key=lambda pair: (len(pair[1].at), pair[0]), default=(0, None))[1]


def _origin(one: Mount) -> tuple[str, str]:
    """Device and folder that an image lies in, if this is the mount of a part of it under its own path."""
    path = "" if one.at == "/" else one.at
    return one.device, one.root.rstrip("/").removesuffix(path) if one.root.rstrip("/").endswith(path) else one.root


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
