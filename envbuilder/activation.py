"""What it means to be in an environment: one set of effects, for a shell (`script`) and for a process (`environment`).

Both renderings have the same effect on the same starting point; the tests compare them variable by variable. Nothing
here reads the machine: the results depend on the arguments alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import fspath
from pathlib import Path
from shlex import quote

from envbuilder.activation_script import DEACTIVATE, END, FUNCTIONS
from envbuilder.effect import Around, Effect, around
from envbuilder.errors import InputError

# Where each library keeps what it can make or fetch again. Most default to HOME, which compute nodes may not have or
# which has a small quota; TORCHINDUCTOR_CACHE_DIR and TFHUB_CACHE_DIR default to the temporary directory, where the
# work is lost with the job. JAX_COMPILATION_CACHE_DIR is absent on purpose: setting it switches a cache on that is off
# by default. MPLCONFIGDIR and KERAS_HOME also hold settings (matplotlibrc, keras.json), HF_HOME also the login token;
# a user who needs those sets the variable, which is then kept.
CACHES: dict[str, str] = {
    "XDG_CACHE_HOME": "xdg",
    "CUDA_CACHE_PATH": "cuda",
    "HF_HOME": "huggingface",
    "KERAS_HOME": "keras",
    "MIOPEN_CUSTOM_CACHE_DIR": "miopen/kernels",
    "MIOPEN_USER_DB_PATH": "miopen/database",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "PIP_CACHE_DIR": "pip",
    "PYTORCH_KERNEL_CACHE_PATH": "torch/kernels",
    "TFHUB_CACHE_DIR": "tfhub",
    "TORCHINDUCTOR_CACHE_DIR": "torch/inductor",
    "TORCH_EXTENSIONS_DIR": "torch/extensions",
    "TORCH_HOME": "torch/home",
    "TRITON_CACHE_DIR": "triton",
    "UV_CACHE_DIR": "uv",
}

_ACTIVE = "_ENVBUILDER_ACTIVE"
_CHANGED = "_ENVBUILDER_CHANGED"
_SEGMENT = "_ENVBUILDER_PATH"
_OLD = "_ENVBUILDER_OLD_"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
# Names that shells give a meaning of their own, or that activation itself must own to be able to undo what it did.
_RESERVED = re.compile(
    r"(_|_?ENVBUILDER_(?!CACHE\Z).*|VIRTUAL_ENV.*|BASH.*|ZSH.*|COMP_.*|SHELLOPTS|PATH|PS[0-4]|PROMPT.*|IFS|ENV|E?UID|E?GID"
    r"|PPID|HOME|PWD|OLDPWD|SHLVL|OPTIND|OPTARG|LINENO|RANDOM|SECONDS|FUNCNAME|DIRSTACK|GROUPS|USERNAME|ARGC|HOST|TTY"
    r"|FPATH|CDPATH|ZDOTDIR|[a-z]+)\Z",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A run-time variable of the recipe; `value` None unsets it, `why` is its reason."""

    name: str
    value: str | None
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """What to activate.

    `prefix` is the absolute path of the environment, `name` what people call it, `caches` the directory under which
    caches go unless ENVBUILDER_CACHE names another, `prepend_path` what follows PREFIX/bin at the front of PATH. `effect` is
    what the site's modules did when the environment was built; `site_packages` beats a PYTHONPATH that they set;
    `conda` is whether the tree is conda's, and not a virtual environment.
    """

    prefix: Path
    name: str
    settings: tuple[Setting, ...]
    caches: Path
    prepend_path: tuple[Path, ...]
    effect: Effect = field(default_factory=Effect)
    site_packages: Path | None = None
    conda: bool = False


def environment(activation: Activation, base: Mapping[str, str]) -> dict[str, str | None]:
    """The patch that activates the environment in a process whose variables are `base`; None removes a variable.

    The effect is that of sourcing `script` in a non-interactive shell. An environment of ours that is active in `base`
    is left first. Where the same one is active, its settings are put back and nothing else changes: the patch is empty
    unless someone altered them. Raises `InputError` as `script` does.
    """
    _refuse(activation)
    env = dict(base)
    prefix = fspath(activation.prefix)
    if env.get(_ACTIVE, "") not in {"", prefix}:
        _undo(env)
    env[_ACTIVE] = prefix
    _enter_path(env, _segment(activation))
    for name, one in _search_paths(activation):
        _save(env, name)
        _assign(env, name, around(one, env.get(_OLD + name, "")) or None)
    for setting in _assignments(activation):
        _save(env, setting.name)
        _assign(env, setting.name, setting.value)
    root = env.get("ENVBUILDER_CACHE") or fspath(activation.caches)
    for name, below in _caches(activation):
        if name not in env:
            _save(env, name)
            env[name] = f"{root}/{below}"
    return {name: env.get(name) for name in sorted({*base, *env}) if env.get(name) != base.get(name)}


