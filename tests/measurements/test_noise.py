"""Goodness of fit under the stated noise: against simulation and SciPy's distributions, and of codes that are lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.support import at_least, at_most, farthest, random_network
from unrelu.errors import InputError
from unrelu.measurements.additive_noise import Gaussian, Outliers, Uniform
from unrelu.measurements.noise import parse_noise
from unrelu.problem import Problem
from unrelu.runtime.streams import stream

NET = random_network((3, 8, 20), bias=True)


def observations(batch):
    z = stream("test truth").standard_normal((batch, 3))
    return z, NET(z)


def p_values(noise, y, z, used=0, network=NET, **options):
    """The p-values of codes z for observations y."""
    problem = Problem.build(network, y, noise=noise, **options)
    return problem.p_value(problem.fit_of(network(z), np.full(len(z), float(used))))


def test_uniform_noise_is_a_bound():
    z, y = observations(3)
    y[:, 3] += [0.0999, 0.1, 0.1001]
    assert p_values("uniform:0.1", y, z).tolist() == [1, 1, 0]


@pytest.mark.parametrize("level", [0.1, 3.0])
def test_gaussian_p_values_of_the_true_code_are_uniform(level):
    z, y = observations(40_000)
    y += stream("test noise").normal(0, level, y.shape)
    p = p_values(f"gaussian:{level}", y, z)
    assert stats.kstest(p, "uniform").statistic < farthest(40_000)
    assert at_least(40_000, 0.01) <= (p < 0.01).sum() <= at_most(40_000, 0.01)
    assert (p_values(f"gaussian:{level / 4}", y, z) >= 0.01).mean() < 0.01


def test_a_linear_fit_takes_its_rank_from_the_degrees_of_freedom():
    """Least squares of m = 12 entries by k = 9 parameters leaves chi-square noise with 3 degrees, not 12."""
    rng = stream("test of a linear fit")
    network = random_network((9, 12), "identity", bias=True)
    y = network(np.zeros(9)) + 0.3 * rng.standard_normal((5000, 12))
    z = np.linalg.lstsq(network.layers[0].matrix(), (y - network(np.zeros(9))).T, rcond=None)[0].T
    assert stats.kstest(p_values("gaussian:0.3", y, z, 9, network), "uniform").statistic < farthest(5000)
    assert p_values("gaussian:0.3", y, z, 0, network).mean() > 0.95  # as if nothing had been fitted
    # A fit that takes all degrees of freedom cannot be tested; what is left is whether noise could be as large.
    np.testing.assert_allclose(
        p_values("gaussian:0.3", y[:3], z[:3] + 1, 12, network), p_values("gaussian:0.3", y[:3], z[:3] + 1, 0, network)
    )


@given(n=st.integers(1, 3000), share=st.floats(0, 0.999), off=st.integers(0, 40))
def test_outliers_are_counted(n, share, off):
    network = random_network((1, n), "identity")
    y = network(np.ones((1, 1)))
    y[0, : min(n, off)] += 100 * np.abs(y).max()
    expected = stats.binom.sf(min(n, off) - 1, n, share) if off else 1.0
    np.testing.assert_allclose(p_values(f"outliers:{share}", y, np.ones((1, 1)), 1, network), expected, rtol=1e-9)


@pytest.mark.parametrize("noise", ["gaussian:1e-300", "uniform:0", "outliers:0"])
def test_without_noise_only_an_exact_fit_is_explained(noise):
    z, y = observations(2)
    assert p_values(noise, y, z + np.array([[0], [1e-3]])).tolist() == [1, 0]
    assert p_values(noise, y, z, used=3).tolist() == [1, 1]


def test_an_outlier_does_not_hide_itself_by_its_size():
    """Were it measured by max|y|, an outlier of 1e9 would let errors of 1000 pass."""
    z, y = observations(2)
    off = z + np.array([[0.0], [1e-2]])
    y[:, 5] += 1e9
    p = p_values("outliers:0.05", y, off)
    assert p[0] == pytest.approx(stats.binom.sf(0, 20, 0.05))
    assert p[1] < 1e-4


@pytest.mark.parametrize(("noise", "p"), [("gaussian:0.001", 0), ("uniform:0.001", 0), (None, np.nan)])
def test_noise_that_was_stated_is_not_overruled_by_an_exact_fit(noise, p):
    """1e-8 of one huge entry is more than the noise of the others."""
    network = random_network((3, 20), "identity")
    y = network(np.ones((1, 3)))
    y[0, 1:] += 0.01
    y[0, 0] += 1e7
    problem = Problem.build(network, y, noise=noise)
    x = network(np.ones((1, 3)))
    x[0, 0] = y[0, 0]
    fit = problem.fit_of(x)
    assert problem.is_exact(fit.residual)
    np.testing.assert_equal(problem.p_value(fit), p)


@pytest.mark.parametrize("model", [Uniform, Gaussian, Outliers])
@given(level=st.floats(5e-324, 0.999))
def test_an_object_is_its_text(model, level):
    noise = model(level)
    assert parse_noise(str(noise)) == noise
    assert parse_noise(noise) is noise
    z, y = observations(2)
    y += 0.01
    np.testing.assert_array_equal(p_values(noise, y, z, 2), p_values(str(noise), y, z, 2))


def test_what_is_no_level_is_refused():
    for level, message in (("x", "'x' is not a number"), (-1, "above 0, got -1"), (math.inf, "must be finite")):
        with pytest.raises(InputError, match=message):
            Gaussian(level)
    for model in (Gaussian, Uniform):
        with pytest.raises(InputError, match="is not a number; write"):
            model(10**400)
        with pytest.raises(InputError, match=r"at least 2.2e-308, and infinite .* the first at \(1,\): 5e-309"):
            model([1.0, 5e-309])
    with pytest.raises(InputError, match="pass the standard deviation or covariance=, one of them"):
        Gaussian()
