"""Arrays as pixels: the shape of the picture, and the colours of values and differences."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.image import imsave

from unrelu.runtime.array_types import Array

Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

# The colour of entries that were not observed: the light blue of the project's other pictures, outside the grey scale.
HIDDEN = "#9ecae1"
# Blue below zero, white at zero, red above.
DIVERGING = matplotlib.colormaps["RdBu_r"].with_extremes(bad=HIDDEN)
# Flat outputs of a square number of entries are drawn as pictures if the side is at least this long.
_LEAST_SIDE = 8
# Pictures are subsampled to at most this many pixels per side.
_LARGEST_SIDE = 256


def drawn_shape(shape: Sequence[int]) -> Shape | None:
    """Return the shape (channels, height, width) to draw an array, with 1 or 3 channels; None if it is not a picture.

    Arrays (H, W), (1, H, W) and (3, H, W) are pictures, and flat arrays of a square number of entries, at least 8 x 8.
    """
    dims = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(dims) == 3 and dims[0] in (1, 3) and min(dims[1:]) > 1:
        return dims[0], dims[1], dims[2]
    n, side = math.prod(dims), math.isqrt(math.prod(dims))
    return (1, side, side) if max(dims, default=1) == n == side * side and side >= _LEAST_SIDE else None


def values(array: Array, shape: Shape, low: float, high: float) -> Pixels:
    """Map values from ``low`` (black) to ``high`` (white), clipped, to pixels (H, W, 3); NaN becomes :data:`HIDDEN`."""
    grey = 255 * np.clip((_thinned(array, shape) - low) / (high - low), 0.0, 1.0)
    colour = np.moveaxis(np.broadcast_to(grey, (3, *grey.shape[1:])), 0, -1)
    hidden = np.isnan(colour).all(axis=-1, keepdims=True)
    return np.round(np.where(hidden, 255 * np.array(to_rgb(HIDDEN)), np.nan_to_num(colour))).astype(np.uint8)


def differences(array: Array, shape: Shape, scale: float) -> Pixels:
    """Map differences from blue (-scale) over white (0) to red (scale), (H, W, 3), by the channel that differs most."""
    image = _thinned(array, shape)
    most = np.where(np.isnan(image), -1.0, np.abs(image)).argmax(axis=0)
    unit = 0.5 + np.take_along_axis(image, most[None], axis=0)[0] / (2 * scale)
    return np.asarray(DIVERGING(np.clip(unit, 0.0, 1.0), bytes=True))[..., :3]


def value_range(arrays: Sequence[Array], least: float = 0, most: float = 100) -> tuple[float, float]:
    """Return the percentiles ``least`` and ``most`` of all finite values, widened to an interval if they are equal."""
    together = np.concatenate([np.ravel(array) for array in arrays])
    together = together[np.isfinite(together)]
    if not together.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(together, (least, most)))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def png_uri(pixels: Pixels) -> str:
    """Return a picture as a PNG file in a URI."""
    stream = io.BytesIO()
    imsave(stream, np.ascontiguousarray(pixels), format="png")
    return uri_of(stream.getvalue())


def uri_of(png: bytes) -> str:
    """Return a PNG file as a URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thinned(array: Array, shape: Shape) -> Array:
    """Reshape an array to its picture. If the picture is too large, keep only every second, third, ... pixel."""
    step = math.ceil(max(shape[1:]) / _LARGEST_SIDE)
    return np.asarray(array).reshape(shape)[:, ::step, ::step]
