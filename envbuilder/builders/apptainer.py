"""The Apptainer builder: a wall around the venv builder.

The same steps make the same tree, but inside an image: what is compiled is compiled in a layer of its own on the same base,
and the tree is installed by the definition of the image, from files that were fetched beforehand. The image is kept under the
digest of all that it is made of; an environment is such an image with the MPI that it is run with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import envbuilder
from envbuilder import artefacts, host, places, runtime, sif_header
from envbuilder.activation import CACHES, Activation
from envbuilder.builders import definition, venv
from envbuilder.builders.base import Layers, LockOptions, Workplace
from envbuilder.builders.definition import ABOUT, CONTEXT, PREFIX, STORE, Content
from envbuilder.container import ends
from envbuilder.document import digest
from envbuilder.environment import Environment
from envbuilder.errors import HostError
from envbuilder.lock import Lock
from envbuilder.pip_config import PipConfig
from envbuilder.plan import SEALED_AT, Action, Move, Plan, Product, Remove, Run, Step, Write, identifier
from envbuilder.process import EnvPatch
from envbuilder.request import Request
from envbuilder.resolve import uv_environment
from envbuilder.runtime import INSIDE_PATH, RANKS_ENVIRONMENT, Entering, Packing
from envbuilder.target import Target

FORMAT = 1
# Where the activation script inside has the caches go; `environment.sh`, which every start of the image runs, says better.
_CACHES = "/tmp/envbuilder"  # noqa: S108
# What leads programs to the host's files, which are other files in an image or none.
_FOREIGN = ("LD_PRELOAD", "PYTHONHOME", "PYTHONPATH")
# The name of the image in the folder of its environment.
SIF = "image.sif"


def missing(target: Target) -> str:
    """Why no image can be built for a target, or nothing."""
    return "" if target.image else "an image is built for a base, not for a machine"


def lock(request: Request, target: Target, options: LockOptions, place: Workplace) -> Lock:
    """As for a venv: what fits is decided by the image's Python and MPI, which the target has."""
    return venv.lock(request, target, options, place)


def plan(lock: Lock, target: Target, place: Workplace, *, generation: int = 0, prefix: Path | None = None) -> Plan:
    """The steps to the image and to the folder of an environment that holds it.

    All that the lock takes is in the store already (`place.artefacts`); `place.layers` says what the image starts from.
    """
    layers, inner = _on_layers(place), in_image(lock, target, place)
    made = definition.content(
        lock,
        inner,
        activation_in_image(inner, lock, target),
        (layers.name, layers.digest),
        layers.recipe,
        mpi=target.mpi,
    )
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "builder": "apptainer",
        "lock": lock.digest,
        "base": layers.digest,
        "tree": inner.inputs,
        "content": digest(dict(made.files)),
        "compression": layers.compression,
        **({"generation": generation} if generation else {}),
    }
    key = f"{lock.recipe}-{lock.version}-{digest(inputs)[:24]}.sif"
    kept = place.root / "images" / key
    whole = {
        **inputs,
        **({"host_mpi": layers.host_mpi.identity()} if layers.host_mpi else {}),
        **({"container": dict(layers.container)} if layers.container else {}),
    }
    name = identifier(lock.recipe, lock.version, whole)
    prefix = prefix or place.root / "envs" / name
    steps: list[Step] = [*compiled(lock, target, place)]
    steps.append(_image(kept, made, layers, place))
    steps += [
        Remove(title="clear what an interrupted build left", path=prefix),
        Write(title="the definition of the image", path=prefix / "image.def", text=made.files["image.def"]),
        Run(title="have the image in its place", argv=("ln", "-f", str(kept), str(prefix / SIF))),
    ]
    return Plan(
        name=f"{lock.recipe}@{lock.version}",
        identifier=name,
        prefix=prefix,
        inputs=whole,
        steps=tuple(steps),
        network=_network(place),
        image=described(layers, target, prefix / SIF, lock.digest),
    )


def in_image(lock: Lock, target: Target, place: Workplace) -> Plan:
    """The steps that make the tree inside, from files that are bound there."""
    if place.artefacts is None:
        raise AssertionError("an image is planned with its artefacts at hand")
    return _readdressed(venv.plan(lock, target, _in_image(place), prefix=PREFIX), place.artefacts)


