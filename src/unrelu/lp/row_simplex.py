r"""Dual and primal simplex on dense rows with few unknowns, for long sequences of nearly equal linear programs.

.. math:: \min_x\; g^T x + \sum_j \left( p_j \max(0, lo_j - a_j x) + q_j \max(0, a_j x - hi_j) \right)

over free x of dimension N. If p_j or q_j is infinite, that side is a constraint. Row j has a multiplier y_j between
-q_j and p_j, and g = sum_j y_j a_j at a dual feasible vertex. N rows are basic, that is, tight at one side. The others
have y_j = 0 (within their sides), p_j (below) or -q_j (above).

In the dual simplex, a row whose multiplier violates this enters. Its multiplier moves, and with it those of the basic
rows, until one of them reaches an end of its interval and leaves. The objective never falls, so every vertex gives a
lower bound. In the primal simplex, all rows are constraints. A row with a multiplier of the wrong sign leaves, and the
step along its edge ends at the first row that it meets.

Source: C. E. Lemke, "The dual method of solving the linear programming problem", Naval Research Logistics 1 (1954);
P. M. J. Harris, "Pivot selection methods of the Devex LP code", Mathematical Programming 5 (1973).
"""

from __future__ import annotations

import math

import numpy as np

from unrelu.lp.compilation import compile_by, jit, kernel
from unrelu.lp.dense_linear_algebra import ROUTINES, advance, clear, copy, dot, matvec
from unrelu.lp.exchange_simplex import invert_basis

OPTIMAL, CUTOFF, LIMIT, SINGULAR = 0, 1, 2, 3

# A row is violated if it misses its side by more than this, relative to its norm.
VIOLATED = 1e-9
# Multipliers may leave their interval by this in the ratio test, so that pivots can be large.
_SLACK = 1e-10
# Multipliers of a first basis may be outside by this, relative to the largest.
_FEASIBLE = 1e-7
# Smaller coefficients are no pivots.
_PIVOT = 1e-9
# Pivots between two inversions from scratch.
_REFACTOR = 60
# If constraints contradict each other, a multiplier grows at most this far to reach the cutoff.
_FARTHEST = 1e12


@jit
def vertex(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y):
    """Write x, r = A x and the basic multipliers y, by the inverse; return the objective."""
    m, k = rows.shape
    clear(x)
    for i in range(k):
        j = basis[i]
        if j < m:
            advance(x, hi[j] if upper[i] else lo[j], edges[i])
    matvec(routines, rows, x, r)
    rest, value = np.empty(k), 0.0
    copy(g, rest)
    for j in range(m):
        if state[j] > 0:
            advance(rest, -p[j], rows[j])
            value += p[j] * lo[j]
        elif state[j] < 0:
            advance(rest, q[j], rows[j])
            value -= q[j] * hi[j]
    matvec(routines, edges, rest, y)
    for i in range(k):
        j = basis[i]
        if j < m:
            value += y[i] * (hi[j] if upper[i] else lo[j])
    return value


@jit
def vertex_from_scratch(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y):
    """As :func:`vertex`, but compute the inverse first; return the objective and whether there is an inverse."""
    artificial = np.empty(len(basis), np.int64)
    for i in range(len(basis)):
        artificial[i] = i
    if not invert_basis(routines, rows, artificial, basis, edges):
        return -np.inf, False
    return vertex(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y), True


@jit
def worst(rows_norm, lo, hi, state, basic, r, weight):
    """The nonbasic row that is most violated, given the end of its multiplier; (-1, 0, 0) if there is none.

    Returns its number, the signed violation (positive: its multiplier must grow), and whether it meets its upper side.
    """
    best, chosen, gap, at_upper = 0.0, -1, 0.0, False
    for j in range(len(r)):
        if basic[j]:
            continue
        if state[j] == 0:
            below, above = lo[j] - r[j], r[j] - hi[j]
            miss, top = (below, False) if below > above else (-above, True)
            size = max(below, above)
        elif state[j] > 0:
            size = r[j] - lo[j]
            miss, top = -size, False
        else:
            size = hi[j] - r[j]
            miss, top = size, True
        if size > VIOLATED * rows_norm[j]:
            score = size * size / weight[j]
            if score > best:
                best, chosen, gap, at_upper = score, j, miss, top
    return chosen, gap, at_upper


@jit
def ends(i, j, m, lo, hi, p, q, upper):
    """The interval of the multiplier of a basic row."""
    if j >= m:
        return 0.0, 0.0
    if lo[j] == hi[j]:
        return -q[j], p[j]
    if upper[i]:
        return -q[j], 0.0
    return 0.0, p[j]


