"""The venv builder: a relocatable virtual environment, filled by uv from a lock.

What is compiled here becomes a wheel first, kept under the digest of everything that went into it, then installed like any
other. The plan holds every step; carrying it out is the business of `envbuilder.build`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuilder import artefacts, host
from envbuilder import lock as lock_format
from envbuilder.activation import Activation, Setting, script
from envbuilder.activation import environment as activated
from envbuilder.builders import source
from envbuilder.builders.base import LockOptions, Workplace
from envbuilder.builders.installing import kept_package, new_venv, sync, taken
from envbuilder.document import digest, to_json
from envbuilder.effect import Effect
from envbuilder.environment import Environment
from envbuilder.lock import Lock
from envbuilder.places import expanded
from envbuilder.plan import Forget, Plan, Remove, Run, Seal, Step, Write, identifier
from envbuilder.process import EnvPatch
from envbuilder.request import Request
from envbuilder.resolve import resolve, uv_environment
from envbuilder.target import Target

_OTHER_SHELLS = ("activate.bat", "activate.csh", "activate.fish", "activate.nu", "activate.ps1", "activate.xsh",
                 "activate_this.py", "deactivate.bat", "pydoc.bat")  # fmt: skip
FORMAT = 3


def missing(target: Target) -> str:
    """A venv needs nothing but an interpreter, which the target has."""
    del target
    return ""


def lock(request: Request, target: Target, options: LockOptions, place: Workplace) -> Lock:
    """See `envbuilder.resolve.resolve`."""
    return resolve(request, target, options, place)


def plan(lock: Lock, target: Target, place: Workplace, *, generation: int = 0, prefix: Path | None = None) -> Plan:
    """The steps from nothing to the tree at its final path.

    `generation` makes another identity of the same inputs, for rebuilding what was damaged.
    """
    keys = {name: source.inputs(lock, name, target) for name in lock.sources}
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "builder": "venv",
        "lock": lock.digest,
        "python": {"path": target.python.path, "version": target.python.version},
        "mpi": target.mpi.identity() | {"library": target.mpi.library} if target.mpi else None,
        "wheels": {name: digest(value) for name, value in keys.items()},
        "caches": caches(place),
        **({"modules": target.modules.identity()} if target.modules else {}),
        **({"generation": generation} if generation else {}),
    }
    name = identifier(lock.recipe, lock.version, inputs)
    prefix = prefix or place.root / "envs" / name
    network = {key: value for key, value in uv_environment(place).items() if value is not None}
    steps: list[Step] = [source.product(lock, name, target, place, keys[name]) for name in lock.sources]
    steps += _tree(lock, target, place, prefix, {name: digest(value) for name, value in keys.items()})
    tree = _Tree(
        name=name,
        prefix=prefix,
        python=target.python.version,
        settings=tuple(lock.request["settings"]),
        caches=caches(place),
        effect=target.effect,
    )
    steps += activated_by(_activation_of(tree))
    return Plan(
        name=f"{lock.recipe}@{lock.version}",
        identifier=name,
        prefix=prefix,
        inputs=inputs,
        steps=tuple(steps),
        network=network,
        modules=target.modules.names if target.modules else (),
        effect=target.effect,
    )


def enter(environment: Environment, base: Mapping[str, str]) -> EnvPatch:
    """What activating the environment does to the variables `base`."""
    return activated(activation_for(environment), base)


def activation_for(environment: Environment) -> Activation:
    """The activation of an environment that is there."""
    return _activation_of(
        _Tree(
            name=environment.identifier,
            prefix=Path(environment.tree),
            python=environment.python["version"],
            settings=environment.settings,
            caches=environment.caches,
            effect=environment.effect(),
        )
    )


def activation_of(
    name: str, prefix: Path, python: str, settings: tuple[Mapping[str, str], ...], caches: str
) -> Activation:
    """The activation of a tree at a prefix, where there are no modules."""
    return _activation_of(
        _Tree(name=name, prefix=prefix, python=python, settings=settings, caches=caches, effect=Effect())
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tree:
    """An environment as activation sees it: its name and place, its Python's whole version, what its recipe sets."""

    name: str
    prefix: Path
    python: str
    settings: tuple[Mapping[str, str], ...]
    caches: str
    effect: Effect


def _activation_of(tree: _Tree) -> Activation:
    """The activation of an environment with these run-time settings."""
    minor = ".".join(tree.python.split(".")[:2])
    return Activation(
        prefix=tree.prefix,
        name=tree.name,
        settings=tuple(
            Setting(
                name=setting["unset"] or setting["set"],
                value=None if setting["unset"] else setting["to"],
                why=setting["why"],
            )
            for setting in tree.settings
        ),
        caches=Path(tree.caches) / tree.name,
        prepend_path=(),
        effect=tree.effect,
        site_packages=tree.prefix / "lib" / f"python{minor}" / "site-packages",
    )