def compiled(lock: Lock, target: Target, place: Workplace) -> tuple[Product, ...]:
    """The wheels that are compiled, each in the layer that compiles."""
    outer = venv.plan(lock, target, _detached(place), prefix=PREFIX)
    layers, network = _on_layers(place), _network(place)
    return tuple(_walled(step, layers, place, network) for step in outer.steps if isinstance(step, Product))


def _on_layers(place: Workplace) -> Layers:
    if place.layers is None:
        raise AssertionError("an image is planned on its layers")
    return place.layers


def _network(place: Workplace) -> dict[str, str]:
    return {key: value for key, value in uv_environment(_detached(place)).items() if value is not None}


def enter(environment: Environment, base: Mapping[str, str]) -> EnvPatch:
    """What a process outside needs so that the one inside finds its caches and nothing of the host's: the image sets the rest.

    An image decides its variables before it sees the host's, so it cannot do without one that it does not set itself; what it
    gets whatever it says comes under a name that begins with the runtime's.
    """
    image = environment.image or {}
    prefix = f"{image['runtime']['name'].upper()}ENV_"
    root = base.get("ENVBUILDER_CACHE") or f"{environment.caches}/{environment.identifier}"
    settled = {setting["unset"] or setting["set"] for setting in environment.settings}
    handed = {
        f"{prefix}{name}": base.get(name, f"{root}/{below}") for name, below in CACHES.items() if name not in settled
    }
    said = (image.get("container") or {}).get("env", {})
    handed |= {f"{prefix}{name}": base.get(name, value) for name, value in said.items()}
    return {**{name: None for name in _FOREIGN if name in base}, **handed}


def inside(environment: Environment, how: Entering) -> tuple[str, ...]:
    """The words before a command that let it run in the environment's image, with what it asks for and what `entering` adds.

    Raises `HostError` where a bind is missing, or where the image is for another CPU architecture.
    """
    image = environment.image or {}
    sif_header.refuse_foreign(Path(image["file"]), os.uname().machine)
    for source in image["binds"]:
        if not Path(source).exists():
            raise HostError(
                f"{source}, which is bound into {environment.identifier}, is gone",
                hint=f"the host changed: envbuilder build {environment.recipe} --builder apptainer --mpi host",
            )
    program = runtime.find_again(image["runtime"], os.environ)
    return runtime.enter(program, Path(image["file"]), entering(environment, how))


def entering(environment: Environment, how: Entering) -> Entering:
    """How a process enters the environment's image: as asked for, with its caches and what it has of the host.

    That is the host's MPI, if it is to have that, what the site binds, and the driver of the GPUs that the environment is for,
    where the partition has them: `how.gpu` is their vendor. Raises `HostError` where what the site binds is not there.
    """
    image = environment.image or {}
    site = image.get("container") or {}
    library_path = ":".join(filter(None, (image["library_path"], *site.get("library_path", ()))))
    variables = {"LD_LIBRARY_PATH": library_path} if library_path else {}
    if how.together:
        variables |= RANKS_ENVIRONMENT
    wanted = environment.gpu.get("vendor", "")
    return replace(
        how,
        site=site_binds(site, environment.site, os.environ),
        binds={**image["binds"], environment.caches: environment.caches, **how.binds},
        variables=variables,
        gpu=wanted if how.gpu == wanted else "",
    )


