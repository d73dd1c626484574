"""A first threshold where the noise is not known, by a scan of least-squares points; or only a point to begin at."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt

from unrelu.layerwise.layer_constraints import LayerSystem, rows
from unrelu.layerwise.layer_method import output_error
from unrelu.layerwise.layer_program import least_squares_start, takes_kernel
from unrelu.layerwise.one_sided_least_squares import NewtonMatrices, one_sided_least_squares
from unrelu.layerwise.optimality import ZERO

Array = npt.NDArray[np.float64]

# Ratio of neighbouring thresholds, and the upper end relative to max|x|.
_RATIO = 10**0.5
_END = 0.5
# A larger threshold has to be better by this: it drops information.
_BETTER = 0.02
# The scan ends below a threshold whose point is so many times worse than the best one.
_WORSE = 1.5
# Fewer rows with two sides than this, for each unknown, do not tell a noise level. The ridge of rough Newton steps.
_FEWEST, _RIDGE = 0.25, 1e-8
# Rows with two sides for each unknown where a fit begins, thresholds at most, and an error that hardly falls any more.
_AMPLE, _FITS, _SETTLED = 1.15, 6, 0.15


def scanned(system: LayerSystem, target: Array, first: float, norm: str, end: float = math.inf) -> tuple[float, Array]:
    """The threshold first 10^(t/2), t = 0, 1, ..., up to 0.5 max|x| whose least-squares point h explains x best.

    Looked at is |phi(W h + b) - x|; a larger threshold has to be better by 2%. Too small a threshold calls neurons on
    that are off, which spoils h and is worse by far than to say nothing of some that are on. A smaller one calls on
    all of these, so the scan comes from above and ends where the error has risen by half. From one threshold to the
    next few rows change, and with them the matrix of the normal equations; where none does, there is nothing to solve.

    Args:
        system, target: the layer, and its output.
        first: above 0.
        norm: of the error, "l2", "l1" or "linf".
        end: of the time allowed, by ``time.perf_counter()``.

    Returns:
        The threshold, and its point, roughly.
    """
    scale = float(np.abs(target).max())
    last = max(0, math.floor(math.log(_END * scale / first) / math.log(_RATIO))) if _END * scale > first else 0
    matrices = NewtonMatrices(system, _RIDGE)
    chosen, lowest, h = first, math.inf, system.inside(np.zeros(system.n_in))
    best, before, error = h, None, math.inf
    for step in range(last, -1, -1):
        constraints = rows(system, target, first * _RATIO**step)
        if before is None or not constraints.same_sides(before):
            if step > 0 and int(constraints.two_sided.sum()) < _FEWEST * system.n_in:
                continue
            h, _, _ = one_sided_least_squares(system, constraints, end, h, matrices)
            error, before = output_error(system, target, h, norm), constraints
        if error > _WORSE * lowest + ZERO * scale or time.perf_counter() >= end:
            break
        lowest = min(error, lowest)
        if lowest >= (1 - _BETTER) * error - ZERO * scale:
            chosen, best = constraints.threshold, h
    return chosen, best


def least_squares_fit(system: LayerSystem, target: Array, first: float, end: float = math.inf) -> Array:
    """A point h with a small |phi(W h + b) - x|_inf: a least-squares point at a threshold of about that.

    The threshold begins where the rows with two sides are some more than the unknowns, and is replaced by the error of
    its point as long as that falls. From above few neurons are wrongly called on, and an error that is too large only
    makes them fewer.

    Args:
        system, target: the layer, and its output.
        first: the smallest threshold, above 0.
        end: of the time allowed, by ``time.perf_counter()``.
    """
    count = min(math.ceil(_AMPLE * system.n_in), system.n_out) - 1
    threshold = max(first, float(np.partition(target, -count - 1)[-count - 1]))
    matrices, best, lowest = None, system.inside(np.zeros(system.n_in)), math.inf
    for _ in range(_FITS):
        constraints = rows(system, target, threshold)
        if takes_kernel(system):
            h = least_squares_start(system, constraints)
        else:
            matrices = matrices or NewtonMatrices(system, _RIDGE)
            h, _, _ = one_sided_least_squares(system, constraints, end, best, matrices)
        error = output_error(system, target, h, "linf")
        if error < lowest:
            best, settled, lowest = h, error > (1 - _SETTLED) * lowest, error
        else:
            settled = True
        if settled or error <= first or time.perf_counter() >= end:
            break
        threshold = error
    return best
