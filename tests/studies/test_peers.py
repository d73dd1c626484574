"""The peers make the published steps, are taken by the front door as objects, and end with the code that fits best."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

import unrelu
from tests.support import paper_network, random_network
from unrelu.result import Status
from unrelu_studies.peers import ilo
from unrelu_studies.peers.ilo import Ilo, rate
from unrelu_studies.peers.plugin import Plugin
from unrelu_studies.peers.projected_gradient import ProjectedGradient

K, N = 4, 120
NETWORK = random_network((K, 30, N), seed=1)
RNG = np.random.default_rng(1)
TRUTH = RNG.standard_normal((3, K))
MASK = RNG.random(N) < 0.7
MATRIX = RNG.standard_normal((80, N)) / 9


def masked(method, **options):
    return unrelu.invert(NETWORK, NETWORK(TRUTH), method, operator=MASK, **options)


def residuals(network, y, z):
    return np.linalg.norm(y - network(z), axis=1)


# --- PLUGIn -----------------------------------------------------------------------------------------------------------


def test_a_step_of_plugin_goes_back_through_the_transposed_weights(monkeypatch):
    monkeypatch.setattr("unrelu_studies.peers.plugin._STEPS", 1)
    z0, y = RNG.standard_normal((2, K)), RNG.standard_normal((2, 80))
    result = unrelu.invert(NETWORK, y, Plugin(theta=0.01), operator=MATRIX, z0=z0)
    w1, w2 = (layer.matrix() for layer in NETWORK.layers)
    r = y - NETWORK(z0) @ MATRIX.T
    np.testing.assert_allclose(result.z, z0 + 0.04 * r @ MATRIX @ w2 @ w1, rtol=1e-10)
    assert result.method == "plugin"


def test_the_published_steps_of_plugin():
    network = paper_network((4, 60, 50, 50), seed=1)
    assert Plugin(theta=3 / 8).step(network) == 3
    assert Plugin(theta=1.0).step(network) == 8
    norms = [np.linalg.norm(layer.matrix(), 2) for layer in network.layers]
    assert Plugin().step(network) == pytest.approx(1 / math.prod(norms))


def test_plugin_recovers_codes_where_layers_contract():
    """The published experiment; with noise it is stable, but not at the least-squares code."""
    network = paper_network((20, 600, 500, 500), seed=2)
    truth = RNG.standard_normal((5, 20))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    y, method = network(truth), Plugin(theta=3 / 8)
    result = unrelu.invert(network, y, method)
    assert np.linalg.norm(result.z - truth, axis=1).max() <= 1e-5
    assert set(result.status) == {Status.EXACT_FIT}
    e = RNG.standard_normal((5, 500))
    y = y + 0.105 * e / np.linalg.norm(e, axis=1, keepdims=True)
    noisy, refined = unrelu.invert(network, y, method), unrelu.invert(network, y, "lm", z0=truth)
    assert set(noisy.status) == {Status.CONVERGED}
    assert (noisy.fun > refined.fun).all()
    # sqrt(4^d k / n) |e| is the order of the published bound.
    assert np.linalg.norm(noisy.z - truth, axis=1).mean() <= math.sqrt(4**3 * 20 / 500) * 0.105 * 2


# --- intermediate-layer optimisation ----------------------------------------------------------------------------------


def test_the_learning_rate_of_ilo_rises_and_falls_as_released():
    assert rate(0) == 0
    assert rate(0.02) == pytest.approx(0.4)
    assert rate(0.05) == rate(0.25) == pytest.approx(1)
    assert rate(0.625) == pytest.approx(0.5)  # half way down the last three quarters
    assert rate(0.99) == pytest.approx(0.5 - 0.5 * np.cos(np.pi * 0.01 / 0.75))


def test_rounds_of_ilo_start_at_what_the_layers_below_make(monkeypatch):
    """The start is the image before the last round, and its map is the rest of the generator."""
    rounds = []
    original = ilo.fitted

    def spy(image, start, target, steps):
        rounds.append((start, image(start).detach(), target, steps))
        return original(image, start, target, steps)

    monkeypatch.setattr(ilo, "fitted", spy)
    network = random_network((4, 12, 20, 30), activation="tanh", seed=1)
    y = network(RNG.standard_normal((2, 4)))
    result = unrelu.invert(network, y, Ilo())
    assert [each[3] for each in rounds] == [300, 200, 100, 300]
    (z0, *_), (h1, x1, *_), (_, x2, target, _), (code, *_) = rounds
    np.testing.assert_allclose(h1, network.trace(code.numpy())[0], rtol=1e-12)
    np.testing.assert_allclose(x1, network(code.numpy()), rtol=1e-12)
    assert x2.shape == target.shape == y.shape
    assert (result.fun <= ((y - network(z0.numpy())) ** 2).sum(axis=1)).all()
    assert (result.fun <= ((y - network(code.numpy())) ** 2).sum(axis=1)).all()


def test_ilo_on_one_layer_is_adam():
    network, y = unrelu.from_arrays([RNG.standard_normal((9, 3))]), RNG.standard_normal(9)
    z0 = RNG.standard_normal(3)
    z = torch.tensor(z0, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=0.1)
    for t in range(300):
        optimiser.param_groups[0]["lr"] = 0.1 * rate(t / 300)
        optimiser.zero_grad()
        (network.forward(z[None]) - torch.tensor(y)).square().sum().backward()
        optimiser.step()
    np.testing.assert_allclose(unrelu.invert(network, y, Ilo(), z0=z0).z, z.detach().numpy(), rtol=1e-9)


# --- projected gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["linf", "l1", "lm"])
def test_a_projected_step_is_the_inversion_of_the_back_projection(projection):
    """Without biases G(t z) = t G(z), so for orthogonal A the back-projection t A^T A G(z) has the code t z."""
    network, step = random_network((K, 30, N), activation="leaky_relu:0.5", seed=1), 0.3
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((N, N)))[0]
    method = ProjectedGradient(projection, step, max_iterations=1)
    result = unrelu.invert(network, network(TRUTH) @ rotation.T, method, operator=rotation)
    np.testing.assert_allclose(result.z, step * TRUTH, atol=1e-7)


@pytest.mark.parametrize("projection", ["linf", "l1", "lm"])
def test_projections_fit_what_was_observed_better_and_better(projection):
    once, often = (masked(ProjectedGradient(projection, 1.0, count)) for count in (1, 8))
    assert (often.residual() < once.residual()).all()
    assert often.residual().mean() < 0.6 * once.residual().mean()


def test_the_best_iterate_is_kept():
    """A step far beyond 2 makes the iterates worse and worse."""
    runs = [masked(ProjectedGradient("lm", 4.0, count)) for count in (1, 2, 6)]
    for earlier, later in product(runs[:1], runs[1:]):
        assert (later.fun <= earlier.fun).all()


def test_a_projection_without_a_code_ends_its_observation_only(monkeypatch):
    class Fragile:
        def __call__(self, problem):
            z = unrelu.invert(NETWORK, problem.y, "lm", z0=problem.z0).z
            return unrelu.Inversion.of(problem, np.where(np.arange(len(z))[:, None] == 1, np.nan, z), method="fragile")

    monkeypatch.setattr("unrelu_studies.peers.projected_gradient.make", lambda name, options: Fragile())
    result = masked(ProjectedGradient(max_iterations=1))
    assert np.isnan(result.z).all(axis=1).tolist() == [False, True, False]
    assert not result.success[1]
