"""Activation functions: value, derivative, inverse, and the preimage of an interval.

Layer-wise inversion needs more from an activation than its value. An output known to lie in ``[x - eps, x + eps]``
confines the pre-activation to an interval. The interval is half-infinite where the activation is flat (ReLU below zero)
or saturates (sigmoid, tanh). :meth:`Activation.preimage` returns it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit

from unrelu.errors import ModelError
from unrelu.runtime.array_types import Array, Flags, Index


@dataclass(frozen=True)
class _Saturating:
    """A smooth activation: its range, phi and phi^-1, and phi' as a function of x = phi(u)."""

    range: tuple[float, float]
    forward: Callable[[torch.Tensor], torch.Tensor]
    derivative: Callable[[torch.Tensor], torch.Tensor]
    value: np.ufunc
    inverse: np.ufunc


_SATURATING = {
    "sigmoid": _Saturating((0.0, 1.0), torch.sigmoid, lambda x: x * (1 - x), expit, logit),
    "tanh": _Saturating((-1.0, 1.0), torch.tanh, lambda x: 1 - x * x, np.tanh, np.arctanh),
}
# Default slope c of the piecewise linear activations.
_SLOPES = {"relu": 0.0, "leaky_relu": 0.1, "identity": 1.0}
_NAMES = ("relu", "leaky_relu", "prelu", "identity", *_SATURATING)


