"""The least-squares point that programs are solved around. Compiled; see :mod:`unrelu.layerwise.exchange_kernel`."""

from __future__ import annotations

import numpy as np

from unrelu.lp.dense_linear_algebra import advance, factorise, gram, jit, solve_factorised

# Rows for each unknown from which the first point is a good one, and the ridges above and below that.
_AMPLE, _RIDGE, _LARGER_RIDGE = 1.3, 1e-12, 1e-9
_ROUNDS = 2


@jit
def active_rows(r, up, down, violated, active):
    """Mark the rows with two sides, and the violated ones if asked; return how many there are and how many changed."""
    count, changed = 0, 0
    for j in range(len(r)):
        on = up[j] > 0.0 and down[j] > 0.0
        if violated and ((up[j] > 0.0 and r[j] > 0.0) or (down[j] > 0.0 and r[j] < 0.0)):
            on = True
        changed += (active[j] > 0.0) != on
        active[j] = 1.0 if on else 0.0
        count += on
    return count, changed


@jit
def hold(normal, force, h, held):
    """Keep the held coordinates: move them to the right-hand side and give them rows of the identity."""
    k = len(h)
    for i in range(k):
        for j in range(i + 1):
            if held[i] and not held[j]:
                force[j] -= normal[i, j] * h[i]
            elif held[j] and not held[i]:
                force[i] -= normal[i, j] * h[j]
            if held[i] or held[j]:
                normal[i, j] = 1.0 if i == j else 0.0
    for i in range(k):
        if held[i]:
            force[i] = h[i]


@jit
def least_squares_point(routines, matrix, center, up, down, lower, upper):
    """A least-squares point of the rows with two sides, (k,), moved inside the bounds.

    Where there are hardly more such rows than unknowns, or coordinates were moved, a second round includes the violated
    rows and holds those coordinates. With few rows the point may be far away; a larger ridge keeps it near.
    """
    n, k = matrix.shape
    h, held, normal, scaled = np.zeros(k), np.zeros(k, np.bool_), np.zeros((k, k)), np.empty((n, k))
    active, r, side, moved = np.zeros(n), np.zeros(n), np.empty(n), False
    for turn in range(_ROUNDS):
        count, changed = active_rows(r, up, down, turn > 0, active)
        if turn > 0 and changed <= 0.02 * count and not moved:
            break
        for j in range(n):
            side[j] = active[j] * center[j]
        gram(routines, matrix, active, 0.5, scaled, normal)
        force = np.dot(matrix.T, side)
        if turn > 0:
            hold(normal, force, h, held)
        ample = count > _AMPLE * k
        factor, ok = factorise(routines, normal, _RIDGE if ample else _LARGER_RIDGE)
        if not ok:
            break
        h = solve_factorised(factor, force)
        for i in range(k):
            if h[i] < lower[i] or h[i] > upper[i]:
                h[i], held[i], moved = min(max(h[i], lower[i]), upper[i]), True, True
        if ample and not moved:
            break
        r = np.dot(matrix, h)
        advance(r, -1.0, center)
    return h
