"""Solve, install and read conda packages with py-rattler: `conda.py FOLDER solve|install|read QUESTION ANSWER`.

FOLDER is where py-rattler is installed. What cannot be is told in words on the standard output, with exit code 3.
"""

import asyncio
import datetime as dt
import hashlib
import json
import os
import re
import stat
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

# the fields of a package that decide what is installed, or that a solver has to know; when it was indexed is not one
FIELDS = ("name", "version", "build", "build_number", "subdir", "noarch", "arch", "platform", "depends", "constrains",
          "track_features", "python_site_packages_path", "license", "timestamp", "size", "md5", "sha256")  # fmt: skip
AT_ONCE = 16
SETTLED_NS = 2 * 10**9
_METADATA = re.compile(r".*site-packages/(?P<name>[^/]+?)-(?P<version>[^/-]+)(-py[0-9.]+)?\.(dist|egg)-info(/.*)?")


class RefusedError(Exception):
    """What cannot be solved or installed, in words."""


def mirrored(url, mirrors):
    """The address with the longest upstream prefix that `mirrors` knows replaced."""
    for upstream in sorted(mirrors, key=len, reverse=True):
        stem = upstream.rstrip("/")
        rest = url[len(stem) :]
        if stem and url.startswith(stem) and (not rest or rest[0] in "/?#"):
            return mirrors[upstream].rstrip("/") + rest
    return url


def record_of(entry):
    """What rattler calls a package, from a line of the lock."""
    from rattler import BuildString, NoArchType, PackageRecord, RepoDataRecord

    noarch = entry.get("noarch")
    record = PackageRecord(
        entry["name"], entry["version"], BuildString(entry["build"]), entry["build_number"], entry["subdir"],
        arch=entry.get("arch"), platform=entry.get("platform"), noarch=NoArchType(noarch) if noarch else None,
        depends=entry.get("depends"), constrains=entry.get("constrains"), sha256=bytes.fromhex(entry["sha256"]),
        md5=bytes.fromhex(entry["md5"]) if entry.get("md5") else None, size=entry.get("size"),
        license=entry.get("license"), python_site_packages_path=entry.get("python_site_packages_path"),
    )  # fmt: skip
    return RepoDataRecord(record, entry["url"].rpartition("/")[2], entry["url"], entry["channel"])


def local(url):
    """The path that a `file://` address means, or "" for another address."""
    parts = urlsplit(url)
    return unquote(parts.path) if parts.scheme == "file" else ""


def client_for(addresses):
    """What fetches over the network, with the user's credentials; None where there is nothing but folders."""
    from rattler import Client

    return None if all(local(one) for one in addresses) else Client.default_client()


async def solved(question):
    """The packages that answer a question, as the lock has them."""
    from rattler import (
        BuildString,
        Channel,
        Gateway,
        GenericVirtualPackage,
        PackageName,
        Version,
        solve,
    )

    upstream = {}
    for name in question["channels"]:
        there = Channel(name).base_url.rstrip("/")
        upstream[mirrored(there, question["mirrors"]).rstrip("/")] = there
    virtual = [
        GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
        for name, version, build in question["virtual_packages"]
    ]
    newest = question["exclude_newer"]
    client = client_for(upstream)
    records = await solve(
        list(upstream),
        question["packages"],
        gateway=Gateway(cache_dir=question["cache"], client=client),
        platforms=[question["platform"], "noarch"],
        locked_packages=[record_of(entry) for entry in question["previous"]],
        virtual_packages=virtual,
        exclude_newer=dt.datetime.fromisoformat(newest) if newest else None,
    )
    # a package that is kept comes back as it was given, with its address upstream
    known = {one["sha256"]: one for one in question["previous"]}
    remembered = Remembered(f"{question['cache']}.distributions.json")
    places = Places(upstream, known, client, asyncio.Semaphore(AT_ONCE), remembered)
    entries = await asyncio.gather(*(entry_of(record, places) for record in records))
    remembered.write()
    return sorted(entries, key=lambda entry: entry["name"])


