"""Projected gradient makes the published steps, is taken as an object, and ends with the code that fits best."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu_studies.peers.projected_gradient import ProjectedGradient

K, N = 4, 120
NETWORK = random_network((K, 30, N), seed=1)
RNG = np.random.default_rng(1)
TRUTH = RNG.standard_normal((3, K))
MASK = RNG.random(N) < 0.7


def masked(method, **options):
    return unrelu.invert(NETWORK, NETWORK(TRUTH), method, operator=MASK, **options)


@pytest.mark.parametrize("projection", ["linf", "l1", "lm"])
def test_a_projected_step_is_the_inversion_of_the_back_projection(projection):
    """Without biases G(t z) = t G(z), so for orthogonal A the back-projection t A^T A G(z) has the code t z."""
    network, step = random_network((K, 30, N), activation="leaky_relu:0.5", seed=1), 0.3
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((N, N)))[0]
    method = ProjectedGradient(projection, step, max_iterations=1)
    result = unrelu.invert(network, network(TRUTH) @ rotation.T, method, operator=rotation)
    np.testing.assert_allclose(result.z, step * TRUTH, atol=1e-7)


@pytest.mark.parametrize("projection", ["linf", "l1", "lm"])
def test_projections_fit_what_was_observed_better_and_better(projection):
    once, often = (masked(ProjectedGradient(projection, 1.0, count)) for count in (1, 8))
    assert (often.residual() < once.residual()).all()
    assert often.residual().mean() < 0.6 * once.residual().mean()


def test_the_best_iterate_is_kept():
    """A step far beyond 2 makes the iterates worse and worse."""
    runs = [masked(ProjectedGradient("lm", 4.0, count)) for count in (1, 2, 6)]
    for earlier, later in product(runs[:1], runs[1:]):
        assert (later.fun <= earlier.fun).all()


def test_a_projection_without_a_code_ends_its_observation_only(monkeypatch):
    class Fragile:
        def __call__(self, problem):
            z = unrelu.invert(NETWORK, problem.y, "lm", z0=problem.z0).z
            return unrelu.Inversion.of(problem, np.where(np.arange(len(z))[:, None] == 1, np.nan, z), method="fragile")

    monkeypatch.setattr("unrelu_studies.peers.projected_gradient.make", lambda name, options: Fragile())
    result = masked(ProjectedGradient(max_iterations=1))
    assert np.isnan(result.z).all(axis=1).tolist() == [False, True, False]
    assert not result.success[1]