@jit
def leaving(m, lo, hi, p, q, basis, upper, alpha, y, sign):
    """The basic row whose multiplier reaches its end first when that of the entering row moves; (-1, inf) if none does.

    A first pass finds the step if every end were a little farther away, a second the largest pivot up to that step.
    """
    k, far, scale = len(basis), np.inf, 0.0
    for i in range(k):
        scale = max(scale, abs(alpha[i]))
    for i in range(k):
        change = -sign * alpha[i]
        if abs(change) <= _PIVOT * scale:
            continue
        low, high = ends(i, basis[i], m, lo, hi, p, q, upper)
        room = (high - y[i] + _SLACK) / change if change > 0.0 else (low - y[i] - _SLACK) / change
        far = min(far, room)
    if far == np.inf:
        return -1, np.inf
    place, size, step = -1, 0.0, 0.0
    for i in range(k):
        change = -sign * alpha[i]
        if abs(change) <= _PIVOT * scale:
            continue
        low, high = ends(i, basis[i], m, lo, hi, p, q, upper)
        room = (high - y[i]) / change if change > 0.0 else (low - y[i]) / change
        # Artificial rows leave before all others.
        weight = abs(change) * (1e6 if basis[i] >= m else 1.0)
        if room <= far and weight > size:
            place, size, step = i, weight, max(0.0, room)
    return place, step


@kernel
def dual_simplex(
    routines, rows, norms, lo, hi, p, q, g, basis, upper, state, edges, fresh, y, x, r, ray, cutoff, limit
):
    """Go from a dual feasible vertex to the optimum, or past ``cutoff``.

    Args:
        rows: a_j, (M, N), contiguous.
        norms: of the rows, (M,).
        lo, hi: sides, (M,), lo <= hi, infinite where missing.
        p, q: costs of violating the sides, (M,), infinite for constraints.
        g: (N,).
        basis: (N,), changed in place: numbers of rows, or M + i for x_i = 0 with multiplier 0 (an artificial row).
        upper: whether a basic row is tight at its upper side, (N,), changed in place.
        state: for nonbasic rows, 1 where y_j = p_j and -1 where y_j = -q_j, (M,) int8, changed in place.
        edges: the transposed inverse of the basic rows, (N, N), changed in place.
        fresh: whether ``edges`` has to be computed first.
        y: multipliers of the basic rows, (N,), set.
        x, r: the vertex (N,) and A x (M,), set.
        ray: set to a further row, not basic, and its multiplier, (2,), if the constraints contradict each other; else
            to -1, 0.
        cutoff: stop when the objective reaches it.
        limit: the most pivots.

    Returns:
        OPTIMAL, CUTOFF (the multipliers prove at least the cutoff; if the constraints contradict each other, they are
        scaled to reach it), LIMIT or SINGULAR (also if the basis is not dual feasible); the objective; pivots.
    """
    m, k = rows.shape
    alpha, move, weight = np.empty(k), np.empty(m), np.empty(m)
    for j in range(m):
        weight[j] = norms[j] * norms[j] + 1e-300
    basic = marked(basis, m)
    ray[0], ray[1] = -1.0, 0.0
    value, usable = begin(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, fresh, x, r, y)
    if not usable:
        return SINGULAR, -np.inf, 0
    pivots, since = 0, 0
    while True:
        entering, gap, at_upper = worst(norms, lo, hi, state, basic, r, weight)
        done = entering < 0 or value >= cutoff
        if done and since == 0:
            return (CUTOFF if value >= cutoff else OPTIMAL), value, pivots
        if done or since >= _REFACTOR:
            # The numbers are updated ones; check with new ones.
            value, usable = again(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, not done, x, r, y)
            if not usable:
                return SINGULAR, value, pivots
            since = 0
            continue
        if pivots >= limit:
            return LIMIT, value, pivots
        pivots, since = pivots + 1, since + 1
        sign = 1.0 if gap > 0.0 else -1.0
        matvec(routines, edges, rows[entering], alpha)
        place, step = leaving(m, lo, hi, p, q, basis, upper, alpha, y, sign)
        own = own_room(entering, sign, state, p, q)
        if own <= step and own < np.inf:
            # The multiplier of the entering row reaches its own end first: the vertex stays.
            advance(y, -sign * own, alpha)
            value += own * abs(gap)
            state[entering] = (1 if sign > 0.0 else -1) if state[entering] == 0 else 0
            continue
        if place < 0:
            # The constraints contradict each other: the objective is unbounded.
            step = (1.01 * (cutoff - value) + 1e-3 * abs(cutoff) + 1e-300) / abs(gap)
            if not step < _FARTHEST:
                return LIMIT, value, pivots
            advance(y, -sign * step, alpha)
            ray[0], ray[1] = entering, sign * step
            return CUTOFF, value + step * abs(gap), pivots
        value += step * abs(gap)
        y_entering = at_end(entering, state, p, q) + sign * step
        advance(y, -sign * step, alpha)
        out = basis[place]
        if out < m:
            basic[out] = False
            state[out] = left_at(place, out, m, lo, hi, p, q, upper, -sign * alpha[place])
        matvec(routines, rows, edges[place], move)
        advance(x, gap / alpha[place], edges[place])
        advance(r, gap / alpha[place], move)
        weigh(weight, move, alpha[place], entering, out, m)
        state[entering], basic[entering] = 0, True
        basis[place], upper[place], y[place] = entering, at_upper, y_entering
        update(edges, alpha, place)


