"""The files that Apptainer builds an image from: definitions out of `containers/`, and what they take in.

A template has marks such as `@NAME@`; what stands for them was judged when it was read, and cannot hold a line break. All that
a recipe says goes into files of its own, never into a definition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import envbuilder
from envbuilder import __version__, host, places
from envbuilder.activation import CACHES, Activation, exports
from envbuilder.base_image import BaseImage
from envbuilder.document import to_json
from envbuilder.errors import InputError
from envbuilder.lock import Lock
from envbuilder.plan import Action, Plan, Product, Remove, Run, Write
from envbuilder.report import plan_script
from envbuilder.target import Mpi

# Where things are in an image, and what is bound there while it is built.
ABOUT = Path("/opt/envbuilder")
PREFIX = ABOUT / "env"
STORE = Path("/mnt")
CONTEXT = Path("/media")
# Every image says that it was made at this moment, so that two builds are the same; it is `plan.SEALED_AT`.
CREATED = "1980-01-01T00:00:00Z"
_CACHES = "/tmp/envbuilder-${USER:-user}"  # noqa: S108 - an expression of the shell, for whoever runs the image
_EVIDENCE_SCHEMA = 1
# What lists a manager's packages, installs some, and forgets what it fetched.
_MANAGERS = {
    "apt": (
        "apt-get update --quiet",
        "apt-get install --yes --no-install-recommends",
        "apt-get clean; rm -rf /var/lib/apt/lists/*",
    ),
    "dnf": ("dnf makecache", "dnf install --assumeyes --setopt=install_weak_deps=False", "dnf clean all"),
    "zypper": (
        "zypper --non-interactive refresh",
        "zypper --non-interactive install --no-recommends",
        "zypper clean --all",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """The texts that an image is made of, by their paths in the folder that is bound while it is built."""

    files: Mapping[str, str]


def rendered(template: str, values: Mapping[str, str]) -> str:
    """A template of `containers/` with its marks replaced; raises `InputError` for a value that a definition cannot hold."""
    text = (places.data_root() / "containers" / template).read_text(encoding="utf-8")
    for value in values.values():
        if re.search(r"[\n\r{}]", value):
            raise InputError(f"{value[:80]!r} cannot stand in the definition of an image", hint="choose another name")
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def base_layer(base: BaseImage, start: str = "") -> str:
    """The definition of the layer that images start from; `start` stands for that of the base."""
    if base.kind == "local":
        return rendered("base-local.def", {"START": start or base.start, "PYTHON": base.python})
    if base.kind == "image":
        agent, _, address = str(base.start).partition("://")
        values = {"AGENT": agent, "START": address, "PYTHON": base.python}
        return rendered("base-image.def", {**values, **installing(base, base.packages)})
    more = " ".join(str(name) for name in base.components)
    return rendered(
        "base-debootstrap.def", {"START": base.start, "COMPONENTS": more, "PACKAGES": " ".join(base.packages)}
    )


def build_layer(base: BaseImage, start: str) -> str:
    """The definition of the layer that compiles, on top of the SIF `start`."""
    return rendered("build-layer.def", {"START": start, **installing(base, base.build_packages)})


def installing(base: BaseImage, packages: tuple[str, ...]) -> dict[str, str]:
    """The lines that install packages; where there are none, nothing is touched."""
    refresh, install, clean = _MANAGERS[str(base.manager)] if packages else (":", ":", ":")
    return {"REFRESH": refresh, "INSTALL": " ".join((install, *packages)), "CLEAN": clean}


def content(
    lock: Lock, inner: Plan, activation: Activation, base: tuple[str, str], recipe: str, *, mpi: Mpi | None
) -> Content:
    """All that is decided of an image; `inner` makes the tree inside, `base` is the base's name and sha256, `mpi` its own."""
    values = {
        "NAME": lock.recipe,
        "VERSION": lock.version,
        "CREATED": CREATED,
        "BASE": base[0],
        "BASE_DIGEST": base[1],
        "TOOL": __version__,
        "LOCK_DIGEST": lock.digest,
    }
    about = {
        "envbuilder": __version__,
        "recipe": lock.recipe,
        "version": lock.version,
        "lock": lock.digest,
        "base": {"name": base[0], "sha256": base[1]},
        "tree": inner.identifier,
        "mpi": asdict(mpi) if mpi else None,
    }
    question = {
        "schema": _EVIDENCE_SCHEMA,
        "features": list(lock.request["features"]),
        "imports": list(lock.request["imports"]),
        "ranks": 1,
        "steps": 4,
        "distributions": sorted(lock.packages()),
        "caches": sorted(CACHES),
    }
    opt = {
        "about.json": to_json(about),
        "environment.sh": exports(activation, f"{_CACHES}/{activation.name}"),
        "question.json": to_json(question),
        "recipe.yaml": recipe,
        "test.sh": rendered("test.sh", {}),
        **{f"envbuilder_probes/{name}": text for name, text in _probes().items()},
    }
    return Content(
        files={
            "image.def": rendered("image.def", values),
            "install.sh": plan_script.render(_in_image(inner)) + rendered("install-tail.sh", {}),
            **{f"opt/{name}": text for name, text in opt.items()},
        }
    )


def _in_image(inner: Plan) -> Plan:
    """The steps that make the tree, by the uv that is bound with the rest; wheels were compiled before."""
    own, bound = host.uv(), str(CONTEXT / "uv")
    steps: list[Action] = []
    for step in inner.steps:
        if isinstance(step, Run):
            steps.append(replace(step, argv=tuple(bound if word == own else word for word in step.argv)))
        elif isinstance(step, (Remove, Write)) or not isinstance(step, Product):
            steps.append(step)
    return replace(
        inner, steps=tuple(steps), network={**inner.network, "UV_LINK_MODE": "copy", "PYTHONDONTWRITEBYTECODE": "1"}
    )


def _probes() -> dict[str, str]:
    folder = Path(envbuilder.__file__).parent / "probes"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
