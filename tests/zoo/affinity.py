"""Ranks that share a CPU while others are idle, and more threads than CPUs can carry."""

from __future__ import annotations

import os

import pytest
from launching import sitecustomize

from zoo.base import RANKS, Case, Fault, Healthy, Look, Names, Scene
from zoo.making import compiled, script

ONE_CPU = ("--cpus-per-task", "-bind-to core")
MANY = str(32 * (os.cpu_count() or 1))


def _first_cpu() -> int:
    """A CPU that this process may use, of several."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        pytest.skip("with one CPU there is none that could be idle")
    return mine[0]


def _pinned(scene: Scene) -> Case:
    cpu = _first_cpu()
    starter = script(scene.folder / "start", f'exec taskset -c {cpu} "$@"\n')
    mpiexec = script(scene.folder / "mpiexec", f'shift 2\nexec {scene.prefix}/bin/mpiexec -n 2 {starter} "$@"\n')
    return Case(mpiexec=mpiexec, told={"cpu": str(cpu)})


def _bound_by_the_launcher(scene: Scene) -> Case:
    cpu = _first_cpu()
    bind = f"-bind-to user:{cpu},{cpu}"
    mpiexec = script(scene.folder / "mpiexec", f'shift 2\nexec {scene.prefix}/bin/mpiexec -n 2 {bind} "$@"\n')
    return Case(mpiexec=mpiexec, told={"cpu": str(cpu)})


def _bound_by_openmp(scene: Scene) -> Case:
    """A library that computes with OpenMP is loaded with mpi4py; nothing else of the launch binds."""
    cpu = _first_cpu()
    library = compiled("int nothing;\n", scene.folder / "libcompute.so", "-fopenmp", "-Wl,--no-as-needed", "-lgomp")
    code = f"import ctypes\nctypes.CDLL({str(library)!r})"
    variables = sitecustomize(scene.folder / "site", "mpi4py", code)
    return Case(variables={**variables, "OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "1"}, told={"cpu": str(cpu)})


ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="ranks-pinned-to-one-cpu",
        broken="A wrapper around the program pins every rank to one and the same CPU; the others are idle.",
        start="mpi4py_env",
        make=_pinned,
        names=(
            Names(
                check="cpu-affinity",
                cause=("ranks 0 and 1 on", "all run on CPU {cpu}, while no rank uses CPU"),
                remedy=(*ONE_CPU, "taskset"),
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="launcher-that-binds-to-one-cpu",
        broken="The launcher is told to bind, by a list that names one CPU for both ranks.",
        start="mpi4py_env",
        make=_bound_by_the_launcher,
        names=(
            Names(
                check="cpu-affinity",
                cause=("ranks 0 and 1 on", "all run on CPU {cpu}, while no rank uses CPU"),
                remedy=ONE_CPU,
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="openmp-that-binds-in-each-rank",
        broken="OMP_PROC_BIND is set and the launcher does not bind: OpenMP in each rank starts with the first CPU.",
        start="mpi4py_env",
        make=_bound_by_openmp,
        names=(
            Names(
                check="cpu-affinity",
                cause=("ranks 0 and 1 on", "all run on CPU {cpu}, while no rank uses CPU", "OMP_PROC_BIND=true"),
                remedy=("unset OMP_PROC_BIND",),
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="threads-of-another-machine",
        broken="OMP_NUM_THREADS is that of a node with many more cores, from a job script that was copied.",
        start="mpi4py_env",
        make=lambda _: Case(variables={"OMP_NUM_THREADS": MANY}, told={"many": MANY}),
        names=(
            Names(
                check="cpu-threads",
                cause=("OMP_NUM_THREADS={many} in each of 2 ranks", "threads for CPUs"),
                remedy=("set OMP_NUM_THREADS=", "$SLURM_CPUS_PER_TASK"),
            ),
        ),
        alone=True,
    ),
    Fault(
        name="tensorflow-with-too-many-threads",
        broken="TF_NUM_INTRAOP_THREADS is that of a node with many more cores; OMP_NUM_THREADS is right, and not read.",
        start="tensorflow_env",
        make=lambda _: Case(variables={"TF_NUM_INTRAOP_THREADS": MANY, "OMP_NUM_THREADS": "1"}, told={"many": MANY}),
        names=(
            Names(
                check="cpu-threads",
                cause=("TF_NUM_INTRAOP_THREADS={many} in each of 2 ranks",),
                remedy=("set TF_NUM_INTRAOP_THREADS=",),
            ),
        ),
        look=RANKS,
        alone=True,
        slow=True,
    ),
    Fault(
        name="pytorch-told-to-use-too-many-threads",
        broken="The program calls torch.set_num_threads with a number from another machine.",
        start="torch_env",
        make=lambda scene: Case(
            variables=sitecustomize(scene.folder / "site", "torch", f"module.set_num_threads({MANY})"),
            told={"many": MANY},
        ),
        names=(
            Names(
                check="cpu-threads",
                cause=("a call for {many} threads of torch in each of 2 ranks",),
                remedy=("ask for",),
            ),
        ),
        look=Look(by="ranks", timeout=300),
        alone=True,
        slow=True,
    ),
)


def _each_its_own(scene: Scene) -> Case:
    """Hydra binds each rank to a core; OpenMP may bind inside of that as it likes."""
    mpiexec = script(scene.folder / "mpiexec", f'shift 2\nexec {scene.prefix}/bin/mpiexec -n 2 -bind-to core "$@"\n')
    case = _bound_by_openmp(scene)
    return Case(mpiexec=mpiexec, variables=case.variables)


HEALTHY: tuple[Healthy, ...] = (
    Healthy(name="four-ranks", odd="Four ranks on two cores.", start="mpi4py_env", look=Look(options=(), ranks=4)),
    Healthy(name="two-threads-a-cpu", odd="Each of two ranks is told to use all CPUs of the machine.", start="mpi4py_env", make=lambda _: Case(variables={"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))})),
    Healthy(name="ranks-bound-to-cores", odd="The launcher binds each rank to a core, and OpenMP binds inside of that.", start="mpi4py_env", make=_each_its_own, look=RANKS),
    Healthy(name="tensorflow-four-ranks", odd="Four ranks of TensorFlow, each of which takes all CPUs.", start="tensorflow_env", look=Look(by="ranks", ranks=4, timeout=600), slow=True),
)  # fmt: skip
