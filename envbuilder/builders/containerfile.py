"""The same image for OCI builders (podman, Docker, buildah): a folder with a Containerfile and all that it takes.

The tree is installed by the script that the definition of a SIF runs, from the same files and from wheels that were compiled in
the same layer; only who provides the base is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envbuilder import __version__, artefacts, host
from envbuilder import lock as lock_format
from envbuilder.activation import Activation, environment
from envbuilder.base_image import OCI, BaseImage
from envbuilder.builders import apptainer, definition
from envbuilder.builders.base import Workplace
from envbuilder.errors import InputError
from envbuilder.lock import Lock
from envbuilder.plan import Move, Plan, Remove, Run, Step, Write
from envbuilder.runtime import INSIDE_PATH
from envbuilder.target import Target

NAME = "Containerfile"
# What is bound while the image is built is read-only, and what is written elsewhere stays in the image.
_UV_CACHE = "/tmp/envbuilder-uv"  # noqa: S108 - in the image that is built, by one process
# The rules that are left out ask for versions of the distribution's packages.
_INSTALL = """
# The lock is of Python's packages; these are the distribution's of today.
# hadolint ignore=DL3008,DL3037,DL3041
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \\
    {REFRESH}; \\
    {INSTALL}; \\
    {CLEAN}
"""


def start(base: BaseImage, named: str) -> str:
    """What the Containerfile starts from: the name that is given, else the description's; raises `InputError` for none."""
    agent, _, address = str(base.start).partition("://")
    found = named or str(base.oci) or (address if agent == "docker" else "")
    if not found:
        raise InputError(
            f"{base.name} does not say what it is called in a registry",
            hint="name what holds the same: --from docker.io/library/debian:bookworm",
        )
    if not re.fullmatch(OCI, found):
        raise InputError(f"--from: {found[:80]!r} is not the name of an image", hint="write it as registry/name:tag")
    return found


def plan(lock: Lock, target: Target, place: Workplace, *, base: BaseImage, named: str, folder: Path) -> Plan:
    """The steps to the folder; it appears when it is whole."""
    layers = place.layers
    if layers is None or place.artefacts is None:
        raise AssertionError("an image is planned on its layers, with its artefacts at hand")
    inner = apptainer.in_image(lock, target, place)
    inner = replace(inner, network={**inner.network, "UV_CACHE_DIR": _UV_CACHE})
    activation = apptainer.activation_in_image(inner, lock, target)
    about = (start(base, named), "")  # whose bytes the registry knows
    made = definition.content(lock, inner, activation, about, layers.recipe, mpi=target.mpi)
    part = folder.with_name(f".{folder.name}.part")
    files = {name: text for name, text in made.files.items() if name != "image.def"}
    wheels = apptainer.compiled(lock, target, place)
    steps: list[Step] = [
        *wheels,
        Remove(title="clear what an interrupted export left", path=part),
        Write(title=NAME, path=part / NAME, text=text(lock, base, about[0], activation)),
        *(Write(title=f"{name} of the image", path=part / "context" / name, text=one) for name, one in files.items()),
        _copy(host.uv(), part / "context" / "uv"),
    ]
    kept = artefacts.chosen(lock, lock_format.MAIN, target, without=artefacts.compiled(lock))
    store, here = artefacts.folder(part / "store"), place.artefacts
    steps += [_copy(artefacts.kept(here, one), artefacts.kept(store, one)) for one in kept]
    steps += [_copy(wheel.path, part / "store" / wheel.path.relative_to(place.root)) for wheel in wheels]
    steps.append(Move(title="have it in its place", source=part, target=folder))
    return Plan(
        name=f"{lock.recipe}@{lock.version}",
        identifier=folder.name,
        prefix=folder,
        inputs=inner.inputs,
        steps=tuple(steps),
        network=inner.network,
    )


def text(lock: Lock, base: BaseImage, source: str, activation: Activation) -> str:
    """The Containerfile."""
    values = {
        "NAME": lock.recipe,
        "VERSION": lock.version,
        "CREATED": definition.CREATED,
        "TOOL": __version__,
        "LOCK_DIGEST": lock.digest,
        "START": source,
        "PACKAGES": "@PACKAGES@",
        "SETTINGS": "@SETTINGS@",
    }
    # packages were judged when they were read
    packages = _INSTALL.format(**definition.installing(base, base.packages)) if base.packages else ""
    whole = definition.rendered(NAME, values)
    return whole.replace("@PACKAGES@\n", packages or "\n").replace("@SETTINGS@", settings(activation))


def settings(activation: Activation) -> str:
    """What activating the environment sets, as an instruction; what it removes is not there in an image."""
    said: Mapping[str, str | None] = environment(activation, {"PATH": INSIDE_PATH})
    kept = {name: value for name, value in said.items() if value is not None and not name.startswith("_")}
    return "ENV " + " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in sorted(kept.items()))


def _quoted(value: str) -> str:
    if re.search(r"[\n\r\0]", value):
        raise InputError(f"{value[:80]!r} cannot stand in a Containerfile", hint="choose another value")
    return '"' + re.sub(r'(["\\$])', r"\\\1", value) + '"'


def _copy(source: str | Path, target: Path) -> Run:
    """A folder or a file at another path, which has no folder yet."""
    return Run(
        title=f"bring {target.name} along",
        argv=("sh", "-c", 'mkdir -p "${2%/*}" && cp -r --reflink=auto -- "$1" "$2"', "sh", str(source), str(target)),
    )
