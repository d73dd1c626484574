"""Histograms lose nothing, on the scale that suits the values."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unrelu.report._pictures import histogram

NUMBERS = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), st.floats(1e-12, 1e9), st.floats(-1e9, -1e-12), st.just(7.0)
)


def drawn(values, success=None, mark=None):
    values = np.array(values, dtype=float)
    good = np.ones(len(values), bool) if success is None else np.array(success, dtype=bool)
    return histogram("<t>", values, good, ("good", "bad"), mark)


def said(chart, what):
    """The number before some words of the caption or of the picture's name, 0 without them."""
    found = re.search(rf"([\d,]+) observations?{what}", chart["svg"][:300] + chart["caption"])
    return int(found[1].replace(",", "")) if found else 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.booleans()), max_size=40), st.one_of(st.none(), st.floats(1e-9, 1e6)))
def test_a_histogram_counts_every_value_once(pairs, mark):
    values = [value for value, _ in pairs]
    chart = drawn(values, [flag for _, flag in pairs], None if mark is None else (mark, "here"))
    assert said(chart, " without a finite value") == (~np.isfinite(values)).sum()
    assert said(chart, '"') == np.isfinite(values).sum()


def test_the_scale_of_a_histogram_suits_the_values():
    assert "Logarithmic" in drawn(np.logspace(-9, 0, 1000))["caption"]
    assert "Linear" in drawn(np.linspace(1, 3, 1000))["caption"]
    assert "<svg" in drawn([2, 2, 2])["svg"]


@pytest.mark.parametrize("outliers", [[9.0] * 5, [1e6, 1e7, 1e8, 1e9, 1e12], [1e-9, 1e-8, 50.0, 60.0, 70.0]])
def test_five_outliers_do_not_hide_the_others(outliers):
    values = np.append(1 + 0.05 * np.random.default_rng(0).standard_normal(1994), outliers)
    chart = drawn(values, mark=(1.1, "stated noise"))
    assert "5 observations beyond the axis" in chart["caption"]
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", chart["svg"].split("matplotlib.axis_2")[0])]
    assert 0.5 < min(ticks) < max(ticks) < 1.5
    assert "stated noise" in chart["svg"]


def test_the_same_values_make_the_same_picture_in_the_colour_of_the_page():
    values = np.random.default_rng(0).standard_normal(50)
    assert drawn(values) == drawn(values)
    assert "currentColor" in drawn(values)["svg"]
    assert "&lt;t&gt;" in drawn(values)["svg"]
