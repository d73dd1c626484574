r"""A primal simplex on the same rows: from one extreme point of a polyhedron to another.

.. math:: \min_x\; g^T x \quad \text{subject to} \quad lo \le A x \le hi

A row with a multiplier of the wrong sign leaves the basis, and its edge is followed to the first row that is met.
"""

from __future__ import annotations

import numpy as np

from unrelu.lp.dense_linear_algebra import advance, dot, jit
from unrelu.lp.dual_simplex import LIMIT, OPTIMAL, PIVOT, REFACTOR, SINGULAR, SLACK, VIOLATED, marked, update, vertex
from unrelu.lp.exchange_simplex import invert_basis


@jit
def wrong(basis, upper, lo, hi, m, y, size):
    """The basic row whose multiplier has the wrong sign, farthest per unit of its edge, and which way to move.

    Returns -1, 0 at an optimum. A row that is an equation never leaves; an artificial one always may.
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
        if over > SLACK and over > best * size[i]:
            best, place, sign = over / size[i], i, way
    return place, sign


@jit
def blocking(r, move, lo, hi, basic, norms, length):
    """The nonbasic row that is met first along a direction, and the step; (-1, inf) if none is.

    As in ``leaving``: how far, if every side were a little farther away; then the largest pivot of those met first.
    """
    far = np.inf
    for j in range(len(r)):
        if basic[j] or abs(move[j]) <= PIVOT * norms[j] * length:
            continue
        allowed = VIOLATED * norms[j]
        room = (hi[j] - r[j] + allowed) / move[j] if move[j] > 0.0 else (lo[j] - r[j] - allowed) / move[j]
        far = min(far, room)
    place, size, step = -1, 0.0, np.inf
    for j in range(len(r)):
        if basic[j] or abs(move[j]) <= PIVOT * norms[j] * length:
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


@jit
def primal_simplex(routines, rows, norms, lo, hi, g, basis, upper, edges, fresh, y, x, r, limit):
    """Go from a feasible vertex to one where g.x is smallest subject to lo <= A x <= hi.

    Args: as of ``dual_simplex``; all rows are constraints, and the vertex of ``basis`` satisfies them.

    Returns:
        OPTIMAL, LIMIT (also where there is no bound) or SINGULAR; g.x; pivots.
    """
    m, k = rows.shape
    basic = marked(basis, m)
    state, hard = np.zeros(m, np.int8), np.full(m, np.inf)
    alpha, move, size = np.empty(k), np.empty(m), np.empty(k)
    if fresh and not invert_basis(routines, rows, np.arange(len(basis)), basis, edges):
        return SINGULAR, -np.inf, 0
    vertex(rows, lo, hi, hard, hard, g, basis, upper, state, edges, x, r, y)
    pivots, since = 0, 0
    while True:
        lengths(edges, size)
        place, sign = wrong(basis, upper, lo, hi, m, y, size)
        if place < 0 and since == 0:
            return OPTIMAL, dot(g, x), pivots
        if place < 0 or since >= REFACTOR:
            if not invert_basis(routines, rows, np.arange(len(basis)), basis, edges):
                return SINGULAR, -np.inf, pivots
            vertex(rows, lo, hi, hard, hard, g, basis, upper, state, edges, x, r, y)
            since = 0
            continue
        if pivots >= limit:
            return LIMIT, -np.inf, pivots
        pivots, since = pivots + 1, since + 1
        move[:] = np.dot(rows, edges[place])
        move *= sign
        entering, step = blocking(r, move, lo, hi, basic, norms, size[place])
        out = basis[place]
        own = hi[out] - lo[out] if out < m else np.inf
        if own <= step:
            if own == np.inf:
                return LIMIT, -np.inf, pivots
            # The row meets its other side before anything else.
            advance(x, sign * own, edges[place])
            advance(r, own, move)
            upper[place] = not upper[place]
            continue
        advance(x, sign * step, edges[place])
        advance(r, step, move)
        if out < m:
            basic[out] = False
        alpha[:] = np.dot(edges, rows[entering])
        multiplier = y[place] / alpha[place]
        advance(y, -multiplier, alpha)
        y[place] = multiplier
        basis[place], upper[place], basic[entering] = entering, move[entering] > 0.0, True
        update(edges, alpha, place)
