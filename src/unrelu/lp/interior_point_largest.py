r"""Interior-point steps for the largest violation, min d with r_j <= p_j d and -r_j <= q_j d over l <= w <= u.

The slacks are a = p d - r and b = q d + r, with multipliers y+ and y-. Compiled; see :mod:`unrelu.lp.interior_point`.
"""

from __future__ import annotations

import numpy as np

from unrelu.lp.dense_linear_algebra import advance, dot, jit, solve_factorised
from unrelu.lp.interior_point import DAMPING, decided, go, normal_factor, residuals
from unrelu.lp.interior_point_bounds import (
    bound_after,
    bound_direction,
    bound_force,
    bound_multipliers,
    bound_step,
    bound_terms,
    inner_point,
)


@jit
def side_scores(weight, sizes, up, down):
    """The weights of both sides times the squared norms of their rows in the unknowns (w, d), (2 n,)."""
    n = len(sizes)
    scores = np.empty(2 * n)
    for j in range(n):
        scores[j] = weight[0, j] * (sizes[j] + up[j] * up[j])
        scores[n + j] = weight[1, j] * (sizes[j] + down[j] * down[j])
    return scores


@jit
def largest_start(r, up, down, y, pull):
    """Multipliers in proportion to the violations, of sum 1; returns d above the largest violation and the number of
    sides.

    ``up`` and ``down`` are p and q, 0 where the side is missing; y is (2, n), and its difference goes to ``pull``.
    """
    d, total, n = 1e-300, 0.0, len(r)
    for j in range(n):
        if up[j] > 0.0:
            d = max(d, 1.1 * r[j] / up[j])
            y[0, j] = max(r[j], 0.0)
            total += up[j] * y[0, j]
        if down[j] > 0.0:
            d = max(d, -1.1 * r[j] / down[j])
            y[1, j] = max(-r[j], 0.0)
            total += down[j] * y[1, j]
    # Nothing is violated: w is well inside, and all multipliers are alike.
    total = total if total > 0.0 else 1.0
    size, sides = 0.0, 0
    for side in range(2):
        for j in range(n):
            slope = up[j] if side == 0 else down[j]
            if slope > 0.0:
                y[side, j] = y[side, j] / total + 0.1 / (n * slope)
                size += slope * y[side, j]
                sides += 1
    for j in range(n):
        y[0, j] /= size
        y[1, j] /= size
        pull[j] = y[0, j] - y[1, j]
    return d, sides


@jit
def largest_weights(r, d, up, down, y, weight):
    """Write D of both sides, (2, n); return the complementarity."""
    comp = 0.0
    for j in range(len(r)):
        a, b = up[j] * d - r[j], down[j] * d + r[j]
        weight[0, j] = y[0, j] / a if up[j] > 0.0 else 0.0
        weight[1, j] = y[1, j] / b if down[j] > 0.0 else 0.0
        comp += y[0, j] * a if up[j] > 0.0 else 0.0
        comp += y[1, j] * b if down[j] > 0.0 else 0.0
    return comp


@jit
def largest_border(up, down, weight, both, tilt):
    """Write what weighs the rows in the normal matrix and in its border (a column for d); return its corner."""
    corner = 0.0
    for j in range(len(up)):
        both[j] = weight[0, j] + weight[1, j]
        tilt[j] = down[j] * weight[1, j] - up[j] * weight[0, j]
        corner += up[j] * up[j] * weight[0, j] + down[j] * down[j] * weight[1, j]
    return corner


@jit
def largest_force(r, d, up, down, y, dy, move, dd, target, pull):
    """Write c_b / b - c_a / a into ``pull``; return sum p c_a / a + q c_b / b.

    c = target - (second order) is what the product of slack and multiplier should become.
    """
    total = 0.0
    for j in range(len(r)):
        pull[j] = 0.0
        if up[j] > 0.0:
            term = (target - (up[j] * dd - move[j]) * dy[0, j]) / (up[j] * d - r[j])
            pull[j] -= term
            total += up[j] * term
        if down[j] > 0.0:
            term = (target - (down[j] * dd + move[j]) * dy[1, j]) / (down[j] * d + r[j])
            pull[j] += term
            total += down[j] * term
    return total


