"""The batch script of a user's command: modules that must load, the gate, then the command under the site's launcher."""

from __future__ import annotations

from shlex import join, quote

from envbuilder import job
from envbuilder.environment import Environment
from envbuilder.errors import InputError
from envbuilder.nodes import Nodes, this_envbuilder
from envbuilder.store import Store

_LAUNCHERS = ("srun", "mpiexec", "mpirun", "torchrun", "aprun", "jsrun")
# comes with the packages of an environment, and so with an image
_INSIDE = "torchrun"


def render(
    place: Store, environment: Environment, nodes: Nodes, options: tuple[str, ...], command: tuple[str, ...]
) -> str:
    """The text of the script.

    A command that begins with a launcher is left as it is; any other is started by the site's, with the ranks asked for. Of an
    image and of a packed tree each rank is started inside, by `envbuilder run`. Raises `InputError` for what cannot be written.
    """
    partition = nodes.site.partition(nodes.partition)
    program = command[0].rpartition("/")[2]
    launched = program in _LAUNCHERS
    enclosed = bool(environment.image or environment.pack)
    if enclosed and launched and program != _INSIDE:
        raise InputError(
            f"{environment.identifier} is {'an image' if environment.image else 'packed'}: what {command[0]} starts would be "
            "outside of it",
            hint="name the program alone; each rank of it is started inside, by the site's launcher",
        )
    if enclosed:
        command = (*this_envbuilder(), "run", environment.identifier, "--", *command)
    if partition.launch.launcher == "srun" and not launched:
        command = (*job.srun(nodes.site, partition, nodes.shape), *command)
    base = environment.base
    # what is enclosed needs no module, and its proof was made without
    needs = (
        "its proof must hold on this node" if enclosed else "the modules above must still load, and its proof must hold"
    )
    body = (
        f"# {environment.identifier}; {needs}",
        f"export ENVBUILDER_HOME={quote(str(place.root))}",
        *_home(nodes),
        join((*this_envbuilder(), "gate", environment.identifier)),
        *(() if enclosed else (f"source {quote(environment.prefix)}/bin/activate",)),
        join(command),
    )
    extra = (base["module"],) if base is not None else ()
    return job.script(nodes.site, partition, options, body, extra_modules=extra, with_modules=not enclosed)


def _home(nodes: Nodes) -> tuple[str, ...]:
    """HOME is a folder that is there: programs look for their settings in it, and some fail when they cannot."""
    if nodes.site.paths.home_on_compute:
        return ()
    return ('[ -d "$HOME" ] || export HOME="$PWD"',)
