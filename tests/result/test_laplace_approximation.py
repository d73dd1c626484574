"""The Laplace approximation: against closed forms, numerical second derivatives, Fisher information and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import unrelu
from tests.support import random_network
from unrelu.errors import InputError
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.result.laplace_approximation import LEVELS, _one_sided
from unrelu.runtime.words import rounded

S = 0.3
MEAN, STD = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.5, 2.0, 0.1, 1.3])
SIZES = np.random.default_rng(1).uniform(0.2, 0.6, 12)
FACTOR = 0.3 * np.eye(12) + 0.05 * np.tri(12)
NOISE = {
    "number": (unrelu.Gaussian(S), np.eye(12) / S**2),
    "array": (unrelu.Gaussian(SIZES), np.diag(1 / SIZES**2)),
    "covariance": (unrelu.Gaussian(covariance=FACTOR @ FACTOR.T), np.linalg.inv(FACTOR @ FACTOR.T)),
}
PRIORS = {
    "none": (0.0, np.zeros(4)),
    "normal": (unrelu.Normal(MEAN, STD), 1 / STD**2),
    "number": (0.5, None),  # precision: the number, in units of the noise's dispersion parameter
}


def linear(scale=1.0):
    rng = np.random.default_rng(2)
    matrix = scale * rng.normal(size=(12, 4))
    network = unrelu.from_arrays([matrix], activation="identity")
    return network, matrix, network(MEAN + STD * rng.normal(size=(3, 4))) + scale * S * rng.normal(size=(3, 12))


def at(network, y, codes, **stated):
    """The approximation at codes of one's own."""
    problem = Problem.build(network, y, **{"noise": "gaussian:0.1", **stated})
    return Inversion.of(problem, np.array(codes), method="mine").laplace()


def check(found, covariance, jacobian, rtol=1e-8):
    np.testing.assert_allclose(found.covariance, covariance, rtol=rtol, atol=rtol * covariance.max())
    np.testing.assert_allclose(found.std.ravel(), np.sqrt(np.diag(covariance)), rtol=rtol)
    of_outputs = np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))
    np.testing.assert_allclose(found.reconstruction_std.ravel(), of_outputs, rtol=rtol, atol=rtol * of_outputs.max())


@pytest.mark.parametrize("of_codes", PRIORS)
@pytest.mark.parametrize("case", NOISE)
def test_of_a_linear_generator_it_is_the_posterior(case, of_codes):
    network, matrix, y = linear()
    noise, precision = NOISE[case]
    prior, inverse = PRIORS[of_codes]
    if inverse is None:
        inverse = np.full(4, prior / (S**2 if case == "number" else 1.0))
    r = unrelu.invert(network, y, noise=noise, prior=prior)
    found = r.laplace()
    exact = np.linalg.inv(matrix.T @ precision @ matrix + np.diag(inverse))
    assert found.covariance.shape == (3, 4, 4)
    assert found.std.shape == r.z.shape
    assert found.reconstruction_std.shape == r.reconstruction.shape
    for i in range(3):
        check(r[i].laplace(), exact, matrix)
        np.testing.assert_array_equal(found.covariance[i], r[i].laplace().covariance)
    assert found.decrement.max() < 1e-5
    # A code that is d standard deviations from the optimum tilts the weights of the draws, which sum to 1, by d.
    assert (np.abs(found.shares - LEVELS) <= found.decrement[:, None] + 1e-9).all()
    assert found.holds.tolist() == [True] * 3
    assert str(found).endswith("everywhere")


def hessian(function, z, step=1e-3):
    """Second derivatives by central differences of a function that is smooth within 2 steps of z."""
    k = len(z)
    unit, found = step * np.eye(k), np.empty((k, k))
    for i in range(k):
        for j in range(k):
            a, b = unit[i], unit[j]
            found[i, j] = (function(z + a + b) - function(z + a - b) - function(z - a + b) + function(z - a - b)) / 4
    return found / step**2


def curved():
    matrix = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 15)))
    return unrelu.from_torch(lambda z: torch.sin(z) @ matrix.to(z) + z.sum(1, keepdim=True) ** 2, latent_shape=4)


