"""Calibration: what it refuses, what it finds, and that searches use it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.errors import InputError, OptionError
from unrelu.problem import Problem
from unrelu.search.auto import Search
from unrelu.search.learned_prior import LearnedConfidence, NoiseLevel

N, NOISE = 12, "gaussian:0.3"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """What invert learns by itself is kept in a folder of this test."""
    monkeypatch.setenv("UNRELU_CACHE", str(tmp_path))


@pytest.fixture
def learned_of(monkeypatch):
    """The levels that invert learned by itself."""
    levels, learn = [], LearnedConfidence.learn
    monkeypatch.setattr(LearnedConfidence, "learn", lambda self, *given: levels.append(given[0]) or learn(self, *given))
    return levels


def rough():
    """A tiny generator, whose landscape is rough."""
    return random_network((3, 6, N), seed=0, bias=True)


def noisy(network, level=0.3, count=30, operator=None):
    y = network(np.random.default_rng(1).standard_normal((count, 3)))
    y = y + level * np.random.default_rng(2).standard_normal(y.shape)
    return y if operator is None else y @ operator.T


def kept(network, operator=None, bounds=None, shape=(2, N)):
    """The priors that are kept for a network and measurement in memory, by level."""
    problem = Problem.build(network, np.ones(shape), operator=operator, bounds=bounds).equilibrated()
    levels = [NoiseLevel(noise, excess) for noise in range(-12, 6) for excess in (None, 0, 1, 2, 3)]
    names = {level: LearnedConfidence(problem).name(level) for level in levels}
    return {level: network.learned[name] for level, name in names.items() if name in network.learned}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "noise=None cannot be drawn; state 'gaussian:S' or 'uniform:A' with S, A > 0"),
        ({"noise": "uniform:0"}, InputError, "noise='uniform:0' cannot be drawn"),
        ({"noise": "outliers:0.1"}, InputError, "noise='outliers:0.1' cannot be drawn"),
        ({"noise": NOISE, "observations": 19}, OptionError, "observations=19 must be a whole number of at least 20"),
        ({"noise": NOISE, "observations": 20.0}, OptionError, "observations=20.0 must be a whole number"),
        ({"noise": NOISE, "observations": True}, OptionError, "observations=True must be a whole number"),
        ({"noise": NOISE, "operator": np.ones((3, 7))}, InputError, "operator"),
        ({"noise": NOISE, "seed": -1}, OptionError, "seed=-1"),
        ({"noise": unrelu.Gaussian(covariance=np.eye(3))}, InputError, r"covariance.3, 3. is of 3 entries, an"),
    ],
)
def test_what_it_refuses(options, error, message):
    with pytest.raises(error, match=message):
        unrelu.calibrate(rough(), **{"observations": 20} | options)


def test_what_it_learned_is_used_afterwards(learned_of):
    network, y = rough(), noisy(rough())[12:]  # none whose best code is far out, which is another level
    options = Search(rounds=4, confidence=1.0)
    before = unrelu.invert(network, y, options, noise=NOISE)
    assert len(learned_of) == 1
    unrelu.calibrate(network, noise=NOISE, observations=150)
    after = unrelu.invert(network, y, options, noise=NOISE)
    assert len(learned_of) == 1
    np.testing.assert_array_equal(after.z, before.z)
    assert (after.confidence != before.confidence).all()
    fresh = unrelu.invert(rough(), y, options, noise=NOISE)  # another network, which has what was on the disk
    np.testing.assert_array_equal(fresh.confidence, before.confidence)


@pytest.mark.parametrize("bounds", [None, (np.array([10.0, -1.0, 0.0]), np.array([12.0, 1.0, 1e-3]))])
def test_it_is_about_codes_within_the_bounds(bounds, learned_of):
    network = rough()
    unrelu.calibrate(network, noise=NOISE, bounds=bounds, observations=40)
    assert len(kept(network, bounds=bounds)) == 2
    unrelu.invert(network, noisy(network), noise=NOISE, bounds=bounds)
    assert all(level.misfit for level in learned_of)  # bounds far away leave residuals that noise does not explain
    for other in (None, (-2.0, 3.0)):
        if other is not bounds:
            assert not kept(network, bounds=other)


def test_it_is_reproducible():
    found = []
    for seed in (0, 0, 1):
        network = rough()
        calibration = unrelu.calibrate(network, noise=NOISE, observations=20, seed=seed)
        found.append((str(calibration), kept(network)))
    assert found[0][0] == found[1][0]
    weights = [[prior.weights[4] for prior in priors.values()] for _, priors in found]
    same, other = (list(map(np.array_equal, weights[0], weights[i])) for i in (1, 2))
    assert all(same)
    assert not any(other)


@pytest.mark.parametrize(
    ("kind", "noise"), [("whole", "uniform:0.3"), ("mask", NOISE), ("masks", NOISE), ("matrix", NOISE)]
)
def test_every_measurement_can_be_learned(noise, kind):
    network, rng = rough(), np.random.default_rng(0)
    operator = {
        "whole": None, "mask": np.arange(N) % 3 > 0, "masks": rng.random((2, N)) < 0.7,
        "matrix": rng.standard_normal((6, N)),
    }[kind]  # fmt: skip
    found = unrelu.calibrate(network, operator, noise, observations=20)
    assert found.observations == 20
    assert 0 <= found.reached <= 1
    assert kept(network, operator, shape=(2, 6 if kind == "matrix" else N))


def test_a_batch_of_masks_has_one_prior_in_whatever_order_they_come(learned_of):
    network, masks = rough(), np.random.default_rng(0).random((25, N)) < 0.7
    found = unrelu.calibrate(network, masks, NOISE, observations=20)
    assert found.observations == 25  # one for each mask
    order = np.random.default_rng(1).permutation(25)
    result = unrelu.invert(network, noisy(network, count=25) * masks[order], operator=masks[order], noise=NOISE)
    assert all(level.misfit for level in learned_of)
    assert (result.confidence > 0).all()
    assert kept(network, masks[:24], shape=(24, N)), "other masks of this kind share the prior"
    assert not kept(network, masks[:24] & (np.arange(N) < 6), shape=(24, N)), "masks that show less do not"


def test_counts_and_generators_without_layers_are_calibrated_on_request():
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, N)

        def forward(self, z):
            return self.linear(z + torch.relu(z)).exp()

    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    for network, noise in ((unrelu.from_torch(Shifted(), (3,)), NOISE), (rough(), "poisson")):
        clean = network(rng.standard_normal((10, 3)))
        y = rng.poisson(clean) if noise == "poisson" else clean + 0.3 * rng.standard_normal(clean.shape)
        before = unrelu.invert(network, y, noise=noise)
        found = unrelu.calibrate(network, noise=noise, observations=40)
        assert found.observations == 40
        after = unrelu.invert(network, y, noise=noise)
        assert (after.confidence != before.confidence).mean() > 0.9
        np.testing.assert_allclose(after.fun, before.fun, rtol=0.02)


def test_few_observations_make_nothing_sure():
    """Each half is judged by the other, and agreement that never misled in ten observations is no 0.99."""
    found = unrelu.calibrate(random_network((3, N), activation="identity", seed=1), noise=NOISE, observations=20)
    assert found.reached == 0
    assert np.isnan(found.wrong)
