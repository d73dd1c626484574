"""Numbers, shares and times are said rightly."""

from __future__ import annotations

import math

from unrelu.runtime.words import count, duration, number, p_value_text, probability, rounded, share


def test_numbers_in_words():
    assert [number(v) for v in (0.0, 1e-9, 999.7, -67_321, 2e6, math.nan)] == [
        "0",
        "1e-09",
        "1,000",
        "-67,300",
        "2e+06",
        "\u2013",
    ]
    assert number(None) == "\u2013"
    assert [share(*p) for p in ((0, 9), (9, 9), (1, 10_000), (9_999, 10_000), (1, 3), (0, 0))] == [
        "0%", "100%", "<0.1%", ">99.9%", "33.3%", "\u2013",
    ]  # fmt: skip
    assert [share(p, digits=0) for p in (0, 0.004, 1 / 3, 0.996, 1)] == ["0%", "<1%", "33%", ">99%", "100%"]
    assert [duration(v) for v in (0, 2e-5, 0.0321, 41.2, 600, 7500, math.inf)] == [
        "0 ms", "20 µs", "32.1 ms", "41.2 s", "10 min", "2 h 5 min", "\u2013",
    ]  # fmt: skip
    assert [count(1, "chunk"), count(2000, "chunk"), count(2000)] == ["1 chunk", "2,000 chunks", "2,000"]


def test_values_have_the_digits_that_their_deviation_leaves():
    for value, deviation, said in (
        (0.67358, 0.0054, ("0.6736", "0.0054")),
        (0.67358, 0.00999, ("0.674", "0.010")),
        (0.67, 0.0054, ("0.6700", "0.0054")),
        (-0.001, 0.052, ("-0.001", "0.052")),
        (-1e-5, 0.052, ("0.000", "0.052")),
        (4567.2, 123.4, ("4570", "120")),
        (67_358, 3.14, ("67358.0", "3.1")),
        (2.1e-9, 3.04e-11, ("2.100e-09", "3.0e-11")),
        (1e-20, 3e-9, ("0", "3.0e-09")),
        (3.04e9, 2e7, ("3.040e+09", "2.0e+07")),
        (0.675, 0.0, ("0.675", "0")),
        (0.1 + 0.2, 1e-17, ("0.3", "1.0e-17")),
        (0.67358, math.nan, ("0.67358", "nan")),
        (math.nan, math.nan, ("nan", "nan")),
    ):
        assert (rounded(value, deviation), rounded(deviation, deviation)) == said


def test_probabilities_are_not_rounded_over_what_decides_a_success():
    assert [probability(p) for p in (0, 1e-120, 0.009999, 0.01, 0.25, 0.98999, 0.99, 0.9999, 1, math.nan)] == [
        "0", "<1e-99", "0.009999", "0.01", "0.25", "0.98999", "0.99", ">0.999", "1", "\u2013",
    ]  # fmt: skip
    assert [p_value_text(p) for p in (1e-120, 0.25, 0.9999, 1)] == ["p < 1e-99", "p = 0.25", "p > 0.999", "p = 1"]