@dataclass(frozen=True, eq=False)
class Activation:
    r"""One activation, applied coordinate by coordinate.

    The piecewise linear ones are

    .. math:: \phi(u) = \max(u, 0) + c \min(u, 0)

    with ``c = 0`` (ReLU), a number in (0, 1) (LeakyReLU), one number per coordinate (PReLU) or 1 (identity); the smooth
    ones are ``sigmoid`` and ``tanh``.

    With a ``width`` w > 0, a parabola between -w and w smooths the kink, so that a search does not get stuck there.
    Outside this interval nothing changes: an inactive ReLU stays inactive.

    .. math:: \phi_w(u) = c u + (1 - c) \frac{(u + w)^2}{4 w}, \qquad |u| \le w

    Args:
        name: ``relu``, ``leaky_relu``, ``prelu``, ``identity``, ``sigmoid`` or ``tanh``.
        slope: c, the slope for negative arguments: a scalar for ``leaky_relu``, a scalar or an array of shape (n,) for
            ``prelu``. The others take none.
        width: w, for piecewise linear activations. The layer methods and the inverse below assume w = 0.

    Raises:
        ModelError: the name is unknown, or the activation does not take this slope.

    Source: equation (3) of the paper and the line below it (LeakyReLU, c typically 0.1).
    """

    name: str
    slope: Array
    width: float

    def __init__(self, name: str, slope: float | npt.ArrayLike | None = None, width: float = 0.0) -> None:
        if name not in _NAMES:
            raise ModelError(f"unknown activation {name!r}; use one of {', '.join(_NAMES)}")
        default = _SLOPES.get(name, np.nan)
        try:
            c = np.array(default if slope is None else slope, dtype=np.float64)
        except (TypeError, ValueError):
            raise ModelError(f"activation {name!r}: the slope {slope!r} is not a number") from None
        if name == "prelu" and not (c.size and np.isfinite(c).all()):
            raise ModelError(f"activation 'prelu' needs finite slopes, got {slope!r}")
        if name == "leaky_relu" and not (c.ndim == 0 and 0 < c < 1):
            raise ModelError(f"leaky_relu needs a slope in (0, 1), got {slope!r}; slope 0 is 'relu', 1 is 'identity'")
        if name not in ("prelu", "leaky_relu") and slope is not None and not (c.ndim == 0 and c == default):
            raise ModelError(f"activation {name!r} takes no slope, got {slope!r}; use 'leaky_relu' or 'prelu'")
        c.setflags(write=False)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "slope", c)
        object.__setattr__(self, "width", width)

    @classmethod
    def parse(cls, text: str) -> Activation:
        """Read ``"relu"``, ``"leaky_relu:0.1"``, ``"sigmoid"``, ``"tanh"`` or ``"identity"``.

        Raises:
            ModelError: the text is none of these.
        """
        name, _, slope = text.partition(":")
        given: float | str = slope
        with suppress(ValueError):  # the constructor refuses a slope that is not a number
            given = float(slope)
        return cls(name, given if slope else None)

    @classmethod
    def of_slope(cls, slope: npt.ArrayLike) -> Activation:
        """Return max(u, 0) + c min(u, 0), named by its slope c: one number, or an array that broadcasts to u."""
        c = np.asarray(slope, dtype=np.float64)
        if c.size != 1:
            return cls("prelu", c)
        one = c.item()
        if one in (0, 1):
            return cls("identity" if one else "relu")
        return cls("leaky_relu" if 0 < one < 1 else "prelu", one)

    def __str__(self) -> str:
        if self.name == "leaky_relu":
            return f"leaky_relu:{self.slope.item():g}"
        return self.name

    @property
    def smooth(self) -> bool:
        """Whether the activation is sigmoid or tanh; the others are positively homogeneous, phi(s u) = s phi(u)."""
        return self.name in _SATURATING

    @cached_property
    def linear(self) -> bool:
        """Whether it is the identity."""
        return not self.smooth and bool((self.slope == 1).all())

    @property
    def convex(self) -> bool:
        """Whether it is the larger of u and c u, with 0 <= c <= 1."""
        return not self.smooth and bool(((self.slope >= 0) & (self.slope <= 1)).all())

    @property
    def invertible(self) -> bool:
        """Whether every value has exactly one pre-activation (equation (5) of the paper for LeakyReLU)."""
        return self.smooth or bool((self.slope > 0).all())

    @property
    def monotone(self) -> bool:
        """Whether the preimage of an interval is an interval; false only for PReLU with a slope < 0."""
        return self.smooth or bool((self.slope >= 0).all())

    @property
    def range(self) -> tuple[Array, Array]:
        """Lower and upper limit of the outputs, each broadcastable to (n,); infinite if unlimited."""
        if self.smooth:
            low, high = _SATURATING[self.name].range
            return np.array(low), np.array(high)
        return np.where(self.slope > 0, -np.inf, 0.0), np.array(np.inf)

    def slopes(self, n: int) -> Array:
        """The slope below zero of each of n outputs, (n,); NaN for sigmoid and tanh."""
        return np.array(np.broadcast_to(self.slope, (n,)))

    def kinks(self, n: int) -> Flags:
        """Which of n outputs have a kink at 0, (n,)."""
        return np.asarray((self.slopes(n) != 1) & (not self.smooth))

    def of(self, index: Index | Flags | slice) -> Activation:
        """The activation restricted to the outputs in ``index``."""
        return Activation(self.name, self.slope[index]) if self.slope.ndim else self

    def smoothed(self, width: float) -> Activation:
        """The same activation with its kink smoothed; unchanged if it has no kink."""
        return self if self.smooth or self.linear else Activation(self.name, self.slope, width)

    # --- PyTorch side: values and derivatives -------------------------------------------------------------------

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """phi(u) for pre-activations of shape (B, n)."""
        if self.smooth:
            return _SATURATING[self.name].forward(u)
        if self.linear:
            return u
        if not self.width:
            return torch.relu(u) if self.name == "relu" else torch.where(u > 0, u, u * self._slope_like(u))
        # The integral of a ramp that rises from 0 at -w to 1 at w; for u > w it equals u.
        ramp = torch.nn.functional.hardtanh(u, -self.width, self.width) + self.width
        positive = ramp.square() / (4 * self.width) + torch.relu(u - self.width)
        if self.name == "relu":
            return positive
        c = self._slope_like(u)
        return c * u + (1 - c) * positive

    def derivative(self, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """phi'(u), given u and x = phi(u), both (B, n). At a kink, the slope for negative arguments."""
        if self.smooth:
            return _SATURATING[self.name].derivative(x)
        c = self._slope_like(u)
        if self.width:
            return c + (1 - c) * ((u + self.width) / (2 * self.width)).clamp(0.0, 1.0)
        return torch.where(u > 0, torch.ones_like(c), c)

    def _slope_like(self, u: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.slope, dtype=u.dtype, device=u.device)

    # --- NumPy side: for the layer solvers -------------------------------------------------------------------------

    def value(self, u: Array) -> Array:
        """phi(u) for pre-activations of shape (..., n)."""
        if self.smooth:
            return np.asarray(_SATURATING[self.name].value(u))
        return np.where(u > 0, u, u * self.slope)

    def clip(self, x: Array, margin: float = 0.0) -> Array:
        """Clip x to the range of the activation; where it saturates, ``margin`` inside the ends of the range.

        A ReLU never outputs a negative number, so a negative noisy observation becomes 0. A sigmoid reaches neither
        0 nor 1, so its outputs are kept ``margin`` away from both.
        """
        low, high = self.range
        return np.clip(x, low + margin, high - margin) if self.smooth else np.maximum(x, low)

    def inverse(self, x: Array) -> Array:
        """The u with phi(u) = x where it is unique. For a ReLU output of 0, the upper end of its preimage, which is 0.

        Source: equation (5) of the paper.
        """
        if self.smooth:
            return np.asarray(_SATURATING[self.name].inverse(x))
        return np.where(x > 0, x, np.divide(x, self.slope, out=np.zeros_like(x), where=self.slope > 0))

    def preimage(self, low: Array, high: Array) -> tuple[Array, Array]:
        """The interval of u with ``low <= phi(u) <= high``, coordinate by coordinate; ends may be infinite.

        The output interval must meet the range of the activation (use :meth:`clip` first).
        """
        bottom, top = self.range
        free_below, free_above = low <= bottom, high >= top
        # An end beyond the range has no inverse and is replaced by an infinite one.
        with np.errstate(invalid="ignore", divide="ignore"):
            ends = self.inverse(low), self.inverse(high)
        return np.where(free_below, -np.inf, ends[0]), np.where(free_above, np.inf, ends[1])