@jit
def begin(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, fresh, x, r, y):
    """Compute the first vertex; return its objective, and whether its multipliers are in their intervals.

    The inverse is computed if it is not known, or not accurate enough.
    """
    m = len(rows)
    if not fresh:
        value = vertex(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y)
        if allowed(m, lo, hi, p, q, basis, upper, y):
            return value, True
    value, usable = vertex_from_scratch(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y)
    return value, usable and allowed(m, lo, hi, p, q, basis, upper, y)


@jit
def allowed(m, lo, hi, p, q, basis, upper, y):
    """Whether the basic multipliers are in their intervals; for the basis of another program they may not be."""
    largest = 1.0
    for i in range(len(y)):
        largest = max(largest, abs(y[i]))
    for i in range(len(y)):
        low, high = ends(i, basis[i], m, lo, hi, p, q, upper)
        if not (low - _FEASIBLE * largest <= y[i] <= high + _FEASIBLE * largest):
            return False
    return True


@jit
def again(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, fresh, x, r, y):
    """Compute the vertex anew, by the updated inverse if that is accurate; return as :func:`vertex_from_scratch`."""
    if not fresh:
        value = vertex(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y)
        if accurate(lo, hi, basis, upper, x, r):
            return value, True
    return vertex_from_scratch(routines, rows, lo, hi, p, q, g, basis, upper, state, edges, x, r, y)


@jit
def accurate(lo, hi, basis, upper, x, r):
    """Whether the basic rows are tight, up to a tenth of what counts as a violation."""
    m = len(r)
    for i in range(len(basis)):
        j = basis[i]
        miss = abs(r[j] - (hi[j] if upper[i] else lo[j])) if j < m else abs(x[j - m])
        if not miss <= 0.1 * VIOLATED * (1.0 + abs(r[j] if j < m else 0.0)):
            return False
    return True


@jit
def marked(basis, m):
    """Which rows are basic."""
    basic = np.zeros(m, np.bool_)
    for i in range(len(basis)):
        if basis[i] < m:
            basic[basis[i]] = True
    return basic


@jit
def at_end(j, state, p, q):
    """The multiplier of a nonbasic row."""
    if state[j] > 0:
        return p[j]
    return -q[j] if state[j] < 0 else 0.0


@jit
def own_room(j, sign, state, p, q):
    """How far the multiplier of a nonbasic row can move: from 0 to an end, or from an end to 0."""
    if state[j] == 0:
        return p[j] if sign > 0.0 else q[j]
    return p[j] if state[j] > 0 else q[j]


@jit
def left_at(i, j, m, lo, hi, p, q, upper, change):
    """The state of a leaving row: the end that its multiplier has reached."""
    low, high = ends(i, j, m, lo, hi, p, q, upper)
    if change > 0.0 and high > 0.0:
        return 1
    return -1 if change < 0.0 and low < 0.0 else 0


@jit
def weigh(weight, move, pivot, entering, out, m):
    """Update the Devex weights after a pivot: rough squared lengths of the rows in the coordinates of the basis."""
    reference = weight[entering] / (pivot * pivot)
    for j in range(len(weight)):
        new = move[j] * move[j] * reference
        weight[j] = max(weight[j], new)
    if out < m:
        weight[out] = max(reference, weight[out])


@jit
def update(edges, alpha, place):
    """Update the edges after the row with coordinates ``alpha`` took a place in the basis."""
    k = len(edges)
    new = np.zeros(k)
    advance(new, 1.0 / alpha[place], edges[place])
    for i in range(k):
        if i != place and alpha[i] != 0.0:
            advance(edges[i], -alpha[i], new)
    clear(edges[place])
    advance(edges[place], 1.0, new)


@jit
def wrong(basis, upper, lo, hi, m, y, size):
    """The basic row with the largest multiplier of wrong sign, per unit of its edge, and the direction to move.

    Returns -1, 0 at an optimum. Equations never leave; artificial rows always may.
    """
    best, place, sign = 0.0, -1, 0.0
    for i in range(len(basis)):
        j = basis[i]
        if j < m and lo[j] == hi[j]:
            continue
        if j >= m:
            over, way = abs(y[i]), -1.0 if y[i] > 0.0 else 1.0
        elif upper[i]:
            over, way = y[i], -1.0
        else:
            over, way = -y[i], 1.0
        if over > _SLACK and over > best * size[i]:
            best, place, sign = over / size[i], i, way
    return place, sign


