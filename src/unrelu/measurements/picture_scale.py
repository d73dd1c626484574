r"""Scales of pictures: map stored values to the scale of a generator's outputs, and refuse observations on another.

Pictures come on three scales: [0, 1] (``ToTensor`` of torchvision, decoders that end in a sigmoid or a ReLU), [-1, 1]
(decoders that end in tanh) and [0, 255] (bytes). :func:`check_scale` refuses observations on one of them for a
generator on another.
"""

from __future__ import annotations

import math
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
# The fraction of an observation's smallest and largest entries that is ignored: single dark or bright pixels.
_TRIM = 0.005
# The fewest entries of a picture: quantiles of fewer do not determine a scale.
_ENTRIES = 64
# Mapped to the generator's scale, observations must come this many times as near to its outputs.
_NEARER = 1.5
# Probabilities at which quantile functions are compared.
_LEVELS = np.linspace(0.0, 1.0, 101)
# 8- and 16-bit integers that are this many times larger than all outputs of a generator are on the scale of their type.
_LARGER = 8.0


# By scale of pictures: the ranges in which the smallest and the largest entry may lie, for observations and for
# outputs. They allow for noise and contrast. -0.7 separates [0, 1] from [-1, 1]: noise of standard deviation 0.1
# lowers the smallest entry by 0.26, and a dark picture in [-1, 1] has entries below -0.7. Bytes are recognised by the
# largest entry, from dark to overexposed pictures.
_Ends = tuple[float, float]
_OBSERVED: dict[_Ends, tuple[_Ends, _Ends]] = {
    (0.0, 1.0): ((-0.3, 0.15), (0.5, 1.75)),
    (-1.0, 1.0): ((-1.5, -0.7), (0.3, 1.75)),
    (0.0, 255.0): ((-80.0, 80.0), (64.0, 350.0)),
}
_OUTPUTS: dict[_Ends, tuple[_Ends, _Ends]] = {
    (0.0, 1.0): ((-0.25, 0.3), (0.4, 1.75)),
    (-1.0, 1.0): ((-1.5, -0.4), (0.4, 1.5)),
    (0.0, 255.0): ((-64.0, 64.0), (100.0, 450.0)),
}


@dataclass(frozen=True)
class Scaling:
    """The affine map of the range of stored values to [low, high]; no map if ``ends`` is None.

    The range of 8- and 16-bit integers is that of their type: 0..255 for ordinary images, -32768..32767 for int16. The
    range of booleans and floats is [0, 1]. Floats may exceed it: ``ToTensor`` of torchvision makes such floats, and the
    scale ``-1,1`` then does the same as ``Normalize(0.5, 0.5)``. Wider integers have no range.

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
            InputError: the text is not two finite numbers, the lower one first.
        """
        if isinstance(text, Scaling):
            return text
        if text is None or (isinstance(text, str) and text.strip() == "none"):
            return cls(checked=text is None)
        try:
            low, high = map(float, text.split(",") if isinstance(text, str) else text)
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"scale {text!r:.60} is not LOW,HIGH; pass two numbers such as 0,1, or none") from None
        if not -math.inf < low < high < math.inf:
            raise InputError(f"scale {text!r} needs two finite numbers, the lower one first, such as 0,1 or -1,1")
        return cls((low, high))

    def apply(self, values: Array, dtype: npt.DTypeLike) -> Array:
        """low + (values - a) (high - low) / (b - a), where [a, b] is the range of ``dtype``.

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
        return self.between(values, own)

    def between(self, values: Array, own: tuple[float, float]) -> Array:
        """low + (values - a) (high - low) / (b - a) for the range [a, b]; the values themselves without ends."""
        if self.ends is None:
            return values
        (low, high), (a, b) = self.ends, own
        return low + (values - a) * ((high - low) / (b - a))

    def stored(self, values: Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Stored values as 8- or 16-bit integers again, if they are mapped from these; else unchanged."""
        return values if self.step(dtype) is None else values.astype(dtype)

    def step(self, dtype: npt.DTypeLike) -> float | None:
        """The distance of neighbouring mapped values of 8- or 16-bit integers; None for other types and no map."""
        stored = np.dtype(dtype)
        own = own_range(stored) if stored.kind in "iu" else None
        if self.ends is None or own is None:
            return None
        return (self.ends[1] - self.ends[0]) / (own[1] - own[0])

    def __str__(self) -> str:
        return "none" if self.ends is None else ",".join(repr(end).removesuffix(".0") for end in self.ends)


