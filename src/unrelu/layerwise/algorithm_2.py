"""Algorithm 2 of the paper on one layer, ``l1``, and its relatives ``relaxed`` and ``least_squares``.

They solve different convex problems at a threshold, which grows in the same way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unrelu.layerwise._layer_method import (
    LayerSolution,
    check_growth,
    first_threshold,
    output_error,
    scan_thresholds,
    status_of,
)  # fmt: skip
from unrelu.layerwise.layer_constraints import LayerSystem, Rows, checked_target, rows
from unrelu.layerwise.layer_program import Answer, largest_response, least_violation
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.layerwise.optimality import ZERO
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements.noise import Noise
from unrelu.measurements.objectives import norms
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import now

# An infeasible program (relaxation with biases) is retried with a larger threshold at most this many times.
_GROWTHS = 400


@dataclass(frozen=True)
class _GrowingThreshold(ABC):
    """A method that solves at eps, alpha eps, alpha^2 eps, ... until |phi(W h + b) - x| stops falling.

    The stop test uses the residual of the layer's own target, which a user has. If a program has no feasible point, the
    next threshold is tried. Each program starts from the point of the one before. If its rows have not changed, the
    search ends.

    If ``|e_j| <= A`` is stated, eps = A gives the only program. The true input then has residuals of at most A. A
    residual larger than that of A in every entry refutes the statement, and a scan from A upwards follows. If A is only
    a size that nearly all errors are below, it is the first threshold, and is refuted in the same way.

    Source: Algorithm 2 of the paper.
    """

    alpha: float = 1.2
    # The norm of the residual.
    norm: ClassVar[str]
    largest: ClassVar[float] = math.inf
    # Whether the problem depends on eps only through the sides of the rows. Then a given threshold (the noise level, or
    # that of the layer above) is only the smallest one of a scan.
    by_sides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_growth(self.alpha)

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        """See :class:`LayerMethod`."""
        end, target = now() + time_limit, checked_target(system, target)
        eps = self.start(system, target, threshold, noise, end)
        stated = noise is not None and noise.ceiling > 0
        bounded = noise is not None and noise.bound <= eps
        # A fall by rounding does not count.
        scale = float(np.abs(target).max())
        best: tuple[float, Answer, float] | None = None
        pivots, solves, limited = 0, 0, False
        before, warm_start = None, None
        for _ in range(_GROWTHS):
            constraints = rows(system, target, eps)
            if best and before and self.by_sides and constraints.same_sides(before):
                break
            answer = self.solve(system, constraints, end - now(), warm_start)
            before, warm_start = constraints, answer
            pivots, solves = pivots + answer.pivots, solves + 1
            if answer.status is LpStatus.INFEASIBLE:
                # The objective is then the smallest feasible threshold, if it is known.
                if answer.objective > eps:
                    eps *= self.alpha ** math.floor(math.log(answer.objective / eps) / math.log(self.alpha))
            else:
                error = output_error(system, target, answer.h, self.norm)
                if best and error >= best[0] - ZERO * (best[0] + scale):
                    break
                best = (error, answer, eps)
            if limited := now() >= end:
                break
            if stated and best:
                if best[0] > float(norms(np.full((1, system.n_out), eps), self.norm)[0]):
                    eps = self.start(system, target, eps, None, end)
                elif bounded:
                    break
                stated = False
            if not best or eps <= best[2]:
                eps *= self.alpha
        _, answer, eps = best or (math.inf, answer, eps)
        return LayerSolution(answer.h, answer.objective, status_of(answer.status, limited), pivots, eps, solves)

    def start(
        self, system: LayerSystem, target: Array, threshold: float | None, noise: Noise | None, end: float
    ) -> float:
        """Choose the first eps: the size that nearly all stated errors are below, or the result of a scan.

        Arguments are as for :meth:`__call__`; ``end`` is the end of the time allowed.
        """
        first = first_threshold(system, target, threshold)
        if threshold and not self.by_sides:
            return first
        if noise is not None and noise.ceiling > 0:
            return first_threshold(system, target, noise.ceiling)
        return scan_thresholds(system, target, first, self.norm, end)[0]

    @abstractmethod
    def solve(self, system: LayerSystem, constraints: Rows, time_limit: float, warm_start: Answer | None) -> Answer:
        """Solve the problem at the threshold of the constraints; ``warm_start`` is the answer at the last threshold."""


@dataclass(frozen=True)
class L1(_GrowingThreshold):
    r"""Algorithm 2: the smallest sum of errors; the threshold grows until the layer's own residual stops falling.

    .. math:: \min_{h, e \ge 0} \sum_j e_j \quad x_j - e_j \le w_j h \le x_j + e_j \;(x_j > \varepsilon), \quad
        w_j h \le x_j + e_j \;(x_j \le \varepsilon)

    For stated noise ``|e_j| <= A``, the first eps is A, and there is one program. For Gaussian noise, it is two
    standard deviations, so that 2% of the inactive neurons are classified as active. For a hidden layer, whose errors
    are only roughly known, and if no noise is stated, it is the result of a scan.

    Args:
        alpha: growth factor, as for :class:`~unrelu.layerwise.LInf`.

    Source: Algorithm 2 of the paper.
    """

    norm = "l1"

    def solve(self, system: LayerSystem, constraints: Rows, time_limit: float, warm_start: Answer | None) -> Answer:
        """Minimise the sum of errors."""
        return least_violation(system, constraints, "l1", time_limit, warm_start)


@dataclass(frozen=True)
class Relaxed(_GrowingThreshold):
    r"""The relaxation (8), which classifies no neurons as active or inactive:

    .. math:: \max_h \sum_j \max(0, x_j) w_j h \quad w_j h \le x_j + \varepsilon \;\text{for all } j

    With eps = 0 and a realizable x, its solutions are the preimage. The threshold only has to be feasible, and a larger
    one loses information. It starts at the stated noise level or the threshold of the layer above, and grows as in
    Algorithm 2, by the residual of the layer's own target. (The released code of the paper stops on errors of the true
    hidden layers, which a user does not have.)

    Args:
        alpha: growth factor, as for :class:`~unrelu.layerwise.LInf`.

    Source: relaxation (8) of the paper.
    """

    norm = "l1"
    by_sides = False

    def solve(self, system: LayerSystem, constraints: Rows, time_limit: float, warm_start: Answer | None) -> Answer:
        """Maximise the response within the sides."""
        return largest_response(system, constraints, time_limit, warm_start)


@dataclass(frozen=True)
class LeastSquares(_GrowingThreshold):
    r"""Algorithm 2 with squared errors, a convex problem solved by a projected semismooth Newton method.

    .. math:: \min_h \sum_{x_j > \varepsilon} (w_j h - x_j)^2 + \sum_{x_j \le \varepsilon} \max(w_j h - x_j, 0)^2

    It needs no linear program. If the gradient at the end does not prove a minimum, which happens for rows of very
    different sizes, the status is SOLVER_FAILED.

    Args:
        alpha: growth factor, as for :class:`~unrelu.layerwise.LInf`.

    Source: ours, after Algorithm 2 of the paper.
    """

    norm = "l2"

    def solve(self, system: LayerSystem, constraints: Rows, time_limit: float, warm_start: Answer | None) -> Answer:
        """Minimise the sum of squared errors."""
        h, objective, steps, proved = one_sided_least_squares(system, constraints, now() + time_limit)
        status = LpStatus.OPTIMAL if proved else LpStatus.FAILED
        return Answer(h, objective, objective, status, steps)
