"""Builds for partitions whose environments are installed in a job: what the making commands do then."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING

from envbuilder.cli import images
from envbuilder.console import Console
from envbuilder.errors import InputError
from envbuilder.wish import Wish

if TYPE_CHECKING:
    from envbuilder.environment import Environment
    from envbuilder.lock import Lock
    from envbuilder.nodes import Nodes
    from envbuilder.prepare import Choice, Prepared


def prepared(wish: Wish, arguments: Namespace, console: Console, verb: str) -> tuple[Prepared, Nodes | None]:
    """What a wish comes to here; or, with the nodes, on the nodes where the site has it built, as a job finds them."""
    from envbuilder import prepare

    if images.wanted(wish):
        return images.prepared(wish, console, verb), None
    choice = prepare.choose(wish, os.environ)
    nodes = _nodes(choice, arguments)
    if nodes is None:
        return prepare.prepare(wish, os.environ, verb, choice=choice), None
    if wish.builder == "spack":
        raise InputError(
            f"{choice.site.name}/{choice.partition} builds on its nodes from a bundle, and Spack fetches its sources itself",
            hint="run the same command inside a job (`salloc`), with Spack's sources in reach there (`spack mirror create`)",
        )
    from dataclasses import replace

    from envbuilder import build_job, modes, store

    place = store.locate(os.environ, choice.site.paths.root)
    modes.make_root(place.root, choice.site.paths.readable_by)
    with console.step(f"look at the nodes of {choice.site.name}/{choice.partition}") as tick:
        short = replace(nodes, shape=replace(nodes.shape, minutes=arguments.time))
        target = build_job.target(place, short, wish, tick)
    choice = replace(choice, wish=replace(wish, partition=choice.partition))
    return prepare.prepared_for(choice, target, os.environ, verb), nodes


def build(prepared: Prepared, locked: Lock, nodes: Nodes, console: Console, *, rebuild: bool) -> Environment:
    """Collect everything that the lock takes, and let a job build from that."""
    from dataclasses import replace

    from envbuilder import build_job, offline

    folder = prepared.store.path("work")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / f"{locked.digest[:12]}-{os.getpid()}.bundle.tar"
    asked = replace(prepared.wish, recipe=_pinned(prepared))
    try:
        offline.bundle(prepared, locked, bundle, console, os.environ)
        with console.step(f"build on the nodes of {nodes.site.name}/{nodes.partition}") as tick:
            return build_job.build(prepared.store, nodes, asked, bundle, tick, rebuild=rebuild)
    finally:
        bundle.unlink(missing_ok=True)


def _pinned(prepared: Prepared) -> str:
    """The recipe with the version that was locked, so that the job cannot choose another."""
    wish = prepared.wish
    if "@" in wish.recipe.rpartition("/")[2] or wish.on:
        return wish.recipe
    return f"{wish.recipe}@{prepared.request.version}"


def _nodes(choice: Choice, arguments: Namespace) -> Nodes | None:
    """The nodes to build on; None where we are on the nodes already, or a login node will do for site and recipe."""
    partition = choice.site.partition(choice.partition)
    long = max((one.jobs.minutes for one in choice.found.recipe.sources.values() if one.jobs), default=0)
    if not (partition.builds_on == "compute" or long) or choice.site.scheduler.kind == "none":
        return None
    from envbuilder import job, scheduler
    from envbuilder.cli.jobs import billing
    from envbuilder.nodes import Nodes

    if scheduler.allocation(os.environ):
        return None
    # one GPU is the least that such a partition gives; a build computes on none
    shape = job.shape_for(
        partition, nodes=1, ranks=1, minutes=max(arguments.time, long), gpus_per_node=min(1, partition.gpu.count)
    )
    return Nodes(
        site=choice.site,
        site_file=choice.site_origin.path.absolute(),
        partition=choice.partition,
        shape=shape,
        billing=billing(arguments),
        patience=float(arguments.patience),
    )
