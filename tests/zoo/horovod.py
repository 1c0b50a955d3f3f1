"""Horovod: compiled for something else, started so that each rank is alone, or reducing what it should not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from breaking import built, uv
from launching import sitecustomize

from envbuilder import places
from zoo.base import RANKS, SINGLE, Case, Fault, Look, Names, Scene, Words

GRADIENTS, MPI, BUILT = "horovod-gradients", "horovod-mpi", "horovod-built"

# the build that a machine gives on which MPI is not found; gloo's own files are for an older CMake
GLOO = {
    "HOROVOD_WITH_MPI": "",
    "HOROVOD_WITHOUT_MPI": "1",
    "HOROVOD_WITHOUT_GLOO": "",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_CPU_OPERATIONS": "GLOO",
    "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
}
TAPE = "tape = module.DistributedGradientTape\nmodule.DistributedGradientTape = lambda given: {instead}"
SUMMED = """
optimizer = module.DistributedOptimizer
module.DistributedOptimizer = lambda given, **options: optimizer(given, op=module.Sum, **options)
"""
NO_HOOKS = "module._DistributedOptimizer._register_hooks = lambda self: None"
LYING = """
first = module.allreduce
def lying(tensor, *arguments, **options):
    return first(tensor, *arguments, **options) * (1 + (module.rank() == 1))
