"""``relaxed``: the paper's relaxation (8) on one layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layer.convex import largest_response
from unrelu.layer.growth import check_growth, grow
from unrelu.layer.rows import LayerSystem
from unrelu.layer.solution import LayerSolution
from unrelu.layer.units import at_any_scale

__all__ = ["Relaxed"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Relaxed:
    r"""The relaxation (8), without a decision which neurons are on:

    .. math:: \max_h \sum_j \max(0, x_j) w_j h \quad w_j h \le x_j + \varepsilon \;\text{for all } j

    With eps = 0 and a realizable x its solutions are the preimage. The threshold grows as in Algorithm 2, judged by the
    residual of the layer's own target. (The released code of the paper stops on errors of the true hidden layers, which
    a user does not have.)

    Args:
        alpha: growth factor, above 1; the paper's experiments use 1.2.

    Raises:
        OptionError: alpha is not a finite number above 1.
    """

    alpha: float = 1.2
    norm = "l1"
    largest = math.inf

    def __post_init__(self) -> None:
        check_growth(self.alpha)

    @at_any_scale(power=2)
    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        """See :class:`LayerMethod`."""
        return grow(largest_response, "l1", self.alpha, system, target, threshold, time_limit)
