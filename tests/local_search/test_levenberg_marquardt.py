"""Levenberg-Marquardt: stationary points, damping, per-observation stops, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import lm_reach, random_network
from unrelu.errors import OptionError
from unrelu.result import Ending, Status


@pytest.mark.parametrize("activation", ["leaky_relu:0.3", "tanh"])
def test_converged_codes_are_stationary(activation):
    network = random_network((5, 20, 60), activation=activation, seed=1)
    rng = np.random.default_rng(1)
    y = network(rng.standard_normal((6, 5))) + 0.01 * rng.standard_normal((6, 60))
    result = unrelu.invert(network, y, "lm")
    assert all(s is Status.CONVERGED for s in result.status)
    for z, observed in zip(result.z, y, strict=True):
        gradient = network.jacobian(z).T @ (network(z) - observed)
        assert np.abs(gradient).max() <= 1e-6 * np.linalg.norm(observed)


def test_it_agrees_with_scipy_from_the_same_start():
    from scipy.optimize import least_squares

    network = random_network((4, 15, 40), activation="tanh", seed=2)
    rng = np.random.default_rng(2)
    y = network(rng.standard_normal(4)) + 0.05 * rng.standard_normal(40)
    z0 = rng.standard_normal(4)
    reference = least_squares(lambda z: network(z) - y, z0, jac=network.jacobian, method="lm", xtol=1e-14, ftol=1e-14)
    result = unrelu.invert(network, y, "lm", z0=z0)
    jacobian = network.jacobian(reference.x)
    assert np.linalg.norm(result.z - reference.x) <= 2 * lm_reach(jacobian.T @ jacobian, 2 * reference.cost) < 1e-5
    assert result.fun == pytest.approx(2 * reference.cost, rel=1e-9)


def test_a_singular_jacobian_is_no_obstacle():
    """More latent coordinates than the first layer has rows: J^T J is singular everywhere."""
    network = random_network((12, 6, 40), activation="leaky_relu:0.1", seed=6)
    y = network(np.random.default_rng(6).standard_normal(12))
    result = unrelu.invert(network, y, "lm")
    assert result.status is Status.NOT_UNIQUE
    assert result.freedom == 6


def test_iteration_limit_is_reported():
    network = random_network((5, 20, 60), seed=8)
    y = network(np.random.default_rng(8).standard_normal(5)) + 0.1
    assert unrelu.invert(network, y, "lm", max_iterations=1).verdict is Ending.ITERATION_LIMIT


@pytest.mark.parametrize("method", ["lm", "gradient_descent", "linf", "auto"])
def test_time_limit_is_reported_and_the_codes_so_far_are_kept(method):
    network = random_network((60, 250, 600), activation="leaky_relu:0.1", seed=9)
    rng = np.random.default_rng(9)
    y = network(rng.standard_normal((40, 60))) + 0.3 * rng.standard_normal((40, 600))
    result = unrelu.invert(network, y, method, time_limit=0.2)
    assert Status.TIME_LIMIT in set(result.status)
    timed_out = result.status == Status.TIME_LIMIT
    assert not result.success[timed_out].any()


@pytest.mark.parametrize("steps", [0, 2])
def test_the_callback_is_asked_before_every_step(steps):
    network = random_network((5, 20, 60), activation="tanh", seed=11)
    rng = np.random.default_rng(11)
    y, z0 = network(rng.standard_normal((3, 5))) + 0.1 * rng.standard_normal((3, 60)), rng.standard_normal((3, 5))
    seen = []
    result = unrelu.invert(network, y, "lm", z0=z0, callback=lambda p: seen.append(p) or p.nit == steps)
    assert [p.nit for p in seen] == list(range(steps + 1))
    np.testing.assert_array_equal(seen[0].z, z0)
    np.testing.assert_array_equal(result.z, seen[-1].z)
    assert result.nit.tolist() == [steps] * 3
    assert set(result.status) == {Status.STOPPED}


@pytest.mark.parametrize("call", [1, 3])
def test_a_stop_in_the_layerwise_start_ends_it_at_once(call):
    network = random_network((5, 20, 60), seed=10)
    y = network(np.random.default_rng(10).standard_normal((3, 5))) + 0.1
    calls = []
    stop = lambda p: calls.append(p) or len(calls) == call  # noqa: E731
    result = unrelu.invert(network, y, "lm", start="least_squares", callback=stop)
    assert len(calls) == call
    assert set(result.status) == {Status.STOPPED}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": "best"}, "start='best'"), ({"max_iterations": 0}, "at least 1"), ({"damping": 0.0}, "above 0")],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        unrelu.invert(random_network((3, 8), seed=0), np.zeros(8), "lm", **options)


def test_it_ends_at_a_local_optimum_also_at_kinks():
    """BFGS with a line search of its own lowers no code by more than 1e-5 of the objective."""
    from scipy.optimize import minimize

    network = random_network((6, 20, 60), seed=21, bias=True)
    rng = np.random.default_rng(21)
    truth = rng.standard_normal((12, 6))
    y = network(truth) + 0.3 * rng.standard_normal((12, 60))
    z0 = truth + rng.standard_normal(truth.shape)
    result = unrelu.invert(network, y, "lm", z0=z0, noise="gaussian:0.3")
    assert set(result.ended) == {Status.CONVERGED}
    for z, observed, f in zip(result.z, y, result.fun, strict=True):
        further = minimize(lambda z: ((network(z) - observed) ** 2).sum(), z, method="BFGS")  # noqa: B023
        assert further.fun >= (1 - 1e-5) * f


def test_it_follows_a_bent_valley_to_its_end():
    """y = a (b + x)^(-1 / c), whose Gram matrix has condition 1e10, as in Bennett's problem of the NIST collection."""
    from scipy.optimize import least_squares

    x = np.linspace(7.4, 12.4, 154)
    scale, truth = np.array([2500.0, 47.0, 0.93]), np.array([1.0, 1.0, 1.0])

    def model(z):
        a, b, c = z
        return -a * (b + x) ** (-1 / c)

    y = model(scale * truth) + 2e-3 * np.random.default_rng(3).standard_normal(len(x))
    reference = least_squares(lambda t: model(scale * t) - y, truth, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    at = torch.from_numpy(x)
    network = unrelu.from_torch(lambda z: -z[:, :1] * (z[:, 1:2] + at.to(z)) ** (-1 / z[:, 2:]), latent_shape=3)
    bounds = np.array([1000.0, 40.0, 0.7]), np.array([4000.0, 55.0, 1.2])
    result = unrelu.invert(network, y, "lm", z0=np.array([2000.0, 50.0, 0.8]), bounds=bounds)
    np.testing.assert_allclose(result.z, scale * reference.x, rtol=1e-5)
    assert result.status is Status.CONVERGED
