"""Codes as functions of standard normal coordinates: inverse, slopes, distribution, and the density that is sampled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import truncnorm

import unrelu
from tests.support import random_network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.streams import stream
from unrelu.sampling._target import Target
from unrelu.sampling.prior_transform import PriorTransform

LOWER, UPPER = np.array([-1.0, 0.5, -np.inf, -np.inf, 2.5]), np.array([3.0, np.inf, 0.2, np.inf, 2.9])
MEAN, STD = np.array([0.5, 0.0, -1.0, 2.0, 0.0]), np.array([1.5, 1.0, 2.0, 0.3, 0.8])
BOUNDS = Bounds.parse((LOWER, UPPER), (5,))
PRIORS = {"uniform or standard": None, "normal": unrelu.Normal(MEAN, STD)}
T = stream("test prior transform").uniform(-4, 4, size=(200, 5))


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_coordinates_are_the_inverse_of_codes(prior):
    transform = PriorTransform.of(BOUNDS, prior)
    z = transform.codes(T)
    assert ((z >= LOWER) & (z <= UPPER)).all()
    np.testing.assert_allclose(transform.coordinates(z), T, atol=1e-6)


def test_codes_far_out_in_the_prior_are_finite():
    """Beside a box, a coordinate in physical units may be 60 standard deviations out, where probabilities are 0."""
    bounds = Bounds.parse(([0.1, -np.inf, 0.0, -np.inf], [0.5, np.inf, np.inf, 0.0]), (4,))
    transform = PriorTransform.of(bounds, None)
    t = np.array([[0.0, 60.0, 60.0, -60.0], [0.0, -60.0, 1.0, -1.0]])
    z = transform.codes(t)
    np.testing.assert_allclose(z[:, 1], [60.0, -60.0], rtol=1e-12)
    np.testing.assert_allclose(z[0, 2:], [60.0115, -60.0115], rtol=1e-5)  # half of the probability is inside
    np.testing.assert_allclose(transform.coordinates(z)[:, 1], [60.0, -60.0], rtol=1e-12)
    assert np.isfinite(transform.slopes(t, z)).all()


def test_a_normal_prior_has_the_quantiles_of_the_truncated_distribution():
    transform = PriorTransform.of(BOUNDS, PRIORS["normal"])
    exact = truncnorm((LOWER - MEAN) / STD, (UPPER - MEAN) / STD, MEAN, STD)
    standard = truncnorm(-np.inf, np.inf)
    np.testing.assert_allclose(exact.cdf(transform.codes(T)), standard.cdf(T), atol=1e-9)


def test_the_density_of_codes_is_that_of_coordinates_by_the_slopes():
    for prior in PRIORS.values():
        transform = PriorTransform.of(BOUNDS, prior)
        z = transform.codes(T)
        off = transform.energies(z) - (0.5 * np.square(T) + np.log(transform.slopes(T, z))).sum(axis=1)
        np.testing.assert_allclose(off, off[0], atol=1e-8)


@pytest.mark.parametrize("noise", ["gaussian:0.3", "poisson"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_gradients_are_those_of_the_density(noise, activation):
    net = random_network((5, 12, 9), seed=2, activation=activation)
    y = np.rint(np.abs(net(np.array([0.5, 1.0, -0.5, 1.5, 2.6])))) if noise == "poisson" else np.linspace(-1, 1, 9)
    problem = unrelu.Problem.build(net, y, noise=noise, bounds=(LOWER, UPPER))
    problem = problem.part(np.array([0]))
    target, h = Target(problem, PriorTransform.of(problem.bounds, problem.normal)), 1e-6
    t = T[:20] / 2
    steps = h * np.eye(5)
    numerical = np.stack([(target.energies(t + s) - target.energies(t - s)) / (2 * h) for s in steps], axis=1)
    energies, gradients = target.gradients(t)
    np.testing.assert_allclose(energies, target.energies(t), rtol=1e-12)
    off = np.abs(gradients - numerical).max(axis=1) / np.abs(gradients).max(axis=1)
    assert np.quantile(off, 0.8) < 1e-4  # a kink may lie within a step
    _, same, _ = target.curvatures(t)
    np.testing.assert_allclose(same, gradients, rtol=1e-8, atol=1e-8 * np.abs(gradients).max())
