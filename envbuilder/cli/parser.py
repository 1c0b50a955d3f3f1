"""The commands and their options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from envbuilder import __version__
from envbuilder.cli import packing_options, spack_options, trust_words

_ABOUT = """\
Build Python machine-learning environments on supercomputers, and prove what they really run.

  envbuilder build tensorflow-onednn     lock, build and publish an environment
  envbuilder verify                      prove it by real training steps on several ranks
  envbuilder run ENV -- CMD              run a command in it; refuses without a proof
"""

_CODES = """\
exit codes: 0 fine, 1 a check failed or the gate says no, 2 mistake in the input, 3 build failed,
4 verification could not run, 70 a bug in envbuilder, 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where to look."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}\n  hint: see `{self.prog} --help`\n")
        raise SystemExit(2)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command; `run` is the function that carries it out. Raises SystemExit as argparse does."""
    head, command = _split(list(words))
    arguments = _parser().parse_args(head)
    arguments.command = command
    if arguments.verb == "build" and not (arguments.recipe or arguments.offline):
        _Parser(prog="envbuilder build").error("the following arguments are required: RECIPE")
    if getattr(arguments, "takes_command", False) != (command is not None):
        message = "write the command after `--`" if command is None else "takes no command after `--`"
        _Parser(prog=f"envbuilder {arguments.verb}").error(message)
    return arguments


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before and after `--`."""
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _lazily(module: str, function: str) -> Callable[..., int]:
    def run(*arguments: Any) -> int:
        from importlib import import_module

        result = getattr(import_module(f"envbuilder.cli.{module}"), function)(*arguments)
        return int(result)

    return run


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="envbuilder", description=_ABOUT, epilog=_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"envbuilder {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_making(verbs)
    _add_proving(verbs)
    trust_words.add(verbs, trust_words.Means(verb=_verb, site=_add_site, json=_add_json))
    packing_options.add(verbs, _verb, (_add_site, _add_json))
    _add_keeping(verbs)
    _add_diagnosing(verbs)
    _add_describing(verbs)
    return parser


Verbs = Any  # argparse names the type of add_subparsers' result with an underscore


def _verb(verbs: Verbs, name: str, function: str, summary: str, *, module: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=summary, description=summary)
    verb.set_defaults(run=_lazily(module, function))
    verb.add_argument("--quiet", "-q", action="store_true", help="say nothing but warnings, errors and results")
    return verb


def _add_wish(verb: argparse.ArgumentParser, *, named_elsewhere: str = "", images: bool = False) -> None:
    what = "a recipe's name, name@version, or the path of a recipe.yaml"
    if named_elsewhere:
        verb.add_argument("recipe", metavar="RECIPE", nargs="?", default="", help=f"{what}{named_elsewhere}")
    else:
        verb.add_argument("recipe", metavar="RECIPE", help=what)
    _add_site(verb)
    verb.add_argument("--partition", default="", help="a partition of the site (default: the site's own choice)")
    verb.add_argument("--python", default="", help="the interpreter: a path, or a version such as 3.12")
    verb.add_argument(
        "--on",
        default="",
        metavar="MODULE",
        help="put the recipe on this module of the site instead of what it extends",
    )
    builders = ("venv", "conda", "spack", "apptainer") if images else ("venv", "conda", "spack")
    verb.add_argument("--builder", default="venv", choices=builders, help="what to build (default: venv)")
    if images:
        _add_image(verb.add_argument_group("images, with --builder apptainer"))
    _add_billing(verb.add_argument_group("jobs, where a site builds on its nodes"), minutes=60)


def _add_image(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--base",
        default="",
        help="what the image starts from: a name, or the path of a root file system or a SIF (default: debian-12)",
    )
    group.add_argument(
        "--mpi", default="", choices=("image", "host"), help="whose MPI its ranks use (default: the image's own)"
    )
    group.add_argument(
        "--compression", default="", choices=("gzip", "lz4", "zstd"), help="how the image is packed (default: gzip)"
    )


