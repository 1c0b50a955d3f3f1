"""The target: what a partition turned out to be on this machine.

Plain data, found by `envbuilder.host`. The part of it that decides which artefacts fit (`Target.identity`) goes into the
lock; the rest (paths, the compiler) goes into the plan.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from envbuilder.effect import Effect, Loaded

# Where a system has its programs.
SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")

# What a compilation takes from the machine unless its own requirements bring it, and what it makes depends on.
BUILD_TOOLS = ("cmake", "ld", "make", "ninja")


@dataclass(frozen=True, kw_only=True, slots=True)
class Python:
    """An interpreter: its path, full version, extension ABI tag (`cpython-311-x86_64-linux-gnu`), and C headers."""

    path: str
    version: str
    soabi: str
    headers: bool

    @property
    def minor(self) -> str:
        """`3.11`."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """A C compiler: its path and what it says that it is; and the same of the C++ compiler beside it, if there is one."""

    path: str
    version: str
    cxx: str = ""
    cxx_version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mpi:
    """The MPI of the target.

    `provider` is `wheel` (the distribution `package` inside the environment) or `system`. The identity of the library is
    known beforehand for a system's MPI alone; `mpicc`, `mpicxx` and `mpiexec` are its programs, `cc_version` and `cxx_version`
    what the compilers that the first two call say that they are.
    """

    provider: str
    name: str
    package: str = ""
    version: str = ""
    soname: str = ""
    library: str = ""
    build_id: str = ""
    sha256: str = ""
    mpicc: str = ""
    mpicxx: str = ""
    mpiexec: str = ""
    cc_version: str = ""
    cxx_version: str = ""

    def identity(self) -> dict[str, str]:
        """What a lock holds of it: nothing that differs between two machines with the same MPI."""
        if self.provider == "wheel":
            return {"provider": "wheel", "package": self.package}
        return {
            "provider": self.provider,
            "name": self.name,
            "version": self.version,
            "soname": self.soname,
            "build_id": self.build_id,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """What of a target takes long to find: its MPI, its C compiler, and what its build tools say that they are."""

    mpi: Mpi | None
    compiler: Compiler | None
    tools: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Central:
    """What a module of the site brings for a layer to stand on: its distributions and where its interpreter looks.

    `packages` maps normalised names to versions; `paths` are the entries of sys.path in order.
    """

    module: str
    packages: Mapping[str, str]
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One partition of one site as found: platform, interpreter, MPI, C compiler, loaded modules (each or none).

    `gpu` is the vendor of its GPUs, `gpu_arch` what device code must be for, `toolkit` such as `rocm@6.3.4`. `tools` maps the
    machine's build tools to what they say that they are. `image` is the sha256 of the image that it is, if it is one.
    """

    site: str
    partition: str
    arch: str
    libc: str
    gpu: str
    python: Python
    mpi: Mpi | None
    compiler: Compiler | None
    gpu_arch: str = ""
    toolkit: str = ""
    modules: Loaded | None = None
    central: Central | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    image: str = ""

    @property
    def effect(self) -> Effect:
        """What the loaded modules did; nothing where there are none."""
        return self.modules.effect if self.modules else Effect()

    @property
    def search_path(self) -> str:
        """The PATH of a compilation: the system's folders, those of the compilers, and what the modules add; no user's."""
        programs = (self.compiler.path, self.compiler.cxx) if self.compiler else ()
        wrappers = (self.mpi.mpicc, self.mpi.mpicxx) if self.mpi else ()
        folders = [os.path.dirname(one.partition(" ")[0]) for one in (*programs, *wrappers)]
        path = ":".join(dict.fromkeys([*(one for one in folders if one and one not in SYSTEM_PATH), *SYSTEM_PATH]))
        return self.effect.apply({"PATH": path})["PATH"]

    @property
    def can_compile(self) -> bool:
        """Whether a C extension can be built: there are a compiler and Python's headers."""
        return self.compiler is not None and self.python.headers

    def identity(self) -> dict[str, Any]:
        """What decides which artefacts fit: architecture, Python, extension ABI, MPI, GPU, and what the modules did."""
        return {
            "os": "linux",
            "arch": self.arch,
            "python": self.python.minor,
            "soabi": self.python.soabi,
            "mpi": self.mpi.identity() if self.mpi else None,
            "compiles": self.can_compile,
            **({"gpu": {"vendor": self.gpu, "arch": self.gpu_arch, "toolkit": self.toolkit}} if self.gpu_arch else {}),
            **({"modules": self.modules.identity()} if self.modules else {}),
            **(
                {"base": {"module": self.central.module, "packages": dict(self.central.packages)}}
                if self.central
                else {}
            ),
        }

    def to_document(self) -> dict[str, Any]:
        """The whole target as plain data."""
        document = asdict(self)
        if self.modules is not None:
            document["modules"]["effect"] = self.modules.effect.to_document()
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Target:
        """The target of a document; raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` for a damaged one."""
        values = dict(document)
        mpi, compiler, modules, central = (values[key] for key in ("mpi", "compiler", "modules", "central"))
        values |= {
            "python": Python(**values["python"]),
            "mpi": Mpi(**mpi) if mpi else None,
            "compiler": Compiler(**compiler) if compiler else None,
            "central": Central(**{**central, "paths": tuple(central["paths"])}) if central else None,
        }
        if modules:
            lists = {key: tuple(map(str, modules[key])) for key in ("asked", "names", "files")}
            values["modules"] = Loaded(**{**modules, **lists, "effect": Effect.from_document(modules["effect"])})
        return cls(**values)
