"""Training steps, and how their gradients compare with the right ones."""

import hashlib
import os
import struct

from . import exact

# Modes in which oneDNN may round the operands of float32 products to a shorter type (its sums stay float32).
OPERAND_MODES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE")
OPERAND_UNITS = {"BF16": 2.0**-8, "ANY": 2.0**-8, "F16": 2.0**-11, "TF32": 2.0**-11}


def operand_unit():
    """The unit roundoff of the type that operands may be rounded to, from the variables that oneDNN reads; else 0."""
    return max(OPERAND_UNITS.get(os.environ.get(name, "").upper(), 0.0) for name in OPERAND_MODES)


def digest(tensors):
    """sha256 over the float32 bytes of all tensors."""
    whole = hashlib.sha256()
    for name in exact.TENSORS:
        whole.update(struct.pack("<{}f".format(len(tensors[name])), *tensors[name]))
    return whole.hexdigest()


class Course:
    """What a course of training saw: losses, the gradients of the first and of the last step, the parameters."""

    def __init__(self, trainer, steps, announce, reduce=None):
        self.losses = []
        self.rate = trainer.rate()
        self.start = trainer.parameters()
        for step in range(steps):

            def tell(doing, step=step):
                announce("step {}: {}".format(step + 1, doing))

            tell("forward")
            self.losses.append(trainer.gradient(tell))
            if reduce is not None:
                tell("reduce")
                reduce()
            if step == 0:
                self.first = trainer.gradients()
            if step == steps - 1:
                self.before_last = trainer.parameters()
                self.last = trainer.gradients()
            trainer.update()
        self.end = trainer.parameters()

    def facts(self):
        """Losses, norms and digests, and whether the parameters are finite and moved."""
        moved = {
            name: exact.largest(abs(new - old) for new, old in zip(self.end[name], self.start[name]))
            for name in exact.TENSORS
        }
        return {
            "losses": self.losses,
            "rate": self.rate,
            "gradient_norms": {name: exact.inner(flat, flat) ** 0.5 for name, flat in self.first.items()},
            "finite": {name: all(abs(value) < float("inf") for value in flat) for name, flat in self.end.items()},
            "moved": moved,
            "gradient_digest": digest(self.first),
            "last_gradient_digest": digest(self.last),
            "parameter_digest": digest(self.end),
        }


def scale(ours, right):
    """The factor by which the right gradients come nearest to ours: 1 where ours are right, N for a sum over N ranks."""
    products = sum(exact.inner(ours[name], right[name]) for name in exact.TENSORS)
    squares = sum(exact.inner(right[name], right[name]) for name in exact.TENSORS)
    return products / squares if squares else float("nan")


def judged_step(parameters, samples, ours, reference=None):
    """One step's gradients against the right ones, computed in float64 for the same parameters and batch.

    With `reference`, the gradients of another computation, also against these. `comparable` is False where an
    activation is too near to zero to say on which side rounding puts it; then no bound holds.
    """
    images, targets = exact.batch(0, samples)
    truth = exact.Pass(images, targets, parameters)
    size = exact.magnitudes(images, targets, parameters, truth.masks)
    allowed = exact.relative(samples, operand_unit())
    facts = {
        "comparable": exact.comparable(truth, size, operand_unit()),
        "samples": samples,
        "roundings": exact.roundings(samples),
        "operand_unit": operand_unit(),
        "allowed": allowed,
        "truth": exact.compared(ours, truth.gradients, size, allowed),
    }
    if parameters == exact.weights():
        facts["exact"] = exact.exact_in_24_bits(truth, size, samples)
    facts["scale"] = scale(ours, truth.gradients)
    if reference is not None:
        facts["reference"] = exact.compared(ours, reference, size, allowed)
        facts["reference_truth"] = exact.compared(reference, truth.gradients, size, allowed)
    return facts


def compared(course, whole, samples):
    """The first and the last step of a course beside one process with the whole batch and the same parameters."""
    facts = {}
    for name, parameters, ours in (
        ("first", course.start, course.first),
        ("last", course.before_last, course.last),
    ):
        whole.set_parameters(parameters)
        whole.gradient(lambda _: None)
        facts[name] = judged_step(parameters, samples, ours, whole.gradients())
    return facts
