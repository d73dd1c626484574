"""From the values that a data set stores to those that a generator puts out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.generator import Generator
from unrelu.streams import stream

__all__ = ["Scaling", "range_warning"]

Array = npt.NDArray[np.float64]

_FLOAT = np.dtype(np.float64)
# Codes drawn to see the range of a generator.
_CODES = 64
# Share of that range by which the ends of an observation may lie beyond those of any output drawn, outwards or inwards.
# Noise and dark images pass. [0, 1] does not fit [-1, 1], which begins half of its width lower, nor the reverse.
_SLACK = 0.4


@dataclass(frozen=True)
class Scaling:
    """The affine map of a data set's own range to [low, high]; no map without ``ends``.

    The own range of integers of 8 and 16 bits is that of their type: 0..255 for ordinary images, -32768..32767 for
    int16. That of booleans is 0..1. Floats are taken to be in [0, 1] already, as ``ToTensor`` of torchvision leaves
    images, and may go beyond; so ``-1,1`` does what ``Normalize(0.5, 0.5)`` does. Wider integers have no range that
    tells anything.

    Attributes:
        ends: (low, high), or None to leave values as they are.
    """

    ends: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str | tuple[float, float] | None) -> Scaling:
        """The scaling written as ``LOW,HIGH``, such as ``-1,1``, or a pair; None leaves values as they are.

        Raises:
            InputError: the text is not two finite numbers, the lower one first.
        """
        if text is None:
            return cls()
        try:
            low, high = map(float, text.split(",") if isinstance(text, str) else text)
        except (ValueError, TypeError):
            raise InputError(f"scale {text!r} is not LOW,HIGH; pass two numbers such as 0,1 or -1,1") from None
        if not -math.inf < low < high < math.inf:
            raise InputError(f"scale {text!r} needs two finite numbers, the lower one first, such as 0,1 or -1,1")
        return cls((low, high))

    def apply(self, values: Array, dtype: npt.DTypeLike) -> Array:
        """low + (values - a) (high - low) / (b - a), with [a, b] the own range of ``dtype``.

        Args:
            values: float64, of any shape.
            dtype: the type that they were stored in (:attr:`Source.dtype`).

        Raises:
            InputError: the type has no range of its own, and a scaling is asked for.
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

    def __str__(self) -> str:
        return "none" if self.ends is None else ",".join(repr(end).removesuffix(".0") for end in self.ends)


def own_range(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """The range that values of a type are taken to have: of the whole type, or [0, 1] for floats and booleans."""
    if dtype.kind in "fb":
        return 0.0, 1.0
    if dtype.itemsize > 2:
        return None
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def range_warning(
    values: Array, network: Generator, dtype: npt.DTypeLike = _FLOAT, scaling: Scaling | None = None
) -> str | None:
    """Whether observations are in other units than the generator's outputs, and what to pass then; None if they fit.

    The smallest value of an observation, at its median, is compared with the smallest values of outputs G(z),
    z ~ N(0, I), and the largest with the largest; beyond any of them, 40% of the median output's range are let pass.
    Observations have to be of the output itself, not of an operator that changes its units.

    Args:
        values: some observations as read, (B, ...), not scaled yet; those with NaN are left out.
        network: the generator.
        dtype: the type that they were stored in.
        scaling: what will be done to them.
    """
    scaling = scaling or Scaling()
    stored = values.reshape(len(values), math.prod(values.shape[1:]))
    stored = stored[np.isfinite(stored).all(axis=1)]
    if not stored.size:
        return None
    seen = scaling.apply(stored, dtype)
    outputs = network(stream("scaling check").standard_normal((_CODES, network.latent_dim))).reshape(_CODES, -1)
    minima, maxima = outputs.min(axis=1), outputs.max(axis=1)
    low, high = float(np.median(minima)), float(np.median(maxima))
    slack = _SLACK * (high - low)
    least, most = np.median(seen.min(axis=1)), np.median(seen.max(axis=1))
    least_fits = minima.min() - slack <= least <= minima.max() + slack
    most_fits = maxima.min() - slack <= most <= maxima.max() + slack
    if slack == 0 or (least_fits and most_fits):
        return None
    return (
        f"the observations go from {seen.min():.3g} to {seen.max():.3g}, outputs of the generator typically from "
        f"{low:.3g} to {high:.3g}: {_advice(_target(low, high), np.dtype(dtype), stored, scaling)}"
    )


def _target(low: float, high: float) -> Scaling:
    """The range that a generator with such outputs was likely trained on: [0, 1], [-1, 1], else what it puts out."""
    if low >= -0.25 and 0.4 <= high <= 1.75:
        return Scaling((0.0, 1.0))
    if -1.5 <= low <= -0.4 and 0.4 <= high <= 1.5:
        return Scaling((-1.0, 1.0))
    return Scaling((float(f"{low:.3g}"), float(f"{high:.3g}")))


def _advice(target: Scaling, dtype: np.dtype[Any], stored: Array, scaling: Scaling) -> str:
    own = own_range(dtype)
    if own is None:
        return f"save them as 8-bit integers or as floats in [0, 1], and pass --scale {target}"
    if dtype.kind == "f" and not (stored.min() > -0.5 and stored.max() < 1.5):
        return f"--scale takes floats to be in [0, 1], so save them like that, and pass --scale {target}"
    if target.ends == (scaling.ends or own):
        return "no --scale brings them together; check what the generator was trained on, and how they were saved"
    return f"pass --scale {target} if they are of the kind that the generator was trained on"
