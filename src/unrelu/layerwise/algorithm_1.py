"""``linf``: Algorithm 1 of the paper on one layer."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layerwise.layer_constraints import LayerSystem, Rows, rows
from unrelu.layerwise.layer_method import (
    LayerSolution,
    at_any_scale,
    check_growth,
    first_threshold,
    output_error,
    status_of,
)
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.layerwise.threshold_scan import scanned
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements.noise import Noise

Array = npt.NDArray[np.float64]

# Room for rounding in the test delta <= eps.
_SLACK = 1 + 1e-9
# A point whose error in other rows is at most this many times its own is a start for them.
_ALIKE = 2.0


@dataclass(frozen=True)
class LInf:
    r"""Algorithm 1: the smallest delta <= eps with which every row of :func:`~unrelu.layerwise.layer_constraints.rows`
    holds.

    .. math:: \min_{h, \delta} \delta \quad x_j - \delta \le w_j h \le x_j + \delta \;(x_j > \varepsilon), \quad
        w_j h \le x_j + \delta \;(x_j \le \varepsilon), \quad \delta \le \varepsilon

    and eps <- alpha eps until this is feasible. Some h satisfies it exactly when ``|phi(W h + b) - x|_inf <= eps``
    has a solution, so feasibility can only be gained as eps grows: the first feasible eps of the sequence eps_0
    alpha^t is found by bracketing, with a few linear programs in place of one for every t. Where the bracket begins
    does not change what is found. With ``|e_j| <= A`` stated, eps_0 = A is feasible and its program the only one;
    where the noise is not known, it begins at what the least-squares point of a
    :mod:`~unrelu.layerwise.threshold_scan` suggests.

    Args:
        alpha: growth factor, above 1; the paper's experiments use 1.2.

    Raises:
        OptionError: alpha is not a finite number above 1.
    """

    alpha: float = 1.2
    norm = "linf"
    power = 1
    largest = math.inf

    def __post_init__(self) -> None:
        check_growth(self.alpha)

    @at_any_scale
    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        """See :class:`LayerMethod`."""
        end = time.perf_counter() + time_limit
        first = first_threshold(system, target, threshold)
        search = _Search(system, target, first, self.alpha, end)
        point = None
        # A bound that is stated is feasible at once, and one that was handed down is near.
        if threshold is None or (noise is not None and not noise.bound <= first):
            _, point = scanned(system, target, first, self.norm, end)
        answer, step = search.first_feasible(point)
        status, pivots = status_of(answer.status, search.limited), sum(a.pivots for a in search.answers.values())
        return LayerSolution(answer.h, answer.objective, status, pivots, search.epsilon(step), len(search.answers))


class _Search:
    """The first t with a feasible program at eps_0 alpha^t."""

    def __init__(self, system: LayerSystem, target: Array, start: float, alpha: float, end: float) -> None:
        self.system, self.target, self.start, self.alpha, self.end = system, target, start, alpha, end
        self.answers: dict[int, Answer] = {}
        self.limited = False
        slope = system.activation.slope
        self.rows_only_loosen = not system.activation.smooth and bool(((slope == 0) | (slope == 1)).all())

    def epsilon(self, step: int) -> float:
        return self.start * self.alpha**step

    def step_at_least(self, epsilon: float) -> int:
        """The first step whose eps is at least ``epsilon``."""
        return max(0, math.ceil(math.log(epsilon / self.start) / math.log(self.alpha) - 1e-9)) if epsilon > 0 else 0

    def delta(self, step: int) -> float:
        """The smallest delta at this step's eps, without the cap delta <= eps."""
        if step not in self.answers:
            limit, layer_rows = self.end - time.perf_counter(), rows(self.system, self.target, self.epsilon(step))
            warm_start = self.alike(step, layer_rows)
            self.answers[step] = least_violation(self.system, layer_rows, "linf", limit, warm_start)
        return self.answers[step].objective

    def alike(self, step: int, layer_rows: Rows) -> Answer | None:
        """The answer to a larger eps that is nearly one to these rows; its basis then needs few changes.

        From a larger eps rows have only tightened, so the smallest delta is between that answer's and its error here.
        """
        best, smallest = None, _ALIKE
        for other, answer in self.answers.items():
            error = float(layer_rows.violation(self.system.matrix @ answer.h).max()) if other > step else math.inf
            if error < smallest * answer.objective:
                best, smallest = answer, error / answer.objective
        return best

    def feasible(self, step: int) -> bool:
        return self.delta(step) <= self.epsilon(step) * _SLACK

    def first_feasible(self, point: Array | None) -> tuple[Answer, int]:
        """Bracket the first feasible step between ``low`` (infeasible) and ``high`` (feasible), and narrow down.

        Any point h shows that the eps |phi(W h + b) - x|_inf is feasible, and the smallest delta d of a feasible eps
        says where to look next: at d, and in growing strides above it. For ReLU this is a proof too: there d does not
        grow with eps, as rows only loosen, so every eps < d is infeasible.

        Args:
            point: h of a least-squares problem near the answer, to begin between what it shows and
                :meth:`suspected`; None to begin at step 0.
        """
        low, high = -1, 0
        if point is not None:
            high = self.shown(point)
            low, high = self._around(min(self.suspected(point), high), high)
        elif not self.feasible(0):
            low, high = 0, max(1, self.shown(self.answers[0].h))
        while not self.feasible(high) and not self._over():
            low, high = high, max(high + 1, self.step_at_least(self.delta(high)), self.shown(self.answers[high].h))
        stride = 0
        for turn in itertools.count(1):
            hint = self.step_at_least(self.delta(high))
            if self.rows_only_loosen:
                low = max(low, min(high, hint) - 1)
            if high - low <= 1 or self._over():
                break
            # Halving in every fourth turn bounds the number of programs where the hints mislead.
            guess = (low + high) // 2 if turn % 4 == 0 else min(max(hint, low + 1 + stride), high - 1)
            if self.feasible(guess):
                high, stride = guess, 0
            else:
                low, stride = guess, 2 * stride + 1
        last = high if high in self.answers else max(self.answers)
        return self.answers[last], last

    def _around(self, guess: int, shown: int) -> tuple[int, int]:
        """The bracket that a guess leaves of what is shown to be feasible: a right one is proved by the step below."""
        if not self.feasible(guess):
            return guess, max(shown, guess + 1)
        if guess and self.delta(guess) <= self.epsilon(guess - 1) and not self._over() and not self.feasible(guess - 1):
            return guess - 1, guess
        return -1, guess if guess - 1 not in self.answers else guess - 1

    def shown(self, h: Array) -> int:
        """The first step that a point shows to be feasible."""
        return self.step_at_least(output_error(self.system, self.target, h, "linf"))

    def suspected(self, h: Array) -> int:
        """The first step at which no output is called on that is off at h: one that is called on has a lower side."""
        off = (self.system.activation.slope == 0) & (np.asarray(self.system.matrix @ h) + self.system.bias <= 0)
        return self.step_at_least(float(self.target.max(initial=0.0, where=off)))

    def _over(self) -> bool:
        statuses = {a.status for a in self.answers.values()}
        self.limited = time.perf_counter() >= self.end or LpStatus.LIMIT in statuses
        return self.limited or LpStatus.FAILED in statuses
