"""Odd, and fine: what must raise no alarm."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from breaking import Copy
from launching import scratch_copy

from envbuilder.process import Command, checked
from zoo.base import RANKS, SINGLE, Case, Healthy, Look, Scene
from zoo.libraries import mpi_behind_a_link
from zoo.making import compiled

WHOLE = Look(options=())


def _set(**variables: str) -> Callable[[Scene], Case]:
    return lambda scene: Case(
        variables={name: value.replace("@", str(scene.folder)) for name, value in variables.items()}
    )


def _copy(scene: Scene) -> Case:
    return Case(copy=scene.copy())


def _bytecode(scene: Scene) -> Case:
    copy = scene.copy()
    checked(Command(argv=(str(copy.prefix / "bin" / "python"), "-m", "compileall", "-q", str(copy.site_packages))))
    return Case(copy=copy)


def _reached_by_a_link(scene: Scene) -> Case:
    copy, link = scene.copy(), scene.folder / "link"
    link.symlink_to(copy.home)
    return Case(copy=Copy(home=link, prefix=link / "envs" / copy.identifier, identifier=copy.identifier))


def _unrelated_pythonpath(scene: Scene) -> Case:
    package = scene.folder / "mine" / "my_analysis"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return Case(variables={"PYTHONPATH": str(package.parent)})


def _unrelated_library_path(scene: Scene) -> Case:
    library = compiled("int nothing;\n", scene.folder / "mine" / "libmine.so.1")
    return Case(variables={"LD_LIBRARY_PATH": f"{library.parent}:"})


def _own_library_path(scene: Scene) -> Case:
    return Case(variables={"LD_LIBRARY_PATH": str(scene.prefix / "lib")})


def _same_cpp_library(scene: Scene) -> Case:
    """What the module of the compiler does with which the machine's own libraries were made."""
    found = checked(Command(argv=("cc", "-print-file-name=libstdc++.so.6"))).strip()
    folder = scene.folder / "gcc" / "lib64"
    folder.mkdir(parents=True)
    shutil.copy(found, folder / "libstdc++.so.6")
    return Case(variables={"LD_LIBRARY_PATH": str(folder)})


def _user_site(scene: Scene) -> Case:
    """A broken mpi4py in HOME, which an activated environment does not look at."""
    base = scene.folder / "local"
    (found,) = scene.prefix.glob("lib/python*/site-packages")
    package = base / "lib" / found.parent.name / "site-packages" / "mpi4py"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('of HOME')\n")
    return Case(variables={"PYTHONUSERBASE": str(base)})


def _behind_a_link(scene: Scene) -> Case:
    return Case(copy=mpi_behind_a_link(scene))


def _hard_links(scene: Scene) -> Case:
    """Every file has a second name elsewhere, as files from a shared cache have."""
    copy = scene.copy()
    scratch_copy(copy.prefix, scene.folder / "second")
    return Case(copy=copy)


def _renamed_launcher(scene: Scene) -> Case:
    """A program of another MPI comes first on PATH; the environment's own launcher is used all the same."""
    folder = scene.folder / "bin"
    folder.mkdir()
    shutil.copy("/bin/false", folder / "mpiexec")
    return Case(variables={"PATH": f"{folder}:/usr/bin:/bin"})


