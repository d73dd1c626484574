"""Activation functions: value, derivative, inverse, and the preimage of an interval.

Layer-wise inversion needs the preimage of an interval: half-infinite where the activation is flat or saturates.

To add an activation, add an entry with a new number to :data:`_BASES`, and a branch for this number to the function
``_base_function`` of :mod:`unrelu.local_search._compiled_activations`. To read the activation from models, add its
operator to :mod:`unrelu.loaders._torch_operations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import logit
from torch import Tensor

from unrelu.errors import ModelError
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.words import shown

# The numbers of base functions in compiled code.
PIECEWISE_LINEAR, SIGMOID, TANH, EXP, SWISH, GELU, GELU_TANH, MISH = range(8)
HARDSIGMOID, HARDSWISH, HARDTANH, SOFTPLUS, ELU, SELU, SIN = range(8, 15)
# SELU is SELU_SCALE u above zero and SELU_SCALE SELU_ALPHA (e^u - 1) below (Klambauer et al. 2017).
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
# The tanh form of GELU is u times the sigmoid of GELU_LINEAR (u + GELU_CUBIC u^3) (Hendrycks and Gimpel 2016).
GELU_LINEAR, GELU_CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715
# From this u on, a softplus equals u exactly in double precision.
_SOFTPLUS_END = 40.0


@dataclass(frozen=True)
class _Base:
    """A base function b, with its derivative, inverse and range."""

    kind: int  # its number in compiled code
    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]  # b'(t), given t and b(t)
    inverse: Callable[[Array], Array] | None = None  # from b(t) to t, if b is monotone; at a flat end, the nearest t
    range: tuple[float, float] = (-np.inf, np.inf)
    flat: bool = False  # whether b is constant beyond some t, so b attains the ends of its range


def _swish_derivative(t: Tensor, b: Tensor) -> Tensor:
    s = torch.sigmoid(t)
    return s + b * (1 - s)


def _gelu_derivative(t: Tensor, b: Tensor) -> Tensor:
    density = torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(t * math.sqrt(0.5))) + t * density


def _gelu_tanh_derivative(t: Tensor, b: Tensor) -> Tensor:
    s = torch.sigmoid(GELU_LINEAR * t * (1 + GELU_CUBIC * t.square()))
    return s + b * (1 - s) * GELU_LINEAR * (1 + 3 * GELU_CUBIC * t.square())


def _mish_derivative(t: Tensor, b: Tensor) -> Tensor:
    w = torch.tanh(F.softplus(t, threshold=_SOFTPLUS_END))
    return w + t * (1 - w.square()) * torch.sigmoid(t)


def _log1p_below(x: Array) -> Array:
    """Invert an ELU."""
    return np.where(x > 0, x, np.log1p(np.minimum(x, 0.0)))


_BASES = {
    "sigmoid": _Base(SIGMOID, torch.sigmoid, lambda t, b: b * (1 - b), logit, (0.0, 1.0)),
    "tanh": _Base(TANH, torch.tanh, lambda t, b: 1 - b * b, np.arctanh, (-1.0, 1.0)),
    "exp": _Base(EXP, torch.exp, lambda t, b: b, np.log, (0.0, np.inf)),
    "swish": _Base(SWISH, F.silu, _swish_derivative),
    "gelu": _Base(GELU, F.gelu, _gelu_derivative),
    "gelu_tanh": _Base(GELU_TANH, lambda t: F.gelu(t, approximate="tanh"), _gelu_tanh_derivative),
    "mish": _Base(MISH, F.mish, _mish_derivative),
    "hardsigmoid": _Base(
        HARDSIGMOID, F.hardsigmoid, lambda t, b: (t.abs() < 3).to(t.dtype) / 6, lambda x: 6 * x - 3, (0.0, 1.0),
        flat=True,
    ),
    "hardswish": _Base(
        HARDSWISH, F.hardswish, lambda t, b: torch.where(t.abs() < 3, t / 3 + 0.5, (t > 0).to(t.dtype))
    ),
    "hardtanh": _Base(
        HARDTANH, F.hardtanh, lambda t, b: (t.abs() < 1).to(t.dtype), np.positive, (-1.0, 1.0), flat=True
    ),
    "softplus": _Base(
        SOFTPLUS, lambda t: F.softplus(t, threshold=_SOFTPLUS_END), lambda t, b: -torch.expm1(-b),
        lambda x: x + np.log(-np.expm1(-x)), (0.0, np.inf),
    ),
    "elu": _Base(ELU, F.elu, lambda t, b: torch.where(t > 0, 1.0, b + 1), _log1p_below, (-1.0, np.inf)),
    "selu": _Base(
        SELU, F.selu, lambda t, b: torch.where(t > 0, SELU_SCALE, b + SELU_SCALE * SELU_ALPHA),
        lambda x: np.where(x > 0, x / SELU_SCALE, _log1p_below(np.minimum(x, 0.0) / (SELU_SCALE * SELU_ALPHA))),
        (-SELU_SCALE * SELU_ALPHA, np.inf),
    ),
    "sin": _Base(SIN, torch.sin, lambda t, b: torch.cos(t), None, (-1.0, 1.0)),
}  # fmt: skip
# Default slope c of the piecewise linear activations. The others have the default slope 0.
_SLOPES = {"relu": 0.0, "leaky_relu": 0.1, "identity": 1.0, "prelu": np.nan}
_NAMES = (*_SLOPES, *_BASES)
_ALIASES = {"silu": "swish", "sine": "sin"}
# Replaces a steepness of 0. If b(0) = 0, then b(a u) / a equals b'(0) u exactly in floating point at this steepness.
_FLATTEST = 2.0**-60


@dataclass(frozen=True, eq=False)
class Activation:
    r"""One activation function, applied coordinate by coordinate.

    .. math:: \phi(u) = c u + (1 - c) \, b(a u) / a

    with a base function b, the slope c and the steepness a. Slope and steepness are single numbers, or arrays with one
    number for each coordinate. Where c = 1, a value passes through unchanged.

    Piecewise linear activations have b(t) = max(t, 0), so the steepness has no effect: c = 0 is ReLU, a number in
    (0, 1) LeakyReLU, one number per coordinate PReLU, and 1 the identity. The others are PyTorch's functions of the
    same name, with c = 0 and a = 1 by default. Emulators learn c and a of a ``swish`` (speculator, CosmoPower). In
    PyTorch, a is the ``beta`` of a Softplus. A CELU is an ``elu`` with a = 1 / ``alpha``.

    With a ``width`` w > 0, a parabola between -w and w smooths the kink of a piecewise linear activation. A search then
    does not get stuck at the kink. Outside this interval nothing changes: an inactive ReLU stays inactive.

    .. math:: \phi_w(u) = c u + (1 - c) \frac{(u + w)^2}{4 w}, \qquad |u| \le w

    Args:
        name: ``relu``, ``leaky_relu``, ``prelu``, ``identity``, ``sigmoid``, ``tanh``, ``exp``, ``swish`` (or
            ``silu``), ``gelu``, ``gelu_tanh`` (``approximate="tanh"``), ``mish``, ``hardsigmoid``, ``hardswish``,
            ``hardtanh``, ``softplus``, ``elu``, ``selu`` or ``sin``.
        slope: c: a scalar for ``leaky_relu``, a scalar or an array of shape (n,) for ``prelu`` and for activations that
            are not piecewise linear. ``relu`` and ``identity`` take none.
        width: w, for piecewise linear activations. The layer methods and the inverse below assume w = 0.
        steepness: a, for activations that are not piecewise linear: a scalar or an array of shape (n,); None means 1.
            It may be 0 if b(0) = 0.

    Raises:
        ModelError: the name is unknown, or the activation does not take this slope or steepness.

    Source: equation (3) of the paper and the line below it (LeakyReLU, c typically 0.1). Learned c and a: equation (8)
    of Alsing et al., "SPECULATOR" (2020).
    """

    name: str
    slope: Array
    width: float
    steepness: Array

    def __init__(
        self, name: str, slope: npt.ArrayLike | None = None, width: float = 0.0,
        steepness: npt.ArrayLike | None = None,
    ) -> None:  # fmt: skip
        name = _ALIASES.get(name, name)
        if name not in _NAMES:
            raise ModelError(f"unknown activation {name!r}; use one of {', '.join((*_NAMES, *_ALIASES))}")
        base, default = _BASES.get(name), _SLOPES.get(name, 0.0)
        given = f"activation {name!r} with slope={shown(slope)}, steepness={shown(steepness)}"
        try:
            c = np.array(default if slope is None else slope, dtype=np.float64)
            a = np.array(1.0 if steepness is None else steepness, dtype=np.float64)
        except (TypeError, ValueError):
            raise ModelError(f"{given}: these are not numbers") from None
        if not (c.size and np.isfinite(c).all() and a.size and np.isfinite(a).all()):
            raise ModelError(f"{given}: pass finite numbers")
        if base is None and not (a.ndim == 0 and a == 1):
            raise ModelError(f"{given} takes no steepness; it is the same for any")
        if name != "prelu" and base is None and not (c.ndim == 0 and (0 < c < 1 if default == 0.1 else c == default)):
            raise ModelError(f"{given}: 'relu' has the slope 0, 'identity' 1, 'leaky_relu' one in (0, 1), 'prelu' any")
        if base is not None and (a == 0).any():
            if base.value(torch.zeros(())) != 0:
                raise ModelError(f"{given}: pass a steepness other than 0")
            a = np.where(a == 0, _FLATTEST, a)
        for array in (c, a):
            array.setflags(write=False)
        for field, value in (("name", name), ("slope", c), ("width", width), ("steepness", a)):
            object.__setattr__(self, field, value)

    @classmethod
    def parse(cls, text: str) -> Activation:
        """Read a name, or ``"leaky_relu:0.1"`` with its slope.

        Raises:
            ModelError: the text is neither.
        """
        name, _, slope = text.partition(":")
        return cls(name, slope or None)  # the constructor refuses a slope that is not a number

    @classmethod
    def of_slope(cls, slope: npt.ArrayLike) -> Activation:
        """Return the activation max(u, 0) + c min(u, 0) for a slope c: a number, or an array that broadcasts to u."""
        c = np.asarray(slope, dtype=np.float64)
        one = c.item() if c.size == 1 else c
        if c.size == 1 and one in (0, 1):
            return cls("identity" if one else "relu")
        return cls("leaky_relu" if c.size == 1 and 0 < one < 1 else "prelu", one)

    @classmethod
    def joined(cls, activations: Sequence[Activation], sizes: Sequence[int]) -> Activation:
        """Concatenate activations: the i-th one applies to the next ``sizes[i]`` outputs.

        All have the base function of the first one, or are the identity, which can be written with any base function.
        """
        pairs = list(zip(activations, sizes, strict=True))
        slopes = np.concatenate([np.broadcast_to(each.slope, n) for each, n in pairs])
        return activations[0].of_parameters(
            slopes, np.concatenate([np.broadcast_to(each.steepness, n) for each, n in pairs])
        )

    def of_parameters(self, slopes: Array, steepnesses: Array) -> Activation:
        """Return the activation with the same base function and these slopes and steepnesses, (n,)."""
        c, a = (values[0] if (values == values[0]).all() else values for values in (slopes, steepnesses))
        if self._base is None:
            return Activation.of_slope(c)
        return Activation(self.name, c, steepness=a)

    def __str__(self) -> str:
        if self.name == "leaky_relu":
            return f"leaky_relu:{self.slope.item():g}"
        return self.name

    @property
    def _base(self) -> _Base | None:
        """The base function; None for piecewise linear activations."""
        return _BASES.get(self.name)

    @property
    def kind(self) -> int:
        """The number of the base function in compiled code."""
        return PIECEWISE_LINEAR if self._base is None else self._base.kind

    @cached_property
    def _plain(self) -> bool:
        """Whether phi is b itself: c = 0 and a = 1."""
        return bool((self.slope == 0).all() and (self.steepness == 1).all())

    @cached_property
    def smooth(self) -> bool:
        """Whether the base function is not ReLU: some output is curved, or has kinks elsewhere than at 0 (hardtanh)."""
        return self._base is not None and not self.linear

    @property
    def scalable(self) -> bool:
        """Whether :meth:`scaled` can give outputs any size. For exp, a bias does this without overflow instead."""
        return not self.bounded and not (self.name == "exp" and self._plain)

    @property
    def bounded(self) -> bool:
        """Whether all outputs have a finite range, as for sigmoid, tanh and sin."""
        return all(np.isfinite(end).all() for end in self.range)

    @cached_property
    def linear(self) -> bool:
        """Whether the activation is the identity."""
        return bool((self.slope == 1).all())

    @property
    def convex(self) -> bool:
        """Whether the activation is max(u, c u) with 0 <= c <= 1."""
        return not self.smooth and bool(((self.slope >= 0) & (self.slope <= 1)).all())

    @property
    def invertible(self) -> bool:
        """Whether every value has exactly one pre-activation (equation (5) of the paper for LeakyReLU)."""
        if self._base is None or self.linear:
            return bool((self.slope > 0).all())
        return self.monotone and not self._base.flat

    @property
    def monotone(self) -> bool:
        """Whether :meth:`preimage` works: it does not for swish, slopes below 0, or a sigmoid plus a linear term."""
        if self._base is None or self.linear:
            return bool((self.slope >= 0).all())
        return self._base.inverse is not None and bool(((self.slope == 0) | (self.slope == 1)).all())

    @property
    def range(self) -> tuple[Array, Array]:
        """The lower and upper limits of the outputs, each broadcastable to (n,); infinite if unlimited."""
        if self._base is None:
            return np.where(self.slope > 0, -np.inf, 0.0), np.array(np.inf)
        ends = [end / self.steepness for end in self._base.range]
        low, high = np.minimum(*ends), np.maximum(*ends)
        return np.where(self.slope == 0, low, -np.inf), np.where(self.slope == 0, high, np.inf)

    def slopes(self, n: int) -> Array:
        """Return the slope below zero for each of n outputs, (n,); NaN for curved outputs."""
        curved = self._base is not None
        return np.array(np.broadcast_to(np.where(curved & (self.slope != 1), np.nan, self.slope), (n,)))

    def kinks(self, n: int) -> Flags:
        """Find which of n outputs have a kink at 0, (n,)."""
        return np.asarray((self.slopes(n) != 1) & (not self.smooth))

    def of(self, index: Index | Flags | slice) -> Activation:
        """Restrict the activation to the outputs in ``index``."""
        return self._with(lambda values: values[index] if values.ndim else values)

    def on(self, shape: tuple[int, ...]) -> Activation:
        """Broadcast the slopes and steepnesses to an output shape, and flatten them.

        Raises:
            ModelError: they do not broadcast.
        """
        try:
            return self._with(lambda values: np.broadcast_to(values, shape).reshape(-1) if values.ndim else values)
        except ValueError:
            held = f"slopes of shape {self.slope.shape} and steepnesses of shape {self.steepness.shape}"
            raise ModelError(f"{self.name} {held} do not fit an output of shape {shape}") from None

    def _with(self, change: Callable[[Array], Array]) -> Activation:
        """Apply ``change`` to slopes and steepnesses. If both are single numbers, return the activation unchanged."""
        if not (self.slope.ndim or self.steepness.ndim):
            return self
        return replace(self, slope=change(self.slope), steepness=change(self.steepness))

    def scaled(self, exponent: int) -> Activation:
        """Return phi' with phi'(s u) = s phi(u) for s = 2^exponent. The identity holds exactly."""
        a = self.steepness if self._base is None else np.ldexp(self.steepness, -exponent)
        return replace(self, width=math.ldexp(self.width, exponent), steepness=a)

    def smoothed(self, width: float) -> Activation:
        """Smooth the kink over [-width, width]. An activation without a kink is returned unchanged."""
        return self if self.smooth or self.linear else replace(self, width=width)

    # --- PyTorch side: values and derivatives -------------------------------------------------------------------

    def forward(self, u: Tensor) -> Tensor:
        """Compute phi(u) for pre-activations of shape (B, n)."""
        if self.linear:
            return u
        if self._base is not None:
            if self._plain:
                return self._base.value(u)
            c, a, share = self._mixed(u)
            return c * u + share * self._base.value(a * u)
        if not self.width:
            return torch.relu(u) if self.name == "relu" else torch.where(u > 0, u, u * self._like(self.slope, u))
        # The integral of a ramp that rises from 0 at -w to 1 at w. For u > w, the integral equals u.
        ramp = F.hardtanh(u, -self.width, self.width) + self.width
        positive = ramp.square() / (4 * self.width) + torch.relu(u - self.width)
        if self.name == "relu":
            return positive
        c = self._like(self.slope, u)
        return c * u + (1 - c) * positive

    def derivative(self, u: Tensor, x: Tensor) -> Tensor:
        """Compute phi'(u) from u and x = phi(u), both (B, n). At a kink, use the slope for negative arguments."""
        if self._base is not None and not self.linear:
            if self._plain:
                return self._base.derivative(u, x)
            c, a, _ = self._mixed(u)
            t = a * u
            return c + (1 - c) * self._base.derivative(t, self._base.value(t))
        c = self._like(self.slope, u)
        if self.width:
            return c + (1 - c) * ((u + self.width) / (2 * self.width)).clamp(0.0, 1.0)
        return torch.where(u > 0, torch.ones_like(c), c)

    def _mixed(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c, a and (1 - c) / a. Where a value passes through, a is replaced by 0, so b cannot overflow."""
        c, a = self._like(self.slope, u), self._like(self.steepness, u)
        return c, torch.where(c == 1, 0.0, a), (1 - c) / a

    def _like(self, values: Array, u: Tensor) -> Tensor:
        return torch.tensor(values, dtype=u.dtype, device=u.device)

    # --- NumPy side: for the layer solvers -------------------------------------------------------------------------

    def value(self, u: Array) -> Array:
        """Compute phi(u) for pre-activations of shape (..., n), with an unsmoothed kink."""
        if self._base is None or self.linear:
            return np.where(u > 0, u, u * self.slope)
        return self.forward(torch.tensor(u, dtype=torch.float64)).numpy()

    def clip(self, x: Array, margin: float = 0.0) -> Array:
        """Clip x to the range of the activation.

        A sigmoid never attains the ends of its range. There, x is kept ``margin`` inside, but at most a quarter of the
        range.
        """
        low, high = self.range
        if self._base is None:
            return np.maximum(x, low)
        inside = np.minimum(0.0 if self._base.flat else margin, (high - low) / 4)
        return np.clip(x, low + inside, high - inside)

    def inverse(self, x: Array) -> Array:
        """Return the u with phi(u) = x where u is unique, by equation (5) of the paper.

        At a flat end of the range, return the finite end of the preimage.
        """
        if self._base is None or self._base.inverse is None or self.linear:
            return np.where(x > 0, x, np.divide(x, self.slope, out=np.zeros_like(x), where=self.slope > 0))
        if self._plain:
            return np.asarray(self._base.inverse(x))
        passes = self.slope == 1
        inside = np.where(passes, self._base.value(torch.zeros(())).item(), self.steepness * x)
        return np.where(passes, x, self._base.inverse(inside) / self.steepness)

    def preimage(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return the interval of u with ``low <= phi(u) <= high``, which must meet the range. Ends may be infinite."""
        bottom, top = self.range
        free_below, free_above = low <= bottom, high >= top
        with np.errstate(invalid="ignore", divide="ignore"):  # an end beyond the range has no inverse
            return np.where(free_below, -np.inf, self.inverse(low)), np.where(free_above, np.inf, self.inverse(high))
