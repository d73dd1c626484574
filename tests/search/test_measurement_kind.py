"""Kinds of measurements: what is alike, and that the canonical ones tell as much of the code as the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.problem import Problem
from unrelu.search._measurement_kind import MeasurementKind

DIGITS = unrelu.zoo.load("mnist-relu")
N = 784
PLACE = np.arange(N)
RNG = np.random.default_rng(0)


def problem_of(operator=None, network=DIGITS, noise="gaussian:0.1", count=1):
    given = getattr(operator, "array", operator)
    size = len(given) if isinstance(operator, unrelu.Matrix) else network.output_dim
    return Problem.build(network, np.ones((count, size)), operator=operator, noise=noise).equilibrated()


def kind_of(*given, **options):
    return MeasurementKind.of(problem_of(*given, **options))


def test_random_masks_and_matrices_are_alike_but_not_a_hidden_half_nor_fewer():
    masks = [unrelu.Mask(RNG.permutation(N) < 392) for _ in range(3)]
    assert len({kind_of(mask) for mask in masks}) == 1
    assert kind_of(unrelu.Mask(PLACE < 392)) != kind_of(masks[0])
    one, other, fewer = (kind_of(unrelu.Matrix(RNG.standard_normal((m, N)))) for m in (60, 60, 30))
    assert one == other != fewer
    assert kind_of().values is None


def test_entries_with_the_same_weight_are_a_mask():
    shown = PLACE < 392
    sizes = np.where(shown, 0.1, np.inf)
    mask, hidden = kind_of(unrelu.Mask(shown)), kind_of(noise=unrelu.Gaussian(sizes))
    assert mask == hidden
    rows = unrelu.Matrix(np.eye(N)[shown])
    assert kind_of(rows) == mask


def test_weights_are_spread_by_their_effective_number():
    # A tenth of the entries has nine tenths of the squared weights: (9 + 1)^2 / (9^2 / .1 + 1 / .9) = .123 of all.
    uneven = np.where(PLACE % 10 == 0, 0.1, 0.9)
    shares = uneven**-2.0
    effective = shares.sum() ** 2 / np.square(shares).sum()
    problem = problem_of(noise=unrelu.Gaussian(uneven))
    kind = MeasurementKind.of(problem)
    assert kind.values == round(np.log(N) / np.log(1.25))
    assert kind.spread == round(np.log(N / effective) / np.log(1.25))
    canonical = kind.canonical(problem)
    squares = np.square(canonical.weight.numpy())
    assert ((squares > 0).sum(axis=1) >= N / 1.25).all()
    # Quantiles leave out the ends of the distribution.
    assert abs(np.log(squares[squares > 0]).std() / np.sqrt(np.log(N / effective)) - 1) < 0.1


@pytest.mark.parametrize(
    "operator",
    [
        unrelu.Mask(RNG.random(N) < 0.075),
        unrelu.Mask(PLACE % 28 < 14),
        unrelu.Mask(PLACE < 392),
        unrelu.Mask(RNG.random((4, N)) < 0.5),
        unrelu.Matrix(RNG.standard_normal((50, N))),
        unrelu.Matrix(np.kron(np.eye(14), np.kron(np.ones((1, 2)), np.kron(np.eye(14), np.ones((1, 2)))))),
        unrelu.Matrix(np.exp(-np.square(np.subtract.outer(np.linspace(0, N, 40), PLACE) / 60.0))),
    ],
    ids=["few pixels", "left half", "upper half", "masks", "random", "means of four pixels", "smooth"],
)
def test_canonical_measurements_have_the_kind_of_the_users(operator):
    """To half a step more: five bisections need not come nearer."""
    problem = problem_of(operator, count=4 if operator.array.shape == (4, N) else 1)
    kind = MeasurementKind.of(problem)
    canonical = kind.canonical(problem)
    y = np.ones((max(1, canonical.count), canonical.m))
    own = MeasurementKind.of(Problem.build(DIGITS, y, operator=canonical, noise="gaussian:0.1"))
    assert (own.measured, own.values, own.spread) == (kind.measured, kind.values, 0)
    assert abs(own.information - kind.information) <= 1
    x = DIGITS.typical_outputs[:1]
    first, given = (each.take(np.array([0])).values(x) for each in (canonical, problem.operator))
    assert not np.array_equal(first, given)


def test_what_is_not_linear_and_matrices_of_counts_are_kinds_of_their_own():
    network = random_network((3, 6, 12), bias=True)
    functions = [lambda x: x.square(), lambda x: x.square(), lambda x: x.exp()]
    one, same, other = (kind_of(function, network) for function in functions)
    assert one == same != other
    problem = problem_of(functions[0], network)
    assert MeasurementKind.of(problem).canonical(problem) is problem.operator
    matrices = [unrelu.Matrix(RNG.random((5, 12))) for _ in range(2)]
    counted = [kind_of(matrix, network, noise="poisson") for matrix in matrices]
    assert counted[0] != counted[1]
    canonical = problem_of(matrices[0], network, noise="poisson")
    np.testing.assert_array_equal(counted[0].canonical(canonical).matrix(), matrices[0].array)


def test_a_hidden_part_of_a_nonlinear_measurement_is_hidden_at_random():
    network = random_network((3, 6, 12), bias=True)
    shown = np.arange(12) < 7
    problem = Problem.build(
        network, np.ones((1, 12)), operator=torch.tanh, noise=unrelu.Gaussian(np.where(shown, 0.1, np.inf))
    ).equilibrated()
    canonical = MeasurementKind.of(problem).canonical(problem)
    assert (canonical.seen(canonical.count).sum(axis=1) == 7).all()
    assert not (canonical.seen(canonical.count) == shown).all()


def test_a_nonlinear_measurement_of_other_length_has_weights():
    network = random_network((3, 6, 12), bias=True)
    noise = unrelu.Gaussian(np.linspace(0.1, 0.5, 6))
    problem = Problem.build(network, np.ones((1, 6)), operator=lambda x: x[:, :6].square(), noise=noise).equilibrated()
    canonical = MeasurementKind.of(problem).canonical(problem)
    assert canonical.m == 6
    assert (canonical.seen(canonical.count).sum(axis=1) == 6).all()
