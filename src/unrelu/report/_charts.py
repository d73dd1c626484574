"""Histograms and curves as numbers that a template can draw, on the scales that suit their values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from unrelu.runtime.array_types import Flags, Index
from unrelu.runtime.words import number, power

Array = npt.NDArray[np.floating[Any]]

# At most so many bars, wide enough to be seen at the width of a phone; of n values, at most 2 sqrt(n), but so many.
_BARS, _FEWEST = 40, 8
# Values within a factor of this have a linear scale.
_NARROW = 10.0
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

    @property
    def most(self) -> int:
        """The count of the highest bar."""
        return max((bar.success + bar.other for bar in self.bars), default=0)


def histogram(
    title: str, unit: str, values: npt.NDArray[Any], success: Flags, mark: tuple[float, str] | None = None
) -> Histogram:
    """Count values (n,), logarithmically where they are positive and spread over more than a factor of 10.

    ``success`` (n,) says which of them ended with success; ``mark`` is a value to draw a line at, and its label.
    """
    known = np.isfinite(values)
    zeros = known & (values == 0)
    shown = known & ~zeros
    unknown = len(values) - int(known.sum())
    if not shown.any():
        return Histogram(title, unit, int(zeros.sum()), unknown)
    marked = [mark[0]] if mark is not None and 0 < mark[0] < math.inf else []
    within = np.array([values[shown].min(), values[shown].max(), *marked], dtype=float)
    log = bool(within.min() > 0 and within.max() > _NARROW * within.min())
    if not log and zeros.any():
        within, shown, zeros = np.append(within, 0.0), known, np.zeros_like(zeros)
    place, back = (np.log10, lambda x: 10.0**x) if log else (np.asarray, np.asarray)
    edges = _edges(place(within), min(_BARS, max(_FEWEST, round(2 * math.sqrt(shown.sum())))))
    # Rounding may put an extreme just beyond its edge.
    inside = np.clip(place(values[shown]), edges[0], edges[-1])
    won, lost = (np.histogram(inside[chosen[shown]], edges)[0].tolist() for chosen in (success, ~success))
    bars = tuple(map(Bar, back(edges[:-1]).tolist(), back(edges[1:]).tolist(), won, lost))
    line = [(float(place(value)), mark[1]) for value in marked] if mark else []
    scale = "logarithmic" if log else "linear"
    ticks = _ticks(_labels(edges, log), edges)
    return Histogram(title, unit, int(zeros.sum()), unknown, scale, bars, ticks, next(iter(_ticks(line, edges)), None))


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


def _ticks(labels: list[tuple[float, str]], edges: Array) -> tuple[Tick, ...]:
    placed = (Tick(float((at - edges[0]) / (edges[-1] - edges[0])), label) for at, label in labels)
    return tuple(tick for tick in placed if -1e-9 <= tick.place <= 1 + 1e-9)


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
