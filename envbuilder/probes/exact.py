"""A small network whose first training step float32 computes exactly, in plain Python.

conv 3x3 (no padding) + bias, ReLU, dense + bias, mean squared error. The data and the first weights are small integers
times powers of two, so that every sum of the forward and the backward pass stays within 24 bits: any order of
summation gives the same result, bit by bit, and the right one. docs/bounds.md derives this and the error bound of the
later steps.

Everything here is plain lists of floats (float64), in one neutral layout that each framework converts to its own:

- images: [sample][row][column][channel], as flat lists of SIZE*SIZE*CHANNELS;
- `conv.weight`: [filter][ky][kx][channel], flat; `conv.bias`: [filter];
- `dense.weight`: [output][position][filter], flat; `dense.bias`: [output].
"""

from operator import mul

SIZE, CHANNELS, KERNEL, FILTERS, OUTPUTS = 6, 4, 3, 8, 4
SIDE = SIZE - KERNEL + 1
POSITIONS = SIDE * SIDE
PATCH = KERNEL * KERNEL * CHANNELS
HIDDEN = POSITIONS * FILTERS
SHARD = 4  # samples per rank: a power of two, as OUTPUTS is, so that the mean is exact
RATE = 1.0 / 512

CONV_UNIT = 1.0 / 8  # every activation is a multiple of it
DENSE_UNIT = 1.0 / 16
TARGET_UNIT = 1.0 / 2

TENSORS = ("conv.weight", "conv.bias", "dense.weight", "dense.bias")
LENGTHS = {
    "conv.weight": FILTERS * PATCH,
    "conv.bias": FILTERS,
    "dense.weight": OUTPUTS * HIDDEN,
    "dense.bias": OUTPUTS,
}
FLOAT32_UNIT = 2.0**-24
OPERANDS = 10  # at most so many operands of products lie on the path of one term


def integers(seed, count, low, high):
    """`count` integers from `low` to `high`, the same on every machine and in every version of Python."""
    state = (seed * 2654435761 + 97) % 2**32
    numbers = []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        numbers.append(low + (state >> 16) % (high - low + 1))
    return numbers


def image(sample):
    """The flat image of one sample: 0 or 1."""
    return [float(number) for number in integers(1000 + sample, SIZE * SIZE * CHANNELS, 0, 1)]


def target(sample):
    """The target of one sample: multiples of 1/2 from 8 to 10, above what the first weights give.

    The residuals have one sign so, as the images and most weights have: little cancels, and the bound is sharp.
    """
    return [number * TARGET_UNIT for number in integers(5000 + sample, OUTPUTS, 16, 20)]


def batch(first, count):
    """Images and targets of `count` samples from number `first`."""
    samples = range(first, first + count)
    return [image(sample) for sample in samples], [target(sample) for sample in samples]


def weights():
    """The first weights. A bias of the convolution is an odd multiple of the unit and its weights are even ones.

    No activation can so be zero, where the slope of ReLU jumps; the nearest ones are one unit away.
    """
    return {
        "conv.weight": [2 * CONV_UNIT * number for number in integers(1, LENGTHS["conv.weight"], -1, 1)],
        "conv.bias": [CONV_UNIT * (2 * number + 1) for number in integers(2, FILTERS, -1, 0)],
        "dense.weight": [DENSE_UNIT * number for number in integers(3, LENGTHS["dense.weight"], 0, 1)],
        "dense.bias": [DENSE_UNIT * number for number in integers(4, OUTPUTS, -1, 1)],
    }


def patches(flat):
    """The patches of an image that the filters see, one per position."""
    row = SIZE * CHANNELS
    return [
        [value for ky in range(KERNEL) for value in flat[(y + ky) * row + x * CHANNELS :][: KERNEL * CHANNELS]]
        for y in range(SIDE)
        for x in range(SIDE)
    ]


def rows(flat, length):
    """A flat list cut into rows."""
    return [flat[start : start + length] for start in range(0, len(flat), length)]


def inner(left, right):
    """The inner product of two lists."""
    return sum(map(mul, left, right))


