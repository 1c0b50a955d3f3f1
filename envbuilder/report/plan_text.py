"""A plan for people: what will be done, in order, and what is done already."""

from __future__ import annotations

import shlex

from envbuilder.pip_config import redact
from envbuilder.plan import Action, Fetch, Forget, Move, Plan, Product, Remove, Run, Seal, Write


def render(plan: Plan) -> str:
    """The plan as text, a line or two for each step."""
    lines = [f"{plan.name} as {plan.identifier}", f"  at {plan.prefix}", ""]
    for number, step in enumerate(plan.steps, start=1):
        if isinstance(step, Product):
            state = "kept from an earlier build" if step.path.exists() else "to be made"
            lines.append(f"{number:3}. {step.title}: {state} ({step.path})")
            lines += [f"      - {_line(action)}" for action in step.every()]
        else:
            lines.append(f"{number:3}. {_line(step)}")
    return "\n".join(lines) + "\n"


def _line(action: Action) -> str:
    if isinstance(action, Run):
        return f"{action.title}\n         $ {shlex.join(action.argv)}"
    return f"{action.title}: {_what(action)}"


def _what(action: Write | Remove | Move | Fetch | Forget | Seal) -> str:
    match action:
        case Write(path=path):
            return f"write {path}"
        case Remove(path=path):
            return f"remove {path}"
        case Move(source=source, target=target):
            return f"rename {source} to {target}"
        case Fetch(url=url, path=path):
            return f"{redact(url)} to {path}"
        case Forget(prefix=prefix, name=name):
            return f"{name} below {prefix}"
        case Seal(folder=folder):
            return f"{folder}"
