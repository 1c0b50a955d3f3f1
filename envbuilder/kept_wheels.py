"""Why a compiled wheel is taken from the store, or compiled again: what differs from the nearest one that is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuilder.plan import Plan, Product, Write

INPUTS = "inputs.json"


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


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What differs between the inputs of two wheels, one line for each value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{number}]" if len(old) > 1 else path)
    elif old != new:
        yield f"{path}: {_shown(old)} -> {_shown(new)}"


def _explained(step: Product) -> Explained:
    kept = step.path.is_dir()
    if kept:
        return Explained(wheel=step.title, path=str(step.path), kept=True)
    wanted: Any = next(
        (json.loads(one.text) for one in step.every() if isinstance(one, Write) and one.path.name == INPUTS), {}
    )
    best: tuple[int, str, tuple[str, ...]] | None = None
    for name, inputs in _others(step.path.parent, _distribution(step)):
        found = tuple(differences(inputs, wanted))
        if best is None or (len(found), name) < best[:2]:
            best = (len(found), name, found)
    if best is None:
        return Explained(wheel=step.title, path=str(step.path), kept=False)
    return Explained(wheel=step.title, path=str(step.path), kept=False, nearest=best[1], differences=best[2])


def _others(folder: Path, distribution: str) -> Iterator[tuple[str, Any]]:
    """The inputs of the kept wheels of a distribution; what cannot be read is none."""
    for path in sorted(folder.glob(f"*/{INPUTS}")):
        wheels = (wheel.name.split("-", 1)[0].lower() for wheel in path.parent.glob("*.whl"))
        if distribution in wheels:
            try:
                yield str(path.parent), json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue


def _distribution(step: Product) -> str:
    """The distribution's name as its wheel spells it."""
    return re.sub(r"[-_.]+", "_", step.makes).lower()


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