module.allreduce = lying
"""


def _lies(module: str, code: str) -> Callable[[Scene], Case]:
    return lambda scene: Case(variables=sitecustomize(scene.folder / "site", module, code))


def _package(prefix: Path) -> Path:
    (found,) = prefix.glob("lib/python*/site-packages/horovod")
    return found


def _of(recipe: str) -> Callable[[Scene], Case]:
    """The Horovod of another recipe, same version, as a cache of wheels by name and version hands it over."""

    def make(scene: Scene) -> Case:
        other, prefix = built(recipe, scene.home), scene.linked()
        shutil.rmtree(_package(prefix))
        shutil.copytree(_package(other), prefix / _package(other).relative_to(other))
        return Case(prefix=prefix)

    return make


def _with_gloo_only(scene: Scene) -> Case:
    """Compiled once: the shipped recipe with other variables, in the store of the tests."""
    name, base = "horovod-gloo", "tensorflow-horovod"
    source = yaml.safe_load((places.data_root() / f"recipes/{base}/recipe.yaml").read_text())["sources"]["horovod"]
    source["env"] = {key: value for key, value in {**source["env"], **GLOO}.items() if value}
    recipe = {"schema": 1, "name": name, "summary": name, "extends": base, "sources": {"horovod": source}}
    (scene.folder / name).mkdir()
    (scene.folder / name / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return Case(prefix=built(name, scene.home, ENVBUILDER_RECIPE_PATH=str(scene.folder)))


def _another_tensorflow(scene: Scene) -> Case:
    prefix = scene.linked()
    uv("pip", "install", "--quiet", "--python", prefix / "bin" / "python", "tensorflow-cpu==2.13.1")
    return Case(prefix=prefix)


def _reduction(name: str, broken: str, module: str, code: str, words: Words) -> Fault:
    framework = module.split(".")[1]
    return Fault(
        name=name,
        broken=broken,
        start="torch_horovod_env" if framework == "torch" else "horovod_env",
        make=_lies(module, code),
        names=(
            Names(check=GRADIENTS, cause=words, remedy=(("what differs between the ranks", "a patched operation"),)),
        ),
        look=RANKS,
        passing=(MPI, f"{framework}-gradients-equal", f"{framework}-gradients-reference"),
    )


ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="horovod-with-gloo-only",
        broken="Horovod's build did not find MPI and took gloo. The ranks of mpiexec are n worlds of one, and all of them train.",
        start="horovod_env",
        make=_with_gloo_only,
        names=(
            Names(
                check=MPI,
                cause=("rank 0: Horovod was built without MPI: gloo is what it has; it trains as if it were alone",),
                remedy=("HOROVOD_WITH_MPI=1",),
            ),
            Names(check=GRADIENTS, cause=("TensorFlow: ", "the two ranks differ"), remedy=("between the ranks",)),
        ),
        look=RANKS,
        alone=True,
        slow=True,
    ),
    Fault(
        name="horovod-without-pytorch",
        broken="pip's cache had a wheel of Horovod, compiled for TensorFlow. `import horovod.torch` works and says a line.",
        start="torch_horovod_env",
        make=_of("tensorflow-horovod"),
        names=(
            Names(
                check=BUILT,
                cause=("Horovod was built without PyTorch: there is no horovod/torch/mpi_lib*.so",),
                remedy=("HOROVOD_WITH_PYTORCH=1",),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="horovod-without-tensorflow",
        broken="The same the other way round, seen by the ranks: none of them goes on with Horovod.",
        start="horovod_env",
        make=_of("pytorch-horovod"),
        names=(
            Names(
                check=MPI,
                cause=("rank 0: Horovod was built without TensorFlow",),
                remedy=("HOROVOD_WITH_TENSORFLOW=1",),
            ),
        ),
        look=RANKS,
        alone=True,
        not_run=(GRADIENTS,),
    ),
    Fault(
        name="horovod-for-another-tensorflow",
        broken="TensorFlow was upgraded below Horovod. It loads, with a warning, and even computes.",
        start="horovod_env",
        make=_another_tensorflow,
        names=(
            Names(
                check=BUILT,
                cause=("Horovod was built for TensorFlow 2.13.0, and 2.13.1 is installed",),
                remedy=("build Horovod anew for TensorFlow 2.13.1",),
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="horovod-each-rank-alone",
        broken="The ranks are started without MPI's launcher: each has a Horovod of its own, over MPI, which works.",
        start="torch_horovod_env",
        make=lambda _: Case(),
        names=(
            Names(
                check=MPI,
                cause=("Horovod says rank 0 of 1, MPI says rank 0 of 1, and 2 ranks asked for", "trains as if"),
                remedy=("the launcher of the MPI that Horovod is built with",),
            ),
        ),
        look=Look(by="ranks", apart=True),
    ),
    Fault(
        name="horovod-allreduce-that-is-wrong",
        broken="A patched all-reduce gives one rank twice the sum.",
        start="horovod_env",
        make=_lies("horovod.tensorflow", LYING),
        names=(
            Names(
                check=MPI,
                cause=("rank 1: Horovod's allreduce of 256 float32 is wrong in 256 elements; element 0 is 0.75",),
                remedy=("compare with mpi-allreduce",),
            ),
        ),
        look=RANKS,
        passing=("mpi-allreduce",),
    ),
    _reduction(
        "horovod-sums-and-does-not-average",
        "DistributedOptimizer is made with op=Sum, for a learning rate that was scaled elsewhere.",
        "horovod.torch",
        SUMMED,
        ("PyTorch: ", "2 times the right one: summed over the ranks and not averaged"),
    ),
    _reduction(
        "horovod-averages-nothing",
        "DistributedOptimizer has no hooks: each rank keeps its own gradients.",
        "horovod.torch.optimizer",
        NO_HOOKS,
        ("PyTorch: ", "the two ranks differ"),
    ),
    _reduction(
        "horovod-averages-nothing-in-tensorflow",
        "The tape was not wrapped: each rank keeps its own gradients.",
        "horovod.tensorflow",
        TAPE.format(instead="given"),
        ("TensorFlow: ", "the two ranks differ"),
    ),
    _reduction(
        "horovod-adasum-for-average",
        "The tape combines gradients by Adasum, which is equal on all ranks and no average.",
        "horovod.tensorflow",
        TAPE.format(instead="tape(given, op=module.Adasum)"),
        ("TensorFlow: ", "differs from"),
    ),
)  # fmt: skip
