"""Histograms lose nothing, on the scale that suits the values; curves keep their extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrelu.report._charts import curve, histogram

NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=False), st.just(0.0), st.floats(1e-12, 1e3)
).filter(lambda value: not math.isfinite(value) or abs(value) < 1e300)


@given(st.lists(st.tuples(NUMBERS, st.booleans()), max_size=60), st.one_of(st.none(), st.floats(1e-9, 1e6)))
def test_a_histogram_counts_every_value_once(pairs, mark):
    found = np.array([value for value, _ in pairs], dtype=float)
    success = np.array([flag for _, flag in pairs], dtype=bool)
    drawn = histogram("t", "u", found, success, None if mark is None else (mark, "here"))
    counted = sum(bar.success + bar.other for _, bar in drawn.placed)
    assert counted + drawn.zeros + drawn.unknown == len(pairs)
    assert drawn.unknown == int((~np.isfinite(found)).sum())
    if drawn.bars:
        assert sum(bar.success for _, bar in drawn.placed) <= success.sum()
        assert len(drawn.bars) <= 42
        assert len(drawn.ticks) <= 12
        assert drawn.mark is None or -1e-6 <= drawn.mark.place <= 1 + 1e-6


def test_the_scale_of_a_histogram_suits_the_values():
    every = np.ones(1000, dtype=bool)
    wide = histogram("t", "u", np.logspace(-9, 0, 1000), every)
    assert wide.scale == "logarithmic"
    assert {"10⁻⁹", "10⁻⁵", "1"} & {tick.label for tick in wide.ticks}
    assert max(bar.success for bar in wide.bars[1:-1]) < 2 * min(bar.success for bar in wide.bars[1:-1])
    narrow = histogram("t", "u", np.linspace(1, 3, 1000), every)
    assert narrow.scale == "linear"
    assert [tick.label for tick in narrow.ticks] == ["1", "1.5", "2", "2.5", "3"]
    assert histogram("t", "u", np.array([2, 2, 2]), every[:3]).most == 3


@pytest.mark.parametrize("outliers", [[9.0] * 5, [1e6, 1e7, 1e8, 1e9, 1e12], [1e-9, 1e-8, 50.0, 60.0, 70.0]])
def test_five_outliers_do_not_hide_the_others(outliers):
    """They are counted in bars that stand apart, and the axis is that of the others."""
    values = np.append(1 + 0.05 * np.random.default_rng(0).standard_normal(1994), outliers)
    success = np.arange(1999) % 3 > 0
    drawn = histogram("t", "u", values, success, (1.1, "stated noise"))
    plain = histogram("t", "u", values[:1994], success[:1994], (1.1, "stated noise"))
    assert drawn.bars == plain.bars
    assert drawn.scale == "linear"
    assert sum(bar.success + bar.other > 50 for bar in drawn.bars) > 10
    beyond = [bar for bar in (drawn.below, drawn.above) if bar]
    assert sum(bar.success + bar.other for bar in beyond) == 5
    assert {bar.low for bar in beyond} | {bar.high for bar in beyond} <= set(outliers)
    assert [tick.label for tick in drawn.ticks] == [tick.label for tick in plain.ticks]
    places = [at for at, _ in drawn.placed]
    assert places == sorted(set(places))
    axis = drawn.placed[2 * bool(drawn.below) - bool(drawn.below)][0]
    assert drawn.mark.place == pytest.approx((axis + plain.mark.place * len(plain.bars)) / drawn.width)


def test_tails_stay_on_the_axis_and_equal_values_are_one_bar():
    normal = np.random.default_rng(0).standard_normal(2000)
    assert histogram("t", "u", normal, normal > 0).below is histogram("t", "u", normal, normal > 0).above is None
    mostly = np.append(np.full(100, 7.0), [1.0, 9.0])
    drawn = histogram("t", "u", mostly, mostly > 0)
    assert (drawn.below, drawn.above, drawn.most) == (None, None, 100)


def test_long_curves_keep_their_extremes_and_gaps():
    y = np.sin(np.linspace(0, 9, 100_000))
    y[12_345], y[50_000:60_000] = 40.0, np.nan
    drawn = curve(y, low=-1, high=40)
    assert len(drawn.parts) == 2
    points = [tuple(map(float, point.split(","))) for part in drawn.parts for point in part.split()]
    assert len(points) <= 602
    assert min(up for _, up in points) == 0
    assert (points[0][0], points[-1][0]) == (0, 1000)
