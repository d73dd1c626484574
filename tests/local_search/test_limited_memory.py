"""L-BFGS steps on the joint network: where they end is an optimum, in any units of the objective."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.support import random_network
from unrelu.local_search.limited_memory import LimitedMemorySteps
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem

K, N, B = 5, 40, 4


def objective(noise=0.1, prior=0.0, activation="tanh", unit=1.0):
    network = random_network((K, 20, N), activation=activation, seed=3, bias=True)
    rng = np.random.default_rng(4)
    truth = rng.standard_normal((B, K))
    y = network(truth) + noise * rng.standard_normal((B, N))
    problem = Problem.build(network, y, prior=prior, operator=unit * np.eye(N))
    return SquaredError.of(replace(problem, y=unit * problem.y)), truth


def descend(f, z, decrease=1e-12, enough=-1.0):
    rows = torch.arange(B)
    return LimitedMemorySteps(f, f.tensor(z), rows, decrease, torch.full((B,), enough, dtype=f.y.dtype))


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("prior", [0.0, 0.3])
def test_they_end_where_the_gradient_is_zero(unit, prior):
    f, truth = objective(prior=unit**2 * prior, unit=unit)
    state = descend(f, truth).run(400)
    assert state.done.all()
    value, gradient = f.gradient(state.z, state.observations)
    begin = f.gradient(f.tensor(truth), state.observations)[1]
    assert (gradient.norm(dim=1) <= 1e-4 * begin.norm(dim=1)).all()
    torch.testing.assert_close(value, state.f)


def test_a_linear_problem_ends_at_the_least_squares_solution():
    network = random_network((K, N), activation="identity", seed=5)
    y = np.random.default_rng(6).standard_normal((B, N))
    f = SquaredError.of(Problem.build(network, y))
    state = descend(f, np.zeros((B, K)), decrease=1e-15).run(100)
    expected = np.linalg.lstsq(network.layers[0].matrix(), y.T, rcond=None)[0].T
    np.testing.assert_allclose(state.z.numpy(), expected, atol=1e-6)
    assert (state.steps < 30).all()


def test_no_step_raises_the_objective_and_each_code_stops_on_its_own():
    f, truth = objective(activation="relu")
    begin = truth + 0.5
    begin[0] = truth[0]
    state = descend(f, begin, enough=0.05 * N)
    values = [state.f.clone()]
    while not state.done.all():
        state.run(1)
        values.append(state.f.clone())
    assert all((b <= a).all() for a, b in pairwise(values))
    assert len(set(state.steps.tolist())) > 1


def test_a_code_without_an_output_is_left_alone():
    f, truth = objective()
    truth[1] = np.nan
    state = descend(f, truth).run(5)
    assert state.steps[1] == 0
    assert (state.steps[[0, 2, 3]] > 0).all()
