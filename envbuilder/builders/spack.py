"""The Spack builder: Spack chooses and builds everything; the tree is a copy of what it built, in one place.

Spack keeps what it builds in a folder of the store, by its hashes, and builds nothing twice. The tree does not depend on it:
Spack copies the packages (`spack view copy`), a tool of ours puts the tree's path in, and every file of it is hashed, published
and removed as of any other tree. The interpreter is an external, the MPI and the compilers too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import envbuilder
from envbuilder import lock as lock_format
from envbuilder import pip_config, process, spack_lock
from envbuilder.builders import venv
from envbuilder.builders.base import LockOptions, Workplace
from envbuilder.document import to_json, to_yaml
from envbuilder.environment import Environment
from envbuilder.errors import CommandFailed, InputError
from envbuilder.lock import Lock
from envbuilder.plan import Plan, Remove, Run, Step, Write, identifier
from envbuilder.process import Command, EnvPatch
from envbuilder.request import Request
from envbuilder.spack_lock import Solved
from envbuilder.target import Target
from envbuilder.toolchain import which

FORMAT = 1
_TOOL = Path(envbuilder.__file__).parent / "workshop" / "relocate.py"
_NOTHING = 'lock-version = "1.0"\ncreated-by = "envbuilder"\npackages = []\n'


def missing(target: Target) -> str:
    """Why this builder cannot work on a target, or nothing."""
    return "" if which("spack", target.effect.apply(os.environ)) else "there is no spack on the PATH"


def lock(request: Request, target: Target, options: LockOptions, place: Workplace) -> Lock:
    """Let Spack concretize what the request says, anew each time.

    Raises `InputError` where there is no `spack`, for options that it has no like of, and for another Python than the
    target's; `CommandFailed` in Spack's words when it finds no answer.
    """
    if options.upgrade or options.exclude_newer:
        raise InputError(
            "--upgrade NAME and --exclude-newer are not for --builder spack: its packages name the versions there are",
            hint="write versions into the recipe's `specs`, or choose another release of Spack's packages",
        )
    program = program_of(target)
    with tempfile.TemporaryDirectory(prefix="envbuilder-spack-") as name:
        folder = Path(name)
        (folder / "spack.yaml").write_text(to_yaml(request.spack))
        scope = _scope(place, "opt")
        (folder / "scope").mkdir()
        (folder / "scope" / "config.yaml").write_text(to_yaml(scope))
        command = Command(
            argv=_spack(program, folder, "concretize", "--force"),
            env={**dict.fromkeys(pip_config.FOREIGN), **_isolated(place)},
        )
        done = process.logged(command, place.log, base=target.effect.apply(os.environ))
        if done.code != 0:
            raise _no_answer(done.output, request, place)
        text = (folder / "spack.lock").read_text(encoding="utf-8")
    _refuse_other_python(spack_lock.parse(text, spack_lock.BODY), target)
    bodies = {lock_format.MAIN: _NOTHING, spack_lock.BODY: text}
    found = Lock(
        request=request.to_document(),
        site=target.site,
        partition=target.partition,
        created_by={"envbuilder": envbuilder.__version__, "spack": _version(program, place, target)},
        bodies=bodies,
    )
    return lock_format.from_envelope(found.envelope(), bodies, "the new lock")


def plan(lock: Lock, target: Target, place: Workplace, *, generation: int = 0, prefix: Path | None = None) -> Plan:
    """The steps from nothing to the tree at its final path."""
    _refuse_other_python(lock.spack(), target)
    program = program_of(target)
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "builder": "spack",
        "lock": lock.digest,
        "python": {"path": target.python.path, "version": target.python.version},
        "mpi": target.mpi.identity() | {"library": target.mpi.library} if target.mpi else None,
        "caches": venv.caches(place),
        **({"modules": target.modules.identity()} if target.modules else {}),
        **({"generation": generation} if generation else {}),
    }
    name = identifier(lock.recipe, lock.version, inputs)
    prefix = prefix or place.root / "envs" / name
    folder = place.root / "spack" / "environments" / name
    # what is built again is built beside what may be damaged
    kept = f"opt-{generation}" if generation else "opt"
    way = _Way(program=program, solved=lock.spack(), place=place, folder=folder, kept=kept)
    settings = tuple(lock.request["settings"])
    activation = replace(
        venv.activation_of(name, prefix, target.python.version, settings, venv.caches(place)), effect=target.effect
    )
    return Plan(
        name=f"{lock.recipe}@{lock.version}",
        identifier=name,
        prefix=prefix,
        inputs=inputs,
        steps=(
            *_installed(lock, way),
            *_copied(way, prefix),
            *venv.lock_inside(lock, prefix),
            *venv.activated_by(activation),
            Remove(title="remove what Spack was asked", path=folder),
        ),
        modules=target.modules.names if target.modules else (),
        effect=target.effect,
    )


def enter(environment: Environment, base: Mapping[str, str]) -> EnvPatch:
    """What activating the environment does to the variables `base`: its interpreter is one of a virtual environment."""
    return venv.enter(environment, base)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """How Spack is run for one environment: the program, what it brings, its folder, and where it keeps packages."""

    program: str
    solved: Solved
    place: Workplace
    folder: Path
    kept: str

    @property
    def marks(self) -> tuple[str, ...]:
        """The packages that go into the tree, as Spack is told them."""
        return tuple(f"/{one.hash}" for one in self.solved.built)

    def run(self, title: str, *words: str) -> Run:
        """A step that runs it."""
        return Run(title=title, argv=_spack(self.program, self.folder, *words), env=_isolated(self.place))


def _installed(lock: Lock, way: _Way) -> list[Step]:
    scope = to_yaml(_scope(way.place, way.kept))
    return [
        Remove(title="clear what an interrupted build left", path=way.folder),
        Write(title="what Spack is asked", path=way.folder / "spack.yaml", text=to_yaml(lock.request["spack"])),
        Write(title="what it chose", path=way.folder / spack_lock.BODY, text=lock.bodies[spack_lock.BODY]),
        Write(title="where it works", path=way.folder / "scope" / "config.yaml", text=scope),
        replace(
            way.run(
                f"let Spack install {way.solved.count} packages",
                *("install", "--only-concrete", "--fail-fast", "--show-log-on-error"),
            ),
            # bytecode that a build writes beside another package's sources is a file too many for what follows
            env={**_isolated(way.place), "PYTHONDONTWRITEBYTECODE": "1"},
        ),
        way.run("compare what Spack keeps with what it installed", "verify", "manifest", *way.marks),
    ]


def _copied(way: _Way, prefix: Path) -> list[Step]:
    question = way.folder / "relocate.json"
    prefixes = [str(way.place.root / "spack" / way.kept / one.folder) for one in way.solved.built]
    return [
        Remove(title="clear what an interrupted build left", path=prefix),
        way.run(
            f"copy {len(prefixes)} packages into one tree",
            *("view", "--dependencies", "no", "copy", str(prefix), *way.marks),
        ),
        Write(title="what was where", path=question, text=to_json({"tree": str(prefix), "prefixes": prefixes})),
        Run(title="put the path of the tree into it", argv=(sys.executable, "-I", str(_TOOL), str(question))),
        Remove(title="remove activation for other shells", path=prefix / "bin" / "Activate.ps1"),
    ]


def _spack(program: str, folder: Path, *words: str) -> tuple[str, ...]:
    return (program, "--color", "never", "-C", str(folder / "scope"), "-e", str(folder), *words)


def _isolated(place: Workplace) -> dict[str, str]:
    """Neither the user's configuration nor the system's counts; that of the Spack that is there does."""
    return {"SPACK_DISABLE_LOCAL_CONFIG": "1", "SPACK_USER_CACHE_PATH": str(place.root / "spack" / "user")}


def _scope(place: Workplace, kept: str) -> dict[str, Any]:
    """The configuration (`config.yaml`) of a Spack that leaves everything in the store."""
    root = place.root / "spack"
    return {
        "config": {
            "install_tree": {"root": str(root / kept), "projections": {"all": spack_lock.PROJECTION}},
            "build_stage": [str(root / "stage")],
            "source_cache": str(root / "sources"),
        }
    }


def program_of(target: Target) -> str:
    """Where `spack` is; raises `InputError` where it is not."""
    found = which("spack", target.effect.apply(os.environ))
    if not found:
        raise InputError(
            "--builder spack needs a Spack, and there is no `spack` on the PATH",
            hint="load the site's module of it, or `. SPACK/share/spack/setup-env.sh`; without one, leave --builder out, or "
            "take the recipe to a machine that has it: envbuilder export spack",
        )
    return found


def _version(program: str, place: Workplace, target: Target) -> str:
    command = Command(argv=(program, "--version"), env=_isolated(place))
    said = process.capture(command, base=target.effect.apply(os.environ)).output.split()
    return said[0] if said else "unknown"


def _refuse_other_python(solved: Solved, target: Target) -> None:
    python = solved.named("python")
    if python is None or not python.external or python.version != target.python.version:
        what = f"{python.version}{'' if python.external else ', built by Spack'}" if python else "none"
        raise InputError(
            f"Spack takes Python {what}, and envbuilder was to use {target.python.version} ({target.python.path})",
            hint="name the one under `externals` of the site file: --python PATH",
        )


def _no_answer(output: str, request: Request, place: Workplace) -> CommandFailed:
    lines = output.strip().splitlines()
    said = "\n".join(f"    {line}" for line in lines[-process.TAIL_LINES :])
    wanted = "; ".join((request.spack or {})["spack"]["specs"])
    return CommandFailed(
        f"Spack finds no answer to {wanted}:\n{said}",
        hint=f"the recipe's `specs` and the externals of the site must go together; full log: {place.log}",
        output=output,
    )
