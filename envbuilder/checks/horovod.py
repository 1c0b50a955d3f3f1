"""Rungs 2 and 4: what Horovod's build holds, which MPI it works over, and the gradients that it averages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from envbuilder.checks.base import Check, Failed, Finding, NotRun, Passed
from envbuilder.checks.mpi import ranks_with
from envbuilder.checks.parallel import equal, on_ranks, reference, results
from envbuilder.checks.reading import Facts, part, said, set_variables, word
from envbuilder.checks.training import FRAMEWORKS
from envbuilder.evidence import Evidence, Expectation, RankEvidence

_STEERING = ("HOROVOD_CONTROLLER", "HOROVOD_CPU_OPERATIONS")
_WITH = "build Horovod with {}=1, which stops where it cannot; of what is set to 0 it takes what it finds"


def _asked(expectation: Expectation) -> dict[str, str]:
    """The recipe's frameworks that Horovod serves, with their labels."""
    return {name: label for name, label in FRAMEWORKS.items() if name in expectation.features}


def _built(expectation: Expectation, evidence: Evidence) -> Finding:
    facts = part(evidence, "horovod")
    if isinstance(facts, (Failed, NotRun)):
        return facts
    told = []
    for framework, label in _asked(expectation).items():
        found = facts.get("frameworks", {}).get(framework)
        if not isinstance(found, Mapping):
            return Failed(f"what Horovod has for {label} was not looked at", "verify again")
        failed = _extension(framework, label, found, str(facts.get("built_for", {}).get(framework, "")))
        if failed is not None:
            return failed
        file = str(found["mapped"][0])
        told.append(f"{label} {found['installed']}: {file.rsplit('/', 1)[-1]}, built for it and loaded")
    return Passed("; ".join(told)) if told else NotRun("the recipe has no framework that Horovod serves")


def _extension(framework: str, label: str, found: Facts, built_for: str) -> Failed | None:
    """What is wrong with the extension for one framework."""
    told = _WITH.format(f"HOROVOD_WITH_{'PYTORCH' if framework == 'torch' else framework.upper()}")
    error = found.get("error")
    words = said(error) if isinstance(error, Mapping) else ""
    if not found.get("files"):
        return Failed(f"Horovod was built without {label}: there is no horovod/{framework}/mpi_lib*.so", told, words)
    installed = str(found.get("installed", ""))
    if not installed:
        return Failed(
            f"{label}, which Horovod is to serve, ended with {words}", "read the traceback in the evidence file"
        )
    if built_for != installed:
        which = f"for {label} {built_for}" if built_for else f"for no version of {label} that it tells"
        return Failed(
            f"Horovod was built {which}, and {installed} is installed",
            f"build Horovod anew for {label} {installed}, with that very version among its build requirements",
            words,
        )
    if words:
        return Failed(f"importing horovod.{framework} ended with {words}", "read the traceback in the evidence file")
    if not found.get("mapped"):
        return Failed(
            f"horovod.{framework} was imported, and its extension {found['files'][0]} is not mapped",
            "find out which other module answers to that name",
        )
    return None


def _mpi(expectation: Expectation, evidence: Evidence) -> Finding:
    told = []
    for framework, label in _asked(expectation).items():
        failed = _loaded(framework, label, evidence)
        if failed is not None:
            return failed
        ranks = _skipped(framework, evidence) or ranks_with(evidence, f"horovod_{framework}")
        if isinstance(ranks, NotRun):
            return ranks
        for rank in ranks:
            for judge in (_controller, _world, _library, _results):
                failed = judge(expectation, rank, rank.facts[f"horovod_{framework}"])
                if failed is not None:
                    return failed
        if len(ranks) != expectation.ranks:
            return NotRun(f"{len(ranks)} of {expectation.ranks} ranks were there; see ranks-started")
        state = ranks[0].facts[f"horovod_{framework}"]["state"]
        soname = _soname(ranks[0], state)
        threads = "" if state.get("mpi_threads") else ", which does not allow other threads to use it"
        told.append(
            f"{label}: {word(len(ranks), 'rank')}, controller and operations over {state['implementation']} "
            f"({soname}), mpi4py's own{threads}"
        )
    return Passed("; ".join(told)) if told else NotRun("the recipe has no framework that Horovod serves")


