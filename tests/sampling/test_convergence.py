"""R-hat, effective sample sizes and Monte Carlo errors: against a loop as published, and known chains."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import rankdata

from unrelu.errors import InputError
from unrelu.runtime.streams import stream
from unrelu.sampling.convergence import ESS, RHAT, Convergence, convergence_of, error_of_mean, ess_of_mean


def autoregressive(chains: int, draws: int, k: int, correlation: float) -> np.ndarray:
    """Stationary chains of N(0, 1), whose autocorrelations are powers of ``correlation``."""
    x = stream("convergence", chains, draws, k).standard_normal((chains, draws, k))
    for t in range(1, draws):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * x[:, t]
    return x


def cases() -> dict[str, np.ndarray]:
    found = {
        f"{correlation} x {draws}": autoregressive(4, draws, 2, correlation)
        for draws in (4, 5, 6, 7, 8, 9, 51, 200)
        for correlation in (0.0, 0.9, -0.9, -0.99, 0.999)
    }
    x = autoregressive(4, 101, 3, 0.5)
    infinite = x.copy()
    infinite[1, 3:9, 1] = -np.inf
    return found | {
        "heavy tails": stream("heavy tails").standard_cauchy((4, 300, 2)),
        "constant": np.ones((4, 50, 1)),
        "constant in each chain": np.repeat(np.arange(4.0), 50).reshape(4, 50, 1),
        "ties": np.round(x),
        "two values": (x > 1).astype(float),
        "one chain": x[:1],
        "infinite": infinite,
        "other means": x + np.arange(4)[:, None, None],
        "other widths": x * np.arange(1, 5)[:, None, None],
    }


CASES = cases()


def loop_ess(chains: np.ndarray) -> float:
    """The effective sample size of chains (M, n), one lag after the other."""
    m, n = chains.shape
    if np.ptp(chains) == 0:
        return m * n
    centred = chains - chains.mean(axis=1, keepdims=True)
    covariance = [float(np.mean([c[: n - t] @ c[t:] / n for c in centred])) for t in range(n)]
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + np.var(chains.mean(axis=1), ddof=1)
    rho = [1.0] + [1 - (within - c) / total for c in covariance[1:]]
    pairs, t = [rho[0] + rho[1]], 2
    while t <= n - 3 and pairs[-1] > 0:
        pairs.append(min(rho[t] + rho[t + 1], max(pairs[-1], 0) if len(pairs) > 1 else pairs[-1]))
        t += 2
    last = rho[t - 2] if rho[t - 2] > 0 or rho[t - 2] + rho[t - 1] >= 0 else 0.0
    return m * n / max(2 * sum(pairs[:-1]) - 1 + last, 1 / math.log10(m * n))


def loop_statistics(x: np.ndarray) -> tuple[float, float, float]:
    """R-hat and the sample sizes of bulk and tails of chains (C, D), D even."""

    def split(v: np.ndarray) -> np.ndarray:
        return np.concatenate([v[:, : v.shape[1] // 2], v[:, v.shape[1] // 2 :]])

    def scores(v: np.ndarray) -> np.ndarray:
        return ndtri((rankdata(v.ravel()) - 3 / 8) / (v.size + 1 / 4)).reshape(v.shape)

    def rhat(v: np.ndarray) -> float:
        n = v.shape[1]
        return math.sqrt((n - 1) / n + np.var(v.mean(axis=1), ddof=1) / np.var(v, axis=1, ddof=1).mean())

    halves = split(x)
    folded = np.abs(halves - np.median(halves))
    tails = [loop_ess(split((x <= np.quantile(x, p)).astype(float))) for p in (0.05, 0.95)]
    return max(rhat(scores(halves)), rhat(scores(folded))), loop_ess(scores(halves)), min(tails)


@pytest.mark.parametrize("name", ["0.9 x 200", "-0.9 x 200", "0.999 x 8", "heavy tails", "other means", "other widths"])
def test_values_are_those_of_a_loop_over_lags(name):
    x = CASES[name][:, : CASES[name].shape[1] // 2 * 2]
    found = convergence_of(x)
    for j in range(x.shape[2]):
        np.testing.assert_allclose([found.rhat[j], found.ess[j], found.tail_ess[j]], loop_statistics(x[:, :, j]))


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


def test_a_coordinate_does_not_depend_on_the_others():
    x = np.concatenate([autoregressive(4, 100, 3, 0.5), CASES["constant"].repeat(2, axis=1)], axis=2)
    x[2, 7, 1] = np.nan
    together = convergence_of(x)
    for j in range(4):
        alone = convergence_of(x[:, :, j : j + 1])
        for name in ("rhat", "ess", "tail_ess"):
            np.testing.assert_array_equal(getattr(together, name)[j], getattr(alone, name)[0])
    assert np.isnan(together.ess[1])
    assert np.isnan(together.rhat[3])
    assert together.ess[3] == 400


def test_one_chain_has_sample_sizes_alone_and_infinite_draws_have_statistics():
    one = convergence_of(CASES["one chain"])
    assert np.isnan(one.rhat).all()
    assert (one.ess > 4).all()
    for name in ("infinite", "ties", "two values"):
        found = convergence_of(CASES[name])  # and no warning of NumPy
        assert np.isfinite([found.ess, found.tail_ess]).all()


def test_statistics_do_not_depend_on_increasing_maps():
    x = autoregressive(4, 100, 2, 0.5)
    plain, curved = convergence_of(x), convergence_of(np.exp(x))
    np.testing.assert_array_equal(plain.ess, curved.ess)


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
