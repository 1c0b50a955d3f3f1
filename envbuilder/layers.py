"""Have the layers that images are built on: made once of a base, kept in the store, and known by their sha256."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from envbuilder import apt_sources, build, host, runtime
from envbuilder.base_image import BaseImage
from envbuilder.builders import definition
from envbuilder.console import Console
from envbuilder.document import digest
from envbuilder.errors import HostError
from envbuilder.plan import SEALED_AT, Move, Plan, Product, Remove, Run, Step, Write
from envbuilder.runtime import Packing, Runtime
from envbuilder.store import Store

FORMAT = 1
# Where debootstrap finds the keys of a distribution.
_KEYRINGS = Path("/usr/share/keyrings")
# What a root file system has only while it runs.
_VOLATILE = ("dev", "proc", "run", "sys", "tmp")


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
    return digest(sorted(_looks(path))) if path.is_dir() else host.sha256(path)


def _looks(tree: Path) -> Iterator[str]:
    """The names, sizes and times of a tree's files; of what may not be looked into, the name."""
    for folder, folders, names in os.walk(tree):
        if folder == str(tree):
            folders[:] = [name for name in folders if name not in _VOLATILE]
        yield from (f"{folder}/{name}/" for name in folders)
        for name in names:
            status = os.lstat(f"{folder}/{name}")
            yield f"{folder}/{name} {status.st_size} {status.st_mtime_ns}"


def _unreadable(tree: Path) -> list[str]:
    """What of a tree we may not read, without what is left out anyway."""
    found = []
    for folder, folders, names in os.walk(tree):
        if folder == str(tree):
            folders[:] = [name for name in folders if name not in _VOLATILE]
        found += [f"{folder}/{name}" for name in folders if not os.access(f"{folder}/{name}", os.R_OK | os.X_OK)]
        paths = (f"{folder}/{name}" for name in names)
        found += [path for path in paths if not os.path.islink(path) and not os.access(path, os.R_OK)]
    return sorted(found)


def _first(base: BaseImage, sif: Path, means: Means) -> Product:
    if base.kind == "local":
        return _of_folder(base, sif, means)
    if not base.tried:
        means.console.note(f"{base.name} was tried nowhere yet: its packages may have other names")
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
        if base.keyring and not (_KEYRINGS / base.keyring).is_file():
            raise HostError(
                f"{_KEYRINGS / base.keyring} is missing, and without it nobody knows whose packages {base.name} gets",
                hint=f"install the package that has it: on Debian, {base.keyring.removesuffix('.gpg').replace('-archive', '')}",
            )
    return _layer(f"base {base.name}", text, sif, arguments, means)


def _of_folder(base: BaseImage, sif: Path, means: Means) -> Product:
    """The layer of a folder, which is packed before a namespace of ours hides whose files they are."""
    tree = Path(base.start)
    missing = _unreadable(tree)
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        means.console.warning(
            f"{len(missing)} files or folders of {tree} cannot be read and are empty or missing in the base: {shown}"
        )
    left_out = (word for name in _VOLATILE for word in ("-e", f"{name}/*"))
    packed = means.place.path("work", sif.name) / "tree.sqfs"
    pack = Run(
        title=f"pack {tree}",
        argv=(
            "mksquashfs", str(tree), str(packed), "-noappend", "-no-progress", "-quiet", "-no-xattrs", "-all-root", "-comp",
            "lz4", "-wildcards", *left_out,
        ),
    )  # fmt: skip
    return _layer(f"base {base.name}", definition.base_layer(base, str(packed)), sif, (), means, first=(pack,))


def _layer(
    title: str, text: str, kept: Path, arguments: tuple[str, ...], means: Means, *, first: tuple[Run, ...] = ()
) -> Product:
    work = means.place.path("work", kept.name)
    scratch = work / "scratch"
    how = Packing(compression=runtime.quickest(means.program), arguments=arguments)
    path = means.env.get("PATH", os.defpath)
    return Product(
        title=title,
        path=kept,
        scratch=work,
        actions=(
            Remove(title="clear the work folder", path=work),
            Write(title="the definition", path=work / "layer.def", text=text),
            Write(title="scratch space", path=scratch / ".keep", text=""),
            *first,
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
