"""Priors of other families, by a change of variable in front of the generator: posteriors are those of integrals.

A code z = T(t) with t ~ N(0, 1) and T the quantile function at Phi(t) has any distribution that is asked for.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import unrelu

RNG = np.random.default_rng([61, 1])
WEIGHTS = torch.tensor(RNG.standard_normal((6, 2))), torch.tensor(RNG.standard_normal((3, 6)))
NOISE = 0.4


def network(z):
    return torch.relu(z @ WEIGHTS[0].T) @ WEIGHTS[1].T


def laplace(t):
    """Quantiles of exp(-|z|) / 2, by the logarithm of the tail."""
    tail = math.log(2) + torch.special.log_ndtr(-t.abs())
    return torch.where(t < 0, tail, -tail)


def student(t):
    """Quantiles of Student's distribution with two degrees of freedom."""
    below, above = torch.special.ndtr(t), torch.special.ndtr(-t)
    return (below - above) / torch.sqrt(2 * below * above)


DENSITIES = {laplace: lambda z: np.exp(-np.abs(z)), student: lambda z: (2 + z**2) ** -1.5}


@pytest.mark.parametrize("quantiles", DENSITIES, ids=lambda each: each.__name__)
def test_a_posterior_is_that_of_integrals(quantiles):
    truth = torch.tensor([[0.8, -0.6]], dtype=torch.float64)
    y = network(truth)[0].numpy() + NOISE * np.array([0.5, -0.7, 0.2])
    p = unrelu.posterior(
        unrelu.from_torch(lambda t: network(quantiles(t)), latent_shape=(2,)), y,
        noise=unrelu.Gaussian(NOISE), draws=2000, seed=3,
    )  # fmt: skip
    assert p.status.name == "MIXED"  # at least 400 effective draws

    axis = np.linspace(-12, 12, 1201)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    residual = (network(torch.tensor(z)).numpy() - y) / NOISE
    weights = np.exp(-0.5 * np.square(residual).sum(axis=1)) * DENSITIES[quantiles](z).prod(axis=1)
    # Within the box, so that both have moments.
    drawn = quantiles(torch.tensor(p.z.reshape(-1, 2))).numpy()
    drawn = drawn[(np.abs(drawn) < 12).all(axis=1)]
    for function in (lambda z: z, np.square, lambda z: z > 0.5):
        expected = np.average(function(z), axis=0, weights=weights)
        deviation = np.sqrt(np.average(np.square(function(z) - expected), axis=0, weights=weights))
        assert np.all(np.abs(function(drawn).mean(axis=0) - expected) <= 4 * deviation / math.sqrt(400))
