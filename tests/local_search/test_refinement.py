"""Refinement to first-order optimality, on smooth generators and at kinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import unrelu
from tests.support import random_network
from unrelu.local_search.refinement import refine
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem

K, N, B = 6, 40, 8
BOX = {"bounds": (-1.0, 1.0)}


def refined(problem, z, most=500, stop=None, enough=-1.0):
    objective = SquaredError.of(problem)
    size = len(z)
    return refine(
        objective, objective.tensor(np.asarray(z)), torch.arange(size), torch.full((size,), enough), most, stop
    )


def further(problem, z, i):
    """What SciPy's L-BFGS-B gains from a code, as a fraction of f; its first step has the length 1e-3."""
    objective, row = SquaredError.of(problem), torch.tensor([i])
    begin = float(objective.values(torch.tensor(z)[None], row)[0])

    def value(steps):
        f, slope = objective.gradient(torch.tensor(z + 1e-3 * steps)[None], row)
        return float(f[0]) / begin, 1e-3 * slope[0].numpy() / begin

    sides = (problem.bounds.lower - z) * 1e3, (problem.bounds.upper - z) * 1e3
    options = {"ftol": 1e-15, "gtol": 1e-12}
    found = minimize(
        value, np.zeros(len(z)), jac=True, method="L-BFGS-B", bounds=list(zip(*sides, strict=True)), options=options
    )
    return 1 - found.fun


def noisy(hidden, output, seed, noise=0.1, **options):
    inner = random_network((K, 20, 24, N), hidden, seed, bias=True)
    weights, biases = zip(*[(layer.matrix(), layer.bias()) for layer in inner.layers], strict=True)
    network = unrelu.from_arrays(list(weights), list(biases), activation=[hidden, hidden, output])
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((B, K))
    x = network(truth)
    return Problem.build(network, x + noise * x.std() * rng.standard_normal(x.shape), **options), truth


@pytest.mark.parametrize(
    ("hidden", "output", "options"),
    [("leaky_relu:0.1", "sigmoid", {}), ("leaky_relu:0.01", "identity", {"prior": 0.01}), ("tanh", "sigmoid", BOX)],
)
def test_lbfgs_gains_nothing_further(hidden, output, options):
    problem, truth = noisy(hidden, output, 3, **options)
    start = problem.bounds.clip(truth)
    found = refined(problem, start)
    assert found.optimal.sum() >= (B if problem.bounds.none else 6)
    assert (found.z.numpy() == problem.bounds.clip(found.z.numpy())).all()
    np.testing.assert_allclose(found.f, problem.objective(found.z.numpy()), rtol=1e-12)
    assert (found.f.numpy() < problem.objective(start)).all()
    gains = [further(problem, code, i) for i, code in enumerate(found.z.numpy()) if found.optimal[i]]
    assert max(gains) <= 2e-5


@pytest.mark.parametrize(
    ("operator", "options"), [(None, BOX), ("mask", BOX), ("masks", {"prior": 0.01}), ("matrix", BOX)]
)
def test_steps_of_a_code_are_those_of_the_code_alone(operator, options):
    problem, truth = noisy("tanh", "sigmoid", 11, **options)
    rng = np.random.default_rng(11)
    if operator:
        shape = {"mask": N, "masks": (B, N)}.get(operator)
        a = rng.standard_normal((20, N)) if operator == "matrix" else rng.random(shape) < 0.7
        y = problem.y @ a.T if operator == "matrix" else np.where(a, problem.y, 0.0)
        problem = Problem.build(problem.network, y, operator=a, **options)
    start = problem.bounds.clip(truth)
    short, whole = refined(problem, start, most=6), refined(problem, start)
    alone = [refined(problem.part(np.array([i])), start[i : i + 1], most=6) for i in range(B)]
    np.testing.assert_allclose(short.z, torch.cat([each.z for each in alone]), rtol=1e-9, atol=1e-11)
    assert whole.optimal.all()
    assert (whole.f < short.f + 1e-12).all()


@pytest.mark.parametrize("start", [-0.7, 0.3, 2.0])
def test_the_minimum_at_a_kink_of_one_coordinate(start):
    # (relu(z) + 1)^2 + (z + relu(z) - c)^2: for c = 0.2 its derivatives at 0 are -0.4 and 1.2.
    network = unrelu.from_arrays([[[1.0], [-1.0]], [[1.0, 0.0], [2.0, -1.0]]], activation=["relu", "identity"])
    found = refined(Problem.build(network, [[-1.0, 0.2]]), [[start]])
    assert found.optimal.all()
    assert abs(found.z.item()) <= 1e-5
    assert found.f.item() == pytest.approx(1.04, rel=1e-5)


@pytest.mark.parametrize("start", [(1.0, 0.7), (-0.3, 0.2), (0.01, -2.0)])
def test_the_minimum_at_a_corner_of_two_kinks(start):
    # G = (relu(a) + relu(-a), relu(b) + relu(-b), a / 10, b / 10), y = (-1, -1, 0, 0): |a| and |b| cost 2 each.
    hidden = np.array([[1.0, 0.5], [-1.0, -0.5], [0.3, -1.0], [-0.3, 1.0]])
    output = np.array([[1.0, 1.0, 0, 0], [0, 0, 1.0, 1.0], [0.1, -0.1, 0, 0], [0, 0, 0.1, -0.1]])
    network = unrelu.from_arrays([hidden, output], activation=["relu", "identity"])
    found = refined(Problem.build(network, [[-1.0, -1.0, 0.0, 0.0]]), [start])
    assert found.optimal.all()
    assert found.z.norm() <= 1e-4
    assert found.f.item() == pytest.approx(2.0, rel=2e-5)


def test_an_exact_fit_is_reached_with_one_jacobian_in_single_precision():
    problem, truth = noisy("tanh", "identity", 7, noise=0.0)
    objective, rows = SquaredError.of(problem), torch.arange(B)
    single = SquaredError.of(problem, problem.network.to(torch.float32))
    enough = torch.from_numpy(1e-28 * problem.energy)
    found = refine(objective, torch.from_numpy(truth) + 1e-4, rows, enough, 10, curvature=single)
    assert found.optimal.all()
    np.testing.assert_allclose(found.z, truth, atol=1e-12)


def test_counts_are_refined_to_the_least_deviance():
    network = random_network((3, 12, 30), "leaky_relu:0.2", 2, bias=True)
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((B, 3))
    problem = Problem.build(network, rng.poisson(np.maximum(20 * network(truth), 0.0) + 5.0), noise=unrelu.Poisson())
    found = refined(problem, truth)
    assert (found.f.numpy() <= problem.objective(truth)).all()
    assert max(further(problem, code, i) for i, code in enumerate(found.z.numpy()) if found.optimal[i]) <= 2e-5


def test_a_code_that_is_cut_off_is_lower_and_not_called_optimal():
    problem, truth = noisy("leaky_relu:0.1", "sigmoid", 3)
    short, stopped = refined(problem, truth, most=3), refined(problem, truth, stop=lambda: True)
    assert short.optimal.double().mean() < 0.5
    assert (short.steps <= 3).all()
    assert (short.f.numpy() <= problem.objective(truth)).all()
    assert not stopped.optimal.any()
    np.testing.assert_array_equal(stopped.z.numpy(), truth)


def test_codes_beyond_numbers_are_returned_as_they_are():
    problem, truth = noisy("tanh", "identity", 3)
    truth[2] = np.nan
    found = refined(problem, truth)
    assert torch.isnan(found.z[2]).all()
    np.testing.assert_array_equal(found.optimal.numpy(), np.arange(B) != 2)
