"""Look at everything that the doctor judges in a site file. Creates nothing, changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

from envbuilder import pip_config
from envbuilder.doctor import Findings, Folders
from envbuilder.places import expanded
from envbuilder.reachable import reachable
from envbuilder.site import Site
from envbuilder.survey import stack, survey


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
    )


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
