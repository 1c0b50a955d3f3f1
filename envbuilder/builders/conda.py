"""The conda builder: an environment that conda's packages begin, with py-rattler, and the package index's complete, with uv.

The interpreter is one of the packages. The resolver of the second part sees the distributions that conda brings as installed,
so that nothing is brought twice or replaced. What is compiled here is compiled with the environment's own interpreter.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import envbuilder
from envbuilder import artefacts, conda, host, pip_config, process
from envbuilder import lock as lock_format
from envbuilder.activation import Activation, script
from envbuilder.activation import environment as activated
from envbuilder.builders import source, venv
from envbuilder.builders.base import LockOptions, Workplace
from envbuilder.builders.installing import taken
from envbuilder.conda import Asked, Record
from envbuilder.document import digest, load_json, to_json
from envbuilder.environment import Environment
from envbuilder.errors import CommandFailed, HostError, InputError
from envbuilder.lock import Artefact, Lock
from envbuilder.plan import Plan, Remove, Run, Step, Write, identifier
from envbuilder.process import Command, EnvPatch
from envbuilder.request import Request
from envbuilder.resolve import Below, resolve, uv_environment
from envbuilder.target import Python, Target

FORMAT = 1
_TOOL = Path(envbuilder.__file__).parent / "workshop" / "conda.py"


def missing(target: Target) -> str:
    """Why this builder cannot work on a target, or nothing."""
    return "" if target.arch in conda.PLATFORMS else f"conda has no packages for {target.arch}"


def lock(request: Request, target: Target, options: LockOptions, place: Workplace) -> Lock:
    """Let rattler choose conda's packages, then uv the rest beside them.

    Raises `CommandFailed` in the words of the one that finds no answer, `HostError` where py-rattler is missing, and
    `InputError` for what both would bring.
    """
    asked = request.conda
    if asked is None:
        raise AssertionError("a request for conda says what it wants from it")
    with tempfile.TemporaryDirectory(prefix="envbuilder-conda-") as folder:
        text = _solved(asked, options, place, Path(folder))
        found = conda.records(text, conda.BODY)
        _refuse_compiled(request, found)
        wheels = _standing_for(conda.brought(found), Path(folder) / "wheels")
        below = Below(wheels=wheels, bodies={conda.BODY: text}, created_by={"py-rattler": _rattler_version()})
        return resolve(request, replace(target, python=_python(found, target)), options, place, below)


def plan(lock: Lock, target: Target, place: Workplace, *, generation: int = 0, prefix: Path | None = None) -> Plan:
    """The steps from nothing to the tree at its final path."""
    found = lock.conda()
    python = _python(found, target)
    # the interpreter is known by its package: where it lies follows from what is decided here
    of_package = next(record.sha256 for record in found if record.name == "python")
    known = replace(target, python=replace(python, path=f"conda:{of_package}"))
    keys = {name: source.inputs(lock, name, known) for name in lock.sources}
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "builder": "conda",
        "lock": lock.digest,
        "mpi": target.mpi.identity() | {"library": target.mpi.library} if target.mpi else None,
        "wheels": {name: digest(value) for name, value in keys.items()},
        "caches": venv.caches(place),
        **({"modules": target.modules.identity()} if target.modules else {}),
        **({"generation": generation} if generation else {}),
    }
    name = identifier(lock.recipe, lock.version, inputs)
    prefix = prefix or place.root / "envs" / name
    there = replace(target, python=replace(python, path=str(prefix / "bin" / "python")))
    steps: list[Step] = [
        Remove(title="clear what an interrupted build left", path=prefix),
        *venv.lock_inside(lock, prefix),
        *_conda_part(lock, place, prefix),
        *(source.product(lock, one, there, place, keys[one]) for one in lock.sources),
        *_index_part(lock, there, place, prefix),
        *venv.compiled_inside(lock, place, prefix, {one: digest(value) for one, value in keys.items()}),
    ]
    settings = tuple(lock.request["settings"])
    tree = venv.activation_of(name, prefix, python.version, settings, venv.caches(place))
    activation = replace(tree, effect=target.effect, conda=True)
    steps.append(Write(title="write bin/activate", path=prefix / "bin" / "activate", text=script(activation)))
    return Plan(
        name=f"{lock.recipe}@{lock.version}",
        identifier=name,
        prefix=prefix,
        inputs=inputs,
        steps=tuple(steps),
        network={key: value for key, value in uv_environment(place).items() if value is not None},
        modules=target.modules.names if target.modules else (),
        effect=target.effect,
        python=there.python,
    )


def enter(environment: Environment, base: Mapping[str, str]) -> EnvPatch:
    """What activating the environment does to the variables `base`."""
    return activated(activation(environment), base)


def activation(environment: Environment) -> Activation:
    """The activation of an environment that is there."""
    return replace(venv.activation_for(environment), conda=True)


def read_lock_file(asked: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a lock file of pixi or conda-lock holds: `asked` names `file`, `environment` and `platform`.

    Raises `InputError` with py-rattler's own words for what is no such file.
    """
    question, answer = folder / "question.json", folder / "answer.json"
    question.write_text(to_json(asked))
    done = process.capture(Command(argv=(*_rattler(), "read", str(question), str(answer))), timeout=300)
    if done.code != 0:
        words = done.output.strip().splitlines() or ["no reason given"]
        raise InputError(
            f"{asked['file']}: {words[-1]}", hint="give a lock file of pixi or conda-lock for this platform"
        )
    return load_json(answer, "answer of py-rattler")


