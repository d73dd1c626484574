"""What inverting one layer returns, and the interface of a layer method."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from unrelu.layer.rows import LayerSystem
from unrelu.result import Status

__all__ = ["LayerMethod", "LayerSolution", "first_threshold"]

Array = npt.NDArray[np.float64]

# The first guess of an unknown noise level, relative to max|x|.
_SMALLEST = 1e-9


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """The input h of one layer.

    Attributes:
        h: (k,), within the bounds of the layer's input.
        objective: the value of the method's own objective at the threshold it settled on.
        status: CONVERGED, EXACT_FIT or NOT_UNIQUE (``exact``), NOT_REALIZABLE, TIME_LIMIT or SOLVER_FAILED.
        pivots: simplex and Newton iterations.
        threshold: the eps that the method settled on; the next layer starts from it.
        solves: convex problems solved.
        freedom: dimension of the preimage, where the method computed it; else -1.
    """

    h: Array
    objective: float
    status: Status
    pivots: int
    threshold: float
    solves: int
    freedom: int = -1


class LayerMethod(Protocol):
    """Options on the object, data in the call."""

    @property
    def norm(self) -> str:
        """The norm of the layer's error that the method minimises."""

    @property
    def largest(self) -> float:
        """The most entries that a layer's matrix may have."""

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        """Invert one layer.

        Args:
            system: the layer, x = phi(W h + b).
            target: x, (n,).
            threshold: eps to start from: the noise level, or what the layer above settled on. None: unknown.
            time_limit: in seconds; beyond it the best h so far is returned with status TIME_LIMIT.

        The activation must be monotone; ``layer_systems`` checks it.

        Raises:
            InputError: a target of another shape, or with entries that are not finite.
            SolverError: HiGHS refuses the program.
        """


def first_threshold(system: LayerSystem, target: Array, threshold: float | None) -> float:
    """The threshold to start from: the given one, or 1e-9 of what the layer's outputs are made of; never 0.

    That is max|x|, the range of a sigmoid or tanh, or, for dark outputs, the biases that keep them dark (to the digits
    that W h + b has left beside them).
    """
    span = 1.0 if system.activation.smooth else 0.0
    bias = 1e-3 * float(np.abs(system.bias).max(initial=0.0))
    scale = max(float(np.abs(target).max()), span, bias, np.finfo(float).tiny / _SMALLEST)
    return max(_SMALLEST * scale, threshold or 0.0)
