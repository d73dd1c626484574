"""What the layer-wise methods and the joint refinement must recover (200 random instances, fixed seeds)."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from support import paper_network, random_network
from unrelu.result import Status


def relative_error(z, truth):
    return np.linalg.norm(z - truth, axis=-1) / np.linalg.norm(truth, axis=-1)


def oracle(network, truth, y):
    """Least squares with the true ReLU pattern known: z* + J(z*)^+ (y - G(z*))."""
    return truth + np.linalg.lstsq(network.jacobian(truth), y - network(truth), rcond=None)[0]


INSTANCES = [(20, 100, 500)] * 60 + [(k, 250, 600) for k in (20, 60, 80, 100, 110, 115, 120) for _ in range(20)]


@pytest.mark.parametrize("part", range(4))
def test_noiseless_codes_are_recovered_exactly_where_the_jacobian_has_rank_k(part):
    """Theorem 2's and Algorithm 1 recover every identifiable code, and count the free dimensions of the rest."""
    free_found = 0
    for seed in range(50 * part, 50 * (part + 1)):
        sizes = INSTANCES[seed]
        network = paper_network(sizes, seed=seed)
        truth = np.random.default_rng(10_000 + seed).standard_normal(sizes[0])
        y = network(truth)
        free = sizes[0] - np.linalg.matrix_rank(network.jacobian(truth))
        free_found += free > 0
        for method in ("exact", "linf"):
            result = unrelu.invert(network, y, method)
            assert result.freedom == free, (sizes, seed, method)
            if free == 0:
                assert result.status is Status.EXACT_FIT
                assert relative_error(result.z, truth) <= 1e-6
            else:
                assert result.status is Status.NOT_UNIQUE
                assert f"{free} free dimensions" in result.message
                assert result.residual("linf") <= 1e-8 * y.max()
    assert (free_found > 0) == (part == 3)  # the widest codes, k = 110 to 120, are not always identifiable


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-2])
def test_linf_then_lm_reaches_the_oracle(distribution, noise):
    ratios = []
    for seed in range(12):
        network = paper_network((20, 100, 500), seed=seed)
        rng = np.random.default_rng(20_000 + seed)
        truth = rng.standard_normal(20)
        e = rng.uniform(-noise, noise, 500) if distribution == "uniform" else rng.normal(0, noise, 500)
        y = network(truth) + e
        result = unrelu.invert(network, y, "lm", start="linf")
        ratios.append(relative_error(result.z, truth) / relative_error(oracle(network, truth, y), truth))
    assert np.median(ratios) <= 1.02


@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.1", "sigmoid", "tanh"])
@pytest.mark.parametrize("method", ["linf", "l1", "relaxed", "least_squares"])
def test_layerwise_error_is_of_the_size_of_the_noise(activation, method):
    network = random_network((10, 40, 160), activation=activation, seed=5)
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((4, 10))
    y = network(truth) + rng.uniform(-1e-6, 1e-6, (4, 160))
    result = unrelu.invert(network, y, method)
    # Each layer may amplify; a wrong sign decision would give an error of order one.
    assert np.median(relative_error(result.z, truth)) <= 5e-4


@pytest.mark.parametrize("method", ["linf", "l1", "relaxed", "least_squares"])
def test_a_stated_noise_level_is_used(method):
    network = random_network((10, 40, 160), seed=6)
    rng = np.random.default_rng(6)
    truth = rng.standard_normal((4, 10))
    y = network(truth) + rng.uniform(-1e-3, 1e-3, (4, 160))
    result = unrelu.invert(network, y, method, noise="uniform:1e-3")
    assert np.median(relative_error(result.z, truth)) <= 5e-2
    assert result.problem.norm == "linf"


@pytest.mark.parametrize("method", ["linf", "l1", "relaxed", "least_squares", "exact"])
@pytest.mark.parametrize("bias", [0.0, 1e3])
def test_dark_observations_do_not_stop_the_batch(method, bias):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(8, 3)), rng.normal(size=(20, 8))]
    for last in ("relu", "sigmoid"):
        network = unrelu.from_arrays(weights, [-bias * np.ones(8), -bias * np.ones(20)], ["relu", last])
        y = np.zeros((3, 20))
        y[1, 4] = 1e-12
        y[2] = network(rng.normal(size=3))
        result = unrelu.invert(network, y, method)
        assert np.isfinite(result.z).all()
        assert Status.SOLVER_FAILED not in set(result.status)


def test_auto_says_when_its_runs_hit_their_limit():
    network = random_network((6, 24, 60), seed=1)
    y = network(np.random.default_rng(1).standard_normal(6)) + 0.1
    assert unrelu.invert(network, y, starts=1, max_iterations=1).status is Status.ITERATION_LIMIT
