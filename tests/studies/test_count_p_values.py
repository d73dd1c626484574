"""The benchmark of p-values of counts on a small scale: what is measured, and what its tables say."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu_studies.benchmarks.benchmark import Command, load
from unrelu_studies.benchmarks.measurements.count_p_values import GENERATORS, GROUPS, NOISES, digits

BENCHMARK = load("count_p_values")


def test_every_generator_is_in_one_group():
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(GENERATORS)


def test_a_unit_has_distances_of_all_ways_and_chi_square_is_far_off_where_little_is_counted():
    command = Command("count_p_values", 60, True, 5)
    assert [*BENCHMARK.units(command)] == [(name, noise) for name in GENERATORS for noise in NOISES]
    row = BENCHMARK.measure(command, ("3-20-80, few", "poisson"))
    assert row["observations"] == 60
    assert 0.3 < row["mean"] < 1.2
    assert row["distance"]["near the truth"] < 0.28  # a perfect one is beyond this in one case of 10,000
    assert row["distance"]["chi-square"] > 2 * row["distance"]["near the truth"]


def test_digits_expect_as_many_as_stated():
    z = np.random.default_rng([1, 4]).standard_normal((50, 20))
    np.testing.assert_allclose(digits(5.0)(z), digits(50.0)(z) / 10, rtol=1e-9, atol=1e-12)
    assert np.median(digits(5.0)(z).max(axis=1)) == pytest.approx(5.0, rel=0.6)


def test_the_tables_compare_the_worst_of_a_group_with_the_aim():
    def row(name, distance):
        ways = {"auto": distance, "near the truth": 0.03, "chi-square": 1.0}
        return {"generator": name, "observations": 500, "distance": ways}

    rows = [row(name, 0.06 if name == "5-40-200" else 0.04) for name in GENERATORS]
    text = BENCHMARK.blocks["count_p_values aims"]({"rows": rows})
    assert "| random networks, means of 6 and more: at most 0.05 | 0.040 to 0.060 | no |" in text
    assert "| random networks, a mean of 0.6: at most 0.05 | 0.040 | yes |" in text
    groups = BENCHMARK.blocks["count_p_values groups"]({"rows": rows})
    assert "have a distance of 0.039 on average, and more than 0.061" in groups
    assert "0.040 to 0.060 | 0.030 | 1.000 |" in BENCHMARK.blocks["count_p_values groups"]({"rows": rows})
