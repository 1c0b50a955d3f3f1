"""An environment as the store knows it: the manifest that makes it visible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from envbuilder.effect import Effect
from envbuilder.errors import StoreError

SCHEMA = 1

# the fields of a manifest that are not text
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("features", "imports", "settings", "preloads", "data"), (list, tuple)),
    **dict.fromkeys(
        ("python", "packages", "records", "written", "gpu", "gpus", "scheduler", "signers", "conda", "spack"), (dict,)
    ),
    **dict.fromkeys(("mpi", "modules", "base", "image", "pack"), (dict, type(None))),
    "max_proof_age_hours": (int,),
    "seconds": (int, float),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A built environment.

    `digest` is that of everything its plan was made from; `packages` maps distributions to versions, `records` to the
    sha256 of their RECORD files right after the installation; `written` maps every other file of the tree to its sha256
    ("" for a symbolic link); `mpi` holds the library that ranks must have mapped, or None; `settings` are the recipe's
    run-time variables, `created` is UTC in ISO 8601, `seconds` how long the build took.

    `modules` is what loading the site's modules did (`effect.Loaded.identity`, and their `files`); `gpu` what device code
    must be for, with the toolkits of the partition and of the wheels (empty where the recipe computes on CPUs); `base` the
    module that a layer stands on, with its packages and paths; `site_file` the file that the facts of the site came from.
    `scheduler` maps each partition of the site to the batch system's own, where there is a batch system, `gpus` each of them
    to the vendor of the GPUs that its nodes have (`none` without). `signers` says
    what the site asks of a proof's signature: `required` (yes or no) and `file`, that of the allowed signers; and of an
    image's: `image_key`, the public key.

    `image` is there when the tree is inside an image: its `file` and `sha256`, the `base`, the `runtime` it was built with,
    where the tree is in it (`prefix`) and its interpreter (`python`), whether `mpi` is the `image`'s or the `host`'s, and then
    what is bound (`binds`, `library_path`); `mpiexec` starts the ranks, in the image if `mpiexec_inside`.

    `pack` is there when the tree is packed: its `file` and `sha256`, the `prefix` at which its processes see it, and the
    environment that it is `of`.

    `conda` maps each conda package of the tree to its version and build (empty where there is none), `spack` each package
    that Spack concretized for it to its version and hash; then `written` holds every file of the tree.

    `preloads` are the libraries that the site lets LD_PRELOAD name: `library` (see `envbuilder.preload`) and `why`. `data` are
    what its programs read: the `variable` that leads there, and `why`.
    """

    # what came later has a default, so that older manifests keep loading

    identifier: str
    builder: str
    recipe: str
    version: str
    site: str
    partition: str
    prefix: str
    digest: str
    lock_digest: str
    python: Mapping[str, str]
    features: tuple[str, ...]
    imports: tuple[str, ...]
    packages: Mapping[str, str]
    records: Mapping[str, str]
    written: Mapping[str, str]
    mpi: Mapping[str, str] | None
    settings: tuple[Mapping[str, str], ...]
    caches: str
    max_proof_age_hours: int
    created: str
    created_by: str
    seconds: float
    modules: Mapping[str, Any] | None = None
    gpu: Mapping[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] | None = None
    scheduler: Mapping[str, str] = field(default_factory=dict)
    gpus: Mapping[str, str] = field(default_factory=dict)
    signers: Mapping[str, str] = field(default_factory=dict)
    site_file: str = ""
    image: Mapping[str, Any] | None = None
    pack: Mapping[str, Any] | None = None
    conda: Mapping[str, str] = field(default_factory=dict)
    spack: Mapping[str, str] = field(default_factory=dict)
    preloads: tuple[Mapping[str, str], ...] = ()
    data: tuple[Mapping[str, str], ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The manifest as plain data."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any], file: str) -> Environment:
        """The environment of a manifest; raises `StoreError` for another schema or a damaged one."""
        if document.get("schema") != SCHEMA:
            raise StoreError(
                f"{file}: manifest schema {document.get('schema')!r} is not the {SCHEMA} that this envbuilder reads",
                hint="build the environment anew",
            )
        known = {entry.name for entry in fields(cls)}
        values = {key: value for key, value in document.items() if key in known}
        optional = {entry.name for entry in fields(cls) if (entry.default, entry.default_factory) != (MISSING, MISSING)}
        missing = known - set(values) - optional
        if missing:
            raise StoreError(f"{file}: the manifest lacks {', '.join(sorted(missing))}", hint="build it anew")
        wrong = [name for name, value in values.items() if not isinstance(value, _KINDS.get(name, str))]
        if wrong:
            raise StoreError(f"{file}: the manifest is damaged: {', '.join(wrong)}", hint="build it anew")
        for name in {"features", "imports", "settings", "preloads", "data"} & set(values):
            values[name] = tuple(values[name])
        environment = cls(**values)
        try:
            environment.effect()
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{file}: the manifest is damaged: modules", hint="build it anew") from error
        return environment

    @property
    def tree(self) -> str:
        """Where its processes see the tree: its prefix, unless it is in an image or packed."""
        inside = self.image or self.pack
        return str(inside["prefix"]) if inside else self.prefix

    def effect(self) -> Effect:
        """What the site's modules did when it was built."""
        return Effect.from_document(self.modules["effect"]) if self.modules else Effect()
