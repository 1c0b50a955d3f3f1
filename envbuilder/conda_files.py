"""The files of other tools in conda's world: `environment.yml` from a lock; recipes from it, or from what a lock file holds.

A recipe has no machine in it: what a lock file pins for a platform becomes exact versions that a channel must still have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envbuilder.document import Node
from envbuilder.errors import InputError
from envbuilder.lock import Lock
from envbuilder.recipe import CHANNEL, SCHEMA, SPEC

# `name`, then in any order of tightness: `=1.2`, `==1.2`, `=1.2=build`, ` >=1,<2`, ` 1.2 build`
_LINE = re.compile(r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)\s*(?P<rest>.*)")
_PINNED = re.compile(r"=(?P<fuzzy>=?)(?P<version>[^=\s<>!~,|*]+)(=(?P<build>[^=\s]+))?")
_REQUIREMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[^]]*\])?\s*([<>=!~;].*)?")
_EXACT = re.compile(r"==?([0-9]+)\.([0-9]+)([.=].*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A recipe as a document, and what of the file it does not hold."""

    recipe: dict[str, Any]
    left_out: tuple[str, ...]


def environment_yml(lock: Lock) -> dict[str, Any]:
    """What `conda env create` takes: every package of a lock with version and build, and those of the index under `pip`.

    Conda chooses no more; pip is given versions and no hashes, for its section knows none. Raises `InputError` for a lock of
    Spack.
    """
    if lock.spack().needed:
        raise InputError("this lock is Spack's: conda has other packages", hint="spack -e DIR reads its spack.lock")
    found = lock.conda()
    brought = {name for record in found for name in record.distributions}
    python = lock.request["target"]["python"]
    dependencies: list[Any] = [f"{one.name}={one.version}={one.build}" for one in found] or [f"python={python}"]
    lines = [f"{name}=={version}" for name, version in sorted(lock.packages().items()) if name not in brought]
    if lines:
        dependencies += [*(() if any(one.name == "pip" for one in found) else ("pip",)), {"pip": lines}]
    asked = lock.request.get("conda") or {}
    channels = [str(one) for one in asked.get("channels", ())] or ["conda-forge"]
    return {"name": f"{lock.recipe}-{lock.version}", "channels": channels, "dependencies": dependencies}


def from_environment(node: Node, name: str) -> Taken:
    """The recipe that an `environment.yml` means; raises `InputError` at the line that no recipe can hold."""
    if not isinstance(node.value, dict) or not isinstance(_of(node, "dependencies"), list):
        raise InputError(
            f"{node.mark}: not an environment.yml: it has no list `dependencies`", hint="name another file"
        )
    channels = [_channel(one) for one in _of(node, "channels") or ()]
    python, conda, index = "", list[str](), list[str]()
    for one in node.value["dependencies"].value:
        if isinstance(one.value, dict):
            if set(one.value) != {"pip"} or not isinstance(one.value["pip"].value, list):
                raise InputError(f"{one.mark}: only `pip:` with a list may stand here", hint="write package lines")
            index += [_requirement(line) for line in one.value["pip"].value]
        elif re.fullmatch(r"python\b(?![-_.]).*", str(one.value)):
            python = _python(one)
        elif str(one.value) != "pip":
            conda.append(_spec(one))
    settings = [
        {"set": variable, "to": str(value.value), "why": "environment.yml sets it"}
        for variable, value in (_of(node, "variables") or {}).items()
    ]
    known = {"name", "channels", "dependencies", "variables"}
    left = tuple(f"{value.mark}: {key}" for key, value in node.value.items() if key not in known)
    recipe = _recipe(name, "what its environment.yml asks for", python, channels=channels, conda=conda, index=index)
    return Taken(recipe={**recipe, **({"environment": settings} if settings else {})}, left_out=left)


