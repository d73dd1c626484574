r"""Compiled starts of layer programs: a least-squares point, and interior-point steps that find the active rows.

The two programs are in shifted, scaled variables: w = 0 is the start, r = W w + r0 the residuals, l <= w <= u.

.. math:: \min_w \sum_j hi_j \max(0, r_j) + lo_j \min(0, r_j) \qquad\text{and}\qquad
    \min_{w, d} d \quad r_j \le p_j d, \; -r_j \le q_j d

Each program has pairs of a slack s and its multiplier t, s, t >= 0, with s t = 0 at the optimum. The pairs of the
bounds are :math:`(w_i - l_i, t)` and :math:`(u_i - w_i, t)`. For the sum, r = p - q with p, q >= 0, and a row has a
multiplier y between lo and hi and the pairs (p, hi - y) and (q, y - lo). For the largest violation, its pairs are
(p d - r, t) and (q d + r, t).

The steps are Mehrotra's (SIAM J. Optim. 2, 1992). Each factorises one k x k matrix W^T D W + bounds. A predictor aims
at s t = 0, and a corrector of second order at a fraction of the mean product. The steps stop early, as soon as the
weights D separate the rows that are active at the optimum from the others. The exact exchange simplex then starts from
the vertex of the heaviest rows.
"""

from __future__ import annotations

import math

import numpy as np

from unrelu.lp.compilation import jit, kernel
from unrelu.lp.dense_linear_algebra import advance, clear, copy, dot, factorise, gram, matvec, rmatvec, solve_factorised

# With this many rows for each unknown, the first point is good; the ridges for more and for fewer rows.
_AMPLE, _RIDGE, _LARGER_RIDGE = 1.3, 1e-12, 1e-9
_ROUNDS = 2
# Fraction of the way to the boundary that a step goes.
_DAMPING = 0.995
# The first point keeps this distance from the bounds, in units of the scaled residuals (columns have norm 1).
_MARGIN = 0.1
# Bins of a factor of two for the scores of the rows.
_BINS = 256
# Rows with less than this fraction of the largest weight are left out of the normal matrix; the fraction after a step
# shorter than _SHORT.
_NEGLIGIBLE, _TINY, _SHORT = 1e-4, 1e-8, 0.5
_NORMAL_RIDGE = 1e-13
# The most corrections of multipliers that are to prove a bound, the factor by which each must reduce the error, and the
# entries of W^T y that count as zero, relative to |y|_1 / n^(1/2).
_CORRECTIONS, _HELPS, _VANISHED = 40, 0.9, 2e-14


@jit
def active_rows(r, up, down, violated, active):
    """Mark the rows with two sides, and violated ones if ``violated``; return the number of marked and changed rows."""
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
    """Fix coordinates, ``held`` = 1: move them to the right-hand side, and replace their equations by the identity."""
    k = len(h)
    for i in range(k):
        for j in range(i + 1):
            if held[i] > held[j]:
                force[j] -= normal[i, j] * h[i]
            elif held[j] > held[i]:
                force[i] -= normal[i, j] * h[j]
            if held[i] + held[j] > 0.0:
                normal[i, j] = 1.0 if i == j else 0.0
    for i in range(k):
        if held[i] > 0.0:
            force[i] = h[i]


