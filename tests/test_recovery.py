"""What the layer-wise methods and the joint refinement must recover (200 random instances, fixed seeds)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import paper_network, random_network
from unrelu.errors import UnsupportedModelError
from unrelu.result import Ending, Status


def relative_error(z, truth):
    return np.linalg.norm(z - truth, axis=-1) / np.linalg.norm(truth, axis=-1)


def oracle(network, truth, y):
    """Least squares with the true ReLU pattern known: z* + J(z*)^+ (y - G(z*))."""
    return truth + np.linalg.lstsq(network.jacobian(truth), y - network(truth), rcond=None)[0]


INSTANCES = [(20, 100, 500)] * 60 + [(k, 250, 600) for k in (20, 60, 80, 100, 110, 115, 120) for _ in range(20)]

# A few of each size, and all of them.
SEEDS = [
    pytest.param([*range(0, 60, 3), *range(60, 200, 4)], id="some"),
    *(pytest.param(range(i, i + 50), id=f"from {i}", marks=pytest.mark.long) for i in range(0, 200, 50)),
]


@pytest.mark.parametrize("seeds", SEEDS)
def test_noiseless_codes_are_recovered_exactly_where_the_jacobian_has_rank_k(seeds):
    """Theorem 2's and Algorithm 1 recover every identifiable code, and count the free dimensions of the rest."""
    free_found = 0
    for seed in seeds:
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
    assert (free_found > 0) == (max(seeds) >= 150)  # the widest codes, k = 110 to 120, are not always identifiable


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
@pytest.mark.parametrize("noise", [1e-6, 1e-2])
def test_linf_then_lm_reaches_the_oracle(distribution, noise):
    ratios = []
    for seed in range(6):
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


@pytest.mark.parametrize(
    ("method", "bias"),
    [("linf", 0.0), ("linf", 1e3), ("l1", 1e3), ("relaxed", 0.0), ("least_squares", 1e3), ("exact", 0.0)],
)
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
        assert Ending.SOLVER_FAILED not in set(result.verdict)


@pytest.mark.parametrize("gain", [1e-9, 1e9])
@pytest.mark.parametrize("method", ["linf", "l1", "relaxed", "least_squares", "exact"])
def test_a_threshold_is_handed_down_in_the_units_of_the_layer_below(method, gain):
    """With eps of the last layer's outputs, a layer gain would make it larger than every hidden value: z = 0."""
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=(100, 20)) / 10, gain * rng.normal(size=(500, 100)) / 500**0.5]
    network = unrelu.from_arrays(weights)
    truth = rng.standard_normal(20)
    y = network(truth)
    noise = 0.0 if method == "exact" else 1e-3 * y.max()
    result = unrelu.invert(network, y + noise * rng.uniform(-1, 1, 500), method)
    assert relative_error(result.z, truth) <= 0.1


@pytest.mark.parametrize("method", ["exact", "linf", "least_squares", "lm", "auto"])
def test_outputs_in_float32_are_exact_to_float32(method):
    network = paper_network((10, 50, 200), seed=1).to(torch.float32)
    truth = np.random.default_rng(1).standard_normal(10)
    result = unrelu.invert(network, network(truth), method, **({"z0": truth} if method == "lm" else {}))
    assert result.status is Status.EXACT_FIT
    assert relative_error(result.z, truth) <= 1e-4


def test_exact_refuses_layers_too_large_for_it():
    network = unrelu.zoo.load("mnist-dcgan")
    with pytest.raises(UnsupportedModelError, match=r"layer 2 \(3136 -> 6272\) is too large .* use method='lm'"):
        unrelu.invert(network, np.zeros(784), "exact")


def test_a_small_observation_is_judged_by_its_own_size():
    network = paper_network((10, 50, 200), seed=2)
    truth = 1e-9 * np.random.default_rng(2).standard_normal(10)
    wrong = unrelu.invert(network, network(truth), lambda p: unrelu.Inversion.of(p, 1.01 * truth[None], method="wrong"))
    assert wrong.status is Status.CONVERGED
    assert not wrong.success
