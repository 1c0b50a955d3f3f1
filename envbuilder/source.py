"""Sources of a recipe: what is compiled here, where its source comes from, and what is changed in it.

`SOURCE` describes the format, as `envbuilder.recipe.RECIPE` does for the whole file. Patches lie beside the recipe; their text
becomes part of the request, so that a lock alone can build again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from envbuilder.document import MAX_BYTES, Text, where
from envbuilder.errors import InputError
from envbuilder.shape import Field, ListOf, MapOf, Switch, Table, Whole, Words

DISTRIBUTION = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
URL = r"(https?|file)://[^\s\"'`$\\;|<>]+"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
VERSION = r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}"
# no absolute path, no `..`, no hidden file
PATH = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}){0,19}"
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*"
COMMIT = r"[0-9a-f]{40}"

MAX_PATTERN = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A change of the source: a diff in `file`, or a text at `path` that is replaced where it stands `count` times.

    `text` and `sha256` are those of the file; they are filled in where the recipe is found.
    """

    why: str
    file: str = ""
    replace: str = ""
    by: str = ""
    path: str = ""
    count: int = 1
    sha256: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRule:
    """A regular expression that no line of the compilation's log may match, and why."""

    pattern: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A source archive at an address."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Git:
    """A commit of a repository: the one that a tag means, or the one named; if both are, they must agree."""

    url: str
    tag: str = ""
    commit: str = ""
    submodules: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Jobs:
    """What one of the compilers that run at once may take, and how long all of them do where that is no login node's work."""

    memory_gib: int = 2
    minutes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A distribution that is compiled here, against the partition's MPI.

    Its source is the sdist that the lock holds, an archive or a commit; for the latter two `name` and `version` say what it
    is. `without_compiler` says what to do on a machine that has no C compiler: `fail`, take the published `wheel`, or `build`
    all the same, because nothing in it is compiled.
    """

    build_requires: tuple[str, ...]
    why: str
    sdist: str = ""
    archive: Archive | None = None
    git: Git | None = None
    name: str = ""
    version: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    without_compiler: str = "fail"
    patches: tuple[Patch, ...] = ()
    fail_if_log: tuple[LogRule, ...] = ()
    jobs: Jobs | None = None
    resume: bool = False

    @property
    def distribution(self) -> str:
        """The distribution that is made from it."""
        return self.sdist or self.name

    def to_document(self) -> dict[str, Any]:
        """Plain data; a key that came later is left out where it says nothing, so that older locks stay fresh."""
        always = ("sdist", "build_requires", "why", "env", "without_compiler")
        silent = {one.name: one.default for one in fields(Source)}
        document = asdict(self)
        return {key: value for key, value in document.items() if key in always or value != silent[key]}


def filled(source: Source, folder: Path) -> Source:
    """The source with the text of its patches, which lie in the recipe's folder; raises `InputError`."""
    return replace(source, patches=tuple(_read(patch, folder) if patch.file else patch for patch in source.patches))


def patch_files(source: Source) -> Iterator[Path]:
    """Where the patches of a source lie."""
    for patch in source.patches:
        if isinstance(patch.file, Text) and patch.file:
            yield Path(patch.file.mark.file).parent / patch.file


def mistakes(name: str, source: Source) -> Iterator[str]:
    """What is wrong with a source that its shape cannot say."""
    at = f"{where(source.why)}sources.{name}: "
    told = bool(source.archive or source.git)
    if told and not (source.name and source.version):
        yield f"{at}an archive or a commit does not say what it is; add `name: ...` and `version: ...`"
    if not told and (source.name or source.version):
        yield f"{at}an sdist has a name and a version of its own; remove `name` and `version`"
    if told and source.without_compiler == "wheel":
        yield f"{at}no published wheel is the same as {source.name}; write `without_compiler: fail`"
    if source.git and not (source.git.tag or source.git.commit):
        yield f"{at}git: which commit? add `tag: ...` or `commit: ...`"
    for patch in source.patches:
        at = f"{where(patch.why)}sources.{name}.patches: "
        if patch.file and (patch.by or patch.path or patch.count != 1):
            yield f"{at}`in`, `by` and `count` belong to `replace`; remove them"
        if not patch.file and not (patch.replace and patch.path):
            yield f"{at}which text, in which file? write `replace: ...` and `in: path/in/the/source`"


def _read(patch: Patch, folder: Path) -> Patch:
    path = folder / patch.file
    at = f"{where(patch.file)}patches: "
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{at}{patch.file} leads out of the recipe's folder", hint="put the patch beside the recipe"
            )
        if os.stat(path).st_size > MAX_BYTES:
            raise InputError(f"{at}{path} is too large for a patch", hint=f"at most {MAX_BYTES} bytes are read")
        content = path.read_bytes()
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{at}{path} is not UTF-8 text", hint="write the change as `replace`") from error
    except OSError as error:
        raise InputError(f"{at}cannot read {path}: {error.strerror}", hint="put the patch beside the recipe") from error
    return replace(patch, text=text, sha256=hashlib.sha256(content).hexdigest())