def _add_site(verb: argparse.ArgumentParser) -> None:
    default = os.environ.get("ENVBUILDER_SITE", "local")
    verb.add_argument("--site", default=default, help="a site's name or file (default: $ENVBUILDER_SITE, else local)")


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="write the result as JSON on stdout")


def _add_making(verbs: Verbs) -> None:
    build = _verb(verbs, "build", "build", "lock, build and publish an environment", module="making")
    _add_wish(build, named_elsewhere="; a bundle names its own", images=True)
    _add_json(build)
    build.add_argument("--sif", default="", metavar="FILE", help="also write the image to FILE")
    build.add_argument("--lock", default="", metavar="DIR", help="build from the lock in DIR instead of the store's")
    build.add_argument("--offline", default="", metavar="BUNDLE", help="build from BUNDLE alone, without a network")
    build.add_argument("--rebuild", action="store_true", help="fetch and build again what is there already")
    build.add_argument(
        "--explain-cache",
        action="store_true",
        help="build nothing: say of each compiled wheel whether it is kept, and if not what differs from the nearest",
    )
    lock = _verb(verbs, "lock", "lock", "resolve a recipe for a partition and write the lock", module="making")
    _add_wish(lock, images=True)
    _add_json(lock)
    lock.add_argument("-o", "--output", default="", metavar="DIR", help="write the lock to DIR instead of the store")
    lock.add_argument("--check", action="store_true", help="only say whether the lock is stale (exit code 1)")
    lock.add_argument("--upgrade", action="append", default=[], metavar="PKG", help="let PKG change (repeatable)")
    lock.add_argument("--upgrade-all", action="store_true", help="let every package change")
    lock.add_argument("--exclude-newer", default="", metavar="DATE", help="ignore what was published after DATE")
    bundle = _verb(
        verbs, "bundle", "bundle", "collect what a lock takes into one file to build from offline", module="making"
    )
    _add_wish(bundle, images=True)
    _add_json(bundle)
    bundle.add_argument("--lock", default="", metavar="DIR", help="bundle the lock in DIR instead of the store's")
    bundle.add_argument(
        "-o", "--output", default="", metavar="FILE", help="write FILE (default: RECIPE-VERSION-DIGEST.bundle.tar)"
    )
    plan = _verb(verbs, "plan", "plan", "print the steps of a build without carrying them out", module="making")
    _add_wish(plan)
    _add_json(plan)
    plan.add_argument("--lock", default="", metavar="DIR", help="plan from the lock in DIR instead of the store's")
    plan.add_argument("--script", action="store_true", help="print a shell script that builds the same tree")
    target = _verb(
        verbs,
        "target",
        "target",
        "say what a recipe would be built for here: modules, Python, compiler, MPI",
        module="making",
    )
    _add_wish(target)
    _add_json(target)
    diff = _verb(verbs, "diff", "diff", "compare two locks, or two trees, and say what differs", module="comparing")
    diff.add_argument("first", metavar="A", help="a lock's folder, an environment, or the path of a tree")
    diff.add_argument("second", metavar="B", help="likewise")
    diff.add_argument(
        "--witnessed", action="store_true",
        help="compare what the last verifies of two environments saw: versions, libraries, kernels, and results, bit by bit",
    )  # fmt: skip
    _add_site(diff)
    _add_json(diff)


