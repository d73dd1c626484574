r"""Interior-point steps for the sum, min sum_j hi_j max(0, r_j) - lo_j min(0, r_j) over l <= w <= u.

r = W w + r0 = p - q with p, q >= 0 and multipliers lo <= y <= hi, complementary in p (hi - y) = 0 and q (y - lo) = 0.
Compiled; see :mod:`unrelu.lp.interior_point`.
"""

from __future__ import annotations

import numpy as np

from unrelu.lp.dense_linear_algebra import jit, solve_factorised
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
def sum_start(r, lo, hi, cap, y, p, q):
    """First multipliers and r = p - q; returns the mean complementarity.

    The multipliers are a Huber function's with its knee at 2.5 typical errors, kept away from their ends. A penalty,
    hi > cap, is not a size to start from.
    """
    n, total = len(r), 0.0
    for j in range(n):
        share = min(0.9, max(-0.9, r[j] / 2.5))
        top = min(hi[j], cap)
        y[j] = share * top if share > 0.0 else -share * lo[j]
        if lo[j] == 0.0:
            y[j] = max(y[j], 0.03 * top)
        if hi[j] == 0.0:
            y[j] = min(y[j], 0.03 * lo[j])
        p[j] = max(r[j], 0.0) + 0.1
        q[j] = p[j] - r[j]
        total += p[j] * (hi[j] - y[j]) + q[j] * (y[j] - lo[j])
    return total / (2 * n)


@jit
def sum_weights(r, lo, hi, y, p, q, weight):
    """Write D = 1 / (p / (hi - y) + q / (y - lo)); return the complementarity and the objective."""
    comp, objective = 0.0, 0.0
    for j in range(len(r)):
        v, u = hi[j] - y[j], y[j] - lo[j]
        weight[j] = u * v / (p[j] * u + q[j] * v)
        comp += p[j] * v + q[j] * u
        objective += hi[j] * r[j] if r[j] > 0.0 else lo[j] * r[j]
    return comp, objective


@jit
def sum_shift(r, lo, hi, y, dp, dq, dy, weight, target, rho, pull):
    """Write rho of dy = D (W dw - rho), and D rho - y, which W^T takes to the right-hand side."""
    for j in range(len(r)):
        v, u = hi[j] - y[j], y[j] - lo[j]
        rho[j] = (target + dp[j] * dy[j]) / v - (target - dq[j] * dy[j]) / u - r[j]
        pull[j] = weight[j] * rho[j] - y[j]


@jit
def sum_direction(lo, hi, y, p, q, weight, rho, move, target, dp, dq, dy, primal, dual):
    """Set the directions of p, q and y that belong to W dw = ``move``; return the longest steps."""
    for j in range(len(lo)):
        v, u = hi[j] - y[j], y[j] - lo[j]
        for_p, for_q = target + dp[j] * dy[j], target - dq[j] * dy[j]
        dy[j] = weight[j] * (move[j] - rho[j])
        dp[j] = (for_p + p[j] * dy[j]) / v - p[j]
        dq[j] = (for_q - q[j] * dy[j]) / u - q[j]
        if dp[j] < 0.0:
            primal = min(primal, -p[j] / dp[j])
        if dq[j] < 0.0:
            primal = min(primal, -q[j] / dq[j])
        if dy[j] > 0.0:
            dual = min(dual, v / dy[j])
        elif dy[j] < 0.0:
            dual = min(dual, -u / dy[j])
    return primal, dual


@jit
def sum_after(lo, hi, y, p, q, dp, dq, dy, primal, dual):
    """The complementarity of the rows after steps of these lengths."""
    total = 0.0
    for j in range(len(lo)):
        total += (p[j] + primal * dp[j]) * (hi[j] - y[j] - dual * dy[j])
        total += (q[j] + primal * dq[j]) * (y[j] + dual * dy[j] - lo[j])
    return total


@jit
def violation_sum_steps(routines, matrix, r0, sizes, lo, hi, cap, lower, upper, tolerance, limit):
    """At most ``limit`` interior-point steps for the sum, until basic rows outweigh the others 2^``tolerance`` times.

    Returns:
        w (k,), the weights D of the rows (n,) and t/s of the bounds (k,).
    """
    n, k = matrix.shape
    scaled, normal, barrier = np.empty((n, k)), np.zeros((k, k)), np.zeros(k)
    y, p, q, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    rho, pull, scores = np.empty(n), np.empty(n), np.empty(n)
    dp, dq, dy, dw = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(k)
    w = inner_point(lower, upper)
    r = residuals(matrix, w, r0)
    mu = sum_start(r, lo, hi, cap, y, p, q)
    t = bound_multipliers(np.dot(matrix.T, y), w, lower, upper, mu)
    primal, dual = 1.0, 1.0
    for step in range(limit + 1):
        comp, objective = sum_weights(r, lo, hi, y, p, q, weight)
        more, count = bound_terms(w, lower, upper, t, barrier)
        comp += more
        if step == limit or not comp > 1e-9 * objective:
            break
        for j in range(n):
            scores[j] = weight[j] * sizes[j]
        if step > 1 and decided(scores, barrier, k) >= tolerance:
            break
        factor, ok = normal_factor(routines, matrix, weight, barrier, min(primal, dual), scaled, normal)
        if not ok:
            break
        mu, target = comp / (2 * n + count), 0.0
        for phase in range(2):
            # The predictor aims at complementarity 0, the corrector at a share of mu and at second order.
            sum_shift(r, lo, hi, y, dp, dq, dy, weight, target, rho, pull)
            force = np.dot(matrix.T, pull)
            bound_force(w, lower, upper, t, dw, target, force)
            new = solve_factorised(factor, force)
            primal, dual = bound_direction(w, lower, upper, t, dw, new, target)
            dw = new
            move = np.dot(matrix, dw)
            primal, dual = sum_direction(lo, hi, y, p, q, weight, rho, move, target, dp, dq, dy, primal, dual)
            if phase == 0:
                primal, dual = min(1.0, primal), min(1.0, dual)
                after = sum_after(lo, hi, y, p, q, dp, dq, dy, primal, dual)
                after += bound_after(w, lower, upper, t, dw, primal, dual)
                target = mu * (after / comp) ** 3
        primal, dual = min(1.0, DAMPING * primal), min(1.0, DAMPING * dual)
        go(w, primal, dw)
        go(p, primal, dp)
        go(q, primal, dq)
        go(y, dual, dy)
        bound_step(t, dual)
        r = residuals(matrix, w, r0)
    return w, weight, barrier
