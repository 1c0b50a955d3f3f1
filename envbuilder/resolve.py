"""Answer a request with a lock: uv resolves, nothing is installed.

The sdist of every distribution that is compiled here is resolved first and by itself, so that the lock holds its source even
where a wheel of it is published; the environment is then resolved with that version. Of what a recipe gives by an archive or a
commit the resolver is told to leave it out.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from envbuilder import __version__, host, pip_config, process, told
from envbuilder import lock as lock_format
from envbuilder.builders.base import LockOptions, Workplace
from envbuilder.checkout import Cache
from envbuilder.download import Network
from envbuilder.errors import CommandFailed, EnvbuilderError
from envbuilder.lock import Lock
from envbuilder.process import Command
from envbuilder.request import Request
from envbuilder.store import Store
from envbuilder.target import Python, Target

INDEX_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """One call of the resolver."""

    body: str
    requirements: Sequence[str]
    constraints: Sequence[str] = ()
    only_source_of: str = ""
    extra: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setting:
    """What all questions of one lock share; `unreachable` says in words which of the recipe's indexes do not answer."""

    folder: Path
    python: Python
    options: LockOptions
    env: dict[str, str | None]
    base: dict[str, str]
    log: Path
    unreachable: list[str]
    provided: tuple[str, ...] = ()
    brought: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Below:
    """What brings distributions before the resolver is asked: `wheels` stand for them by normalised name, `bodies` lock them.

    The resolver sees them as installed: it takes no other version of them, and nothing that another one is needed for.
    """

    wheels: Mapping[str, Path] = field(default_factory=dict)
    bodies: Mapping[str, str] = field(default_factory=dict)
    created_by: Mapping[str, str] = field(default_factory=dict)


def resolve(
    request: Request, target: Target, options: LockOptions, place: Workplace, below: Below | None = None
) -> Lock:
    """The lock that answers a request.

    Raises `CommandFailed` with the resolver's own words, and `InputError` when an artefact has no hash.
    """
    below = below or Below()
    with tempfile.TemporaryDirectory(prefix="envbuilder-lock-") as folder:
        env, unreachable = _network(request, place)
        bodies = _bodies(
            request,
            target,
            _Setting(
                folder=Path(folder),
                python=target.python,
                options=options,
                env={**env, "PYTHONPATH": None, "PYTHONHOME": None},
                base=target.effect.apply(os.environ),
                log=place.log,
                unreachable=unreachable,
                provided=(*_provided(request, target), *_told(request)),
                brought=below.wheels,
            ),
            place,
        )
    bodies |= below.bodies
    lock = Lock(
        request=request.to_document(),
        site=target.site,
        partition=target.partition,
        created_by={"envbuilder": __version__, "uv": _uv_version(), **below.created_by},
        options={"exclude_newer": options.exclude_newer.isoformat()} if options.exclude_newer else {},
        bodies=bodies,
    )
    return lock_format.from_envelope(lock.envelope(), bodies, "the new lock")


def _bodies(request: Request, target: Target, setting: _Setting, place: Workplace) -> dict[str, str]:
    """Sources first, then the environment with the sources' versions, then what each build needs."""
    bodies: dict[str, str] = {}

    def ask(question: _Question) -> dict[str, str]:
        text = bodies[question.body] = _compile(question, setting)
        return {str(p.name): str(p.version) for p in lock_format.parse_body(text, question.body).packages}

    pins = []
    for name, source in request.sources.items():
        if source.sdist:
            pins += [f"{one}=={version}" for one, version in ask(_source_question(request, name)).items()]
        else:
            upgrade = setting.options.upgrade_all or name in setting.options.upgrade
            cache = _cache(place)
            bodies[lock_format.source_body(name)] = told.body(
                source, cache, setting.options.previous, name, upgrade=upgrade
            )
    packages = ask(_Question(body=lock_format.MAIN, requirements=request.requirements, constraints=pins))
    for name, source in request.sources.items():
        wanted = [*source.build_requires, *_mpi_wheel(target, packages)]
        ask(_Question(body=lock_format.build_body(name), requirements=wanted))
    return bodies


