"""The module system: load an ordered list once, in a clean login shell, and keep what that did.

Lmod and Tcl environment-modules behind one interface. They differ in what a failed load returns, what it leaves loaded and
where it writes; Lmod returns 1 for a mere warning of a modulefile that did load. So exit codes decide nothing: a load is good
when every module that was asked for is in LOADEDMODULES afterwards and every promised variable has a value.

All modules are loaded by one command, which is quick. Where that does not work they are loaded one by one: then each failure
is that of one module, and Lmod accepts orders in which a later module replaces what an earlier one loaded.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envbuilder import process
from envbuilder.document import where
from envbuilder.effect import Loaded, difference, expanded, joined
from envbuilder.errors import HostError, InputError
from envbuilder.partition import Export, Partition
from envbuilder.places import expanded as path
from envbuilder.process import Command
from envbuilder.site import Modules, Site

TIMEOUT_SECONDS = 300.0
_NO_SYSTEM, _NOT_LOADED, _REPLACED = 97, 98, 99

# The login shell of the site without the user's own start-up files: a build must not depend on those. The environment is
# read through /proc, because modulefiles may print anything, and values may hold anything.
_CAPTURE = r"""
folder=$1 init=$2 reset=$3 each=$4; shift 4
. /etc/profile >/dev/null 2>&1 </dev/null
if [ -n "$init" ]; then . "$init" >/dev/null 2>&1 </dev/null; fi
type module >/dev/null 2>&1 || exit 97
cat /proc/self/environ >"$folder/login"
if [ -n "$reset" ]; then module "$reset" >/dev/null 2>>"$folder/said" || exit 98; fi
while [ "$1" != -- ]; do module use "$1" >/dev/null 2>>"$folder/said" || exit 98; shift; done; shift
there() {
    case ":${LOADEDMODULES-}:" in *":$1:"*|*":$1/"*) return 0 ;; esac
    module is-loaded "$1" >/dev/null 2>&1
}
if [ "$each" = each ]; then
    for one in "$@"; do
        : >"$folder/said"
        module load "$one" >/dev/null 2>"$folder/said" && continue
        there "$one" && continue
        printf %s "$one" >"$folder/at"
        exit 98
    done
