"""Gaussian noise as a sum of terms, and the error of an emulator as one of them: closed forms and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

import unrelu
from tests.support import at_most, farthest, random_network
from unrelu.errors import InputError
from unrelu.measurements.noise import parse_noise
from unrelu.runtime.streams import stream

M = 6
ROOT = stream("test covariance").standard_normal((M, M))
C = ROOT @ ROOT.T + np.eye(M)
SIZES = np.linspace(0.5, 2, M)


def covariance_of(noise, m=M):
    return noise.covariance if noise.covariance is not None else np.diag(noise.spread((m,), 1) ** 2 + np.zeros(m))


@pytest.mark.parametrize("one", [0.7, SIZES, C], ids=["number", "array", "covariance"])
@pytest.mark.parametrize("two", [0.3, SIZES[::-1], 2 * C], ids=["number", "array", "covariance"])
def test_covariances_add(one, two):
    terms = [unrelu.Gaussian(covariance=term) if np.ndim(term) == 2 else unrelu.Gaussian(term) for term in (one, two)]
    total = terms[0] + terms[1]
    np.testing.assert_allclose(covariance_of(total), sum(map(covariance_of, terms)), rtol=1e-14)
    assert (total.covariance is None) == (np.ndim(one) < 2 and np.ndim(two) < 2)
    assert total == terms[1] + terms[0]
    assert parse_noise(total) is total


def test_arrays_of_one_and_of_all_observations():
    each = stream("test sizes").uniform(1, 2, (3, 2, 4))
    total = unrelu.Gaussian(each) + unrelu.Gaussian(each[0]) + unrelu.Gaussian(0.5)
    np.testing.assert_allclose(total.level, np.sqrt(each**2 + each[0] ** 2 + 0.25), rtol=1e-14)
    hidden = unrelu.Gaussian([1.0, np.inf]) + unrelu.Gaussian([2.0, 3.0])
    np.testing.assert_array_equal(hidden.level, [np.sqrt(5), np.inf])
    flattened = unrelu.Gaussian(SIZES.reshape(2, 3)) + unrelu.Gaussian(covariance=C)
    np.testing.assert_array_equal(flattened.covariance, C + np.diag(SIZES**2))


def test_errors_of_a_sum_are_drawn():
    total = unrelu.Gaussian(SIZES) + unrelu.Gaussian(covariance=C)
    drawn = total.draw(np.zeros((40_000, M)), stream("test draws"))
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), C + np.diag(SIZES**2), atol=0.5)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: unrelu.Gaussian(0.1) + unrelu.Uniform(0.1),
         "noise=gaussian:0.1 and noise=uniform:0.1 cannot be summed"),
        (lambda: unrelu.Uniform(0.1) + unrelu.Gaussian(0.1), r"Gaussian errors can: unrelu.Gaussian\(0.1\) \+ "),
        (lambda: unrelu.Poisson() + unrelu.Poisson(), "noise=poisson and noise=poisson cannot be summed"),
        (lambda: unrelu.Gaussian(0.1) + parse_noise("rounding:0.1"), "noise=rounding:0.1 cannot be summed"),
        (lambda: unrelu.Gaussian(0.1) + "gaussian:0.1", "noise=gaussian:0.1 and 'gaussian:0.1' cannot be summed"),
        (lambda: 0.1 + unrelu.Gaussian(0.1), "noise=gaussian:0.1 and 0.1 cannot be summed"),
        (lambda: unrelu.Gaussian(SIZES) + unrelu.Gaussian(np.ones(7)),
         r"array\(6,\) and noise=gaussian:array\(7,\) cannot be"),
        (lambda: unrelu.Gaussian(np.ones(7)) + unrelu.Gaussian(covariance=C), "array.7,. cannot be added .* 6 entries"),
        (lambda: unrelu.Gaussian(np.ones((3, M))) + unrelu.Gaussian(covariance=C), "the same for all observations"),
        (lambda: unrelu.Gaussian([np.inf] * M) + unrelu.Gaussian(covariance=C), "hide entries of which nothing is"),
        (lambda: unrelu.Gaussian(covariance=np.eye(2)) + unrelu.Gaussian(covariance=C), "covariance.6, 6. cannot be"),
    ],
)  # fmt: skip
def test_what_cannot_be_summed_is_said(made, message):
    with pytest.raises(InputError, match=message):
        made()


def test_printed_sums():
    assert repr(unrelu.Gaussian(0.3) + unrelu.Gaussian(0.4)) == "Gaussian(level=0.5)"
    total = unrelu.Gaussian(0.1) + unrelu.Gaussian(covariance=C)
    assert (str(total), repr(total)) == ("gaussian:covariance(6, 6)", "Gaussian(covariance=array(6, 6))")
    net = random_network((2, M), "identity")
    assert "under gaussian:covariance(6, 6)" in " ".join(str(unrelu.invert(net, np.ones(M), noise=total)).split())


ZERO = unrelu.from_arrays([np.zeros((M, 1))], activation="identity")


def measured(r, **options):
    """The covariance for differences (N, m)."""
    zero = unrelu.from_arrays([np.zeros((r.shape[1], 1))], activation="identity")
    return unrelu.emulator_error(zero, np.zeros((len(r), 1)), r, **options).covariance


def drawn(size, covariance=C, mean=0.0):
    return mean + stream("test differences", size).standard_normal((size, M)) @ np.linalg.cholesky(covariance).T


def test_many_simulations_give_the_second_moment():
    """Of correlated differences with a bias, which is not subtracted."""
    found = measured(drawn(20_000, mean=2.0))
    np.testing.assert_allclose(found, C + 4.0, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("size", [20, 50])
def test_fewer_simulations_than_entries(size):
    """Chi-square of other simulations has the mean m, where the second moment itself has no inverse."""
    m = 60
    correlated = np.linalg.cholesky(0.9 ** np.abs(np.subtract.outer(np.arange(m), np.arange(m)))).T
    some, others = (stream("test few", n).standard_normal((n, m)) @ correlated for n in (size, 2000))
    noise = np.eye(m)
    found = measured(some)
    assert np.linalg.eigvalsh(found)[0] > 0
    assert np.trace(found) == pytest.approx(np.square(some).mean(axis=0).sum(), rel=0.1)
    y = others + stream("test noise of few").standard_normal(others.shape)
    chi2 = np.einsum("ij,ij->i", y, np.linalg.solve(found + noise, y.T).T)
    assert chi2.mean() == pytest.approx(m, rel=0.07)


def test_units_of_entries_do_not_matter():
    r, units = drawn(100), 10.0 ** np.arange(-6, 6, 2)
    np.testing.assert_allclose(measured(r * units), measured(r) * np.outer(units, units), rtol=1e-9)


def test_a_bias_alone_and_entries_that_never_differ():
    r = np.tile([1.0, -2.0, 0.0, 0.0, 3.0, 1.0], (30, 1))
    found = measured(r)
    np.testing.assert_allclose(found, np.outer(r[0], r[0]), atol=1e-8)
    assert (np.linalg.eigvalsh(found) > 0).all()


NET = random_network((3, 12, 21), bias=True).with_parts({"curve": 8, "table": (3, 4), "depth": 1})
CODES = stream("test codes").standard_normal((40, 3))
OFF = stream("test off").standard_normal((40, 21))
OUTPUTS = NET(CODES) + OFF
BINS = stream("test bins").uniform(size=(4, 8))


def test_parts_and_operators_are_those_of_the_observation():
    x, off = NET.by_part(OUTPUTS), NET.by_part(OFF)
    whole = measured(OFF)
    np.testing.assert_allclose(unrelu.emulator_error(NET, CODES, x).covariance, whole, rtol=1e-9)
    operator = {"curve": sparse.csr_array(BINS)}
    binned = measured(np.column_stack([off["curve"] @ BINS.T, OFF[:, 8:]]))
    for given in (x, OUTPUTS):
        found = unrelu.emulator_error(NET, CODES, given, operator).covariance
        np.testing.assert_allclose(found, binned, rtol=1e-9)
    error = unrelu.emulator_error(NET, CODES, {"depth": x["depth"][:, 0], "curve": x["curve"]}, operator)
    y = {"curve": x["curve"][0] @ BINS.T, "depth": x["depth"][0]}
    r = unrelu.invert(NET, y, noise=unrelu.Gaussian(0.1) + error, operator=operator)
    expected = measured(np.column_stack([off["curve"] @ BINS.T, off["depth"]])) + 0.01 * np.eye(5)
    left = np.concatenate([y["curve"] - NET.by_part(r.reconstruction)["curve"] @ BINS.T,
                           y["depth"] - NET.by_part(r.reconstruction)["depth"]])  # fmt: skip
    assert r.fun == pytest.approx(left @ np.linalg.solve(expected, left), rel=1e-6)


def test_hidden_entries_have_no_effect():
    mask = np.arange(21) % 3 > 0
    x = np.where(mask, OUTPUTS, np.nan)
    error = unrelu.emulator_error(NET, CODES, x, unrelu.Mask(mask))
    np.testing.assert_allclose(error.covariance[np.ix_(mask, mask)], measured(OFF[:, mask]), rtol=1e-9)
    r = unrelu.invert(NET, x[0], noise=error, operator=unrelu.Mask(mask))
    some = (OUTPUTS[0] - r.reconstruction)[mask]
    assert r.fun == pytest.approx(some @ np.linalg.solve(measured(OFF[:, mask]), some), rel=1e-6)


@pytest.mark.parametrize(
    ("z", "x", "operator", "message"),
    [
        (CODES[:19], OUTPUTS[:19], None, "z has 19 simulations; .* at least 20"),
        (CODES[:, :2], OUTPUTS, None, r"z has shape \(40, 2\); this network takes codes of shape \(3,\)"),
        (CODES[0], OUTPUTS, None, r"z has shape \(3,\)"),
        (CODES, OUTPUTS[:39], None, r"x has shape \(39, 21\) and z 40 codes; pass \(40, 21\)"),
        (CODES, OUTPUTS.T, None, r"x has shape \(21, 40\)"),
        (CODES, {"table": OUTPUTS[:, 8:]}, None, r"x\['table'\] has shape \(40, 13\); .* shape \(3, 4\)"),
        (CODES, {"tabel": OUTPUTS[:, 8:20]}, None,
         "x has the part 'tabel'; those of the output are curve, table, depth; did"),
        (CODES, np.where(np.arange(40)[:, None] == 7, np.nan, OUTPUTS), None,
         "x or G.z. is not finite in 1 of 40 simulations, first in 7"),
        (np.where(CODES > 2, np.inf, CODES), OUTPUTS, None, "x or G.z. is not finite in"),
        (CODES, NET(CODES), None, "x is G.z. in all simulations"),
        (CODES, OUTPUTS, unrelu.Mask(np.eye(21)[:4]), "21 entries and masks for each observation"),
        (CODES, OUTPUTS, np.ones((4097, 21)), "operator= has 4097 entries; .* at most 4096 entries"),
        (CODES, OUTPUTS, {"tabel": BINS}, "operator has the part 'tabel'"),
        (CODES, {"curve": OUTPUTS[:, :8]}, BINS, "operator= must be a dictionary of masks and matrices by part"),
    ],
)  # fmt: skip
def test_simulations_that_cannot_be_used(z, x, operator, message):
    with pytest.raises(InputError, match=message):
        unrelu.emulator_error(NET, z, x, operator)


def test_a_generator_without_parts_takes_none():
    with pytest.raises(InputError, match="output has no named parts"):
        unrelu.emulator_error(ZERO, np.zeros((20, 1)), {"curve": np.ones((20, M))})


T = np.linspace(0, 1, 40)


def simulator(z):
    a, b, c = z.T[..., None]
    return (1 + 0.5 * c) * np.exp(-0.5 * ((T - 0.5 - 0.2 * a) / (0.12 + 0.05 * b)) ** 2)


@pytest.fixture(scope="module")
def emulator():
    """ReLU features of codes in a box, with weights by ridge regression on 300 simulations."""
    random = stream("test emulator")
    z, w, b = random.uniform(-1, 1, (300, 3)), random.standard_normal((60, 3)), random.uniform(-1.5, 1.5, 60)
    features = np.column_stack([np.maximum(z @ w.T + b, 0), np.ones(len(z))])
    found = np.linalg.solve(features.T @ features + 0.001 * np.eye(61), features.T @ simulator(z))
    return unrelu.from_arrays([w, found[:-1].T], [b, found[-1]], activation=["relu", "identity"])


def test_p_values_are_uniform_where_the_errors_are_normal(emulator):
    """Smooth errors, larger than the noise, the same for every code."""
    random, smooth = stream("test smooth"), np.sin(np.outer([2, 3, 5, 7], T))

    def simulated(size):
        z = random.uniform(-1, 1, (size, 3))
        return z, emulator(z) + 0.05 + 0.1 * random.standard_normal((size, 4)) @ smooth

    error, (_, x) = unrelu.emulator_error(emulator, *simulated(400)), simulated(150)
    y = x + 0.05 * random.standard_normal(x.shape)
    without = unrelu.invert(emulator, y, noise=unrelu.Gaussian(0.05), bounds=(-1, 1)).p_value
    found = unrelu.invert(emulator, y, noise=unrelu.Gaussian(0.05) + error, bounds=(-1, 1)).p_value
    assert np.mean(without < 0.01) > 0.5
    assert stats.kstest(found, "uniform").statistic < farthest(150)


def test_a_small_p_value_tells_bad_data_from_a_bad_emulator(emulator):
    """Errors of a trained emulator differ from code to code, so that p-values are only nearly uniform."""
    random = stream("test simulations")
    held_out, z = random.uniform(-1, 1, (200, 3)), random.uniform(-1, 1, (150, 3))
    error = unrelu.emulator_error(emulator, held_out, simulator(held_out))
    sigma = 0.35 * np.sqrt(np.diag(error.covariance).mean())
    e = sigma * random.standard_normal((150, len(T)))

    def p_values(errors, noise):
        return unrelu.invert(emulator, simulator(z) + errors, noise=noise, bounds=(-1, 1)).p_value

    without, found = p_values(e, unrelu.Gaussian(sigma)), p_values(e, unrelu.Gaussian(sigma) + error)
    assert np.mean(without < 0.01) > 0.5, "the data are as stated, and the emulator is not the simulator"
    assert np.sum(found < 0.01) <= at_most(150, 0.01)
    assert stats.kstest(found, "uniform").statistic < farthest(150) + 0.02
    bad = p_values(2 * e, unrelu.Gaussian(sigma) + error)
    assert np.mean(bad < 0.01) > 0.9, "the data have larger errors than stated"
