"""One transition of the sampler leaves the posterior invariant, however poor its mixture is."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

import unrelu
from tests.support import random_network
from unrelu.runtime.streams import stream
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._target import Target
from unrelu.sampling._transitions import Chains, Transitions
from unrelu.sampling.prior_transform import PriorTransform

CHAINS = 100_000
# Overlapping components in wrong places, of wrong widths and weights.
POOR = Mixture(
    np.array([[-1.5], [0.0], [0.4], [2.5]]),
    np.array([0.7, 3.0, 1.0, 2.0])[:, None, None],
    np.array([0.1, 0.3, 0.2, 0.4]),
)


def test_a_transition_leaves_the_posterior_invariant():
    rng = stream("test transitions")
    net = random_network((1, 8, 6), seed=11)
    y = net(np.array([0.4])) + 0.5 * rng.standard_normal(6)
    problem = unrelu.Problem.build(net, y, noise="gaussian:0.5", prior=unrelu.Normal())
    target = Target(problem, PriorTransform.of(problem.bounds, problem.normal))
    grid = np.linspace(-7, 7, 20_001)
    logs = -target.energies(grid[:, None])
    cumulative = np.cumsum(np.exp(logs - logsumexp(logs)))
    t = np.interp(rng.random(CHAINS), cumulative, grid)[:, None]  # independent draws, which stay independent
    transitions = Transitions(target, POOR, rng)
    transitions.step = 0.6
    chains = Chains.at(t, target, POOR)
    for _ in range(4):
        chains = transitions.move(chains)
    assert (chains.t != t).mean() > 0.9
    drawn = np.interp(np.sort(chains.t[:, 0]), grid, cumulative)
    distance = np.abs(drawn - (np.arange(CHAINS) + 0.5) / CHAINS).max()
    assert distance < 2.2 / np.sqrt(CHAINS)  # Kolmogorov's distance: below in all but 1 of 10,000
    np.testing.assert_allclose(chains.energies, target.energies(chains.t), rtol=1e-9)
    np.testing.assert_allclose(chains.log_density, POOR.log_density(chains.t), rtol=1e-9)
