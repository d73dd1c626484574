"""The measurement of the verdict, with few observations: what it finds is what the verdict promises.

A share is held against its promise by the binomial distribution: a true share as good as promised would miss the bound
once in a thousand seeds. The distance of p-values from uniform is bounded by the inequality of Dvoretzky, Kiefer and
Wolfowitz, P(D > d) <= 2 exp(-2 n d^2), beyond the distance of 0.05 that is promised of many.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from unrelu.benchmarks.verdict import (
    QUICK,
    Measurement,
    Noisy,
    Plan,
    measure_noiseless,
    measure_noisy,
    measure_own_outputs,
    measure_strangers,
    reliability,
)

CHANCE = 1e-3


def test_what_the_generator_cannot_have_made_is_no_success():
    rows = list(measure_strangers(replace(QUICK, generators=("mnist-relu", "mnist-sigmoid"))))
    assert {row.kind for row in rows} == {"pictures", "permuted", "other"}
    for row in rows:
        n = len(row.p_values)
        assert row.successes <= binom.ppf(1 - CHANCE, n, 0.01)
        assert row.rejected * n >= binom.ppf(CHANCE, n, 0.99)


def test_p_values_of_own_outputs_are_uniform():
    rows = list(measure_own_outputs(Plan(own=150, prior=150, generators=("mnist-relu",))))
    assert {row.operator for row in rows} == {"full", "half", "gaussian", "prior"}
    for row in rows:
        n = len(row.p_values)
        assert row.distance <= 0.05 + math.sqrt(math.log(2 / CHANCE) / (2 * n)), row.operator
        assert row.successes >= binom.ppf(CHANCE, n, 0.98), row.operator
        assert sum(row.statuses.values()) == n


def test_without_noise_no_success_is_wrong():
    rows = list(measure_noiseless(Plan(noiseless=20, hard=("plain-vae-1", "3-8-10", "4-10-16", "8-3-10"))))
    assert not any(row.false for row in rows)
    # Else there would be nothing to be wrong about.
    assert sum(row.count - row.exact for row in rows) > 0
    assert sum(row.exact for row in rows) > 0.8 * sum(row.count for row in rows)


def test_confidences_are_compared_with_the_best_known():
    rows = list(measure_noisy(Plan(noisy=6, compared=3, descents=10, hard=("4-10-16",))))
    for row in rows:
        assert row.beaten_by[row.search] == 0
        assert max(row.beaten_by.values()) <= 6 - sum(row.best) <= sum(row.beaten_by.values())
        assert len(row.confidences) == 6
    # Every search is compared with the others: for each observation one of them, or a rival, is the best.
    heavy = [sum(row.best) for row in rows if row.search == "consensus 25"]
    default = [sum(row.best) for row in rows if row.search == "default"]
    assert sum(heavy) >= sum(default)


def test_a_confidence_is_counted_in_its_bin():
    def cell(search, confidences, best):
        return Noisy("G", "full", search, confidences, best, {}, 0)

    cells = [
        cell("default", (0.0, 0.49, 0.5, 1.0), (True, False, True, True)),
        cell("default", (0.99, 0.98, math.nan), (False, True, True)),
        cell("consensus 10", (0.85,), (True,)),
    ]
    assert [(count, best) for _, _, count, best in reliability(cells, "default")] == [
        (2, 1),
        (1, 1),
        (0, 0),
        (1, 1),
        (2, 1),
    ]
    assert [count for _, _, count, _ in reliability(cells, "consensus 10")] == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("kind", ["full", "half", "gaussian"])
def test_a_measurement_is_that_of_its_operator(kind):
    x = np.arange(1.0, 25.0).reshape(3, 8)
    measurement = Measurement.draw(kind, 3, 8, "test")
    again = measurement.take(np.array([2, 0]))
    np.testing.assert_array_equal(again.values(x[[2, 0]]), measurement.values(x)[[2, 0]])
    if kind == "full":
        assert measurement.operator is None
    elif kind == "half":
        np.testing.assert_array_equal(measurement.values(x), np.where(measurement.operator, x, 0))
    else:
        np.testing.assert_array_equal(measurement.values(x), x @ measurement.operator.T)
        assert measurement.operator.shape == (4, 8)
