"""Measure the conda builder beside py-rattler's own calls, on the local channel of the tests; see benchmarks/README.md."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import ENVBUILDER, Place, Result, compared, main

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import conda_channel  # type: ignore[import-not-found]

import envbuilder

PACKAGES = ["jinja2", "markdown-it-py", "greeting"]
SOLVE = """
import asyncio, json, os, sys
from rattler import BuildString, Gateway, GenericVirtualPackage, PackageName, Version, solve
asked = json.load(open(sys.argv[1]))
virtual = [GenericVirtualPackage(PackageName(n), Version(v), BuildString(b)) for n, v, b in asked["virtual_packages"]]
async def main():
    return await solve(asked["channels"], asked["packages"], gateway=Gateway(cache_dir=asked["cache"] + "/repodata"),
                       platforms=["linux-64", "noarch"], virtual_packages=virtual)
json.dump([record.to_json() for record in asyncio.run(main())], open(sys.argv[2], "w"))
os._exit(0)
"""
INSTALL = """
import asyncio, json, os, sys
from rattler import PackageRecord, RepoDataRecord, Subdir, install
asked = json.load(open(sys.argv[1]))
async def main():
    records = []
    for number, text in enumerate(json.load(open(sys.argv[2]))):
        one = json.loads(text)
        open(f"{sys.argv[2]}.{number}", "w").write(text)
        record = PackageRecord.from_index_json(f"{sys.argv[2]}.{number}", sha256=one["sha256"])
        records.append(RepoDataRecord(record, one["fn"], one["url"], one["channel"]))
    await install(records, asked["prefix"], cache_dir=asked["cache"] + "/pkgs", platform=Subdir("linux-64"),
                  execute_link_scripts=False, show_progress=False)
asyncio.run(main())
os._exit(0)
"""


def _channel(place: Place) -> str:
    return str(conda_channel.have(place.home / "conda").as_uri())


def _question(place: Place) -> dict[str, object]:
    python = conda_channel.interpreter().minor
    return {
        "channels": [_channel(place)], "packages": [f"python {python}.*", *PACKAGES], "platform": "linux-64",
        "virtual_packages": [["__glibc", "2.17", "0"]], "mirrors": {}, "previous": [], "exclude_newer": "",
    }  # fmt: skip


def _ours(place: Place, cache: Path) -> float:
    """What a build runs for conda's part: its tool solves, then it installs."""
    tool = str(Path(envbuilder.__file__).parent / "workshop" / "conda.py")
    import rattler

    run = (sys.executable, "-I", tool, str(Path(rattler.__file__).parent.parent))
    folder = Path(tempfile.mkdtemp(dir=place.scratch))
    asks, answer, spec = folder / "question.json", folder / "answer.json", folder / "install.json"
    asks.write_text(json.dumps({**_question(place), "cache": str(cache / "repodata")}))
    seconds = place.run(*run, "solve", str(asks), str(answer))
    packages = json.loads(answer.read_text())["packages"]
    kept = {"prefix": str(folder / "env"), "cache": str(cache / "pkgs"), "platform": "linux-64", "packages": packages}
    spec.write_text(json.dumps(kept))
    return seconds + place.run(*run, "install", str(spec))


def _theirs(place: Place, cache: Path) -> float:
    """The same by rattler's own calls, in two programs as well: a lock lies between them."""
    folder = Path(tempfile.mkdtemp(dir=place.scratch))
    asks = folder / "question.json"
    asks.write_text(json.dumps({**_question(place), "cache": str(cache), "prefix": str(folder / "env")}))
    files = (str(asks), str(folder / "records.json"))
    return place.run(sys.executable, "-I", "-c", SOLVE, *files) + place.run(sys.executable, "-I", "-c", INSTALL, *files)


def _emptied(cache: Path, run: Callable[[], float]) -> Callable[[], float]:
    def seconds() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        return run()

    return seconds


def cold(place: Place) -> Result:
    """Solve, fetch and install with nothing kept."""
    one, other = place.scratch / "ours", place.scratch / "theirs"
    a, b = compared(_emptied(one, lambda: _ours(place, one)), _emptied(other, lambda: _theirs(place, other)), 9)
    return Result(name="solve + install, nothing kept / rattler's own calls", ours=a, theirs=b, rounds=9, limit=1.2)


def warm(place: Place) -> Result:
    """Solve and install what was fetched before."""
    one, other = place.scratch / "kept-ours", place.scratch / "kept-theirs"
    a, b = compared(lambda: _ours(place, one), lambda: _theirs(place, other), 15)
    return Result(name="solve + install, all kept / rattler's own calls", ours=a, theirs=b, rounds=15, limit=1.2)


def _world(place: Place) -> tuple[str, ...]:
    """The command that builds the same packages."""
    folder = place.scratch / "recipes" / "bench-conda"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "schema": 1, "name": "bench-conda", "summary": "conda's packages alone", "imports": ["jinja2"],
        "variants": [{"version": "1.0"}], "conda": {"channels": [_channel(place)], "packages": PACKAGES},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return (ENVBUILDER, "build", str(folder / "recipe.yaml"), "--builder", "conda")


def whole(place: Place) -> Result:
    """A whole build from a lock, with its inventory and publication, beside the same calls; all is kept."""
    build = _world(place)
    place.run(*build)
    other = place.scratch / "kept-theirs"

    def ours() -> float:
        place.forget("bench-conda")
        return place.run(*build)

    a, b = compared(ours, lambda: _theirs(place, other), 7)
    return Result(
        name="whole build / rattler's own calls", ours=a, theirs=b, rounds=7, limit=5, note="the lock is there already"
    )


def noop(place: Place) -> Result:
    """Building what is built beside a bare interpreter, as for a venv."""
    build = _world(place)
    place.run(*build)
    a, b = compared(lambda: place.run(*build), lambda: place.run(sys.executable, "-c", "pass"), 25)
    return Result(name="build of what is built / python -c pass", ours=a, theirs=b, rounds=25, limit=10)


TOPICS: dict[str, Callable[[Place], Result]] = {"cold": cold, "warm": warm, "whole": whole, "noop": noop}


if __name__ == "__main__":
    sys.exit(main(TOPICS, str(__doc__)))
