"""What a fit takes from the noise, the shape of residuals, and fits that are no better than chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import unrelu
from tests.support import at_least, at_most, farthest, random_network
from unrelu.diagnostics import _goodness_of_fit
from unrelu.diagnostics._goodness_of_fit import chance, goodness_of_fit
from unrelu.problem import Problem
from unrelu.result.residual_tests import deciding, together
from unrelu.result.uniqueness import LocalUniqueness, Uniqueness
from unrelu.runtime.streams import stream

NET = random_network((3, 12, 40), bias=True)


def fitted(network, sigma=0.1, count=200, **options):
    """Own outputs with noise, fitted from their codes."""
    z = stream("fit: truth").standard_normal((count, network.latent_dim))
    y = network(z) + sigma * stream("fit: noise").standard_normal((count, network.output_dim))
    return unrelu.invert(network, y, "lm", z0=z, noise=f"gaussian:{sigma}", **options), y


def test_an_affine_generator_uses_its_rank():
    network = random_network((4, 30), "identity", bias=True)
    problem = Problem.build(network, network(np.ones((1, 4))), noise="gaussian:10")
    used, *_ = goodness_of_fit(problem, np.ones((1, 4)), problem.y * 0, Uniqueness.unknown(1))
    assert used[0] == pytest.approx(4)


def test_held_coordinates_are_taken_out_of_the_jacobian():
    network = unrelu.from_arrays([np.diag([1.0, 1, 1, 0, 0, 0])], activation="identity")
    z = np.column_stack([np.ones((2000, 3)), stream("fit: free").uniform(-1, 1, (2000, 3))])
    noise = 0.1 * np.abs(stream("fit: outwards").standard_normal((2000, 6)))
    r = unrelu.invert(network, network(z) + noise, "lm", z0=z, bounds=(-1, 1), noise="gaussian:0.1")
    assert (r.active_bounds[:, :3] == 1).all()
    # All six entries are left to test: chi-square with 6 degrees of freedom.
    assert at_least(2000, 0.01) <= (r.p_value < 0.01).sum() <= at_most(2000, 0.01)


def test_p_values_of_own_outputs_are_uniform():
    r, _ = fitted(NET, count=1000)
    assert stats.kstest(r.p_value, "uniform").statistic < farthest(1000)
    assert (r.p_value < 0.01).sum() <= at_most(1000, 0.01)


def test_an_affine_generator_with_a_prior_and_few_measurements_has_uniform_p_values():
    rng = stream("fit: affine, prior")
    a, weights = rng.standard_normal((14, 64)) / 8, 0.03 * rng.standard_normal((64, 8))
    z, e = rng.standard_normal((2000, 8)), 0.1 * rng.standard_normal((2000, 14))
    network = unrelu.from_arrays([weights], activation="identity")
    r = unrelu.invert(network, network(z) @ a.T + e, operator=a, noise="gaussian:0.1", prior=unrelu.Normal())
    assert at_least(2000, 0.01) <= (r.p_value < 0.01).sum() <= at_most(2000, 0.01)
    assert stats.kstest(r.p_value, "uniform").statistic < farthest(2000)


@pytest.mark.parametrize("m", [8, 10])
def test_a_relu_generator_with_a_prior_and_few_measurements_has_no_small_p_values(m):
    network, rng = random_network((6, 24, 40), bias=True), stream("fit: relu, prior")
    z, a = rng.standard_normal((500, 6)), rng.standard_normal((m, 40)) / np.sqrt(40)
    y = network(z) @ a.T
    sigma = 0.3 * y.std()
    y += sigma * rng.standard_normal(y.shape)
    r = unrelu.invert(network, y, "lm", z0=z, operator=a, noise=f"gaussian:{sigma}", prior=unrelu.Normal())
    assert (r.p_value < 0.01).sum() <= at_most(500, 0.01)
    assert 0.4 < r.p_value.mean() < 0.6  # the mean of 500 uniform draws deviates by 0.013


def test_a_weak_prior_is_the_limit_of_none_and_n01_takes_the_trace_of_the_hat_matrix():
    z = np.full((1, 3), 0.5)
    y, sigma = NET(z), 5.0

    def used(prior):
        problem = Problem.build(NET, y, noise=f"gaussian:{sigma}", prior=prior)
        return goodness_of_fit(problem, z, y * 0, Uniqueness.unknown(1)).used[0]

    squares = np.linalg.svd(NET.jacobian(z)[0], compute_uv=False) ** 2
    ridge = (sigma / 0.87) ** 2
    share = squares / (squares + ridge)
    assert used(sigma**2) == pytest.approx(share.sum())
    assert used(0.5 * sigma**2) == pytest.approx((used(0) + used(sigma**2)) / 2)
    assert used(1e-9) == pytest.approx(used(0))
    assert used(0) > share.sum() + 0.1


def test_white_noise_is_explained_by_chance_and_own_outputs_are_not():
    r, y = fitted(NET, count=20)
    seen = np.ones(y.shape, dtype=bool)
    used = np.full(20, 3.0)
    assert (chance(y - r.reconstruction, y, seen, used) < 1e-3).all()
    white = stream("fit: white").standard_normal((5000, 40))
    basis = np.linalg.qr(stream("fit: basis").standard_normal((40, 3)) - 0.0)[0]
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    left = white - white.mean(axis=1, keepdims=True)
    left -= left @ basis @ basis.T
    p = chance(left, white, np.ones(white.shape, dtype=bool), np.full(5000, 3.0))
    assert stats.kstest(p, "uniform").statistic < farthest(5000)


def test_out_of_distribution_observations_are_no_success_without_stated_noise():
    y = 5 * stream("fit: strangers").standard_normal((10, 40))
    r = unrelu.invert(NET, y, pool=False)
    assert not r.success.any()
    assert not unrelu.invert(NET, np.full((1, 40), 3.0)).success.any()


def linear_fits(count, m, k):
    """P-values of the size and the shape of residuals that least squares leaves of unit noise; how many entries; u."""
    matrix = stream("fit: linear", m, k).standard_normal((m, k))
    y = stream("fit: linear noise", m, k).standard_normal((count, m))
    network = unrelu.from_arrays([matrix], activation="identity")
    problem = Problem.build(network, y, noise="gaussian:1")
    z = np.linalg.lstsq(matrix, y.T, rcond=None)[0].T
    residual = y - z @ matrix.T
    used, shape, _ = goodness_of_fit(problem, z, residual, Uniqueness.unknown(count))
    return problem.p_value(problem.fit_of(z @ matrix.T, used)), shape, problem.observed, used


@pytest.mark.parametrize(("m", "k"), [(40, 4), (12, 5)])
def test_the_joint_distribution_of_size_and_largest_entry_is_that_of_least_squares(m, k):
    size, shape, observed, used = linear_fits(4000, m, k)
    shape[:, 1] = np.nan  # every residual is orthogonal to the outputs
    p = together(np.column_stack([size, shape]), observed, used)
    assert np.corrcoef(size, shape[:, 0])[0, 1] > 0.3
    assert stats.kstest(p, "uniform").statistic < farthest(4000) + 0.025  # Sidak's inequality is one
    assert at_least(4000, 0.01) <= (p < 0.01).sum() <= at_most(4000, 0.01)


def test_the_residual_of_noise_far_below_the_stated_one_explains_whatever_its_structure():
    direction = NET(stream("fit: structured").standard_normal((1, 3)))
    r, _ = fitted(NET, count=20)
    tilted = r.reconstruction + 0.02 * direction / np.abs(direction).max()  # no noise, all structure
    told = unrelu.invert(NET, tilted, "lm", z0=r.z, noise="gaussian:1")
    assert told.success.all()
    assert (told.p_structure > 0.99).all()
    assert all("fits the observation to the stated noise level" in message for message in told.message)
    nearer = unrelu.invert(NET, tilted, "lm", z0=r.z, noise="gaussian:0.01")
    assert (nearer.p_structure < 0.9).any()


def test_the_tests_are_named_with_the_one_that_decides():
    r, y = fitted(NET, count=20)
    np.testing.assert_allclose(r.p_size, stats.chi2.sf(r.residual() ** 2 / 0.01, 40 - r.used), rtol=1e-9)
    y[:, 7] = r.reconstruction[:, 7] + 1.5
    wrong = unrelu.invert(NET, y, "lm", z0=r.z, noise="gaussian:0.1")
    by = deciding(np.column_stack([wrong.p_size, wrong.p_largest, wrong.p_structure]))
    for i, name in enumerate(("size", "largest entry", "structure")):
        for message in wrong.message[(by == i) & ~wrong.success]:
            assert "(decides)" in message.split(f", {name}" if i else f": {name}")[-1].split(",")[0]
    assert (by == 1).sum() > 10
    one = wrong[int(np.flatnonzero(by == 1)[0])]
    assert f"degrees of freedom, p = {one.p_size:.3g}; p = " in " ".join(str(one).split())


@pytest.mark.parametrize("unit", [3.0, 1e8])
def test_p_values_are_the_same_in_all_units(unit):
    rng = stream("fit: units")
    weights = [rng.standard_normal((30, 5)), rng.standard_normal((60, 30)) / 5]
    activations = ["relu", "identity"]
    z, e = rng.standard_normal((20, 5)), 0.1 * rng.standard_normal((20, 60))
    net = unrelu.from_arrays(weights, activation=activations)
    y = net(z) + e
    found = unrelu.invert(net, y, "lm", z0=z, noise="gaussian:0.1")
    scaled = unrelu.from_arrays([weights[0], unit * weights[1]], activation=activations)
    problem = Problem.build(scaled, unit * y, noise=f"gaussian:{0.1 * unit!r}").equilibrated()
    again = goodness_of_fit(problem, found.z, problem.residual(found.z), found.batch.uniqueness)
    np.testing.assert_allclose(again.used, found.used, rtol=1e-8)
    np.testing.assert_allclose(again.shape, np.column_stack([found.p_largest, found.p_structure]), atol=1e-8)
    beside = goodness_of_fit(
        problem, found.z + 1e-6, problem.residual(found.z), found.batch.uniqueness
    )  # beyond some kinks
    np.testing.assert_allclose(beside.used, found.used, atol=1e-3)


@pytest.mark.parametrize(("size", "asked"), [(1.0, False), (1.5, True), (9.0, False)])
def test_where_a_jacobian_is_expensive_the_rank_counts_only_if_it_may_decide(monkeypatch, size, asked):
    """Rank 1, k = 20, 40 entries: the residual is explained with 0 and 20 degrees of freedom, with 0 only, or never."""
    monkeypatch.setattr(_goodness_of_fit, "is_expensive", lambda network: True)
    network = unrelu.from_arrays([np.eye(40, 20)], activation="identity")
    y = np.full((1, 40), np.sqrt(20 / 40) * size)
    problem, local = Problem.build(network, y, noise="gaussian:1"), LocalUniqueness(*np.ones((3, 1), dtype=int))
    low, high = (stats.chi2.sf(20 * size**2, left) >= 0.01 for left in (40, 20))
    assert (low != high) == asked
    uniqueness = Uniqueness(lambda: local)
    assert goodness_of_fit(problem, np.zeros((1, 20)), y, uniqueness).used[0] == (1 if asked else 20)
    assert ("known" in vars(uniqueness)) == asked
