"""Confidences against the lowest objective there is, found on a grid so fine that no optimum of a tiny net hides."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import at_least, at_most, random_network
from unrelu.problem import Problem

# Codes of two coordinates between -5 and 5; the best of the grid start descents.
_SIDE, _DESCENTS = 161, 12
# What agreement says depends a little on the draws that it was learned from: 0.988 to 0.996 with eight seeds.
_SURE = 0.98


def lowest(problem: Problem) -> np.ndarray:
    """The objective of the best code, (B,)."""
    axis = np.linspace(-5, 5, _SIDE)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    x = problem.operator.values(problem.network(grid))
    found = []
    for y in problem.y:
        f = np.square(x - y).sum(axis=1).reshape(_SIDE, _SIDE)
        padded = np.pad(f, 1, constant_values=np.inf)
        around = [padded[1 + i : 1 + i + _SIDE, 1 + j : 1 + j + _SIDE] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        minima = np.flatnonzero((f <= np.min(around, axis=0)).ravel())
        starts = grid[minima[np.argsort(f.ravel()[minima])][:_DESCENTS]]
        ends = unrelu.invert(problem.network, np.tile(y, (len(starts), 1)), "lm", z0=starts)
        found.append(ends.fun.min())
    return np.array(found)


def tiny(sizes):
    """A generator of two coordinates, observations with much noise, its deviation, and their lowest objectives."""
    network = random_network(sizes, seed=3)
    rng = np.random.default_rng(4)
    y = network(rng.standard_normal((60, 2)))
    deviation = 0.3 * np.sqrt(np.square(y).mean())
    y = y + deviation * rng.standard_normal(y.shape)
    return network, y, deviation, lowest(Problem.build(network, y))


def test_sure_answers_are_the_best_there_is():
    network, y, _, lowest_there_is = tiny((2, 6, 9))
    result = unrelu.invert(network, y)
    best = result.fun <= 1.01 * lowest_there_is + 1e-12
    sure = result.confidence >= _SURE
    assert sure.sum() >= 30
    assert best[sure].sum() >= at_least(sure.sum(), _SURE)
    assert best.sum() >= at_least(60, result.confidence.mean())


# The statistics of the test above on more networks: a check at scale, and no behaviour of its own.
@pytest.mark.long
@pytest.mark.parametrize(("sizes", "noise"), [((2, 4, 5, 8), "stated"), ((2, 4, 8), "not stated")])
def test_so_are_those_of_very_narrow_layers(sizes, noise):
    network, y, deviation, lowest_there_is = tiny(sizes)
    result = unrelu.invert(network, y, noise=f"gaussian:{deviation}" if noise == "stated" else None)
    best = result.fun <= 1.01 * lowest_there_is + 1e-12
    sure = result.confidence >= _SURE
    assert best.sum() >= at_least(60, 0.97)
    assert sure.sum() >= 20
    assert best[sure].sum() >= at_least(sure.sum(), _SURE)


def test_out_of_distribution_observations_are_judged_as_such():
    """Observations that no code explains have more optima; sure answers are the best all the same."""
    network, _, deviation, _ = tiny((2, 6, 9))
    y = np.random.default_rng(6).standard_normal((60, 9))
    lowest_there_is = lowest(Problem.build(network, y))
    for noise in (f"gaussian:{0.1 * deviation}", None):
        result = unrelu.invert(network, y, noise=noise)
        sure = result.confidence >= _SURE
        assert (result.fun <= 1.01 * lowest_there_is + 1e-12)[sure].sum() >= at_least(sure.sum(), _SURE)
        assert not result.success.any() or noise is None


# The same of thirty searches through five narrow layers; test_valleys_are_followed has one.
@pytest.mark.long
def test_sure_answers_of_narrow_layers_have_reached_the_end_of_their_valley():
    network = random_network((10, 10, 10, 10, 10, 30), "leaky_relu:0.2", 0, last="identity")
    rng = np.random.default_rng(7)
    y = network(rng.standard_normal((30, 10)))
    y = y + 0.1 * np.sqrt(np.square(y).mean(axis=1, keepdims=True)) * rng.standard_normal(y.shape)
    result = unrelu.invert(network, y, pool=False)
    further = unrelu.invert(network, y, "lm", z0=result.z, max_iterations=1000)
    lower = result.fun > 1.01 * further.fun
    assert lower.mean() <= 0.3
    sure = result.confidence >= 0.99
    assert (lower & sure).sum() <= at_most(sure.sum(), 0.01)
