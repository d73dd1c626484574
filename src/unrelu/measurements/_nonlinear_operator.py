"""Nonlinear measurements: differentiable functions of the generator's output, and outputs cut off as in a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.errors import InputError, ModelError
from unrelu.measurements.linear_operators import Arrays, Operator, hiding
from unrelu.models.affine import Shape
from unrelu.models.generator import Generator
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_opaque import longest, tried
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream


@dataclass(frozen=True, eq=False)
class NonlinearOperator(Operator):
    r"""y = h(x) for a differentiable h: R^n -> R^m with the Jacobian H(x).

    By the chain rule, the Jacobian of h(G(z)) is H(G(z)) J. Its k columns are computed together, by forward-mode
    differentiation (``torch.func.jvp`` under ``vmap``). G is not changed, so its layers can be smoothed and evaluated
    as for any other measurement.

    Attributes:
        function: h.
        shape: shape of one observation.
    """

    function: OpaqueNetwork = field(repr=False)
    shape: Shape
    linear = False

    @classmethod
    def read(
        cls, given: Callable[[Tensor], Tensor], output: Shape, network: Generator | None = None
    ) -> NonlinearOperator:
        """Read a function of PyTorch or a module, (B, *output) -> (B, *m), if it passes a trial.

        The trial applies it to two outputs of the generator in float64: the longest of the typical outputs, or without
        a generator random numbers in [0, 1]. It must return finite numbers, one measurement for each output,
        independently of the other output and the same each time. Its derivatives must agree with finite differences.

        Raises:
            InputError: it fails the trial.
        """
        if network is None:
            x = torch.from_numpy(stream("trial outputs").uniform(size=(2, math.prod(output))))
        else:
            x = longest(network.typical_outputs)
        try:
            # Directions of the trial are 0 at outputs that are exactly 0, as of ReLUs: there may be a kink there.
            reason = "the measurement is a function, which is not taken to be linear"
            function = tried(given, x.reshape(2, *output), reason, x.abs(), "measurement")
        except ModelError as error:
            raise InputError(
                f"operator= is a function that cannot be used as a measurement: {error}. Pass a differentiable "
                f"function of PyTorch, (B, {', '.join(map(str, output))}) -> (B, ...); of a linear map, a matrix, or a "
                "pair of functions (x -> A x, r -> A^T r)"
            ) from error
        return cls(function, function.output_shape or (1,))

    @cached_property
    def n(self) -> int:
        return self.function.latent_dim

    @property
    def width(self) -> int:
        return self.function.width

    def forward(self, x: Tensor) -> Tensor:
        return self.function.forward(x.to(self.function.dtype)).to(x.dtype)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """h(x), (B, m), and H(x) t for directions t of each output, (B, k, n) -> (B, k, m)."""
        values, pushed = self.function.along(x.to(self.function.dtype), t.to(self.function.dtype))
        return values.to(x.dtype), pushed.to(x.dtype)

    def to(self, dtype: torch.dtype, device: torch.device) -> NonlinearOperator:
        return replace(self, function=self.function.to(dtype, device))

    def followed_by(self, matrix: Array) -> NonlinearOperator:
        """W h(x) for a matrix W, (m', m)."""
        rows = nn.Linear(self.m, len(matrix), bias=False, dtype=torch.float64).requires_grad_(False)
        rows.weight.copy_(torch.from_numpy(matrix))
        module, shape = nn.Sequential(self.function.module, nn.Flatten(), rows).eval(), (len(matrix),)
        return replace(self, function=replace(self.function, module=module, output_shape=shape), shape=shape)


@dataclass(frozen=True, eq=False)
class ClippedOperator(Operator):
    r"""y = min(max(x, low), high): outputs as a picture shows them, between black and white.

    Attributes:
        shape: the network's output shape.
        low, high: the values of black and white.
    """

    shape: Shape
    low: float
    high: float
    linear = False
    output_shaped = True
    kind = "clipped"
    refused: ClassVar[str] = (
        "y is a picture of integers, and black and white cut off outputs of the generator (pass noise= to compare them "
        "as they are)"
    )

    @classmethod
    def of(cls, inner: Operator, network: Generator, ends: tuple[float, float], room: float) -> Operator:
        """What a picture with these values of black and white shows of the outputs that ``inner`` observes.

        It is ``inner`` itself if it is a matrix, or if typical outputs exceed the ends by no more than ``room``.
        """
        (low, high), outputs = ends, network.typical_outputs
        if not inner.output_shaped or max(low - outputs.min(), outputs.max() - high) <= room:
            return inner
        seen, whole = inner.seen(max(1, inner.count)), cls(network.output_shape, low, high)
        return whole if seen.all() else hiding(whole, seen if inner.count else seen[0])

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def linearize(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        slopes = ((x > self.low) & (x < self.high)).to(t.dtype)
        return self.forward(x), t * slopes[:, None, :]

    def saved(self) -> Arrays:
        """See :meth:`Operator.saved`; with a mask that hides nothing."""
        return {"kept": np.ones(self.n, dtype=bool), "ends": np.array([self.low, self.high])}
