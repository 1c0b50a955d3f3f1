"""A request: a recipe's variant, rendered for one target. What the resolver is asked for.

Rendering is the only step between a recipe as written and a request; it decides nothing by itself except whether the
combination is possible at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from envbuilder.conda import DEFAULT_CHANNEL, Asked, platform
from envbuilder.document import digest, where
from envbuilder.errors import InputError
from envbuilder.fit import misfit
from envbuilder.partition import Partition
from envbuilder.recipe import SPEC, Data, Index, Recipe, RunSetting, Variant
from envbuilder.source import TAG, URL, VERSION, Git, Source
from envbuilder.target import Central, Target
from envbuilder.template import Scope, render

if TYPE_CHECKING:
    from envbuilder.spec import Spec

# What only the plan knows of a source build: the tree it builds in, the compiler, the MPI's compiler wrapper.
BUILD_ENVIRONMENT = "@BUILD_ENVIRONMENT@"
CC = "@CC@"
CXX = "@CXX@"
MPICC = "@MPICC@"
MPICXX = "@MPICXX@"

# What a name on the index is, where recipes for PyTorch mean something else by it (github.com/NVIDIA/apex/issues/1063).
_MISTAKEN = {"apex": "a toolkit for web applications; NVIDIA's apex is on no index"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Everything that a lock answers: requirements, indexes, sources, run-time settings, features."""

    recipe: str
    version: str
    features: tuple[str, ...]
    imports: tuple[str, ...]
    requirements: tuple[str, ...]
    indexes: tuple[Index, ...]
    sources: Mapping[str, Source]
    settings: tuple[RunSetting, ...]
    target: Mapping[str, Any]
    tag: str = ""
    data: tuple[Data, ...] = ()
    conda: Asked | None = None
    spack: Mapping[str, Any] | None = None

    def to_document(self) -> dict[str, Any]:
        """Plain data, in which two requests are equal if and only if they ask for the same."""
        document = asdict(self)
        document["sources"] = {name: source.to_document() for name, source in sorted(self.sources.items())}
        if not self.data:  # locks that were made before there were any stay fresh
            del document["data"]
        if self.conda is None:
            del document["conda"]
        if self.spack is None:
            del document["spack"]
        return {key: plain(value) for key, value in document.items()}

    @property
    def digest(self) -> str:
        """The sha256 of the request."""
        return digest(self.to_document())


def plain(value: Any) -> Any:
    """The same value with lists for tuples and ordinary text, as JSON would read it back."""
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    return str(value) if isinstance(value, str) else value


def concrete(recipe: Recipe, variant: Variant, partition: Partition, target: Target) -> Request:
    """The request for one variant on one target; raises `InputError` when it cannot work or cannot be rendered."""
    mpi_name = target.mpi.name if target.mpi else "none"
    facts = {
        "site": target.site,
        "partition": target.partition,
        "arch": target.arch,
        "mpi": mpi_name,
        "provider": target.mpi.provider if target.mpi else "none",
        "gpu": target.gpu,
    }
    reason = misfit(recipe, variant, partition, facts)
    if reason:
        raise InputError(f"{recipe.name}@{variant.version} cannot work on {target.site}/{target.partition}: {reason}")
    if "mpi" in recipe.needs and target.mpi is None:
        raise InputError(f"{recipe.name} needs an MPI and {target.site}/{target.partition} offers none")
    names = scope(recipe, variant, target)
    _conda_packages(recipe, names)  # a mistake in a recipe is told whoever builds it
    request = _rendered(recipe, variant, target, names)
    _refuse_mistaken(request)
    _refuse_without_cxx(request, target)
    return request


def specs(recipe: Recipe, variant: Variant, target: Target) -> tuple[Spec, ...]:
    """The recipe's specs for one variant on one target; raises `InputError` that points at the character."""
    from envbuilder import spec_text

    names = scope(recipe, variant, target)
    return tuple(spec_text.wish(render(text, names)) for text in recipe.specs)