GENERATORS = {
    "leaky": lambda: random_network((4, 12, 15), "leaky_relu", seed=4, bias=True),
    "sigmoid": lambda: random_network((4, 12, 15), "sigmoid", seed=5, bias=True),
    "relu, tanh": lambda: random_network((4, 12, 15), "relu", seed=6, bias=True, last="tanh"),
    "opaque": curved,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_it_is_the_second_derivative_of_the_log_density(name):
    """With y = A G(z*) and a prior about z*, the residual is 0, so that curved generators agree as well."""
    network = GENERATORS[name]()
    rng = np.random.default_rng(7)
    z, operator = rng.normal(size=4), rng.normal(size=(9, 15))
    prior = unrelu.Normal(z, STD)
    r = unrelu.invert(network, operator @ network(z).ravel(), "lm", noise="gaussian:0.3", prior=prior,
                      operator=operator, z0=z)  # fmt: skip
    np.testing.assert_allclose(r.z, z, atol=1e-6)
    if name == "leaky":
        assert unrelu.identifiability(network, z).margin > 4e-3

    def half_minus_log_density(code):
        gap = operator @ (network(code) - network(z)).ravel()
        return 0.5 * (gap @ gap / S**2 + np.sum(((code - z) / STD) ** 2))

    jacobian = network.jacobian(z)
    # Differences of a fourth derivative of about 10 (S^-2), at steps of 1e-3, are off by about 1e-5.
    check(r.laplace(), np.linalg.inv(hessian(half_minus_log_density, z)), jacobian, rtol=2e-3)


def test_errors_of_simulated_codes_have_this_covariance():
    """Codes from the prior, observations of them, and how far the most probable codes are from the true ones."""
    network, matrix, _ = linear()
    rng, size = np.random.default_rng(9), 3000
    prior = unrelu.Normal(MEAN, STD)
    true = MEAN + STD * rng.normal(size=(size, 4))
    y = true @ matrix.T + S * rng.normal(size=(size, 12))
    r = unrelu.invert(network, y, "lm", noise=f"gaussian:{S}", prior=prior)
    whitened = np.linalg.solve(np.linalg.cholesky(r[0].laplace().covariance), (true - r.z).T)
    assert np.abs(whitened @ whitened.T / size - np.eye(4)).max() < 5 * np.sqrt(2 / size)
    off = (true @ matrix.T - r.reconstruction) / r[0].laplace().reconstruction_std
    assert np.abs((off**2).mean(axis=0) - 1).max() < 5 * np.sqrt(2 / size)


def partly_open():
    """Codes enter as z0 + z1 and z2; the last output, which is hidden, is z0. z3 is in none."""
    matrix = np.array([[1.0, 1, 0, 0], [2, 2, 1, 0], [0, 0, 3, 0], [1, 1, -1, 0], [1, 0, 0, 0]])
    return unrelu.from_arrays([matrix], activation="identity"), matrix, np.arange(5) < 4


def test_what_the_data_leave_open_is_infinite_and_what_does_not_move_is_finite():
    network, matrix, seen = partly_open()
    r = unrelu.invert(network, network(np.array([1.0, 2, 3, 4])), "lm", noise="gaussian:0.1", operator=seen)
    found = r.laplace()
    np.testing.assert_array_equal(np.isinf(found.std), [True, True, False, True])
    np.testing.assert_array_equal(np.isinf(found.reconstruction_std), ~seen)
    assert found.covariance[0, 1] == -np.inf
    assert np.isfinite(found.covariance[[0, 0, 1, 2], [2, 3, 3, 3]]).all()
    # The same in coordinates (z0 + z1, z2), of which nothing is open.
    reduced = matrix[:4, 1:3]
    exact = 0.01 * np.linalg.inv(reduced.T @ reduced)
    np.testing.assert_allclose(found.std[2] ** 2, exact[1, 1], rtol=1e-9)
    expected = np.sqrt(np.diag(reduced @ exact @ reduced.T))
    np.testing.assert_allclose(found.reconstruction_std[seen], expected, rtol=1e-9)
    assert "3 of 4 infinite: nothing determines them" in str(found)


def test_at_a_bound_it_has_the_moments_of_the_truncated_posterior():
    """One coordinate at a bound: the mean squares about the code, by a sum over a grid."""
    rng = np.random.default_rng(14)
    matrix = rng.normal(size=(6, 2))
    network = unrelu.from_arrays([matrix], activation="identity").named(["a", "b"])
    y = matrix @ np.array([0.5, -0.2]) + 0.3 * rng.normal(size=6)
    free = unrelu.invert(network, y, noise="gaussian:0.3", prior=unrelu.Normal()).z
    for side, bounds in ((-1, {"b": (free[1] + 0.1, np.inf)}), (1, {"b": (-np.inf, free[1] - 0.3)})):
        found = unrelu.invert(network, y, noise="gaussian:0.3", prior=unrelu.Normal(), bounds=bounds).laplace()
        a, b = np.meshgrid(np.linspace(-3, 3, 601), np.linspace(0, 3, 3001), indexing="ij")
        off = np.stack([a.ravel(), -side * b.ravel()])
        gap = (y - matrix @ found.z)[:, None] - matrix @ off
        weight = np.exp(-0.5 * (np.square(gap).sum(0) / 0.09 + np.square(found.z[:, None] + off).sum(0)))
        weight *= np.where(b.ravel() == 0, 0.5, 1)  # the trapezoidal rule
        np.testing.assert_allclose(found.covariance, off * weight @ off.T / weight.sum(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.std, np.sqrt(np.diag(found.covariance)), rtol=1e-12)
        ends = found.z[1] - np.array([1.0, 0.0] if side == 1 else [0.0, -1.0]) * found.std[1]
        np.testing.assert_allclose(found.intervals["b"], ends, rtol=1e-12)
        np.testing.assert_array_equal(found.held, [False, True])
        assert "1 at a bound, to one side" in str(found)


@pytest.mark.parametrize("room", [2.0, np.inf])
@pytest.mark.parametrize(("slope", "curvature"), [(0, 2), (1, 1), (5, 0.3), (1e3, 1), (2e4, 1), (3, 0), (0, 0)])
def test_mean_squares_to_one_side(slope, curvature, room):
    found = _one_sided(slope, curvature, room)
    if not slope and not curvature:
        assert found == room / np.sqrt(3)
        return
    unit = min(1 / slope if slope else np.inf, 1 / np.sqrt(curvature) if curvature else np.inf)
    s = unit * np.linspace(0, 40, 200001)
    weight = np.exp(-slope * s - curvature * s**2 / 2)
    mean = np.trapezoid(weight * s**2, s) / np.trapezoid(weight, s)
    np.testing.assert_allclose(found, min(np.sqrt(mean), room / np.sqrt(3)), rtol=1e-6)


def kinked(flat):
    """y = z above 0 and flat z below, twice."""
    network = unrelu.from_arrays([[[1.0], [-1.0]], [[1.0, -flat], [1.0, -flat]]], activation=["relu", "identity"])
    z = np.linspace(-60, 60, 240001)
    return network, z, np.where(z > 0, z, flat * z)


@pytest.mark.parametrize("flat", [0.02, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("kink", [0.02, 0.1, 2.0])
def test_shares_beyond_a_kink_are_those_of_the_posterior(kink, flat):
    """The posterior of one coordinate, by a sum; the code is above the kink, and its deviation is .1 / sqrt(2)."""
    network, z, x = kinked(flat)
    code = kink / (1 + 0.01 / 2 / 9)
    found = at(network, np.full(2, kink), [[code]], prior=unrelu.Normal(0, 3))
    density = np.exp(-((x - kink) ** 2) / 0.01 - z**2 / 18)
    exact = [density[(z - code) ** 2 <= stats.chi2.ppf(p, 1) * found.std[0] ** 2].sum() / density.sum() for p in LEVELS]
    short = np.max(LEVELS - np.array(exact))
    if short < 0.02 or short > 0.2:
        assert found.holds == (short < 0.02)
    if found.holds:
        np.testing.assert_allclose(found.shares, LEVELS, atol=0.1)


def test_it_says_where_it_does_not_hold():
    network, _, _ = kinked(0.02)
    found = at(network, [[0.02] * 2, [2.0] * 2], [[0.02], [2.0]], prior=unrelu.Normal(0, 3))
    assert found.holds.tolist() == [False, True]
    assert "not at 1 observation (0): kinks or curvature are in reach of the noise" in str(found)
    one = at(network, [0.02] * 2, [[0.02]], prior=unrelu.Normal(0, 3))
    assert one.holds is False
    assert "no, its 68.3, 90, 99 and 99.99% have" in str(one)
    np.testing.assert_array_equal(one.shares, found.shares[0])


def bent(curvature):
    """y = (a, b + curvature a^2): the posterior is a valley along a parabola, normal where the curvature is 0."""
    return unrelu.from_torch(lambda z: torch.stack([0.1 * z[:, 0], z[:, 1] + curvature * z[:, 0] ** 2], 1), 2)


@pytest.mark.parametrize(("curvature", "holds"), [(0.0, True), (0.01, True), (1.0, False)])
def test_a_bent_valley_is_seen(curvature, holds):
    """With noise of .1, a has the deviation 1, and b that of .1: the valley leaves the ellipsoid at curvatures of 1."""
    assert at(bent(curvature), np.zeros(2), np.zeros((1, 2)), bounds=(-4, 4)).holds is holds


def test_a_plateau_in_a_box_is_seen():
    """y = min(z, .3) at z = 0, with noise of .1: the plateau has the density e^-4.5, and most of the mass if wide."""
    net = unrelu.from_torch(lambda z: z - torch.relu(z - 0.3), latent_shape=1)
    for top, holds in ((0.35, True), (50.0, False)):
        assert at(net, [0.0], [[0.0]], bounds=(-1, top)).holds is holds


def test_of_slopes_that_are_not_finite_nothing_is_known():
    matrix = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 20)))
    net = unrelu.from_torch(lambda z: torch.sqrt(z.abs()) @ matrix.to(z), latent_shape=3)
    z = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    found = at(net, net(z), z, noise="gaussian:0.001", prior=unrelu.Normal())
    assert np.isnan(found.covariance[0]).all()
    assert np.isfinite(found.covariance[1]).all()
    assert found.holds.tolist() == [False, True]


def test_outputs_that_overflow_at_codes_around_are_no_warning():
    matrix = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 20)))
    net = unrelu.from_torch(lambda z: torch.exp(30 * z @ matrix.to(z)), latent_shape=3)
    z = np.array([0.1, 0.2, -0.1])
    assert at(net, net(z).ravel(), z[None], noise=unrelu.Gaussian(0.3 * float(np.abs(net(z)).max()))).holds is False


