"""The table of the zoo: its page in the documentation, and what the last session found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo import catalogue, plugin
from zoo.base import REFUSAL, Fault, Names

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "zoo.md"
FIXTURES = {
    "mpi4py_env": "mpi4py",
    "torch_env": "pytorch-cpu",
    "tensorflow_env": "tensorflow-onednn 2.21",
    "tensorflow_2_13_env": "tensorflow-onednn 2.13",
    "horovod_env": "tensorflow-horovod",
    "torch_horovod_env": "pytorch-horovod",
    "mpi4py_image": "mpi4py.sif",
}
HEAD = """<!-- Written by `python -m tests.zoo --page` from tests/zoo; edit that instead. -->

# The zoo of broken environments

Each of these is really made, in a copy of a good environment or in the variables around it, and verified. The named check must
fail, its cause must name the fault and its remedy must fit; then the fault counts as caught. The healthy ones are odd, and must
pass every check. A session of the tests prints both shares:

    .venv/bin/python -m pytest tests/test_zoo.py -n 2
    .venv/bin/python -m tests.zoo                # a table of what that session found
"""
GROUPS: tuple[tuple[str, str], ...] = (
    ("files", "Files"),
    ("libraries", "Shared libraries"),
    ("mpis", "Another MPI in the process"),
    ("variables", "Variables"),
    ("declared", "What site and recipe declare"),
    ("training", "Frameworks in one process"),
    ("ranks", "Several ranks"),
    ("affinity", "CPUs and threads"),
    ("horovod", "Horovod"),
    ("torch_mpi", "PyTorch over MPI, and threads"),
    ("images", "Images"),
    ("trust", "Signatures of images"),
)


def page() -> str:
    """The page of the documentation: what there is and what must name it."""
    lines = [HEAD]
    for module, title in GROUPS:
        lines += [f"## {title}\n", "| fault | what is broken | in | named by |\n|---|---|---|---|"]
        lines += [_row(fault) for fault in getattr(catalogue, module).ENTRIES]
        lines.append("")
    lines += ["## Healthy\n", "| circumstance | what is odd | in |\n|---|---|---|"]
    lines += [f"| `{one.name}` | {_cell(one.odd)} | {FIXTURES[one.start]} |" for one in catalogue.HEALTHY]
    return "\n".join(lines) + "\n"


def _row(fault: Fault) -> str:
    checks = ", ".join(_link(names) for names in fault.names)
    told = f"{fault.broken} Made with `--slow` only." if fault.slow else fault.broken
    return f"| `{fault.name}` | {_cell(told)} | {FIXTURES[fault.start]} | {checks} |"


def _link(names: Names) -> str:
    if names.check == REFUSAL:
        return "refused, before anything starts"
    return f"[{names.check}](reference/checks.md#{names.check})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def found(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A Markdown table of a session's results."""
    yield "| entry | kind | as it must be | seconds | failed checks | cause |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        told = row["cause"] if row["right"] else "; ".join(row["wrong"])
        right = "yes" if row["right"] else "NO"
        failed = ", ".join(row["failed"]) or "none"
        yield f"| {row['name']} | {row['kind']} | {right} | {row['seconds']} | {failed} | {_cell(told)} |"


def kept() -> list[dict[str, Any]]:
    """What the last session left in pytest's cache."""
    path = ROOT / ".pytest_cache" / "v" / plugin.KEPT
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    order = {entry.name: number for number, entry in enumerate(catalogue.ENTRIES)}
    return sorted((row for row in rows if row["name"] in order), key=lambda row: order[row["name"]])


def main() -> int:
    """Print the last session's table (`--json`: its rows), or write the page (`--page`)."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description="The table of the zoo.")
    parser.add_argument("--json", action="store_true", help="the rows of the last session as JSON")
    parser.add_argument("--page", action="store_true", help="write docs/zoo.md instead")
    asked = parser.parse_args()
    if asked.page:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    rows = kept()
    if not rows:
        sys.stderr.write("no session has judged the zoo yet; run .venv/bin/python -m pytest tests/test_zoo.py\n")
        return 1
    text = json.dumps(rows, indent=1) if asked.json else "\n".join([*plugin.figures(rows), "", *found(rows)])
    sys.stdout.write(f"{text}\n")
    return 0
