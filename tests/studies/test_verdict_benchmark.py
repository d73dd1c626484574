"""The measurement of the verdict, with few observations: what it finds is what the verdict promises.

A share is held against its promise by the binomial distribution: a true share as good as promised would miss the bound
once in a thousand seeds. The distance of p-values from uniform is bounded by the inequality of Dvoretzky, Kiefer and
Wolfowitz, P(D > d) <= 2 exp(-2 n d^2), beyond the distance of 0.05 that is promised of many.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from unrelu_studies.benchmarks.searches.verdict import (
    QUICK,
    OwnObservations,
    VerdictPlan,
    _hard_network,
    expected,
    noiseless,
    noisy,
    own_outputs,
    strangers,
)

CHANCE = 1e-3


@pytest.mark.parametrize("kind", ["pictures", "permuted", "other"])
@pytest.mark.parametrize("name", ["mnist-relu", "mnist-sigmoid"])
@pytest.mark.long
def test_what_the_generator_cannot_have_made_is_no_success(name, kind):
    row = strangers(name, kind, QUICK.strangers)
    p = np.array(row["p_values"])
    assert row["successes"] <= binom.ppf(1 - CHANCE, len(p), 0.01)
    assert (p < 1e-3).sum() >= binom.ppf(CHANCE, len(p), 0.99)
    # Few of them are so near the generator's range that the noise hides the difference.
    assert row["expected"]["rejected"] > 0.9


@pytest.mark.parametrize("operator", ["full", "half", "gaussian", "prior"])
@pytest.mark.long
def test_p_values_of_own_outputs_are_uniform(operator):
    row = own_outputs("mnist-relu", operator, 120)
    n = len(row["p_values"])
    assert row["distance"] <= 0.05 + math.sqrt(math.log(2 / CHANCE) / (2 * n))
    assert row["successes"] >= binom.ppf(CHANCE, n, 0.98)
    assert sum(row["statuses"].values()) == n


def test_without_noise_no_success_is_wrong():
    rows = [noiseless(name, kind, 25) for name in ("4-10-16", "6-12-30") for kind in ("full", "half", "gaussian")]
    assert not any(row["false"] for row in rows)
    assert sum(row["exact"] for row in rows) > 0.8 * sum(row["count"] for row in rows)


@pytest.mark.parametrize("operator", ["full", "half"])
@pytest.mark.long
def test_confidences_are_compared_with_the_best_known(operator):
    searches = ("default, noise stated", "default")
    rows = noisy("4-10-16", operator, VerdictPlan(noisy=5, compared=2, descents=5, searches=searches))
    assert [(row["operator"], row["search"]) for row in rows] == [(operator, s) for s in searches]
    for row in rows:
        assert row["beaten_by"][row["search"]] == 0
        # What is not the best was beaten by somebody, and nobody beats what is.
        assert max(row["beaten_by"].values()) <= 5 - sum(row["best"]) <= sum(row["beaten_by"].values())
        assert len(row["confidences"]) == 5
        assert all(0 <= confidence <= 1 for confidence in row["confidences"])


@pytest.mark.parametrize("operator", ["half", "gaussian"])
def test_fewer_observations_are_the_first_of_more(operator):
    few, many = (OwnObservations.draw(_hard_network("4-10-16", 3), operator, n, None, "a", 3) for n in (5, 30))
    np.testing.assert_array_equal(few.y, many.y[:5])
    assert few.sigma == many.sigma


def test_expected_rejections_are_those_of_the_distance():
    """At distance 0 a test at 1% rejects 1%; far away it rejects everything."""
    assert expected(np.full(2, 1e-9), 0.01) == pytest.approx(0.01, rel=1e-3)
    assert expected(np.full(2, 1e4), 0.01) == pytest.approx(1.0)
