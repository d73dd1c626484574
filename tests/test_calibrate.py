"""Calibration: what it refuses, what it finds, and that searches use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from unrelu.search.basin_prior import default_prior, prior_for

import unrelu
from tests.support import random_network
from unrelu import _calibrate
from unrelu.errors import InputError, OptionError, UnreluError
from unrelu.problem import Problem
from unrelu.search.auto import Search

N, NOISE = 12, "gaussian:0.3"


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Few further chains after those that the prior is learned from."""
    monkeypatch.setattr(_calibrate, "_TIMES_AS_MANY", 2)


def rough():
    """A tiny generator, whose landscape is rough."""
    return random_network((3, 6, N), seed=0, bias=True)


def problem_of(network, operator=None):
    return Problem.build(network, np.ones((2, N)), operator=operator)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "noise=None cannot be drawn; state 'gaussian:S' or 'uniform:A' with S, A > 0"),
        ({"noise": "uniform:0"}, InputError, "noise='uniform:0' cannot be drawn"),
        ({"noise": "outliers:0.1"}, InputError, "noise='outliers:0.1' cannot be drawn"),
        ({"noise": "loud"}, InputError, "loud"),
        ({"noise": NOISE, "observations": 19}, OptionError, "observations=19 must be an integer of at least 20"),
        ({"noise": NOISE, "observations": 20.0}, OptionError, "observations=20.0 must be an integer"),
        ({"noise": NOISE, "observations": True}, OptionError, "observations=True must be an integer"),
        ({"noise": NOISE, "operator": np.ones((3, 7))}, InputError, "operator"),
        ({"noise": NOISE, "bounds": (1, 0)}, InputError, "lower bound 1"),
        ({"noise": NOISE, "seed": "one"}, OptionError, "seed='one'"),
        ({"noise": NOISE, "seed": -1}, OptionError, "seed=-1"),
        ({"noise": unrelu.Gaussian(covariance=np.eye(3))}, InputError, r"covariance.3, 3. is of 3 entries, an"),
    ],
)
def test_what_it_refuses(options, error, message):
    with pytest.raises(error, match=message):
        unrelu.calibrate(rough(), **{"observations": 20} | options)


def test_a_network_has_to_be_one():
    with pytest.raises(UnreluError):
        unrelu.calibrate(torch.nn.Linear(2, 3), noise=NOISE)


def test_the_prior_is_used_afterwards():
    network = rough()
    y = network(np.random.default_rng(1).standard_normal((30, 3)))
    y += 0.3 * np.random.default_rng(2).standard_normal(y.shape)
    options = Search(rounds=2, confidence=1.0)  # both make the same: later rounds follow from the confidence
    before = unrelu.invert(network, y, options)
    problem = problem_of(network)
    assert prior_for(problem) is default_prior(problem)
    unrelu.calibrate(network, noise=NOISE, observations=60)
    assert prior_for(problem) is not default_prior(problem)
    after = unrelu.invert(network, y, options)
    np.testing.assert_array_equal(after.z, before.z)
    assert (after.confidence != before.confidence).mean() > 0.9
    other = problem_of(network, np.arange(N) > 3)
    assert prior_for(other) is default_prior(other)


def test_it_is_about_codes_within_the_bounds(monkeypatch):
    network, seen = rough(), []
    real = _calibrate.chain_ends
    monkeypatch.setattr(
        _calibrate, "chain_ends", lambda problem, truth: seen.append((problem, truth)) or real(problem, truth)
    )
    lower, upper = np.array([10.0, -1.0, 0.0]), np.array([12.0, 1.0, 1e-3])
    unrelu.calibrate(network, noise=NOISE, bounds=(lower, upper), observations=60)
    [(problem, truth)] = seen
    codes = problem.units.codes(truth)
    assert ((codes >= lower) & (codes <= upper)).all()
    assert np.abs((codes - lower).mean(axis=0) / (upper - lower) - 0.5).max() < 0.15
    noise = problem.y - network(codes).reshape(60, N) * np.ldexp(1.0, problem.units.data)
    assert 0.2 < noise.std() * np.ldexp(1.0, -problem.units.data) < 0.4

    def learned_within(bounds):
        problem = Problem.build(network, np.ones((2, N)), bounds=bounds).equilibrated()
        return prior_for(problem) is not default_prior(problem)

    assert learned_within((lower, upper))
    assert not learned_within(None)
    assert not learned_within((lower, upper + 1))


def test_it_is_reproducible():
    found = []
    for seed in (0, 0, 1):
        network = rough()
        calibration = unrelu.calibrate(network, noise=NOISE, observations=30, seed=seed)
        found.append((calibration, prior_for(problem_of(network)).weights))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert not np.array_equal(found[0][1], found[2][1])


@pytest.mark.parametrize("noise", [NOISE, "uniform:0.3"])
@pytest.mark.parametrize("kind", ["whole", "mask", "masks", "matrix"])
def test_every_measurement_can_be_learned(noise, kind):
    network, rng = rough(), np.random.default_rng(0)
    operator = {
        "whole": None, "mask": np.arange(N) % 3 > 0, "masks": rng.random((2, N)) < 0.7,
        "matrix": rng.standard_normal((6, N)),
    }[kind]  # fmt: skip
    found = unrelu.calibrate(network, operator, noise, observations=20)
    assert found.observations == 20
    assert 0 <= found.wrong <= 1
    assert 0 <= found.reached <= 1
    y = np.ones((2, 6 if kind == "matrix" else N))
    problem = Problem.build(network, y, operator=operator)
    assert prior_for(problem) is not default_prior(problem)


def test_an_easy_generator_is_found_to_be_easy():
    """Of one linear layer there is one optimum, and all chains end there."""
    network = random_network((3, N), activation="identity", seed=1)
    found = unrelu.calibrate(network, noise=NOISE, observations=100)
    assert found.wrong == 0
    y = network(np.ones((20, 3))) + 0.3 * np.random.default_rng(3).standard_normal((20, N))
    sure = unrelu.invert(network, y, Search(rounds=4, confidence=1.0)).confidence
    fresh = random_network((3, N), activation="identity", seed=1)
    assert (sure > unrelu.invert(fresh, y, Search(rounds=4, confidence=1.0)).confidence).all()