def site_binds(site: Mapping[str, Any], name: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """What a site binds, with its variables replaced; raises `HostError` for what must be there and is not."""
    found = []
    for must, binds in ((True, site.get("binds", ())), (False, site.get("optional_binds", ()))):
        for bind in (places.expanded(one, env) for one in binds):
            if Path(ends(bind)[0]).exists():
                found.append(bind)
            elif must:
                raise HostError(
                    f"{ends(bind)[0]}, which the site {name} binds into images, is not here",
                    hint="mend `container` of the site file, or list it under `optional_binds`; `envbuilder sites "
                    "trace-binds` says what this machine's MPI needs",
                )
    return tuple(found)


def _detached(place: Workplace) -> Workplace:
    """The same place without what belongs to this machine: pip's configuration, mirrors, where caches are."""
    return replace(place, pip=PipConfig(), site=_plain_site(place))


def _in_image(place: Workplace) -> Workplace:
    """The same place as it is bound while the image is built."""
    return replace(place, root=STORE, pip=PipConfig(), site=_plain_site(place))


def _plain_site(place: Workplace) -> Any:
    return replace(place.site, mirrors={}, paths=replace(place.site.paths, caches=_CACHES))


def _readdressed(inner: Plan, folder: Path) -> Plan:
    """The same steps with the files at the addresses that they have while the image is built."""
    old, new = folder.absolute().as_uri(), artefacts.folder(STORE).as_uri()
    steps = (replace(one, text=one.text.replace(old, new)) if isinstance(one, Write) else one for one in inner.steps)
    return replace(inner, steps=tuple(steps))


def activation_in_image(inner: Plan, lock: Lock, target: Target) -> Activation:
    """The activation of the tree inside."""
    settings = tuple(lock.request["settings"])
    return venv.activation_of(inner.identifier, PREFIX, target.python.version, settings, _CACHES)


def _walled(step: Product, layers: Layers, place: Workplace, network: Mapping[str, str]) -> Product:
    """A product that is made in the layer that compiles."""
    actions = tuple(
        _walled(one, layers, place, network)
        if isinstance(one, Product)
        else _walled_action(one, layers, place, network)
        for one in step.actions
    )
    return replace(step, actions=actions)


def _walled_action(action: Action, layers: Layers, place: Workplace, network: Mapping[str, str]) -> Action:
    if not isinstance(action, Run):
        return action
    root, uv = str(place.root), host.uv()
    how = Entering(binds={root: root, uv: f"{uv}:ro"}, cwd=str(action.cwd or root), clean=True)
    seen = {"PATH": INSIDE_PATH, "LANG": "C.UTF-8", **network, "UV_LINK_MODE": "copy", **action.env}
    words = ("env", "-i", *(f"{name}={value}" for name, value in seen.items()), *action.argv)
    return replace(
        action, argv=(*runtime.enter(layers.runtime, layers.build_sif, how), *words), env={}, cwd=None, clean=False
    )


def _image(kept: Path, made: Content, layers: Layers, place: Workplace) -> Product:
    """The image, in a folder of its own until it is whole."""
    work = place.root / "work" / kept.name
    context = work / "context"
    scratch = work / "scratch"
    sif = Path(envbuilder.__file__).parent / "workshop" / "sif.py"
    actions: list[Step] = [
        Remove(title="clear the work folder", path=work),
        *(Write(title=f"{name} of the image", path=context / name, text=text) for name, text in made.files.items()),
        Write(title="scratch space", path=scratch / ".keep", text=""),
        Run(title="bring uv along", argv=("cp", host.uv(), str(context / "uv"))),
        Run(title="what it starts from", argv=("ln", "-s", str(layers.sif), str(work / "base.sif"))),
        Run(
            title=f"build the image on {layers.name}",
            argv=runtime.build(
                layers.runtime,
                context / "image.def",
                work / SIF,
                Packing(
                    compression=layers.compression,
                    binds={str(place.root): str(STORE), str(context): str(CONTEXT)},
                ),
            ),
            env=runtime.build_environment(scratch, SEALED_AT, layers.path),
            cwd=work,
        ),
        Run(title="take out what differs from build to build", argv=(sys.executable, "-I", str(sif), str(work / SIF))),
        Move(title="keep the image", source=work / SIF, target=kept),
        Remove(title="clear the work folder", path=work),
    ]
    return Product(title=f"image {kept.name}", path=kept, actions=tuple(actions), scratch=work)


def described(layers: Layers, target: Target, file: Path, lock: str) -> dict[str, Any]:
    """What an environment's manifest says of its image; the digest is added when it is there."""
    swapped = layers.host_mpi
    own = target.mpi.mpiexec if target.mpi else ""
    return {
        "file": str(file),
        "lock": lock,
        "base": layers.name,
        "base_sha256": layers.digest,
        "runtime": {"program": layers.runtime.program, "name": layers.runtime.name, "version": layers.runtime.version},
        "prefix": str(PREFIX),
        "about": str(ABOUT),
        "python": target.python.path,
        "mpi": "host" if swapped else "image",
        "host_mpi": swapped.expectation() if swapped else None,
        "binds": {source: f"{there}:ro" for source, there in swapped.binds.items()} if swapped else {},
        "library_path": str(Path(swapped.library).parent) if swapped else "",
        "container": dict(layers.container),
        "mpiexec": layers.mpiexec or own,
        "mpiexec_inside": not layers.mpiexec,
    }
