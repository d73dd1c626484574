"""The confidence of a search: what counts as the same optimum, and what the model says of it, by simulation too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import beta as beta_function

from unrelu.runtime.streams import stream
from unrelu.search.confidence import ALPHA, BETA, MEANS, STRENGTHS, Hits, confidence, learned

POINTS = len(ALPHA)
UNIFORM = np.full(POINTS, 1 / POINTS)


def counted(best, second, chains):
    return Hits(*(np.atleast_1d(np.asarray(count, dtype=np.int64)) for count in (best, second, chains)))


def sure(best, second, chains, prior=UNIFORM):
    return confidence(prior, counted(best, second, chains))


def prior_of(*points):
    """The mixture of some points of the grid, equally often."""
    weights = np.zeros(POINTS)
    weights[list(points)] = 1 / len(points)
    return weights


EASY, HARD = prior_of(*range(POINTS // 2, POINTS)), prior_of(*range(POINTS // 2))


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "best", "first", "second"),
    [
        ([5.0], 5.0, 1, 0),
        ([5.0, 5.0, 5.0], 5.0, 3, 0),
        ([5.0, 5.04, 5.06], 5.0, 2, 1),
        ([7.0, 5.0, 7.06, 7.08, 5.0], 5.0, 2, 2),
        ([7.0, 7.0, 7.5], 5.0, 0, 2),  # the best code is one that no chain came to
        ([7.0, 7.0, 5.0], 4.0, 0, 1),
        ([5.0, np.inf, np.inf], 5.0, 1, 0),  # what ended nowhere is no optimum
        ([np.inf, np.inf], 5.0, 0, 0),
        ([np.inf, np.inf], np.inf, 0, 0),
        ([0.0, 1e-12, 1e-9], 0.0, 2, 1),  # below what is rounding all objectives are the same
    ],
)
def test_ends_are_counted_that_are_the_best_and_the_second_best_to_one_percent(ends, best, first, second):
    hits = Hits.of(np.array([ends]), np.array([best]), np.array([1e-11]))
    assert [count.tolist() for count in hits] == [[first], [second], [len(ends)]]


def test_each_observation_is_counted_on_its_own():
    ends = np.array([[5.0, 5.0, 6.0], [5.0, 6.0, 6.0], [1.0, 2.0, 3.0]])
    hits = Hits.of(ends, np.array([5.0, 5.0, 1.0]), np.zeros(3))
    assert [count.tolist() for count in hits] == [[2, 1, 1], [1, 2, 1], [3, 3, 3]]


@given(st.lists(st.sampled_from([np.inf, 0.0, 1.0, 1.004, 1.008, 1.02, 2.0, 2.01, 99.0]), min_size=1, max_size=9))
def test_counts_are_those_of_a_plain_loop(ends):
    best = min(ends)
    hits = Hits.of(np.array([ends]), np.array([best]), np.zeros(1))
    others = [end for end in ends if end > 1.01 * best]
    assert hits.best[0] == sum(end <= 1.01 * best for end in ends if end < np.inf)
    assert hits.second[0] == sum(end <= 1.01 * min(others) for end in others if end < np.inf)


# --- the model's probabilities ----------------------------------------------------------------------------------------


def expected(power, other_power, alpha, beta):
    """E q^power (1 - q)^other_power for q ~ Beta(alpha, beta), whose density may have singularities at both ends."""
    ends = (alpha - 1, beta - 1)
    integral, _ = quad(lambda q: q**power * (1 - q) ** other_power, 0, 1, weight="alg", wvar=ends)
    return integral / beta_function(alpha, beta)


def by_quadrature(prior, first, second, chains):
    """Sums over the numbers of optima that all chains missed, before the best that was seen and after it."""
    none, any_number = 0.0, 0.0
    for weight, alpha, beta in zip(prior, ALPHA, BETA, strict=True):
        left = chains - first
        likelihood = expected(first, left, alpha, beta)
        if left:
            passed = expected(0, left, alpha, beta)
            likelihood *= expected(second, left - second, alpha, beta) / (1 - passed)
        none += weight * likelihood
        any_number += weight * likelihood / (1 - expected(0, chains, alpha, beta))
    return none / any_number


@pytest.mark.parametrize("counts", [(1, 0, 1), (3, 0, 3), (2, 1, 4), (0, 2, 4), (9, 2, 12), (1, 1, 12), (12, 0, 12)])
@pytest.mark.parametrize("prior", [prior_of(19, 22, 35), prior_of(7, 11, 16), UNIFORM], ids=["easy", "hard", "all"])
def test_the_confidence_is_the_models_probability(counts, prior):
    assert sure(*counts, prior=prior)[0] == pytest.approx(by_quadrature(prior, *counts), rel=1e-6)


@pytest.mark.parametrize("point", [4, 16, 28])
def test_for_one_point_of_the_grid_it_is_the_probability_that_none_is_missed(point):
    """Whatever was seen: the optima's probabilities are independent."""
    for n in (1, 6, 20):
        missed = expected(0, n, ALPHA[point], BETA[point])
        for best, second in ((n, 0), (1, 0), (0, 1), (n // 2, n - n // 2)):
            np.testing.assert_allclose(sure(best, second, n, prior_of(point)), 1 - missed, rtol=1e-6)


def sticks(prior, chains, size, rng):
    """Searches that the model draws: how many chains ended in each optimum, best first, (size, optima)."""
    points = rng.choice(POINTS, size=size, p=prior)
    left, counts = np.full(size, chains), []
    while left.any():
        at = np.flatnonzero(left)
        here = np.zeros(size, dtype=np.int64)
        here[at] = rng.binomial(left[at], rng.beta(ALPHA[points[at]], BETA[points[at]]))
        counts.append(here)
        left = left - here
    return np.array(counts).T


def first_seen(counts):
    """Chains in the first optimum that any ended in, and the counts of the others."""
    rows, first = np.arange(len(counts)), (counts > 0).argmax(axis=1)
    others = counts.copy()
    others[rows, first] = 0
    return counts[rows, first], others


def simulated(prior, chains, size, rng):
    """What a search sees of them, and whether it saw the best of all."""
    counts = sticks(prior, chains, size, rng)
    best, others = first_seen(counts)
    return Hits(best, first_seen(others)[0], np.full(size, chains)), counts[:, 0] > 0


@pytest.mark.parametrize("chains", [4, 12])
@pytest.mark.parametrize("prior", [EASY, UNIFORM, prior_of(9, 12, 30, 34)], ids=["easy", "all", "some"])
def test_the_best_was_seen_as_often_as_the_confidence_says(prior, chains):
    hits, seen = simulated(prior, chains, 6000, stream("test of the confidence", chains))
    said = confidence(prior, hits)
    edges = np.quantile(said, [0, 0.25, 0.5, 0.75, 1])
    for low, high in [(0, 1), *pairwise(edges)]:
        some = (said >= low) & (said <= high)
        deviation = np.sqrt((said[some] * (1 - said[some])).sum()) / some.sum()
        assert abs(seen[some].mean() - said[some].mean()) < 4 * deviation + 0.01


def test_more_agreement_is_more_confidence():
    n = 12
    agreed = sure(np.arange(1, n + 1), np.minimum(1, n - np.arange(1, n + 1)), np.full(n, n))
    assert (np.diff(agreed) > 0).all()
    unanimous = sure(np.arange(1, 60), np.zeros(59), np.arange(1, 60))
    assert (np.diff(unanimous) > 0).all()
    assert unanimous[-1] > 0.99
    assert ((agreed > 0) & (agreed < 1)).all()


def test_chains_that_agree_say_more_than_a_multitude_that_does_not():
    assert sure(6, 0, 6) > sure(2, 2, 6) > sure(1, 1, 6)
    assert sure(6, 6, 12) > sure(2, 1, 12)
    assert sure(0, 1, 12) < sure(1, 1, 12)  # what no chain came to might have company


def test_easy_generators_need_fewer_chains():
    assert sure(3, 0, 3, EASY) > sure(3, 0, 3) > sure(3, 0, 3, HARD)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300))