class Pass:
    """One forward and backward pass over a batch, in float64.

    `gradients` maps each tensor to its flat gradient of the mean squared error. With `masks` (of another pass) and
    absolute values for all inputs this is the network of magnitudes: see `magnitudes`.
    """

    def __init__(self, images, targets, parameters, masks=None):
        self.filters = rows(parameters["conv.weight"], PATCH)
        self.outputs = rows(parameters["dense.weight"], HIDDEN)
        self.parameters = parameters
        self.scale = 2.0 / (len(images) * OUTPUTS)
        self.given = masks
        self.masks = []
        self.activations = []  # before ReLU, of every sample
        self.residuals = []
        self.loss = 0.0
        self.gradients = {name: [0.0] * LENGTHS[name] for name in TENSORS}
        for number, (flat, wanted) in enumerate(zip(images, targets)):
            self._sample(number, patches(flat), wanted)
        self.loss /= len(images) * OUTPUTS

    def _sample(self, number, seen, wanted):
        before = [
            inner(patch, row) + bias for patch in seen for row, bias in zip(self.filters, self.parameters["conv.bias"])
        ]
        mask = [value > 0 for value in before] if self.given is None else self.given[number]
        hidden = [value if on else 0.0 for value, on in zip(before, mask)]
        result = [inner(hidden, row) + bias for row, bias in zip(self.outputs, self.parameters["dense.bias"])]
        residual = [value - right for value, right in zip(result, wanted)]
        self.masks.append(mask)
        self.activations.append(before)
        self.residuals.append(residual)
        self.loss += inner(residual, residual)
        self._backward(seen, mask, hidden, [self.scale * value for value in residual])

    def _backward(self, seen, mask, hidden, slope):
        grown = self.gradients
        for output, value in enumerate(slope):
            grown["dense.bias"][output] += value
            start = output * HIDDEN
            for index, active in enumerate(hidden):
                if active:
                    grown["dense.weight"][start + index] += value * active
        columns = list(zip(*self.outputs))
        for index, on in enumerate(mask):
            if on:
                value = inner(slope, columns[index])
                self._to_filter(index % FILTERS, seen[index // FILTERS], value)

    def _to_filter(self, number, patch, value):
        self.gradients["conv.bias"][number] += value
        grown = self.gradients["conv.weight"]
        for index, given in enumerate(patch, number * PATCH):
            if given:
                grown[index] += value * given


def magnitudes(images, targets, parameters, masks):
    """The same network with absolute values everywhere: its gradients are the sums of the absolute terms.

    The absolute residual is |y| + |t|, so the targets enter as -|t|.
    """
    return Pass(
        [[abs(value) for value in flat] for flat in images],
        [[-abs(value) for value in wanted] for wanted in targets],
        {name: [abs(value) for value in flat] for name, flat in parameters.items()},
        masks,
    )


def roundings(samples):
    """N of the bound: how many roundings at most lie on the path of one term of a gradient; see docs/bounds.md."""
    forward = PATCH + 1
    dense = HIDDEN + 1
    return 2 * forward + dense + OUTPUTS + samples * POSITIONS + 8


def relative(samples, operand_unit=0.0):
    """The relative error gamma that the bound allows each of two gradients, as a part of M.

    `operand_unit` is the unit roundoff of a shorter type that the operands of products are rounded to while sums stay
    in float32 (bfloat16: 2**-8); 0 where they are not.
    """
    return relative_error(roundings(samples), OPERANDS, operand_unit)


def relative_error(sums, operands, operand_unit):
    """Higham's gamma for `sums` roundings in float32 and `operands` roundings to the type of `operand_unit`."""
    return 1 / ((1 - sums * FLOAT32_UNIT) * (1 - operands * operand_unit)) - 1


def exact_in_24_bits(truth, size, samples):
    """Whether every partial sum of a pass with the first weights is an integer below 2**24 times a power of two."""
    dense = CONV_UNIT * DENSE_UNIT  # every output and residual is a multiple of it
    slope = dense * truth.scale
    widest = [
        max(max(sample) for sample in size.activations) / CONV_UNIT,
        max(max(sample) for sample in size.residuals) / dense,
        max(size.gradients["dense.weight"]) / (slope * CONV_UNIT),
        max(size.gradients["dense.bias"]) / slope,
        max(size.gradients["conv.weight"]) / (slope * DENSE_UNIT),
        max(size.gradients["conv.bias"]) / (slope * DENSE_UNIT),
    ]
    power_of_two = samples & (samples - 1) == 0
    return power_of_two and max(widest) < 2**24


def comparable(truth, size, operand_unit=0.0):
    """Whether no activation is so near to zero that rounding could switch a ReLU on or off."""
    margin = relative_error(PATCH + 1, 2, operand_unit)
    return all(
        abs(value) > margin * most
        for values, largest_values in zip(truth.activations, size.activations)
        for value, most in zip(values, largest_values)
    )


def compared(ours, other, size, allowed):
    """How far two gradients (flat lists by tensor) are apart, per tensor, in units of the bound 2*gamma*M."""
    bound = 2 * allowed
    facts = {}
    for name in TENSORS:
        pairs = list(zip(ours[name], other[name], size.gradients[name]))
        facts[name] = {
            "count": len(pairs),
            "max_difference": largest(abs(left - right) for left, right, _ in pairs),
            "max_ratio": largest(ratio(abs(left - right), bound * most) for left, right, most in pairs),
            "equal": all(left == right for left, right, _ in pairs) and len(ours[name]) == len(other[name]),
        }
    return facts


def ratio(difference, bound):
    """The difference in units of the bound; no difference is 0 of any bound, NaN stays NaN."""
    if difference == 0:
        return 0.0
    return difference / bound if bound > 0 else float("inf")


def largest(values):
    """The largest; NaN if one is NaN (max() would lose it)."""
    top = 0.0
    for value in values:
        if value != value:  # noqa: PLR0124 - the test for NaN
            return value
        top = max(top, value)
    return top
