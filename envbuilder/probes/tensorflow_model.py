"""The network of `exact` in TensorFlow, from its plain operations (importing Keras would double the time)."""

from typing import Any

import numpy  # noqa: ICN001 - whole names in the probes
import tensorflow  # noqa: ICN001

from . import exact

KERNEL_SHAPE = (exact.FILTERS, exact.KERNEL, exact.KERNEL, exact.CHANNELS)


class Trainer:
    """Plain SGD on one batch; the gradient and its application are two functions, for reductions in between.

    `wrap` may put something between the tape and the gradients that are taken from it.
    """

    def __init__(self, first, count, wrap=None):
        images, targets = exact.batch(first, count)
        shape = (count, exact.SIZE, exact.SIZE, exact.CHANNELS)
        self.images = tensorflow.constant(numpy.array(images, "float32").reshape(shape))
        self.targets = tensorflow.constant(numpy.array(targets, "float32"))
        self.variables = [tensorflow.Variable(array) for array in _arrays(exact.weights())]
        self.optimizer = tensorflow.compat.v1.train.GradientDescentOptimizer(exact.RATE)
        self.present: list[Any] = []
        self.wrap = wrap
        self._compute = tensorflow.function(self._gradient)
        self._apply = tensorflow.function(self._update)

    def _gradient(self):
        kernel, bias, weights, offset = self.variables
        with tensorflow.GradientTape() as tape:
            seen = tensorflow.nn.conv2d(self.images, kernel, strides=1, padding="VALID")
            hidden = tensorflow.reshape(tensorflow.nn.relu(tensorflow.nn.bias_add(seen, bias)), (-1, exact.HIDDEN))
            result = tensorflow.matmul(hidden, weights) + offset
            loss = tensorflow.reduce_mean(tensorflow.math.squared_difference(result, self.targets))
        if self.wrap is not None:
            tape = self.wrap(tape)
        return loss, tape.gradient(loss, self.variables)

    def _update(self, gradients):
        self.optimizer.apply_gradients(list(zip(gradients, self.variables)))

    def rate(self):
        """The learning rate that the optimizer really has."""
        return float(self.optimizer._learning_rate)  # noqa: SLF001 - it has no public name

    def gradient(self, _announce):
        """Forward and backward; the loss before the step."""
        loss, gradients = self._compute()
        self.present = [gradient.numpy() for gradient in gradients]
        return float(loss)

    def update(self):
        """Apply the present gradients."""
        self._apply([tensorflow.constant(array) for array in self.present])

    def flat(self):
        """The present gradients in one float32 vector, for a reduction."""
        return numpy.concatenate([array.ravel() for array in self.present])

    def set_flat(self, vector):
        """Replace the present gradients by those in a vector made as by `flat`."""
        replaced, start = [], 0
        for array in self.present:
            replaced.append(vector[start : start + array.size].reshape(array.shape))
            start += array.size
        self.present = replaced

    def gradients(self):
        """The present gradients, neutral."""
        return _neutral(self.present)

    def parameters(self):
        """The present parameters, neutral."""
        return _neutral([variable.numpy() for variable in self.variables])

    def set_parameters(self, flat):
        """Put neutral parameters (values of float32) into the network."""
        for variable, array in zip(self.variables, _arrays(flat)):
            variable.assign(array)


def _arrays(flat):
    """Neutral parameters as TensorFlow's arrays: kernel [ky][kx][channel][filter], weights [hidden][output]."""
    arrays = [numpy.array(flat[name], "float32") for name in exact.TENSORS]
    return [
        arrays[0].reshape(KERNEL_SHAPE).transpose(1, 2, 3, 0),
        arrays[1],
        arrays[2].reshape(exact.OUTPUTS, exact.HIDDEN).T,
        arrays[3],
    ]


def _neutral(arrays):
    arrays = [arrays[0].transpose(3, 0, 1, 2), arrays[1], arrays[2].T, arrays[3]]
    return {name: array.ravel().tolist() for name, array in zip(exact.TENSORS, arrays)}


def capabilities():
    """What this build of TensorFlow says of itself; a flag is a note, never evidence of what was executed."""
    facts = {"version": tensorflow.__version__}
    for name, ask in (("build", _build), ("onednn_flag", _onednn_flag)):
        try:
            facts[name] = ask()
        except Exception as error:
            facts[name] = "not told: {}".format(error)
    return facts


def _build():
    told = dict(tensorflow.sysconfig.get_build_info())
    return {str(key): str(value) for key, value in told.items()}


def _onednn_flag():
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())