def _provided(request: Request, target: Target) -> tuple[str, ...]:
    """What the module below a layer brings and nothing in the layer asks for in another version: left to the module."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    asked = {canonicalize_name(Requirement(text).name) for text in request.requirements}
    return tuple(sorted(set(target.central.packages) - asked)) if target.central else ()


def _told(request: Request) -> tuple[str, ...]:
    """What the recipe itself gives, by an archive or a commit."""
    from packaging.utils import canonicalize_name

    return tuple(canonicalize_name(source.name) for source in request.sources.values() if not source.sdist)


def _cache(place: Workplace) -> Cache:
    """Where commits are fetched to while we lock."""
    network = Network(pip=place.pip, env=os.environ, mirrors=tuple(place.site.mirrors.values()))
    return Cache(store=Store(root=place.root), network=network, mirrors=place.site.mirrors, waiting=lambda _: None)


def _source_question(request: Request, name: str) -> _Question:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    sdist = request.sources[name].sdist
    key = canonicalize_name(sdist)
    wanted = [text for text in request.requirements if canonicalize_name(Requirement(text).name) == key]
    return _Question(
        body=lock_format.source_body(name), requirements=wanted or [sdist], only_source_of=sdist, extra=("--no-deps",)
    )


def _mpi_wheel(target: Target, packages: dict[str, str]) -> list[str]:
    """The MPI that an extension is compiled against is the one of the environment, to the version."""
    if target.mpi is None or target.mpi.provider != "wheel" or target.mpi.package not in packages:
        return []
    return [f"{target.mpi.package}=={packages[target.mpi.package]}"]


def _network(request: Request, place: Workplace) -> tuple[dict[str, str | None], list[str]]:
    """The resolver's environment, and in words the recipe's indexes that do not answer from here."""
    from envbuilder.reachable import reachable  # the network is needed where something is resolved, and slow to import

    reached: list[str] = []
    unreachable: list[str] = []
    for index in request.indexes:
        url = pip_config.mirrored(index.url, place.site.mirrors)
        why = reachable(url, place.pip, os.environ, timeout=INDEX_TIMEOUT_SECONDS)
        if why is None:
            reached.append(url)
        else:
            unreachable.append(f"{url} ({why})")
    return uv_environment(place, reached), unreachable


def uv_environment(place: Workplace, indexes: Sequence[str] = ()) -> dict[str, str | None]:
    """The environment of every uv that we run: pip's configuration, the site's mirrors, our own cache; or no network."""
    if place.artefacts is not None:
        offline = {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1"}
        return {**pip_config.uv_network(pip_config.PipConfig(), place.root), **offline}
    return pip_config.uv_network(place.pip, place.root, indexes=indexes, mirrors=place.site.mirrors)


def _compile(question: _Question, setting: _Setting) -> str:
    """Let uv write one body; the previous body, if there is one, tells it which versions to keep."""
    folder, options = setting.folder, setting.options
    wanted, constraints, output = folder / "wanted.in", folder / "constraints.txt", folder / question.body
    wanted.write_text("".join(f"{line}\n" for line in question.requirements))
    main = question.body == lock_format.MAIN
    brought = setting.brought if main else {}
    given = [f"{name} @ {wheel.as_uri()}" for name, wheel in brought.items()]
    constraints.write_text("".join(f"{line}\n" for line in (*question.constraints, *given)))
    # uv takes an override whose marker never holds for a distribution that is not needed at all
    overrides = folder / "overrides.txt"
    overrides.write_text("".join(f"{name} ; python_version < '0'\n" for name in setting.provided))
    if options.previous is not None and not options.upgrade_all and question.body in options.previous.bodies:
        output.write_text(options.previous.bodies[question.body])
    argv = [
        host.uv(), "pip", "compile", str(wanted), "--output-file", str(output), "--format", "pylock.toml", "--no-header",
        "--no-annotate", "--python", _interpreter(setting.python),
        # the lock fits every patch release of this Python
        "--python-version", setting.python.minor,
        "--constraints", str(constraints), *question.extra,
        *(("--overrides", str(overrides)) if setting.provided and main else ()),
        *_choices(question, options),
        # uv has no variable for it
        *(("--no-index",) if setting.env.get("UV_NO_INDEX") else ()),
    ]  # fmt: skip
    command = Command(argv=tuple(argv), env=setting.env, cwd=folder)
    done = process.logged(command, setting.log, base=setting.base, redact=pip_config.redact)
    if done.code != 0:
        raise _no_answer(done.output, question, setting)
    return _without(output.read_text(), question.body, brought)


def _without(text: str, body: str, brought: Mapping[str, Path]) -> str:
    """A body without what is there already."""
    if not brought:
        return text
    import tomli_w

    document = lock_format.document(text, body)
    left = [package for package in document["packages"] if package["name"] not in brought]
    return tomli_w.dumps({**document, "packages": left})


def _interpreter(python: Python) -> str:
    """The target's interpreter; where only other nodes have it, our own, which resolves for the other's version."""
    return python.path if os.access(python.path, os.X_OK) else host.own_python().path


def _choices(question: _Question, options: LockOptions) -> list[str]:
    return [
        *(("--no-binary", question.only_source_of) if question.only_source_of else ()),
        *(("--upgrade",) if options.upgrade_all else ()),
        *(word for name in options.upgrade for word in ("--upgrade-package", name)),
        *(("--exclude-newer", options.exclude_newer.isoformat()) if options.exclude_newer else ()),
    ]


def _no_answer(output: str, question: _Question, setting: _Setting) -> EnvbuilderError:
    """The resolver's own words, with what we know of the cause."""
    words = pip_config.redact(output.strip())
    hint = f"a version may not exist for this Python, or an index may be out of reach; full log: {setting.log}"
    if setting.unreachable:
        places = "; ".join(setting.unreachable)
        hint = f"out of reach from here: {places}; name a mirror in the site file or find-links for pip"
    elif "error sending request" in words or "dns error" in words:
        hint = "the package index does not answer; check the network and `pip config list`, then run it again"
    named = [wheel.name.split("-")[:2] for name, wheel in setting.brought.items() if re.search(rf"\b{name}\b", words)]
    if named and question.body == lock_format.MAIN:
        given = ", ".join(f"{name} {version}" for name, version in named)
        hint = f"conda brings {given}: let its packages have another version, or ask the index for what goes with it; {hint}"
    wanted = ", ".join(question.requirements)
    return CommandFailed(f"no set of packages answers {wanted}:\n{_indented(words)}", hint=hint)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-process.TAIL_LINES :])


def _uv_version() -> str:
    return process.checked(Command(argv=(host.uv(), "--version"))).split()[1]