def with_conda(
    request: Request, recipe: Recipe, variant: Variant, target: Target, virtual: Mapping[str, str]
) -> Request:
    """The same request where conda brings Python and the packages that the recipe wants from it."""
    python = target.python
    wanted = _conda_packages(recipe, scope(recipe, variant, target))
    return replace(
        request,
        conda=Asked(
            channels=recipe.conda.channels or (DEFAULT_CHANNEL,),
            packages=(f"python {python.minor}.*", *wanted),
            platform=platform(target.arch),
            virtual_packages=virtual,
        ),
    )


def with_spack(request: Request, document: Mapping[str, Any]) -> Request:
    """The same request where Spack brings everything, by that document of `spack.yaml`."""
    return replace(request, requirements=(), indexes=(), sources={}, tag="", spack=document)


def _conda_packages(recipe: Recipe, names: Scope) -> tuple[str, ...]:
    rendered = (render(text, names) for text in recipe.conda.packages)
    return tuple(_checked(text, SPEC, "package of conda", "numpy >=2") for text in rendered)


def scope(recipe: Recipe, variant: Variant, target: Target) -> Scope:
    """The names that a recipe's expressions may use, as plain text and mappings."""
    return {
        "recipe": {"name": recipe.name},
        "variant": {"version": variant.version, "tag": variant.tag},
        "site": {"name": target.site},
        "partition": {
            "name": target.partition,
            "gpu": target.gpu,
            "arch": target.arch,
            "gpu_arch": target.gpu_arch,
            "cuda_arch": re.sub(r"^sm_(\d+)(\d)[a-z]?$", r"\1.\2", target.gpu_arch),
        },
        "modules": dict(target.effect.set),
        "python": {"version": target.python.minor},
        "build": {"prefix": BUILD_ENVIRONMENT},
        "mpi": _mpi_scope(target),
    }


def _is_there(text: str, central: Central) -> bool:
    """Whether the module that a layer stands on has what is required, in a version that will do."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    requirement = Requirement(text)
    version = central.packages.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _mpi_scope(target: Target) -> dict[str, str]:
    """`mpi.cc` compiles and links a C extension so that it finds its library where the environment will have it.

    `mpi.cxx` compiles and links C++ with MPI; what an extension then needs to find its library is `mpi.rpath`, for the linker
    alone: build systems with generated makefiles would take the dollar sign in it for one of their own variables.
    """
    mpi = target.mpi
    if mpi is None:
        return {"provider": "none", "name": "none"}
    if mpi.provider == "system":
        return {"provider": "system", "name": mpi.name, "cc": MPICC, "cxx": MPICXX, "rpath": ""}
    # The wheel's own mpicc would leave the path of the build tree in the extension. From a top-level package's folder,
    # three levels up is the environment's lib folder.
    flags = (
        f"-I{BUILD_ENVIRONMENT}/include -L{BUILD_ENVIRONMENT}/lib -Wl,--no-as-needed -Wl,-rpath,$ORIGIN/../../.. -lmpi"
    )
    return {
        "provider": "wheel",
        "name": mpi.name,
        "cc": f"{CC} {flags}",
        "cxx": f"{CXX} -I{BUILD_ENVIRONMENT}/include -L{BUILD_ENVIRONMENT}/lib -Wl,--no-as-needed -lmpi",
        # and from a folder inside such a package, four
        "rpath": "-Wl,-rpath,$ORIGIN/../../..:$ORIGIN/../../../..",
    }


def _rendered(recipe: Recipe, variant: Variant, target: Target, names: Scope) -> Request:
    packages = [render(text, names) for text in (*recipe.packages, *variant.packages)]
    if target.mpi is not None and target.mpi.provider == "wheel" and "mpi" in recipe.needs:
        packages.append(target.mpi.package)
    if target.central is not None:
        packages = [text for text in packages if not _is_there(_checked_requirement(text), target.central)]
    return Request(
        recipe=recipe.name,
        version=variant.version,
        features=tuple(sorted(recipe.features)),
        imports=recipe.imports,
        requirements=tuple(_checked_requirement(text) for text in packages),
        indexes=tuple(
            Index(url=_checked_address(render(index.url, names)), why=index.why)
            for index in (*recipe.indexes, *variant.indexes)
        ),
        sources={name: _rendered_source(source, names) for name, source in _compiled_here(recipe, target).items()},
        settings=tuple(_rendered_setting(setting, names) for setting in recipe.environment),
        target=target.identity(),
        tag=str(variant.tag),
        data=recipe.data,
    )


def _compiled_here(recipe: Recipe, target: Target) -> dict[str, Source]:
    """The sources that are compiled on this target; raises when one must be and cannot."""
    if target.can_compile:
        return dict(recipe.sources)
    missing = "a C compiler" if target.compiler is None else f"the C headers of Python {target.python.minor}"
    for name, source in recipe.sources.items():
        if source.without_compiler == "fail":
            raise InputError(
                f"{recipe.name} compiles {name}, and this machine lacks {missing}",
                hint="install it, or name one under `compilers` in the site file",
            )
    return {name: source for name, source in recipe.sources.items() if source.without_compiler == "build"}


def _refuse_mistaken(request: Request) -> None:
    """A distribution that only has the name of the one that is meant, unless the recipe says where that comes from."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    told = {canonicalize_name(source.name) for source in request.sources.values() if not source.sdist}
    for text in request.requirements if "torch" in request.features else ():
        name = canonicalize_name(Requirement(text).name)
        if name in _MISTAKEN and name not in told:
            raise InputError(
                f"{where(text)}{name} on the package index is {_MISTAKEN[name]}",
                hint=f"say under `sources` where {name} comes from (`git`, with `name: {name}`), or leave it out",
            )


