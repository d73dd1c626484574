"""The bounds of w inside the interior-point steps: their multipliers, and what they add to the normal equations.

Compiled; see :mod:`unrelu.lp.interior_point`.
"""

from __future__ import annotations

import numpy as np

from unrelu.lp.dense_linear_algebra import jit

# The first point keeps this distance from the bounds, in units of the scaled residuals (columns have norm 1).
_MARGIN = 0.1

# Bounds of w: a state of multipliers t of the lower and upper bounds, and their last direction, (4, k).
LOWER, UPPER, D_LOWER, D_UPPER = 0, 1, 2, 3


@jit
def inner_point(lower, upper):
    """The point nearest to 0 that is well inside the bounds."""
    k = len(lower)
    w = np.zeros(k)
    for i in range(k):
        margin = min(_MARGIN, 0.25 * (upper[i] - lower[i]))
        w[i] = min(max(0.0, lower[i] + margin), upper[i] - margin)
    return w


@jit
def bound_multipliers(pull, w, lower, upper, mu):
    """First multipliers of the bounds: what W^T y asks for, and not too small; 0 where there is no bound."""
    k = len(w)
    t = np.zeros((4, k))
    for i in range(k):
        if lower[i] > -np.inf:
            t[LOWER, i] = max(pull[i], 0.0) + mu / (w[i] - lower[i] + 0.1 * _MARGIN)
        if upper[i] < np.inf:
            t[UPPER, i] = max(-pull[i], 0.0) + mu / (upper[i] - w[i] + 0.1 * _MARGIN)
    return t


@jit
def bound_terms(w, lower, upper, t, barrier):
    """Write t/s of the bounds into ``barrier``; return the sum of t s and the number of bounds."""
    total, count = 0.0, 0
    for i in range(len(w)):
        barrier[i] = 0.0
        if lower[i] > -np.inf:
            barrier[i] += t[LOWER, i] / (w[i] - lower[i])
            total += t[LOWER, i] * (w[i] - lower[i])
            count += 1
        if upper[i] < np.inf:
            barrier[i] += t[UPPER, i] / (upper[i] - w[i])
            total += t[UPPER, i] * (upper[i] - w[i])
            count += 1
    return total, count


@jit
def bound_force(w, lower, upper, t, dw, target, force):
    """Add to ``force`` what the bounds contribute to the right-hand side of the normal equations."""
    for i in range(len(w)):
        force[i] += t[LOWER, i] - t[UPPER, i]
    for i in range(len(w)):
        if lower[i] > -np.inf:
            force[i] += (target - dw[i] * t[D_LOWER, i]) / (w[i] - lower[i]) - t[LOWER, i]
        if upper[i] < np.inf:
            force[i] -= (target + dw[i] * t[D_UPPER, i]) / (upper[i] - w[i]) - t[UPPER, i]


@jit
def bound_direction(w, lower, upper, t, dw, new, target):
    """Set the direction of t that belongs to the direction ``new`` of w; return the longest steps of w and t.

    ``dw`` and the direction in t are those of the predictor (second order), or 0.
    """
    primal, dual = 1e30, 1e30
    for i in range(len(w)):
        if lower[i] > -np.inf:
            s = w[i] - lower[i]
            t[D_LOWER, i] = (target - dw[i] * t[D_LOWER, i] - t[LOWER, i] * new[i]) / s - t[LOWER, i]
            if new[i] < 0.0:
                primal = min(primal, -s / new[i])
            if t[D_LOWER, i] < 0.0:
                dual = min(dual, -t[LOWER, i] / t[D_LOWER, i])
        if upper[i] < np.inf:
            s = upper[i] - w[i]
            t[D_UPPER, i] = (target + dw[i] * t[D_UPPER, i] + t[UPPER, i] * new[i]) / s - t[UPPER, i]
            if new[i] > 0.0:
                primal = min(primal, s / new[i])
            if t[D_UPPER, i] < 0.0:
                dual = min(dual, -t[UPPER, i] / t[D_UPPER, i])
    return primal, dual


@jit
def bound_after(w, lower, upper, t, dw, primal, dual):
    """The sum of t s after steps of these lengths."""
    total = 0.0
    for i in range(len(w)):
        if lower[i] > -np.inf:
            total += (w[i] + primal * dw[i] - lower[i]) * (t[LOWER, i] + dual * t[D_LOWER, i])
        if upper[i] < np.inf:
            total += (upper[i] - w[i] - primal * dw[i]) * (t[UPPER, i] + dual * t[D_UPPER, i])
    return total


@jit
def bound_step(t, dual):
    """Move t along its direction and forget the direction."""
    for i in range(t.shape[1]):
        t[LOWER, i] += dual * t[D_LOWER, i]
        t[UPPER, i] += dual * t[D_UPPER, i]
        t[D_LOWER, i], t[D_UPPER, i] = 0.0, 0.0
