"""Histograms on the scale that suits the values, as numbers that a template can draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.report.words import number, power

Array = npt.NDArray[np.floating[Any]]

# At most so many bars, wide enough to be seen at the width of a phone; of n values, at most 2 sqrt(n), but so many.
_BARS, _FEWEST = 40, 8
# Values within a factor of this have a linear scale.
_NARROW = 10.0
# At most so many labels below.
_LABELS = 6


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        low, high: its ends.
        success, other: observations in it, with success and without.
    """

    low: float
    high: float
    success: int
    other: int


@dataclass(frozen=True)
class Tick:
    """A label below the bars, or a line through them, at ``place``, 0 to 1."""

    place: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A histogram.

    Attributes:
        title: what is counted.
        unit: of the values.
        scale: "logarithmic" or "linear".
        bars: all of equal width on that scale.
        ticks: the labels of the axis.
        mark: a value to compare with, or None.
        zeros: values that are 0, which a logarithmic scale cannot show.
        unknown: values that are NaN or infinite.
    """

    title: str
    unit: str
    scale: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    mark: Tick | None
    zeros: int
    unknown: int

    @property
    def most(self) -> int:
        """The count of the highest bar."""
        return max((bar.success + bar.other for bar in self.bars), default=0)


def histogram(
    title: str,
    unit: str,
    values: npt.NDArray[Any],
    success: npt.NDArray[np.bool_],
    mark: tuple[float, str] | None = None,
) -> Histogram:
    """Count values, logarithmically where they are positive and spread over more than a factor of 10.

    Args:
        title, unit: to be shown.
        values: (n,), of any numbers.
        success: (n,), which of them ended with success.
        mark: a value to draw a line at, and its label.
    """
    known = np.isfinite(values)
    zeros = known & (values == 0)
    shown = known & ~zeros
    unknown = len(values) - int(known.sum())
    if not shown.any():
        return Histogram(title, unit, "linear", (), (), None, int(zeros.sum()), unknown)
    low, high = float(values[shown].min()), float(values[shown].max())
    if mark is not None and 0 < mark[0] < math.inf:
        low, high = min(low, mark[0]), max(high, mark[0])
    log = low > 0 and high > _NARROW * low
    if not log:
        shown, zeros = known, np.zeros_like(zeros)
        low, high = float(min(low, values[shown].min())), float(max(high, values[shown].max()))
    most = min(_BARS, max(_FEWEST, round(2 * math.sqrt(shown.sum()))))
    edges, ticks = _log_axis(low, high, most) if log else _linear_axis(low, high, most)
    won, lost = (_counts(values[shown & chosen], edges, log) for chosen in (success, ~success))
    ends = 10.0**edges if log else edges
    bars = tuple(Bar(float(ends[i]), float(ends[i + 1]), int(won[i]), int(lost[i])) for i in range(len(won)))
    line = None if mark is None else _mark(mark, edges, log)
    return Histogram(
        title, unit, "logarithmic" if log else "linear", bars, ticks, line, int(zeros.sum()), unknown
    )  # fmt: skip


def _counts(values: npt.NDArray[Any], edges: Array, log: bool) -> npt.NDArray[np.int64]:
    places = np.log10(values) if log else values
    inside = np.clip(places, edges[0], edges[-1])  # rounding may put an extreme just beyond its edge
    return np.asarray(np.histogram(inside, edges)[0], dtype=np.int64)


def _mark(mark: tuple[float, str], edges: Array, log: bool) -> Tick | None:
    value, label = mark
    if not math.isfinite(value) or (log and value <= 0):
        return None
    place = (math.log10(value) if log else value) - edges[0]
    return Tick(float(place / (edges[-1] - edges[0])), label)


def _log_axis(low: float, high: float, most: int) -> tuple[Array, tuple[Tick, ...]]:
    """Edges in decades, and labels at powers of ten; in a narrow range also at 2 and 5 times these."""
    first, last = math.log10(low), math.log10(high)
    steps = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
    step = next(s for s in steps if (last - first) / s <= most - 2)
    edges = np.arange(math.floor(first / step), math.ceil(last / step) + 1) * step
    begin, end = math.ceil(edges[0] - 1e-9), math.floor(edges[-1] + 1e-9)
    if end - begin >= 2:
        stride = math.ceil((end - begin + 1) / _LABELS)
        labels = [(float(exponent), power(exponent)) for exponent in range(begin, end + 1, stride)]
    else:
        exact = [factor * 10.0**e for e in range(begin - 1, end + 1) for factor in (1, 2, 5)]
        labels = [(math.log10(value), number(value)) for value in exact]
    return edges, _ticks(labels, edges)


def _linear_axis(low: float, high: float, most: int) -> tuple[Array, tuple[Tick, ...]]:
    """Edges at multiples of 1, 2 or 5 times a power of ten, and labels at some of them."""
    width = max(high - low, abs(high) * 1e-3, 1e-300)
    step = _round_step(width / (most - 2))
    edges = np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step
    if len(edges) < 2:
        edges = np.array([edges[0] - step / 2, edges[0] + step / 2])
    stride = _round_step((edges[-1] - edges[0]) / _LABELS)
    labels = [
        (i * stride, number(i * stride) if abs(i) * stride < 1e3 else f"{i * stride:,.6g}")
        for i in range(math.ceil(edges[0] / stride - 1e-9), math.floor(edges[-1] / stride + 1e-9) + 1)
    ]
    return edges, _ticks(labels, edges)


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least this."""
    power_of_ten = 10.0 ** math.floor(math.log10(least))
    return next(factor * power_of_ten for factor in (1, 2, 5, 10) if factor * power_of_ten >= least * (1 - 1e-9))


def _ticks(labels: list[tuple[float, str]], edges: Array) -> tuple[Tick, ...]:
    placed = (Tick(float((at - edges[0]) / (edges[-1] - edges[0])), label) for at, label in labels)
    return tuple(tick for tick in placed if -1e-9 <= tick.place <= 1 + 1e-9)
