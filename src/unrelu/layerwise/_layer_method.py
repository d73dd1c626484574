"""The interface of layer methods, their result, and what they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unrelu.errors import OptionError
from unrelu.layerwise.layer_constraints import LayerSystem, rows
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.layerwise.optimality import ZERO
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements.noise import Noise
from unrelu.measurements.objectives import norms
from unrelu.result import Ending, Status
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import now

# The first guess of an unknown noise level, relative to max|x|.
_SMALLEST = 1e-9
# Thresholds of a scan: the ratio of neighbours, and the largest one relative to max|x|.
_RATIO, _END = 10**0.5, 0.5
# A larger threshold drops information, so its error must be lower by the first fraction. The scan ends when an error
# exceeds the lowest one by the second factor.
_BETTER, _WORSE = 0.02, 1.5
# With fewer two-sided rows per unknown, the residual says nothing about the noise level.
_FEWEST = 0.25


@dataclass(frozen=True, eq=False)
class LayerSolution:
    """The input h of one layer.

    Attributes:
        h: (k,), within the bounds of the layer's input.
        objective: the value of the method's own objective at the threshold where it ended.
        status: CONVERGED, EXACT_FIT or NOT_UNIQUE (``exact``), NOT_REALIZABLE, TIME_LIMIT or SOLVER_FAILED.
        pivots: simplex and Newton iterations.
        threshold: the eps where the method ended; the next layer starts from it.
        solves: convex problems solved.
        freedom: dimension of the preimage, where the method computed it; else -1.
    """

    h: Array
    objective: float
    status: Status | Ending
    pivots: int
    threshold: float
    solves: int
    freedom: int = -1


class LayerMethod(Protocol):
    """A method that inverts one layer; the object holds its options."""

    @property
    def norm(self) -> str:
        """The norm of the layer's error that the method minimises."""

    @property
    def largest(self) -> float:
        """The most entries that a layer's matrix may have."""

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        """Invert one layer.

        Args:
            system: the layer, x = phi(W h + b).
            target: x, (n,).
            threshold: the first eps: the noise level, or the final threshold of the layer above. None: unknown.
            noise: the stated noise of x; None if none is stated, or if x was computed.
            time_limit: in seconds; beyond it the best h so far is returned with status TIME_LIMIT.

        The activation must be monotone; ``check_invertible`` checks it.

        Raises:
            InputError: the target has another shape, or entries that are not finite.
            SolverError: HiGHS refuses the program.
        """


def first_threshold(system: LayerSystem, target: Array, threshold: float | None) -> float:
    """Choose the threshold to start from: the given one, but at least 1e-9 of the size of the layer's outputs.

    That size is the largest of max|x|, the range of a sigmoid or tanh, and 1e-3 of the largest bias: where outputs are
    small beside the biases, W h + b has fewer digits.
    """
    span = 1.0 if system.activation.smooth else 0.0
    bias = 1e-3 * float(np.abs(system.bias).max(initial=0.0))
    scale = max(float(np.abs(target).max()), span, bias)
    return max(_SMALLEST * scale, np.finfo(float).tiny, threshold or 0.0)


def check_growth(alpha: float) -> None:
    """Raise OptionError for a growth factor with which the threshold would not grow."""
    if not 1 < alpha < math.inf:
        raise OptionError(f"alpha={alpha} must be finite and above 1, so that the threshold grows")


def output_error(system: LayerSystem, target: Array, h: Array, norm: str) -> float:
    """Compute |phi(W h + b) - x| in "l2", "l1" or "linf", with x moved into the range of the activation."""
    return float(norms((system.value(h) - system.activation.clip(target))[None], norm)[0])


def status_of(end: LpStatus, limited: bool = False) -> Status | Ending:
    """Convert the status of a layer's last program to that of the layer; ``limited`` says that the time ran out."""
    if limited or end is LpStatus.LIMIT:
        return Status.TIME_LIMIT
    return Status.CONVERGED if end is LpStatus.OPTIMAL else Ending.SOLVER_FAILED


def scan_thresholds(
    system: LayerSystem, target: Array, first: float, norm: str, end: float = math.inf
) -> tuple[float, Array]:
    """Find the threshold whose least-squares point fits x best, among first 10^(t/2), t = 0, 1, ..., up to 0.5 max|x|.

    The error is |phi(W h + b) - x|; a larger threshold must be better by 2%. A threshold that is too small classifies
    inactive neurons as active. This spoils h, and is far worse than leaving out some active ones. Smaller thresholds
    are as bad, so the scan begins at the largest one and ends when the error has risen by half. If the rows do not
    change from one threshold to the next, nothing is solved.

    Args:
        system, target: the layer, and its output.
        first: the smallest threshold, above 0.
        norm: of the error, "l2", "l1" or "linf".
        end: the end of the time allowed, by :func:`~unrelu.runtime.run_control.now`.

    Returns:
        The threshold, and its point, solved roughly.
    """
    scale = float(np.abs(target).max())
    last = max(0, math.floor(math.log(_END * scale / first) / math.log(_RATIO))) if _END * scale > first else 0
    chosen, lowest, h = first, math.inf, system.inside(np.zeros(system.n_in))
    best, before, error = h, None, math.inf
    for step in range(last, -1, -1):
        constraints = rows(system, target, first * _RATIO**step)
        if before is None or not constraints.same_sides(before):
            if step > 0 and int(constraints.two_sided.sum()) < _FEWEST * system.n_in:
                continue
            h, *_ = one_sided_least_squares(system, constraints, end, h, rough=True)
            error, before = output_error(system, target, h, norm), constraints
        if error > _WORSE * lowest + ZERO * scale or now() >= end:
            break
        lowest = min(error, lowest)
        if lowest >= (1 - _BETTER) * error - ZERO * scale:
            chosen, best = constraints.threshold, h
    return chosen, best
