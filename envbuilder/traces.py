"""What processes opened, as strace or the dynamic linker tells it: reading their records. Pure.

strace says everything. The linker's own record (LD_DEBUG, ld.so(8)) is there on every machine, and says nothing of files that
are no libraries, nor of sockets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Each process has a record of its own, in a folder of its node: numbers of processes repeat from node to node.
_PLACE = 'folder=$1/$(uname -n); mkdir -p "$folder"; shift; '
STRACE = _PLACE + 'exec strace -ff -qq -y -s 4096 -e trace=open,openat,execve,connect -o "$folder/strace" "$@"'
LINKER = _PLACE + 'exec env LD_DEBUG=files LD_DEBUG_OUTPUT="$folder/linker" "$@"'

_CALL = re.compile(
    r'(?P<call>execve|openat|open)\((?:[^,"<]+(?:<(?P<cwd>[^>]*)>)?, )?"(?P<path>(?:[^"\\]|\\.)*)"(?:, (?P<how>[^()]*))?'
    r".*\)\s+= (?P<result>-?\d+)"
)
_CONNECT = re.compile(r'connect\(.*sa_family=AF_UNIX, sun_path="(?P<path>(?:[^"\\]|\\.)*)".*\)\s+= 0')
_INTERNET = re.compile(r"connect\(.*sa_family=AF_INET6?,.*\)\s+= (0|-1 EINPROGRESS)")
_NEEDED = re.compile(r"file=(?P<name>\S+) \[\d+\];\s+needed by (?P<by>.+) \[\d+\]")
_INITIALISED = re.compile(r"^\s*\d+:\s+calling init: (?P<path>/\S.*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Traced:
    """One process: the `program` that it last became and what it opened since, in order and absolute.

    `folders` were opened to be listed, `sockets` are paths that it connected to; `internet`: it connected to an address.
    `wanted` are the libraries that the program is linked with, where its own path is not known. A record that is not `whole`
    has libraries alone.
    """

    program: str = ""
    wanted: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    internet: bool = False
    whole: bool = True


@dataclass(slots=True)
class _Growing:
    program: str = ""
    files: dict[str, None] = field(default_factory=dict)
    folders: dict[str, None] = field(default_factory=dict)
    sockets: dict[str, None] = field(default_factory=dict)
    internet: bool = False


def by_strace(lines: Iterable[str]) -> Traced:
    """The process of a record of strace."""
    now = _Growing()
    for line in lines:
        call = _CALL.search(line)
        if call is not None and not call["result"].startswith("-"):
            now = _called(now, call)
        elif found := _CONNECT.search(line):
            now.sockets[_plain(found["path"])] = None
        elif _INTERNET.search(line):
            now.internet = True
    return Traced(
        program=now.program,
        files=tuple(now.files),
        folders=tuple(now.folders),
        sockets=tuple(now.sockets),
        internet=now.internet,
    )


def by_linker(lines: Iterable[str]) -> Traced:
    """The process of a record of the dynamic linker; its libraries in the order in which they were initialised."""
    files: dict[str, None] = {}
    needed: list[tuple[str, str]] = []
    for line in lines:
        if found := _INITIALISED.match(line.rstrip("\n")):
            files[found["path"].strip()] = None
        elif found := _NEEDED.search(line):
            needed.append((found["by"], found["name"]))
    program = needed[0][0] if needed else ""
    wanted = dict.fromkeys(name for by, name in needed if by == program)
    return Traced(files=tuple(files), wanted=tuple(wanted), whole=False)


def _called(now: _Growing, call: re.Match[str]) -> _Growing:
    path = _plain(call["path"])
    if not path.startswith("/") and call["cwd"]:
        path = os.path.join(call["cwd"], path)
    if call["call"] == "execve":  # what was opened before belongs to another program
        return _Growing(program=path)
    how = call["how"] or ""
    if not path.startswith("/") or "O_PATH" in how:
        return now
    (now.folders if "O_DIRECTORY" in how else now.files)[os.path.normpath(path)] = None
    return now


def _plain(text: str) -> str:
    """A text as strace writes it, without its escapes; other bytes than those of UTF-8 stay as they are written."""
    return text.encode("latin-1", "replace").decode("unicode_escape", "replace") if "\\" in text else text
