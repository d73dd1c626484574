"""Nonlinear measurements: differentiable functions of the generator's output, and outputs cut off as in a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.measurements.linear_operators import MaskOperator, Operator, WeightedOperator
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_opaque import Trial, longest
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.streams import stream

_TRIAL = Trial("measurement", "output", "measurement", "outputs of the generator")
_REASON = "the measurement is a function, which is not taken to be linear"


@dataclass(frozen=True, eq=False)
class NonlinearOperator(Operator):
    r"""y = h(x) for a differentiable h: R^n -> R^m with the Jacobian H(x).

    By the chain rule, the Jacobian of h(G(z)) is H(G(z)) J. Its k columns are computed together, by forward-mode
    differentiation (``torch.func.jvp`` under ``vmap``). G is not changed, so its layers can be smoothed and evaluated
    as for any other measurement.

    Attributes:
        function: h.
        shape: shape of one observation.
        before, after: exponents of the user's units: the measurement is 2^after h(2^before x).
    """

    function: OpaqueNetwork = field(repr=False)
    shape: Shape
    before: int = 0
    after: int = 0
    n: int = field(init=False)
    m: int = field(init=False)

    linear = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.function.latent_dim)
        object.__setattr__(self, "m", math.prod(self.shape))

    @property
    def width(self) -> int:
        """The most numbers that h holds in memory for one output."""
        return self.function.width

    def forward(self, x: Tensor) -> Tensor:
        """h(x), (B, n) -> (B, m), differentiable by PyTorch."""
        return self._after(self.function.forward(self._before(x)), x)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """h(x), (B, m), and H(x) t for directions t of each output, (B, k, n) -> (B, k, m)."""
        values, pushed = self.function.along(self._before(x), self._before(t))
        return self._after(values, x), self._after(pushed, x)

    def _before(self, x: Tensor) -> Tensor:
        x = x.to(self.function.dtype)
        return x * 2.0**self.before if self.before else x

    def _after(self, y: Tensor, like: Tensor) -> Tensor:
        return (y * 2.0**self.after if self.after else y).to(like.dtype)

    def tangents(self, t: Tensor) -> Tensor:
        """Not defined without an output; see :meth:`linearize`."""
        raise UnsupportedModelError(f"{_REASON}: what it makes of a direction depends on the output")

    def adjoint(self, r: Tensor) -> Tensor:
        """Not defined; methods that need it cannot be used."""
        raise UnsupportedModelError(
            f"{_REASON}, and this method needs its adjoint A^T; use method='auto', 'lm', 'adam' or 'gradient_descent'"
        )

    def to(self, dtype: torch.dtype, device: torch.device) -> NonlinearOperator:
        """The same measurement on tensors of another type or device."""
        # In the user's units, numbers may be out of the range of single precision.
        own = torch.float64 if self.before or self.after else dtype
        return replace(self, function=self.function.to(own, device))

    def followed_by(self, matrix: Array) -> NonlinearOperator:
        """W h(x) for a matrix W, (m', m)."""
        rows = nn.Linear(self.m, len(matrix), bias=False, dtype=torch.float64).requires_grad_(False)
        rows.weight.copy_(torch.from_numpy(matrix))
        module = nn.Sequential(self.function.module, nn.Flatten(), rows).eval()
        shape = (len(matrix),)
        return replace(self, function=replace(self.function, module=module, output_shape=shape), shape=shape)

    def in_units(self, before: int, after: int) -> NonlinearOperator:
        """2^after h(2^before x)."""
        return replace(self, before=self.before + before, after=self.after + after)


@dataclass(frozen=True, eq=False)
class ClippedOperator(Operator):
    r"""y = min(max(x, low), high): outputs as a picture shows them, between black and white; a mask may hide entries.

    Attributes:
        shape: the network's output shape.
        low, high: the values of black and white.
        kept: 0 or 1, (n,) for all observations or (B, n) for each; None if nothing is hidden.
        whole: the same measurement without the mask; None if there is no mask.
        exponent: of a power of two that multiplies the measurement, in other units than the user's.
    """

    shape: Shape
    low: float
    high: float
    kept: Tensor | None = None
    whole: ClippedOperator | None = None
    exponent: int = 0
    n: int = field(init=False)
    m: int = field(init=False)
    kind: ClassVar[str] = "clipped"
    stored: ClassVar[Mapping[str, type[np.generic]] | None] = {"kept": np.bool_, "ends": np.float64}
    refused: ClassVar[str] = (
        "y is a picture of integers, and black and white cut off outputs of the generator (pass noise= to compare them "
        "as they are)"
    )
    output_shaped: ClassVar[bool] = True
    selects: ClassVar[bool] = False
    linear = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", math.prod(self.shape))
        object.__setattr__(self, "m", self.n)

    @classmethod
    def of(cls, inner: Operator, network: Generator, ends: tuple[float, float], room: float) -> Operator:
        """What a picture with these values of black and white shows of the outputs that ``inner`` observes.

        It is ``inner`` itself if it is a matrix, or if typical outputs exceed the ends by no more than ``room``.
        """
        (low, high), outputs = ends, network.typical_outputs
        if not inner.output_shaped or max(low - outputs.min(), outputs.max() - high) <= room:
            return inner
        whole = cls(network.output_shape, low, high)
        return replace(whole, kept=inner.kept, whole=whole) if isinstance(inner, MaskOperator) else whole

    def forward(self, x: Tensor) -> Tensor:
        """The measurement, (B, n) -> (B, n), differentiable by PyTorch."""
        return self._kept(x.clamp(self.low, self.high) * 2.0**self.exponent)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The measurement, (B, n), and its derivatives along directions t, (B, k, n) -> (B, k, n)."""
        slopes = self._kept(((x > self.low) & (x < self.high)).to(t.dtype) * 2.0**self.exponent)
        return self.forward(x), t * slopes[:, None, :]

    def _kept(self, y: Tensor) -> Tensor:
        return y if self.kept is None else y * self.kept

    def tangents(self, t: Tensor) -> Tensor:
        """Not defined without an output; see :meth:`linearize`."""
        raise UnsupportedModelError(self.refused)

    def adjoint(self, r: Tensor) -> Tensor:
        """Not defined."""
        raise UnsupportedModelError(self.refused)

    @property
    def count(self) -> int:
        """See :attr:`Operator.count`."""
        return 0 if self.kept is None or self.kept.dim() == 1 else len(self.kept)

    def take(self, observations: Index | Tensor) -> ClippedOperator:
        """See :meth:`Operator.take`."""
        if self.kept is None or not self.count:
            return self
        return replace(self, kept=self.kept[torch.as_tensor(observations, device=self.kept.device)])

    def to(self, dtype: torch.dtype, device: torch.device) -> ClippedOperator:
        """See :meth:`Operator.to`."""
        return self if self.kept is None else replace(self, kept=self.kept.to(device=device, dtype=dtype))

    def seen(self, size: int) -> Flags:
        """See :meth:`Operator.seen`."""
        kept = self.weights(size)
        return super().seen(size) if kept is None else kept > 0

    @property
    def unweighted(self) -> Operator:
        """The measurement without the mask."""
        return self.whole or self

    def weights(self, size: int) -> Array | None:
        """The mask, (size, n); None without one."""
        return None if self.kept is None else np.broadcast_to(self.kept.cpu().double().numpy(), (size, self.n))

    def around(self, inner: Operator) -> Operator:
        """Another operator with the mask of this one."""
        return inner if self.kept is None else WeightedOperator(inner, self.kept)

    def in_units(self, before: int, after: int) -> ClippedOperator:
        """2^after clip(2^before x)."""
        low, high = (math.ldexp(end, -before) for end in (self.low, self.high))
        whole = self.whole and self.whole.in_units(before, after)
        return replace(self, low=low, high=high, whole=whole, exponent=self.exponent + before + after)

    def saved(self) -> dict[str, npt.NDArray[Any]]:
        """See :meth:`Operator.saved`; without a mask, one that hides nothing."""
        kept = np.ones(self.n, dtype=bool) if self.kept is None else self.kept.cpu().numpy() > 0
        return {"kept": kept, "ends": np.array([self.low, self.high])}

    @classmethod
    def restored(cls, shape: Shape, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """See :meth:`Operator.restored`."""
        low, high = map(float, arrays["ends"])
        whole = cls(shape, low, high)
        return replace(whole, kept=torch.from_numpy(arrays["kept"]).double(), whole=whole)


def read_function(given: Callable[[Tensor], Tensor], output: Shape, network: Generator | None) -> NonlinearOperator:
    """Read a measurement from a function of PyTorch or a module, (B, *output) -> (B, *m), if it passes a trial.

    The trial applies it to two outputs of the generator in float64. It must return finite numbers, one measurement for
    each output, independently of the other output and the same each time. Its derivatives must agree with finite
    differences.

    Raises:
        InputError: it fails the trial.
    """
    x = _outputs(output, network)
    try:
        # Directions of the trial are 0 at outputs that are exactly 0, as of ReLUs: a function may have a kink there.
        function = _TRIAL.network(given, x.reshape(2, *output), _REASON, x.abs())
        return NonlinearOperator(function, function.output_shape or (1,))
    except ModelError as error:
        raise InputError(
            f"operator= is a function that cannot be used as a measurement: {error}. Pass a differentiable function of "
            f"PyTorch, (B, {', '.join(map(str, output))}) -> (B, ...); of a linear map, a matrix, or a pair of "
            "functions (x -> A x, r -> A^T r)"
        ) from error


def _outputs(output: Shape, network: Generator | None) -> Tensor:
    """Two flat outputs, (2, n): the longest of the typical outputs, or without a generator random numbers in [0, 1]."""
    if network is None:
        return torch.from_numpy(stream("trial outputs").uniform(size=(2, math.prod(output))))
    return longest(network.typical_outputs)