def script(activation: Activation) -> str:
    """The text of PREFIX/bin/activate, to be sourced by bash, zsh or a POSIX shell with `local`, `set -eu` included.

    Sourcing it twice is sourcing it once; sourcing another environment's leaves the first; `deactivate` restores every
    variable as it was (set, empty or unset; exported or not) and removes what it defined. Values are quoted, so nothing
    of a recipe is evaluated. Raises `InputError` for a prefix that PATH cannot hold, a variable that is no identifier
    or belongs to the shell, and a NUL character.
    """
    _refuse(activation)
    prefix = quote(fspath(activation.prefix))
    lines = [
        f"# Activates {_comment(activation.name)}: source this file from bash or zsh; `deactivate` undoes it.",
        "# Written by envbuilder; the next build writes it again.",
        FUNCTIONS,
        f'if [ -n "${{{_ACTIVE}-}}" ] && [ "${_ACTIVE}" != {prefix} ]; then _envbuilder_undo; fi',
        "_envbuilder_foreign",
        DEACTIVATE,
        f"export {_ACTIVE}={prefix}",
        f"_envbuilder_path {quote(_segment(activation))}",
        *_search_path_lines(activation),
        *_assignment_lines(activation),
        *_cache_lines(activation),
        f"_envbuilder_prompt {quote(_label(activation))}",
        END,
    ]
    return "\n".join(lines)


def exports(activation: Activation, caches: str) -> str:
    """The same settings for a process that only begins, as in an image: plain assignments for any POSIX shell.

    There is nothing to undo and no module; a PYTHONPATH of the host means nothing there. `caches` is an expression of the
    shell: where caches go that nobody has set.
    """
    _refuse(activation)
    lines = [f"export PATH={quote(_segment(activation))}:$PATH", "unset PYTHONPATH"]
    for setting in _assignments(activation):
        value = setting.value
        lines.append(f"unset {setting.name}" if value is None else f"export {setting.name}={quote(value)}")
    lines += [f'export {name}="${{{name}-{caches}/{below}}}"' for name, below in _caches(activation)]
    return "\n".join([*lines, ""])


def _assignments(activation: Activation) -> Iterator[Setting]:
    """Every variable that is given a value whatever it was before, in order: the modules', ours, the recipe's."""
    for name, value in sorted(activation.effect.set.items()):
        if not _RESERVED.match(name):
            yield Setting(name=name, value=value, why="as the modules set it")
    for name in sorted(activation.effect.unset):
        if not _RESERVED.match(name):
            yield Setting(name=name, value=None, why="as the modules leave it")
    conda, prefix = activation.conda, fspath(activation.prefix)
    why = "not this kind of environment"
    yield Setting(name="VIRTUAL_ENV", value=None if conda else prefix, why=why if conda else "what tools look at")
    yield Setting(name="VIRTUAL_ENV_PROMPT", value=_label(activation), why="what prompts show")
    if conda:
        yield Setting(name="CONDA_PREFIX", value=prefix, why="what tools look at")
    yield Setting(name="ENVBUILDER_ENVIRONMENT", value=activation.name, why="the name of this environment")
    yield Setting(name="PYTHONHOME", value=None, why="would replace the standard library")
    yield Setting(name="PYTHONNOUSERSITE", value="1", why="packages in HOME would shadow those that were verified")
    yield from activation.settings


def _search_paths(activation: Activation) -> Iterator[tuple[str, Around]]:
    """Search paths that the modules extend, PATH apart.

    A PYTHONPATH that they set would put their packages before the environment's, so the environment's go first. A user's
    own PYTHONPATH is left alone, and verify names it when it shadows a package.
    """
    for name, one in sorted(activation.effect.paths.items()):
        if name == "PYTHONPATH" and activation.site_packages is not None:
            yield (
                name,
                Around(before=(fspath(activation.site_packages), *one.before), after=one.after, without=one.without),
            )
        elif not _RESERVED.match(name):
            yield name, one


def _search_path_lines(activation: Activation) -> Iterator[str]:
    if activation.effect:
        yield "# what the site's modules did when this environment was built"
    for name, one in _search_paths(activation):
        parts = " ".join(quote(":".join(entries)) for entries in (one.before, one.after, one.without))
        yield f"_envbuilder_around {name} {parts}"


