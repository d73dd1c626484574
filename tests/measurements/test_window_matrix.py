"""Observations binned by a window matrix, with a covariance of the bins: brute force, SciPy, and the folded layer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, sparse

import unrelu
from tests.support import random_network

N, M, K = 400, 25, 3
NET = random_network((K, 24, N), "leaky_relu", seed=6, bias=True)
# The last layer of an emulator has no activation.
NET = unrelu.from_arrays(
    [layer.matrix() for layer in NET.layers], [layer.bias() for layer in NET.layers],
    activation=["leaky_relu", "identity"],
)  # fmt: skip
CENTRES = (np.arange(M) + 0.5) * N / M
WINDOWS = np.exp(-0.5 * ((np.arange(N) - CENTRES[:, None]) / 8) ** 2)
WINDOWS /= WINDOWS.sum(axis=1, keepdims=True)
RNG = np.random.default_rng([37, 3])
FACTOR = RNG.normal(size=(M, M))
COVARIANCE = 1e-4 * (FACTOR @ FACTOR.T + M * np.eye(M)) / M
TRUTH = RNG.normal(size=(4, K))
Y = NET(TRUTH) @ WINDOWS.T + RNG.normal(size=(4, M)) @ np.linalg.cholesky(COVARIANCE).T
NOISE = unrelu.Gaussian(covariance=COVARIANCE)


def chi_square(z, y):
    r = y - WINDOWS @ NET(z)
    return r @ np.linalg.solve(COVARIANCE, r)


@pytest.mark.parametrize(
    "form", [unrelu.Matrix, lambda w: w, sparse.csr_array, lambda w: unrelu.Matrix(sparse.csr_array(w))]
)
def test_the_best_code_is_that_of_scipy_in_every_form(form):
    r = unrelu.invert(NET, Y, operator=form(WINDOWS), noise=NOISE)
    for z, fun, y in zip(r.z, r.fun, Y, strict=True):
        assert fun == pytest.approx(chi_square(z, y), rel=1e-8)
        starts = [z, *np.random.default_rng(7).normal(size=(5, K))]
        best = min(optimize.minimize(chi_square, start, (y,), method="Nelder-Mead").fun for start in starts)
        assert fun <= best * (1 + 1e-6)


def test_chi_square_is_printed_with_its_degrees_of_freedom():
    prior = unrelu.Normal(0, 2)
    r = unrelu.invert(NET, Y[0], "lm", z0=TRUTH[0], operator=WINDOWS, noise=NOISE, prior=prior)
    square = chi_square(r.z, Y[0])
    assert r.fun == pytest.approx(square + (r.z**2).sum() / 4)
    assert f"chi-square {square:.3g} for {M - r.used:.4g} degrees of freedom" in " ".join(str(r).split())
    assert 2 < r.used < 4
    few = unrelu.invert(NET, Y[0, :2], "lm", z0=TRUTH[0], operator=WINDOWS[:2], noise="gaussian:0.01")
    assert "and no degree of freedom left" in " ".join(str(few).split())
    assert "chi-square" not in str(unrelu.invert(NET, Y[0], "lm", z0=TRUTH[0], operator=WINDOWS, noise="uniform:0.1"))