@kernel
def least_squares_point(routines, matrix, center, up, down, lower, upper):
    """A least-squares point of the rows with two sides, (k,), moved inside the bounds.

    If there are hardly more such rows than unknowns, or if coordinates were moved, a second round includes the violated
    rows and fixes those coordinates. With few rows the point may be far away, so the ridge is larger.
    """
    n, k = matrix.shape
    h, held, normal, scaled = np.zeros(k), np.zeros(k), np.empty((k, k)), np.empty((n, k))
    active, r, side, force, moved = np.zeros(n), np.zeros(n), np.empty(n), np.empty(k), False
    for turn in range(_ROUNDS):
        count, changed = active_rows(r, up, down, turn > 0, active)
        if turn > 0 and changed <= 0.02 * count and not moved:
            break
        for j in range(n):
            side[j] = active[j] * center[j]
        gram(routines, matrix, active, 0.5, scaled, normal)
        rmatvec(routines, matrix, side, force)
        if turn > 0:
            hold(normal, force, h, held)
        ample = count > _AMPLE * k
        factor, ok = factorise(routines, normal, _RIDGE if ample else _LARGER_RIDGE)
        if not ok:
            break
        h = solve_factorised(factor, force)
        for i in range(k):
            if h[i] < lower[i] or h[i] > upper[i]:
                h[i], held[i], moved = min(max(h[i], lower[i]), upper[i]), 1.0, True
        if ample and not moved:
            break
        matvec(routines, matrix, h, r)
        advance(r, -1.0, center)
    return h


@jit
def residuals(routines, matrix, w, r0, r):
    """Write W w + r0 into ``r``."""
    matvec(routines, matrix, w, r)
    advance(r, 1.0, r0)


@jit
def inner_point(lower, upper):
    """The point nearest to 0 that is well inside the bounds."""
    k = len(lower)
    w = np.empty(k)
    for i in range(k):
        margin = min(_MARGIN, 0.25 * (upper[i] - lower[i]))
        w[i] = min(max(0.0, lower[i] + margin), upper[i] - margin)
    return w


@jit
def bound_pairs(lower, upper):
    """The finite bounds as sign (w[index] - side) <= slope d with slope 0: index, sign, side and slope."""
    k = len(lower)
    index, sign, side, slope, count = np.empty(2 * k, np.int64), np.empty(2 * k), np.empty(2 * k), np.zeros(2 * k), 0
    for i in range(k):
        for above in range(2):
            end = upper[i] if above else lower[i]
            if abs(end) < np.inf:
                index[count], sign[count], side[count] = i, 1.0 if above else -1.0, end
                count += 1
    return index[:count], sign[:count], side[:count], slope[:count]


@jit
def side_pairs(up, down):
    """The existing sides of rows as sign (r[index] - side) <= slope d with side 0."""
    n = len(up)
    index, sign, side, slope, count = np.empty(2 * n, np.int64), np.empty(2 * n), np.zeros(2 * n), np.empty(2 * n), 0
    for below in range(2):
        slopes = down if below else up
        for j in range(n):
            if slopes[j] > 0.0:
                index[count], sign[count], slope[count] = j, -1.0 if below else 1.0, slopes[j]
                count += 1
    return index[:count], sign[:count], side[:count], slope[:count]


@jit
def pair_slacks(pairs, x, d, s):
    """Write the slacks of pairs at x and d."""
    index, sign, side, slope = pairs
    for i in range(len(index)):
        s[i] = slope[i] * d - sign[i] * (x[index[i]] - side[i])


@jit
def pair_force(pairs, aim, s, force):
    """Add the contributions of pairs to the right-hand side of x; return their contribution to that of d."""
    index, sign, _, slope = pairs
    total = 0.0
    for i in range(len(index)):
        force[index[i]] -= sign[i] * aim[i] / s[i]
        total += slope[i] * aim[i] / s[i]
    return total


@jit
def pair_direction(pairs, dx, dd, aim, s, t, ds, dt):
    """Set the directions of the slacks and multipliers of pairs, given dx and dd."""
    index, sign, _, slope = pairs
    for i in range(len(index)):
        ds[i] = slope[i] * dd - sign[i] * dx[index[i]]
        dt[i] = (aim[i] - t[i] * ds[i]) / s[i] - t[i]


@jit
def bound_multipliers(bounds, pull, w, mu, s, t):
    """Set the first multipliers of the bounds: those that balance W^T y = ``pull``, and a little more."""
    index, sign, _, _ = bounds
    pair_slacks(bounds, w, 0.0, s)
    for i in range(len(index)):
        t[i] = max(-sign[i] * pull[index[i]], 0.0) + mu / (s[i] + 0.1 * _MARGIN)


