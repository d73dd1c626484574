"""Bounds of latent codes: no method leaves them, a code at one is found to the bit, and what that leaves open."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.optimize import least_squares
from torch import nn

import unrelu
from tests.support import random_network
from unrelu.errors import InputError
from unrelu.runtime.streams import stream

# Units as far apart as those of an emulator's parameters.
LOWER, UPPER = np.array([-1.0, -2.0, 0.0, 10.0, -50.0]), np.array([1.0, 2.0, 1e-3, 20.0, 50.0])
# Coordinates that some true codes have at a bound.
METHODS = ("auto", "lm", "adam", "gradient_descent", "exact", "linf", "l1", "relaxed", "least_squares")


def emulator(activation="relu,identity"):
    """A generator of parameters in [LOWER, UPPER], (5,) -> (120,)."""
    inner = random_network((5, 40, 120), seed=1)
    first, last = (np.asarray(layer.matrix()) for layer in inner.layers)
    weight = first * np.sqrt(12) / (UPPER - LOWER)
    bias = inner.layers[0].bias() - weight @ (LOWER + UPPER) / 2
    return unrelu.from_arrays([weight, last], [bias, inner.layers[1].bias()], activation=activation.split(","))


def observed(network, noise, count=12):
    truth = LOWER + (UPPER - LOWER) * stream("bounded truth").random((count, 5))
    truth[:4, 0], truth[2:6, 3] = UPPER[0], LOWER[3]
    clean = network(truth)
    return truth, clean + noise * clean.std() * stream("bounded noise").standard_normal(clean.shape)


def opaque(network):
    weights = [torch.tensor(np.asarray(layer.matrix())) for layer in network.layers]
    biases = [torch.tensor(layer.bias()) for layer in network.layers]

    class Module(nn.Module):
        def forward(self, z):
            h = torch.relu(z @ weights[0].T.to(z) + biases[0].to(z))
            return h @ weights[1].T.to(z) + biases[1].to(z) * torch.ones_like(h[:, :1])

    return unrelu.from_torch(Module(), latent_shape=(5,))


@pytest.mark.parametrize("method", METHODS)
def test_no_method_leaves_the_bounds(method):
    network = emulator()
    _, y = observed(network, 0.2, 4)
    result = unrelu.invert(network, y, method, bounds=(LOWER, UPPER))
    found = result.z[np.isfinite(result.z).all(axis=1)]
    assert len(found)
    assert ((found >= LOWER) & (found <= UPPER)).all()
    np.testing.assert_allclose(result.reconstruction, network(result.z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["compiled", "batch", "large", "opaque"])
def test_codes_at_a_bound_are_found_to_the_bit(kind, monkeypatch):
    network = emulator()
    truth, y = observed(network, 0.0)
    if kind == "opaque":
        network = opaque(network)
    elif kind != "compiled":
        monkeypatch.setattr("unrelu.local_search.packed_observations._SMALL", 0)
    if kind == "large":
        monkeypatch.setattr("unrelu.models.generator._LARGE", 0)
    result = unrelu.invert(network, y, bounds=(LOWER, UPPER))
    assert result.success.all()
    np.testing.assert_allclose((result.z - truth) / (UPPER - LOWER), 0, atol=1e-7)
    at = result.active_bounds
    assert at.shape == truth.shape
    assert ((at == 1) <= (truth == UPPER)).all()
    assert ((at == -1) <= (truth == LOWER)).all()


def test_an_optimum_outside_is_projected_as_scipy_does():
    """With noise, unbounded optima are outside in some coordinates: those of trf are the same, from the same basin."""
    network = emulator()
    _, y = observed(network, 0.5)
    result = unrelu.invert(network, y, bounds=(LOWER, UPPER))
    free = unrelu.invert(network, y)
    outside = ((free.z < LOWER) | (free.z > UPPER)).any(axis=1)
    assert outside.sum() >= 3
    assert np.abs(result.active_bounds[outside]).any(axis=1).all()
    middle, half = (LOWER + UPPER) / 2, (UPPER - LOWER) / 2
    for i in range(len(y)):
        start = np.clip((result.z[i] - middle) / half, -0.999, 0.999)
        peer = least_squares(
            lambda t, i=i: network(middle + half * t) - y[i], start, bounds=(-1, 1), xtol=1e-14, ftol=1e-14, gtol=1e-14
        )
        assert result.fun[i] <= 2 * peer.cost * (1 + 1e-6)


def test_one_sided_bounds():
    network = random_network((5, 40, 120), seed=1)
    truth = np.abs(stream("positive truth").standard_normal((8, 5)))
    truth[:3, 1] = 0.0
    result = unrelu.invert(network, network(truth), bounds=(0.0, np.inf))
    assert (result.z >= 0).all()
    np.testing.assert_allclose(result.z, truth, atol=1e-7)


def test_the_prior_is_about_the_codes_themselves():
    network = emulator()
    _, y = observed(network, 0.3, 4)
    lower, upper = np.full(5, -2.0), np.full(5, 2.0)
    result = unrelu.invert(network, y, bounds=(lower, upper), prior=5.0)
    peer = unrelu.invert(network, y, "lm", bounds=(lower, upper), prior=5.0, z0=result.z)
    assert ((result.z >= lower) & (result.z <= upper)).all()
    np.testing.assert_allclose(result.fun, np.square(result.residual()) + 5 * np.square(result.z).sum(axis=1))
    np.testing.assert_allclose(result.fun, peer.fun, rtol=1e-6)


def test_a_code_at_a_bound_is_determined_by_it():
    """G depends on z1 + z2 alone: of codes in [0, 1]^2 only the corners are determined, and a bound uses no freedom."""
    network = unrelu.from_arrays([np.array([[1.0, 1.0], [2.0, 2.0], [-1.0, -1.0]])], activation="identity")
    corner = unrelu.invert(network, network(np.array([1.0, 1.0])), bounds=(0, 1))
    np.testing.assert_allclose(corner.z, 1.0, atol=1e-9)
    inside = unrelu.invert(network, network(np.array([0.5, 0.25])), bounds=(0, 1))
    assert corner.active_bounds.tolist() == [1, 1]
    assert corner.identifiable
    assert inside.status is unrelu.Status.NOT_UNIQUE
    assert inside.freedom == 1


def test_the_p_value_counts_no_freedom_for_held_coordinates():
    network = emulator("identity,identity")
    truth, y = observed(network, 0.0, 300)
    sigma = 0.3
    y = network(truth) + sigma * stream("noise of the p-value").standard_normal(y.shape)
    result = unrelu.invert(network, y, bounds=(LOWER, UPPER), noise=unrelu.Gaussian(sigma))
    p = np.sort(result.p_value)
    assert np.abs(p - (np.arange(300) + 0.5) / 300).max() < 0.09


def test_the_callback_hears_codes_of_the_user():
    heard = []
    network = emulator()
    _, y = observed(network, 0.1, 3)
    unrelu.invert(network, y, "lm", bounds=(LOWER, UPPER), callback=lambda progress: heard.append(progress.z))
    assert len(heard) > 2
    assert all(((z >= LOWER) & (z <= UPPER)).all() for z in heard)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((1.0, 0.0), "coordinate 0 has the lower bound 1 and the upper one 0; pass .lower, upper. in this order"),
        ((np.array([0, 0, 0, 0, 3.5]), 3.0), "coordinate 4 has the lower bound 3.5"),
        ((np.zeros(4), 1.0),
         r"bounds: lower has shape \(4,\), a code has shape \(5,\); pass a number or an array of that shape"),
        ((0.0, np.nan), "bounds: upper has NaN; use -inf or inf where there is no bound"),
        ((0.0, "high"), "bounds: upper=.high. is text; pass the numbers"),
        ((np.full(5, -1j), 1.0), "bounds: lower has complex entries"),
        ((np.ma.masked_array(np.zeros(5), [1, 0, 0, 0, 0]), 1.0), "bounds: lower has masked entries"),
        ((0.0, 10**400), "bounds: upper cannot be read as numbers"),
        ((-1e308, 1e308), "lower bound -1e.308 and the upper one 1e.308; .* at a distance in the range of numbers"),
        ((0.0, 5e-324), "lower bound 0 and the upper one 4.94066e-324; "),
        ((1.0, 1.0), "all coordinates have a value"),
        (3.0, r"bounds=3.0 is no pair; pass \(-3, 3\) or \(lower, upper\)"),
        ([(0, 1), (0, 1), (0, 1)], "is no pair"),
    ],
)  # fmt: skip
def test_bounds_that_cannot_be_used(bounds, message):
    network = emulator()
    with pytest.raises(InputError, match=message):
        unrelu.invert(network, np.zeros(120), bounds=bounds)


def test_bounds_are_taken_in_any_form_and_not_changed():
    network = emulator()
    _, y = observed(network, 0.1, 2)
    ours = unrelu.invert(network, y, "lm", bounds=(LOWER, UPPER))
    wide = np.repeat(np.stack([LOWER, UPPER]), 2, axis=1)
    wide.setflags(write=False)
    for bounds in (
        (LOWER.tolist(), tuple(UPPER)), torch.tensor(np.stack([LOWER, UPPER]), requires_grad=True), wide[:, ::2],
        (LOWER.astype(object), np.asfortranarray(UPPER)), optimize.Bounds(LOWER, UPPER),
    ):  # fmt: skip
        assert unrelu.invert(network, y, "lm", bounds=bounds).z.tobytes() == ours.z.tobytes()


@pytest.mark.parametrize("kind", ["chain", "opaque", "extended"])
def test_what_is_kept_with_a_generator_does_not_keep_it_alive(kind):
    network = emulator()
    if kind != "chain":
        network = opaque(network) if kind == "opaque" else unrelu.extend(network, offset=(-1, 1))
    k = network.latent_dim
    unrelu.invert(network, np.zeros(120), "lm", bounds=(np.full(k, -1e3), np.full(k, 1e3)), max_iterations=2)
    seen = weakref.ref(network)
    del network
    gc.collect()
    assert seen() is None


def test_a_start_that_is_outside_by_rounding_is_shown_with_all_digits():
    network = emulator()
    z0 = np.nextafter((LOWER + UPPER) / 2, np.inf)
    z0[3] = np.nextafter(20.0, 21.0)
    with pytest.raises(InputError, match=r"has 20\.000000000000004 at coordinate 3, outside of bounds \[10, 20\]"):
        unrelu.invert(network, np.zeros(120), bounds=(LOWER, UPPER), z0=z0)
