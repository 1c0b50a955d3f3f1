"""How a distribution is compiled: the steps from a locked source to a wheel that is kept.

The wheel is kept under the digest of all that decides what it is. Its source is unpacked where it always is, since paths get
into what is compiled, and is changed and compiled by the tools of `envbuilder.workshop`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envbuilder
from envbuilder import artefacts, pip_config, told
from envbuilder import lock as lock_format
from envbuilder.builders.base import Workplace
from envbuilder.builders.installing import address, new_venv, sync, taken
from envbuilder.document import digest, to_json
from envbuilder.kept_wheels import INPUTS
from envbuilder.lock import Artefact, Lock
from envbuilder.plan import SEALED_AT, Action, Fetch, Move, Product, Remove, Run, Seal, Step, Write
from envbuilder.request import BUILD_ENVIRONMENT, CC, CXX, MPICC, MPICXX
from envbuilder.target import Target

FORMAT = 2


@dataclass(frozen=True, slots=True)
class _Job:
    """One compilation, and where it happens."""

    lock: Lock
    name: str
    target: Target
    place: Workplace
    work: Path
    source: Artefact

    @property
    def said(self) -> Mapping[str, Any]:
        """What the recipe says of it."""
        return self.lock.request["sources"][self.name]  # type: ignore[no-any-return]

    @property
    def body(self) -> Path:
        return self.work / lock_format.build_body(self.name)

    @property
    def environment(self) -> Path:
        return self.work / "env"

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python")

    @property
    def out(self) -> Path:
        return self.work / "out"

    @property
    def tree(self) -> Path:
        """The unpacked source."""
        return self.work / "source"

    @property
    def prepared(self) -> Path:
        """Is there when all is ready to compile."""
        return self.work / "prepared"


def inputs(lock: Lock, name: str, target: Target) -> dict[str, Any]:
    """Everything that decides what a compiled wheel is."""
    source = lock.request["sources"][name]
    patches = [{key: value for key, value in one.items() if key not in ("why", "text")} for one in _patches(source)]
    rules = sorted(rule["pattern"] for rule in source.get("fail_if_log", ()))
    told_as = {} if source["sdist"] else {"name": source["name"], "version": source["version"]}
    return {
        "format": FORMAT,
        "source": [artefact.sha256 for artefact in lock.artefacts(lock_format.source_body(name))],
        "build": {one.package: f"{one.version} {one.sha256}" for one in _requirements(lock, name, target)},
        "env": source["env"],
        "python": {"soabi": target.python.soabi, "version": target.python.version, "path": target.python.path},
        **_programs(lock, name, target),
        "mpi": target.mpi.identity() | {"library": target.mpi.library} if target.mpi else None,
        **({"modules": target.modules.identity()} if target.modules else {}),
        "arch": target.arch,
        "libc": target.libc,
        **({"image": target.image} if target.image else {}),
        **told_as,
        **({"patches": patches} if patches else {}),
        **({"fail_if_log": rules} if rules else {}),
    }


def _requirements(lock: Lock, name: str, target: Target) -> tuple[Artefact, ...]:
    """The files that its build environment is installed from; where they come from decides nothing."""
    return artefacts.chosen(lock, lock_format.build_body(name), target)


def _programs(lock: Lock, name: str, target: Target) -> dict[str, Any]:
    """The compilers by what they say that they are, and the tools that the build requirements do not bring."""
    compiler, mpi = target.compiler, target.mpi
    told = {"cxx": compiler.cxx_version if compiler else "", "mpicc": mpi.cc_version if mpi else "",
            "mpicxx": mpi.cxx_version if mpi else ""}  # fmt: skip
    brought = lock.packages(lock_format.build_body(name))
    tools = {tool: version for tool, version in target.tools.items() if tool not in brought}
    return {
        "compiler": compiler.version if compiler else None,
        **{key: version for key, version in told.items() if version},
        **({"tools": tools} if tools else {}),
    }


def product(lock: Lock, name: str, target: Target, place: Workplace, decisive: Mapping[str, Any]) -> Product:
    """Compile one wheel in an environment of its own, built from locked requirements only."""
    key = digest(decisive)
    work, kept = place.root / "work" / key, place.root / "wheels" / key
    (source,) = lock.artefacts(lock_format.source_body(name))
    job = _Job(lock, name, target, place, work, source)
    said = lock.request["sources"][name]
    ready: list[Action] = [
        Remove(title="clear the work folder", path=work),
        Write(title="the locked build requirements", path=job.body, text=taken(lock, job.body.name, target, place)),
        Run(title="create the build environment", argv=new_venv(target, job.environment)),
        sync(f"install what the build of {name} needs", job.environment, job.body, len(lock.packages(job.body.name))),
    ]
    ready += _unpacked(job)
    steps: list[Step] = [*((_once(job, ready),) if said.get("resume") else ready), *_compiled(job)]
    steps += [
        Write(title="what decides this wheel", path=job.out / INPUTS, text=to_json(decisive)),
        Seal(title="record the wheel's sha256", folder=job.out),
        Move(title="keep the wheel", source=job.out, target=kept),
        Remove(title="clear the work folder", path=work),
    ]
    return Product(
        title=f"wheel of {name} {source.version}", path=kept, actions=tuple(steps), makes=lock.distribution(name)
    )


def _unpacked(job: _Job) -> Iterator[Action]:
    """Have the source, unpack it, change it."""
    file = artefacts.kept(artefacts.folder(job.place.root), job.source)
    body = lock_format.source_body(job.name)
    made_of = told.parts(job.lock.bodies[body], body) if job.source.is_commit else ()
    url = job.source.url
    if job.place.artefacts is not None:
        url, made_of = address(job.source, job.place), ()
    elif not made_of:
        url = told.located(job.source, job.place.pip, job.place.site.mirrors)
    yield Fetch(
        title=f"have the source of {job.name} {job.source.version}",
        url=pip_config.without_credentials(url),
        sha256=job.source.sha256,
        path=file,
        parts=tuple((part.path, part.url, part.commit) for part in made_of),
    )
    yield from _tool(job, "unpack")
    yield Run(
        title=f"unpack {file.name}",
        argv=(job.python, "-I", str(_at(job, "unpack")), str(file), job.source.sha256, str(job.tree)),
        env=_build_env(job),
        clean=True,
    )
    if any(patch["replace"] for patch in _patches(job.said)):
        yield from _tool(job, "replace")
    for number, patch in enumerate(_patches(job.said), 1):
        yield from _diff(job, patch, number) if patch["file"] else _replacement(job, patch, number)


def _diff(job: _Job, patch: Mapping[str, Any], number: int) -> Iterator[Action]:
    """A patch applies with every line of its context, or not at all."""
    file = job.work / "patches" / f"{number}.patch"
    yield Write(title=f"{patch['file']} of the recipe", path=file, text=patch["text"])
    yield Run(
        title=f"apply {patch['file']} to {job.name}, because {patch['why']}",
        argv=(
            "patch", "--directory", str(job.tree), "--input", str(file), "--strip=1", "--unified", "--fuzz=0", "--forward",
            "--batch", "--binary", "--no-backup-if-mismatch", "--reject-file=-",
        ),
        env=_build_env(job),
        clean=True,
    )  # fmt: skip


def _replacement(job: _Job, patch: Mapping[str, Any], number: int) -> Iterator[Action]:
    spec = job.work / "patches" / f"{number}.json"
    wanted = {key: patch[key] for key in ("replace", "by", "path", "count", "why")}
    yield Write(title=f"change {number} of the recipe", path=spec, text=to_json({"root": str(job.tree), **wanted}))
    yield Run(
        title=f"change {patch['path']} of {job.name}, because {patch['why']}",
        argv=(job.python, "-I", str(_at(job, "replace")), str(spec)),
        env=_build_env(job),
        clean=True,
    )


def _once(job: _Job, actions: list[Action]) -> Product:
    """All that comes before the compiler, done once: what it compiled already must not be older than its surroundings."""
    mark = Write(title="all is ready to compile", path=job.prepared, text="")
    return Product(title=f"prepare {job.name}", path=job.prepared, actions=(*actions, mark))


def _compiled(job: _Job) -> Iterator[Action]:
    """Compile the unpacked source, and judge what came of it."""
    spec = job.work / "compile.json"
    jobs = job.said.get("jobs") or {}
    document = {
        "command": [
            job.python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation", "--no-index",
            "--disable-pip-version-check", "--no-cache-dir", "--wheel-dir", str(job.out), str(job.tree),
        ],
        "work": str(job.work),
        "source": str(job.tree),
        "out": str(job.out),
        "log": str(job.work / "compile.log"),
        "prepared": str(job.prepared),
        "resume": bool(job.said.get("resume")),
        "memory_gib": jobs.get("memory_gib", 0),
        "ccache": str(job.place.root / "cache" / "ccache"),
        "rules": [dict(rule) for rule in job.said.get("fail_if_log", ())],
        "name": job.lock.distribution(job.name),
        "version": _spellings(job.source.version),
    }  # fmt: skip
    yield from _tool(job, "compile")
    yield Write(title="how it is compiled", path=spec, text=to_json(document))
    yield Run(
        title=f"compile {job.name} {job.source.version}",
        argv=(job.python, "-I", str(_at(job, "compile")), str(spec)),
        env={**_build_env(job), "ENVBUILDER_COMPILES_IN": str(job.work)},
        clean=True,
    )


def _spellings(version: str) -> list[str]:
    """How a wheel's name may write a version: as it is, or in its normal form."""
    from packaging.version import Version

    return list(dict.fromkeys((version, str(Version(version)))))