def _caches(activation: Activation) -> Iterator[tuple[str, str]]:
    """Cache variables that the recipe does not set itself, each with its place below the root of the caches."""
    taken = {*activation.effect.set, *(setting.name for setting in activation.settings)}
    return ((name, below) for name, below in CACHES.items() if name not in taken)


def _assignment_lines(activation: Activation) -> Iterator[str]:
    for setting in _assignments(activation):
        yield f"# {_comment(setting.why)}"
        if setting.value is None:
            yield f"_envbuilder_unset {setting.name}"
        else:
            yield f"_envbuilder_set {setting.name} {quote(setting.value)}"


def _cache_lines(activation: Activation) -> Iterator[str]:
    yield "# caches; a variable that is set already is kept"
    yield f"_envbuilder_root={quote(fspath(activation.caches))}"
    yield "_envbuilder_root=${ENVBUILDER_CACHE:-$_envbuilder_root}"
    for name, below in _caches(activation):
        yield f'_envbuilder_cache {name} "$_envbuilder_root"/{below}'
    yield "unset _envbuilder_root"


def _segment(activation: Activation) -> str:
    modules = activation.effect.paths.get("PATH", Around())
    entries = (activation.prefix / "bin", *activation.prepend_path, *modules.before, *modules.after)
    return ":".join(map(str, entries))


def _label(activation: Activation) -> str:
    """The name as a prompt can show it: shells expand dollar signs, backquotes, backslashes and `%` inside PS1."""
    return re.sub(r"[^A-Za-z0-9._+@-]", "_", activation.name)


def _comment(text: str) -> str:
    """One line that stays inside its comment."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))


def _refuse(activation: Activation) -> None:
    for path in (activation.prefix, activation.caches, *activation.prepend_path):
        if not path.is_absolute() or "\0" in fspath(path):
            raise InputError(f"not an absolute path: {fspath(path)!r}")
    if any(":" in fspath(path) for path in (activation.prefix, *activation.prepend_path)):
        raise InputError(f"PATH cannot hold a directory with ':' in its name: {_segment(activation)!r}")
    for name in (*activation.effect.set, *activation.effect.unset, *activation.effect.paths):
        if not _NAME.match(name):
            raise InputError(f"not a name for an environment variable: {name!r}")
    if "\0" in activation.name:
        raise InputError(f"a NUL character in the name {activation.name!r}")
    for setting in activation.settings:
        if not _NAME.match(setting.name):
            raise InputError(f"not a name for an environment variable: {setting.name!r}")
        if _RESERVED.match(setting.name):
            raise InputError(f"{setting.name} belongs to the shell or to envbuilder; a recipe cannot set it")
        if setting.value is not None and "\0" in setting.value:
            raise InputError(f"a NUL character in the value of {setting.name}")


def _assign(env: dict[str, str], name: str, value: str | None) -> None:
    if value is None:
        env.pop(name, None)
    else:
        env[name] = value


def _save(env: dict[str, str], name: str) -> None:
    changed = env.get(_CHANGED, "")
    if name in changed.split(" "):
        return
    env[_CHANGED] = f"{changed} {name}" if changed else name
    _assign(env, _OLD + name, env.get(name))


def _enter_path(env: dict[str, str], segment: str) -> None:
    _save(env, "PATH")
    if not f":{env.get('PATH', '')}:".startswith(f":{segment}:"):
        _leave_path(env, segment)
        env["PATH"] = f"{segment}:{env['PATH']}" if env.get("PATH") else segment
    env[_SEGMENT] = segment


def _leave_path(env: dict[str, str], segment: str) -> None:
    before, found, after = f":{env.get('PATH', '')}:".partition(f":{segment}:")
    if found:
        env["PATH"] = f"{before}:{after}".removeprefix(":").removesuffix(":")


def _undo(env: dict[str, str]) -> None:
    """Leave the environment that is active in `env`, from what its activation saved there."""
    names = [name for name in env.pop(_CHANGED, "").split(" ") if _NAME.match(name)]
    segment = env.pop(_SEGMENT, "")
    old = env.get(_OLD + "PATH", "")
    if segment and env.get("PATH", "") != (f"{segment}:{old}" if old else segment):
        _leave_path(env, segment)
        env.pop(_OLD + "PATH", None)
        names = [name for name in names if name != "PATH"]
    for name in names:
        _assign(env, name, env.pop(_OLD + name, None))
    env.pop(_ACTIVE, None)
