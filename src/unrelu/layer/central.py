r"""A few interior-point steps towards the optimum of a layer program, to learn which rows decide it.

Both programs are in shifted, scaled variables: w = 0 is the start, r = W w + r0 the residuals, and l <= w <= u. The
steps are Mehrotra's (SIAM J. Optim. 2, 1992), each one factorisation of a k x k matrix W^T D W + bounds. They stop
early: the weights D then tell the rows that are active at the optimum from the others, and the exchange simplex,
which is exact, starts from the vertex of the heaviest ones.

The sum, min sum_j hi_j max(0, r_j) - lo_j min(0, r_j), has r = p - q with p, q >= 0 and multipliers lo <= y <= hi,
complementary in p (hi - y) = 0 and q (y - lo) = 0. The largest, min d with r_j <= p_j d and -r_j <= q_j d, has slacks
a = p d - r and b = q d + r with multipliers y+ and y-.
"""

from __future__ import annotations

import numpy as np

from unrelu.layer.barrier import (
    bound_after,
    bound_direction,
    bound_force,
    bound_multipliers,
    bound_step,
    bound_terms,
    inner_point,
)
from unrelu.layer.dense import advance, clear, dot, factorise, gram, jit, solve_factorised

__all__ = ["central_largest", "central_sum"]

# Bins of a factor of two for the scores of the rows.
_BINS = 256
# Rows with less than this share of the largest weight are left out of the normal matrix, and after a short step.
_NEGLIGIBLE, _TINY, _SHORT = 1e-4, 1e-8, 0.5
# Share of the way to the boundary that a step goes.
_DAMPING = 0.995
_RIDGE = 1e-13


@jit
def go(x, step, direction):
    """x += step * direction, and direction = 0."""
    advance(x, step, direction)
    clear(direction)


@jit
def residuals(matrix, w, r0):
    """W w + r0."""
    r = np.dot(matrix, w)
    advance(r, 1.0, r0)
    return r


@jit
def normal_factor(routines, matrix, weight, barrier, length, scaled, normal):
    """The Cholesky factor of W^T diag(weight) W + diag(barrier), and whether it exists.

    After a step of full ``length`` rows of small weight are left out; a short one says that they may have been missing.
    """
    gram(routines, matrix, weight, _NEGLIGIBLE if length > _SHORT else _TINY, scaled, normal)
    for i in range(len(barrier)):
        normal[i, i] += barrier[i]
    return factorise(routines, normal, _RIDGE)


@jit
def decided(scores, barrier, k):
    """How far the k rows and bounds that will be basic stand out: the score at rank k / 2 over that at rank 3 k / 2.

    Where there are fewer than 2 k of them, the second rank is halfway between k and their number. Scores are counted in
    bins a factor of two wide, which is exact enough and takes no sorting. Returns the binary logarithm.
    """
    bins, count = np.zeros(_BINS, np.int64), 0
    for values in (scores, barrier):
        for j in range(len(values)):
            if values[j] > 0.0:
                place = int(np.log2(values[j])) + _BINS // 2
                bins[min(max(place, 0), _BINS - 1)] += 1
                count += 1
    if count <= k:
        return np.inf
    ranks = k // 2, min((3 * k) // 2, (k + count) // 2)
    high, above, at = -1, 0, _BINS
    while above <= ranks[1]:
        at -= 1
        above += bins[at]
        if high < 0 and above > ranks[0]:
            high = at
    return float(high - at)


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
def sum_shift(r, lo, hi, y, p, q, dp, dq, dy, weight, target, rho, pull):
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
def central_sum(routines, matrix, r0, sizes, lo, hi, cap, lower, upper, tolerance, limit):
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
            sum_shift(r, lo, hi, y, p, q, dp, dq, dy, weight, target, rho, pull)
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
        primal, dual = min(1.0, _DAMPING * primal), min(1.0, _DAMPING * dual)
        go(w, primal, dw)
        go(p, primal, dp)
        go(q, primal, dq)
        go(y, dual, dy)
        bound_step(t, dual)
        r = residuals(matrix, w, r0)
    return w, weight, barrier


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
def central_largest(routines, matrix, r0, sizes, up, down, lower, upper, tolerance, limit):
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
        primal, dual = min(1.0, _DAMPING * primal), min(1.0, _DAMPING * dual)
        w += primal * dw
        d += primal * dd
        y += dual * dy
        bound_step(t, dual)
        dy[:], dw, dd, move = 0.0, np.zeros(k), 0.0, np.zeros(n)
        r = np.dot(matrix, w)
        advance(r, 1.0, r0)
    return w, d, side_scores(weight, sizes, up, down), barrier