def _loaded(framework: str, label: str, evidence: Evidence) -> Failed | None:
    """A rank that could not load the extension; then no rank goes on with it."""
    for rank in evidence.runs["ranks"].ranks if "ranks" in evidence.runs else ():
        told = rank.facts.get("horovod")
        found = told.get("frameworks", {}).get(framework) if isinstance(told, Mapping) else None
        if isinstance(told, Mapping) and isinstance(found, Mapping) and (found.get("error") or not found.get("mapped")):
            failed = _extension(framework, label, found, str(told.get("built_for", {}).get(framework, "")))
            if failed is not None:
                return Failed(f"rank {rank.rank}: {failed.cause}", failed.remedy, failed.witnessed)
    return None


def _skipped(framework: str, evidence: Evidence) -> NotRun | None:
    """Why no rank went on with Horovod in this framework, where they agreed not to."""
    for rank in evidence.runs["ranks"].ranks if "ranks" in evidence.runs else ():
        error = dict(rank.facts.get(f"horovod_{framework}", {})).get("error")
        if isinstance(error, Mapping) and error.get("kind") == "Skipped":
            return NotRun(f"rank {rank.rank} was left out: {error.get('message')}; see horovod-built")
    return None


def _controller(_: Expectation, rank: RankEvidence, facts: Facts) -> Failed | None:
    """Not built with MPI, or not using it."""
    state = _state(facts)
    if state.get("mpi_built") is not True:
        instead = ": gloo is what it has" if state.get("gloo_built") else ""
        return Failed(
            f"rank {rank.rank}: Horovod was built without MPI{instead}{_alone(state)}", _WITH.format("HOROVOD_WITH_MPI")
        )
    if state.get("mpi_enabled") is not True or state.get("gloo_enabled") is not False:
        variables = set_variables(rank.facts, _STEERING)
        return Failed(
            f"rank {rank.rank}: Horovod has MPI and works over gloo{f' ({variables})' if variables else ''}",
            f"unset {' and '.join(_STEERING)}, start the ranks by MPI's launcher, or build with HOROVOD_WITHOUT_GLOO=1",
        )
    return None


def _world(expectation: Expectation, rank: RankEvidence, facts: Facts) -> Failed | None:
    """Another world than MPI's, or a smaller one than was asked for."""
    state, world = _state(facts), rank.facts.get("world")
    seen = tuple(state.get(key) for key in ("rank", "size"))
    right = tuple(world.get(key) for key in ("rank", "size")) if isinstance(world, Mapping) else ()
    if seen[1] == expectation.ranks and seen == right:
        return None
    said_by_mpi = f"MPI says rank {right[0]} of {right[1]}" if right else "MPI says nothing"
    return Failed(
        f"process {rank.rank}: Horovod says rank {seen[0]} of {seen[1]}, {said_by_mpi}, and {word(expectation.ranks, 'rank')} "
        f"asked for{_alone(state)}",
        "start the ranks with the launcher of the MPI that Horovod is built with; see ranks-started",
    )


def _alone(state: Facts) -> str:
    return "; it trains as if it were alone, without a word" if state.get("size") == 1 else ""


def _library(_: Expectation, rank: RankEvidence, facts: Facts) -> Failed | None:
    """Another library than mpi4py's; whether that one is the right one is what mpi-library says."""
    state, mpi = _state(facts), rank.facts.get("mpi")
    used = str(state.get("implementation", ""))
    ours = str(mpi.get("implementation", "")) if isinstance(mpi, Mapping) else ""
    if not used:
        return Failed(
            f"rank {rank.rank}: Horovod's extension binds no PMPI_Init_thread of any mapped library",
            "build Horovod anew against the MPI",
            f"it needs {', '.join(map(str, state.get('needs', ())))}",
        )
    if used != ours:
        variables = set_variables(rank.facts)
        return Failed(
            f"rank {rank.rank}: Horovod uses {used}, and mpi4py {ours or 'none'}{f' ({variables})' if variables else ''}",
            "build both with the compiler of one MPI",
        )
    if not _soname(rank, state):
        return Failed(
            f"rank {rank.rank}: Horovod's extension does not name {used} among what it needs, and works only where something "
            "else loaded it before",
            "link Horovod with the MPI (its compiler wrapper does)",
            f"it needs {', '.join(map(str, state.get('needs', ())))}",
        )
    return None