def _add_proving(verbs: Verbs) -> None:
    verify = _verb(verbs, "verify", "verify", "prove environments by witnessing them at work", module="proving")
    verify.add_argument(
        "environments", nargs="*", metavar="ENV", help="which (default: every environment of the store)"
    )
    _add_site(verify)
    _add_json(verify)
    verify.add_argument("--junit", default="", metavar="FILE", help="also write the outcomes as JUnit XML")
    verify.add_argument(
        "--ranks",
        type=_positive,
        default=0,
        metavar="N",
        help="number of MPI ranks over all nodes (default: 2, or one a node)",
    )
    _add_job(verify)
    verify.add_argument(
        "--timeout", type=_positive, default=300, metavar="S", help="seconds for each probe (default: 300)"
    )
    verify.add_argument("--keep-going", action="store_true", help="climb on when a rung failed")
    job = _verb(
        verbs,
        "job",
        "job",
        "print a batch script that runs a command in an environment, with the gate in front",
        module="jobs",
    )
    job.add_argument("environment", metavar="ENV", help="a recipe's name, an environment's identifier, or its path")
    _add_site(job)
    _add_job(job)
    job.add_argument(
        "--ranks", type=_positive, default=0, metavar="N", help="number of ranks over all nodes (default: one a node)"
    )
    job.add_argument("--name", default="", help="the job's name (default: the environment's recipe)")
    job.set_defaults(takes_command=True)
    job.usage = "envbuilder job [OPTION ...] ENV -- CMD [ARGUMENT ...]"
    run = _verb(verbs, "run", "run", "run a command in an environment that is proven", module="proving")
    run.add_argument("environment", metavar="ENV", help="a recipe's name, an environment's identifier, or its path")
    run.add_argument("--ungated", action="store_true", help="run without a proof, and say so")
    _add_site(run)
    run.set_defaults(takes_command=True)
    run.usage = "envbuilder run [--ungated] [--site SITE] ENV -- CMD [ARGUMENT ...]"
    gate = _verb(verbs, "gate", "gate", "say whether an environment may run here now", module="proving")
    gate.add_argument("environment", metavar="ENV", help="a recipe's name, an environment's identifier, or its path")
    _add_site(gate)
    _add_json(gate)


def _add_job(verb: argparse.ArgumentParser) -> None:
    """What a job of the site's batch system is asked for with."""
    verb.add_argument("--partition", default="", help="a partition of the site (default: the environment's own)")
    verb.add_argument(
        "--nodes", type=_positive, default=0, metavar="N", help="number of nodes (default: 1, or the job's own)"
    )
    _add_billing(verb, minutes=20)


def _add_billing(verb: argparse.ArgumentParser | argparse._ArgumentGroup, *, minutes: int) -> None:
    """Who pays for a job, and how long it may take and wait."""
    verb.add_argument(
        "--account", default="", help="whose time a job takes (default: $ENVBUILDER_ACCOUNT, $SBATCH_ACCOUNT)"
    )
    verb.add_argument("--qos", default="", help="the quality of service (default: the site's first that holds the job)")
    verb.add_argument("--reservation", default="", help="a reservation of nodes")
    verb.add_argument(
        "--time",
        type=_positive,
        default=minutes,
        metavar="MIN",
        help=f"wall time of a job in minutes (default: {minutes})",
    )
    verb.add_argument(
        "--patience", type=_positive, default=3600, metavar="S", help="seconds to wait in the queue (default: 3600)"
    )
    verb.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a further option for sbatch, as --sbatch=--mem=4G",
    )


