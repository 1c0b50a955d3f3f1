"""The command that writes batch scripts, and what a job is asked for with on the command line."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from envbuilder.console import Console
from envbuilder.errors import FINE, InputError

if TYPE_CHECKING:
    from envbuilder.environment import Environment
    from envbuilder.job import Billing
    from envbuilder.nodes import Nodes
    from envbuilder.scheduler import Allocation


def job(arguments: Namespace, console: Console) -> int:
    """`envbuilder job`: a batch script in which the modules load, the gate opens, and the command runs; on stdout."""
    from envbuilder import job as script
    from envbuilder import job_script, store
    from envbuilder.cli.place import opened

    place = opened(arguments.site)
    environment = store.find(place, arguments.environment)
    if not arguments.command:
        raise InputError("no command after `--`", hint="envbuilder job ENV -- python train.py")
    if not environment.scheduler:
        raise InputError(
            f"{environment.identifier} is for {environment.site}, which has no batch system",
            hint=f"run it here: envbuilder run {environment.identifier} -- {' '.join(arguments.command)}",
        )
    nodes, _ = nodes_for(environment, arguments, least_ranks=1)
    options = script.directives(
        nodes.site,
        nodes.site.partition(nodes.partition),
        nodes.shape,
        nodes.billing,
        name=arguments.name or environment.recipe,
        output="%x-%j.out",
    )
    text = job_script.render(place, environment, nodes, options, tuple(arguments.command))
    console.result(text.rstrip("\n"))
    return FINE


def nodes_for(environment: Environment, arguments: Namespace, *, least_ranks: int) -> tuple[Nodes, Allocation | None]:
    """The nodes that the command line asks for, and the allocation that we are in, if it is theirs."""
    from envbuilder import catalog
    from envbuilder import job as script
    from envbuilder.nodes import Nodes, allocation_for

    site, origin = catalog.site_of(environment, os.environ)
    partition = arguments.partition or environment.partition
    here = site.partition(partition)
    wanted = Nodes(
        site=site,
        site_file=origin.path.absolute(),
        partition=partition,
        shape=script.Shape(),
        billing=billing(arguments),
        patience=float(arguments.patience),
    )
    inside = allocation_for(wanted, os.environ)
    nodes = arguments.nodes or (inside.nodes if inside else 1) or 1
    # a step cannot have more GPUs than its job
    granted = os.environ.get("SLURM_GPUS_ON_NODE", "") if inside else ""
    shape = script.shape_for(
        here,
        nodes=nodes,
        ranks=arguments.ranks or max(least_ranks, nodes),
        minutes=arguments.time,
        gpus_per_node=int(granted) if granted.isdecimal() else None,
    )
    return Nodes(**{name: getattr(wanted, name) for name in Nodes.__slots__} | {"shape": shape}), inside


def billing(arguments: Namespace) -> Billing:
    """Whose time a job takes: as the command line says, else the environment."""
    from envbuilder.job import ACCOUNT_VARIABLES, QOS_VARIABLES, Billing

    return Billing(
        account=arguments.account or _first(os.environ, ACCOUNT_VARIABLES),
        qos=arguments.qos or _first(os.environ, QOS_VARIABLES),
        reservation=arguments.reservation,
        options=tuple(arguments.sbatch),
    )


def _first(env: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((env[name] for name in names if env.get(name)), "")
