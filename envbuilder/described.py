"""A partition as its file describes it, with nothing looked at: what can be rendered and judged away from the machine."""

from __future__ import annotations

from envbuilder.effect import Effect, Loaded
from envbuilder.partition import Partition
from envbuilder.target import Compiler, Mpi, Python, Target


def target(site: str, name: str, partition: Partition) -> Target:
    """The target that the file's facts make; what they leave out is taken as x86-64 with Python 3.12 and a compiler."""
    minor = ".".join(partition.python.version.split(".")[:2]) or "3.12"
    return Target(
        site=site,
        partition=name,
        arch="x86_64",
        libc="",
        gpu=partition.gpu.vendor,
        python=Python(
            path="python3",
            version=f"{minor}.0",
            soabi=f"cpython-{minor.replace('.', '')}-x86_64-linux-gnu",
            headers=True,
        ),
        mpi=_mpi(partition),
        compiler=Compiler(path="cc", version="cc", cxx="c++"),
        gpu_arch=partition.gpu.arch,
        toolkit=partition.gpu.toolkit,
        modules=_modules(partition),
    )


def _modules(partition: Partition) -> Loaded | None:
    """What loading the modules does, as far as the file tells: variables have values, which only the machine knows."""
    if not partition.modules:
        return None
    promised = Effect(set={str(name): f"/{name}" for name in partition.promises})
    return Loaded(system="", asked=partition.modules, names=partition.modules, files=(), effect=promised)


def facts(site: str, name: str, partition: Partition) -> dict[str, str]:
    """What the conditions of a recipe (`infeasible`) are held against."""
    return {
        "site": site,
        "partition": name,
        "arch": "x86_64",
        "mpi": "mpich",
        "provider": _mpi(partition).provider,
        "gpu": partition.gpu.vendor,
    }


def _mpi(partition: Partition) -> Mpi:
    if partition.mpi.provider == "system":
        return Mpi(provider="system", name=partition.mpi.name, mpicc="cc", mpicxx="CC", soname=partition.mpi.soname)
    return Mpi(provider="wheel", name="mpich", package="mpich")
