"""Look at everything that the doctor judges in a site file. Creates nothing, changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

from envbuilder import doctor_places, pip_config, toolchain
from envbuilder.doctor import Findings, Folders
from envbuilder.doctor_places import Places
from envbuilder.places import expanded
from envbuilder.reachable import reachable
from envbuilder.site import Site
from envbuilder.survey import Answer, ask, stack, survey


def examine(site: Site, chosen: str, today: date, tick: Callable[[str], None]) -> Findings:
    """What there is to see; of the partitions the one that is `chosen`, else those whose facts hold today."""
    tick("login shell and batch system")
    start = expanded(str(site.modules.init), os.environ)
    found = survey(start)
    names = [chosen] if chosen else [name for name, one in site.partitions.items() if one.current(today.isoformat())]
    stacks = {}
    for name in names:
        tick(f"modules of {name}")
        stacks[name] = stack(site, site.partitions[name], os.environ)
    config = pip_config.read(os.environ)
    mirrors = {local: reachable(local, config, os.environ) or "" for local in map(str, site.mirrors.values())}
    return Findings(
        survey=found,
        stacks=stacks,
        folders=_folders(site, {**found.shell.env, **os.environ}),
        mirrors=mirrors,
        init_there=not start or Path(start).is_file(),
        places=_places(site, tuple(names)),
    )


def _places(site: Site, names: tuple[str, ...]) -> Places:
    partitions = {name: site.partitions[name] for name in names}
    programs = [str(one) for each in partitions.values() for ext in each.externals for one in ext.compilers.values()]
    return Places(
        runtime=_runtime(str(site.container.runtime)),
        there={
            path: Path(expanded(path, os.environ)).exists() for path in doctor_places.paths(site.container, partitions)
        },
        compilers={one: toolchain.said(one, None) if Path(one).is_file() else "" for one in programs},
    )


def _runtime(name: str) -> Answer:
    """The path and the words of the program that runs images."""
    path = toolchain.which(name, None) if name else None
    if path is None:
        return Answer(why=f"there is no {name} on the PATH") if name else Answer()
    said = ask(os.environ, name, "--version")
    return Answer(text=f"{said.text.strip()} at {path}") if said.text else said


def _folders(site: Site, env: Mapping[str, str]) -> Folders:
    root, caches = (expanded(str(path), env) for path in (site.paths.root, site.paths.caches))
    return Folders(
        root=root,
        root_why=_unusable(root),
        caches=caches,
        caches_why=_unusable(caches),
        home=Path(env.get("HOME", "/nonexistent")).is_dir(),
    )


def _unusable(text: str) -> str:
    """Why nothing could be written at a path, or nothing."""
    if not text:
        return ""
    if "$" in text:
        return f"{text}: a variable in it is not set"
    path = Path(text)
    if path.exists() and not path.is_dir():
        return f"{path} is a file"
    while not path.exists():
        path = path.parent
    if os.access(path, os.W_OK | os.X_OK):
        return ""
    return f"{text}: {path} is the nearest folder that exists, and you may not write there"
