"""Why a compiled wheel is taken from the store, or compiled again: what differs from the nearest one that is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from envbuilder.plan import Plan, Product, Write

INPUTS = "inputs.json"

# The inputs in words, by the first part of their place in `builders.source.inputs`.
_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "source": "the source",
        "name": "the source's name",
        "version": "the source's version",
        "patches": "a patch",
        "fail_if_log": "what the log must not say",
        "build": "the build requirements",
        "env": "a variable of the recipe",
        "python": "Python",
        "compiler": "the C compiler",
        "cxx": "the C++ compiler",
        "mpicc": "the C compiler behind MPI's wrapper",
        "mpicxx": "the C++ compiler behind MPI's wrapper",
        "tools": "a tool of the machine",
        "mpi": "MPI",
        "modules": "the site's modules",
        "arch": "the processor",
        "libc": "the C library",
        "image": "the container image",
        "format": "envbuilder's way to compile",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """One compiled wheel: whether it is kept, and if not, the kept one that is nearest and what differs from it."""

    wheel: str
    path: str
    kept: bool
    nearest: str = ""
    differences: tuple[str, ...] = ()


def explain(plan: Plan) -> tuple[Explained, ...]:
    """What becomes of every wheel that a plan compiles."""
    return tuple(_explained(step) for step in plan.steps if isinstance(step, Product))


def differences(old: Any, new: Any) -> Iterator[str]:
    """What differs between the inputs of two wheels, in words, one line for each value."""
    for place, line in _differences(old, new, ""):
        head = re.split(r"[.\[]", place)[0]
        yield f"{_WORDS.get(head, 'what an older envbuilder knew')} ({place}): {line}"


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{path}[{number}]" if len(old) > 1 else path)
    elif old != new:
        yield path, f"{_shown(old)} -> {_shown(new)}"


def _explained(step: Product) -> Explained:
    kept = step.path.is_dir()
    if kept:
        return Explained(wheel=step.title, path=str(step.path), kept=True)
    wanted: Any = next(
        (json.loads(one.text) for one in step.every() if isinstance(one, Write) and one.path.name == INPUTS), {}
    )
    best: tuple[int, str, tuple[str, ...]] | None = None
    for name, inputs in _others(step.path.parent, _normal(step.makes)):
        found = tuple(differences(inputs, wanted))
        if best is None or (len(found), name) < best[:2]:
            best = (len(found), name, found)
    if best is None:
        return Explained(wheel=step.title, path=str(step.path), kept=False)
    return Explained(wheel=step.title, path=str(step.path), kept=False, nearest=best[1], differences=best[2])


def _others(folder: Path, distribution: str) -> Iterator[tuple[str, Any]]:
    """The inputs of the kept wheels of a distribution; what cannot be read is none."""
    for path in sorted(folder.glob(f"*/{INPUTS}")):
        if distribution in (_normal(wheel.name.split("-", 1)[0]) for wheel in path.parent.glob("*.whl")):
            try:
                yield str(path.parent), json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue


def _normal(name: str) -> str:
    """A distribution's name as wheels spell it."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
