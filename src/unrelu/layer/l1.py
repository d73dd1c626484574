"""``l1``: Algorithm 2 of the paper on one layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layer.convex import least_violation
from unrelu.layer.growth import check_growth, grow
from unrelu.layer.rows import LayerSystem
from unrelu.layer.solution import LayerSolution
from unrelu.layer.units import at_any_scale

__all__ = ["L1"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class L1:
    r"""Algorithm 2: the smallest sum of errors, with a threshold that grows until the layer's own residual stops
    falling.

    .. math:: \min_{h, e \ge 0} \sum_j e_j \quad x_j - e_j \le w_j h \le x_j + e_j \;(x_j > \varepsilon), \quad
        w_j h \le x_j + e_j \;(x_j \le \varepsilon)

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

    @at_any_scale(power=1)
    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        """See :class:`LayerMethod`."""
        return grow(
            lambda system, rows, limit, near: least_violation(system, rows, "l1", limit, near),
            "l1", self.alpha, system, target, threshold, time_limit,
        )  # fmt: skip
