"""Build where the site wants it: download on the login node, install in a job on the nodes that the environment is for.

Three steps: a job says what the nodes are (their modules, compiler, MPI, Python); the login node, which has a network, locks
and collects everything in a bundle; a second job builds from that with its network off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from envbuilder import nodes as remote
from envbuilder import store
from envbuilder.environment import Environment
from envbuilder.errors import VerifyError
from envbuilder.nodes import Nodes
from envbuilder.store import Store
from envbuilder.target import Target
from envbuilder.wish import Wish


def target(place: Store, nodes: Nodes, wish: Wish, tick: Callable[[str], None]) -> Target:
    """What a recipe would be built for on those nodes, as a job finds it; raises what `nodes.run` does."""
    answer = remote.run(place, nodes, ("target", *_words(wish, nodes), "--json"), _name(wish), tick)
    try:
        return Target.from_document(answer.document["target"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise VerifyError(f"{answer.end}, and did not say what the nodes are", hint=f"see {answer.folder}") from error


def build(
    place: Store, nodes: Nodes, wish: Wish, bundle: Path, tick: Callable[[str], None], *, rebuild: bool = False
) -> Environment:
    """The environment that a job built from a bundle; raises what `nodes.run` does."""
    words = ("build", *_words(wish, nodes), "--offline", str(bundle), "--json", *(("--rebuild",) if rebuild else ()))
    answer = remote.run(place, nodes, words, _name(wish), tick)
    try:
        identifier = str(answer.document["environment"]["identifier"])
    except (KeyError, TypeError) as error:
        raise VerifyError(f"{answer.end}, and named no environment", hint=f"see {answer.folder}") from error
    return store.find(place, identifier)


def _words(wish: Wish, nodes: Nodes) -> tuple[str, ...]:
    return (
        wish.recipe, "--site", str(nodes.site_file), "--partition", nodes.partition,
        *(("--builder", wish.builder) if wish.builder != "venv" else ()),
        *(("--python", wish.python) if wish.python else ()), *(("--on", wish.on) if wish.on else ()),
    )  # fmt: skip


def _name(wish: Wish) -> str:
    """A recipe's name, for a job and a folder; a path is named by its last part."""
    return wish.recipe.rpartition("@")[0].rpartition("/")[2] or wish.recipe.rpartition("/")[2]