@jit
def largest_direction(r, d, up, down, y, dy, old_move, old_dd, move, dd, target, primal, dual):
    """Set the direction of y that belongs to W dw = ``move`` and dd; return the longest steps."""
    for j in range(len(r)):
        if up[j] > 0.0:
            a, da = up[j] * d - r[j], up[j] * dd - move[j]
            aim = target - (up[j] * old_dd - old_move[j]) * dy[0, j]
            dy[0, j] = (aim - y[0, j] * da) / a - y[0, j]
            if da < 0.0:
                primal = min(primal, -a / da)
            if dy[0, j] < 0.0:
                dual = min(dual, -y[0, j] / dy[0, j])
        if down[j] > 0.0:
            b, db = down[j] * d + r[j], down[j] * dd + move[j]
            aim = target - (down[j] * old_dd + old_move[j]) * dy[1, j]
            dy[1, j] = (aim - y[1, j] * db) / b - y[1, j]
            if db < 0.0:
                primal = min(primal, -b / db)
            if dy[1, j] < 0.0:
                dual = min(dual, -y[1, j] / dy[1, j])
    return primal, dual


@jit
def largest_after(r, d, up, down, y, dy, move, dd, primal, dual):
    """The complementarity of the rows after steps of these lengths."""
    total = 0.0
    for j in range(len(r)):
        if up[j] > 0.0:
            total += (up[j] * (d + primal * dd) - r[j] - primal * move[j]) * (y[0, j] + dual * dy[0, j])
        if down[j] > 0.0:
            total += (down[j] * (d + primal * dd) + r[j] + primal * move[j]) * (y[1, j] + dual * dy[1, j])
    return total


@jit
def largest_violation_steps(routines, matrix, r0, sizes, up, down, lower, upper, tolerance, limit):
    """At most ``limit`` interior-point steps for the largest violation, until basic rows outweigh the others.

    The unknowns (w, d) have an arrow matrix: the normal matrix of w, bordered by one row, which is eliminated.

    Returns:
        w (k,), d, the scores of both sides (2 n,) and t/s of the bounds (k,).
    """
    n, k = matrix.shape
    scaled, normal, barrier = np.empty((n, k)), np.zeros((k, k)), np.zeros(k)
    y, dy, weight = np.zeros((2, n)), np.zeros((2, n)), np.zeros((2, n))
    pull, both, tilt = np.empty(n), np.empty(n), np.empty(n)
    w, dw, dd, move = inner_point(lower, upper), np.zeros(k), 0.0, np.zeros(n)
    r = residuals(matrix, w, r0)
    d, sides = largest_start(r, up, down, y, pull)
    mu = largest_weights(r, d, up, down, y, weight) / sides
    t = bound_multipliers(np.dot(matrix.T, pull), w, lower, upper, mu)
    primal, dual = 1.0, 1.0
    for step in range(limit + 1):
        comp = largest_weights(r, d, up, down, y, weight)
        more, count = bound_terms(w, lower, upper, t, barrier)
        comp += more
        if step == limit or not comp > 1e-9 * d:
            break
        if step > 1 and decided(side_scores(weight, sizes, up, down), barrier, k + 1) >= tolerance:
            break
        corner = largest_border(up, down, weight, both, tilt)
        factor, ok = normal_factor(routines, matrix, both, barrier, min(primal, dual), scaled, normal)
        if not ok:
            break
        border = np.dot(matrix.T, tilt)
        column = solve_factorised(factor, border)
        pivot = max(corner - dot(border, column), 1e-14 * corner)
        mu, target = comp / (sides + count), 0.0
        for phase in range(2):
            level = largest_force(r, d, up, down, y, dy, move, dd, target, pull)
            force = np.dot(matrix.T, pull)
            bound_force(w, lower, upper, t, dw, target, force)
            free = solve_factorised(factor, force)
            new_dd = (level - 1.0 - dot(border, free)) / pivot
            new = free
            advance(new, -new_dd, column)
            primal, dual = bound_direction(w, lower, upper, t, dw, new, target)
            new_move = np.dot(matrix, new)
            primal, dual = largest_direction(r, d, up, down, y, dy, move, dd, new_move, new_dd, target, primal, dual)
            dw, dd, move = new, new_dd, new_move
            if phase == 0:
                primal, dual = min(1.0, primal), min(1.0, dual)
                after = largest_after(r, d, up, down, y, dy, move, dd, primal, dual)
                after += bound_after(w, lower, upper, t, dw, primal, dual)
                target = mu * (after / comp) ** 3
        primal, dual = min(1.0, DAMPING * primal), min(1.0, DAMPING * dual)
        go(w, primal, dw)
        d += primal * dd
        y += dual * dy
        bound_step(t, dual)
        dy[:], dd, move = 0.0, 0.0, np.zeros(n)
        r = residuals(matrix, w, r0)
    return w, d, side_scores(weight, sizes, up, down), barrier
