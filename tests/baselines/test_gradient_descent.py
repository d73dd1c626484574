"""The paper's gradient descent: its step, its stop rule, its settings."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import paper_network, random_network
from unrelu.errors import OptionError
from unrelu.result import Ending, Status


def test_one_step_is_the_gradient_of_half_the_squared_error():
    network = random_network((4, 12, 30), activation="tanh", seed=1)
    rng = np.random.default_rng(1)
    y, z0 = rng.standard_normal(30), rng.standard_normal(4)
    result = unrelu.invert(network, y, "gradient_descent", z0=z0, learning_rate=0.1, max_iterations=1)
    expected = z0 - 0.1 * network.jacobian(z0).T @ (network(z0) - y)
    np.testing.assert_allclose(result.z, expected, atol=1e-12)
    assert result.verdict is Ending.ITERATION_LIMIT


def test_synthetic_setting_recovers_the_papers_random_net():
    network = paper_network((20, 100, 500), seed=2)
    truth = np.random.default_rng(2).standard_normal((5, 20))
    result = unrelu.invert(network, network(truth), "gradient_descent", setting="synthetic")
    errors = np.linalg.norm(result.z - truth, axis=1) / np.linalg.norm(truth, axis=1)
    assert np.median(errors) <= 1e-6
    assert (result.nit <= 1000).all()


def test_observations_stop_at_the_gradient_tolerance():
    network = random_network((4, 12, 30), activation="leaky_relu:0.5", seed=3)
    truth = np.random.default_rng(3).standard_normal((2, 4))
    options = {"learning_rate": 0.02, "max_iterations": 5000, "gradient_tolerance": 1e-3}
    result = unrelu.invert(network, network(truth), "gradient_descent", **options)
    assert (result.nit < 5000).all()
    for z, y in zip(result.z, network(truth), strict=True):
        assert np.linalg.norm(network.jacobian(z).T @ (network(z) - y)) <= 1e-3


def test_defaults_of_trained_nets_are_the_papers():
    network = random_network((4, 12, 30), seed=4)
    y = network(np.random.default_rng(4).standard_normal(4)) + 1.0
    assert unrelu.invert(network, y, "gradient_descent", max_iterations=3).nit == 3
    result = unrelu.invert(network, y, "gradient_descent", callback=lambda p: p.nit >= 20)
    assert result.status is Status.STOPPED


def test_a_step_that_is_too_long_is_said_to_diverge():
    network = random_network((4, 12, 30), activation="identity", seed=5)
    y = network(np.random.default_rng(5).standard_normal(4))
    result = unrelu.invert(network, y, "gradient_descent", learning_rate=1e6, max_iterations=2000)
    assert result.verdict is Ending.DIVERGED
    assert np.isfinite(result.z).all()
    assert not result.success


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "fast"}, "setting='fast'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must be above 0"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        unrelu.invert(random_network((3, 8), seed=0), np.zeros(8), "gradient_descent", **options)