def test_it_is_a_probability_for_all_counts(chains, first, second):
    first = min(first, chains)
    found = sure(first, min(second, chains - first), chains)
    assert 0 <= found[0] <= 1


# --- learning the mixture ---------------------------------------------------------------------------------------------


def known_best(prior, chains, size, rng):
    """Counts of the optimum that is known to be the best, also where no chain saw it."""
    counts = sticks(prior, chains, size, rng)
    return Hits(counts[:, 0], first_seen(counts[:, 1:])[0], np.full(size, chains))


def test_a_mixture_is_recovered_from_simulated_observations():
    """Neighbours on the grid can hardly be told apart; the mean of q and the share of easy observations can."""
    hard, easy = MEANS.index(0.07) * len(STRENGTHS) + 1, MEANS.index(0.85) * len(STRENGTHS) + 1
    true = np.zeros(POINTS)
    true[[hard, easy]] = 0.3, 0.7
    found = learned(known_best(true, 30, 1500, stream("test of a mixture")), UNIFORM, 1.0)
    assert found.sum() == pytest.approx(1)
    means = ALPHA / (ALPHA + BETA)
    assert found[means < 0.25].sum() == pytest.approx(0.3, abs=0.06)
    assert found[means > 0.6].sum() == pytest.approx(0.7, abs=0.08)
    assert found @ means == pytest.approx(true @ means, abs=0.04)


def test_what_is_learned_is_calibrated():
    true, rng = prior_of(7, 22, 31), stream("test of what is learned")
    found = learned(known_best(true, 12, 1500, rng), UNIFORM, 5.0)
    hits, seen = simulated(true, 12, 4000, rng)
    said = confidence(found, hits)
    assert said.mean() == pytest.approx(seen.mean(), abs=0.04)
    high = said > 0.9
    assert high.any()
    assert seen[high].mean() > said[high].mean() - 0.03


def test_few_observations_leave_the_base_nearly_as_it_was():
    hits = counted([12], [0], [12])
    np.testing.assert_allclose(learned(hits, HARD, 1e9), HARD, atol=1e-8)
    none = counted(np.zeros(0), np.zeros(0), np.zeros(0))
    np.testing.assert_allclose(learned(none, HARD, 5.0), HARD)
    moved = learned(hits, UNIFORM, 5.0)
    means = ALPHA / (ALPHA + BETA)
    assert UNIFORM @ means < moved @ means < UNIFORM @ means + 0.2
