"""The sample cache: its samples, and the posterior of its Gaussian model against the textbook's formula."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from tests.opaque_modules import Residual, made
from tests.support import random_network
from unrelu.loaders import from_torch
from unrelu.measurements import read_operator
from unrelu.problem import Problem
from unrelu.search import sample_cache as cache_module
from unrelu.search.sample_cache import SampleCache, single

K, N, B = 4, 30, 6
NETWORK = random_network((K, 15, N), seed=1, bias=True)
CPU = torch.device("cpu")
RNG = np.random.default_rng(1)
MEASUREMENTS = {
    "whole": None,
    "mask": RNG.random(N) < 0.6,
    "masks": RNG.random((B, N)) < 0.6,
    "matrix": RNG.standard_normal((12, N)),
}
# A sum of n products in single precision is off by n + 1 roundings of 2^-24 of the sum of their sizes, and so is what
# reaches it from the layer below.
SINGLE = (K + 1 + 15 + 1) * 2.0**-24


def sizes(z):
    """|W_2| (|W_1| |z| + |b_1|) + |b_2|: the sums of the sizes of the terms of each output."""
    h = np.abs(z.numpy(), dtype=np.float64)
    for layer in NETWORK.layers:
        h = h @ np.abs(layer.matrix()).T + np.abs(layer.bias())
    return h


every_measurement = pytest.mark.parametrize("kind", MEASUREMENTS)


def samples_of(network):
    """The samples that searches of its outputs use."""
    return SampleCache.of(Problem.build(network, np.zeros(network.output_dim)))


def measured(kind, network=NETWORK, seed=2):
    """The operator in single precision, its matrix for each observation, and noisy observations."""
    given = MEASUREMENTS[kind]
    m = 12 if kind == "matrix" else N
    operator = read_operator(given, (N,), (B, m)).to(torch.float32, CPU)
    kept = np.broadcast_to(np.ones(N) if given is None else given, (B, N)) if m == N else None
    matrices = [given] * B if kept is None else [np.eye(N)[row > 0] for row in kept]
    rng = np.random.default_rng(seed)
    x = network(rng.standard_normal((B, K))) + 0.1 * rng.standard_normal((B, N))
    y = np.stack([a @ row for a, row in zip(matrices, x, strict=True)]) if kept is None else x * kept
    return operator, matrices, torch.tensor(y, dtype=torch.float32), x


def textbook(cache, matrix, seen, noise):
    """The conditional distribution of z given y = A x + e, if (z, x) are Gaussian with the moments of the samples.

    Its mean is mean z + C_zx A^T (A C_xx A^T + noise I)^-1 (y - A mean x), the covariance I less that gain of A C_xz.
    """
    x, z = cache.model.x.double().numpy(), cache.model.z.double().numpy()
    deviations, codes = x - x.mean(axis=0), z - z.mean(axis=0)
    c_xx, c_zx = deviations.T @ deviations / len(x), codes.T @ deviations / len(x)
    gain = np.linalg.solve(matrix @ c_xx @ matrix.T + noise * np.eye(len(matrix)), matrix @ c_zx.T).T
    mean = z.mean(axis=0) + gain @ (seen - matrix @ x.mean(axis=0))
    return mean, np.eye(len(c_zx)) - gain @ matrix @ c_zx.T


@every_measurement
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_the_posterior_is_the_textbooks(kind, noise):
    """But that codes are N(0, I), whose covariance the samples have up to sampling error."""
    operator, matrices, y, x = measured(kind)
    cache = samples_of(NETWORK)
    mean, covariance = (part.numpy() for part in cache.model.posterior(operator, y, noise))
    assert covariance.shape == (B if kind == "masks" else 1, K, K)
    expected = [textbook(cache, a, a @ row, noise) for a, row in zip(matrices, x, strict=True)]
    np.testing.assert_allclose(mean, [each[0] for each in expected], atol=2e-4)
    np.testing.assert_allclose(np.broadcast_to(covariance, (B, K, K)), [each[1] for each in expected], atol=2e-4)
    assert np.abs(mean).max() > 0.3


def test_a_posterior_is_computed_in_parts_where_each_observation_has_a_mask(monkeypatch):
    operator, _, y, _ = measured("masks")
    cache = samples_of(NETWORK)
    whole = cache.model.posterior(operator, y, 0.1)
    monkeypatch.setattr(cache_module, "SAMPLE_NUMBERS", 1)  # one at a time
    for one, other in zip(whole, cache.model.posterior(operator, y, 0.1), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_what_few_directions_leave_over_counts_as_noise(monkeypatch):
    monkeypatch.setattr(cache_module, "_DIRECTIONS", 5)
    cache = SampleCache(NETWORK)
    mean_x, mean_z, directions, codes, left = (np.asarray(part, dtype=np.float64) for part in cache.model.parts)
    assert directions.shape == (5, N)
    assert (directions**2).sum() + N * left == pytest.approx(N * cache.model.spread, rel=1e-3)
    assert left > 0.05 * cache.model.spread
    operator, _, y, x = measured("whole")
    covariance = directions.T @ directions + (left + 0.1) * np.eye(N)
    expected = mean_z + (x - mean_x) @ np.linalg.solve(covariance, directions.T @ codes)
    np.testing.assert_allclose(cache.model.posterior(operator, y, 0.1)[0], expected, atol=2e-4)


def test_samples_are_outputs_of_normal_codes():
    cache = samples_of(NETWORK)
    assert single(NETWORK).dtype == cache.model.z.dtype == cache.model.x.dtype == torch.float32
    assert cache.model.z.shape == (4096, K)
    assert (np.abs(cache.model.x.numpy() - NETWORK(cache.model.z.numpy())) <= SINGLE * sizes(cache.model.z)).all()
    np.testing.assert_allclose(np.cov(cache.model.z.T), np.eye(K), atol=0.1)
    assert cache.model.spread == pytest.approx(cache.model.x.double().numpy().var(axis=0).mean(), rel=1e-3)


def test_samples_are_drawn_once_for_a_network():
    network = random_network((3, 8, 12), seed=5)
    first = samples_of(network)
    assert samples_of(network) is first
    assert first.model.parts is first.model.parts
    assert samples_of(random_network((3, 8, 12), seed=5)) is not first
    again = SampleCache(network)
    assert again is not first
    for one, two in (
        (first.model.z, again.model.z),
        (first.model.x, again.model.x),
        *zip(first.model.parts[:4], again.model.parts[:4], strict=True),
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("branches", [False, True])
def test_samples_go_with_their_network(branches):
    network = from_torch(made(Residual), latent_shape=5) if branches else random_network((3, 8, 12), seed=6)
    cache = samples_of(network)
    gone = weakref.ref(cache)
    del network, cache
    gc.collect()
    assert gone() is None
