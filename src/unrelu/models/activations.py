"""Activation functions: value, derivative, inverse, and the preimage of an interval.

Layer-wise inversion needs more from an activation than its value. An output known to lie in ``[x - eps, x + eps]``
confines the pre-activation to an interval. The interval is half-infinite where the activation is flat (ReLU below zero)
or saturates (sigmoid, tanh). :meth:`Activation.preimage` returns it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit

from unrelu.errors import ModelError
from unrelu.runtime.array_types import Array, Flags, Index


@dataclass(frozen=True)
class _Smooth:
    """A smooth activation with an inverse: its range, phi and phi^-1, and phi' as a function of x = phi(u)."""

    range: tuple[float, float]
    forward: Callable[[torch.Tensor], torch.Tensor]
    derivative: Callable[[torch.Tensor], torch.Tensor]
    value: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


def _exp(u: Array) -> Array:
    with np.errstate(over="ignore"):  # as PyTorch, which gives infinity
        return np.asarray(np.exp(u))


_SMOOTH = {
    "sigmoid": _Smooth((0.0, 1.0), torch.sigmoid, lambda x: x * (1 - x), expit, logit),
    "tanh": _Smooth((-1.0, 1.0), torch.tanh, lambda x: 1 - x * x, np.tanh, np.arctanh),
    "exp": _Smooth((0.0, np.inf), torch.exp, lambda x: x, _exp, np.log),
}
# Default slope c of the piecewise linear activations and of swish.
_SLOPES = {"relu": 0.0, "leaky_relu": 0.1, "identity": 1.0, "swish": 0.0}
_NAMES = ("relu", "leaky_relu", "prelu", "identity", "swish", *_SMOOTH)


def _numbers(name: str, what: str, value: npt.ArrayLike) -> Array:
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelError(f"activation {name!r}: the {what} {value!r} is not a number") from None