def caches(place: Workplace) -> str:
    """Where run-time caches go: the site's choice, else beside the store's own."""
    chosen = expanded(str(place.site.paths.caches), os.environ)
    return chosen or str(place.root / "cache" / "run")


def _tree(lock: Lock, target: Target, place: Workplace, prefix: Path, wheels: Mapping[str, str]) -> list[Step]:
    from packaging.utils import canonicalize_name

    about = prefix / "share" / "envbuilder"
    install = about / "pylock.install.toml"
    # one that is there already is installed with all the others, one that is yet to be compiled after them
    versions = lock.packages()
    total = len(versions)
    folders = {lock.distribution(name): place.root / "wheels" / key for name, key in wheels.items()}
    kept = {
        name: package
        for name, folder in folders.items()
        if (package := kept_package(folder, canonicalize_name(name), _version(versions, name)))
    }
    later = {name: key for name, key in wheels.items() if lock.distribution(name) not in kept}
    steps: list[Step] = [
        Remove(title="clear what an interrupted build left", path=prefix),
        Run(
            title=f"create the environment on Python {target.python.version}",
            argv=new_venv(target, prefix, layer=target.central is not None),
        ),
        # two versions of uv make the same tree of one lock
        Run(title="forget which uv made it", argv=("sed", "-i", "/^uv = /d", str(prefix / "pyvenv.cfg"))),
        *lock_inside(lock, prefix),
        Write(
            title="the artefacts to install, as found from here",
            path=install,
            text=taken(
                lock, lock_format.MAIN, target, place, without=artefacts.compiled(lock), kept=tuple(kept.values())
            ),
        ),
        *(Seal(title=f"check the kept wheel of {name}", folder=folders[name], check=True) for name in sorted(kept)),
        sync(f"install {total - len(later)} packages", prefix, install, total),
        # it differs between users of one lock: what one has in a folder, another takes from the network
        Remove(title="remove where they were found", path=install),
    ]
    return [*steps, *compiled_inside(lock, place, prefix, later)]


def lock_inside(lock: Lock, prefix: Path) -> list[Step]:
    """Write the lock into a tree."""
    about = prefix / "share" / "envbuilder"
    texts = {lock_format.ENVELOPE: to_json(lock.envelope()), **lock.bodies}
    return [Write(title="keep the lock inside", path=about / name, text=text) for name, text in sorted(texts.items())]


def compiled_inside(lock: Lock, place: Workplace, prefix: Path, wheels: Mapping[str, str]) -> list[Step]:
    """Install what is compiled here (`wheels`: names of sources and the keys of their wheels), and tidy up after uv."""
    versions, steps = lock.packages(), list[Step]()
    compiled = {lock.distribution(name): key for name, key in wheels.items()}
    for distribution, key in sorted(compiled.items()):
        folder = place.root / "wheels" / key
        steps.append(Seal(title=f"check the kept wheel of {distribution}", folder=folder, check=True))
        steps.append(
            Run(
                title=f"install {distribution} {_version(versions, distribution)}, compiled here",
                argv=(
                    host.uv(), "pip", "install", "--python", str(prefix / "bin" / "python"), "--no-deps", "--no-index",
                    "--no-build", "--find-links", str(folder), "--reinstall-package", distribution,
                    "--refresh-package", distribution, f"{distribution}=={_version(versions, distribution)}",
                ),
                env={"UV_OFFLINE": "0"},  # it reads one folder only, and uv refuses to be offline and to refresh at once
            )
        )  # fmt: skip
    # uv notes there when a local file last changed, which would make two builds of one lock differ.
    steps.append(Forget(title="remove uv's notes on its cache", prefix=prefix, name="uv_cache.json"))
    return steps


def activated_by(chosen: Activation) -> list[Step]:
    """Write the activation of a tree, and remove what others left for other shells."""
    folder = chosen.prefix / "bin"
    steps: list[Step] = [
        Remove(title="remove activation for other shells", path=folder / other) for other in _OTHER_SHELLS
    ]
    steps.append(Write(title="write bin/activate", path=folder / "activate", text=script(chosen)))
    return steps


def _version(versions: Mapping[str, str], distribution: str) -> str:
    from packaging.utils import canonicalize_name

    return versions[canonicalize_name(distribution)]
