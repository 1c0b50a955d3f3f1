"""What a manifest says of an environment before it is built: everything but what is found in its tree.

A pure function of what was asked for and where; `envbuilder.build` adds the inventory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envbuilder import __version__, places
from envbuilder.effect import Loaded
from envbuilder.environment import Environment
from envbuilder.lock import Lock
from envbuilder.plan import Plan
from envbuilder.site import Site
from envbuilder.target import Target

# What follows the site file and not the build: an environment that is there already gets it anew.
OF_THE_SITE = ("site", "partition", "site_file", "scheduler", "gpus", "signers", "preloads", "max_proof_age_hours")


def draft(
    plan: Plan, lock: Lock, target: Target, site: Site, *, builder: str, caches: str, site_file: Path
) -> Environment:
    """The manifest of an environment that is not built yet, with nothing in `records`, `written`, `mpi` and `created`."""
    python = plan.python or target.python
    return Environment(
        identifier=plan.identifier,
        builder=builder,
        recipe=lock.recipe,
        version=lock.version,
        site=site.name,
        partition=target.partition,
        prefix=str(plan.prefix),
        digest=plan.digest,
        lock_digest=lock.digest,
        python={"path": python.path, "version": python.version, "soabi": python.soabi},
        features=tuple(lock.request["features"]),
        imports=tuple(lock.request["imports"]),
        packages=lock.packages(),
        records={},
        written={},
        mpi=None,
        settings=tuple(lock.request["settings"]),
        data=tuple(lock.request.get("data", ())),
        caches=caches,
        max_proof_age_hours=site.proof.max_age_hours,
        modules=_kept_modules(target.modules),
        gpu=_gpu(lock, target),
        base=asdict(target.central) if target.central else None,
        site_file=str(site_file),
        scheduler=_scheduler(site),
        gpus={str(name): str(partition.gpu.vendor) for name, partition in site.partitions.items()},
        signers=_signers(site),
        preloads=tuple({"library": str(one.library), "why": str(one.why)} for one in site.allowed_preloads),
        conda={record.name: record.identity for record in lock.conda()},
        spack={package.name: package.identity for package in lock.spack().needed},
        created="",
        created_by=f"envbuilder {__version__}",
        seconds=0.0,
    )


def _kept_modules(loaded: Loaded | None) -> Mapping[str, Any] | None:
    """What loading the modules did, with the modulefiles it came from."""
    return {**loaded.identity(), "files": list(loaded.files)} if loaded else None


def _gpu(lock: Lock, target: Target) -> Mapping[str, str]:
    """The GPUs that the environment is for, if the recipe computes on them."""
    if "gpu" not in lock.request["features"]:
        return {}
    tag = re.fullmatch(r"([a-z]+)([0-9].*)", _toolkit_tag(str(lock.request.get("tag", ""))))
    wheels = f"{tag[1]}@{tag[2]}" if tag else ""
    return {"vendor": target.gpu, "arch": target.gpu_arch, "toolkit": target.toolkit, "wheel_toolkit": wheels}


def _toolkit_tag(tag: str) -> str:
    """`cuda12.6` for `cu126`; other tags are spelt out already."""
    return f"cuda{tag[2:-1]}.{tag[-1]}" if re.fullmatch(r"cu[0-9]{3}", tag) else tag


def _scheduler(site: Site) -> dict[str, str]:
    if site.scheduler.kind == "none":
        return {}
    return {str(name): str(partition.scheduler.partition) for name, partition in site.partitions.items()}


def _signers(site: Site) -> dict[str, str]:
    rules = site.proof
    file = places.expanded(str(rules.allowed_signers), os.environ)
    image_key = places.expanded(str(rules.image_key), os.environ)
    said = {"required": "yes" if rules.signed else "no", "file": file} if rules.signed or file else {}
    return {**said, **({"image_key": image_key} if image_key else {})}