def _solved(asked: Asked, options: LockOptions, place: Workplace, folder: Path) -> str:
    """The body of the lock: what the solver answers."""
    kept = [] if options.upgrade_all or options.previous is None else _kept(options.previous, options.upgrade)
    question = {
        "channels": list(asked.channels),
        "packages": list(asked.packages),
        "platform": asked.platform,
        "virtual_packages": conda.generic(asked.virtual_packages),
        "mirrors": dict(place.site.mirrors),
        "previous": kept,
        "exclude_newer": options.exclude_newer.isoformat() if options.exclude_newer else "",
        "cache": str(place.root / "cache" / "conda" / "repodata"),
    }
    asks, answer = folder / "question.json", folder / "answer.json"
    asks.write_text(to_json(question))
    command = Command(argv=(*_rattler(), "solve", str(asks), str(answer)))
    done = process.logged(command, place.log, redact=pip_config.redact)
    if done.code != 0:
        raise _no_answer(asked, pip_config.redact(done.output.strip()), place.log)
    return conda.body(asked.platform, load_json(answer, "answer of the solver")["packages"])


def _kept(previous: Lock, upgrade: tuple[str, ...]) -> list[dict[str, Any]]:
    """The packages of a lock whose versions are kept where they still fit."""
    text = previous.bodies.get(conda.BODY)
    packages = conda.document(text, conda.BODY)["packages"] if text else []
    return [one for one in packages if one["name"] not in upgrade]


def _no_answer(asked: Asked, words: str, log: Path) -> CommandFailed:
    """The solver's own words, with what it was told of the nodes."""
    nodes = ", ".join(f"{name} {version}" for name, version in asked.virtual_packages.items())
    wanted, channels = ", ".join(asked.packages), ", ".join(asked.channels)
    indented = "\n".join(f"    {line}" for line in words.splitlines()[-process.TAIL_LINES :])
    return CommandFailed(
        f"no set of conda packages answers {wanted} from {channels}:\n{indented}",
        hint=f"the nodes have {nodes}, by the site file (`virtual_packages`, `cpu.target`, `gpu.toolkit`); a channel that is "
        f"out of reach needs a mirror there; full log: {log}",
        output=words,
    )


