"""Posterior predictive p-values against Gelman, Meng and Stern's definition, on models known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import unrelu

W = np.linspace(1.0, 2.0, 12)[:, None]
Y = 0.4 * W[:, 0] + 0.5 * np.random.default_rng(7).standard_normal(12)
NETWORK = unrelu.from_arrays([W], activation="identity")


def error_of(p: float, draws: int = 1000) -> float:
    """Five standard errors of a share of so many draws."""
    return 5 * (p * (1 - p) / draws) ** 0.5


def test_chi_square_is_that_of_the_definition() -> None:
    """Given z, chi-square of a replicate has m degrees of freedom; p averages its tail over the posterior."""
    p = unrelu.posterior(NETWORK, Y, noise="gaussian:0.5", draws=500)
    precision = (W**2).sum() / 0.25 + 1
    z = (W[:, 0] @ Y / 0.25) / precision + precision**-0.5 * stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    square = np.square(Y - z[:, None] * W[:, 0]).sum(axis=1) / 0.25
    expected = stats.chi2.sf(square, 12).mean()
    assert p.predictive() == pytest.approx(expected, abs=error_of(expected))


def test_a_statistic_of_the_observation_alone_is_that_of_the_predictive_distribution() -> None:
    """The mean of a replicate is normal, so that its tail is known."""
    p = unrelu.posterior(NETWORK, Y, noise="gaussian:0.5", draws=500)
    precision = (W**2).sum() / 0.25 + 1
    mean = (W[:, 0] @ Y / 0.25) / precision * W.mean()
    deviation = (W.mean() ** 2 / precision + 0.25 / 12) ** 0.5
    expected = stats.norm.sf(Y.mean(), mean, deviation)
    assert p.predictive(lambda y, mean: y.mean(axis=1)) == pytest.approx(expected, abs=error_of(expected))


def test_a_wrong_model_has_a_small_p_value_and_an_unknown_level_an_inconspicuous_one() -> None:
    wrong = unrelu.posterior(NETWORK, Y, noise="gaussian:0.1", draws=200)
    assert wrong.predictive() < 0.01
    fitted = unrelu.posterior(NETWORK, Y, noise=unrelu.Gaussian(0.1, extra=(0, 2)), draws=200)
    # Given a level, chi-square has m degrees of freedom; the level follows y, so that the tail is near the middle.
    assert 0.2 < fitted.predictive() < 0.9


def test_batches_masks_and_counts() -> None:
    mask = np.repeat([1, 0], 6)
    y = np.where(mask, Y, 50.0)
    p = unrelu.posterior(NETWORK, [y, Y], operator=[mask, np.ones(12)], noise="gaussian:0.5", draws=200)
    values = p.predictive()
    assert values.shape == (2,)
    assert (values > 0.01).all()
    assert p[1].predictive() == values[1]
    network = unrelu.from_arrays([3 * np.ones((30, 1))], [np.full(30, 5.0)])
    counts = unrelu.posterior(network, np.full(30, 6.0), noise="poisson", draws=200)
    assert counts.predictive() > 0.99  # far more even than counts are


def test_statistics_of_another_shape_are_refused() -> None:
    p = unrelu.posterior(NETWORK, Y, noise="gaussian:0.5", draws=50)
    with pytest.raises(unrelu.errors.InputError, match=r"shape \(\) for \(400, 12\); it returns a number a row"):
        p.predictive(lambda y, mean: y.sum())
