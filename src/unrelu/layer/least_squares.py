"""``least_squares``: the least-squares analogue of Algorithm 2 on one layer."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layer.convex import Answer
from unrelu.layer.growth import check_growth, grow
from unrelu.layer.highs import LpStatus
from unrelu.layer.rows import LayerSystem, Rows
from unrelu.layer.solution import LayerSolution
from unrelu.layer.squares import one_sided_least_squares
from unrelu.layer.units import at_any_scale

__all__ = ["LeastSquares"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LeastSquares:
    r"""Algorithm 2 with squared errors, a convex problem solved by a projected semismooth Newton method.

    .. math:: \min_h \sum_{x_j > \varepsilon} (w_j h - x_j)^2 + \sum_{x_j \le \varepsilon} \max(w_j h - x_j, 0)^2

    It needs no linear program.

    Args:
        alpha: growth factor of the threshold, above 1.

    Raises:
        OptionError: alpha is not a finite number above 1.
    """

    alpha: float = 1.2
    norm = "l2"
    largest = math.inf

    def __post_init__(self) -> None:
        check_growth(self.alpha)

    @at_any_scale(power=2)
    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        """See :class:`LayerMethod`."""
        return grow(_solve, "l2", self.alpha, system, target, threshold, time_limit)


def _solve(system: LayerSystem, rows: Rows, time_limit: float, near: Answer | None) -> Answer:
    h, objective, steps = one_sided_least_squares(system, rows, time.perf_counter() + time_limit)
    return Answer(h, objective, objective, LpStatus.OPTIMAL, steps)
