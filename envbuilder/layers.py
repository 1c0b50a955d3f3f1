"""Have the layers that images are built on: made once of a base, kept in the store, and known by their sha256."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuilder import apt_sources, build, host, proof, runtime
from envbuilder.base_image import BaseImage
from envbuilder.builders import definition
from envbuilder.console import Console
from envbuilder.document import digest
from envbuilder.errors import HostError
from envbuilder.plan import SEALED_AT, Move, Plan, Product, Remove, Run, Step, Write
from envbuilder.runtime import Packing, Runtime
from envbuilder.store import Store

FORMAT = 1
# What is quick to pack and to read: nobody carries a layer anywhere, and images are packed anew.
_COMPRESSION = "lz4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """The layer that images start from, with its sha256, and the one that compiles; the same file where nothing is added."""

    sif: Path
    digest: str
    build_sif: Path
    build_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """What layers are made with: the runtime, the store, who sees it, the log, the caller's variables."""

    program: Runtime
    place: Store
    console: Console
    log: Path
    env: Mapping[str, str]


def have(base: BaseImage, means: Means) -> Kept:
    """The layers of a base, made where they are missing; raises `CommandFailed` or `HostError`."""
    if base.kind == "local" and base.start.endswith(".sif"):
        sif = build_sif = Path(base.start)
    else:
        key = digest([FORMAT, base.identity(), _content(base)])[:24]
        folder = means.place.path("bases")
        sif = folder / f"{base.name}-{key}.sif"
        build_sif = folder / f"{base.name}-{key}-build.sif" if base.build_packages else sif
        steps: list[Step] = []
        if not sif.exists():
            steps.append(_first(base, sif, means))
        if not build_sif.exists():
            steps.append(
                _layer(f"compilers on {base.name}", definition.build_layer(base, str(sif)), build_sif, (), means)
            )
        if steps:
            plan = Plan(name=base.name, identifier=base.name, prefix=folder, inputs=base.identity(), steps=tuple(steps))
            build.execute(plan, means.place, means.console, means.log)
    first = host.sha256(sif)
    second = first if build_sif == sif else host.sha256(build_sif)
    return Kept(sif=sif, digest=first, build_sif=build_sif, build_digest=second)


def _content(base: BaseImage) -> str:
    """What a local base holds, as far as can be known quickly: a tree by names, sizes and times."""
    if base.kind != "local":
        return ""
    path = Path(base.start)
    return proof.tree_fingerprint(path) if path.is_dir() else host.sha256(path)


def _first(base: BaseImage, sif: Path, means: Means) -> Product:
    text = definition.base_layer(base)
    arguments: tuple[str, ...] = ()
    if base.kind == "debootstrap":
        mirror = apt_sources.mirror(base.start)
        if not mirror:
            raise HostError(
                f"apt on this machine knows no source of {base.start}, which {base.name} is made of",
                hint="make the base on another machine, and give its file: --base FILE.sif",
            )
        arguments = ("--build-arg", f"MIRROR={mirror}")
    return _layer(f"base {base.name}", text, sif, arguments, means)


def _layer(title: str, text: str, kept: Path, arguments: tuple[str, ...], means: Means) -> Product:
    work = means.place.path("work", kept.name)
    scratch = work / "scratch"
    how = Packing(compression=_COMPRESSION, arguments=arguments)
    path = means.env.get("PATH", os.defpath)
    return Product(
        title=title,
        path=kept,
        actions=(
            Remove(title="clear the work folder", path=work),
            Write(title="the definition", path=work / "layer.def", text=text),
            Write(title="scratch space", path=scratch / ".keep", text=""),
            Run(
                title=title,
                argv=runtime.build(means.program, work / "layer.def", work / "layer.sif", how),
                env=runtime.build_environment(scratch, SEALED_AT, path),
                cwd=work,
            ),
            Move(title="keep the layer", source=work / "layer.sif", target=kept),
            Remove(title="clear the work folder", path=work),
        ),
    )
