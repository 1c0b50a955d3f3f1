"""The network of the probes: its exactness in 24 bits, and the bound."""

from __future__ import annotations

from fractions import Fraction

import pytest

from envbuilder.probes import exact


def passes(samples: int) -> tuple[exact.Pass, exact.Pass]:
    images, targets = exact.batch(0, samples)
    truth = exact.Pass(images, targets, exact.weights())
    return truth, exact.magnitudes(images, targets, exact.weights(), truth.masks)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16, 32])
def test_the_first_step_is_exact_in_float32(ranks: int) -> None:
    samples = ranks * exact.SHARD

    assert exact.exact_in_24_bits(*passes(samples), samples)


def test_exactness_ends_somewhere() -> None:
    """The condition is one that can fail: three ranks make the mean round."""
    assert not exact.exact_in_24_bits(*passes(12), 12)


def test_all_quantities_are_multiples_of_their_units() -> None:
    truth, _ = passes(8)
    slope = exact.CONV_UNIT * exact.DENSE_UNIT * truth.scale
    units = {
        "conv.weight": slope * exact.DENSE_UNIT,
        "conv.bias": slope * exact.DENSE_UNIT,
        "dense.weight": slope * exact.CONV_UNIT,
        "dense.bias": slope,
    }

    for name, unit in units.items():
        assert all(Fraction(value) / Fraction(unit) % 1 == 0 for value in truth.gradients[name])
    assert all(Fraction(value) / Fraction(exact.CONV_UNIT) % 1 == 0 for row in truth.activations for value in row)


def test_no_activation_is_near_to_where_relu_bends() -> None:
    truth, size = passes(8)

    assert min(abs(value) for row in truth.activations for value in row) >= exact.CONV_UNIT
    assert exact.comparable(truth, size)
    assert exact.comparable(truth, size, 2.0**-8)


@pytest.mark.parametrize("name", exact.TENSORS)
def test_the_gradient_is_the_slope_of_the_loss(name: str) -> None:
    """Central differences of the loss; the loss is quadratic in each parameter while no ReLU switches."""
    images, targets = exact.batch(0, 4)
    gradient = exact.Pass(images, targets, exact.weights()).gradients[name]
    step = 2.0**-12
    for index in range(0, exact.LENGTHS[name], 37):
        around = []
        for sign in (1, -1):
            weights = exact.weights()
            weights[name][index] += sign * step
            around.append(exact.Pass(images, targets, weights).loss)
        assert (around[0] - around[1]) / (2 * step) == pytest.approx(gradient[index], abs=1e-8)


def test_magnitudes_dominate_the_gradient() -> None:
    truth, size = passes(8)

    for name in exact.TENSORS:
        assert all(abs(value) <= most for value, most in zip(truth.gradients[name], size.gradients[name], strict=True))


def test_a_per_cent_on_one_of_two_ranks_is_far_outside_of_the_bound() -> None:
    truth, size = passes(8)
    images, targets = exact.batch(4, 4)
    share = exact.Pass(images, targets, exact.weights()).gradients
    wrong = {
        name: [value + 0.005 * part for value, part in zip(truth.gradients[name], share[name], strict=True)]
        for name in exact.TENSORS
    }

    facts = exact.compared(wrong, truth.gradients, size, exact.relative(8))

    assert all(fact["max_ratio"] > 20 for fact in facts.values())


def test_not_a_number_is_never_within_the_bound() -> None:
    truth, size = passes(4)
    wrong = {**truth.gradients, "conv.bias": [float("nan")] * exact.FILTERS}

    fact = exact.compared(wrong, truth.gradients, size, exact.relative(4))["conv.bias"]

    assert fact["max_ratio"] != fact["max_ratio"]
    assert not fact["equal"]


def test_losses_fall_steadily() -> None:
    images, targets = exact.batch(0, 8)
    weights, losses = exact.weights(), []
    for _ in range(8):
        step = exact.Pass(images, targets, weights)
        losses.append(step.loss)
        weights = {
            name: [value - exact.RATE * slope for value, slope in zip(flat, step.gradients[name], strict=True)]
            for name, flat in weights.items()
        }

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 10
