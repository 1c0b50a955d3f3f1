"""The commands that prove: verify, run, gate."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from envbuilder import store
from envbuilder.cli.place import opened
from envbuilder.console import Console
from envbuilder.errors import FINE, NOT_VERIFIED, SAID_NO, EnvbuilderError, InputError

if TYPE_CHECKING:
    from envbuilder.environment import Environment
    from envbuilder.evidence import Verdict
    from envbuilder.report import Verified
    from envbuilder.store import Store


def verify(arguments: Namespace, console: Console) -> int:
    """`envbuilder verify`: every environment named, or every one of the store; the worst exit code counts."""
    from envbuilder.report import junit, outcomes_json, table

    place = opened(arguments.site)
    chosen = [store.find(place, name) for name in arguments.environments] or list(store.environments(place))
    if not chosen:
        raise InputError(
            f"there is no environment in {place.root}", hint="build one: envbuilder build tensorflow-onednn"
        )
    if arguments.junit:
        _refuse_unwritable(Path(arguments.junit))
    verified = [_prove(place, environment, arguments, console) for environment in chosen]
    if not console.json:
        console.result("\n".join(table.render(one, colour=console.results_in_colour) for one in verified))
    else:
        console.document(outcomes_json.document(verified))
    if arguments.junit:
        Path(arguments.junit).write_text(junit.render(verified), encoding="utf-8")
    return _worst([one.exit_code for one in verified])


def run(arguments: Namespace, console: Console) -> int:
    """`envbuilder run`: become the command, if the gate lets it through. Returns only by raising."""
    from envbuilder import gate, launcher
    from envbuilder.process import Command, replace_this_process

    environment = store.find(opened(arguments.site), arguments.environment)
    if not arguments.command:
        raise InputError("no command after `--`", hint="envbuilder run ENV -- python train.py")
    if arguments.ungated:
        console.warning(f"ungated: nothing proves that {environment.identifier} works here")
        found = None
    else:
        found = gate.check(opened(arguments.site), environment)
    words = gate.words(environment, together=launcher.started_by(os.environ))
    patch = gate.patch(environment, os.environ)
    if found is not None:
        gate.remember_start(opened(arguments.site), environment, found, words, patch)
    replace_this_process(Command(argv=(*words, *arguments.command), env=patch))
    return FINE


def gate(arguments: Namespace, console: Console) -> int:
    """`envbuilder gate`: exit code 0 if a command may start, 1 with the reasons if not."""
    from envbuilder import gate as door
    from envbuilder.errors import GateError

    place = opened(arguments.site)
    environment = store.find(place, arguments.environment)
    try:
        proof = door.check(place, environment)
    except GateError as error:
        if console.json:
            console.document(
                {"environment": environment.identifier, "open": False, "why": error.message, "remedy": error.hint}
            )
            return SAID_NO
        raise
    if console.json:
        made = proof.made.isoformat()
        console.document(
            {"environment": environment.identifier, "open": True, "proven": made, "signed_by": proof.signed_by}
        )
    else:
        line = (
            f"{environment.identifier}: proven {proof.made:%Y-%m-%d %H:%M} UTC by {len(proof.checks)} checks on "
            f"{proof.ranks} ranks ({f'signed by {proof.signed_by}' if proof.signed_by else 'unsigned'})"
        )
        door.remember(place, environment, proof, line)
        console.done(line)
    return FINE


def _prove(place: Store, environment: Environment, arguments: Namespace, console: Console) -> Verified:
    from envbuilder.report import Verified

    with console.step(f"verify {environment.identifier}") as tick:
        try:
            verdict = _verdict(place, environment, arguments, console, tick)
        except EnvbuilderError as error:
            if isinstance(error, InputError) and len(arguments.environments) == 1:
                raise
            console.error(error.message, error.hint)
            return Verified(environment=environment, verdict=None, why=error.message)
    return Verified(environment=environment, verdict=verdict)


def _verdict(
    place: Store, environment: Environment, arguments: Namespace, console: Console, tick: Callable[[str], None]
) -> Verdict:
    """On this machine, in the allocation that we are in, or in a job of its own: as the site has it."""
    from envbuilder import job, proof, prove, signature
    from envbuilder.cli.jobs import nodes_for

    effort = prove.Effort(
        ranks=arguments.ranks or 2,
        timeout=arguments.timeout,
        keep_going=arguments.keep_going,
        partition=arguments.partition,
        key=signature.key(os.environ),
    )
    if not environment.scheduler:
        _refuse_job_options(environment, arguments)
        return prove.prove(place, environment, effort, tick)
    from envbuilder import verify_job

    nodes, inside = nodes_for(environment, arguments, least_ranks=2)
    if inside is not None:
        partition = nodes.site.partition(nodes.partition)
        effort = replace(
            effort,
            ranks=nodes.shape.ranks,
            nodes=nodes.shape.nodes,
            srun=job.srun(nodes.site, partition, nodes.shape) if partition.launch.launcher == "srun" else (),
        )
        return prove.prove(place, environment, effort, tick)
    options = (f"--timeout={arguments.timeout}", *(("--keep-going",) if arguments.keep_going else ()))
    verdict, end = verify_job.verify(place, environment, nodes, options, tick)
    if effort.key is not None and verdict.exit_code == FINE:  # the nodes may not see the key
        signature.sign(proof.path_of(place, environment, nodes.partition), effort.key)
    hours = end.seconds * nodes.shape.nodes / 3600
    console.note(f"{end}: {hours:.2f} node-hours")
    return verdict


def _refuse_job_options(environment: Environment, arguments: Namespace) -> None:
    if arguments.nodes > 1 or arguments.partition not in ("", environment.partition):
        raise InputError(
            f"{environment.identifier} is for {environment.site}, which has no batch system: it is verified on this machine",
            hint="leave --nodes and --partition out",
        )


def _worst(codes: list[int]) -> int:
    """A failed check outweighs one that could not run."""
    return next((code for code in (SAID_NO, NOT_VERIFIED) if code in codes), FINE)


def _refuse_unwritable(path: Path) -> None:
    """Before an hour of work, not after."""
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--junit: {path} cannot be written", hint="give the path of a file in a folder that exists")