def _soname(rank: RankEvidence, state: Facts) -> str:
    """The soname of the MPI library, if the extension asks for it by that name."""
    listed = (*rank.facts.get("libraries_at_end", ()), *rank.facts.get("mpi", {}).get("libraries", ()))
    names = {str(one.get("soname")) for one in listed if one.get("realpath") == state.get("implementation")}
    return next((str(name) for name in state.get("needs", ()) if name in names), "")


def _results(_: Expectation, rank: RankEvidence, facts: Facts) -> Failed | None:
    return results("Horovod", rank.rank, facts.get("collectives", {}))


def _state(facts: Facts) -> Facts:
    state = facts.get("state")
    return state if isinstance(state, Mapping) else {}


def _gradients(expectation: Expectation, evidence: Evidence) -> Finding:
    told = []
    judges: tuple[Callable[[str, list[RankEvidence]], Finding], ...] = (equal, reference)
    for framework, label in _asked(expectation).items():
        for judge in judges:
            finding = _skipped(framework, evidence) or on_ranks(f"horovod_{framework}", judge)(expectation, evidence)
            if isinstance(finding, Failed):
                return Failed(f"{label}: {finding.cause}", finding.remedy, finding.witnessed)
            if isinstance(finding, NotRun):
                return finding
            told.append(f"{label}: {finding.witnessed}")
    return Passed("; ".join(told)) if told else NotRun("the recipe has no framework that Horovod serves")


BUILT: tuple[Check, ...] = (
    Check(
        name="horovod-built",
        rung=2,
        title="Horovod has its extension for each framework",
        source="single",
        judge=_built,
        features=frozenset({"horovod"}),
        witnesses="For each framework of the recipe: Horovod's extension file, that it is mapped after the import, and that "
        "the version which it was built for is the installed one.",
        mistakes="`horovodrun --check-build` ticks frameworks that are not there, and `import horovod.torch` goes well without "
        "its extension, with a line on stdout. HOROVOD_WITH_X=0 takes X where it finds it, and a build without "
        "HOROVOD_WITH_X=1 leaves X out without a word. Another version of the framework than the one that it was built for is "
        "at best a warning on import.",
        fails="An extension that is missing, raises, is not loaded, or was built for another version; the framework is named.",
    ),
)

RANKS: tuple[Check, ...] = (
    Check(
        name="horovod-mpi",
        rung=4,
        title="Horovod works over the environment's MPI",
        source="ranks",
        judge=_mpi,
        features=frozenset({"horovod", "mpi4py"}),
        witnesses="In each rank, after hvd.init(): that Horovod works over MPI and not over gloo, its rank and size beside "
        "those of MPI, the library whose MPI functions its extension binds beside mpi4py's, the soname by which it asks for "
        "it, and an all-reduce, an allgather and a broadcast with known results.",
        mistakes="Horovod without MPI, or with a launcher that does not fit, starts n worlds of one: every rank trains, none "
        "waits for another, and losses fall. An all-reduce of ones is right then.",
        fails="No MPI in it, gloo in its place, a world of another size, another MPI library than mpi4py's, a wrong result.",
    ),
    Check(
        name="horovod-gradients",
        rung=4,
        title="Horovod's gradients are equal on all ranks and right",
        source="ranks",
        judge=_gradients,
        features=frozenset({"horovod", "mpi4py"}),
        witnesses="A training through Horovod's averaging (TensorFlow: its tape, PyTorch: its optimizer): gradients of the "
        "first and the last step and parameters after it equal bit for bit on all ranks, and the gradients those of one "
        "process with the whole batch and the right ones, within a derived bound; see docs/bounds.md.",
        mistakes="The loss of each rank falls as well when nothing is averaged, or summed in place of averaged.",
        fails="A rank that differs; a tensor further away than rounding allows; a sum that was not averaged is named.",
    ),
)
