"""R-hat, effective sample sizes and Monte Carlo errors of known chains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unrelu.errors import InputError
from unrelu.runtime.streams import stream
from unrelu.sampling.convergence import ESS, RHAT, Convergence, convergence_of, error_of_mean, ess_of_mean


def autoregressive(chains: int, draws: int, k: int, correlation: float) -> np.ndarray:
    """Stationary chains of N(0, 1), whose autocorrelations are powers of ``correlation``."""
    x = stream("convergence", chains, draws, k).standard_normal((chains, draws, k))
    for t in range(1, draws):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * x[:, t]
    return x


X = autoregressive(4, 101, 3, 0.5)
INFINITE = X.copy()
INFINITE[1, 3:9, 1] = -np.inf
CASES = {
    "constant in each chain": np.repeat(np.arange(4.0), 50).reshape(4, 50, 1),
    "ties": np.round(X),
    "two values": (X > 1).astype(float),
    "one chain": X[:1],
    "infinite": INFINITE,
    "other means": X + np.arange(4)[:, None, None],
    "other widths": X * np.arange(1, 5)[:, None, None],
}


def test_the_effective_size_of_autoregressive_chains_is_known():
    """N (1 - a) / (1 + a), for the mean."""
    for correlation in (0.5, 0.9, -0.5):
        x = autoregressive(8, 4000, 20, correlation)
        expected = 32_000 * (1 - correlation) / (1 + correlation)
        assert np.median(ess_of_mean(x)) == pytest.approx(expected, rel=0.1)
        spread = np.std(x.mean(axis=(0, 1)) * math.sqrt(expected))  # of 20 means in units of their standard error
        assert 0.5 < spread < 1.7
        assert np.median(error_of_mean(x)) == pytest.approx(1 / math.sqrt(expected), rel=0.1)


def test_chains_at_other_places_or_of_other_widths_have_not_mixed():
    assert (convergence_of(CASES["other means"]).rhat > 1.2).all()
    assert (convergence_of(CASES["other widths"]).rhat > 1.1).all()
    still = convergence_of(CASES["constant in each chain"])
    assert np.isposinf(still.rhat).all()
    assert (still.ess < 10).all()


def test_one_chain_has_sample_sizes_alone_and_infinite_draws_have_statistics():
    one = convergence_of(CASES["one chain"])
    assert np.isnan(one.rhat).all()
    assert (one.ess > 4).all()
    for name in ("infinite", "ties", "two values"):
        found = convergence_of(CASES[name])  # and no warning of NumPy
        assert np.isfinite([found.ess, found.tail_ess]).all()


def test_chains_have_mixed_if_all_three_are_within_their_limits():
    good, bad = np.array([RHAT, 1.0, 1.0, 1.0, np.nan]), np.nextafter(RHAT, 2)
    sizes = np.array([ESS, ESS - 1e-9, ESS, ESS, ESS], dtype=float)
    found = Convergence(np.where(np.arange(5) == 2, bad, good), sizes, np.array([ESS, ESS, ESS, 399.0, ESS]))
    assert found.mixed.tolist() == [True, False, False, False, False]


def test_too_few_draws_have_no_statistics():
    for x in (np.zeros((2, 3, 2)), np.zeros((0, 10, 2)), np.zeros((4, 0, 2))):
        found = convergence_of(x)
        assert np.isnan([found.rhat, found.ess, found.tail_ess]).all()
        assert np.isnan(ess_of_mean(x)).all()
    with pytest.raises(InputError, match=r"shape \(4, 10\); pass \(chain, draw, coordinate\)"):
        convergence_of(np.zeros((4, 10)))
