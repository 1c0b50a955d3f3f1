"""What loading modules did: a difference between two environments, as plain data that can be locked and applied again.

Search paths (PATH, LD_LIBRARY_PATH, ...) are kept as what came before and after the entries that were there, so that the
effect can be applied to another user's environment; applying it twice, or where the modules are loaded already, is
applying it once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envbuilder.document import digest

# The module systems' own books, and what belongs to one shell or session rather than to the modules.
_BOOKS = re.compile(
    r"(_ModuleTable.*|__LMOD.*|_?LMOD_.*|LOADEDMODULES|_LMFILES_|MODULEPATH|MODULESHOME|MODULEPATH_ROOT|MODULERCFILE"
    r"|MODULES_.*|__MODULES_.*|_MODULES_.*|BASH_FUNC_.*|BASH_ENV|ENV|_|SHLVL|PWD|OLDPWD|PS[0-4]|PROMPT_COMMAND|TERM|TERM_.*"
    r"|COLORTERM|LS_COLORS|LS_OPTIONS|LESS.*|HIST.*|MAIL|SSH_.*|XDG_.*|DBUS_.*|DISPLAY|LANG|LANGUAGE|LC_.*|EDITOR|VISUAL"
    r"|PAGER|MORE|MANPATH|INFOPATH|HOME|USER|LOGNAME|SHELL|HOSTNAME|HOST|HOSTTYPE|MACHTYPE|OSTYPE|CPU|PROFILEREAD|TMPDIR|SLURM_.*|SBATCH_.*"
    r"|PMI_.*|PMIX_.*|ENVBUILDER_.*|_ENVBUILDER_.*)\Z"
)
# What every login sets, in some order of its own.
_SYSTEM_PATH = frozenset(
    f"{root}/{folder}" for root in ("", "/usr", "/usr/local") for folder in ("bin", "sbin", "games")
)
_LISTS = re.compile(r".*(PATH|_DIRS)\Z")
_ALWAYS_LISTS = re.compile(
    r"(.*_)?(LD_LIBRARY|LIBRARY|INCLUDE|PKG_CONFIG|CMAKE_PREFIX)_PATH\Z|(PYTHON|C)?PATH\Z|ACLOCAL_PATH\Z"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """What an effect does to a search path: entries before, entries after, entries taken out."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The difference that modules make: variables set, unset, and search paths extended."""

    set: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    paths: Mapping[str, Around] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The sha256 of the effect."""
        return digest(self.to_document())

    def __bool__(self) -> bool:
        return bool(self.set or self.unset or self.paths)

    def to_document(self) -> dict[str, Any]:
        """Plain data: `set`, `unset`, and `paths` with their entries."""
        return {
            "set": dict(sorted(self.set.items())),
            "unset": sorted(self.unset),
            "paths": {
                name: {"before": list(one.before), "after": list(one.after), "without": list(one.without)}
                for name, one in sorted(self.paths.items())
            },
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Effect:
        """The effect of a document; raises `KeyError`, `TypeError` or `AttributeError` for a damaged one."""
        return cls(
            set={str(name): str(value) for name, value in document["set"].items()},
            unset=tuple(str(name) for name in document["unset"]),
            paths={
                str(name): Around(
                    before=tuple(map(str, one["before"])),
                    after=tuple(map(str, one["after"])),
                    without=tuple(map(str, one["without"])),
                )
                for name, one in document["paths"].items()
            },
        )

    def apply(self, base: Mapping[str, str]) -> dict[str, str]:
        """A copy of `base` with the effect applied; applying it again changes nothing."""
        result = {name: value for name, value in base.items() if name not in self.unset}
        result.update(self.set)
        for name, one in self.paths.items():
            value = around(one, base.get(name, ""))
            if value:
                result[name] = value
            else:
                result.pop(name, None)
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What loading a partition's modules did.

    `names` are all modules that are loaded then, with versions, in order; `files` their modulefiles; `effect` the
    difference to a bare environment, `said` what the module system wrote meanwhile.
    """

    system: str
    asked: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]
    effect: Effect
    said: str = ""

    def identity(self) -> dict[str, Any]:
        """What a lock holds of it: the module system, what was asked for and is loaded, and the effect."""
        return {
            "system": self.system,
            "asked": list(self.asked),
            "loaded": list(self.names),
            "effect": self.effect.to_document(),
        }


def around(one: Around, value: str) -> str:
    """A search path with entries put around what is there; none is there twice because of it."""
    ours = {*one.before, *one.after, *one.without}
    kept = [entry for entry in value.split(":") if entry and entry not in ours]
    return ":".join([*one.before, *kept, *one.after])


def difference(bare: Mapping[str, str], login: Mapping[str, str], loaded: Mapping[str, str]) -> Effect:
    """What a process with only `bare` lacks of `loaded`, the environment after a login (`login`) and the modules.

    What a login brings for modules that it loads itself belongs to the effect, because a job that inherits nothing would
    lack it; its prompt, its pager and the like do not.
    """
    chosen: dict[str, str] = {}
    paths: dict[str, Around] = {}
    for name, value in loaded.items():
        if _BOOKS.match(name) or bare.get(name) == value:
            continue
        if _is_list(name, value, bare.get(name, ""), login.get(name, "")):
            one = _around(value, bare.get(name, ""), login.get(name, ""))
            if one != Around():
                paths[name] = one
        else:
            chosen[name] = value
    gone = {name for name in {*bare, *login} if name not in loaded and not _BOOKS.match(name)}
    for name in [name for name in sorted(gone) if _is_list(name, login.get(name, ""))]:
        gone.remove(name)
        paths[name] = Around(without=_entries(login.get(name, "")))
    return Effect(set=chosen, unset=tuple(sorted(gone)), paths=paths)


def _is_list(name: str, value: str, *others: str) -> bool:
    """Whether a variable is a search path: by its name, and by entries that look like paths.

    ROCM_PATH and its like are named as one and hold one folder.
    """
    if not _LISTS.match(name):
        return False
    texts = (value, *others)
    entries = [entry for text in texts for entry in text.split(":") if entry]
    return all(entry.startswith(("/", ".", "~", "$", "%")) for entry in entries) and (
        bool(_ALWAYS_LISTS.match(name)) or any(":" in text for text in texts)
    )


def _around(value: str, bare: str, login: str) -> Around:
    """Where the entries of a search path stand in relation to those that were there."""
    old = set(_entries(bare)) | _SYSTEM_PATH
    entries = _entries(value)
    places = [place for place, entry in enumerate(entries) if entry in old]
    first = places[0] if places else len(entries)
    new = [(place, entry) for place, entry in enumerate(entries) if entry not in old]
    return Around(
        before=tuple(entry for place, entry in new if place < first),
        after=tuple(entry for place, entry in new if place > first),
        without=tuple(entry for entry in _entries(login) if entry not in {*entries, *old}),
    )


def _entries(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry for entry in value.split(":") if entry))


def expanded(text: str, env: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """A text with `${NAME}` replaced from `env`, and the names that have no value there."""
    missing: list[str] = []

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in env:
            missing.append(name)
        return env.get(name, "")

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text), tuple(missing)


def joined(entries: Iterable[str]) -> str:
    """Entries of search paths as one, without those that are empty or there already."""
    return ":".join(dict.fromkeys(entry for text in entries for entry in text.split(":") if entry))
