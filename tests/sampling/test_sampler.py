"""The sampler: exact posteriors on small generators, modes, evidence, bounds, counts, limits and reproducibility."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

import unrelu
from tests.support import random_network
from unrelu import Status
from unrelu.errors import InputError, OptionError
from unrelu.runtime.streams import stream

LINE = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")  # G(z) = (2 z, z)


def quiet(call):
    """The value of ``call``, whose posterior may not have mixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def grid_posterior(net, y, sigma, low=-6.0, high=6.0, count=6001):
    """The posterior of a code of one coordinate under N(0, 1) on a grid, and the logarithm of the evidence."""
    z = np.linspace(low, high, count)
    logs = -0.5 * np.square((net(z[:, None]) - y) / sigma).sum(axis=1) + norm.logpdf(z)
    step = z[1] - z[0]
    return z, np.exp(logs - logsumexp(logs)) / step, float(logsumexp(logs) + np.log(step))


def linear_posterior(matrix, y, sigma, mean, std):
    """The mean and covariance of z given y = W z + e."""
    precision = matrix.T @ matrix / sigma**2 + np.diag(1 / std**2)
    covariance = np.linalg.inv(precision)
    return covariance @ (matrix.T @ y / sigma**2 + mean / std**2), covariance


# --- exact posteriors -------------------------------------------------------------------------------------------------


def test_a_linear_generator_has_the_posterior_of_the_normal_equations():
    rng = stream("test linear posterior")
    matrix, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    mean, std = np.array([1.0, -1.0, 0.0]), np.array([0.5, 2.0, 1.0])
    net = unrelu.from_arrays([matrix], activation="identity")
    p = unrelu.posterior(net, y, noise="gaussian:0.7", prior=unrelu.Normal(mean, std))
    expected, covariance = linear_posterior(matrix, y, 0.7, mean, std)
    deviations = np.sqrt(np.diag(covariance))
    assert p.status is Status.MIXED
    assert len(p.modes) == 1
    np.testing.assert_allclose((p.mean - expected) / deviations, 0.0, atol=6 / np.sqrt(p.ess.min()))
    np.testing.assert_allclose(p.covariance / np.outer(deviations, deviations), covariance / np.outer(deviations, deviations), atol=0.12)
    evidence = _log_normal(y, matrix @ mean, matrix @ np.diag(std**2) @ matrix.T + 0.49 * np.eye(6))
    assert abs(p.log_evidence - (evidence + 3 * np.log(2 * np.pi * 0.49))) < 0.05


def _log_normal(x, mean, covariance):
    r = np.linalg.solve(np.linalg.cholesky(covariance), x - mean)
    return -0.5 * r @ r - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_draws_of_one_coordinate_have_the_density_on_a_grid(activation):
    net = random_network((1, 8, 6), seed=3, activation=activation)
    rng = stream("test grid posterior", activation)
    y = net(rng.standard_normal(1)) + 0.3 * rng.standard_normal(6)
    p = unrelu.posterior(net, y, noise="gaussian:0.3")
    z, density, evidence = grid_posterior(net, y, 0.3)
    cumulative = np.cumsum(density) * (z[1] - z[0])
    drawn = np.sort(p.z.ravel())
    distance = np.abs(np.interp(drawn, z, cumulative) - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert p.status is Status.MIXED
    assert distance < 2.2 / np.sqrt(p.ess.min())  # Kolmogorov's distance: below in all but 1 of 10,000
    assert abs(p.log_evidence - evidence) < 0.05


def test_an_opaque_generator_has_the_same_posterior():
    net = random_network((2, 6, 5), seed=4)
    weights = [torch.tensor(layer.matrix()) for layer in net.layers]
    biases = [torch.tensor(layer.bias()) for layer in net.layers]

    def forward(z):
        return torch.sin(torch.relu(torch.relu(z @ weights[0].T + biases[0]) @ weights[1].T + biases[1]))

    opaque = unrelu.from_torch(forward, latent_shape=(2,))
    rng = stream("test opaque posterior")
    y = opaque(rng.standard_normal(2)) + 0.4 * rng.standard_normal(5)
    p = unrelu.posterior(opaque, y, noise="gaussian:0.4", draws=500)
    axis = np.linspace(-5, 5, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    logs = -0.5 * np.square((opaque(grid) - y) / 0.4).sum(axis=1) - 0.5 * np.square(grid).sum(axis=1)
    weights = np.exp(logs - logsumexp(logs))
    mean = weights @ grid
    deviation = np.sqrt(weights @ np.square(grid - mean))
    assert p.status is Status.MIXED
    np.testing.assert_allclose((p.mean - mean) / deviation, 0.0, atol=6 / np.sqrt(p.ess.min()))
    np.testing.assert_allclose(p.std / deviation, 1.0, atol=0.1)
    assert abs(p.log_evidence - (logsumexp(logs) + 2 * np.log(axis[1] - axis[0]) - np.log(2 * np.pi))) < 0.05


def folded(j, k=3):
    """H(|z_1|, ..., |z_j|, the rest), whose posterior has 2^j modes of equal weight."""
    rng = stream("test folded", j)
    first = np.concatenate([np.eye(k), -np.eye(k)[:j]])  # relu(z) + relu(-z) = |z|
    head = rng.standard_normal((8, k))
    second = np.concatenate([head, head[:, :j]], axis=1)
    slope = np.ones(k + j)  # the rest stays as it is
    slope[:j], slope[k:] = 0.0, 0.0
    first = unrelu.from_arrays([first, second], activation=[unrelu.models.activations.Activation("prelu", slope), "identity"])
    return first


@pytest.mark.parametrize("j", [1, 2, 3])
def test_all_modes_of_equal_weight_are_found(j):
    net = folded(j)
    truth = np.array([1.2, -0.9, 1.5])
    y = net(truth) + 0.1 * stream("test folded noise", j).standard_normal(8)
    p = unrelu.posterior(net, y, noise="gaussian:0.1")
    assert p.status is Status.MIXED
    assert len(p.modes) == 2**j
    np.testing.assert_allclose([mode.weight for mode in p.modes], 2.0**-j, atol=0.03)
    signs = {tuple(np.sign(mode.z[:j])) for mode in p.modes}
    assert len(signs) == 2**j
