"""Reweighted least squares: from l2 to a start for l1."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.errors import OptionError
from unrelu.local_search.norm_descent import NormDescent
from unrelu.problem import Problem
from unrelu.search.norm_finish import Reweighted

NETWORK = random_network((6, 40, 120), seed=1)


def outliers(operator=None, **options):
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((8, 6))
    x = NETWORK(truth)
    y = x + 0.001 * rng.standard_normal(x.shape) + (rng.random(x.shape) < 0.1) * rng.choice([-4.0, 4.0], x.shape)
    y = y if operator is None or operator.shape[-1] != 120 or operator.dtype == bool else y @ operator.T
    return Problem.build(NETWORK, y, norm="l1", operator=operator, **options), truth


def errors(z, truth):
    return np.linalg.norm(z - truth, axis=1)


@pytest.mark.parametrize("masked", [False, True, "each"])
def test_gross_errors_lose_their_weight(masked):
    rng = np.random.default_rng(2)
    mask = {False: None, True: rng.random(120) < 0.8, "each": rng.random((8, 120)) < 0.8}[masked]
    problem, truth = outliers(mask)
    l2 = unrelu.invert(NETWORK, problem.y, "lm", z0=truth, operator=mask).z
    z, steps = Reweighted().minimise(problem, l2)
    assert np.median(errors(z, truth)) <= 0.2 * np.median(errors(l2, truth))
    assert (problem.objective(z) <= problem.objective(l2)).all()
    assert ((steps > 0) & (steps <= 24)).all()
    finished, _, programs = NormDescent().minimise(problem, z)
    _, _, without = NormDescent().minimise(problem, l2)
    assert (problem.objective(finished) <= problem.objective(z)).all()
    assert programs.mean() < without.mean()


def test_measurements_that_mix_outputs_are_weighted_too():
    matrix = np.random.default_rng(3).standard_normal((100, 120)) / 10
    rng = np.random.default_rng(4)
    truth = rng.standard_normal((4, 6))
    y = NETWORK(truth) @ matrix.T
    y += (rng.random(y.shape) < 0.1) * rng.choice([-4.0, 4.0], y.shape)
    problem = Problem.build(NETWORK, y, norm="l1", operator=matrix)
    l2 = unrelu.invert(NETWORK, y, "lm", z0=truth, operator=matrix).z
    z, _ = Reweighted().minimise(problem, l2)
    assert (errors(z, truth) <= 0.2 * errors(l2, truth)).all()


def test_starts_are_kept_and_bad_ones_replaced():
    problem, truth = outliers()
    z0 = truth.copy()
    z0[3] = np.nan
    before = z0.copy()
    z, _ = Reweighted(rounds=2, steps=1).minimise(problem, z0)
    np.testing.assert_array_equal(z0, before)
    assert np.isfinite(z).all()
    others = np.arange(8) != 3
    assert (problem.objective(z)[others] <= problem.objective(truth)[others]).all()


def test_the_time_limit_returns_the_start():
    problem, truth = outliers(time_limit=1e-9)
    z, steps = Reweighted().minimise(problem, truth)
    np.testing.assert_array_equal(z, truth)
    assert not steps.any()


@pytest.mark.parametrize("name", ["rounds", "steps"])
def test_options_are_checked(name):
    with pytest.raises(OptionError, match=f"{name}=0"):
        Reweighted(**{name: 0})