def _add_keeping(verbs: Verbs) -> None:
    envs = verbs.add_parser("envs", help="list, show or remove environments", description="Environments of the store.")
    parts = envs.add_subparsers(dest="part", required=True, metavar="list|show|rm", parser_class=_Parser)
    listing = _verb(parts, "list", "list_environments", "list the environments", module="keeping")
    show = _verb(parts, "show", "show", "show one environment", module="keeping")
    remove = _verb(parts, "rm", "remove", "remove environments", module="keeping")
    show.add_argument("environment", metavar="ENV")
    remove.add_argument("environments", metavar="ENV", nargs="+")
    gc = _verb(
        verbs, "gc", "gc", "remove what nothing needs: old environments, broken trees, scratch", module="keeping"
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    drift = _verb(
        verbs,
        "drift",
        "drift",
        "say what the machine does differently since environments were built",
        module="drifting",
    )
    drift.add_argument("environments", nargs="*", metavar="ENV", help="which (default: every environment of the store)")
    for verb in (listing, show, remove, gc, drift):
        _add_site(verb)
        _add_json(verb)


def _add_describing(verbs: Verbs) -> None:
    lint = _verb(verbs, "lint", "lint", "check recipes and sites (default: all that are known)", module="describing")
    lint.add_argument("names", nargs="*", metavar="FILE", help="recipe or site files, or recipes' names")
    _add_json(lint)
    schema = _verb(verbs, "schema", "schema", "print the JSON Schema of recipes or sites", module="describing")
    schema.add_argument("kind", choices=("recipe", "site"))
    for kind in ("recipes", "sites"):
        group = verbs.add_parser(kind, help=f"list or show {kind}", description=f"The {kind} that are known.")
        group.set_defaults(run=_lazily("describing", f"list_{kind}"))
        known = "list|show|doctor|init|import-spack|trace-binds" if kind == "sites" else "list|show|import"
        parts = group.add_subparsers(dest="part", metavar=known, parser_class=_Parser)
        if kind == "sites":
            _add_surveying(parts)
        else:
            _add_import(parts)
        listing = _verb(parts, "list", f"list_{kind}", f"list the {kind}", module="describing")
        show = _verb(parts, "show", f"show_{kind}", f"show one of the {kind}", module="describing")
        show.add_argument("name", metavar="NAME")
        _add_json(listing)
        _add_json(show)


def _add_import(parts: Verbs) -> None:
    take = _verb(
        parts,
        "import",
        "take",
        "write a recipe from an environment.yml, conda-lock.yml or pixi.lock",
        module="conda_files",
    )
    take.add_argument("file", metavar="FILE", help="the file")
    take.add_argument("--name", default="", help="the recipe's name (default: that of the file)")
    take.add_argument("--environment", default="default", help="which one of a lock file (default: default)")
    take.add_argument("-o", "--output", default="", metavar="FILE", help="write FILE (default: NAME.yaml)")


def _add_diagnosing(verbs: Verbs) -> None:
    doctor = _verb(
        verbs, "doctor", "diagnose", "name the cause of a failure, from a log or an environment", module="diagnosing"
    )
    doctor.add_argument(
        "subject",
        metavar="LOG|ENV",
        nargs="?",
        default="",
        help="a log file, - for standard input, or an environment that failed to build or to verify",
    )
    doctor.add_argument("--list", action="store_true", help="list the causes that are known")
    _add_site(doctor)
    _add_json(doctor)


def _add_surveying(parts: Verbs) -> None:
    doctor = _verb(
        parts, "doctor", "doctor", "check a site file against the machine that one is on", module="surveying"
    )
    doctor.add_argument("name", metavar="NAME", help="a site's name or file")
    doctor.add_argument("--partition", default="", help="only this partition of the site (default: all)")
    _add_json(doctor)
    init = _verb(
        parts, "init", "init", "write a first site file for this machine, from what it shows", module="surveying"
    )
    init.add_argument("name", metavar="NAME", help="the site's name")
    init.add_argument("-o", "--output", default="", metavar="FILE", help="write FILE (default: NAME.yaml)")
    spack_options.add_import(parts, _verb)
    trace = _verb(
        parts,
        "trace-binds",
        "trace",
        "run an MPI program under a tracer, and print what the host's MPI needs in an image",
        module="tracing",
    )
    _add_site(trace)
    trace.add_argument("--partition", default="", help="the partition whose MPI it is (default: the site's own choice)")
    trace.add_argument(
        "--tracer",
        default="",
        choices=("strace", "ld.so"),
        help="by what (default: strace if it is there and may trace, else the dynamic linker's own record)",
    )
    _add_json(trace)
    trace.set_defaults(takes_command=True)
    trace.usage = "envbuilder sites trace-binds [OPTION ...] -- CMD [ARGUMENT ...]; {} in CMD is where the tracer goes"


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)
