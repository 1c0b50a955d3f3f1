"""What one process trains with: builds that lack something, versions that do not go together, arithmetic that lies."""

from __future__ import annotations

from collections.abc import Callable

from breaking import uv
from launching import sitecustomize

from zoo.base import SINGLE, Case, Fault, Names, Scene, Start

TORCH_RATE_ZERO = """
first = module.optim.SGD.__init__
def init(self, parameters, **options):
    first(self, parameters, **{**options, "lr": 0.0})
module.optim.SGD.__init__ = init
"""
TENSORFLOW_RATE_ZERO = """
optimizer = module.compat.v1.train.GradientDescentOptimizer
first = optimizer.__init__
optimizer.__init__ = lambda self, rate, *rest, **options: first(self, 0.0, *rest, **options)
"""
TORCH_NAN = """
first = module.nn.functional.mse_loss
calls = []
def loss(*arguments):
    calls.append(1)
    return first(*arguments) * (float("nan") if len(calls) > 2 else 1.0)
module.nn.functional.mse_loss = loss
"""
TENSORFLOW_NAN = """
first = module.reduce_mean
module.reduce_mean = lambda *arguments: first(*arguments) * float("nan")
"""
HALF_OF_THE_PARAMETERS = """
first = module.optim.SGD.__init__
module.optim.SGD.__init__ = lambda self, parameters, **options: first(self, list(parameters)[2:], **options)
"""
TORCH_GRADIENT = "module.Tensor.backward = (lambda f: lambda self: f(self * 1.01))(module.Tensor.backward)"
TENSORFLOW_GRADIENT = """
first = module.GradientTape.gradient
module.GradientTape.gradient = lambda self, *arguments: [part * 1.01 for part in first(self, *arguments)]
"""
LOW_PRECISION = """
first = module.nn.functional.mse_loss
def loss(given, wanted):
    return first(given.to(module.float16).to(module.float32) * (1 + 2.0**-11), wanted)
module.nn.functional.mse_loss = loss
"""


def _lies(module: str, code: str) -> Callable[[Scene], Case]:
    return lambda scene: Case(variables=sitecustomize(scene.folder / "site", module, code))


def _numpy_too_new(scene: Scene) -> Case:
    prefix = scene.linked()
    uv("pip", "install", "--quiet", "--python", prefix / "bin" / "python", "--no-deps", "numpy==2.1.3")
    return Case(prefix=prefix)


STARTS: dict[str, Start] = {"torch": "torch_env", "tensorflow": "tensorflow_env"}
_NOT_FITTING = "tensorflow-cpu 2.13.0 requires numpy<=1.24.3,>=1.22, and 2.1.3 is installed"

ENTRIES: tuple[Fault, ...] = (
    Fault(
        name="numpy-too-new",
        broken="NumPy 2 was installed under a TensorFlow that was compiled for NumPy 1.",
        start="tensorflow_2_13_env",
        make=_numpy_too_new,
        names=(
            Names(check="import", cause=("tensorflow cannot be imported", _NOT_FITTING), remedy=("recipe's packages",)),
            Names(check="requirements", cause=(_NOT_FITTING,), remedy=("recipe's packages",)),
        ),
        look=SINGLE,
    ),
    Fault(
        name="dies-on-import",
        broken="A library kills the process while it is being imported.",
        start="mpi4py_env",
        make=_lies("mpi4py", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        names=(Names(check="import", cause=("was killed by SIGSEGV in phase 'imports'",), remedy=("by hand",)),),
        look=SINGLE,
        not_run=("versions", "requirements", "caches-writable", "import-cost"),
    ),
    Fault(
        name="pytorch-without-gloo",
        broken="PyTorch answers as a build without gloo does; ranks could not train.",
        start="torch_env",
        make=_lies("torch.distributed", "module.is_gloo_available = lambda: False"),
        names=(Names(check="torch-backends", cause=("has no gloo",), remedy=("a build with gloo",)),),
        look=SINGLE,
        alone=True,
    ),
    *(
        Fault(
            name=f"learning-rate-zero-in-{framework}",
            broken="A scheduler of the learning rate, scaled by a variable that is empty in jobs, gives 0.",
            start=STARTS[framework],
            make=_lies(framework, code),
            names=tuple(
                Names(check=f"{framework}-{check}", cause=("learning rate is 0",), remedy=("learning rate",))
                for check in ("loss-falls", "parameters-moved")
            ),
            look=SINGLE,
            alone=True,
        )
        for framework, code in (
            ("torch", TORCH_RATE_ZERO),
            ("tensorflow", TENSORFLOW_RATE_ZERO),
        )
    ),
    *(
        Fault(
            name=f"nan-in-{framework}",
            broken="A kernel gives NaN on this CPU.",
            start=STARTS[framework],
            make=_lies(framework, code),
            names=(
                Names(
                    check=f"{framework}-loss-falls", cause=(f"the loss is nan in step {step}",), remedy=("overflow",)
                ),
                Names(check=f"{framework}-parameters-finite", cause=("conv.weight",), remedy=("finite",)),
            ),
            look=SINGLE,
            not_run=(f"{framework}-parameters-moved",),
        )
        for framework, code, step in (
            ("torch", TORCH_NAN, 3),
            ("tensorflow", TENSORFLOW_NAN, 1),
        )
    ),
    Fault(
        name="wrong-gradient",
        broken="A broken kernel gives gradients that are off by one per cent; the loss falls all the same.",
        start="torch_env",
        make=_lies("torch", TORCH_GRADIENT),
        names=(
            Names(check="torch-gradients", cause=("differs from the right gradient",), remedy=("changes gradients",)),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="wrong-gradient-in-tensorflow",
        broken="The same in TensorFlow.",
        start="tensorflow_env",
        make=_lies("tensorflow", TENSORFLOW_GRADIENT),
        names=(
            Names(
                check="tensorflow-gradients", cause=("differs from the right gradient",), remedy=("changes gradients",)
            ),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="half-precision-results",
        broken="A patched operation computes in half precision and hands over float32; the loss agrees to three digits.",
        start="torch_env",
        make=_lies("torch", LOW_PRECISION),
        names=(
            Names(check="torch-gradients", cause=("differs from the right gradient",), remedy=("changes gradients",)),
        ),
        look=SINGLE,
        alone=True,
    ),
    Fault(
        name="frozen-layer",
        broken="The optimizer was given a part of the parameters; the loss falls, and one layer never learns.",
        start="torch_env",
        make=_lies("torch", HALF_OF_THE_PARAMETERS),
        names=(Names(check="torch-parameters-moved", cause=("conv.weight", "did not move"), remedy=("update",)),),
        look=SINGLE,
        passing=("torch-loss-falls",),
    ),
)