@jit
def bound_weights(bounds, w, s, t, barrier):
    """Write the slacks of the bounds, and the sum of t/s over the bounds of each coordinate."""
    pair_slacks(bounds, w, 0.0, s)
    clear(barrier)
    for i in range(len(s)):
        barrier[bounds[0][i]] += t[i] / s[i]


@jit
def set_aims(aim, target, share, ds, dt):
    """Set the aim of the product of every pair: the target minus a share of the second-order term of the predictor."""
    for i in range(len(aim)):
        aim[i] = target - share * ds[i] * dt[i]


@jit
def longest(x, direction):
    """The longest step that keeps x >= 0."""
    step = np.inf
    for i in range(len(x)):
        if direction[i] < 0.0:
            step = min(step, -x[i] / direction[i])
    return step


@jit
def centred(s, t, ds, dt, total):
    """The target of the corrector: the mean product of the pairs, times the cube of the share after the predictor."""
    primal, dual, after = min(1.0, longest(s, ds)), min(1.0, longest(t, dt)), 0.0
    for i in range(len(s)):
        after += (s[i] + primal * ds[i]) * (t[i] + dual * dt[i])
    share = after / total
    return total / len(s) * share * share * share


@jit
def normal_factor(routines, matrix, weight, barrier, length, scaled, normal):
    """The Cholesky factor of W^T diag(weight) W + diag(barrier), and whether it exists.

    Rows of small weight are left out; after a short step (``length``), fewer are, as they may have been missing.
    """
    gram(routines, matrix, weight, _NEGLIGIBLE if length > _SHORT else _TINY, scaled, normal)
    for i in range(len(barrier)):
        normal[i, i] += barrier[i]
    return factorise(routines, normal, _NORMAL_RIDGE)