def from_lock(answer: Mapping[str, Any], name: str) -> Taken:
    """The recipe of what a lock file holds for one platform: `channels`, `packages` and `distributions` with exact versions."""
    python = next((one["version"] for one in answer["packages"] if one["name"] == "python"), "")
    minor = ".".join(str(python).split(".")[:2])
    conda = [
        f"{one['name']} =={one['version']} {one['build']}".rstrip()
        for one in answer["packages"]
        if one["name"] != "python"
    ]
    left = [f"{one['name']}: it is at {one['location']}" for one in answer["distributions"] if not one["version"]]
    index = [f"{one['name']}=={one['version']}" for one in answer["distributions"] if one["version"]]
    channels = [re.sub(r"^https://conda\.anaconda\.org/([A-Za-z0-9._-]+)/?$", r"\1", one) for one in answer["channels"]]
    pinned = f"=={minor}.*" if python else ""
    recipe = _recipe(name, "what its lock file pins", pinned, channels=channels, conda=conda, index=index)
    return Taken(recipe=recipe, left_out=tuple(left))


def _recipe(name: str, what: str, python: str, **lists: Sequence[str]) -> dict[str, Any]:
    """`channels`, `conda` and `index` are lists of texts; empty ones are left out."""
    part = {"channels": list(lists["channels"]), "packages": list(lists["conda"])}
    part = {key: value for key, value in part.items() if value}
    return {
        "schema": SCHEMA,
        "name": name,
        "summary": f"{name}: {what}",
        "variants": [{"version": "1", "python": python or ">=3.10"}],
        **({"conda": part} if part else {}),
        **({"packages": list(lists["index"])} if lists["index"] else {}),
    }


def _of(node: Node, key: str) -> Any:
    found = node.value.get(key)
    return found.value if found is not None else None


def _channel(node: Node) -> str:
    text = str(node.value)
    if not re.fullmatch(CHANNEL, text):
        raise InputError(
            f"{node.mark}: {text[:80]!r} is no channel", hint="write a name such as conda-forge, or an address"
        )
    return text


def _spec(node: Node) -> str:
    """A package line of environment.yml as conda's match spec with spaces, which a recipe holds."""
    text = str(node.value).strip()
    if "::" in text or "[" in text:
        hint = "write the channel under `channels`, the first that has a package wins"
        raise InputError(f"{node.mark}: {text[:80]!r} names a channel or conditions of its own", hint=hint)
    match = _LINE.fullmatch(text)
    spec = " ".join((match["name"], *_rest(match["rest"].strip()))) if match else ""
    if not re.fullmatch(SPEC, spec):
        raise InputError(
            f"{node.mark}: {text[:80]!r} is no conda package", hint="write name, version and build: numpy=1.26"
        )
    return spec


def _rest(rest: str) -> Iterator[str]:
    pinned = _PINNED.fullmatch(rest)
    if pinned is None:
        yield from (rest,) if rest else ()
    elif pinned["build"]:
        yield from (f"=={pinned['version']}", pinned["build"])
    else:
        yield f"=={pinned['version']}" if pinned["fuzzy"] else f"{pinned['version']}.*"


def _python(node: Node) -> str:
    """Which Pythons a line about `python` allows, as PEP 440 says it."""
    text = str(node.value).removeprefix("python").strip()
    exact = _EXACT.fullmatch(text)
    if exact:
        return f"=={exact[1]}.{exact[2]}.*"
    if re.fullmatch(r"([<>=!~]=?[0-9.]+(\.\*)?)(,[<>=!~]=?[0-9.]+(\.\*)?)*", text) or not text:
        return text
    raise InputError(
        f"{node.mark}: which Python {text[:80]!r} means is not clear", hint="write python=3.12, or python>=3.10,<3.13"
    )


def _requirement(node: Node) -> str:
    text = str(node.value).strip()
    if not _REQUIREMENT.fullmatch(text) or "://" in text or "@" in text:
        raise InputError(
            f"{node.mark}: {text[:80]!r} is no requirement that a recipe can hold",
            hint="write NAME or NAME==VERSION; indexes go under `indexes` of the recipe, sources under `sources`",
        )
    return text
