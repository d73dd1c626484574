"""Scales of pictures: ``scale=`` maps stored values to the scale of generator outputs. A clear mismatch is an error.

Pictures have values in [0, 1] (``ToTensor`` of torchvision, decoders that end in a sigmoid or a ReLU), in [-1, 1]
(decoders that end in tanh) or in [0, 255] (bytes).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unrelu.errors import InputError
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags

# The number of observations that are examined.
_SEEN = 64
# This fraction of the smallest and of the largest entries of an observation is ignored: single dark or bright pixels.
_TRIM = 0.005
# The fewest entries of a picture. Quantiles of fewer entries do not determine a scale.
_ENTRIES = 64
# 8- and 16-bit integers are on the scale of their type if they are this many times larger than all generator outputs.
_LARGER = 8.0
# The range of the largest entry, from dark to overexposed pictures: in [0, 255], and in [0, 1] or [-1, 1]. Noise may be
# below 0, so only three quarters of the entries must be on the scale of bytes.
_BYTES, _UNIT = (64.0, 450.0), (0.4, 1.75)
# Outputs count as pictures in [0, 1] if their least entry is at least this.
_ABOUT_ZERO = -0.25


@dataclass(frozen=True)
class Scaling:
    """An affine map from the range of stored values to [low, high]; no map if ``ends`` is None.

    The range of 8- and 16-bit integers follows from their type: 0..255 for ordinary images, -32768..32767 for int16.
    The range of booleans and floats is [0, 1], as ``ToTensor`` of torchvision makes them. The scale ``-1,1`` then does
    the same as ``Normalize(0.5, 0.5)``. Floats may exceed the range. Wider integers have no range.

    Attributes:
        ends: (low, high), or None to leave values as they are.
        checked: whether :func:`check_scale` compares values with the generator's outputs.
    """

    ends: tuple[float, float] | None = None
    checked: bool = True

    @classmethod
    def parse(cls, text: str | tuple[float, float] | Scaling | None) -> Scaling:
        """Read a scaling: text ``LOW,HIGH`` such as ``-1,1``, or a pair; None leaves values as they are.

        ``"none"`` also leaves them as they are, and turns off the comparison with the generator's outputs.

        Raises:
            InputError: the scaling is not two finite numbers, the lower one first.
        """
        if isinstance(text, Scaling):
            return text
        if text is None or (isinstance(text, str) and text.strip() == "none"):
            return cls(checked=text is None)
        low = high = math.nan
        with suppress(ValueError, TypeError, OverflowError):
            low, high = map(float, text.split(",") if isinstance(text, str) else text)
        if not -math.inf < low < high < math.inf:
            raise InputError(
                f"scale {text!r:.60} is not LOW,HIGH: pass two finite numbers, the lower one first, such as 0,1 or "
                "-1,1; or none"
            )
        return cls((low, high))

    def apply(self, values: Array, dtype: npt.DTypeLike) -> Array:
        """Compute low + (values - a) (high - low) / (b - a), where [a, b] is the range of ``dtype``.

        Args:
            values: float64, of any shape.
            dtype: the type that they were stored in (:func:`dtype_of`).

        Raises:
            InputError: a scaling is requested, but the type has no range.
        """
        if self.ends is None:
            return values
        own = own_range(np.dtype(dtype))
        if own is None:
            raise InputError(
                f"scale {self} needs data with a range of their own, and integers of type {np.dtype(dtype)} have none; "
                "save them as 8- or 16-bit integers, or as floats in [0, 1]"
            )
        (low, high), (a, b) = self.ends, own
        return low + (values - a) * ((high - low) / (b - a))

    def stored(self, values: Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Convert values back to 8- or 16-bit integers if they were stored as such; else return them unchanged."""
        return values if self.step(dtype) is None else values.astype(dtype)

    def step(self, dtype: npt.DTypeLike) -> float | None:
        """Return the distance of mapped neighbours for 8- or 16-bit integers; None for other types or without a map."""
        stored = np.dtype(dtype)
        own = own_range(stored) if stored.kind in "iu" else None
        if self.ends is None or own is None:
            return None
        return (self.ends[1] - self.ends[0]) / (own[1] - own[0])

    def __str__(self) -> str:
        return "none" if self.ends is None else ",".join(repr(end).removesuffix(".0") for end in self.ends)