@jit
def decided(scores, barrier, k):
    """How far the k largest scores stand out: the binary logarithm of the score at rank k / 2 over that at 3 k / 2.

    With fewer than 2 k rows and bounds, the second rank is halfway between k and their number. Scores are counted in
    bins a factor of two wide, which is accurate enough and needs no sorting.
    """
    bins, count = np.zeros(_BINS), 0
    for bounds in range(2):
        values = barrier if bounds else scores
        for j in range(len(values)):
            if values[j] > 0.0:
                place = int(math.log2(values[j])) + _BINS // 2
                bins[min(max(place, 0), _BINS - 1)] += 1.0
                count += 1
    if count <= k:
        return np.inf
    rank = min((3 * k) // 2, (k + count) // 2)
    high, above, at = -1, 0.0, _BINS
    while above <= rank:
        at -= 1
        above += bins[at]
        if high < 0 and above > k // 2:
            high = at
    return float(high - at)


@jit
def sum_start(r, lo, hi, cap, y, s):
    """Set the first multipliers, and slacks with r = p - q; return the mean product of the pairs.

    The multipliers are those of a Huber function with its knee at 2.5 typical errors, kept away from their ends. A
    penalty, hi > cap, is too large to start from, so cap takes its place.
    """
    n, total = len(r), 0.0
    for j in range(n):
        relative = min(0.9, max(-0.9, r[j] / 2.5))
        top = min(hi[j], cap)
        y[j] = relative * top if relative > 0.0 else -relative * lo[j]
        if lo[j] == 0.0:
            y[j] = max(y[j], 0.03 * top)
        if hi[j] == 0.0:
            y[j] = min(y[j], 0.03 * lo[j])
        s[j] = max(r[j], 0.0) + 0.1
        s[n + j] = s[j] - r[j]
        total += s[j] * (hi[j] - y[j]) + s[n + j] * (y[j] - lo[j])
    return total / (2 * n)


@jit
def sum_weights(r, lo, hi, y, s, t, weight):
    """Write the multipliers of the pairs and D = 1 / (p / (hi - y) + q / (y - lo)); return the objective."""
    n, objective = len(r), 0.0
    for j in range(n):
        t[j], t[n + j] = hi[j] - y[j], y[j] - lo[j]
        weight[j] = t[j] * t[n + j] / (s[j] * t[n + j] + s[n + j] * t[j])
        objective += hi[j] * r[j] if r[j] > 0.0 else lo[j] * r[j]
    return objective


@kernel
def violation_sum_steps(routines, matrix, r0, sizes, lo, hi, cap, lower, upper, tolerance, limit):
    """Make at most ``limit`` interior-point steps for the sum, until basic rows outweigh others by 2^``tolerance``.

    Returns:
        w (k,), the weights D of the rows (n,) and t/s of the bounds (k,).
    """
    n, k = matrix.shape
    bounds = bound_pairs(lower, upper)
    size = 2 * n + len(bounds[0])
    scaled, normal, barrier = np.empty((n, k)), np.empty((k, k)), np.zeros(k)
    s, t, ds, dt, aim = np.empty(size), np.empty(size), np.zeros(size), np.zeros(size), np.empty(size)
    y, weight, rho, pull, scores = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    w, dw, force, r, move = inner_point(lower, upper), np.zeros(k), np.empty(k), np.empty(n), np.empty(n)
    residuals(routines, matrix, w, r0, r)
    mu = sum_start(r, lo, hi, cap, y, s)
    rmatvec(routines, matrix, y, force)
    bound_multipliers(bounds, force, w, mu, s[2 * n :], t[2 * n :])
    primal, dual = 1.0, 1.0
    for step in range(limit + 1):
        objective = sum_weights(r, lo, hi, y, s, t, weight)
        bound_weights(bounds, w, s[2 * n :], t[2 * n :], barrier)
        total, target = dot(s, t), 0.0
        if step == limit or not total > 1e-9 * objective:
            break
        for j in range(n):
            scores[j] = weight[j] * sizes[j]
        if step > 1 and decided(scores, barrier, k) >= tolerance:
            break
        factor, ok = normal_factor(routines, matrix, weight, barrier, min(primal, dual), scaled, normal)
        if not ok:
            break
        for phase in range(2):
            # dy = D (W dw - rho), and the right-hand side is W^T (D rho - y).
            set_aims(aim, target, float(phase), ds, dt)
            for j in range(n):
                rho[j] = aim[j] / t[j] - aim[n + j] / t[n + j] - r[j]
                pull[j] = weight[j] * rho[j] - y[j]
            rmatvec(routines, matrix, pull, force)
            pair_force(bounds, aim[2 * n :], s[2 * n :], force)
            dw = solve_factorised(factor, force)
            matvec(routines, matrix, dw, move)
            for j in range(n):
                dy = weight[j] * (move[j] - rho[j])
                dt[j], dt[n + j] = -dy, dy
                ds[j] = (aim[j] + s[j] * dy) / t[j] - s[j]
                ds[n + j] = (aim[n + j] - s[n + j] * dy) / t[n + j] - s[n + j]
            pair_direction(bounds, dw, 0.0, aim[2 * n :], s[2 * n :], t[2 * n :], ds[2 * n :], dt[2 * n :])
            if phase == 0:
                target = centred(s, t, ds, dt, total)
        primal, dual = min(1.0, _DAMPING * longest(s, ds)), min(1.0, _DAMPING * longest(t, dt))
        advance(w, primal, dw)
        advance(s, primal, ds)
        advance(y, dual, dt[n : 2 * n])
        advance(t, dual, dt)
        residuals(routines, matrix, w, r0, r)
    return w, weight, barrier


@jit
def largest_start(sides, r, t, pull):
    """Set multipliers proportional to the violations, of sum 1, and sum them by rows; return d above the violations."""
    row, sign, _, slope = sides
    d, total, size = 1e-300, 0.0, 0.0
    for i in range(len(row)):
        over = sign[i] * r[row[i]]
        d, t[i] = max(d, 1.1 * over / slope[i]), max(over, 0.0)
        total += slope[i] * t[i]
    # If nothing is violated, all multipliers are equal.
    total = total if total > 0.0 else 1.0
    for i in range(len(row)):
        t[i] = t[i] / total + 0.1 / (len(r) * slope[i])
        size += slope[i] * t[i]
    for i in range(len(row)):
        t[i] /= size
        pull[row[i]] += sign[i] * t[i]
    return d


@jit
def largest_weights(sides, sizes, r, d, s, t, both, tilt, scores):
    """Write the slacks, the weights of the rows in the normal matrix and in its border (for d); return its corner.

    The scores, (2 n,), are the weights of both sides times the squared norms of their rows in the unknowns (w, d).
    """
    row, sign, _, slope = sides
    corner = 0.0
    clear(both)
    clear(tilt)
    pair_slacks(sides, r, d, s)
    for i in range(len(row)):
        j, weight = row[i], t[i] / s[i]
        both[j] += weight
        tilt[j] -= sign[i] * slope[i] * weight
        corner += slope[i] * slope[i] * weight
        scores[j if sign[i] > 0.0 else len(r) + j] = weight * (sizes[j] + slope[i] * slope[i])
    return corner


@jit
def largest_at(sides, r):
    """The largest violation, 0 if there is none."""
    row, sign, _, slope = sides
    largest = 0.0
    for i in range(len(row)):
        largest = max(largest, sign[i] * r[row[i]] / slope[i])
    return largest


@jit
def row_multipliers(sides, t, y):
    """Sum the multipliers of the sides into signed multipliers of the rows."""
    row, sign, _, _ = sides
    clear(y)
    for i in range(len(row)):
        y[row[i]] += sign[i] * t[i]


@jit
def within_sides(up, down, y, weight):
    """Set multipliers of missing sides and the weights of their rows to 0; return sum p y+ + q y-."""
    total = 0.0
    for j in range(len(y)):
        if (up[j] if y[j] > 0.0 else down[j]) <= 0.0:
            y[j], weight[j] = 0.0, 0.0
        total += up[j] * y[j] if y[j] > 0.0 else -down[j] * y[j]
    return total


@jit
def bound_by_multipliers(routines, matrix, factor, given, barrier, up, down, bounds, r, w, t, y, level):
    """Change the multipliers y of rows so that they prove a bound above ``level``; return whether they do.

    With g = W^T y and bounds l <= w' <= u, d >= (y.r + min_w' g.(w' - w)) / sum (p y+ + q y-) at any w'. Entries of g
    must vanish where there is no bound. ``t`` are estimates of the multipliers of the bounds. The rest of g is removed
    by a change of y, computed with the last normal matrix, W^T diag(given) W + diag(barrier). That matrix lacks the
    rows of smallest weight and those that lose their multiplier, so the change is repeated while it helps.
    """
    n, k = matrix.shape
    held, weight, small = np.zeros(k), np.empty(n), _VANISHED / np.sqrt(max(n, 1))
    rest, move, bounded = np.empty(k), np.empty(n), np.zeros(k)
    copy(given, weight)
    for i in range(len(t)):
        held[bounds[0][i]] += bounds[1][i] * t[i]
    total, left = within_sides(up, down, y, weight), np.inf
    rmatvec(routines, matrix, y, rest)
    for _ in range(_CORRECTIONS):
        advance(rest, 1.0, held)
        change = solve_factorised(factor, rest)
        matvec(routines, matrix, change, move)
        for j in range(n):
            y[j] -= weight[j] * move[j]
        for i in range(k):
            held[i] -= barrier[i] * change[i]
        total, before, left = within_sides(up, down, y, weight), left, 0.0
        rmatvec(routines, matrix, y, rest)
        for i in range(k):
            left = max(left, abs(rest[i] + held[i]))
        if left <= small * total or left > _HELPS * before or dot(y, r) <= level * total:
            break
    bound = dot(y, r)
    for i in range(len(t)):
        at, sign = bounds[0][i], bounds[1][i]
        if sign * rest[at] < 0.0:
            bound += rest[at] * (bounds[2][i] - w[at])
            bounded[at] = 1.0
    for i in range(k):
        if bounded[i] == 0.0 and abs(rest[i]) > small * total:
            return False
    return total > 0.0 and bound > level * total


@kernel
def largest_violation_steps(routines, matrix, r0, sizes, up, down, lower, upper, tolerance, limit, level):
    """Make at most ``limit`` interior-point steps for the largest violation, until basic rows outweigh the others.

    The unknowns (w, d) have an arrow matrix: the normal matrix of w, bordered by one row, which is eliminated. A
    ``level`` of at least 0 is only compared with the least violation: the steps end at a point with a violation of at
    most the level, or at multipliers that prove that there is none.

    Returns:
        w (k,), d, the scores of both sides (2 n,), t/s of the bounds (k,), and those multipliers of the rows (n,), or
        zeros.
    """
    n, k = matrix.shape
    bounds, sides = bound_pairs(lower, upper), side_pairs(up, down)
    m, size = len(sides[0]), len(sides[0]) + len(bounds[0])
    scaled, normal, barrier = np.empty((n, k)), np.empty((k, k)), np.zeros(k)
    s, t, ds, dt, aim = np.empty(size), np.empty(size), np.zeros(size), np.zeros(size), np.empty(size)
    pull, both, tilt, scores, y = np.zeros(n), np.empty(n), np.empty(n), np.zeros(2 * n), np.zeros(n)
    w, dw, dd, force, border = inner_point(lower, upper), np.zeros(k), 0.0, np.empty(k), np.empty(k)
    r, move, primal, dual = np.empty(n), np.empty(n), 1.0, 1.0
    residuals(routines, matrix, w, r0, r)
    d = largest_start(sides, r, t, pull)
    largest_weights(sides, sizes, r, d, s, t, both, tilt, scores)
    rmatvec(routines, matrix, pull, force)
    bound_multipliers(bounds, force, w, dot(s[:m], t[:m]) / m, s[m:], t[m:])
    for step in range(limit + 1):
        corner = largest_weights(sides, sizes, r, d, s, t, both, tilt, scores)
        bound_weights(bounds, w, s[m:], t[m:], barrier)
        total, target = dot(s, t), 0.0
        if step == limit or not total > 1e-9 * d or largest_at(sides, r) <= level:
            break
        if step > 1 and level < 0.0 and decided(scores, barrier, k + 1) >= tolerance:
            break
        factor, ok = normal_factor(routines, matrix, both, barrier, min(primal, dual), scaled, normal)
        if not ok:
            break
        rmatvec(routines, matrix, tilt, border)
        column = solve_factorised(factor, border)
        pivot = max(corner - dot(border, column), 1e-14 * corner)
        for phase in range(2):
            set_aims(aim, target, float(phase), ds, dt)
            clear(pull)
            right = pair_force(sides, aim, s, pull) - 1.0
            rmatvec(routines, matrix, pull, force)
            pair_force(bounds, aim[m:], s[m:], force)
            dw = solve_factorised(factor, force)
            dd = (right - dot(border, dw)) / pivot
            advance(dw, -dd, column)
            matvec(routines, matrix, dw, move)
            pair_direction(sides, move, dd, aim, s, t, ds, dt)
            pair_direction(bounds, dw, 0.0, aim[m:], s[m:], t[m:], ds[m:], dt[m:])
            if phase == 0:
                target = centred(s, t, ds, dt, total)
        primal, dual = min(1.0, _DAMPING * longest(s, ds)), min(1.0, _DAMPING * longest(t, dt))
        advance(w, primal, dw)
        d += primal * dd
        advance(t, dual, dt)
        residuals(routines, matrix, w, r0, r)
        if level >= 0.0:
            row_multipliers(sides, t, y)
            if bound_by_multipliers(routines, matrix, factor, both, barrier, up, down, bounds, r, w, t[m:], y, level):
                break
            clear(y)
    return w, d, scores, barrier, y
