"""Run this same envbuilder on the nodes of a partition: as a job of the site's batch system, waited for, its answer read.

What is witnessed or built there meets the compute nodes' libraries, HOME and kernel. No job is left behind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from shlex import join, quote
from typing import Any

import envbuilder
from envbuilder import image_signature, job, scheduler
from envbuilder.document import write_atomically
from envbuilder.errors import InputError, VerifyError
from envbuilder.job import Billing, Shape
from envbuilder.scheduler import Allocation, JobEnd
from envbuilder.site import Site
from envbuilder.store import Store

_TAIL_LINES = 30
_VISIBLE = {
    "the store": "set ENVBUILDER_HOME to a folder that they have",
    "the site file": "keep it in a folder that they have, and name that in ENVBUILDER_SITE_PATH or by --site FILE",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """Nodes to run on: a partition of a site, the shape of the job, who pays, how long to wait in the queue (seconds)."""

    site: Site
    site_file: Path
    partition: str
    shape: Shape
    billing: Billing
    patience: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What envbuilder said in a job with `--json`, how the job ended, and the folder with its script and output."""

    document: Any
    end: JobEnd
    folder: Path


def allocation_for(nodes: Nodes, env: Mapping[str, str]) -> Allocation | None:
    """The allocation that we are in, if it is of that partition; None outside of any.

    Raises `InputError` inside the allocation of another partition.
    """
    here = scheduler.allocation(env)
    if here is None:
        return None
    wanted = str(nodes.site.partition(nodes.partition).scheduler.partition)
    if wanted and here.partition and here.partition != wanted:
        known = ", ".join(f"{name}: {one.scheduler.partition}" for name, one in nodes.site.partitions.items())
        raise InputError(
            f"this is job {here.job} in partition {here.partition}, and {nodes.site.name}/{nodes.partition} is {wanted}",
            hint=f"leave the job and start from a login node, or name its partition: --partition ({known})",
        )
    return here


def run(place: Store, nodes: Nodes, words: tuple[str, ...], name: str, tick: Callable[[str], None]) -> Answer:
    """Run `envbuilder WORDS` on the first of those nodes and return what it wrote to its standard output, as JSON.

    `name` is the job's. Raises `InputError` for what the site's rules forbid, `SchedulerError` when the job was refused, and
    `VerifyError` when it ended without an answer.
    """
    _refuse_hidden(nodes, place)
    folder = place.path("runs", name, f"job-{datetime.now(timezone.utc):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}")
    folder.mkdir(parents=True)
    script, answer = folder / "job.sh", folder / "answer.json"
    write_atomically(script, _script(place, nodes, words, name, answer))
    with scheduler.submitted(script) as number:
        tick(f"job {number} submitted")
        end = scheduler.wait(number, limit=nodes.patience, tick=tick)
    try:
        return Answer(document=json.loads(answer.read_bytes()), end=end, folder=folder)
    except (OSError, ValueError) as error:
        raise VerifyError(
            f"{end}, without an answer{_last(folder / 'job.out')}\n  the job's files: {folder}",
            hint="nothing is left in the queue; when the cause is mended, run the same command again",
        ) from error


def this_envbuilder() -> tuple[str, ...]:
    """The command that starts this same envbuilder from another process, wherever it is installed.

    PYTHONPATH would do as well, and would be seen by the environment that is verified.
    """
    package = str(Path(envbuilder.__file__).parent.parent)
    start = f"import sys; sys.path.insert(0, {package!r}); from envbuilder.cli import main; sys.exit(main())"
    return (sys.executable, "-c", start)


def _script(place: Store, nodes: Nodes, words: tuple[str, ...], name: str, answer: Path) -> str:
    options = job.directives(
        nodes.site,
        nodes.site.partition(nodes.partition),
        nodes.shape,
        nodes.billing,
        name=f"envbuilder-{name}",
        output=str(answer.parent / "job.out"),
    )
    written, key = quote(str(answer)), image_signature.key("", os.environ)
    body = (
        f"export ENVBUILDER_HOME={quote(str(place.root))}",
        *((f"export {image_signature.KEY_VARIABLE}={quote(str(key))}",) if key else ()),
        "code=0",
        f"{join((*this_envbuilder(), *words))} >{written}.part || code=$?",
        f"mv {written}.part {written}",
        "exit $code",
    )
    return job.script(nodes.site, nodes.site.partition(nodes.partition), options, body, with_modules=False)


def _refuse_hidden(nodes: Nodes, place: Store) -> None:
    """Compute nodes without HOME see neither a store nor an envbuilder that lies there."""
    site = nodes.site
    if site.paths.home_on_compute:
        return
    home = Path(os.path.expanduser("~")).resolve()
    parts = {
        "the store": place.root,
        "the site file": nodes.site_file,
        "envbuilder": Path(envbuilder.__file__),
        "envbuilder's Python": Path(sys.executable),
    }
    for what, path in parts.items():
        if home in (path.resolve(), *path.resolve().parents):
            raise InputError(
                f"{what} lies in HOME ({path}), which the compute nodes of {site.name} do not have",
                hint=_VISIBLE.get(what, "install envbuilder where they see it, such as the work file system"),
            )


def _last(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()[-_TAIL_LINES:]
    except OSError:
        return ""
    return ":" + "".join(f"\n    {line}" for line in lines) if lines else ""
