"""Curves as the points of an SVG polyline in a box of 1000 by 100, which the page stretches to its width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Curve", "curve"]

Array = npt.NDArray[np.float64]

# Longer curves show the least and the largest value of each of half so many pieces.
_POINTS = 600


@dataclass(frozen=True)
class Curve:
    """A curve, broken where values are not finite.

    Attributes:
        parts: points "x,y x,y ...", of every unbroken part.
        last: the largest x.
    """

    parts: tuple[str, ...]
    last: float


def curve(values: Array, x: Array | None = None, low: float = 0.0, high: float = 1.0) -> Curve:
    """Values (n,) over x, (n,), increasing; by default over 0 to n - 1. ``low`` to ``high`` is the box's height."""
    places = np.arange(len(values), dtype=float) if x is None else x
    chosen = _extremes(values)
    values, places = values[chosen], places[chosen]
    last = float(places[-1]) if len(places) else 0.0
    height = (high - low) or 1.0
    across = 1000 * places / (last or 1.0)
    up = 100 - 100 * (np.clip(values, low, high) - low) / height
    known = np.isfinite(values)
    breaks = np.flatnonzero(np.diff(known)) + 1
    parts = [part for part in np.split(np.arange(len(values)), breaks) if len(part) and known[part[0]]]
    return Curve(tuple(" ".join(f"{across[i]:.1f},{up[i]:.2f}" for i in part) for part in parts), last)


def _extremes(values: Array) -> npt.NDArray[np.intp]:
    """Indices that keep the look of a long curve: the first and last, and in every piece the least and the largest."""
    if len(values) <= _POINTS:
        return np.arange(len(values))
    filled = np.where(np.isfinite(values), values, 0.0)
    pieces = np.array_split(np.arange(len(values)), _POINTS // 2)
    kept = [piece[[filled[piece].argmin(), filled[piece].argmax()]] for piece in pieces]
    return np.unique(np.concatenate([[0, len(values) - 1], *kept]))
