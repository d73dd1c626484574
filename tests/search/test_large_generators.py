"""``auto`` on generators whose Jacobians are much work: descents by gradients, from short starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.local_search.squared_error import SquaredError
from unrelu.result import Ending, Status
from unrelu.search import _schedules
from unrelu.search._schedules import FEW_COORDINATES, LIMITED_MEMORY
from unrelu.search.descents import descents_for
from unrelu.search.joint_search import JointSearch
from unrelu.search.sample_cache import SampleCache


@pytest.fixture
def large(monkeypatch):
    """Every generator is a large one."""
    monkeypatch.setattr("unrelu.models.generator._LARGE", 0)
    monkeypatch.setattr("unrelu.local_search.packed_observations._SMALL", 0)


def residual_network(seed=0):
    """Layers that no chain has: z -> W relu(z + V relu(z))."""

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.inner = torch.nn.Parameter(torch.randn(6, 6, generator=generator) / 3)
            self.outer = torch.nn.Parameter(torch.randn(60, 6, generator=generator))

        def forward(self, z):
            return torch.tanh(z + torch.relu(z @ self.inner.T)).unsqueeze(1).amax(1) @ self.outer.T

    return unrelu.from_torch(Residual(), latent_shape=(6,))


NETWORKS = {
    "dense": lambda: random_network((6, 40, 150), seed=1, bias=True),
    "sigmoid": lambda: random_network((6, 40, 150), activation="sigmoid", seed=1, bias=True),
    "opaque": residual_network,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_noiseless_outputs_are_fitted_exactly(large, name):
    network = NETWORKS[name]()
    truth = np.random.default_rng(2).standard_normal((5, network.latent_dim))
    result = unrelu.invert(network, network(truth))
    exact = result.status == Status.EXACT_FIT
    assert exact.sum() >= (4 if name == "opaque" else 5)
    np.testing.assert_allclose(result.z[exact], truth[exact], atol=1e-6)


@pytest.mark.parametrize("few", [0, 16], ids=["limited memory", "tempering"])
@pytest.mark.parametrize("measurement", ["mask", "matrix"])
def test_noisy_measurements_end_as_low_as_on_small_generators(measurement, few, monkeypatch):
    network = NETWORKS["dense"]()
    rng = np.random.default_rng(3)
    operator = rng.random((5, 150)) < 0.7 if measurement == "mask" else rng.standard_normal((60, 150)) / 12
    x = network(rng.standard_normal((5, 6))) + 0.05 * rng.standard_normal((5, 150))
    y = x if measurement == "mask" else x @ operator.T
    monkeypatch.setattr("unrelu.local_search.packed_observations._SMALL", 0)
    expected = unrelu.invert(network, y, operator=unrelu.Mask(operator) if measurement == "mask" else operator)
    again = NETWORKS["dense"]()
    monkeypatch.setattr("unrelu.models.generator._LARGE", 0)
    monkeypatch.setattr("unrelu.search.descents._FEW", few)
    found = unrelu.invert(again, y, operator=unrelu.Mask(operator) if measurement == "mask" else operator)
    descents = descents_for(found.problem, SampleCache.of(found.problem), SquaredError.of(found.problem))
    assert descents.schedule is (FEW_COORDINATES if few else LIMITED_MEMORY)
    assert (found.fun <= expected.fun * 1.01).all()  # codes at different kinks of one optimum


def test_a_refinement_goes_on_for_as_many_steps_as_are_stated(large, monkeypatch):
    """What a limit's message advises, raise max_iterations, lowers the objective of a code that still falls."""
    network = NETWORKS["dense"]()
    rng = np.random.default_rng(6)
    y = network(rng.standard_normal((6, 6))) + rng.standard_normal((6, 150))
    monkeypatch.setattr(_schedules, "FEW_COORDINATES", replace(FEW_COORDINATES, steps=1))
    cut, longer, default = (unrelu.invert(network, y, max_iterations=most) for most in (2, 6, None))
    assert (cut.verdict == Ending.ITERATION_LIMIT).any()
    assert default.fun.sum() < longer.fun.sum() < cut.fun.sum()
    assert (default.verdict != Ending.ITERATION_LIMIT).all()


def test_the_same_call_gives_the_same_bits(large):
    network = NETWORKS["dense"]()
    y = network(np.random.default_rng(4).standard_normal(6)) + 0.1
    first, second = unrelu.invert(network, y), unrelu.invert(NETWORKS["dense"](), y)
    assert first.z.tobytes() == second.z.tobytes()


@pytest.mark.parametrize("measurement", ["mask", "matrix", "function"])
def test_tempered_starts_are_the_samples_with_the_lowest_objective(large, measurement):
    network, rng = NETWORKS["dense"](), np.random.default_rng(7)
    x = network(rng.standard_normal((3, 6)))
    operator = {
        "mask": unrelu.Mask(rng.random((3, 150)) < 0.7), "matrix": rng.standard_normal((60, 150)) / 12,
        "function": lambda x: torch.tanh(x[:, :40]),
    }[measurement]  # fmt: skip
    y = {"mask": x, "matrix": x @ rng.standard_normal((150, 60)), "function": np.tanh(x[:, :40])}[measurement]
    search = JointSearch(unrelu.Problem.build(network, y, operator=operator, noise="gaussian:0.1").equilibrated())
    tempered, z = search.starts.tempered, search.cache.model.z
    found = search.starts.codes(np.arange(3), 0, 3)
    for i in range(3):
        f = tempered.values(z, torch.full((len(z),), i))
        np.testing.assert_allclose(found[i], z[f.argsort()[:3]].double(), atol=1e-6)
