"""The confidence of a search: what counts as the same optimum, and what the model says of it, by simulation too."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import beta as beta_function

from unrelu.runtime.streams import stream
from unrelu.search import confidence as confidence_module
from unrelu.search._stopping_rule import effort
from unrelu.search.confidence import ALPHA, BETA, FLAT, RestartCounts, confidence, learned

POINTS = len(ALPHA)
RARELY = 1e-30


def counted(best, second, restarts):
    return RestartCounts(*(np.atleast_1d(np.asarray(count, dtype=np.int64)) for count in (best, second, restarts)))


def sure(best, second, restarts, prior=FLAT):
    return confidence(prior, counted(best, second, restarts))


def prior_of(first, others):
    """The best optimum is of some points of the grid, the next of some, equally often; nearly never of all others."""
    weights = np.zeros((POINTS, POINTS))
    weights[np.ix_(first, others)] = 1 / (len(first) * len(others))
    return (1 - RARELY) * weights + RARELY * FLAT


LOW, HIGH = range(POINTS // 2), range(POINTS // 2, POINTS)
PRIORS = {
    "flat": FLAT,
    "easy": prior_of(HIGH, HIGH),
    "hard": prior_of(LOW, LOW),
    "hidden": prior_of(LOW, HIGH),  # all are easy to find but the best
    "points": prior_of((10, 28), (4, 31)),
}
every_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


@pytest.mark.parametrize(
    ("ends", "best", "first", "second"),
    [
        ([5.0], 5.0, 1, 0),
        ([5.0, 5.0, 5.0], 5.0, 3, 0),
        ([5.0, 5.04, 5.06], 5.0, 2, 1),
        ([7.0, 5.0, 7.06, 7.08, 5.0], 5.0, 2, 2),
        ([7.0, 7.0, 7.5], 5.0, 0, 2),  # the best code is one that no restart came to
        ([7.0, 7.0, 5.0], 4.0, 0, 1),
        ([5.0, np.inf, np.inf], 5.0, 1, 0),  # what ended nowhere is no optimum
        ([np.inf, np.inf], 5.0, 0, 0),
        ([np.inf, np.inf], np.inf, 0, 0),
        ([0.0, 1e-12, 1e-9], 0.0, 2, 1),  # below what is rounding all objectives are the same
    ],
)
def test_ends_are_counted_that_are_the_best_and_the_second_best_to_one_percent(ends, best, first, second):
    hits = RestartCounts.of(np.array([ends]), np.array([best]), np.array([1e-11]))
    assert [count.tolist() for count in hits] == [[first], [second], [len(ends)]]


@cache
def expected(power, other_power, alpha, beta):
    """E q^power (1 - q)^other_power for q ~ Beta(alpha, beta), whose density may have singularities at both ends."""
    ends = (alpha - 1, beta - 1)
    integral, _ = quad(lambda q: q**power * (1 - q) ** other_power, 0, 1, weight="alg", wvar=ends)
    return integral / beta_function(alpha, beta)


def each(power, other_power):
    """The same on the grid."""
    return np.array([expected(power, other_power, a, b) for a, b in zip(ALPHA, BETA, strict=True)])


def by_quadrature(prior, best, second, restarts, most=4000):
    """The probability that the best is seen, by sums over how many optima were missed before each that was seen."""
    left = restarts - best

    def missed_before(share):
        return np.array([share**i for i in range(most)]).sum(axis=0)

    then = missed_before(each(0, left)) * each(second, left - second) if left else np.ones(POINTS)
    seen = each(best, left) @ prior @ then
    after = np.array([row @ then / row.sum() for row in prior])
    missed = each(0, restarts)
    hidden = missed @ prior @ (missed_before(missed) * each(best, left) * after)
    return seen / (seen + hidden)


COUNTS = [(1, 0, 1), (3, 0, 3), (2, 1, 4), (0, 2, 4), (9, 2, 12), (1, 1, 12), (12, 0, 12)]


@pytest.mark.parametrize("counts", COUNTS)
def test_the_confidence_is_the_models_probability(counts):
    prior = prior_of((14, 20, 34), (16, 23))  # without points where hundreds of optima would be missed
    assert sure(*counts, prior=prior)[0] == pytest.approx(by_quadrature(prior, *counts), rel=1e-6)


def sticks(prior, restarts, size, rng):
    """Searches that the model draws: how many restarts ended in each optimum, best first, (size, optima).

    After the best optimum, and after each that was seen, the next has a distribution that depends on this one's. Those
    that all restarts missed are like the next that is seen.
    """
    next_ = (prior / prior.sum(axis=1, keepdims=True)).cumsum(axis=1)
    point, after = np.divmod(rng.choice(POINTS**2, size=size, p=prior.ravel()), POINTS)
    left, counts = np.full(size, restarts), []
    while left.any():
        at = np.flatnonzero(left)
        here = np.zeros(size, dtype=np.int64)
        here[at] = rng.binomial(left[at], rng.beta(ALPHA[point[at]], BETA[point[at]]))
        if not counts:
            point = after
        else:
            seen = np.flatnonzero(here)
            drawn = (rng.random(len(seen))[:, None] > next_[point[seen]]).sum(axis=1)
            point[seen] = np.minimum(drawn, POINTS - 1)
        counts.append(here)
        left = left - here
    return np.array(counts).T


def first_seen(counts):
    """Restarts in the first optimum that any ended in, and the counts of the others."""
    rows, first = np.arange(len(counts)), (counts > 0).argmax(axis=1)
    others = counts.copy()
    others[rows, first] = 0
    return counts[rows, first], others


def simulated(prior, restarts, size, rng):
    """What a search sees of them, and whether it saw the best of all."""
    counts = sticks(prior, restarts, size, rng)
    best, others = first_seen(counts)
    return RestartCounts(best, first_seen(others)[0], np.full(size, restarts)), counts[:, 0] > 0


@every_prior
def test_the_best_was_seen_as_often_as_the_confidence_says(prior):
    restarts = 12
    hits, seen = simulated(prior, restarts, 6000, stream("test of the confidence", restarts))
    said = confidence(prior, hits)
    edges = np.quantile(said, [0, 0.25, 0.5, 0.75, 1])
    for low, high in [(0, 1), *pairwise(edges)]:
        some = (said >= low) & (said <= high)
        deviation = np.sqrt((said[some] * (1 - said[some])).sum()) / some.sum()
        assert abs(seen[some].mean() - said[some].mean()) < 4 * deviation + 0.01


def test_where_nothing_was_learned_no_agreement_makes_sure():
    restarts = np.array([1, 2, 6, 12, 27, 100, 10_000])
    agreed = sure(restarts, np.zeros(7), restarts)
    assert agreed[-1] < 0.9
    for n in {effort(rounds)[0] for rounds in range(1, 14)}:
        best, second = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
        possible = best + second <= n
        assert sure(best[possible], second[possible], np.full(possible.sum(), n)).max() < 0.99


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.sampled_from(list(PRIORS)))
def test_it_is_a_probability_for_all_counts(restarts, first, second, name):
    first = min(first, restarts)
    found = sure(first, min(second, restarts - first), restarts, PRIORS[name])
    assert 0 <= found[0] <= 1


def known_best(prior, restarts, size, rng):
    """Counts of the optimum that is known to be the best, also where no restart saw it."""
    counts = sticks(prior, restarts, size, rng)
    return RestartCounts(counts[:, 0], first_seen(counts[:, 1:])[0], np.full(size, restarts))


def repeated(*groups):
    """Observations of the same counts: (how many, best, second, restarts) each."""
    return counted(*(np.concatenate([np.full(n, counts[i]) for n, *counts in groups]) for i in range(3)))


def test_steps_never_make_the_counts_less_probable(monkeypatch):
    """The probability of the counts times that of the weights under a Dirichlet prior, which EM increases."""
    hits = known_best(PRIORS["points"], 8, 60, stream("test of the steps"))
    first, second = confidence_module._likelihoods(hits)
    values = []
    for steps in (0, 1, 2, 5, 20, 100, 300):
        monkeypatch.setattr(confidence_module, "_EM_STEPS", steps)
        weights = learned(hits, pseudo=2.0)
        values.append(np.log(((first @ weights) * second).sum(axis=1)).sum() + 2 * (FLAT * np.log(weights)).sum())
    assert (np.diff(values) > 0).all()
    assert values[-1] - values[-2] < 0.05 * (values[-1] - values[0])


@pytest.mark.parametrize("count", [20, 40, 200])
def test_one_miss_of_many_is_what_full_agreement_is_wrong_by(count):
    """All restarts agreed on another optimum than the best in one of so many observations, or in none."""
    never = sure(6, 0, 6, learned(repeated((count, 6, 0, 6))))[0]
    once = sure(6, 0, 6, learned(repeated((count - 1, 6, 0, 6), (1, 0, 6, 6))))[0]
    assert 1 - once == pytest.approx(1 / count, rel=0.1)
    assert 0 < 1 - never < 1 / (2 * count)


@every_prior
def test_what_is_learned_is_calibrated(prior):
    """A mixture that is estimated makes rare counts a few percent too sure."""
    rng = stream("test of what is learned")
    found = learned(known_best(prior, 12, 1500, rng))
    hits, seen = simulated(prior, 12, 4000, rng)
    said = confidence(found, hits)
    assert said.mean() == pytest.approx(seen.mean(), abs=0.04)
    high = said > 0.9
    if high.any():
        assert seen[high].mean() > said[high].mean() - 0.06