def requirement_problem(text: str) -> str | None:
    """What is wrong with a requirement of a recipe, or nothing."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        return f"{text[:80]!r} is not a requirement (PEP 508): {str(error).splitlines()[0]}"
    if parsed.url is not None:
        return f"{text[:80]!r} points at an address; a lock must be able to resolve it from an index"
    return None


def _pattern_problem(text: str) -> str | None:
    if len(text) > MAX_PATTERN:
        return f"a pattern of {len(text)} characters is too long (at most {MAX_PATTERN})"
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{text[:80]!r} is not a regular expression: {error}"
    return None


def _version_problem(text: str) -> str | None:
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return f"{text[:80]!r} is not a version (PEP 440)"
    return None


PACKAGE = Words(
    doc="A requirement as pip knows it (PEP 508).", check=requirement_problem, example="h5py>=3.10", rendered=True
)

_PATCH = Table(
    build=Patch,
    doc="A change of the source before it is compiled: a diff, or one text in one file.",
    one_of=("file", "replace"),
    fields={
        "file": Field(
            shape=Words(
                doc="A unified diff beside the recipe, with paths as `a/...` and `b/...`.",
                pattern=PATH,
                example="patches/torch-2.1.patch",
            )
        ),
        "replace": Field(shape=Words(doc="The text that is replaced.", multiline=True)),
        "by": Field(shape=Words(doc="What stands there afterwards.", multiline=True)),
        "in": Field(
            shape=Words(doc="The file of the source that holds the text.", pattern=PATH, example="setup.py"),
            name="path",
        ),
        "count": Field(shape=Whole(doc="How often the text must be there (1 unless said).", least=1, most=1000)),
        "why": Field(shape=Words(doc="Why the source must be changed."), required=True),
    },
)

_LOG_RULE = Table(
    build=LogRule,
    doc="What the log of a good compilation never says; a line that matches fails the build.",
    fields={
        "pattern": Field(
            shape=Words(
                doc="A regular expression, searched in each line.", check=_pattern_problem, example="MPI .*not found"
            ),
            required=True,
        ),
        "why": Field(shape=Words(doc="What such a line means."), required=True),
    },
)

_ARCHIVE = Table(
    build=Archive,
    doc="A source archive: tar (gz, bz2, xz) or zip. Mirrors of the site apply.",
    fields={
        "url": Field(
            shape=Words(doc="Its address.", pattern=URL, example="https://example.org/a-1.0.tar.gz", rendered=True),
            required=True,
        ),
        "sha256": Field(shape=Words(doc="Its sha256.", pattern=r"[0-9a-f]{64}"), required=True),
    },
)

_GIT = Table(
    build=Git,
    doc="A commit of a repository; the lock holds it, and those of its submodules. Mirrors of the site apply to all of them.",
    fields={
        "url": Field(
            shape=Words(doc="The repository.", pattern=URL, example="https://example.org/a.git", rendered=True),
            required=True,
        ),
        "tag": Field(shape=Words(doc="A tag.", pattern=TAG, example="v1.0", rendered=True)),
        "commit": Field(shape=Words(doc="A commit; with a tag, the one that it must mean.", pattern=COMMIT)),
        "submodules": Field(shape=Switch(doc="Whether its submodules are wanted, and theirs.")),
    },
)

SOURCE = Table(
    build=Source,
    doc="A distribution that is compiled here rather than taken as a wheel; the result is kept as a wheel.",
    one_of=("sdist", "archive", "git"),
    fields={
        "sdist": Field(
            shape=Words(doc="The distribution whose source is compiled.", pattern=DISTRIBUTION, example="mpi4py")
        ),
        "archive": Field(shape=_ARCHIVE),
        "git": Field(shape=_GIT),
        "name": Field(
            shape=Words(doc="The distribution in an archive or a repository.", pattern=DISTRIBUTION, example="horovod")
        ),
        "version": Field(
            shape=Words(doc="Its version.", pattern=VERSION, check=_version_problem, example="0.28.1", rendered=True)
        ),
        "build_requires": Field(
            shape=ListOf(of=PACKAGE, doc="What its build needs; locked and hashed like everything else.", at_least=1),
            required=True,
        ),
        "why": Field(shape=Words(doc="Why the published wheel is not good enough."), required=True),
        "env": Field(
            shape=MapOf(
                of=Words(doc="A value.", rendered=True), keys=VARIABLE,
                doc="Environment variables of the build, and no others.",
            )
        ),
        "without_compiler": Field(
            shape=Words(
                doc="Without a C compiler: `fail`, take the published `wheel`, or `build` (nothing in it is compiled).",
                choices=("fail", "wheel", "build"),
            )
        ),
        "patches": Field(shape=ListOf(of=_PATCH, doc="Changes of the source, in this order.")),
        "fail_if_log": Field(shape=ListOf(of=_LOG_RULE, doc="What must not stand in the log of the compilation.")),
        "jobs": Field(
            shape=Table(
                build=Jobs,
                doc="How many compilers run at once: as many as there are cores, and as memory allows.",
                fields={
                    "memory_gib": Field(shape=Whole(doc="What one of them may need (2 unless said).", least=1, most=1024)),
                    "minutes": Field(
                        shape=Whole(
                            doc="What it takes on a node: where there is a batch system it is compiled in a job of that long.",
                            least=1,
                            most=10_080,
                        )
                    ),
                },
            )
        ),
        "resume": Field(
            shape=Switch(doc="Whether a compilation that was killed goes on in its folder; its build must be incremental.")
        ),
    },
)  # fmt: skip
