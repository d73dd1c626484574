"""Descents of many codes: compiled and in PyTorch they reach the same, and stop when they are told to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardt
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.search._schedules import BATCH
from unrelu.search.descents import BatchDescents, CompiledDescents, Start, descents_for
from unrelu.search.joint_search import searched_objective
from unrelu.search.sample_cache import SampleCache, single

K, N, B, RESTARTS = 4, 40, 5, 6
MEASUREMENTS = {
    "whole": None,
    "mask": np.arange(N) % 3 > 0,
    "masks": np.random.default_rng(0).random((B, N)) < 0.7,
    "matrix": np.random.default_rng(0).standard_normal((15, N)),
}
every_measurement = pytest.mark.parametrize("kind", MEASUREMENTS)
both = pytest.mark.parametrize("way", [CompiledDescents, BatchDescents])


def noisy(activation="relu", kind="whole", noise=0.1, sizes=(K, 20, N), **options):
    network = random_network(sizes, activation, seed=1, bias=True)
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((B, sizes[0]))
    x = network(truth) + noise * rng.standard_normal((B, sizes[-1]))
    operator = MEASUREMENTS[kind]
    return Problem.build(network, x @ operator.T if kind == "matrix" else x, operator=operator, **options), truth


def made(way, problem):
    if way is CompiledDescents:
        return way(problem)
    cache = SampleCache.of(problem)
    return way(BATCH, problem, cache, SquaredError.of(problem, single(problem.network)))


def start_from(problem, perturbations=0, seed=2, rows=None, **options):
    """Random codes of each observation, and perturbations."""
    rows = np.arange(problem.size) if rows is None else rows
    rng = np.random.default_rng(seed)
    k = problem.network.latent_dim
    z, drawn = rng.standard_normal((B, RESTARTS, k)), 0.5 * rng.standard_normal((B, RESTARTS, perturbations, k))
    return Start(rows, z[rows], np.full((len(rows), RESTARTS), np.inf), drawn[rows], **options)


def improved(way, problem, start, watch=lambda: False, enough=0.0):
    steps = made(way, problem).improve(start, np.full(len(start.observations), enough), watch)
    return start.z, start.f, steps


def objectives(problem, start):
    at = np.repeat(start.observations, start.z.shape[1])
    return problem.part(at).objective(start.z.reshape(len(at), -1)).reshape(start.f.shape)


@both
@every_measurement
@pytest.mark.parametrize("prior", [0.0, 0.2])
def test_the_objective_is_that_of_the_code(way, kind, prior):
    problem, _ = noisy(kind=kind, prior=prior)
    start = start_from(problem, perturbations=2)
    before = objectives(problem, start)
    _, f, steps = improved(way, problem, start)
    np.testing.assert_allclose(f, objectives(problem, start), rtol=1e-4)
    assert (f < before).all()
    assert (steps >= RESTARTS).all()


@both
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2", "tanh"])
def test_they_end_in_local_optima(way, activation):
    """Levenberg-Marquardt in double precision gains nothing from there, but for what they leave."""
    problem, _ = noisy(activation)
    start = start_from(problem)
    z, f, _ = improved(way, problem, start)
    at = np.repeat(start.observations, RESTARTS)
    part = problem.part(at)
    further = part.objective(LevenbergMarquardt().minimise(part, z.reshape(len(at), -1))[0])
    assert (further >= 0.97 * f.ravel()).mean() >= 0.8


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_from_random_codes_both_find_as_good_ones(activation):
    problem, _ = noisy(activation)
    compiled, batch = (
        improved(way, problem, start_from(problem, perturbations=3))[1] for way in (CompiledDescents, BatchDescents)
    )
    np.testing.assert_allclose(compiled.min(axis=1), batch.min(axis=1), rtol=0.02)


@both
def test_a_schedule_of_smoothed_generators_finds_better_optima_than_none(way):
    problem, _ = noisy(noise=0.0, sizes=(8, 20, N))
    smoothed, exact = (improved(way, problem, start_from(problem, smoothed=s))[1] for s in (True, False))
    assert (smoothed < 1e-6).mean() > (exact < 1e-6).mean() + 0.1


@both
def test_perturbations_never_raise_the_objective(way):
    problem, _ = noisy(noise=0.5)
    start = start_from(problem)
    z, f, _ = (part.copy() for part in improved(way, problem, start))
    moved = start._replace(perturbations=start_from(problem, perturbations=4, seed=3).perturbations)
    z_lower, lower, steps = improved(way, problem, moved)
    assert (lower <= f).all()
    assert (lower < 0.99 * f).any()
    np.testing.assert_array_equal(z_lower[lower == f], z[lower == f])
    np.testing.assert_allclose(lower, objectives(problem, moved), rtol=1e-4)
    assert (steps >= RESTARTS).all()


@both
def test_descents_end_when_the_objective_is_small_enough(way):
    problem, truth = noisy(noise=0.0)
    start = start_from(problem, perturbations=5, smoothed=False)
    start.z[:] = truth[:, None]
    _, f, steps = improved(way, problem, start, enough=1e-3)
    assert (f <= 1e-3).all()
    assert (steps == 0).all()


@both
@every_measurement
def test_some_observations_only(way, kind):
    problem, _ = noisy(kind=kind)
    rows = np.array([3, 1])
    whole = improved(way, problem, start_from(problem, perturbations=2))
    z, f, steps = improved(way, problem, start_from(problem, perturbations=2, rows=rows))
    if way is CompiledDescents:
        for one, other in zip((z, f, steps), whole, strict=True):
            np.testing.assert_array_equal(one, other[rows])
    else:  # sums over a batch of another size are rounded in another way, and a few descents part there
        assert np.isclose(f, whole[1][rows], rtol=0.02).mean() >= 0.8


def test_compiled_descents_stop_between_two_observations():
    problem, _ = noisy()
    calls = []
    start = start_from(problem, perturbations=2)
    before = start.z.copy()
    z, f, steps = improved(CompiledDescents, problem, start, watch=lambda: calls.append(1) or len(calls) > 2)
    assert len(calls) == 3
    whole = improved(CompiledDescents, problem, start_from(problem, perturbations=2))
    for part, all_of_them in zip((z, f, steps), whole, strict=True):
        np.testing.assert_array_equal(part[:2], all_of_them[:2])
    np.testing.assert_array_equal(z[2:], before[2:])
    assert np.isinf(f[2:]).all()
    assert (steps[2:] == 0).all()


@pytest.mark.parametrize("calls", [3, 10, 15, 30])
def test_batches_of_descents_stop_between_two_steps(calls):
    problem, _ = noisy()
    asked = []
    start = start_from(problem, perturbations=5)
    _, f, steps = improved(BatchDescents, problem, start, watch=lambda: asked.append(1) or len(asked) >= calls)
    assert (steps <= RESTARTS * calls).all()
    np.testing.assert_allclose(f, objectives(problem, start), rtol=1e-4)


# --- the choice -------------------------------------------------------------------------------------------------------


def choice(problem):
    cache = SampleCache.of(problem)
    return type(descents_for(problem, cache, searched_objective(problem, cache)))


def test_so_are_large_ones_and_those_that_leave_single_precision(monkeypatch):
    problem, _ = noisy()
    cache = SampleCache.of(problem)
    assert type(descents_for(problem, cache, SquaredError.of(problem))) is BatchDescents  # in double precision
    assert choice(problem) is CompiledDescents
    monkeypatch.setattr("unrelu.local_search.packed_observations._SMALL", K * 20 + 20 * N - 1)
    assert choice(problem) is BatchDescents


class Shaped(torch.nn.Sequential):
    """The usual end of a decoder of pictures: its outputs get their shape by ``view``."""

    def forward(self, z):
        return super().forward(z).view(-1, 1, 4, 6)


@pytest.mark.parametrize("end", ["view", "before the activation", "after it"])
def test_a_shape_for_the_output_changes_nothing_of_a_search(end):
    generator = torch.Generator().manual_seed(4)
    inner, outer = torch.nn.Linear(3, 16), torch.nn.Linear(16, 24)
    for parameter in (*inner.parameters(), *outer.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    layers = [inner, torch.nn.ReLU(), outer, torch.nn.Sigmoid()]
    shape = torch.nn.Unflatten(1, (1, 4, 6))
    shaped = {
        "view": Shaped(*layers),
        "before the activation": torch.nn.Sequential(*layers[:3], shape, layers[3]),
        "after it": torch.nn.Sequential(*layers, shape),
    }[end]
    flat, picture = (unrelu.from_torch(module, latent_shape=(3,)) for module in (torch.nn.Sequential(*layers), shaped))
    assert picture.output_shape == (1, 4, 6)
    assert [layer.activation.name for layer in picture.layers] == ["relu", "sigmoid"]
    rng = np.random.default_rng(8)
    y = flat(rng.standard_normal((5, 3))) + 0.2 * rng.standard_normal((5, 24))
    found, expected = unrelu.invert(picture, y.reshape(5, 1, 4, 6)), unrelu.invert(flat, y)
    np.testing.assert_array_equal(found.z, expected.z)
    np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert found.status.tolist() == expected.status.tolist()