def _tool(job: _Job, name: str) -> Iterator[Action]:
    text = (Path(envbuilder.__file__).parent / "workshop" / f"{name}.py").read_text(encoding="utf-8")
    yield Write(title=f"the tool {name}.py", path=_at(job, name), text=text)


def _at(job: _Job, tool: str) -> Path:
    return job.work / "tools" / f"{tool}.py"


def _patches(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(patch) for patch in source.get("patches", ())]


def _build_env(job: _Job) -> dict[str, str]:
    """The environment of a compilation: the partition's programs, the recipe's variables, and nothing of the user's.

    What the build requirements bring is found before the machine's.
    """
    target = job.target
    known = {
        BUILD_ENVIRONMENT: str(job.environment),
        CC: target.compiler.path if target.compiler else "cc",
        CXX: target.compiler.cxx if target.compiler else "c++",
        MPICC: target.mpi.mpicc if target.mpi else "mpicc",
        MPICXX: target.mpi.mpicxx if target.mpi else "mpicxx",
    }
    wanted = {}
    for variable, value in job.said["env"].items():
        for mark, meaning in known.items():
            value = value.replace(mark, meaning)  # noqa: PLW2901 - replaced step by step
        wanted[variable] = value
    compilers = {"CC": target.compiler.path, "CXX": target.compiler.cxx} if target.compiler else {}
    return {
        "PATH": f"{job.environment / 'bin'}:{target.search_path}",
        "HOME": str(job.work / "home"),
        "TMPDIR": str(job.work),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PIP_CONFIG_FILE": os.devnull,
        "SOURCE_DATE_EPOCH": str(SEALED_AT),
        # a Python remembers the compiler that made it, which may be another one or none here
        **{name: path for name, path in compilers.items() if path},
        **wanted,
    }
