"""Algorithm 1 as it is published: a linear program at every threshold, from the first one upwards."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layerwise import LayerSolution, LayerSystem, rows
from unrelu.layerwise.layer_method import first_threshold
from unrelu.layerwise.layer_program import least_violation
from unrelu.lp.lp_status import LpStatus
from unrelu.result import Status

Array = npt.NDArray[np.float64]

# Room for rounding in the test delta <= eps, that of LInf.
_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class PublishedLoop:
    """``linf`` without its search: the smallest delta at eps_0, alpha eps_0, alpha^2 eps_0, ... until delta <= eps.

    It ends at the threshold and the delta of :class:`~unrelu.layerwise.LInf`, or where a program is not solved. No
    program knows of the one before it.

    Args:
        alpha: growth factor, above 1; the paper's experiments use 1.2.

    Source: Algorithm 1 of the paper.
    """

    alpha: float = 1.2
    norm = "linf"
    largest = math.inf

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        """See :class:`~unrelu.layerwise.LayerMethod`."""
        end = time.perf_counter() + time_limit
        start, pivots = first_threshold(system, target, threshold), 0
        for step in itertools.count():
            eps = start * self.alpha**step
            answer = least_violation(system, rows(system, target, eps), "linf", end - time.perf_counter())
            pivots += answer.pivots
            limited = answer.status is LpStatus.LIMIT or time.perf_counter() >= end
            if limited or answer.status is not LpStatus.OPTIMAL or answer.objective <= eps * _SLACK:
                break
        status = Status.CONVERGED if answer.status is LpStatus.OPTIMAL else Status.SOLVER_FAILED
        status = Status.TIME_LIMIT if limited else status
        return LayerSolution(answer.h, answer.objective, status, pivots, eps, step + 1)
