"""The growing threshold shared by ``l1``, ``relaxed`` and ``least_squares`` (Algorithm 2 of the paper)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from unrelu.errors import OptionError
from unrelu.layer.convex import Answer
from unrelu.layer.highs import LpStatus
from unrelu.layer.proof import ZERO
from unrelu.layer.rows import LayerSystem, Rows, rows
from unrelu.layer.solution import LayerSolution, first_threshold
from unrelu.layer.squares import one_sided_least_squares
from unrelu.result import Status

__all__ = ["check_growth", "grow", "misfit", "scan"]

Array = npt.NDArray[np.float64]
Solve = Callable[[LayerSystem, Rows, float, Answer | None], Answer]

# An infeasible program (relaxation with biases) is retried with a larger threshold at most this many times.
_GROWTHS = 400
# Ratio of neighbouring thresholds in the scan for an unknown noise level, and its upper end relative to max|x|.
_SCAN_RATIO = 10**0.5
_SCAN_END = 0.5


def check_growth(alpha: float) -> None:
    """Refuse a growth factor with which the threshold would not grow.

    Raises:
        OptionError: alpha is not a finite number above 1.
    """
    if not 1 < alpha < math.inf:
        raise OptionError(f"alpha={alpha} must be finite and above 1, so that the threshold grows")


def grow(
    solve: Solve, norm: str, alpha: float, system: LayerSystem, target: Array, threshold: float | None,
    time_limit: float,
) -> LayerSolution:  # fmt: skip
    """Solve at eps, alpha eps, alpha^2 eps, ... until |phi(W h + b) - x| stops falling; return the best.

    The residual in the stop test is that of the layer's own target, which is what a user has. A program without a
    feasible point moves on to the next threshold.

    Source: Algorithm 2 of the paper.
    """
    end = time.perf_counter() + time_limit
    eps = scan(system, target, norm, threshold, end)[0]
    # Of programs with the same rows the residuals differ by rounding: that is no fall.
    scale = float(np.abs(target).max())
    best: tuple[float, Answer, float] | None = None
    pivots, solves, limited = 0, 0, False
    near: Answer | None = None
    for _ in range(_GROWTHS):
        answer = solve(system, rows(system, target, eps), end - time.perf_counter(), near)
        near = answer
        pivots, solves = pivots + answer.pivots, solves + 1
        if answer.status is LpStatus.INFEASIBLE:
            # The answer's objective is then the smallest threshold with a feasible point, if it is known.
            if answer.objective > eps:
                eps *= alpha ** math.floor(math.log(answer.objective / eps) / math.log(alpha))
        else:
            error = misfit(system, target, answer.h, norm)
            if best is not None and error > best[0] - ZERO * (best[0] + scale):
                break
            best = (error, answer, eps)
            if answer.status is not LpStatus.OPTIMAL:
                break
        limited = time.perf_counter() >= end
        if limited:
            break
        eps *= alpha
    _, answer, eps = best or (math.inf, answer, eps)
    return LayerSolution(answer.h, answer.objective, _status(answer, limited), pivots, eps, solves)


def scan(
    system: LayerSystem, target: Array, norm: str, threshold: float | None = None, end: float = math.inf
) -> tuple[float, float]:
    """A threshold from a given or unknown noise level upwards: the one whose least-squares point explains x best.

    Least squares costs a small part of a linear program, so the whole range up to 0.5 max|x| is tried. A larger
    threshold has to be better by 2%: it drops information. The scan stops where ``time.perf_counter()`` passes ``end``.

    Returns:
        The threshold, and the misfit |phi(W h + b) - x| there, in ``norm``.
    """
    eps = first_threshold(system, target, threshold)
    scale = float(np.abs(target).max())
    best, h = (eps, math.inf), None
    while h is None or (eps <= _SCAN_END * scale and time.perf_counter() < end):
        h, _, _ = one_sided_least_squares(system, rows(system, target, eps), end, h)
        error = misfit(system, target, h, norm)
        if error < 0.98 * best[1] - ZERO * scale:
            best = (eps, error)
        eps *= _SCAN_RATIO
    return best


def misfit(system: LayerSystem, target: Array, h: Array, norm: str) -> float:
    """|phi(W h + b) - x| with x moved into the range of the activation, in "l2", "l1" or "linf"."""
    error = np.abs(system.value(h) - system.activation.clip(target))
    return float(np.linalg.norm(error, {"l2": 2, "l1": 1, "linf": np.inf}[norm]))


def _status(answer: Answer, limited: bool) -> Status:
    if limited or answer.status is LpStatus.LIMIT:
        return Status.TIME_LIMIT
    return Status.CONVERGED if answer.status is LpStatus.OPTIMAL else Status.SOLVER_FAILED