class Places:
    """Where channels are (`upstream`: address from here to address upstream), and what is known of packages already."""

    def __init__(self, upstream, known, client, gate, remembered):
        self.upstream = upstream
        self.known = known
        self.client = client
        self.gate = gate
        self.remembered = remembered


async def entry_of(record, places):
    """One package with its address upstream, and the Python distributions that are in it."""
    told = json.loads(record.to_json())
    if not told.get("sha256"):
        raise RefusedError(f"the channel says no sha256 of {told['url']}")
    if told["sha256"] in places.known and told["url"] == places.known[told["sha256"]]["url"]:
        return places.known[told["sha256"]]
    pairs = (pair for pair in places.upstream.items() if told["url"].startswith(f"{pair[0]}/"))
    here, there = next(pairs, (told["channel"].rstrip("/"),) * 2)
    entry = {name: told[name] for name in FIELDS if told.get(name) not in (None, [], "")}
    entry["url"] = there + told["url"][len(here) :]
    entry["channel"] = f"{there}/"
    if told.get("noarch") == "python" or any(
        re.match(r"(python|pypy)(_abi)?\b", one) for one in told.get("depends", ())
    ):
        async with places.gate:
            found = await distributions(told["url"], places)
        if found:
            entry["distributions"] = found
    return entry


async def distributions(url, places):
    """The Python distributions that a package brings, by the metadata in it: normalised name to version."""
    from rattler import PathsJson

    path = local(url)
    if not path:
        return named(await PathsJson.from_remote_url(places.client, url))
    seen = os.stat(path)
    kept = places.remembered.of(path, seen)
    if isinstance(kept, dict) and kept.get("by") == _METADATA.pattern:
        return kept["found"]
    found = named(PathsJson.from_package_archive(path))
    if identity(os.stat(path)) == identity(seen):
        places.remembered.keep(path, {"by": _METADATA.pattern, "found": found}, seen)
    return found


def named(paths):
    """Names and versions in the paths of a package."""
    found = {}
    for one in paths.paths if paths else ():
        match = _METADATA.fullmatch(str(one.relative_path))
        if match:
            found[re.sub(r"[-_.]+", "-", match["name"]).lower()] = match["version"]
    return dict(sorted(found.items()))


def identity(seen):
    """What of a file changes when it is written: the time of the change of its inode cannot be set back."""
    return [seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]


class Remembered:
    """What was found in files before, kept beside the cache; what was not written since is not read again."""

    def __init__(self, file):
        self.file = file
        self.found = {}
        try:
            with open(file, encoding="utf-8") as source:
                self.known = dict(json.load(source))
        except (OSError, ValueError, TypeError):
            self.known = {}

    def of(self, path, seen):
        """What was found in this file, if it is as it was then."""
        kept = self.known.get(path)
        return kept[0] if isinstance(kept, list) and kept[1:] == identity(seen) else None

    def keep(self, path, found, seen):
        """What was found in a file; one that changed a moment ago may change again at what the clock calls the same time."""
        if max(seen.st_mtime_ns, seen.st_ctime_ns) < time.time_ns() - SETTLED_NS:
            self.found[path] = [found, *identity(seen)]

    def write(self):
        """Keep what is new; of two at once one is remembered."""
        if not self.found:
            return
        os.makedirs(os.path.dirname(self.file), exist_ok=True)
        beside = f"{self.file}.{os.getpid()}"
        with open(beside, "w", encoding="utf-8") as sink:
            json.dump({**self.known, **self.found}, sink)
        os.replace(beside, self.file)


def refuse_other(entry, proven):
    """What is fetched is compared with the lock by rattler, which believes a file: so that is looked at here."""
    path = local(entry["url"])
    if not path:
        return
    state = hashlib.sha256()
    with open(path, "rb") as source:
        seen = os.fstat(source.fileno())
        if proven.of(path, seen) == entry["sha256"]:
            return
        for block in iter(lambda: source.read(1 << 20), b""):
            state.update(block)
        after = os.fstat(source.fileno())
    if state.hexdigest() != entry["sha256"]:
        name = os.path.basename(path)
        raise RefusedError(f"hash mismatch: the sha256 of {name} is {state.hexdigest()}, not {entry['sha256']}")
    if identity(after) == identity(seen):
        proven.keep(path, entry["sha256"], seen)


