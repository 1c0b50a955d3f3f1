"""Commits of repositories as source archives: which commit a tag means, its submodules, and the same tar each time.

Nothing of a repository runs here: objects are fetched into a bare cache without hooks, and written out by `git archive` with
attributes and filters off. The tar is known by its sha256, as every artefact is.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from envbuilder import pip_config, process, store
from envbuilder.download import Network, with_credentials
from envbuilder.errors import HostError, InputError
from envbuilder.plan import SEALED_AT
from envbuilder.process import Command, Finished
from envbuilder.source import COMMIT, URL, Git
from envbuilder.store import Store

MAX_DEPTH = 8
MAX_PARTS = 500
_NO_ATTRIBUTES = "* -export-subst -export-ignore -text -eol -ident -filter -working-tree-encoding\n"
_SECONDS = 3600.0
_PART_PATH = re.compile(r"(?!\.{1,2}(/|$))[^/\0-\x1f\x7f]{1,200}(/(?!\.{1,2}(/|$))[^/\0-\x1f\x7f]{1,200}){0,30}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A commit of a repository, and where its tree stands in the whole (`""`: it is the whole)."""

    path: str
    url: str
    commit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """Where commits are kept, and how they come there; `mirrors` are the site's."""

    store: Store
    network: Network
    mirrors: Mapping[str, str]
    waiting: Callable[[str], None]


def settled(git: Git, cache: Cache) -> tuple[Part, ...]:
    """The commit that is meant, and those of its submodules if they are wanted; they are fetched on the way.

    Raises `InputError` for a tag that is not there or means another commit than the recipe says, and `HostError` when the
    repository cannot be had.
    """
    url = str(git.url)
    commit = str(git.commit)
    if git.tag:
        meant = _commit_of_tag(url, str(git.tag), cache)
        if commit and meant != commit:
            raise InputError(
                f"{pip_config.redact(url)}: the tag {git.tag} is not the commit that the recipe says: it means {meant}, not "
                f"{commit}",
                hint="somebody moved the tag; look at what changed before you write another commit",
            )
        commit = meant
    whole = Part(path="", url=url, commit=commit)
    return (whole, *(_submodules(whole, cache, 1) if git.submodules else ()))


def checked(part: Part) -> Part:
    """The same; raises `InputError` for what no lock of ours says."""
    good = re.fullmatch(COMMIT, part.commit) and re.fullmatch(URL, part.url)
    if not good or (part.path and not _is_path(part.path)):
        raise InputError(f"{part.url[:200]!r} at {part.commit[:60]!r} is no commit", hint="write the lock anew")
    return part


def write(parts: tuple[Part, ...], cache: Cache, sink: BinaryIO) -> None:
    """Write the trees of these commits as one tar: plain, without owners and times, in the order of the trees."""
    with (
        tempfile.TemporaryDirectory(prefix="envbuilder-git-") as folder,
        tarfile.open(fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT) as whole,
    ):
        for number, part in enumerate(parts):
            repository = _fetched(part.url, part.commit, cache)
            one = Path(folder) / f"{number}.tar"
            _local(repository, "archive", "--format=tar", f"--output={one}", part.commit)
            _append(one, part.path, whole)
            one.unlink()


def _append(one: Path, path: str, whole: tarfile.TarFile) -> None:
    with tarfile.open(one, "r:") as source:
        for member in source:
            name = f"{path}/{member.name}" if path else member.name
            if member.isdir():
                continue  # folders are made for what is in them
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mtime = member.type, member.linkname, SEALED_AT
            entry.mode = 0o755 if member.mode & 0o100 or member.issym() else 0o644
            entry.size = member.size if member.isreg() else 0
            whole.addfile(entry, source.extractfile(member) if member.isreg() else None)


def _submodules(above: Part, cache: Cache, depth: int) -> Iterator[Part]:
    """Every submodule below a commit, its own included; raises `InputError` for one that has no address that works."""
    if depth > MAX_DEPTH:
        raise InputError(
            f"{above.url}: submodules are nested too deep", hint=f"at most {MAX_DEPTH} levels are followed"
        )
    repository = _fetched(above.url, above.commit, cache)
    links = _links(repository, above.commit)
    if len(links) > MAX_PARTS:
        raise InputError(f"{above.url} has {len(links)} submodules", hint=f"at most {MAX_PARTS} are followed")
    addresses = _addresses(repository, above.commit) if links else {}
    for path, commit in sorted(links.items()):
        if path not in addresses:
            raise InputError(
                f"{above.url} at {above.commit}: .gitmodules does not say where the submodule {path[:200]!r} comes from",
                hint="write `submodules: false`, or choose another commit",
            )
        whole = f"{above.path}/{path}" if above.path else path
        part = checked(Part(path=whole, url=_address(above.url, addresses[path]), commit=commit))
        yield part
        yield from _submodules(part, cache, depth + 1)


def _links(repository: Path, commit: str) -> dict[str, str]:
    """Path and commit of the submodules in a tree."""
    listed = _local(repository, "ls-tree", "-r", "-z", "--full-tree", commit)
    found = (re.fullmatch(r"160000 commit ([0-9a-f]{40})\t(.*)", line, re.DOTALL) for line in listed.split("\0"))
    return {match[2]: match[1] for match in found if match}


