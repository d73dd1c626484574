"""Noise of single entries and with a covariance: against whitening by hand, masks, SciPy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, sparse, stats

import unrelu
from tests.support import farthest, random_network
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.measurements import IdentityOperator, WeightedOperator
from unrelu.measurements.operators import ProductOperator, hiding, normalised
from unrelu.runtime.streams import stream

K, N, B = 3, 40, 4
NETS = {
    "relu": random_network((K, 20, N), bias=True),
    "leaky": random_network((K, 20, N), "leaky_relu:0.2", bias=True),
    "sigmoid": random_network((K, 20, N), bias=True, last="sigmoid"),
    "identity": random_network((K, 20, N), bias=True, last="identity"),
}
NET = NETS["relu"]
TRUTH = stream("test truth").standard_normal((B, K))
# Two decades, as a detector with good and bad pixels has them.
SIZES = 10.0 ** stream("test sizes").uniform(-2, 0, (B, N))
ONE = SIZES[0]


def noisy(network=NET, sizes=ONE, seed=0, truth=TRUTH):
    return network(truth) + sizes * stream("test noise", seed).standard_normal((len(truth), N))


def by_hand(network, sizes):
    """The network with outputs divided by sizes (N,), as a layer of its own."""
    *layers, last = network.layers
    shrunk = last.activation.name != "sigmoid"
    w, b = last.matrix(), last.bias()
    scaled = (w / sizes[:, None], b / sizes) if shrunk else (w, b)
    before = [(layer.matrix(), layer.bias(), layer.activation) for layer in layers]
    after = [] if shrunk else [(np.diag(1 / sizes), np.zeros(N), "identity")]
    weights, biases, activations = zip(*before, (*scaled, last.activation), *after, strict=True)
    return unrelu.from_arrays(weights, biases, activation=[str(a) for a in activations])


def chi_square(network, y, z, sizes):
    return (((y - network(z)) / sizes) ** 2).sum(axis=1)


def alike(found, expected):
    """The same optima to 1%, as the search tells them apart, and of the same code the same p-values.

    But not that of the structure, which is looked for in other directions. On two sides of a kink, a fit uses other
    degrees of freedom, here up to a half. The survival function of chi-square with d = N - K degrees changes by
    1 / sqrt(4 pi d) a degree, the greatest density of N(d, 2 d).
    """
    np.testing.assert_allclose(found.fun, expected.fun, rtol=0.01)
    same = np.isclose(found.fun, expected.fun, rtol=1e-3)
    assert same.any()
    for one, other in ((found.p_size, expected.p_size), (found.p_largest, expected.p_largest)):
        np.testing.assert_allclose(one[same], other[same], atol=0.5 / np.sqrt(4 * np.pi * (N - K)))


# --- sizes of entries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["auto", "lm", "adam"])
def test_sizes_of_entries_are_rows_divided_by_hand(name, method):
    network, options = NETS[name], {"auto": {}, "lm": {"z0": TRUTH}, "adam": {"z0": TRUTH, "restarts": 1}}[method]
    y = noisy(network)
    found = unrelu.invert(network, y, method, noise=unrelu.Gaussian(ONE), **options)
    expected = unrelu.invert(by_hand(network, ONE), y / ONE, method, noise="gaussian:1", **options)
    alike(found, expected)
    np.testing.assert_allclose(found.fun, chi_square(network, y, found.z, ONE), rtol=1e-9)
    assert found.success.all()


@pytest.mark.parametrize("name", NETS)
def test_every_observation_may_have_sizes_of_its_own(name):
    network = NETS[name]
    y = noisy(network, SIZES)
    found = unrelu.invert(network, y, noise=unrelu.Gaussian(SIZES))
    np.testing.assert_allclose(found.fun, chi_square(network, y, found.z, SIZES), rtol=1e-9)
    for i in range(B):
        alone = unrelu.invert(network, y[i], noise=unrelu.Gaussian(SIZES[i]))
        assert found.fun[i] == pytest.approx(alone.fun, rel=1e-3)
        assert found.p_value[i] == pytest.approx(alone.p_value, abs=5e-3)


def test_the_optimum_is_that_of_scipy():
    y = noisy()
    found = unrelu.invert(NET, y, "lm", noise=unrelu.Gaussian(ONE), z0=TRUTH)
    for i in range(B):
        expected = optimize.least_squares(
            lambda z, i=i: (y[i] - NET(z)) / ONE, TRUTH[i], xtol=1e-12, ftol=1e-12, gtol=1e-12
        )
        assert found.fun[i] == pytest.approx(2 * expected.cost, rel=1e-6)
        np.testing.assert_allclose(found.z[i], expected.x, atol=1e-4)


# --- what says nothing, and what is alike -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "lm", "l1", "exact"])
@pytest.mark.parametrize("each", [False, True])
def test_infinite_sizes_are_a_mask(method, each):
    seen = stream("test masks").random((B, N) if each else N) < 0.7
    y, hidden = noisy(sizes=0.1), np.where(seen, 0.1, np.inf)
    y = np.where(seen, y, np.nan)
    found = unrelu.invert(NET, y, method, noise=unrelu.Gaussian(hidden))
    masked = unrelu.invert(NET, y, method, noise="gaussian:0.1", operator=unrelu.Mask(seen))
    np.testing.assert_array_equal(found.z, masked.z)
    np.testing.assert_array_equal(found.p_value, masked.p_value)
    np.testing.assert_allclose(found.residual(), masked.residual())


# --- other norms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linf", "l1", "relaxed", "least_squares", "exact"])
@pytest.mark.parametrize("sizes", [ONE, SIZES])
def test_layer_methods_scale_the_rows_of_a_homogeneous_layer(method, sizes):
    network = NETS["leaky"]
    y = noisy(network, 1e-3 * sizes)
    found = unrelu.invert(network, y, method, noise=unrelu.Gaussian(1e-3 * sizes))
    for i in range(B):
        own = 1e-3 * np.broadcast_to(sizes, (B, N))[i]
        expected = unrelu.invert(by_hand(network, own), y[i] / own, method, noise="gaussian:1")
        np.testing.assert_allclose(found.z[i], expected.z, rtol=1e-4, atol=1e-6)


# --- covariances ------------------------------------------------------------------------------------------------------


COVARIANCE = 0.01 * (np.eye(N) + 3 * np.exp(-np.abs(np.subtract.outer(np.arange(N), np.arange(N))) / 5))


def correlated(network=NET, truth=TRUTH, covariance=COVARIANCE):
    return network(truth) + stream("test noise").standard_normal((len(truth), N)) @ np.linalg.cholesky(covariance).T


@pytest.mark.parametrize("method", ["auto", "lm"])
@pytest.mark.parametrize("name", NETS)
def test_a_covariance_is_whitening_by_hand(name, method):
    network, options = NETS[name], {"z0": TRUTH} if method == "lm" else {}
    y, factor = correlated(network), np.linalg.cholesky(COVARIANCE)
    found = unrelu.invert(network, y, method, noise=unrelu.Gaussian(covariance=COVARIANCE), **options)
    expected = unrelu.invert(
        network, np.linalg.solve(factor, y.T).T, method, noise="gaussian:1",
        operator=unrelu.Matrix(np.linalg.inv(factor)), **options,
    )  # fmt: skip
    r = y - network(found.z)
    np.testing.assert_allclose(found.fun, (r * np.linalg.solve(COVARIANCE, r.T).T).sum(axis=1), rtol=1e-9)
    alike(found, expected)
    np.testing.assert_allclose(found.residual(), np.linalg.norm(r, axis=1))


@pytest.mark.parametrize("each", [False, True])
def test_a_mask_takes_its_rows_and_columns_of_a_covariance(each):
    seen = stream("test masks").random(N) < 0.7
    y = correlated()
    found = unrelu.invert(
        NET, y, "lm", noise=unrelu.Gaussian(covariance=COVARIANCE), z0=TRUTH,
        operator=unrelu.Mask(np.tile(seen, (B, 1)) if each else seen),
    )  # fmt: skip
    r = (y - NET(found.z))[:, seen]
    part = COVARIANCE[np.ix_(seen, seen)]
    np.testing.assert_allclose(found.fun, (r * np.linalg.solve(part, r.T).T).sum(axis=1), rtol=1e-9)
    by_size = found.problem.p_value(found.problem.fit_of(found.reconstruction, np.full(B, float(K))))
    np.testing.assert_allclose(by_size, stats.chi2.sf(found.fun, seen.sum() - K), rtol=1e-6)


def test_layer_methods_take_a_covariance_behind_no_activation():
    network = random_network((K, N), last="identity")
    y = correlated(network, covariance=1e-4 * COVARIANCE)
    found = unrelu.invert(network, y, "least_squares", noise=unrelu.Gaussian(covariance=1e-4 * COVARIANCE))
    w, inverse = network.layers[0].matrix(), np.linalg.inv(COVARIANCE)
    expected = np.linalg.solve(w.T @ inverse @ w, w.T @ inverse @ y.T).T
    np.testing.assert_allclose(found.z, expected, rtol=1e-6, atol=1e-8)


# --- goodness of fit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
@pytest.mark.parametrize("kind", ["shared", "each", "covariance"])
def test_p_values_are_uniform(name, kind):
    network, count = NETS[name], 1000
    truth = 0.5 * stream("test truth of p").standard_normal((count, K))
    small = 0.1 * ONE if kind == "shared" else 0.1 * 10.0 ** stream("test sizes").uniform(-2, 0, (count, N))
    if kind == "covariance":
        y, noise = correlated(network, truth, 0.01 * COVARIANCE), unrelu.Gaussian(covariance=0.01 * COVARIANCE)
    else:
        y = network(truth) + small * stream("test noise of p").standard_normal((count, N))
        noise = unrelu.Gaussian(small)
    found = unrelu.invert(network, y, "lm", noise=noise, z0=truth)
    assert stats.kstest(found.p_value, "uniform").statistic < farthest(count)


# --- draws ------------------------------------------------------------------------------------------------------------


def test_draws_have_the_variances_that_are_stated():
    rng, clean = stream("test draws"), np.zeros((20_000, N))
    np.testing.assert_allclose(unrelu.Gaussian(ONE).draw(clean, rng).std(axis=0), ONE, rtol=0.03)
    drawn = unrelu.Gaussian(covariance=COVARIANCE).draw(clean, rng)
    np.testing.assert_allclose(np.cov(drawn.T), COVARIANCE, atol=0.05 * COVARIANCE.max())
    drawn = unrelu.Uniform(np.where(np.arange(N) == 0, np.inf, ONE)).draw(clean, rng)
    assert (drawn[:, 0] == 0).all()
    np.testing.assert_allclose(np.abs(drawn[:, 1:]).max(axis=0), ONE[1:], rtol=0.01)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (lambda: unrelu.Gaussian(np.where(np.arange(N) == 3, 0.0, ONE)), r"above 0.*1 are not, the first at \(3,\): 0"),
        (lambda: unrelu.Gaussian(np.where(np.arange(N) == 3, -1.0, ONE)), r"the first at \(3,\): -1"),
        (lambda: unrelu.Gaussian(np.where(np.arange(N) == 3, np.nan, ONE)), r"the first at \(3,\): nan"),
        (lambda: unrelu.Uniform(np.zeros(N)), "40 are not"),
        (lambda: unrelu.Gaussian(0.0), "above 0, got 0"),
        (lambda: unrelu.Gaussian(np.inf), "finite and above 0, got inf"),
        (lambda: unrelu.Gaussian(ONE[1:]), r"the level has shape \(39,\), an observation has shape \(40,\)"),
        (lambda: unrelu.Gaussian(SIZES[1:]), r"shape \(3, 40\), .*or \(4, 40\), one for each of the 4"),
        (lambda: unrelu.Gaussian(np.full(N, np.inf)), "infinite in every observed entry of observation 0"),
        (lambda: unrelu.Gaussian("loud"), "'loud' is not a number"),
        (lambda: unrelu.Gaussian(ONE, covariance=COVARIANCE), "one of them"),
        (lambda: unrelu.Gaussian(covariance=COVARIANCE[1:]), r"shape \(39, 40\); pass a square one"),
        (lambda: unrelu.Gaussian(covariance=COVARIANCE[1:, 1:]), "is of 39 entries, an observation has 40"),
        (lambda: unrelu.Gaussian(covariance=COVARIANCE + np.tri(N)),
         r"not symmetric.*; if that is rounding, pass \(C \+ C\^T\) / 2"),
        (lambda: unrelu.Gaussian(covariance=COVARIANCE - 0.02 * np.eye(N)),
         "not positive definite: its eigenvalues go from -"),
        (lambda: unrelu.Gaussian(covariance=1e-320 * np.eye(N)), "not positive definite: .* state y in larger units"),
        (lambda: unrelu.Gaussian(covariance=np.diag(1e-80 ** (np.arange(N) == 7))),
         "eigenvalues go from 1e-80 to 1; add"),
        (lambda: unrelu.Gaussian(covariance=np.nan * COVARIANCE), "not symmetric and finite"),
        (lambda: unrelu.Gaussian(covariance={"a": COVARIANCE}), "by part, noise={part: unrelu.Gaussian"),
        (lambda: unrelu.Gaussian(covariance=sparse.eye_array(5000)), "5000 x 5000, and is factored up to 4096"),
    ],
)  # fmt: skip
def test_sizes_and_covariances_that_make_no_sense(noise, message):
    with pytest.raises(InputError, match=message):
        unrelu.invert(NET, noisy(), noise=noise())


def test_a_covariance_wants_one_mask():
    masks = stream("test masks").random((B, N)) < 0.7
    with pytest.raises(InputError, match="that show the same entries; pass one mask for all"):
        unrelu.invert(NET, noisy(), noise=unrelu.Gaussian(covariance=COVARIANCE), operator=unrelu.Mask(masks))


def test_what_cannot_use_such_noise_says_so():
    for noise in (unrelu.Gaussian(ONE), unrelu.Gaussian(covariance=COVARIANCE)):
        with pytest.raises(UnsupportedModelError, match="noise= with entries that differ or are correlated"):
            unrelu.invert(NETS["sigmoid"], noisy(), "l1", noise=noise)
        with pytest.raises(InputError, match="certificates are of errors of one size; state 'uniform:A'"):
            unrelu.certify(NET, noisy()[0], TRUTH[0], noise=noise)


def test_certificates_take_entries_of_which_nothing_is_known():
    network = random_network((2, 4, 12))
    y = network(np.ones(2)) + 0.01
    seen = np.arange(12) < 9
    noise = unrelu.Uniform(np.where(seen, 0.1, np.inf))
    found = unrelu.certify(network, y, noise=noise, box=False, time_limit=20)
    masked = unrelu.certify(network, y, noise="uniform:0.1", operator=unrelu.Mask(seen), box=False, time_limit=20)
    assert found.upper == pytest.approx(masked.upper)
    assert found.verify(network, y, operator=unrelu.Mask(seen))


def test_arrays_are_copied_and_frozen():
    sizes, covariance = ONE.copy(), COVARIANCE.copy()
    noise, other = unrelu.Gaussian(sizes), unrelu.Gaussian(covariance=covariance)
    sizes[0] = covariance[0, 0] = 99
    assert noise == unrelu.Gaussian(ONE)
    assert hash(noise) == hash(unrelu.Gaussian(ONE))
    assert noise != unrelu.Gaussian(SIZES[1])
    assert other == unrelu.Gaussian(covariance=COVARIANCE)
    with pytest.raises(ValueError, match="read-only"):
        noise.level[0] = 1


# --- the operator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [False, True])
def test_weights_of_an_operator_pass_the_dot_test(each):
    rng = stream("test weights")
    weight = torch.from_numpy(rng.random((B, N) if each else N))
    operator = WeightedOperator(hiding(IdentityOperator((N,)), rng.random(N) < 0.5), weight)
    x, r = torch.from_numpy(rng.standard_normal((2, B, N)))
    torch.testing.assert_close((operator.forward(x) * r).sum(), (x * operator.adjoint(r)).sum())
    t = torch.from_numpy(rng.standard_normal((B, 3, N)))
    torch.testing.assert_close(operator.tangents(t)[2, 1], operator.take(np.array([2])).forward(t[2, 1][None])[0])
    normal, gain = normalised(operator)
    torch.testing.assert_close(normal.forward(x) * gain, operator.forward(x))
    assert operator.count == (B if each else 0)


# --- a covariance over sparse rows -----------------------------------------------------------------------------------


def test_a_covariance_over_sparse_rows_is_kept_as_factors():
    """Bins of a long spectrum: L^-1 A would be a dense matrix of all outputs."""
    rng, net = stream("test bins"), random_network((3, 10, 400), seed=1, bias=True, last="sigmoid")
    bins = np.kron(np.eye(20), rng.uniform(0.5, 1, 20)[None] / 20)
    root = rng.standard_normal((20, 20))
    covariance = 0.01 * (root @ root.T / 20 + np.eye(20))
    y = net(rng.standard_normal((2, 3))) @ bins.T + 0.1 * rng.standard_normal((2, 20))
    problem = unrelu.Problem.build(net, y, operator=bins, noise=unrelu.Gaussian(covariance=covariance))
    inner = problem.operator.unweighted
    assert isinstance(inner, ProductOperator)
    x, r = rng.standard_normal((3, 400)), torch.from_numpy(rng.standard_normal((3, 20)))
    whitened = problem.operator.values(x)
    np.testing.assert_allclose((whitened**2).sum(axis=1), [
        (bins @ each) @ np.linalg.solve(covariance, bins @ each) for each in x
    ], rtol=1e-9)  # fmt: skip
    np.testing.assert_allclose(inner.matrix() @ x.T, inner.values(x).T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((inner.values(x) * r.numpy()).sum(), (x * inner.adjoint(r).numpy()).sum(), rtol=1e-9)
    np.testing.assert_array_equal(inner.in_units(2, -5).values(x), inner.values(x) / 8)
    single = inner.to(torch.float32, torch.device("cpu"))
    np.testing.assert_allclose(single.forward(torch.from_numpy(x).float()), inner.values(x), rtol=1e-4, atol=1e-4)
    result = unrelu.invert(net, y, "lm", operator=bins, noise=unrelu.Gaussian(covariance=covariance))
    for z, fun, each in zip(result.z, result.fun, y, strict=True):
        left = each - bins @ net(z)
        assert fun == pytest.approx(left @ np.linalg.solve(covariance, left), rel=1e-8)
