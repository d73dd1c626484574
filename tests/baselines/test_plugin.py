"""PLUGIn: its step is the published one, its step lengths too, and it recovers codes through contracting layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

import unrelu
from tests.support import image_network, paper_network, random_network
from unrelu.baselines.plugin import mean_slope, weight_product
from unrelu.errors import OptionError
from unrelu.models.activations import Activation
from unrelu.result import Status

RNG = np.random.default_rng(1)


def dense(layer):
    matrix = layer.matrix()
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def relative_errors(z, truth):
    return np.linalg.norm(z - truth, axis=1) / np.linalg.norm(truth, axis=1)


@pytest.mark.parametrize("network", [random_network((4, 12, 30), bias=True, seed=1), image_network()])
def test_one_step_goes_back_through_the_transposed_weights(network):
    k, n = network.latent_dim, network.output_dim
    a, z0, y = RNG.standard_normal((9, n)), RNG.standard_normal((2, k)), RNG.standard_normal((2, 9))
    options = {"operator": a, "prior": 0.3, "z0": z0, "learning_rate": 0.01}
    result = unrelu.invert(network, y, "plugin", max_iterations=1, **options)
    w1, w2 = map(dense, network.layers)
    r = y - network(z0).reshape(2, -1) @ a.T
    np.testing.assert_allclose(result.z.reshape(2, k), z0 + 0.01 * (r @ a @ w2 @ w1 - 0.3 * z0), rtol=1e-10)
    np.testing.assert_allclose(weight_product(network).numpy(), (w2 @ w1).T, atol=1e-12)
    assert result.nit.tolist() == [1, 1]


def test_codes_are_recovered_where_layers_contract():
    """The published experiment without noise; recovered is an error of at most 1e-5."""
    network = paper_network((20, 600, 500, 500), seed=2)
    truth = RNG.standard_normal((5, 20))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    result = unrelu.invert(network, network(truth), "plugin", setting="synthetic")
    assert relative_errors(result.z, truth).max() <= 1e-5
    assert set(result.status) == {Status.EXACT_FIT}
    assert (result.nit < 10_000).all()


def test_with_noise_it_is_stable_but_not_the_least_squares_code():
    network = paper_network((20, 600, 500, 500), seed=3)
    truth = RNG.standard_normal((5, 20))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    e = RNG.standard_normal((5, 500))
    y = network(truth) + 0.105 * e / np.linalg.norm(e, axis=1, keepdims=True)
    plugin = unrelu.invert(network, y, "plugin", setting="synthetic")
    refined = unrelu.invert(network, y, "lm", z0=truth)
    assert set(plugin.status) == {Status.CONVERGED}
    assert (plugin.fun > refined.fun).all()
    assert (relative_errors(plugin.z, truth) > relative_errors(refined.z, truth)).all()
    # sqrt(4^d k / n) |e| is the order of the published bound.
    assert relative_errors(plugin.z, truth).mean() <= math.sqrt(4**3 * 20 / 500) * 0.105 * 2


@pytest.mark.parametrize(
    ("activation", "setting", "step"),
    [("relu", "synthetic", 3.0), ("relu", "theory", 8.0), ("leaky_relu:0.2", "theory", (1 / 0.6) ** 3)],
)
def test_published_steps_of_random_weights(activation, setting, step):
    network = paper_network((4, 60, 50, 50), activation=activation, seed=1)
    y, z0 = network(RNG.standard_normal(4)), RNG.standard_normal(4)
    one = {"max_iterations": 1, "z0": z0}
    set_by_name = unrelu.invert(network, y, "plugin", setting=setting, **one)
    np.testing.assert_allclose(
        set_by_name.z, unrelu.invert(network, y, "plugin", learning_rate=step, **one).z, rtol=1e-12
    )


@pytest.mark.parametrize("network", [random_network((4, 12, 30), seed=1), image_network()])
def test_published_step_of_trained_weights(network):
    gamma = math.prod(np.linalg.norm(dense(layer), 2) for layer in network.layers)
    y, z0 = RNG.standard_normal(network.output_dim), RNG.standard_normal(network.latent_dim)
    one = {"max_iterations": 1, "z0": z0}
    expected = unrelu.invert(network, y, "plugin", learning_rate=1 / gamma, **one)
    np.testing.assert_allclose(unrelu.invert(network, y, "plugin", **one).z, expected.z, rtol=1e-6)


@pytest.mark.parametrize(
    "activation",
    [
        Activation("relu"),
        Activation("leaky_relu", 0.1),
        Activation("identity"),
        Activation("tanh"),
        Activation("sigmoid"),
    ],
)
def test_the_mean_slope_is_the_mean_of_g_phi_of_g(activation):
    def density(g):
        return g * float(activation.value(np.array(g))) * math.exp(-g * g / 2) / math.sqrt(2 * math.pi)

    expected = quad(density, -12, 0)[0] + quad(density, 0, 12)[0]
    assert mean_slope(activation) == pytest.approx(expected, rel=1e-7)


def test_the_mean_slope_of_a_prelu_is_that_over_its_outputs():
    assert mean_slope(Activation("prelu", [0.0, 1.0])) == pytest.approx(0.75)


def test_a_step_that_is_too_long_is_said_to_diverge():
    network = random_network((4, 12, 30), activation="identity", seed=5)
    result = unrelu.invert(network, np.ones(30), "plugin", learning_rate=10.0)
    assert result.status is Status.DIVERGED
    assert np.isfinite(result.z).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "fast"}, "setting='fast' is unknown; use one of trained, synthetic, theory"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be above 0 and finite"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
        ({"step_tolerance": -1e-9}, "step_tolerance=-1e-09 must be at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        unrelu.invert(random_network((3, 8), seed=0), np.zeros(8), "plugin", **options)