def _addresses(repository: Path, commit: str) -> dict[str, str]:
    """What .gitmodules says: addresses by path."""
    said: dict[str, dict[str, str]] = {}
    listed = _local(repository, "config", "--blob", f"{commit}:.gitmodules", "--list", "-z")
    for entry in listed.split("\0"):
        key, _, value = entry.partition("\n")
        match = re.fullmatch(r"submodule\.(.+)\.(path|url)", key, re.DOTALL)
        if match:
            said.setdefault(match[1], {})[match[2]] = value
    return {
        one["path"]: one["url"] for one in said.values() if "path" in one and "url" in one and _is_path(one["path"])
    }


def _address(above: str, url: str) -> str:
    """The address of a submodule: a relative one starts at the repository above; one for ssh is read by https as well."""
    if url.startswith(("./", "../")):
        return urljoin(f"{above.rstrip('/')}/", url)
    if "://" not in url:
        url = re.sub(r"^(?:[^@/\s]+@)?([A-Za-z0-9.-]+):(?!/)", r"https://\1/", url)
    return re.sub(r"^(?:ssh|git)://(?:[^@/\s]+@)?", "https://", url)


def _is_path(path: str) -> bool:
    return bool(_PART_PATH.fullmatch(path)) and path.split("/", 1)[0] != ".git"


def _commit_of_tag(url: str, tag: str, cache: Cache) -> str:
    done = _remote(url, cache, "ls-remote", "upstream", f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}")
    if done.code != 0:
        raise _unreachable(url, done)
    found = {match[2]: match[1] for match in re.finditer(r"^([0-9a-f]{40})\s+(\S+)$", done.output, re.MULTILINE)}
    commit = found.get(f"refs/tags/{tag}^{{}}") or found.get(f"refs/tags/{tag}")
    if commit is None:
        raise InputError(f"{pip_config.redact(url)} has no tag {tag}", hint="see `git ls-remote --tags` of it")
    return commit


def _fetched(url: str, commit: str, cache: Cache) -> Path:
    """The bare repository that has a commit with its whole tree, fetched if it has not."""
    repository = _repository(url, cache)
    with store.guarded(cache.store, f"git-{repository.name}", cache.waiting):
        if _has(repository, commit):
            return repository
        one = ("fetch", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "upstream")
        done = _remote(url, cache, *one, f"+{commit}:refs/envbuilder/{commit}")
        if done.code != 0:  # a server may give whole branches and tags only
            every = ("+refs/heads/*:refs/fetched/heads/*", "+refs/tags/*:refs/fetched/tags/*")
            done = _remote(url, cache, *(word for word in one if word != "--depth=1"), *every)
        if not _has(repository, commit):
            if done.code != 0:
                raise _unreachable(url, done)
            raise HostError(
                f"{pip_config.redact(url)} has no commit {commit} any more",
                hint="build where the store or a bundle still has it, or choose another commit",
            )
    return repository


def _repository(url: str, cache: Cache) -> Path:
    repository = cache.store.root / "cache" / "git" / hashlib.sha256(url.encode()).hexdigest()[:24]
    if not (repository / "HEAD").is_file():
        repository.mkdir(parents=True, exist_ok=True)
        _local(repository, "init", "--quiet", "--bare", "--template=")
    attributes = repository / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text(_NO_ATTRIBUTES)
    return repository


def _has(repository: Path, commit: str) -> bool:
    return process.capture(_command(repository, ("cat-file", "-e", f"{commit}^{{tree}}"), _alone())).code == 0


def _local(repository: Path, *words: str) -> str:
    """What git says about what is here, whatever the user's and the machine's configuration of it is."""
    return process.checked(_command(repository, words, _alone()), timeout=_SECONDS)


def _remote(url: str, cache: Cache, *words: str) -> Finished:
    """Git with the network; the address is told by the environment, since it may hold a password."""
    repository = _repository(url, cache)
    chosen = with_credentials(pip_config.mirrored(url, cache.mirrors), cache.network)
    if not re.fullmatch(r"(https?|file)://.+", chosen):
        raise InputError(f"{pip_config.redact(chosen)} cannot be fetched", hint="name a mirror in the site file")
    pip = cache.network.pip
    env: dict[str, str | None] = {
        **_without_git(),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "remote.upstream.url",
        "GIT_CONFIG_VALUE_0": chosen,
        **({"GIT_SSL_CAINFO": pip.cert} if pip.cert else {}),
        **({"https_proxy": pip.proxy, "http_proxy": pip.proxy} if pip.proxy else {}),
    }
    return process.capture(_command(repository, words, env), timeout=_SECONDS)


def _command(repository: Path, words: tuple[str, ...], env: Mapping[str, str | None]) -> Command:
    safe = ("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "tar.umask=0022",
            "-c", "core.fsmonitor=false")  # fmt: skip
    return Command(argv=("git", f"--git-dir={repository}", *safe, *words), env=env)


def _without_git() -> dict[str, str | None]:
    """Nothing of the caller's GIT_ variables; no questions; no way but these to reach a repository."""
    return {
        **dict.fromkeys(name for name in os.environ if name.startswith("GIT_")),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_ALLOW_PROTOCOL": "file:http:https",
        "LC_ALL": "C.UTF-8",
    }


def _alone() -> dict[str, str | None]:
    return {**_without_git(), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def _unreachable(url: str, done: Finished) -> HostError:
    said = "".join(f"\n    {line}" for line in pip_config.redact(done.output).strip().splitlines()[-5:])
    host = urlsplit(url).hostname or "the disk"
    return HostError(
        f"{pip_config.redact(url)} cannot be fetched by git:{said}",
        hint=f"check the way to {host}; a mirror can be named under `mirrors` in the site file",
    )
