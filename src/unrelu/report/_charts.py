"""Histograms and curves as numbers that a template can draw, on the scales that suit their values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from unrelu.runtime.array_types import Flags, Index
from unrelu.runtime.words import number, power

Array = npt.NDArray[np.floating[Any]]

# At most so many bars, wide enough to be seen at the width of a phone; of n values, at most 2 sqrt(n), but so many.
_BARS, _FEWEST = 40, 8
# Values of which nine tenths are within a factor of this have a linear scale.
_NARROW = 10.0
# The middle nine tenths of the values.
_MIDDLE = (0.05, 0.95)
# A bar of values beyond the axis stands apart by the width of a bar.
_APART = 2
# At most so many labels below.
_LABELS = 6
# Edges and labels are multiples of these times a power of ten.
_STEPS = (1, 2, 5, 10)
# Longer curves show the least and the largest value of each of half so many pieces.
_POINTS = 600


class Bar(NamedTuple):
    """From ``low`` to ``high``: observations with success, and others."""

    low: float
    high: float
    success: int
    other: int


class Tick(NamedTuple):
    """A label below the bars, or a line through them, at ``place``, 0 to 1."""

    place: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """Bars of equal width on their scale, with the labels of the axis and a value to compare with."""

    title: str
    unit: str
    zeros: int  # values that are 0, which a logarithmic scale cannot show
    unknown: int  # NaN or infinite
    scale: str = "linear"  # or "logarithmic"
    bars: tuple[Bar, ...] = ()
    ticks: tuple[Tick, ...] = ()
    mark: Tick | None = None
    below: Bar | None = None  # outliers beyond the axis, from the least of them to the largest
    above: Bar | None = None

    @property
    def placed(self) -> list[tuple[int, Bar]]:
        """All bars and their places from the left, in widths of a bar; those beyond the axis stand apart."""
        first = _APART if self.below else 0
        inner = list(enumerate(self.bars, first))
        last = [(first + len(self.bars) + 1, self.above)] if self.above else []
        return ([(0, self.below)] if self.below else []) + inner + last

    @property
    def width(self) -> int:
        """The width of the chart, in widths of a bar."""
        return 1 + max((at for at, _ in self.placed), default=0)

    @property
    def most(self) -> int:
        """The count of the highest bar."""
        return max((bar.success + bar.other for _, bar in self.placed), default=0)


def histogram(
    title: str, unit: str, values: npt.NDArray[Any], success: Flags, mark: tuple[float, str] | None = None
) -> Histogram:
    """Count values (n,), on a logarithmic scale if the middle nine tenths of them spread over more than a factor of 10.

    The axis has the values that are at most as far from the middle nine tenths as these are wide, so that they have at
    least a third of it; the others are counted in a bar below or above it. ``success`` (n,) says which of the values
    ended with success; ``mark`` is a value to draw a line at, and its label. The axis reaches to it.
    """
    known = np.isfinite(values)
    zeros = known & (values == 0)
    shown = known & ~zeros
    unknown = len(values) - int(known.sum())
    if not shown.any():
        return Histogram(title, unit, int(zeros.sum()), unknown)
    middle = np.quantile(values[shown], _MIDDLE, method="inverted_cdf")
    log = bool(values[shown].min() > 0 and middle[1] > _NARROW * middle[0])
    if not log and zeros.any():
        shown, zeros = known, np.zeros_like(zeros)
    place, back = (np.log10, lambda x: 10.0**x) if log else (np.asarray, np.asarray)
    marked = [float(place(mark[0]))] if mark is not None and 0 < mark[0] < math.inf else []
    at, won = place(values[shown].astype(float)), success[shown]
    first, last = _limits(at, marked)
    inside = (at >= first) & (at <= last)
    edges = _edges(np.append(at[inside], marked), min(_BARS, max(_FEWEST, round(2 * math.sqrt(inside.sum())))))
    # Rounding may put an extreme just beyond its edge.
    kept = np.clip(at, edges[0], edges[-1])
    counts = [np.histogram(kept[inside & chosen], edges)[0].tolist() for chosen in (won, ~won)]
    bars = tuple(map(Bar, back(edges[:-1]).tolist(), back(edges[1:]).tolist(), *counts))
    drawn = Histogram(
        title, unit, int(zeros.sum()), unknown, "logarithmic" if log else "linear", bars,
        below=_beyond(values[shown], won, at < first), above=_beyond(values[shown], won, at > last),
    )  # fmt: skip
    line = _ticks([(marked[0], mark[1])] if mark and marked else [], edges, drawn)
    return replace(drawn, ticks=_ticks(_labels(edges, log), edges, drawn), mark=next(iter(line), None))


def _limits(at: Array, marked: list[float]) -> tuple[float, float]:
    """The places between which values are on the axis; all of them if nine tenths are equal."""
    low, high = np.quantile(at, _MIDDLE, method="inverted_cdf")
    width = (high - low) or math.inf
    return min(low - width, *marked, low), max(high + width, *marked, high)


def _beyond(values: Array, success: Flags, chosen: Flags) -> Bar | None:
    """A bar of the chosen values; None if there are none."""
    if not chosen.any():
        return None
    found, won = values[chosen], int(success[chosen].sum())
    return Bar(float(found.min()), float(found.max()), won, len(found) - won)


def _edges(within: Array, most: int) -> Array:
    """Edges of at most ``most`` bars around the values; of values that are nearly equal, bars wider than rounding."""
    low, high = float(within.min()), float(within.max())
    room = max(0.0, 1e-3 * abs(high) - (high - low)) / 2
    return np.asarray(MaxNLocator(most - 2, steps=_STEPS).tick_values(low - room, high + room), dtype=np.float64)


def _labels(edges: Array, log: bool) -> list[tuple[float, str]]:
    """Places on the axis and what is said there; in less than two decades, 1, 2 and 5 times a power of ten."""
    if log and math.floor(edges[-1] + 1e-9) - math.ceil(edges[0] - 1e-9) < 2:
        decades = range(math.floor(edges[0]), math.ceil(edges[-1]) + 1)
        exact = [factor * 10.0**exponent for exponent in decades for factor in (1, 2, 5)]
        return [(math.log10(value), number(value)) for value in exact]
    places = map(float, MaxNLocator(_LABELS, steps=_STEPS, integer=log).tick_values(edges[0], edges[-1]))
    if log:
        return [(at, power(round(at))) for at in places]
    return [(at, number(at) if abs(at) < 1e3 else f"{at:,.6g}") for at in places]


def _ticks(labels: list[tuple[float, str]], edges: Array, drawn: Histogram) -> tuple[Tick, ...]:
    """Labels on the axis, at their places in the whole chart."""
    first, bars = _APART if drawn.below else 0, len(drawn.bars)
    shares = ((float((at - edges[0]) / (edges[-1] - edges[0])), label) for at, label in labels)
    return tuple(
        Tick((first + share * bars) / drawn.width, label) for share, label in shares if -1e-9 <= share <= 1 + 1e-9
    )


class Curve(NamedTuple):
    """A curve, broken where values are not finite: points "x,y x,y ..." of every unbroken part, and the largest x."""

    parts: tuple[str, ...]
    last: float


def curve(values: Array, x: Array | None = None, low: float = 0.0, high: float = 1.0) -> Curve:
    """Values (n,) over x, (n,), increasing; by default over 0 to n - 1. ``low`` to ``high`` is the box's height."""
    places = np.arange(len(values), dtype=float) if x is None else x
    chosen = _extremes(values)
    values, places = values[chosen], places[chosen]
    last = float(places[-1]) if len(places) else 0.0
    across = 1000 * places / (last or 1.0)
    up = 100 - 100 * (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    known = np.isfinite(values)
    breaks = np.flatnonzero(np.diff(known)) + 1
    parts = [part for part in np.split(np.arange(len(values)), breaks) if known[part[:1]].any()]
    return Curve(tuple(" ".join(f"{across[i]:.1f},{up[i]:.2f}" for i in part) for part in parts), last)


def _extremes(values: Array) -> Index:
    """Indices that keep the look of a long curve: the first and last, and in every piece the least and the largest."""
    if len(values) <= _POINTS:
        return np.arange(len(values))
    filled = np.where(np.isfinite(values), values, 0.0)
    pieces = np.array_split(np.arange(len(values)), _POINTS // 2)
    kept = [piece[[filled[piece].argmin(), filled[piece].argmax()]] for piece in pieces]
    return np.unique(np.concatenate([[0, len(values) - 1], *kept]))