async def install(question):
    """Install exactly the packages of the question into its prefix; their scripts are not run."""
    packages = question["packages"]
    proven = Remembered(f"{question['cache']}.proven.json")
    with ThreadPoolExecutor() as pool:
        compared = [pool.submit(refuse_other, entry, proven) for entry in packages]
        # meanwhile: it takes as long as the comparison
        import rattler

        records, client = [record_of(entry) for entry in packages], client_for(entry["url"] for entry in packages)
        for one in compared:
            one.result()
    proven.write()
    await rattler.install(
        records,
        question["prefix"],
        cache_dir=question["cache"],
        client=client,
        platform=rattler.Subdir(question["platform"]),
        execute_link_scripts=False,
        show_progress=False,
    )


def finish(question):
    """Let those read the records who may read the tree, and name the scripts that were not run."""
    mask = os.umask(0)
    os.umask(mask)
    for path in Path(question["prefix"], "conda-meta").glob("*.json"):
        # rattler keeps them for the owner alone
        path.chmod(stat.S_IMODE(0o644 & ~mask))
    skipped = sorted(path.name for path in Path(question["prefix"]).glob("bin/.*-post-link.sh"))
    if skipped:
        sys.stdout.write(f"not run: {', '.join(skipped)}\n")


def held(question):
    """What a lock file of pixi or conda-lock holds of an environment for a platform."""
    from rattler import LockFile

    found = LockFile.from_path(question["file"])
    names = [name for name, _ in found.environments()]
    environment = found.environment(question["environment"])
    if environment is None:
        raise RefusedError(
            f"it has no environment {question['environment']}; it has {', '.join(sorted(names)) or 'none'}"
        )
    platforms = {str(one.subdir): one for one in environment.platforms()}
    if question["platform"] not in platforms:
        raise RefusedError(f"it is not for {question['platform']}, but for {', '.join(sorted(platforms)) or 'nothing'}")
    here = platforms[question["platform"]]
    records = environment.conda_repodata_records_for_platform(here) or []
    others = environment.pypi_packages_for_platform(here) or []
    return {
        "channels": [str(one) for one in environment.channels()],
        "packages": sorted(
            ({"name": str(one.name.source), "version": str(one.version), "build": str(one.build)} for one in records),
            key=lambda one: one["name"],
        ),
        "distributions": sorted(
            ({"name": one.name, "version": str(one.version or ""), "location": str(one.location)} for one in others),
            key=lambda one: one["name"],
        ),
    }


def main(folder, verb, question, answer=""):
    """Answer a question from a file."""
    sys.path.append(folder)
    with open(question, encoding="utf-8") as source:
        asked = json.load(source)
    try:
        if verb == "solve":
            entries = asyncio.run(solved(asked))
            with open(answer, "w", encoding="utf-8") as sink:
                json.dump({"packages": entries}, sink)
        elif verb == "read":
            with open(answer, "w", encoding="utf-8") as sink:
                json.dump(held(asked), sink)
        else:
            asyncio.run(install(asked))
            finish(asked)
    except (RefusedError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        return 3
    except Exception as error:
        # rattler's own kinds of errors, each a sentence; what is wrong in this file has no such module
        if not type(error).__module__.startswith(("exceptions", "rattler")):
            raise
        sys.stdout.write(f"{error}\n")
        return 3
    return 0


def leave(code):
    """End at once: rattler's threads may still come back to an interpreter that is being taken down, and crash there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        ended = main(*sys.argv[1:])
    except Exception:  # noqa: BLE001 - whatever it is, we leave by the same door
        traceback.print_exc()
        ended = 1
    leave(ended)