def test_where_all_is_open_it_does_not_hold():
    dead = unrelu.from_arrays([np.ones((4, 3))], [np.full(4, -1.0)])
    found = at(dead, np.zeros(4), np.zeros((1, 3)))
    assert np.isinf(found.std).all()
    assert found.holds is False


@pytest.mark.parametrize("scale", [1e-120, 1e-6, 1e9])
@pytest.mark.parametrize("prior", [0.0, unrelu.Normal(MEAN, STD)])
def test_it_does_not_depend_on_units(scale, prior):
    (network, _, y), (other, _, there) = linear(), linear(scale)
    one = unrelu.invert(network, y, "lm", noise=f"gaussian:{S}", prior=prior).laplace()
    same = unrelu.invert(other, there, "lm", noise=unrelu.Gaussian(S * scale), prior=prior).laplace()
    np.testing.assert_allclose(same.covariance, one.covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(same.reconstruction_std, scale * one.reconstruction_std, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "follows from the noise, and noise=None is not stated; state 'gaussian:S' or counts"),
        ({"noise": "uniform:0.5"}, "noise=uniform:0.5 makes all errors up to its bound equally probable"),
        ({"noise": "outliers:0.1"}, "noise=outliers:0.1 leaves the size of its errors open"),
        ({"noise": "rounding:0.1"}, "noise=rounding:0.1 does not say how its errors are distributed"),
        ({"noise": "gaussian:1e-200"}, "noise=gaussian:1e-200 is so far below what the generator puts out"),
        ({"noise": "gaussian:0.3", "norm": "huber"}, "these codes minimise 'huber': invert with norm='l2'"),
        ({"noise": "gaussian:0.3", "method": "linf"}, "these codes minimise 'linf'"),
    ],
)
def test_what_has_none(options, message):
    network, _, y = linear()
    result = unrelu.invert(network, y, **options)
    with pytest.raises(InputError, match=message):
        result.laplace()


