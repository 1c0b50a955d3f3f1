"""Externals of a site: packages that are installed there already, under the names that Spack gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envbuilder import spec_text
from envbuilder.shape import Field, ListOf, Table, Words

LANGUAGES = {"c": "C", "cxx": "C++", "fortran": "Fortran"}


@dataclass(frozen=True, kw_only=True, slots=True)
class External:
    """An installed package: its spec, the folder it is in, the modules that lead to it; of a compiler its programs, too."""

    spec: str
    prefix: str = ""
    modules: tuple[str, ...] = ()
    compilers: Mapping[str, str] = field(default_factory=dict)
    source: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The package's name."""
        return spec_text.parse(self.spec).name


def table(module: str, path: str, source: Field) -> Table:
    """The shape of an external, with the forms of a site's modules and paths."""
    return Table(
        build=External,
        doc="A package that is installed there, for Spack: it takes it instead of building one.",
        fields={
            "spec": Field(
                shape=Words(
                    doc="What it is, in Spack's syntax, with a version.",
                    check=_problem,
                    example="cray-mpich@8.1.27 +wrappers",
                ),
                required=True,
            ),
            "prefix": Field(
                shape=Words(doc="Its folder.", pattern=path, example="/opt/cray/pe/mpich/8.1.27/ofi/gnu/9.1")
            ),
            "modules": Field(
                shape=ListOf(
                    of=Words(doc="A module.", pattern=module, example="cray-mpich/8.1.27"),
                    doc="The modules that lead to it, in order.",
                )
            ),
            "compilers": Field(
                shape=Table(
                    build=dict,
                    doc="Of a compiler: its programs.",
                    fields={
                        language: Field(shape=Words(doc=f"That of {name}.", pattern=path, example="/usr/bin/gcc-13"))
                        for language, name in LANGUAGES.items()
                    },
                )
            ),
            "source": source,
        },
    )


def _problem(text: str) -> str | None:
    wrong = spec_text.wish_problem(str(text))
    if wrong:
        return wrong
    versions = spec_text.parse(text).versions
    if versions is None or not versions.single:
        return f"{text[:80]!r} must say one version"
    return None