def own_range(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Return the assumed range of values: the range of an integer type, or [0, 1] for floats and booleans.

    Integers of more than 16 bits have no range: None.
    """
    if dtype.kind in "fb":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return (float(limits.min), float(limits.max)) if limits.bits <= 16 else None


def dtype_of(values: object) -> np.dtype[Any]:
    """Return the type of the values in an array, a tensor or nested lists."""
    if not isinstance(values, Tensor):
        return np.asarray(values).dtype
    return np.dtype("float64" if values.dtype.is_floating_point else str(values.dtype).removeprefix("torch."))


def check_scale(
    network: Generator, values: Array, seen: Flags | None = None, *, dtype: npt.DTypeLike = np.float64,
    scaling: Scaling | None = None, trim: float = 0.0,
) -> None:  # fmt: skip
    """Check that observations are not clearly on another picture scale than the network's outputs.

    The scales are [0, 1] or [-1, 1], and [0, 255]. 8- and 16-bit integers without a scaling are also refused if they
    are far larger than all outputs.

    Args:
        network: the generator.
        values: observations (B, n), after the scaling.
        seen: which entries were observed, (B, n); None for all.
        dtype: the type that the observations were stored in.
        scaling: the map that was applied; None if there was none.
        trim: the fraction of entries that may be arbitrarily wrong, from the stated noise.

    Raises:
        InputError: they are on another scale; the message says what to pass.
    """
    scaling, values, stored = scaling or Scaling(), values[:_SEEN], np.dtype(dtype)
    shown = np.ones(values.shape, dtype=bool) if seen is None else seen[:_SEEN]
    rows = np.flatnonzero((np.isfinite(values) | ~shown).all(axis=1) & shown.any(axis=1))
    if not scaling.checked or not len(rows):
        return
    observed = [values[i, shown[i]] for i in rows]
    share = min(max(_TRIM, 2 * trim), 0.49)
    low, bulk, high = map(float, np.median([np.quantile(y, (share, 0.25, 1 - share)) for y in observed], axis=0))
    bottom, top = _ends_of(network)
    pictures = min(map(len, observed)) >= _ENTRIES
    made_unit, seen_unit = (_UNIT[0] <= b <= _UNIT[1] and a >= -_UNIT[1] for a, b in ((bottom, top), (low, high)))
    made_bytes, seen_bytes = (_BYTES[0] <= b <= _BYTES[1] for b in (top, high))
    typed = stored.kind in "iu" and stored.itemsize <= 2
    larger = typed and scaling.ends is None and max(-low, high) > _LARGER * float(np.abs(network.typical_outputs).max())
    advice = ""
    if pictures and made_bytes and seen_unit:
        advice = "they seem to be in [0, 1]; pass 255 * y"
    elif (pictures and made_unit and seen_bytes and bulk >= -_BYTES[0]) or (larger and network.typical_outputs.any()):
        ends = (0 if bottom >= _ABOUT_ZERO else -1), (1 if made_unit else float(f"{top:.3g}"))
        advice = f"they seem to be in [0, 255]; pass {'y / 127.5 - 1' if ends[0] else 'y / 255'}"
        if typed:
            advice = f"pass scale={ends} (--scale {Scaling(ends)}), which maps them from the range of {stored}"
    if advice:
        raise InputError(
            f"the observations go from {low:.3g} to {high:.3g}, outputs of the generator from {bottom:.3g} to "
            f'{top:.3g}: {advice}. If the values are right as they are, pass scale="none" (--scale none)'
        )


def scale_of(network: Generator) -> Scaling:
    """Find the map from the range of stored pictures to black and white of a generator.

    Black and white are the ends of the last activation's range if both are finite, else 0 and 1.

    Raises:
        InputError: the outputs are clearly not in [0, 1], and no activation has a finite range.
    """
    ends, (bottom, top) = _range(network), _ends_of(network)
    if ends is None and not (bottom >= _ABOUT_ZERO and _UNIT[0] <= top <= _UNIT[1]):
        raise InputError(
            f"outputs of the generator go from {bottom:.3g} to {top:.3g}, which is not [0, 1]: see whether its last "
            "activation is the right one; if it is, say what black and white are in outputs, as scale=(LOW, HIGH), "
            f"e.g. --scale {min(bottom, 0):.3g},{top:.3g}"
        )
    return Scaling(ends or (0.0, 1.0))


def black_and_white(network: Generator) -> tuple[float, float]:
    """Return the values of black and white for drawing outputs, the same for all outputs.

    They are the ends of the last activation's range, or else the least and the largest typical output.
    """
    outputs = network.typical_outputs
    low, high = _range(network) or (float(outputs.min()), float(outputs.max()))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _range(network: Generator) -> tuple[float, float] | None:
    """Return the range of the last activation, if the layers are known and both ends are finite."""
    network = network.plain
    if not isinstance(network, Network):
        return None
    low, high = (float(end.max()) for end in network.layers[-1].activation.range)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _ends_of(network: Generator) -> tuple[float, float]:
    """Return the median of the least entry and of the largest entry over typical outputs."""
    outputs = network.typical_outputs
    return network.once(
        "ends of typical outputs",
        lambda: (float(np.median(outputs.min(axis=1))), float(np.median(outputs.max(axis=1)))),
    )
