"""The parts of the report: histograms lose nothing, numbers are said rightly, times are added up once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.report_runs import observations, run, saved
from unrelu.report.histogram import histogram
from unrelu.report.pictures import curve, differences, picture_shape, values
from unrelu.report.throughput import throughput
from unrelu.report.words import count, duration, number, power, share
from unrelu.runs.journal import Record
from unrelu.runs.run_folder import Run

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
    assert [duration(v) for v in (0, 2e-5, 0.0321, 41.2, 600, 7500, math.inf)] == [
        "0 ms", "20 µs", "32.1 ms", "41.2 s", "10 min", "2 h 5 min", "\u2013",
    ]  # fmt: skip
    assert [power(e) for e in (-9, -2, 0, 3, 12)] == ["10⁻⁹", "0.01", "1", "1,000", "10¹²"]
    assert [count(1, "chunk"), count(2000, "chunk"), count(2000)] == ["1 chunk", "2,000 chunks", "2,000"]


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        ((28, 28), (1, 28, 28)),
        ((1, 3, 4), (1, 3, 4)),
        ((3, 8, 6), (3, 8, 6)),
        ((784,), (1, 28, 28)),
        ((1, 1, 64), (1, 8, 8)),
        ((49,), None),
        ((20,), None),
        ((2, 8, 8), None),
        ((1, 1, 50), None),
    ],
)
def test_which_outputs_are_pictures(shape, picture):
    assert picture_shape(shape) == picture


def test_colours_of_pictures():
    shape = (1, 2, 2)
    grey = values(np.array([0.0, 1.0, 2.0, np.nan]), shape, 0.0, 2.0)
    assert grey[..., 0].tolist() == [[0, 128], [255, 0x9E]]
    below, zero, above, beyond = differences(np.array([-1.0, 0.0, 1.0, np.inf]), shape, 1.0).reshape(4, 3).tolist()
    assert below[2] > below[0]
    assert min(zero) > 240
    assert above[0] > above[2]
    assert beyond == above
    colour = differences(np.array([0.1, 0.0, -0.9, 0.5, 0.2, 0.1]).reshape(3, 1, 2)[:, :, :], (3, 1, 2), 1.0)
    assert (colour[0, 0, 2] > colour[0, 0, 0], colour[0, 1, 0] > colour[0, 1, 2]) == (True, True)
    large = values(np.zeros(3 * 1024 * 512), (3, 1024, 512), 0.0, 1.0)
    assert large.shape == (256, 128, 3)


def test_long_curves_keep_their_extremes_and_gaps():
    y = np.sin(np.linspace(0, 9, 100_000))
    y[12_345], y[50_000:60_000] = 40.0, np.nan
    drawn = curve(y, low=-1, high=40)
    assert len(drawn.parts) == 2
    points = [tuple(map(float, point.split(","))) for part in drawn.parts for point in part.split()]
    assert len(points) <= 602
    assert min(up for _, up in points) == 0
    assert (points[0][0], points[-1][0]) == (0, 1000)


def test_times_in_which_several_workers_were_busy_count_once(tmp_path):
    whole = run(tmp_path / "out", saved(tmp_path, observations()))

    def record(chunk, begin, end, worker):
        return Record(chunk, 5 * chunk, 5 * chunk + 5, "", "", "", {}, 0, 0, end - begin, worker, 1000.0 + end)

    records = [record(0, 0, 4, "a:1"), record(1, 1, 5, "b:1"), record(2, 3, 6, "a:1"), record(3, 106, 108, "a:2")]
    speed = throughput(Run(Path("out"), whole.manifest, {r.chunk: r for r in records}, whole.table))
    assert (speed.busy, speed.idle, speed.work) == (8, 100, 13)
    assert speed.rate == 20 / 8
    assert speed.left == 0
    assert [(w.name, w.chunks, w.observations, w.seconds) for w in speed.workers] == [
        ("a:1", 2, 10, 7), ("a:2", 1, 5, 2), ("b:1", 1, 5, 4),
    ]  # fmt: skip
    assert (speed.least, speed.median, speed.most, speed.slowest) == (2, 3.5, 4, 0)
    part = throughput(Run(Path("out"), whole.manifest, {0: records[0]}, whole.table))
    assert part.left == 15 / (5 / 4)
    assert part.progress is None
