"""The first threshold where no noise is stated: the one whose least-squares point explains the output best."""

from __future__ import annotations

import math

import numpy as np

from unrelu.layerwise.layer_constraints import LayerSystem, rows
from unrelu.layerwise.layer_method import output_error
from unrelu.layerwise.one_sided_least_squares import ROUGH_RIDGE, NewtonMatrices, one_sided_least_squares
from unrelu.layerwise.optimality import ZERO
from unrelu.runtime.array_types import Array
from unrelu.runtime.work_clock import now

# Thresholds of a scan: the ratio of neighbours, and the largest one relative to max|x|.
_RATIO, _END = 10**0.5, 0.5
# A larger threshold drops information, so it must be better by the first fraction. The scan ends when the error exceeds
# the lowest one by the second factor.
_BETTER, _WORSE = 0.02, 1.5
# With fewer two-sided rows per unknown, the residual says nothing about the noise level.
_FEWEST = 0.25


def scanned(system: LayerSystem, target: Array, first: float, norm: str, end: float = math.inf) -> tuple[float, Array]:
    """Of the thresholds first 10^(t/2), t = 0, 1, ..., up to 0.5 max|x|, the one whose least-squares point fits x best.

    The error is |phi(W h + b) - x|; a larger threshold must be better by 2%. A threshold that is too small classifies
    inactive neurons as active. This spoils h, and is far worse than to leave out some active ones. Still smaller ones
    do the same, so the scan begins at the largest threshold and ends when the error has risen by half. From one
    threshold to the next, few rows change, and the normal equations are updated; if none change, nothing is solved.

    Args:
        system, target: the layer, and its output.
        first: the smallest threshold, above 0.
        norm: of the error, "l2", "l1" or "linf".
        end: the end of the time allowed, by :func:`~unrelu.runtime.work_clock.now`.

    Returns:
        The threshold, and its point, roughly.
    """
    scale = float(np.abs(target).max())
    last = max(0, math.floor(math.log(_END * scale / first) / math.log(_RATIO))) if _END * scale > first else 0
    matrices = NewtonMatrices(system, ROUGH_RIDGE)
    chosen, lowest, h = first, math.inf, system.inside(np.zeros(system.n_in))
    best, before, error = h, None, math.inf
    for step in range(last, -1, -1):
        constraints = rows(system, target, first * _RATIO**step)
        if before is None or not constraints.same_sides(before):
            if step > 0 and int(constraints.two_sided.sum()) < _FEWEST * system.n_in:
                continue
            h, _, _ = one_sided_least_squares(system, constraints, end, h, matrices)
            error, before = output_error(system, target, h, norm), constraints
        if error > _WORSE * lowest + ZERO * scale or now() >= end:
            break
        lowest = min(error, lowest)
        if lowest >= (1 - _BETTER) * error - ZERO * scale:
            chosen, best = constraints.threshold, h
    return chosen, best