ENTRIES: tuple[Healthy, ...] = (
    Healthy(name="untouched-copy", odd="A copy of the whole environment at another path.", start="mpi4py_env", make=_copy),
    Healthy(name="bytecode-written", odd="Python wrote bytecode beside its modules.", start="mpi4py_env", make=_bytecode),
    Healthy(name="reached-by-a-link", odd="The store is reached by a symbolic link.", start="mpi4py_env", make=_reached_by_a_link),
    Healthy(name="hard-links", odd="The files have second names elsewhere.", start="mpi4py_env", make=_hard_links),
    Healthy(name="mpi-behind-a-link", odd="The MPI lies outside and is found by the link `default`, which has not moved.", start="mpi4py_env", make=_behind_a_link),
    Healthy(name="unrelated-library-path", odd="LD_LIBRARY_PATH has an unrelated folder and ends with a colon.", start="mpi4py_env", make=_unrelated_library_path),
    Healthy(name="empty-library-path", odd="LD_LIBRARY_PATH leads to an empty folder.", start="mpi4py_env", make=_set(LD_LIBRARY_PATH="@")),
    Healthy(name="own-library-path", odd="LD_LIBRARY_PATH names the environment's own folder of libraries.", start="mpi4py_env", make=_own_library_path),
    Healthy(name="library-path-of-a-compiler", odd="A module puts a libstdc++ first that has all the symbols that wheels ask for.", start="torch_env", make=_same_cpp_library, look=SINGLE),
    Healthy(name="unrelated-pythonpath", odd="The user's PYTHONPATH has a package of their own.", start="mpi4py_env", make=_unrelated_pythonpath),
    Healthy(name="user-site", odd="HOME has a broken package of the same name, which the activated environment does not see.", start="mpi4py_env", make=_user_site),
    Healthy(name="pythonhome", odd="PYTHONHOME is set by a module; activation takes it away.", start="mpi4py_env", make=_set(PYTHONHOME="/nowhere"), look=Look(options=(), before=("env", "-u", "PYTHONHOME"))),
    Healthy(name="safe-path", odd="PYTHONSAFEPATH and PYTHONDONTWRITEBYTECODE are set.", start="mpi4py_env", make=_set(PYTHONSAFEPATH="1", PYTHONDONTWRITEBYTECODE="1")),
    Healthy(name="c-locale", odd="The C locale, as in jobs that inherit nothing.", start="mpi4py_env", make=_set(LC_ALL="C", LANG="C", TZ="Pacific/Auckland")),
    Healthy(name="no-home", odd="HOME is not there, as on many compute nodes; no cache lies in it.", start="mpi4py_env", make=_set(HOME="/nowhere/home", XDG_CONFIG_HOME="@")),
    Healthy(name="caches-elsewhere", odd="The user keeps caches elsewhere.", start="mpi4py_env", make=_set(ENVBUILDER_CACHE="@/caches")),
    Healthy(name="launcher-of-another-mpi-on-the-path", odd="An mpiexec that is of no use comes first on PATH.", start="mpi4py_env", make=_renamed_launcher),
    Healthy(name="one-rank", odd="One rank only.", start="mpi4py_env", look=Look(options=(), ranks=1)),
    Healthy(name="three-ranks", odd="Three ranks on two cores.", start="mpi4py_env", look=Look(options=(), ranks=3)),
    Healthy(name="slow-machine", odd="A busy machine: lowest priority, one core for everything.", start="mpi4py_env", look=Look(options=(), before=("nice", "-n", "19", "taskset", "-c", "0"))),
    Healthy(name="pytorch", odd="PyTorch, all checks, on two ranks, with one thread each.", start="torch_env", make=_set(OMP_NUM_THREADS="1")),
    Healthy(name="pytorch-three-ranks", odd="A number that is no power of two: the mean rounds, and the bound holds.", start="torch_env", look=Look(by="ranks", ranks=3)),
    Healthy(name="pytorch-own-settings", odd="The user's own settings of threads and reports of oneDNN.", start="torch_env", make=_set(OMP_NUM_THREADS="1", ONEDNN_VERBOSE="0", DNNL_VERBOSE="2", ONEDNN_VERBOSE_TIMESTAMP="1", PYTHONPATH="@"), look=SINGLE),
    Healthy(name="pytorch-bfloat16-operands", odd="oneDNN may round operands to bfloat16: the bound allows for it, and does not on machines that cannot.", start="torch_env", make=_set(ONEDNN_DEFAULT_FPMATH_MODE="BF16"), look=SINGLE),
    Healthy(name="pytorch-tf32", odd="TF32 is allowed everywhere by variables; CPUs do not have it.", start="torch_env", make=_set(NVIDIA_TF32_OVERRIDE="1", TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1", ONEDNN_DEFAULT_FPMATH_MODE="TF32"), look=SINGLE),
    Healthy(name="pytorch-older-instructions", odd="oneDNN is kept to AVX2, as on an older CPU.", start="torch_env", make=_set(ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="default"), look=SINGLE),
    Healthy(name="variables-of-another-launch", odd="RANK and WORLD_SIZE are left in the shell by torchrun; the probe forms its group by MPI.", start="torch_env", make=_set(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1"), look=RANKS),
    Healthy(name="tensorflow", odd="TensorFlow 2.21, one process.", start="tensorflow_env", look=SINGLE),
    Healthy(name="tensorflow-ranks", odd="TensorFlow 2.21 on two ranks.", start="tensorflow_env", look=RANKS),
    Healthy(name="tensorflow-2.13", odd="The older format of oneDNN's reports, and the user has it switched off.", start="tensorflow_2_13_env", make=_set(ONEDNN_VERBOSE="0", TF_CPP_MIN_LOG_LEVEL="3"), look=SINGLE),
    Healthy(name="horovod-in-pytorch", odd="Horovod in PyTorch, all checks, on two ranks.", start="torch_horovod_env", look=WHOLE),
    Healthy(name="horovod-in-pytorch-three-ranks", odd="A number that is no power of two: Horovod's mean rounds twice, and the bound holds.", start="torch_horovod_env", look=Look(by="ranks", ranks=3)),
    Healthy(name="horovod-in-tensorflow", odd="Horovod in TensorFlow, one process.", start="horovod_env", look=SINGLE),
    Healthy(name="horovod-in-tensorflow-three-ranks", odd="The same mean in TensorFlow, on three ranks.", start="horovod_env", look=Look(by="ranks", ranks=3)),
)  # fmt: skip
