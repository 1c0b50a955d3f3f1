"""Horovod in TensorFlow, for `horovod.measure`: gradients averaged by its tape."""

import horovod.tensorflow
import tensorflow  # noqa: ICN001 - whole names in the probes

from .tensorflow_model import Trainer

NAME = "tensorflow"
hvd = horovod.tensorflow
tensor = tensorflow.constant


def values(tensor):
    """The numbers of a tensor."""
    return tensor.numpy().tolist()


class Averaging(Trainer):
    """The network on one batch; what its tape gives is averaged over the ranks."""

    def __init__(self, first, count):
        super().__init__(first, count, hvd.DistributedGradientTape)
