"""The prior of the confidence: which one judges which chains, and for which network and measurement it was learned."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest

from tests.support import random_network
from unrelu.problem import Problem
from unrelu.search import basin_prior
from unrelu.search.basin_prior import LEVELS, SURE, BasinPrior, default_prior, keep_prior, learned_prior, prior_for
from unrelu.search.confidence import ALPHA, Hits, confidence, learned

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


def test_the_default_is_a_mixture_for_each_level():
    weights = default_prior().weights
    assert weights.shape == (len(LEVELS), len(ALPHA))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert default_prior() is default_prior()


def test_chains_are_judged_by_the_level_of_their_hops():
    prior, hits = some_prior(), hits_of([3, 12])
    levels = [confidence(weights, hits) for weights in prior.weights]
    assert not any(np.allclose(one, other) for one, other in pairwise(levels))
    for i, level in enumerate(LEVELS):
        np.testing.assert_array_equal(prior.confidence(level, hits), levels[i])
        if i:
            np.testing.assert_array_equal(prior.confidence(level - 1, hits), levels[i - 1])
    np.testing.assert_array_equal(prior.confidence(9 * LEVELS[-1], hits), levels[-1])


def test_the_last_level_is_learned_from_observations_that_were_unsure_before():
    base = some_prior()
    hits = [hits_of(counts) for counts in ([6] * 50, [12] * 40 + [1] * 10, [12] * 40 + [4] * 10)]
    found = learned_prior(hits, base, pseudo=1.0)
    for i in (0, 1):
        np.testing.assert_allclose(found.weights[i], learned(hits[i], base.weights[i], 1.0))
    unsure = confidence(found.weights[1], hits[1]) < SURE
    assert unsure.any()
    rest = Hits(*(count[unsure] for count in hits[2]))
    np.testing.assert_allclose(found.weights[2], learned(rest, base.weights[2], 1.0))
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)


# --- for which network and measurement --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MEASUREMENTS)
def test_a_prior_is_kept_for_its_network_and_measurement_only(kind):
    network, prior = random_network((3, 8, N), seed=1), some_prior()
    assert prior_for(problem_of(network, kind)) is default_prior()
    keep_prior(problem_of(network, kind), prior)
    for other in MEASUREMENTS:
        expected = prior if other == kind else default_prior()
        assert prior_for(problem_of(network, other, seed=3)) is expected  # whatever was observed
    assert prior_for(problem_of(random_network((3, 8, N), seed=1), kind)) is default_prior()


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
