"""The network of `exact` in PyTorch."""

import torch
from torch import nn

from . import exact


class Network(nn.Module):  # type: ignore[misc]
    """conv, ReLU, dense; the hidden values are ordered as in the neutral layout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(exact.CHANNELS, exact.FILTERS, exact.KERNEL)
        self.dense = nn.Linear(exact.HIDDEN, exact.OUTPUTS)
        start = exact.weights()
        kernel = torch.tensor(start["conv.weight"]).reshape(exact.FILTERS, exact.KERNEL, exact.KERNEL, exact.CHANNELS)
        with torch.no_grad():
            self.conv.weight.copy_(kernel.permute(0, 3, 1, 2))
            self.conv.bias.copy_(torch.tensor(start["conv.bias"]))
            self.dense.weight.copy_(torch.tensor(start["dense.weight"]).reshape(exact.OUTPUTS, exact.HIDDEN))
            self.dense.bias.copy_(torch.tensor(start["dense.bias"]))

    def forward(self, images):
        """Outputs of a batch of images [sample][channel][row][column]."""
        hidden = torch.relu(self.conv(images))
        return self.dense(hidden.permute(0, 2, 3, 1).flatten(1))


class Trainer:
    """Plain SGD on one batch; `wrap` may put the network into something else (data parallelism)."""

    def __init__(self, first, count, wrap=None):
        images, targets = exact.batch(first, count)
        shape = (count, exact.SIZE, exact.SIZE, exact.CHANNELS)
        self.images = torch.tensor(images).reshape(shape).permute(0, 3, 1, 2).contiguous()
        self.targets = torch.tensor(targets)
        self.network = Network()
        self.called = self.network if wrap is None else wrap(self.network)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=exact.RATE)

    def rate(self):
        """The learning rate that the optimizer really has."""
        return float(self.optimizer.param_groups[0]["lr"])

    def gradient(self, announce):
        """Forward and backward (which reduces too, where a wrapper does that); the loss before the step."""
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.called(self.images), self.targets)
        announce("backward")
        loss.backward()
        return float(loss.detach())

    def update(self):
        """Apply the gradients."""
        self.optimizer.step()

    def gradients(self):
        """The present gradients, neutral."""
        return self._neutral(lambda tensor: tensor.grad)

    def parameters(self):
        """The present parameters, neutral."""
        return self._neutral(lambda tensor: tensor)

    def set_parameters(self, flat):
        """Put neutral parameters (values of float32) into the network."""
        kernel = torch.tensor(flat["conv.weight"]).reshape(exact.FILTERS, exact.KERNEL, exact.KERNEL, exact.CHANNELS)
        with torch.no_grad():
            self.network.conv.weight.copy_(kernel.permute(0, 3, 1, 2))
            self.network.conv.bias.copy_(torch.tensor(flat["conv.bias"]))
            self.network.dense.weight.copy_(torch.tensor(flat["dense.weight"]).reshape(exact.OUTPUTS, exact.HIDDEN))
            self.network.dense.bias.copy_(torch.tensor(flat["dense.bias"]))

    def _neutral(self, pick):
        conv, dense = self.network.conv, self.network.dense
        tensors = {
            "conv.weight": pick(conv.weight).detach().permute(0, 2, 3, 1),
            "conv.bias": pick(conv.bias).detach(),
            "dense.weight": pick(dense.weight).detach(),
            "dense.bias": pick(dense.bias).detach(),
        }
        return {name: tensor.reshape(-1).tolist() for name, tensor in tensors.items()}


def capabilities():
    """What this build of PyTorch can do and what is switched on, each asked on its own."""
    distributed = torch.distributed.is_available()
    ask = torch.distributed if distributed else None
    return {
        "version": torch.__version__,
        "git_version": torch.version.git_version,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "mkldnn_available": bool(torch.backends.mkldnn.is_available()),
        "mkldnn_enabled": bool(_called(torch._C, "_get_mkldnn_enabled", True)),  # noqa: SLF001 - no public way in 1.x
        "distributed": bool(distributed),
        "gloo": bool(_called(ask, "is_gloo_available", hasattr(ask, "ProcessGroupGloo"))),
        "mpi": bool(_called(ask, "is_mpi_available", False)),
        "nccl": bool(_called(ask, "is_nccl_available", False)),
        "ucc": bool(_called(ask, "is_ucc_available", False)),
        "threads": torch.get_num_threads(),
        "build": torch.__config__.show(),
    }


def _called(owner, name, otherwise):
    return getattr(owner, name)() if hasattr(owner, name) else otherwise