def _refuse_without_cxx(request: Request, target: Target) -> None:
    """What is compiled from C++ needs its compiler, and with a system's MPI the one that links with it."""
    lacking = []
    if target.compiler is None or not target.compiler.cxx:
        lacking.append((CXX, "a C++ compiler"))
    if target.mpi is None or not target.mpi.mpicxx:
        lacking.append((MPICXX, "a C++ compiler that links with its MPI"))
    for name, source in request.sources.items():
        for mark, missing in lacking:
            if any(mark in value for value in source.env.values()):
                raise InputError(
                    f"{request.recipe} compiles {name} from C++, and this machine lacks {missing}",
                    hint="install it, or name one as `cxx` under `compilers` in the site file",
                )


def _rendered_source(source: Source, names: Scope) -> Source:
    return replace(
        source,
        archive=replace(source.archive, url=_address_of(source.archive.url, names)) if source.archive else None,
        git=_rendered_git(source.git, names) if source.git else None,
        version=_checked(render(source.version, names), VERSION, "version", "1.0") if source.version else "",
        build_requires=tuple(_checked_requirement(render(text, names)) for text in source.build_requires),
        env={key: render(value, names) for key, value in sorted(source.env.items())},
    )


def _rendered_git(git: Git, names: Scope) -> Git:
    tag = _checked(render(git.tag, names), TAG, "tag", "v1.0") if git.tag else ""
    return replace(git, url=_address_of(git.url, names), tag=tag)


def _address_of(text: str, names: Scope) -> str:
    return _checked_address(render(text, names))


def _checked(text: str, pattern: str, what: str, example: str) -> str:
    if not re.fullmatch(pattern, text):
        raise InputError(f"{where(text)}{text[:80]!r} is not a {what}", hint=f"write it as {example}")
    return text


def _rendered_setting(setting: RunSetting, names: Scope) -> RunSetting:
    return RunSetting(set=setting.set, to=render(setting.to, names), unset=setting.unset, why=setting.why)


def _checked_requirement(text: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        parsed = Requirement(text)
    except InvalidRequirement as error:
        raise InputError(
            f"{where(text)}{text[:80]!r} is not a requirement (PEP 508)", hint="write it as h5py>=3.10"
        ) from error
    if parsed.url is not None:
        raise InputError(f"{where(text)}{text[:80]!r} points at an address", hint="name a version instead")
    return text


def _checked_address(text: str) -> str:
    if not re.fullmatch(URL, text):
        raise InputError(f"{where(text)}{text[:80]!r} is not an address", hint="write it as https://example.org/simple")
    return text
