"""Which oneDNN primitives a piece of work executed, from what oneDNN itself reports.

`gemm_api` is counted like the others here and must not be taken as evidence: a framework with its oneDNN operations
switched off still calls oneDNN's matrix product.
"""

import contextlib
import ctypes
import os
import sys
from typing import Any

MARKERS = ("onednn_verbose", "dnnl_verbose", "mkldnn_verbose")
OTHER_COMPONENTS = ("graph", "ukernel", "info", "common")
SAMPLES = 3


@contextlib.contextmanager
def stdout_in(path):
    """Everything that this process writes to its stdout, C code included, goes to the file meanwhile."""
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    library.fflush(None)
    kept = os.dup(1)
    sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        sys.stdout.flush()
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)


def executed(line):
    """Primitive kind, implementation and milliseconds of a line that reports an execution; else None.

    Version 2 writes `onednn_verbose,exec,cpu,convolution,IMPLEMENTATION,...,MS`, version 3 puts `v1,primitive` or
    `primitive` before `exec`; a time stamp may stand there too. Lines about the creation of primitives, about graphs
    and micro-kernels, and the template line among the `info` lines do not count.
    """
    fields = line.strip().split(",")
    if fields[0] not in MARKERS or "exec" not in fields[1:5]:
        return None
    at = fields.index("exec", 1)
    if len(fields) < at + 5 or any(name in fields[1:at] for name in OTHER_COMPONENTS):
        return None
    try:
        spent = float(fields[-1])
    except ValueError:
        return None
    return fields[at + 2], fields[at + 3], spent


def counted(path):
    """The executions of a log: how many and how long (ms) by primitive, implementations, some lines as they are."""
    primitives: dict[str, Any] = {}
    samples: list[str] = []
    lines = 0
    if not os.path.exists(path):
        return {"primitives": primitives, "samples": samples, "lines": 0, "milliseconds": 0.0}
    with open(path, encoding="utf-8", errors="replace") as source:
        for line in source:
            lines += line.startswith(MARKERS)
            told = executed(line)
            if told is None:
                continue
            kind, implementation, spent = told
            entry = primitives.setdefault(kind, {"count": 0, "milliseconds": 0.0, "implementations": []})
            if entry["count"] < 1 and len(samples) < 2 * SAMPLES:
                samples.append(line.strip()[:400])
            entry["count"] += 1
            entry["milliseconds"] = round(entry["milliseconds"] + spent, 4)
            if implementation not in entry["implementations"] and len(entry["implementations"]) < SAMPLES:
                entry["implementations"].append(implementation)
    total = round(sum(entry["milliseconds"] for entry in primitives.values()), 4)
    return {"primitives": primitives, "samples": samples, "lines": lines, "milliseconds": total}
