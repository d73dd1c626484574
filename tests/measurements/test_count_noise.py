"""Counts: the deviance against SciPy, its moments against simulation, and p-values that are uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import xlogy

import unrelu
from tests.support import at_least, farthest
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.local_search.squared_error import SquaredError
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.count_noise import entries_of, moments_of
from unrelu.measurements.noise import Fit, parse_noise
from unrelu.problem import Problem
from unrelu.runtime.streams import stream

POISSON, BINOMIAL = unrelu.Poisson(), unrelu.NegativeBinomial(5.0)
every_noise = pytest.mark.parametrize("noise", [POISSON, BINOMIAL], ids=str)


def positive_network(sizes=(3, 20, 80), scale=1.0, seed=0):
    """A generator of positive outputs: means of counts, of a mean of about 6 scale."""
    rng = np.random.default_rng(seed)
    k, hidden, n = sizes
    first, last = np.abs(rng.standard_normal((hidden, k))), np.abs(rng.standard_normal((n, hidden)))
    return unrelu.from_arrays([first, 6 * scale * last / hidden], [np.ones(hidden), np.full(n, 0.5 * scale)])


NET = positive_network()
TRUTH = stream("test truth").standard_normal((6, 3))


def counted(network, noise, truth, seed=0):
    return noise.draw(network(truth), stream("test counts", seed))


def deviance(noise, y, mean):
    """As the books have it, in NumPy."""
    if noise.name == "poisson":
        return 2 * (xlogy(y, y / mean) - (y - mean))
    r = noise.level
    return 2 * (xlogy(y, y / mean) - (y + r) * np.log((y + r) / (mean + r)))


# --- the objective ----------------------------------------------------------------------------------------------------


@every_noise
@given(y=st.integers(0, 10**6), mean=st.floats(1e-3, 1e6))
def test_the_deviance_is_twice_the_loss_of_log_likelihood(noise, y, mean):
    found = noise.deviance(torch.tensor(float(y)).double(), torch.tensor(mean).double()).item()
    counts = noise.distribution
    assert found == pytest.approx(deviance(noise, float(y), mean), rel=1e-6, abs=1e-8 * (y + mean))
    if y:
        assert found == pytest.approx(2 * (counts(y).logpmf(y) - counts(mean).logpmf(y)), rel=1e-5, abs=1e-6 * (1 + y))


@every_noise
@given(y=st.integers(0, 1000), mean=st.floats(-2e-3, 1000))
def test_half_slopes_are_those_of_the_deviance(noise, y, mean):
    y, mean = torch.tensor(float(y)).double(), torch.tensor(mean).double().requires_grad_(True)
    (slope,) = torch.autograd.grad(noise.deviance(y, mean), mean)
    half, weight = noise.scoring(y, mean.detach())
    assert half.item() == pytest.approx(slope.item() / 2, rel=1e-9, abs=1e-12)
    assert weight > 0
    if mean > 1e-3 and (y > 0 or mean > 1):
        assert weight.item() == pytest.approx(1 / noise.variance_of(mean.item()))


@every_noise
def test_means_that_are_not_positive_cost_more_and_more_and_never_without_end(noise):
    mean = torch.linspace(-1, 0.01, 1000).double()
    for count in (1.0, 20.0):
        d = noise.deviance(torch.full_like(mean, count), mean)
        assert d.isfinite().all()
        assert (d.diff() < 0).all()
    assert 13 < noise.deviance(torch.tensor(1.0), torch.tensor(0.0)) < 15
    assert noise.deviance(torch.tensor(0.0), torch.tensor(0.0)) < 1e-3


@every_noise
@pytest.mark.parametrize("size", [1e4, 1e6])
def test_single_precision_knows_the_deviance_of_large_counts(noise, size):
    mean = torch.full((1000,), size).double()
    y = torch.from_numpy(noise.draw(mean.numpy(), stream("test counts")))
    np.testing.assert_allclose(noise.deviance(y.float(), mean.float()), noise.deviance(y, mean), rtol=1e-2, atol=1e-2)


@every_noise
def test_normal_equations_are_those_of_fisher_scoring(noise):
    y = counted(NET, noise, TRUTH)
    problem = Problem.build(NET, y, noise=noise, prior=0.3)
    objective, z = SquaredError.of(problem), torch.from_numpy(TRUTH + 0.1)
    rows = torch.arange(len(z))
    gram, half, f = objective.system(z, rows)
    value, gradient = objective.gradient(z, rows)
    x, tangents = NET.linearize(z)
    weight = np.where((y == 0) & (x.numpy() < 1), 1.0, 1 / noise.variance_of(x.numpy()))[:, None, :]
    expected = (tangents.numpy() * weight) @ tangents.numpy().transpose(0, 2, 1) + 0.3 * np.eye(3)
    np.testing.assert_allclose(gram, expected, rtol=1e-9)
    np.testing.assert_allclose(half, gradient / 2, rtol=1e-9)
    np.testing.assert_allclose(f, value, rtol=1e-12)
    d = deviance(noise, y, x.numpy()).sum(axis=1)
    np.testing.assert_allclose(f, d + 0.3 * ((TRUTH + 0.1) ** 2).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(f, problem.objective(z.numpy()), rtol=1e-9)


@every_noise
@pytest.mark.parametrize("method", ["auto", "lm", "adam", "gradient_descent"])
def test_the_optimum_is_that_of_scipy(noise, method):
    # The other two have flat valleys, in which gradient descent takes ten thousand steps.
    truth = TRUTH[[0, 1, 3, 5]] if method == "gradient_descent" else TRUTH
    y = counted(NET, noise, truth)
    options = {} if method == "auto" else {"z0": truth}
    if method == "gradient_descent":
        options |= {"learning_rate": {"poisson": 3e-3}.get(noise.name, 5e-3), "max_iterations": 1_500}
    found = unrelu.invert(NET, y, method, noise=noise, **options)
    for i in range(len(y)):
        # From where the method ended, so that it is the same basin.
        best = optimize.minimize(
            lambda z, i=i: deviance(noise, y[i], NET(z)).sum(), found.z[i], method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-10, "maxiter": 5000},
        )  # fmt: skip
        # Optima at kinks are approached slowly by lm; the search ends at 3e-4 a step, first-order methods somewhere.
        room = {"lm": 1e-4, "auto": 1e-3}.get(method, 2e-2)
        assert best.fun <= found.fun[i] * (1 + 1e-9)
        assert found.fun[i] <= best.fun * (1 + room)


def test_the_search_finds_the_basin_of_the_truth():
    truth = stream("test truth of search").standard_normal((60, 3))
    y = counted(NET, POISSON, truth)
    found = unrelu.invert(NET, y, noise="poisson")
    near = unrelu.invert(NET, y, "lm", noise="poisson", z0=truth)
    assert (found.fun <= 1.01 * near.fun).sum() >= at_least(60, 0.99)  # confidences of 0.99 end the searches
    assert found.success.sum() >= at_least(60, 0.99)  # as p-values are below 0.01


def test_a_prior_is_that_of_the_most_probable_code():
    y = counted(NET, POISSON, TRUTH)
    found = unrelu.invert(NET, y, "lm", noise="poisson", z0=TRUTH, prior=1.0)
    for i, z in enumerate(found.z):

        def loss(z, i=i):
            return -2 * stats.poisson.logpmf(y[i], NET(z)).sum() + z @ z

        best = optimize.minimize(loss, z, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10})
        assert loss(z) <= best.fun + 0.05  # of about 350


def test_many_overdispersed_counts_of_a_large_shape_are_those_of_poisson():
    y = counted(NET, POISSON, TRUTH)
    one = unrelu.invert(NET, y, "lm", noise="poisson", z0=TRUTH)
    other = unrelu.invert(NET, y, "lm", noise="negative-binomial:1e7", z0=TRUTH)
    np.testing.assert_allclose(other.fun, one.fun, rtol=1e-4)
    np.testing.assert_allclose(other.p_value, one.p_value, atol=1e-3)


@every_noise
def test_hidden_entries_take_no_part(noise):
    seen = stream("test masks").random((6, 80)) < 0.6
    y = counted(NET, noise, TRUTH)
    found = unrelu.invert(
        NET, np.where(seen, y, -1.5), "lm", noise=noise, operator=unrelu.Mask(seen), z0=TRUTH
    )  # what is hidden need not be a count
    np.testing.assert_allclose(found.fun, (deviance(noise, y, NET(found.z)) * seen).sum(axis=1), rtol=1e-9)
    assert (found.p_value > 1e-3).all()


def test_counts_of_mixed_outputs():
    """What a detector behind a mask of apertures counts: sums of some of the outputs."""
    matrix = (stream("test apertures").random((40, 80)) < 0.1).astype(float)
    y = POISSON.draw(NET(TRUTH) @ matrix.T, stream("test counts"))
    found = unrelu.invert(NET, y, noise="poisson", operator=unrelu.Matrix(matrix))
    np.testing.assert_allclose(found.fun, deviance(POISSON, y, NET(found.z) @ matrix.T).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.residual(), np.linalg.norm(y - NET(found.z) @ matrix.T, axis=1))
    assert found.success.sum() >= at_least(6, 0.99)


def test_outputs_that_are_off_where_something_was_counted_are_a_misfit():
    network = unrelu.from_arrays([[[1.0], [2.0], [-1.0]]])
    found = unrelu.invert(network, [5, 9, 7], "lm", noise="poisson", z0=[2.0])
    assert np.isfinite(found.fun)
    assert found.status is unrelu.Status.MISFIT
    assert found.p_value < 1e-3


def fitted(mean, tangents=None, residual=None):
    """A fit of these means, (B, m), along these directions, (B, k, m)."""
    each, jacobians = np.arange(len(mean)), None
    if tangents is not None:

        def jacobians():
            yield each, tangents

    residual = np.zeros(mean.shape) if residual is None else residual
    return Fit(residual, mean, np.ones(mean.shape, dtype=bool), np.zeros(len(mean)), np.ones(len(mean)), 0.0, jacobians)


# --- goodness of fit --------------------------------------------------------------------------------------------------


@every_noise
@pytest.mark.parametrize("mean", [0.02, 0.3, 1.0, 4.0, 30.0, 3000.0])
def test_moments_are_those_of_draws(noise, mean):
    y = noise.draw(np.full(400_000, mean), stream("test moments", mean))
    d = noise.deviance(torch.from_numpy(y), torch.full((len(y),), mean).double()).numpy()
    x = (y - mean) / noise.variance_of(mean) ** 0.5
    e = d - d.mean()
    terms = (d, e**2, e**3, e * x, e * x**2, x**3)
    found = moments_of(noise, mean)
    for number, term in zip(found, terms, strict=True):
        assert number == pytest.approx(term.mean(), abs=6 * term.std() / len(y) ** 0.5)
    table = entries_of(noise, np.array([mean]))
    np.testing.assert_allclose([part[0] for part in table[:6]], found, rtol=2e-3, atol=2e-3)


def test_large_means_are_chi_square():
    found = entries_of(POISSON, np.array([1e4, 1e9]))
    np.testing.assert_allclose(found.mean, 1, rtol=1e-3)
    np.testing.assert_allclose(found.variance, 2, rtol=1e-3)
    np.testing.assert_allclose(found.third, 8, rtol=1e-2)
    used, r = 3, np.zeros((1, 80))
    r[0, 0] = 95.0**0.5
    fit = fitted(np.full((1, 80), 1e6), stream("test directions").standard_normal((1, used, 80)), r)
    np.testing.assert_allclose(POISSON.cumulants(fit)[0], [80 - used, 2 * (80 - used), 8 * (80 - used)], rtol=2e-3)
    assert POISSON.p_value(fit)[0] == pytest.approx(stats.chi2.sf(95.0, 77), abs=2e-3)


@every_noise
def test_the_true_code_has_uniform_p_values(noise):
    """Without a fit nothing is approximated but the shape of the distribution."""
    truth = stream("test truth of p").standard_normal((4000, 3))
    x = positive_network(scale=0.1)(truth)
    y = noise.draw(x, stream("test counts of p"))
    p = noise.p_value(fitted(x, residual=noise.residuals(y, x)))
    assert stats.kstest(p, "uniform").statistic < farthest(4000)


@every_noise
@pytest.mark.parametrize(
    ("sizes", "scale"), [((3, 20, 80), 0.15), ((3, 20, 80), 1.0), ((3, 20, 80), 8.0), ((5, 30, 200), 1.0)]
)
def test_p_values_of_fits_are_uniform(noise, sizes, scale):
    """Means of 0.7 to 50: chi-square would be off by up to 0.3."""
    network = positive_network(sizes, scale, seed=1)
    truth = stream("test truth of fits").standard_normal((1000, sizes[0]))
    y = noise.draw(network(truth), stream("test counts of fits"))
    p = unrelu.invert(network, y, "lm", noise=noise, z0=truth).p_value
    assert stats.kstest(p, "uniform").statistic < farthest(1000)


def test_overdispersed_counts_are_a_misfit_to_poisson():
    truth = np.abs(TRUTH)  # of means where a shape of 2 shows
    y = counted(NET, unrelu.NegativeBinomial(2.0), truth)
    assert not unrelu.invert(NET, y, "lm", noise="poisson", z0=truth).success.any()
    assert unrelu.invert(NET, y, "lm", noise="negative-binomial:2", z0=truth).success.all()


def test_a_fit_that_takes_all_is_judged_as_if_it_took_nothing():
    mean = np.full((1, 3), 1e4)
    whole = POISSON.cumulants(fitted(mean))
    np.testing.assert_array_equal(POISSON.cumulants(fitted(mean, np.eye(3)[None])), whole)
    assert (POISSON.cumulants(fitted(mean, np.eye(3)[None, :1]))[:, :2] < whole[:, :2]).all()


# --- draws, text, and what is refused ---------------------------------------------------------------------------------


@every_noise
def test_draws_have_the_mean_and_the_variance(noise):
    clean = np.tile([0.5, 7.0, -1.0], (100_000, 1))
    y = noise.draw(clean, stream("test draws"))
    noise.check(y)
    np.testing.assert_allclose(y.mean(axis=0), [0.5, 7.0, 0.0], rtol=0.02)
    np.testing.assert_allclose(y.var(axis=0)[:2], noise.variance_of(clean[0, :2]), rtol=0.05)


@every_noise
def test_an_object_is_its_text(noise):
    assert parse_noise(str(noise)) == noise
    assert hash(parse_noise(str(noise))) == hash(noise)
    assert noise != Gaussian(5.0)
    problem = Problem.build(NET, np.ones(80), noise=str(noise))
    assert problem.noise == noise
    assert problem.equilibrated() is problem


@pytest.mark.parametrize(
    ("y", "options", "error", "message"),
    [
        (-1.0, {}, InputError,
         r"noise=poisson: y has 1 entries that are no whole numbers .* observation 0, entry 2 \(-1\)"),
        (0.5, {}, InputError, r"first in observation 0, entry 2 \(0.5\); pass the counts themselves"),
        (2.0**54, {}, InputError, r"whole numbers from 0 to 2\^53, .* entry 2 .* state 'gaussian:S'"),
        (np.nan, {}, InputError, "NaN or infinite"),
        (1.0, {"norm": "l1"}, InputError,
         "norm='l1': noise=poisson compares observations by their deviance; leave norm= out"),
        (1.0, {"norm": "linf"}, InputError, "norm='linf': noise=poisson"),
        (1.0, {"method": "linf"}, UnsupportedModelError, "method='linf' is for errors that are added to the output"),
        (1.0, {"method": "exact"}, UnsupportedModelError, "method='exact' is for errors that are added"),
        (1.0, {"method": "l1"}, UnsupportedModelError, "use 'auto', 'lm', 'adam' or 'gradient_descent'"),
        (1.0, {"method": "lm", "start": "linf"}, UnsupportedModelError, "is for errors that are added"),
    ],
)  # fmt: skip
def test_what_is_refused(y, options, error, message):
    counts = np.ones((2, 80))
    counts[0, 2] = y
    with pytest.raises(error, match=message):
        unrelu.invert(NET, counts, noise="poisson", **options)


def test_certificates_are_not_of_counts():
    with pytest.raises(InputError, match="certificates are of errors of one size"):
        unrelu.certify(NET, np.ones(80), TRUTH[0], noise="poisson")


@pytest.mark.parametrize("level", [0.0, -1.0, np.inf, np.nan, "x", np.ones(80)])
def test_shapes_that_are_none_are_refused(level):
    with pytest.raises(InputError, match="negative-binomial"):
        unrelu.NegativeBinomial(level)


def test_calibration_and_runs_know_counts(tmp_path):
    network = positive_network((2, 6, 12))
    assert unrelu.calibrate(network, noise="poisson", observations=20).observations == 20
    truth = stream("test truth").standard_normal((5, 2))
    y = counted(network, POISSON, truth)
    finished = unrelu.run(network, y, tmp_path / "run", noise="poisson", workers=1)
    assert sum(finished.counts.values()) == 5
    assert finished.manifest["noise"] == "poisson"
