"""Optima that have fewer draws than their mass says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

import unrelu
from unrelu.runtime.streams import stream
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._mixture_components import overlooked
from unrelu.sampling._target import Target
from unrelu.sampling.prior_transform import PriorTransform

K, HEIGHT, WIDTH, SIGMA = 4, 0.49, 0.5, 0.1
CENTRE = np.array([0.5, -0.4, 0.3, 0.6])


def spike() -> Target:
    """The posterior with a spike where G(z) = .49 max(0, 1 - |z - c|_1 / .5) explains y, and the prior elsewhere."""
    eye = np.eye(K)
    weights = [np.concatenate([eye, -eye]), np.full((1, 2 * K), -1 / WIDTH), np.array([[HEIGHT]])]
    biases = [np.concatenate([-CENTRE, CENTRE]), np.ones(1), np.zeros(1)]
    net = unrelu.from_arrays(weights, biases, activation=["relu", "relu", "identity"])
    problem = unrelu.Problem.build(net, [0.95 * HEIGHT], noise=f"gaussian:{SIGMA}", prior=unrelu.Normal())
    return Target(problem, PriorTransform.of(problem.bounds, problem.normal))


def within_spike(count: int, rng: np.random.Generator) -> np.ndarray:
    """Codes uniform in the spike, an L1 ball."""
    shares = rng.dirichlet(np.ones(K + 1), count)[:, :K]
    return CENTRE + WIDTH * rng.choice([-1.0, 1.0], (count, K)) * shares


@pytest.mark.parametrize("share", [0.0, 0.005])
def test_a_spike_with_few_draws_is_overlooked_by_its_mass(share):
    target, rng = spike(), stream("test overlooked", str(share))
    uniform = within_spike(100_000, rng)
    volume = K * np.log(2 * WIDTH) - np.log(24.0)
    mass = volume + logsumexp(-target.energies(uniform)) - np.log(len(uniform))
    flat = -0.5 * (0.95 * HEIGHT / SIGMA) ** 2 + K / 2 * np.log(2 * np.pi)
    truth = 1 / (1 + np.exp(flat - mass))
    t = rng.standard_normal((8000, K))
    t = t[np.abs(t - CENTRE).sum(axis=1) > WIDTH]
    inside = round(share * len(t))
    t[:inside] = uniform[np.argsort(target.energies(uniform))[: 20 * inside : 20][:inside]]
    mixture = Mixture(np.zeros((1, K)), np.eye(K)[None], np.ones(1))
    found, extended = overlooked(target, mixture, t, target.energies(t), float(flat), rng)
    assert 0.2 < truth < 0.6
    if share:
        assert 0.3 * truth < found < 1.5 * truth
        assert np.abs(extended.means[1:] - CENTRE).sum(axis=1).min() < WIDTH
    else:  # no descent ends in a spike that nothing leads to
        assert found < 0.02