@dataclass(frozen=True, eq=False)
class Activation:
    r"""One activation, applied coordinate by coordinate.

    The piecewise linear ones are

    .. math:: \phi(u) = \max(u, 0) + c \min(u, 0)

    with ``c = 0`` (ReLU), a number in (0, 1) (LeakyReLU), one number per coordinate (PReLU) or 1 (identity); the smooth
    ones are ``sigmoid``, ``tanh``, ``exp`` and ``swish``,

    .. math:: \phi(u) = c u + (1 - c) \, u / (1 + e^{-\alpha u}),

    with numbers c and alpha, or one of each per coordinate, as emulators learn them (speculator, CosmoPower).

    With a ``width`` w > 0, a parabola between -w and w smooths the kink, so that a search does not get stuck there.
    Outside this interval nothing changes: an inactive ReLU stays inactive.

    .. math:: \phi_w(u) = c u + (1 - c) \frac{(u + w)^2}{4 w}, \qquad |u| \le w

    Args:
        name: ``relu``, ``leaky_relu``, ``prelu``, ``identity``, ``swish``, ``sigmoid``, ``tanh`` or ``exp``.
        slope: c, the slope for negative arguments: a scalar for ``leaky_relu``, a scalar or an array of shape (n,) for
            ``prelu`` and ``swish``. The others take none.
        width: w, for piecewise linear activations. The layer methods and the inverse below assume w = 0.
        steepness: alpha, of ``swish``: a scalar or an array of shape (n,); None means 1. The others take none.

    Raises:
        ModelError: the name is unknown, or the activation does not take this slope.

    Source: equation (3) of the paper and the line below it (LeakyReLU, c typically 0.1). ``swish``: equation (8) of
    Alsing et al., "SPECULATOR" (2020); with c = 0 it is Swish (Ramachandran, Zoph and Le 2017), with alpha = 1 SiLU.
    """

    name: str
    slope: Array
    width: float
    steepness: Array | None

    def __init__(
        self, name: str, slope: float | npt.ArrayLike | None = None, width: float = 0.0,
        steepness: float | npt.ArrayLike | None = None,
    ) -> None:  # fmt: skip
        if name not in _NAMES:
            raise ModelError(f"unknown activation {name!r}; use one of {', '.join(_NAMES)}")
        default = _SLOPES.get(name, np.nan)
        c = _numbers(name, "slope", default if slope is None else slope)
        alpha = _numbers(name, "steepness", 1.0 if steepness is None else steepness)
        if name in ("prelu", "swish") and not (c.size and np.isfinite(c).all() and np.isfinite(alpha).all()):
            steep = "" if steepness is None else f", and a finite steepness, got {steepness!r}"
            raise ModelError(f"activation {name!r} needs finite slopes, got {slope!r}{steep}")
        if name != "swish" and steepness is not None:
            raise ModelError(f"activation {name!r} takes no steepness, got {steepness!r}; use 'swish'")
        if name == "leaky_relu" and not (c.ndim == 0 and 0 < c < 1):
            raise ModelError(f"leaky_relu needs a slope in (0, 1), got {slope!r}; slope 0 is 'relu', 1 is 'identity'")
        if name not in ("prelu", "leaky_relu", "swish") and slope is not None and not (c.ndim == 0 and c == default):
            raise ModelError(f"activation {name!r} takes no slope, got {slope!r}; use 'leaky_relu' or 'prelu'")
        c.setflags(write=False)
        alpha.setflags(write=False)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "slope", c)
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "steepness", alpha if name == "swish" else None)

    @classmethod
    def parse(cls, text: str) -> Activation:
        """Read ``"relu"``, ``"leaky_relu:0.1"``, ``"swish"``, ``"sigmoid"``, ``"tanh"``, ``"exp"`` or ``"identity"``.

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
        """Whether the activation is sigmoid, tanh, exp or swish; the others are piecewise linear."""
        return self.name in _SMOOTH or self.name == "swish"

    @property
    def scalable(self) -> bool:
        """Whether :meth:`scaled` is possible: for all but sigmoid, tanh and exp."""
        return self.name not in _SMOOTH

    @property
    def bounded(self) -> bool:
        """Whether it is sigmoid or tanh, whose outputs have a fixed range."""
        return self.name in ("sigmoid", "tanh")

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
        return self.name in _SMOOTH or (not self.smooth and bool((self.slope > 0).all()))

    @property
    def monotone(self) -> bool:
        """Whether the preimage of an interval is an interval; false only for swish and for PReLU with a slope < 0."""
        return self.name in _SMOOTH or (not self.smooth and bool((self.slope >= 0).all()))

    @property
    def range(self) -> tuple[Array, Array]:
        """Lower and upper limit of the outputs, each broadcastable to (n,); infinite if unlimited."""
        if self.name in _SMOOTH:
            low, high = _SMOOTH[self.name].range
            return np.array(low), np.array(high)
        return np.where(self.smooth | (self.slope > 0), -np.inf, 0.0), np.array(np.inf)

    def slopes(self, n: int) -> Array:
        """The slope below zero of each of n outputs, (n,); NaN for smooth activations."""
        return np.array(np.broadcast_to(np.nan if self.smooth else self.slope, (n,)))

    def kinks(self, n: int) -> Flags:
        """Which of n outputs have a kink at 0, (n,)."""
        return np.asarray((self.slopes(n) != 1) & (not self.smooth))

    def of(self, index: Index | Flags | slice) -> Activation:
        """The activation restricted to the outputs in ``index``."""
        return self._with(lambda values: values[index] if values.ndim else values)

    def on(self, shape: tuple[int, ...]) -> Activation:
        """The activation with its slopes and steepnesses broadcast to outputs of a shape, flat.

        Raises:
            ValueError: they do not broadcast.
        """
        return self._with(lambda values: np.broadcast_to(values, shape).reshape(-1) if values.ndim else values)

    def _with(self, change: Callable[[Array], Array]) -> Activation:
        """The activation with changed slopes and steepnesses; itself if these are single numbers."""
        alpha = self.steepness
        if not (self.slope.ndim or (alpha is not None and alpha.ndim)):
            return self
        return replace(self, slope=change(self.slope), steepness=None if alpha is None else change(alpha))

    def scaled(self, exponent: int) -> Activation:
        """phi' with phi'(s u) = s phi(u) for s = 2^exponent, exactly; if it is :attr:`scalable`."""
        alpha = None if self.steepness is None else np.ldexp(self.steepness, -exponent)
        return replace(self, width=math.ldexp(self.width, exponent), steepness=alpha)

    def smoothed(self, width: float) -> Activation:
        """The same activation with its kink smoothed; unchanged if it has no kink."""
        return self if self.smooth or self.linear else replace(self, width=width)

    # --- PyTorch side: values and derivatives -------------------------------------------------------------------

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """phi(u) for pre-activations of shape (B, n)."""
        if self.name in _SMOOTH:
            return _SMOOTH[self.name].forward(u)
        if self.name == "swish":
            return u * self._gate(u)[1]
        if self.linear:
            return u
        if not self.width:
            return torch.relu(u) if self.name == "relu" else torch.where(u > 0, u, u * self._like(self.slope, u))
        # The integral of a ramp that rises from 0 at -w to 1 at w; for u > w it equals u.
        ramp = torch.nn.functional.hardtanh(u, -self.width, self.width) + self.width
        positive = ramp.square() / (4 * self.width) + torch.relu(u - self.width)
        if self.name == "relu":
            return positive
        c = self._like(self.slope, u)
        return c * u + (1 - c) * positive

    def derivative(self, u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """phi'(u), given u and x = phi(u), both (B, n). At a kink, the slope for negative arguments."""
        if self.name in _SMOOTH:
            return _SMOOTH[self.name].derivative(x)
        c = self._like(self.slope, u)
        if self.name == "swish":
            s, gate = self._gate(u)
            return gate + (1 - c) * self._like(self.steepness, u) * u * s * (1 - s)
        if self.width:
            return c + (1 - c) * ((u + self.width) / (2 * self.width)).clamp(0.0, 1.0)
        return torch.where(u > 0, torch.ones_like(c), c)

    def _gate(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sigmoid s of alpha u, and phi(u) / u = c + (1 - c) s, of swish."""
        s, c = torch.sigmoid(self._like(self.steepness, u) * u), self._like(self.slope, u)
        return s, c + (1 - c) * s

    def _like(self, values: Array | None, u: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=u.dtype, device=u.device)

    # --- NumPy side: for the layer solvers -------------------------------------------------------------------------

    def value(self, u: Array) -> Array:
        """phi(u) for pre-activations of shape (..., n)."""
        if self.name in _SMOOTH:
            return np.asarray(_SMOOTH[self.name].value(u))
        if self.steepness is not None:
            return np.asarray(u * (self.slope + (1 - self.slope) * expit(self.steepness * u)))
        return np.where(u > 0, u, u * self.slope)

    def clip(self, x: Array, margin: float = 0.0) -> Array:
        """Clip x to the range of the activation; where it never reaches an end, ``margin`` inside.

        A ReLU never outputs a negative number, so a negative noisy observation becomes 0. A sigmoid reaches neither
        0 nor 1, so its outputs are kept ``margin`` away from both.
        """
        low, high = self.range
        return np.clip(x, low + margin, high - margin) if self.smooth else np.maximum(x, low)

    def inverse(self, x: Array) -> Array:
        """The u with phi(u) = x where it is unique. For a ReLU output of 0, the upper end of its preimage, which is 0.

        Source: equation (5) of the paper.
        """
        if self.name in _SMOOTH:
            return np.asarray(_SMOOTH[self.name].inverse(x))
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
