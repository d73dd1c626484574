"""``linf``: Algorithm 1 of the paper on one layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from unrelu.layerwise._layer_method import (
    LayerSolution,
    check_growth,
    first_threshold,
    output_error,
    scan_thresholds,
    status_of,
)  # fmt: skip
from unrelu.layerwise.layer_constraints import LayerSystem, checked_target, rows
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements.noise import Noise
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import now

# The factor for rounding in the test delta <= eps.
_SLACK = 1 + 1e-9
# The last answer is the start of the program at eps if its errors are at most this many times eps.
_ALIKE = 2.0


@dataclass(frozen=True)
class LInf:
    r"""Algorithm 1: the smallest delta <= eps with which every row of :func:`~unrelu.layerwise.layer_constraints.rows`
    holds.

    .. math:: \min_{h, \delta} \delta \quad x_j - \delta \le w_j h \le x_j + \delta \;(x_j > \varepsilon), \quad
        w_j h \le x_j + \delta \;(x_j \le \varepsilon), \quad \delta \le \varepsilon

    and eps <- alpha eps until this is feasible. It is feasible exactly if ``|phi(W h + b) - x|_inf <= eps`` has a
    solution, so once feasible it stays feasible as eps grows. The first feasible eps of the sequence eps_0 alpha^t is
    therefore found by bracketing, with a few linear programs instead of one for every t. The result does not depend on
    where the bracket begins. If ``|e_j| <= A`` is stated, eps_0 = A is feasible, and there is one program. If the noise
    is not known, the bracket begins at the point of :func:`~unrelu.layerwise._layer_method.scan_thresholds`.

    Args:
        alpha: growth factor, above 1; the paper's experiments use 1.2.

    Raises:
        OptionError: alpha is not a finite number above 1.
    """

    alpha: float = 1.2
    norm = "linf"
    largest = math.inf

    def __post_init__(self) -> None:
        check_growth(self.alpha)

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        """See :class:`LayerMethod`."""
        end, target = now() + time_limit, checked_target(system, target)
        first = first_threshold(system, target, threshold)
        search, point = _Search(system, target, first, self.alpha, end, system.inside(np.zeros(system.n_in))), None
        # A stated bound is feasible at once, and the threshold of the layer above is close.
        if threshold is None or (noise is not None and not noise.bound <= first):
            _, point = scan_thresholds(system, target, first, self.norm, end)
        answer, step = search.first_feasible(point)
        status = status_of(answer.status, now() >= end)
        pivots = sum(every.pivots for every in search.minima.values())
        return LayerSolution(answer.h, answer.objective, status, pivots, search.epsilon(step), len(search.minima))


@dataclass
class _Search:
    """A search for the first step t with a feasible program at eps_0 alpha^t.

    Attributes:
        low, high: the largest step proved infeasible, and the smallest proved feasible.
        point: the h that proves ``high`` feasible, or the last one.
        minima: the answers, by step.
        failed: whether a program was not solved.
    """

    system: LayerSystem
    target: Array
    start: float
    alpha: float
    end: float
    point: Array
    low: int = -1
    high: int = -1
    failed: bool = False
    minima: dict[int, Answer] = field(default_factory=dict)

    def epsilon(self, step: int) -> float:
        return self.start * self.alpha**step

    def step_at_least(self, epsilon: float) -> int:
        """Return the first step whose eps is at least ``epsilon``."""
        return max(0, math.ceil(math.log(epsilon / self.start) / math.log(self.alpha) - 1e-9)) if epsilon > 0 else 0

    def feasible_at(self, h: Array) -> int:
        """Return the first step that a point proves feasible, as eps = |phi(W h + b) - x|_inf is feasible."""
        return self.step_at_least(output_error(self.system, self.target, h, "linf"))

    def guess(self) -> int:
        """Guess the first feasible step: the first one that takes all outputs for inactive that are so at the point.

        If phi decides no signs, the smallest delta hardly depends on eps, and gives the guess.
        """
        flat = self.system.activation.slopes(self.system.n_out) == 0
        if not flat.any():
            return self.step_at_least(self._solve(self.high).objective)
        off = flat & (np.asarray(self.system.matrix @ self.point) + self.system.bias <= 0)
        return self.step_at_least(float(self.target.max(initial=0.0, where=off)))

    def first_feasible(self, point: Array | None) -> tuple[Answer, int]:
        """Bracket the first feasible step by ``low`` and ``high``, narrow the bracket, and find the minimum there.

        The step that the point suggests comes first. After wrong guesses, strides grow.

        Args:
            point: the h of a least-squares problem near the answer; None to begin at step 0.
        """
        if point is None:
            answer = self._solve(0)
            if self.high == 0 or self._over():
                return answer, 0
            point = answer.h
        self.point, self.high, stride = point, max(self.low + 1, self.feasible_at(point)), 0
        guess = self.guess()
        while self.high - self.low > 1 and not self._over():
            step = min(max(guess, self.low + 1), self.high)
            self._solve(step)
            feasible = self.high <= step
            guess = min(self.guess(), self.high - 1 - stride) if feasible else self.low + 1 + stride
            stride = 2 * stride + 1
        return self._solve(self.high), self.high

    def _solve(self, step: int) -> Answer:
        """Minimise delta at a step, without the cap delta <= eps, and narrow the bracket.

        For ReLU, the smallest delta does not grow with eps, because rows only loosen. So every eps below the bound of a
        feasible step is infeasible.
        """
        if step in self.minima:
            return self.minima[step]
        eps = self.epsilon(step)
        constraints = rows(self.system, self.target, eps)
        error = float(constraints.violation(self.system.matrix @ self.point).max(initial=0.0))
        near = Answer(self.point, error, 0.0, LpStatus.FAILED, 0) if error <= _ALIKE * eps else None
        answer = least_violation(self.system, constraints, "linf", self.end - now(), near)
        self.minima[step], self.failed = answer, self.failed or answer.status is not LpStatus.OPTIMAL
        if answer.objective > eps * _SLACK:
            self.low = max(self.low, step)
            return answer
        self.point, self.high = answer.h, min(step, max(self.low + 1, self.feasible_at(answer.h)))
        slope = self.system.activation.slopes(self.system.n_out)
        if not self.system.activation.smooth and ((slope == 0) | (slope == 1)).all():
            self.low = max(self.low, min(self.high, self.step_at_least(answer.bound)) - 1)
        return answer

    def _over(self) -> bool:
        return self.failed or now() >= self.end