def own_range(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """The range that values of a type are assumed to have: that of the type, or [0, 1] for floats and booleans."""
    if dtype.kind in "fb":
        return 0.0, 1.0
    if dtype.itemsize > 2:
        return None
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def dtype_of(values: object) -> np.dtype[Any]:
    """The type of the values of an array, a tensor or nested lists."""
    if isinstance(values, Tensor):
        kind = "float64" if values.dtype.is_floating_point else str(values.dtype).removeprefix("torch.")
        return np.dtype(kind)
    return np.asarray(values).dtype


def check_scale(
    network: Generator,
    values: Array,
    seen: Flags | None = None,
    *,
    dtype: npt.DTypeLike = np.float64,
    scaling: Scaling | None = None,
    trim: float = 0.0,
) -> None:
    r"""Refuse observations of the output that are clearly on another scale of pictures than the generator.

    Observations of at least 64 entries are refused if three conditions hold:

    - The outputs G(z), z ~ N(0, I), are on one of the scales [0, 1], [-1, 1] and [0, 255], by the medians of their
      smallest and largest entries.
    - The observations are on another one, by the medians of their 0.5% and 99.5% quantiles.
    - The affine map T from their scale to the generator's brings them at least 1.5 times as near to the nearest output,

    .. math:: \tfrac32 \min_i d(T y, G(z_i)) \le \min_i d(y, G(z_i)),

    where d(a, b) is the mean difference of the quantile functions of a and b (their Wasserstein distance). Integers of
    8 and 16 bits are also refused if they are more than 8 times larger than any output: their type implies a scale.

    Noise, random pictures, observations that are a few times brighter or much darker than outputs, and generators whose
    outputs are on none of the scales pass. Only observations of the output itself, whole or masked, can be compared.

    Args:
        network: G.
        values: observations (B, n), scaled for the network. Only the first 64 are examined, and those with entries that
            are not finite are skipped.
        seen: which of their entries were observed, (B, n); None means all.
        dtype: the type that they were stored in.
        scaling: the scaling that was applied to them.
        trim: the fraction of entries that is arbitrarily wrong, by the stated noise.

    Raises:
        InputError: they are on another scale; the message says what to pass.
    """
    scaling = scaling or Scaling()
    values = values[:_SEEN]
    shown = np.ones(values.shape, dtype=bool) if seen is None else seen[:_SEEN]
    rows = np.flatnonzero((np.isfinite(values) | ~shown).all(axis=1) & shown.any(axis=1))
    if not scaling.checked or not len(rows):
        return
    stored, outputs = np.dtype(dtype), network.typical_outputs
    bottom, top = _ends_of(outputs)
    own = _scale(bottom, top, _OUTPUTS)
    typed = stored.kind in "iu" and stored.itemsize <= 2 and scaling.ends is None
    if own is None and not typed:
        return
    y = [values[i, shown[i]] for i in rows]
    share = min(max(_TRIM, 2 * trim), 0.49)
    low, high = map(float, np.median([np.quantile(v, (share, 1 - share)) for v in y], axis=0))
    theirs = _scale(low, high, _OBSERVED)

    def refusal(theirs: _Ends | None) -> InputError:
        target = Scaling(own or (float(f"{bottom:.3g}"), float(f"{top:.3g}")))
        return InputError(
            f"the observations go from {low:.3g} to {high:.3g}, outputs of the generator from {bottom:.3g} to "
            f"{top:.3g}: {_advice(target, theirs, stored, scaling)}. If the values are right as they are, pass "
            'scale="none" (--scale none)'
        )

    largest = float(np.abs(outputs).max())
    if typed and largest > 0 and max(-low, high) > _LARGER * largest:
        raise refusal(own_range(stored))
    if own is None or theirs is None or own == theirs or min(map(len, y)) < _ENTRIES:
        return
    mapped = Scaling(own)
    there = [mapped.between(v, theirs) for v in y]
    here = [outputs[:, shown[i]] for i in rows]
    if _distance(there, here) <= _distance(y, here) / _NEARER:
        raise refusal(theirs)


def scale_of(network: Generator) -> Scaling:
    """Return the map from the range of stored pictures to the scale of the generator's outputs.

    Raises:
        InputError: its outputs are on none of the scales of pictures.
    """
    own, (bottom, top) = _own_scale(network), _ends_of(network.typical_outputs)
    if own is None:
        raise InputError(
            f"outputs of the generator go from {bottom:.3g} to {top:.3g}, which is none of [0, 1], [-1, 1] and "
            f"[0, 255]: see whether its last activation is the right one; if it is, say what black and white are in "
            f"outputs, as scale=(LOW, HIGH), e.g. --scale 0,{top:.3g}"
        )
    return Scaling(own)


def black_and_white(network: Generator) -> tuple[float, float]:
    """The values of black and white to draw outputs with, alike for all of them.

    They are the ends of the generator's scale of pictures, or else the least and the largest typical output.
    """
    outputs = network.typical_outputs
    low, high = _own_scale(network) or (float(outputs.min()), float(outputs.max()))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _own_scale(network: Generator) -> _Ends | None:
    """The range of a sigmoid or tanh at the end, or the scale of pictures that typical outputs are on; None if none."""
    if isinstance(network, Network):
        low, high = (float(end.max()) for end in network.layers[-1].activation.range)
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    return _scale(*_ends_of(network.typical_outputs), _OUTPUTS)


def _ends_of(outputs: Array) -> tuple[float, float]:
    return float(np.median(outputs.min(axis=1))), float(np.median(outputs.max(axis=1)))


def _scale(low: float, high: float, table: dict[_Ends, tuple[_Ends, _Ends]]) -> _Ends | None:
    fits = (ends for ends, ((a, b), (c, d)) in table.items() if a <= low <= b and c <= high <= d)
    return next(fits, None)


def _distance(observations: list[Array], outputs: list[Array]) -> float:
    """The median over observations of min_i d(y, G(z_i))."""
    nearest = []
    for y, x in zip(observations, outputs, strict=True):
        apart = np.abs(np.quantile(y, _LEVELS)[:, None] - np.quantile(x, _LEVELS, axis=1))
        nearest.append(apart.mean(axis=0).min())
    return float(np.median(nearest))


def _advice(target: Scaling, theirs: tuple[float, float] | None, stored: np.dtype[Any], scaling: Scaling) -> str:
    """How to map stored values to the generator's scale: by the option if their type has a range, else by hand."""
    elsewhere = scaling.ends is not None and scaling.ends != target.ends  # they were mapped to another range
    if elsewhere or theirs is None or (theirs == own_range(stored) and scaling.ends is None):
        pair = str(target).replace(",", ", ")
        return f"pass scale=({pair}) (--scale {target}), which maps them from the range of {stored}"
    (a, b), (low, high) = theirs, target.ends or theirs
    factor, offset = (high - low) / (b - a), low - a * (high - low) / (b - a)
    scaled = f"y / {1 / factor:g}" if factor < 1 else f"{factor:g} * y"
    shift = "" if offset == 0 else f" {'+' if offset > 0 else '-'} {abs(offset):g}"
    return f"they seem to be in [{a:g}, {b:g}]; pass {scaled}{shift}"