@jit
def blocking(r, move, lo, hi, basic, norms, length):
    """The nonbasic row that is met first along a direction, and the step; (-1, inf) if none is.

    The two passes are those of :func:`leaving`, with sides in place of ends.
    """
    far = np.inf
    for j in range(len(r)):
        if basic[j] or abs(move[j]) <= _PIVOT * norms[j] * length:
            continue
        allowed = VIOLATED * norms[j]
        room = (hi[j] - r[j] + allowed) / move[j] if move[j] > 0.0 else (lo[j] - r[j] - allowed) / move[j]
        far = min(far, room)
    place, size, step = -1, 0.0, np.inf
    for j in range(len(r)):
        if basic[j] or abs(move[j]) <= _PIVOT * norms[j] * length:
            continue
        room = (hi[j] - r[j]) / move[j] if move[j] > 0.0 else (lo[j] - r[j]) / move[j]
        if room <= far and abs(move[j]) > size * norms[j]:
            place, size, step = j, abs(move[j]) / norms[j], max(0.0, room)
    return place, step


@jit
def lengths(edges, size):
    """Write the norms of the edges into ``size``."""
    for i in range(len(edges)):
        size[i] = np.sqrt(dot(edges[i], edges[i]))


@kernel
def primal_simplex(routines, rows, norms, lo, hi, g, basis, upper, edges, fresh, y, x, r, limit):
    """Go from a feasible vertex to the minimum of g.x subject to lo <= A x <= hi.

    The arguments are those of :func:`dual_simplex`. All rows are constraints, and the first vertex satisfies them.

    Returns:
        OPTIMAL, LIMIT (also if g.x is unbounded) or SINGULAR; g.x; pivots.
    """
    m, k = rows.shape
    basic = marked(basis, m)
    state, hard = np.empty(m, np.int8), np.empty(m)
    for j in range(m):
        state[j], hard[j] = 0, np.inf
    alpha, edge, move, size = np.empty(k), np.empty(k), np.empty(m), np.empty(k)
    pivots, since = 0, 0
    if not fresh:
        vertex(routines, rows, lo, hi, hard, hard, g, basis, upper, state, edges, x, r, y)
    elif not vertex_from_scratch(routines, rows, lo, hi, hard, hard, g, basis, upper, state, edges, x, r, y)[1]:
        return SINGULAR, -np.inf, 0
    while True:
        lengths(edges, size)
        place, sign = wrong(basis, upper, lo, hi, m, y, size)
        if place < 0 and since == 0:
            return OPTIMAL, dot(g, x), pivots
        if place < 0 or since >= _REFACTOR:
            if not vertex_from_scratch(routines, rows, lo, hi, hard, hard, g, basis, upper, state, edges, x, r, y)[1]:
                return SINGULAR, -np.inf, pivots
            since = 0
            continue
        if pivots >= limit:
            return LIMIT, -np.inf, pivots
        pivots, since = pivots + 1, since + 1
        clear(edge)
        advance(edge, sign, edges[place])
        matvec(routines, rows, edge, move)
        entering, step = blocking(r, move, lo, hi, basic, norms, size[place])
        out = basis[place]
        own = hi[out] - lo[out] if out < m else np.inf
        if own <= step:
            if own == np.inf:
                return LIMIT, -np.inf, pivots
            # The row reaches its other side before another row is met.
            advance(x, own, edge)
            advance(r, own, move)
            upper[place] = not upper[place]
            continue
        advance(x, step, edge)
        advance(r, step, move)
        if out < m:
            basic[out] = False
        matvec(routines, edges, rows[entering], alpha)
        multiplier = y[place] / alpha[place]
        advance(y, -multiplier, alpha)
        y[place] = multiplier
        basis[place], upper[place], basic[entering] = entering, move[entering] > 0.0, True
        update(edges, alpha, place)


def compile_simplex() -> None:
    """Compile or load the dual and the primal simplex."""
    compile_by(_run_simplex, dual_simplex.stats.cache_path, "simplex")


def _run_simplex() -> None:
    """Solve min x subject to 1 <= x <= 2."""
    rows, norms, hard = np.array([[1.0]]), np.ones(1), np.full(1, math.inf)
    lo, hi, cost = np.ones(1), np.full(1, 2.0), np.ones(1)
    basis, upper, state = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool), np.zeros(1, dtype=np.int8)
    edges, y, x, r = np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.zeros(1)
    ray = np.zeros(2)
    dual_simplex(
        ROUTINES, rows, norms, lo, hi, hard, hard, cost, basis, upper, state, edges, True, y, x, r, ray, math.inf, 9
    )
    primal_simplex(ROUTINES, rows, norms, lo, hi, cost, basis, upper, edges, True, y, x, r, 9)
