"""Histograms lose nothing, on the scale that suits the values; curves keep their extremes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrelu.report._figures import _extremes, histogram

NUMBERS = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), st.floats(1e-12, 1e9), st.floats(-1e9, -1e-12), st.just(7.0)
)


def said(drawn, what):
    """The number before some words of the text or of the picture's name, 0 without them."""
    found = re.search(rf"([\d,]+) observations? {what}", drawn["svg"][:300] + drawn["caption"])
    return int(found[1].replace(",", "")) if found else 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.booleans()), max_size=40), st.one_of(st.none(), st.floats(1e-9, 1e6)))
def test_a_histogram_counts_every_value_once(pairs, mark):
    values = np.array([value for value, _ in pairs], dtype=float)
    success = np.array([flag for _, flag in pairs], dtype=bool)
    drawn = histogram("t", "u", values, success, mark=None if mark is None else (mark, "here"))
    counted = sum(said(drawn, what) for what in ("from", "at exactly 0", "without a finite value"))
    assert counted == len(pairs)
    assert said(drawn, "without a finite value") == (~np.isfinite(values)).sum()


def test_the_scale_of_a_histogram_suits_the_values():
    assert "logarithmic" in histogram("t", "u", np.logspace(-9, 0, 1000))["caption"]
    assert "linear" in histogram("t", "u", np.linspace(1, 3, 1000))["caption"]
    assert "<svg" in histogram("t", "u", np.array([2, 2, 2]))["svg"]


@pytest.mark.parametrize("outliers", [[9.0] * 5, [1e6, 1e7, 1e8, 1e9, 1e12], [1e-9, 1e-8, 50.0, 60.0, 70.0]])
def test_five_outliers_do_not_hide_the_others(outliers):
    values = np.append(1 + 0.05 * np.random.default_rng(0).standard_normal(1994), outliers)
    drawn = histogram("t", "u", values, mark=(1.1, "stated noise"))
    assert said(drawn, "beyond the axis") == 5
    low, high = map(float, re.search(r"from (\S+) to ([^\s\"]+)", drawn["svg"]).groups())
    assert 0.7 < low < high < 1.3
    assert "linear" in drawn["caption"]
    assert "stated noise" in drawn["svg"]


def test_the_same_values_make_the_same_picture_in_the_colour_of_the_page():
    values = np.random.default_rng(0).standard_normal(50)
    first, second = histogram("<t>", "u", values), histogram("<t>", "u", values)
    assert first == second
    assert "currentColor" in first["svg"]
    assert "&lt;t&gt;" in first["svg"]


def test_long_curves_keep_their_extremes_and_gaps():
    y = np.sin(np.linspace(0, 9, 100_000))
    y[12_345], y[50_000:60_000] = 40.0, np.nan
    places = _extremes(y)
    assert len(places) <= 602
    assert {0, 12_345, len(y) - 1} <= set(places.tolist())
    assert np.isnan(y[places]).any()
