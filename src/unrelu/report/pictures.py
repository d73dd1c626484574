"""Outputs as pictures: which can be shown as one, their colours, PNG files as data URIs, and curves as SVG lines."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

Array = npt.NDArray[np.float64]

# Longer curves show the least and the largest value of each of half so many pieces.
_POINTS = 600
Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]
# Entries that were not observed. The same light blue as in the project's other pictures: no grey, and not in the scale.
HIDDEN = "#9ecae1"
_HIDDEN_PIXEL = np.array([0x9E, 0xCA, 0xE1], dtype=np.uint8)
# Blue below zero, white at zero, red above.
_DIVERGING = "RdBu_r"
# Flat outputs are drawn as squares from this side on; shorter ones are signals.
_LEAST_SIDE = 8
# Pictures are thinned out to at most so many pixels a side.
_LARGEST_SIDE = 256


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


def picture_shape(shape: Sequence[int]) -> Shape | None:
    """(channels, height, width) to draw an array as, with 1 or 3 channels; None if it is no picture.

    Pictures are (H, W), (1, H, W) and (3, H, W), and flat arrays of a square number of entries from 8 x 8 on.
    """
    dims = tuple(shape)
    if len(dims) == 2:
        dims = (1, *dims)
    if len(dims) == 3 and dims[0] in (1, 3) and min(dims[1:]) > 1:
        return dims[0], dims[1], dims[2]
    n = math.prod(dims)
    side = math.isqrt(n)
    if max(dims) == n and side * side == n and side >= _LEAST_SIDE:
        return 1, side, side
    return None


def values(array: Array, shape: Shape, low: float, high: float) -> Pixels:
    """Grey or colour from ``low`` (black) to ``high`` (white), (H, W, 3); NaN is :data:`HIDDEN`, others are clipped."""
    unit = np.clip((_thinned(array, shape) - low) / (high - low), 0.0, 1.0)
    hidden = np.asarray(np.isnan(unit).all(axis=0))
    pixels = np.round(255 * np.nan_to_num(unit)).astype(np.uint8)
    colour = np.repeat(pixels, 3, axis=0) if shape[0] == 1 else pixels
    return _with_hidden(np.moveaxis(colour, 0, -1), hidden)


def differences(array: Array, shape: Shape, scale: float) -> Pixels:
    """Blue (-scale) over white (0) to red (scale), (H, W, 3); of colours, the channel that differs most."""
    image = _thinned(array, shape)
    hidden = np.asarray(np.isnan(image).all(axis=0))
    known = np.nan_to_num(image, posinf=scale, neginf=-scale)
    most = np.take_along_axis(known, np.abs(known).argmax(axis=0)[None], axis=0)[0]
    unit = np.clip(0.5 + most / (2 * scale), 0.0, 1.0)
    return _with_hidden(np.asarray(matplotlib.colormaps[_DIVERGING](unit, bytes=True))[..., :3], hidden)


def as_data_uri(pixels: Pixels) -> str:
    """A PNG file in a URI."""
    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _thinned(array: Array, shape: Shape) -> Array:
    """The array in its shape, with every second, third, ... pixel only if it is too large."""
    step = math.ceil(max(shape[1:]) / _LARGEST_SIDE)
    return array.reshape(shape)[:, ::step, ::step]


def _with_hidden(pixels: Pixels, hidden: npt.NDArray[np.bool_]) -> Pixels:
    return np.where(hidden[..., None], _HIDDEN_PIXEL, pixels)