def _refuse_compiled(request: Request, found: Iterable[Record]) -> None:
    """What a recipe compiles is not taken from conda as well."""
    from packaging.utils import canonicalize_name

    owners = {name: record.name for record in found for name in record.distributions}
    for name, compiled in request.sources.items():
        distribution = compiled.sdist or compiled.name
        owner = owners.get(canonicalize_name(distribution))
        if owner:
            raise InputError(
                f"the conda package {owner} brings {distribution}, which the recipe compiles (sources.{name})",
                hint="take one of them out of the recipe",
            )


def _standing_for(brought: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """A wheel with nothing but a name and a version for each distribution: what the resolver sees of conda's."""
    import zipfile

    folder.mkdir(parents=True)
    wheels = {}
    for name, version in brought.items():
        stem = f"{name.replace('-', '_')}-{version}"
        about = f"{stem}.dist-info"
        wheels[name] = folder / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(wheels[name], "w") as archive:
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{about}/RECORD", "")
    return wheels


def _python(found: Iterable[Record], target: Target) -> Python:
    """The interpreter that the packages bring; where it is follows later."""
    version = next(record.version for record in found if record.name == "python")
    return replace(target.python, path="", version=version)


def _conda_part(lock: Lock, place: Workplace, prefix: Path) -> list[Step]:
    """Install conda's packages, from the addresses that work from here."""
    question = prefix / "share" / "envbuilder" / "conda.install.json"
    document = conda.document(lock.bodies[conda.BODY], conda.BODY)
    files = {artefact.package: artefact for artefact in lock.artefacts(conda.BODY)}
    packages = [{**one, "url": _address(files[one["name"]], place)} for one in document["packages"]]
    asks = {
        "platform": document["platform"],
        "prefix": str(prefix),
        "cache": str(place.root / "cache" / "conda" / "pkgs"),
        "packages": packages,
    }
    return [
        Write(title="the conda packages, as found from here", path=question, text=to_json(asks)),
        Run(
            title=f"install {len(packages)} conda packages",
            argv=(*_rattler(), "install", str(question)),
            watch=prefix,
            counted="conda-meta/*.json",
            total=len(packages),
        ),
        # it differs between users of one lock
        Remove(title="remove where they were found", path=question),
    ]


def _index_part(lock: Lock, there: Target, place: Workplace, prefix: Path) -> list[Step]:
    """Install the rest beside them; `sync` would remove what conda brought."""
    body = prefix / "share" / "envbuilder" / "pylock.install.toml"
    text = taken(lock, lock_format.MAIN, there, place, without=artefacts.compiled(lock))
    count = len(lock_format.parse_body(text, body.name).packages)
    if not count:
        return []
    return [
        Write(title="the artefacts to install, as found from here", path=body, text=text),
        Run(
            title=f"install {count} packages beside them",
            argv=(
                host.uv(), "pip", "install", "--python", there.python.path, "--no-build", "--no-deps",
                "--requirements", str(body),
            ),
            cache_first=("--offline",),
            watch=prefix / "lib",
            total=len(lock.packages()),
        ),
        Remove(title="remove where they were found", path=body),
    ]  # fmt: skip


def _address(artefact: Artefact, place: Workplace) -> str:
    if place.artefacts is not None:
        return artefacts.address(place.artefacts, artefact)
    return pip_config.mirrored(artefact.url, place.site.mirrors)


def _rattler() -> tuple[str, ...]:
    """The command that solves and installs; raises `HostError` where py-rattler is not installed."""
    found = find_spec("rattler")
    if found is None or found.origin is None:
        raise HostError(
            "--builder conda needs py-rattler, which is not installed",
            hint="python -m pip install 'envbuilder[conda]'; no conda is needed",
        )
    return (sys.executable, "-I", str(_TOOL), str(Path(found.origin).parent.parent))


def _rattler_version() -> str:
    from importlib.metadata import version

    return version("py-rattler")