elif [ $# -gt 0 ]; then
    module load "$@" >/dev/null 2>>"$folder/said"
fi
for one in "$@"; do
    there "$one" && continue
    printf %s "$one" >"$folder/at"
    exit 99
done
cat /proc/self/environ >"$folder/loaded"
"""


class NotLoaded(HostError):
    """A module of the list that cannot be loaded (`module`), with the module system's own words (`said`).

    `replaced` is True for one that loads and does not stay, because of a later one.
    """

    def __init__(self, message: str, *, hint: str, module: str, said: str, replaced: bool) -> None:
        super().__init__(message, hint=hint)
        self.module = module
        self.said = said
        self.replaced = replaced


def bare() -> dict[str, str]:
    """The environment that a login shell starts from: who one is, and the system's programs."""
    entry = pwd.getpwuid(os.getuid())
    home = os.environ.get("HOME") or entry.pw_dir
    user = os.environ.get("USER") or entry.pw_name
    return {
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
    }


def load(site: Site, partition: Partition, extra: tuple[str, ...] = ()) -> Loaded | None:
    """Load the modules of a partition, and `extra` ones after them; None where there are none to load and nothing to export.

    Raises `HostError` with the module system's own words when there is no such system, when a module cannot be loaded or
    does not stay loaded, or when a promised variable has no value.
    """
    wanted = (*partition.modules, *extra)
    if not (wanted or partition.exports_after_modules):
        return None
    start = bare()
    if site.modules.system == "none":
        return _exports_alone(partition, start)
    with tempfile.TemporaryDirectory(prefix="envbuilder-modules-") as name:
        folder = Path(name)
        code = _run(site.modules, partition, wanted, folder, start, each=False)
        if code:
            code = _run(site.modules, partition, wanted, folder, start, each=True)
        if code:
            raise _failure(site, wanted, folder, code)
        login, loaded = _environment(folder / "login"), _environment(folder / "loaded")
        said = _text(folder / "said")
    missing = [promise for promise in partition.promises if not loaded.get(promise)]
    if missing:
        raise HostError(
            f"{where(missing[0])}the modules {', '.join(wanted)} loaded, and {', '.join(missing)} has no value, which the "
            f"site promises{_quoted(said)}",
            hint="a module has changed: mend `promises` or the modules in the site file, or ask the site's staff",
        )
    names = _entries(loaded.get("LOADEDMODULES", ""))
    files = _entries(loaded.get("_LMFILES_", ""))
    final = _exported(partition.exports_after_modules, loaded)
    return Loaded(
        system=site.modules.system,
        asked=tuple(map(str, wanted)),
        names=names,
        files=files,
        effect=difference(start, login, final),
        said=said,
    )


def attempt(site: Site, partition: Partition) -> tuple[Loaded | None, tuple[NotLoaded, ...]]:
    """Load the modules of a partition; where some cannot be loaded, find all of those, and load none.

    What the rest does is not what the whole does. Raises `HostError` for what is not the fault of one module.
    """
    failed: list[NotLoaded] = []
    wanted = partition.modules
    while True:
        try:
            loaded = load(site, replace(partition, modules=wanted))
        except NotLoaded as error:
            if error.module not in wanted:
                raise
            failed.append(error)
            wanted = tuple(name for name in wanted if name != error.module)
        except HostError:
            if not failed:
                raise
            return None, tuple(failed)
        else:
            return (None if failed else loaded), tuple(failed)


def _run(
    system: Modules,
    partition: Partition,
    wanted: tuple[str, ...],
    folder: Path,
    start: Mapping[str, str],
    *,
    each: bool,
) -> int:
    for file in folder.iterdir():
        file.unlink()
    init = path(str(system.init), start)
    argv = (
        "bash", "--noprofile", "--norc", "-c", _CAPTURE, "envbuilder", str(folder), init, str(system.reset),
        "each" if each else "all", *(path(str(folder), start) for folder in partition.module_paths), "--", *wanted,
    )  # fmt: skip
    done = process.capture(Command(argv=argv), timeout=TIMEOUT_SECONDS, base=start)
    if done.timed_out:
        raise HostError(
            f"loading modules took more than {TIMEOUT_SECONDS:.0f} s: {', '.join(wanted)}",
            hint="is the file system of the modulefiles slow or gone?",
        )
    return done.code


def _failure(site: Site, wanted: tuple[str, ...], folder: Path, code: int) -> HostError:
    system = {"lmod": "Lmod", "tcl": "environment-modules"}[site.modules.system]
    if code == _NO_SYSTEM:
        return HostError(
            f"site {site.name} has {system}, and a login shell on this machine does not define `module`",
            hint="is this the right machine? else write the script that defines it as `modules: {init: ...}` in the site file",
        )
    at, words = _text(folder / "at"), _text(folder / "said")
    said = _quoted(words)
    place = next((where(name) for name in wanted if name == at), "")
    if code == _REPLACED:
        return NotLoaded(
            f"{place}{at} does not stay loaded: another module of the list replaces or unloads it{said}",
            hint="mend the order or the versions in the site file",
            module=at,
            said=words,
            replaced=True,
        )
    what = f"the module {at} cannot be loaded" if at else "the modules cannot be loaded"
    return NotLoaded(
        f"{place}{what} on this machine{said}",
        hint=f"it may be gone since the site file was written: look with `module avail {at.partition('/')[0] or ''}`; "
        f"`envbuilder sites doctor {site.name}` checks all of them",
        module=at,
        said=words,
        replaced=False,
    )


def _exports_alone(partition: Partition, start: Mapping[str, str]) -> Loaded | None:
    """What a site without modules sets for its partition."""
    if not partition.exports_after_modules:
        return None
    effect = difference(start, start, _exported(partition.exports_after_modules, start))
    return Loaded(system="none", asked=(), names=(), files=(), effect=effect)


def _exported(exports: tuple[Export, ...], loaded: Mapping[str, str]) -> dict[str, str]:
    """The environment after the exports that come last."""
    result = dict(loaded)
    for export in exports:
        value, missing = expanded(export.to, result)
        if missing and not (export.prepend and missing == (str(export.prepend),)):
            raise InputError(
                f"{where(export.to)}exports_after_modules: {', '.join(missing)} has no value once the modules are loaded",
                hint="load the module that sets it, or leave this line out",
            )
        if export.unset:
            result.pop(export.unset, None)
        elif export.prepend:
            result[str(export.prepend)] = joined((value, result.get(export.prepend, "")))
        else:
            result[str(export.set)] = value
    return result


def _environment(path: Path) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in path.read_bytes().decode("utf-8", "surrogateescape").split("\0"))
    return {name: value for name, found, value in pairs if found and not name.startswith("BASH_FUNC_")}


def _entries(value: str) -> tuple[str, ...]:
    return tuple(entry for entry in value.split(":") if entry)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _quoted(said: str) -> str:
    """The module system's own words, as lines below a message."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    return ":" + "".join(f"\n    {line}" for line in lines[:12]) if lines else ""
