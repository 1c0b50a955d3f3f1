"""Horovod in PyTorch, for `horovod.measure`: gradients averaged by its optimizer."""

import horovod.torch
import torch

from .torch_model import Trainer

NAME = "torch"
hvd = horovod.torch
tensor = torch.tensor


def values(tensor):
    """The numbers of a tensor."""
    return tensor.tolist()


class Averaging(Trainer):
    """The network on one batch; the optimizer starts to average a gradient as soon as backward has it."""

    def __init__(self, first, count):
        super().__init__(first, count)
        self.optimizer = hvd.DistributedOptimizer(self.optimizer, named_parameters=self.network.named_parameters())

    def gradient(self, announce):
        """Forward and backward, until the averages are there."""
        loss = super().gradient(announce)
        announce("synchronize")
        self.optimizer.synchronize()
        return loss

    def update(self):
        """Apply the averages, once."""
        with self.optimizer.skip_synchronize():
            self.optimizer.step()
