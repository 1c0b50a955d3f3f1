"""Ask a real Spack about the corpora in this folder, and write its verdicts beside them.

    SPACK_ROOT=/path/to/spack python tests/spack/verdicts.py

Needs the sources of Spack alone: no package repository is read, nothing is fetched. The tests compare envbuilder with what is
written here, so they need no Spack; where $SPACK_ROOT is set, they also ask again.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(root: str) -> str:
    """Make `import spack` mean the Spack in that folder, without the user's configuration; returns its version."""
    home = tempfile.mkdtemp(prefix="spack-verdicts-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    Path(home, "repos.yaml").write_text("repos:: {}\n", encoding="utf-8")  # else it clones one
    os.environ |= {
        "SPACK_USER_CONFIG_PATH": home,
        "SPACK_SYSTEM_CONFIG_PATH": f"{home}/none",
        "SPACK_USER_CACHE_PATH": f"{home}/cache",
    }
    sys.path.insert(0, str(Path(root) / "lib" / "spack"))
    import spack

    return str(spack.__version__)


def parsed(text: str) -> dict[str, Any]:
    """What Spack makes of a spec: its parts, or that it refuses it (with the kind of its error), or that it sees several."""
    from spack.spec_parser import parse

    signal.signal(signal.SIGVTALRM, _endless)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2)  # a lone bracket sends its parser round in circles
    try:
        found = parse(text)
    except Exception as error:  # noqa: BLE001 - whatever it raises is a refusal; some are bugs of its own
        return {"refused": type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if len(found) != 1:
        return {"several": len(found)}
    return node(found[0])


class Endless(Exception):
    """It would go on for ever."""


def _endless(*_: object) -> None:
    raise Endless


def node(spec: Any) -> dict[str, Any]:
    """The parts of a spec that are there, in the order of names."""
    architecture = spec.architecture
    parts = {
        "name": spec.name or "",
        "namespace": spec.namespace or "",
        "versions": "" if str(spec.versions) == ":" else str(spec.versions),
        "variants": {name: variant(spec.variants[name]) for name in sorted(spec.variants)},
        "flags": {
            name: [" ".join(map(str, values)), any(one.propagate for one in values)]
            for name, values in sorted(spec.compiler_flags.items())
            if values
        },
        "place": [
            str(getattr(architecture, key) or "") if architecture else "" for key in ("platform", "os", "target")
        ],
        "hash": spec.abstract_hash or "",
        "edges": sorted((edge(one) for one in spec.edges_to_dependencies()), key=json.dumps),
    }
    return {key: value for key, value in parts.items() if value and value != ["", "", ""]}


def variant(found: Any) -> list[Any]:
    """Its value (a truth value, or a list), whether dependencies inherit it, whether it has these values only."""
    value = found.value if isinstance(found.value, bool) else sorted(map(str, found.values))
    return [value, bool(found.propagate), bool(found.concrete) and not isinstance(found.value, bool)]


def edge(found: Any) -> dict[str, Any]:
    """The dependency, how it was asked for, and its edge's attributes."""
    import spack.deptypes

    preferred = "PREFERENCE" in str(found.propagation)
    parts = {
        "sigil": "%%" if preferred else "%" if found.direct else "^",
        "virtuals": sorted(found.virtuals),
        "deptypes": sorted(spack.deptypes.flag_to_tuple(found.depflag)),
        "when": node(found.when) if found.when is not None else {},
        "spec": node(found.spec),
    }
    return {key: value for key, value in parts.items() if value}


def order(one: str, other: str) -> int:
    """-1, 0 or 1."""
    from spack.version import Version

    a, b = Version(one), Version(other)
    return (a > b) - (a < b)


def fits(version: str, specifier: str) -> bool:
    """Whether one version is held by a specifier."""
    from spack.version import Version, ver

    return bool(Version(version).satisfies(ver(specifier)))


def both(one: str, other: str) -> list[bool]:
    """Whether a specifier lies in the other, and whether they have versions in common."""
    from spack.spec import Spec

    a, b = Spec(f"@{one}").versions, Spec(f"@{other}").versions
    return [bool(a.satisfies(b)), bool(a.intersects(b))]


def merged(specifier: str) -> str:
    """The specifier as Spack writes it."""
    from spack.spec import Spec

    return str(Spec(f"@{specifier}").versions)


def schema_mistakes(document: Any) -> list[str]:
    """What Spack's own schema says of a `spack.yaml`, and which of its specs its parser refuses."""
    import spack.schema
    import spack.schema.env

    found = [
        f"{'.'.join(map(str, error.path))}: {error.message[:200]}"
        for error in spack.schema.Validator(spack.schema.env.schema).iter_errors(document)
    ]
    if found:
        return found
    environment = document["spack"]
    packages = environment.get("packages", {}).values()
    specs = [*environment["specs"], *(one["spec"] for package in packages for one in package.get("externals", ()))]
    specs += [one for package in packages for one in package.get("require", ())]
    return [f"not a spec: {text}" for text in specs if {"refused", "several"} & set(parsed(text))]


def answers(corpus: dict[str, Any]) -> dict[str, Any]:
    """The corpus with Spack's verdicts of today."""
    result: dict[str, Any] = {}
    for kind, entries in corpus.items():
        if kind in ("specs", "malformed"):
            result[kind] = [{**entry, "spack": parsed(entry["spec"])} for entry in entries]
        elif kind == "order":
            result[kind] = [[one, other, order(one, other)] for one, other, *_ in entries]
        elif kind == "fits":
            result[kind] = [[version, specifier, fits(version, specifier)] for version, specifier, *_ in entries]
        elif kind == "both":
            result[kind] = [[one, other, both(one, other)] for one, other, *_ in entries]
        elif kind == "merged":
            result[kind] = [[specifier, merged(specifier)] for specifier, *_ in entries]
        else:
            result[kind] = entries
    return result


def written(corpus: dict[str, Any]) -> str:
    """One entry on a line, so that a change of a verdict shows as one."""
    lines = []
    for kind, entries in corpus.items():
        if isinstance(entries, list):
            inner = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
            lines.append(f'"{kind}": [\n{inner}\n]')
        else:
            lines.append(f'"{kind}": {json.dumps(entries, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write the verdicts; `verdicts.py` says in each file which Spack gave them."""
    root = os.environ.get("SPACK_ROOT", "")
    if not root:
        sys.exit("set SPACK_ROOT to a folder with the sources of Spack")
    version = load(root)
    for path in sorted(HERE.glob("*.json")):
        corpus = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(written({**answers(corpus), "by": f"Spack {version}"}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
