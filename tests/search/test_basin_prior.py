"""The prior of the confidence: which one judges which chains, and for which network and measurement it was learned."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.problem import Problem
from unrelu.search import basin_prior
from unrelu.search.basin_prior import (
    LEVELS,
    SURE,
    BasinPrior,
    default_prior,
    has_valleys,
    keep_prior,
    learned_prior,
    prior_for,
    width_class,
)
from unrelu.search.confidence import ALPHA, Hits, confidence, learned
from unrelu.search.descents import BatchDescents

N, B = 20, 4
RNG = np.random.default_rng(0)
MASKS = RNG.random((B, N)) < 0.6
MEASUREMENTS = {
    "whole": None,
    "mask": MASKS[0],
    "another mask": MASKS[1],
    "masks": MASKS,
    "matrix": RNG.standard_normal((7, N)),
    "another matrix": RNG.standard_normal((7, N)),
}


def problem_of(network, kind, seed=0):
    m = 7 if "matrix" in kind else N
    y = np.random.default_rng(seed).standard_normal((B, m))
    return Problem.build(network, y, operator=MEASUREMENTS[kind])


def some_prior(seed=0):
    return BasinPrior(np.random.default_rng(seed).dirichlet(np.ones(len(ALPHA)), size=len(LEVELS)))


def hits_of(best, chains=12, second=0):
    best = np.asarray(best)
    return Hits(best, np.full(len(best), second), np.full(len(best), chains))


# --- levels -----------------------------------------------------------------------------------------------------------


def problem_with(sizes, activation="relu", **options):
    network = random_network(sizes, activation=activation, seed=1)
    return Problem.build(network, np.ones((2, sizes[-1])), **options)


WIDE = problem_with((10, 30, 60))
CLASSES = (WIDE, problem_with((4, 10, 16)), problem_with((6, 10, 12, 40)))


def test_a_default_is_a_mixture_for_each_level():
    for problem in CLASSES:
        weights = default_prior(problem).weights
        assert weights.shape == (len(LEVELS), len(ALPHA))
        assert (weights >= 0).all()
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        assert default_prior(problem) is default_prior(problem)


def test_narrow_layers_take_more_chains_to_be_sure():
    assert [width_class(problem) for problem in CLASSES] == [0, 1, 2]
    all_agree = [default_prior(problem).confidence(0, hits_of([6], 6))[0] for problem in CLASSES]
    assert all_agree[0] >= SURE > all_agree[1] > 0.8 > all_agree[2]
    hopped = [default_prior(problem).confidence(8, hits_of([12], 12))[0] for problem in CLASSES]
    assert hopped[0] > hopped[1] >= SURE > hopped[2]


def test_only_neurons_that_can_be_off_make_a_layer_narrow():
    assert width_class(problem_with((6, 10, 40), "leaky_relu")) == 0
    assert width_class(problem_with((6, 10, 40), "tanh")) == 0
    assert width_class(problem_with((6, 5, 40))) == 2


def test_a_bottleneck_that_is_always_on_leaves_fewer_coordinates_to_tell_apart():
    assert width_class(problem_with((6, 5, 40), "tanh")) == 0
    assert problem_with((6, 5, 40), "tanh").network.noninjective_share == 0
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((n, m)) for n, m in ((3, 10), (14, 3), (40, 14))]
    narrow = unrelu.from_arrays(weights, activation=["identity", "relu", "relu"])
    assert narrow.noninjective_share < 0.05  # 14 neurons for three coordinates
    assert unrelu.from_arrays([rng.standard_normal((14, 10)), weights[2]]).noninjective_share > 0.5


@pytest.mark.parametrize(
    ("sizes", "activation", "valleys"),
    [
        ((6, 10, 12, 40), "leaky_relu", True),
        ((6, 13, 12, 40), "leaky_relu", False),
        ((6, 10, 12), "leaky_relu", False),  # the output is no hidden layer
        ((6, 12, 12, 40), "tanh", True),
        ((6, 60, 60, 40), "tanh", False),
        ((6, 60, 60, 40), "sigmoid", True),
        ((6, 12, 12, 40), "relu", False),
    ],
)
def test_several_narrow_layers_have_valleys_and_take_more_chains(sizes, activation, valleys):
    problem = problem_with(sizes, activation)
    assert has_valleys(problem.network) == valleys
    assert (width_class(problem) >= 1) >= valleys


def test_dead_neurons_do_not_make_a_layer_wide():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((60, 10)), rng.standard_normal((100, 60))]
    biases = [np.where(np.arange(60) < 42, -100.0, 0.0), np.zeros(100)]
    network = unrelu.from_arrays(weights, biases)
    assert width_class(Problem.build(network, np.ones((2, 100)))) == 2
    alive = unrelu.from_arrays(weights, [-biases[0], biases[1]])  # always on
    assert alive.noninjective_share < 1e-3


def test_what_the_defaults_were_not_learned_on_has_the_middle_one():
    module = torch.nn.Sequential(torch.nn.Linear(10, 60), torch.nn.SiLU(), torch.nn.Linear(60, 60))
    opaque = unrelu.from_torch(module, (10,))
    assert width_class(Problem.build(opaque, np.ones((2, 60)))) == 1
    assert width_class(problem_with((10, 30, 60), noise="poisson")) == 1
    assert width_class(problem_with((10, 30, 60), operator=lambda x: x**2)) == 1


def test_three_chains_that_agree_are_not_doubted_where_few_are_made():
    for problem in (WIDE, problem_with((10, 30, 60), operator=lambda x: x**2)):
        agree, differ = (default_prior(problem).confidence(0, hits_of([n], 3, 3 - n))[0] for n in (3, 2))
        assert agree >= BatchDescents.doubtful > differ


def test_chains_are_judged_by_the_level_of_their_hops():
    prior, hits = some_prior(), hits_of([3, 12])
    levels = [confidence(weights, hits) for weights in prior.weights]
    assert not any(np.allclose(one, other) for one, other in pairwise(levels))
    for i, level in enumerate(LEVELS):
        np.testing.assert_array_equal(prior.confidence(level, hits), levels[i])
        if i:
            np.testing.assert_array_equal(prior.confidence(level - 1, hits), levels[i - 1])
    np.testing.assert_array_equal(prior.confidence(9 * LEVELS[-1], hits), levels[-1])


def test_a_level_is_learned_from_observations_that_were_unsure_before():
    base = some_prior()
    counts = ([12] * 40 + [1] * 20, [12] * 50 + [1] * 10, [12] * 40 + [4] * 20)
    hits = [hits_of(each) for each in counts]
    found = learned_prior(hits, base, pseudo=1.0)
    unsure = np.ones(60, dtype=bool)
    for i, left in enumerate((60, 20, 10)):
        assert unsure.sum() == left
        rest = Hits(*(count[unsure] for count in hits[i]))
        np.testing.assert_allclose(found.weights[i], learned(rest, base.weights[i], 1.0))
        unsure &= confidence(found.weights[i], hits[i]) < SURE
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)


# --- for which network and measurement --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MEASUREMENTS)
def test_a_prior_is_kept_for_its_network_and_measurement_only(kind):
    network, prior = random_network((3, 8, N), seed=1), some_prior()
    assert prior_for(problem_of(network, kind)) is default_prior(problem_of(network, kind))
    keep_prior(problem_of(network, kind), prior)
    for other in MEASUREMENTS:
        expected = prior if other == kind else default_prior(problem_of(network, other))
        assert prior_for(problem_of(network, other, seed=3)) is expected  # whatever was observed
    twin = problem_of(random_network((3, 8, N), seed=1), kind)
    assert prior_for(twin) is default_prior(twin)


def test_masks_of_their_own_share_a_prior_whatever_they_hide():
    network, prior = random_network((3, 8, N), seed=1), some_prior()
    keep_prior(problem_of(network, "masks"), prior)
    part = problem_of(network, "masks").part(np.array([2]))
    assert prior_for(part) is prior


def test_the_last_prior_counts():
    network = random_network((3, 8, N), seed=1)
    for seed in (1, 2):
        prior = some_prior(seed)
        keep_prior(problem_of(network, "mask"), prior)
        assert prior_for(problem_of(network, "mask")) is prior


def test_priors_go_with_their_network():
    network = random_network((3, 8, N), seed=1)
    gone, before = weakref.ref(network), len(basin_prior._known)
    keep_prior(problem_of(network, "whole"), some_prior())
    assert len(basin_prior._known) == before + 1
    del network
    gc.collect()
    assert gone() is None
    assert len(basin_prior._known) == before
