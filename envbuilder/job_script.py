"""The batch script of a user's command: modules that must load, the gate, then the command under the site's launcher."""

from __future__ import annotations

from shlex import join, quote

from envbuilder import job
from envbuilder.environment import Environment
from envbuilder.nodes import Nodes, this_envbuilder
from envbuilder.store import Store

_LAUNCHERS = ("srun", "mpiexec", "mpirun", "torchrun", "aprun", "jsrun")


def render(
    place: Store, environment: Environment, nodes: Nodes, options: tuple[str, ...], command: tuple[str, ...]
) -> str:
    """The text of the script.

    A command that begins with a launcher is left as it is; any other is started by the site's, with the ranks asked for.
    Raises `InputError` for what cannot be written.
    """
    partition = nodes.site.partition(nodes.partition)
    if partition.launch.launcher == "srun" and command[0].rpartition("/")[2] not in _LAUNCHERS:
        command = (*job.srun(nodes.site, partition, nodes.shape), *command)
    base = environment.base
    body = (
        f"# {environment.identifier}; the modules above must still load, and its proof must hold on this node",
        f"export ENVBUILDER_HOME={quote(str(place.root))}",
        *_home(nodes),
        join((*this_envbuilder(), "gate", environment.identifier)),
        f"source {quote(environment.prefix)}/bin/activate",
        join(command),
    )
    return job.script(nodes.site, partition, options, body, extra_modules=(base["module"],) if base is not None else ())


def _home(nodes: Nodes) -> tuple[str, ...]:
    """HOME is a folder that is there: programs look for their settings in it, and some fail when they cannot."""
    if nodes.site.paths.home_on_compute:
        return ()
    return ('[ -d "$HOME" ] || export HOME="$PWD"',)