def test_what_it_says():
    network, _, y = linear()
    r = unrelu.invert(network, y[0], noise=f"gaussian:{S}", prior=unrelu.Normal(MEAN, STD))
    lines = str(r.laplace()).splitlines()
    assert lines[0] == "Laplace approximation, from the linear region of z alone: it knows no other optimum"
    assert [line.split()[0] for line in lines[1:]] == ["code", "reconstruction", "optimum", "holds"]
    assert lines[-1].endswith("yes, its 68.3, 90, 99 and 99.99% have 68.3%, 90.0%, 99.0%, >99.9%")
    low, high = (f"{x:.3g}" for x in (r.laplace().std.min(), r.laplace().std.max()))
    assert f"standard deviations {low} to {high}" in lines[1]


def test_it_states_the_level_of_its_intervals():
    network = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity").named(["h"])
    found = unrelu.invert(network, [1.35, 0.67], "lm", noise=f"gaussian:{S}").laplace()
    low, high = found.intervals["h"]
    half = S / np.sqrt(5)
    assert (high - low) / 2 == pytest.approx(half)
    assert stats.norm.sf(-1) - stats.norm.sf(1) == pytest.approx(0.683, abs=5e-4)
    assert f"intervals       of 68.3% each: h {rounded(low, half)} to {rounded(high, half)}" in str(found)
