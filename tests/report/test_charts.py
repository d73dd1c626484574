"""Histograms lose nothing, on the scale that suits the values; curves keep their extremes."""

from __future__ import annotations

import math

import numpy as np
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
    counted = sum(bar.success + bar.other for bar in drawn.bars)
    assert counted + drawn.zeros + drawn.unknown == len(pairs)
    assert drawn.unknown == int((~np.isfinite(found)).sum())
    if drawn.bars:
        assert sum(bar.success for bar in drawn.bars) <= success.sum()
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


def test_long_curves_keep_their_extremes_and_gaps():
    y = np.sin(np.linspace(0, 9, 100_000))
    y[12_345], y[50_000:60_000] = 40.0, np.nan
    drawn = curve(y, low=-1, high=40)
    assert len(drawn.parts) == 2
    points = [tuple(map(float, point.split(","))) for part in drawn.parts for point in part.split()]
    assert len(points) <= 602
    assert min(up for _, up in points) == 0
    assert (points[0][0], points[-1][0]) == (0, 1000)
