"""Every method under a measurement of the output: what is hidden does not count, what is mixed is undone or refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import unrelu
from tests.support import random_network
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.methods import METHODS
from unrelu.result import Status

K, N = 4, 120
NETWORK = random_network((K, 30, N), seed=1)
LINEAR = random_network((K, 30, N), seed=1, last="identity")
# Methods with a single start get stuck from most of them.
NEAR = ("lm", "gradient_descent", "adam")
# Steps that suit the network and reach a fit to eight digits.
QUICK = {"gradient_descent": {"learning_rate": 0.02}, "adam": {"restarts": 1}}
# The same where a matrix with singular values up to 2.2 mixes the outputs.
MIXED = {"gradient_descent": {"learning_rate": 0.005}}
RNG = np.random.default_rng(5)
MASK = RNG.random(N) < 0.6
MATRIX = RNG.standard_normal((80, N)) / 9

every_method = pytest.mark.parametrize("method", METHODS)


def codes(batch=3):
    return np.random.default_rng(3).standard_normal((batch, K))


def invert(network, y, method, **options):
    start = {"z0": codes() + 0.1 if np.ndim(y) == 2 else codes()[1] + 0.1} if method in NEAR else {}
    return unrelu.invert(network, y, method, **(start | QUICK.get(method, {}) | options))


def hidden(x, mask):
    """The output with nonsense where nothing was observed."""
    return np.where(mask, x, RNG.choice([np.nan, np.inf, -9.0], size=x.shape))


@every_method
def test_codes_are_found_from_some_of_the_entries(method):
    z = codes()
    result = invert(NETWORK, hidden(NETWORK(z), MASK), method, operator=MASK)
    np.testing.assert_allclose(result.z, z, atol=1e-5)
    assert set(result.status) == {Status.EXACT_FIT}
    np.testing.assert_allclose(result.reconstruction, NETWORK(z), atol=1e-5)


@every_method
def test_every_observation_may_have_its_own_mask(method):
    z = codes()
    masks = np.random.default_rng(6).random((3, N)) < 0.8
    result = invert(NETWORK, hidden(NETWORK(z), masks), method, operator=masks)
    np.testing.assert_allclose(result.z, z, atol=1e-5)
    assert (result.freedom == 0).all()
    one = invert(NETWORK, hidden(NETWORK(z[1]), masks[1]), method, operator=masks[1])
    np.testing.assert_allclose(one.z, z[1], atol=1e-5)


@pytest.mark.parametrize(("method", "form"), [("auto", np.asarray), ("linf", np.asarray), ("linf", sparse.csr_array)])
def test_rows_with_a_single_one_are_a_mask(method, form):
    z = codes()
    rows = np.eye(N)[np.flatnonzero(MASK)]
    result = invert(NETWORK, NETWORK(z) @ rows.T, method, operator=form(rows))
    np.testing.assert_allclose(result.z, z, atol=1e-5)


@every_method
def test_mixed_outputs_of_an_activation_are_inverted_jointly_or_refused(method):
    z = codes()
    y = NETWORK(z) @ MATRIX.T
    if METHODS[method].layerwise:
        with pytest.raises(
            UnsupportedModelError, match=r"mixes the outputs of the last activation \(relu\): use method="
        ):
            invert(NETWORK, y, method, operator=MATRIX)
    else:
        result = invert(NETWORK, y, method, operator=MATRIX, **MIXED.get(method, {}))
        np.testing.assert_allclose(result.z, z, atol=1e-5)
        np.testing.assert_allclose(result.residual(), 0, atol=1e-6)


@every_method
def test_mixed_outputs_of_an_affine_map_are_a_layer(method):
    z = codes()
    result = invert(LINEAR, LINEAR(z) @ MATRIX.T, method, operator=MATRIX, **MIXED.get(method, {}))
    np.testing.assert_allclose(result.z, z, atol=1e-5)


def test_a_code_that_few_entries_leave_open_is_not_called_unique():
    few = np.arange(N) < 3
    result = invert(LINEAR, LINEAR(codes()), "lm", operator=few)
    assert set(result.status) == {Status.NOT_UNIQUE}
    assert (result.freedom == K - 3).all()


def test_hidden_entries_count_neither_in_the_noise_level_nor_in_the_residual():
    x = NETWORK(codes())
    y = x + np.where(MASK, 0.01, 50.0) * RNG.standard_normal(x.shape)
    result = unrelu.invert(NETWORK, y, "lm", start="least_squares", operator=MASK, noise="gaussian:0.01")
    assert set(result.status) == {Status.NOISE_LEVEL}
    np.testing.assert_allclose(result.residual("linf"), np.abs((y - result.reconstruction) * MASK).max(axis=1))


@pytest.mark.parametrize(
    ("y", "operator", "message"),
    [
        (np.zeros(N), MATRIX, r"y has shape \(120,\), operator= gives \(80,\); pass what it measures, A @ y"),
        (np.zeros(40), MASK, r"y has shape \(40,\), the network ends in \(120,\).* pass operator="),
        (np.zeros((2, N)), np.ones((3, N), dtype=bool), "operator= has 3 masks for 2 observations"),
        (np.full(N, np.nan), MASK,
         "y has NaN or infinite entries in 1 of 1 observations.*hide them by operator=unrelu\\.Mask"),
    ],
)  # fmt: skip
def test_observations_that_do_not_fit_the_operator_are_refused(y, operator, message):
    with pytest.raises(InputError, match=message):
        unrelu.invert(NETWORK, y, operator=operator)


@pytest.mark.parametrize("method", [m for m, entry in METHODS.items() if not entry.layerwise])
def test_the_prior_is_a_term_of_the_objective(method):
    z = codes()
    y = NETWORK(z) + 0.3 * RNG.standard_normal((3, N))
    few = {"max_iterations": 1000} if method in QUICK else {}
    result = invert(NETWORK, y, method, prior=2.0, **few)
    np.testing.assert_allclose(result.fun, result.residual() ** 2 + 2.0 * (result.z**2).sum(axis=1), rtol=1e-12)
    free = invert(NETWORK, y, method, **few)
    assert (np.linalg.norm(result.z, axis=1) < np.linalg.norm(free.z, axis=1)).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prior": -1.0}, InputError, "prior=-1 must be finite and at least 0"),
        ({"prior": np.inf}, InputError, "prior=inf must be finite"),
        ({"prior": "1"}, TypeError, "prior='1' must be a number, the weight of"),
        ({"prior": True}, TypeError, "prior=True must be a number"),
        ({"prior": 1.0, "noise": "uniform:0.1"}, InputError, "the norm here is 'linf', pass norm='l2'"),
        ({"prior": 1.0, "method": "linf"}, InputError, "method='linf' inverts layers, which have no"),
    ],
)
def test_priors_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        unrelu.invert(NETWORK, np.zeros(N), **options)
