"""Measure a generator's outputs as a picture of integers shows them: clipped between black and white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from unrelu.measurements.operators import Arrays, Operator, hiding
from unrelu.models.generator import Generator
from unrelu.runtime.array_types import Shape


@dataclass(frozen=True, eq=False)
class ClippedOperator(Operator):
    r"""The measurement y = min(max(x, low), high): a picture clips outputs at black and white.

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
        """Clip the outputs that ``inner`` observes at the values of black and white, ``ends``.

        Return ``inner`` itself if it is a matrix, or if typical outputs exceed the ends by at most ``room``.
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
        """Return the arrays for a file, with a mask that hides nothing, see :meth:`Operator.saved`."""
        return {"kept": np.ones(self.n, dtype=bool), "ends": np.array([self.low, self.high])}
