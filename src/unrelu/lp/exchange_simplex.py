r"""The exchange simplex: the exact minimum of a sum of convex piecewise linear functions, one basis change at a time.

.. math:: \min_v\; g^T v + \sum_j \varphi_j(a_j v + s_j), \qquad \varphi_j(r) = hi_j \max(0, r) + lo_j \min(0, r)

with lo_j <= hi_j, over dense rows a_j and unit rows (bounds with a penalty). A vertex has K basic rows, whose residuals
are zero. Other rows have the multiplier y_j = hi_j or lo_j by the sign of their residual. The multipliers of basic rows
follow from :math:`g + A^T y = 0`, and the vertex is optimal if they are in [lo_j, hi_j]. If not, the row that violates
this most (per unit length of its edge) leaves. The step along its edge passes break points while the objective
decreases, and the row of the last break point enters. The length of that step is a weighted median.

Source: Barrodale and Roberts, "An improved algorithm for discrete l1 linear approximation", SIAM J. Numer. Anal. 10
(1973).
"""

from __future__ import annotations

import numpy as np

from unrelu.lp.compilation import jit, kernel
from unrelu.lp.dense_linear_algebra import advance, clear, copy, dot, inverse, matvec, rmatvec

OPTIMAL, EXHAUSTED, UNBOUNDED, SINGULAR = 0, 1, 2, 3

# A row whose residual changes by less than this, relative to the step and the row, does not enter the basis.
_PIVOT = 1e-8
# A row depends on others if elimination leaves at most this fraction of it.
_DEPENDENT = 1e-7
# A residual this small is zero, and its multiplier may stay at either end.
_ZERO = 1e-11
# After _STALLED steps of length zero, break points are moved by up to _MOVED until that program is solved; at most
# _MOVES times.
_STALLED, _MOVED, _MOVES = 30, 1e-7, 5
# The relative rounding error of a slope.
_ROUNDING = 1e-10
# Basis changes between two factorisations from scratch.
_REFACTOR = 100


@jit
def basis_matrix(rows, column, basis):
    """The basic rows as a matrix."""
    k = rows.shape[1]
    matrix = np.zeros((k, k))
    for i in range(k):
        add(rows, column, basis[i], 1.0, matrix[i])
    return matrix


@jit
def basis_row(rows, column, j):
    """Row j as a dense vector."""
    row = np.zeros(rows.shape[1])
    add(rows, column, j, 1.0, row)
    return row


@kernel
def invert_basis(routines, rows, column, basis, edges):
    """Set ``edges`` to the transposed inverse of the basic rows; return whether it exists."""
    inverted, ok = inverse(routines, basis_matrix(rows, column, basis))
    if ok:
        for i in range(len(edges)):
            clear(edges[i])
            advance(edges[i], 1.0, inverted[i])
    return ok


@kernel
def complete_basis(rows, column, order, basis):
    """Choose the basis from the rows in ``order``, skipping those that depend on earlier ones; return their number.

    By Gaussian elimination, row by row, with the largest pivot of each row: K^2 operations a row.
    """
    k = rows.shape[1]
    reduced, pivots, used = np.zeros((k, k)), np.zeros(k, np.int64), np.zeros(k, np.bool_)
    count = 0
    for position in range(len(order)):
        if count == k:
            break
        row, size = basis_row(rows, column, order[position]), 0.0
        for i in range(k):
            size = max(size, abs(row[i]))
        for i in range(count):
            factor = row[pivots[i]]
            if factor != 0.0:
                advance(row, -factor, reduced[i])
                row[pivots[i]] = 0.0
        best, at = 0.0, -1
        for i in range(k):
            if not used[i] and abs(row[i]) > best:
                best, at = abs(row[i]), i
        if at < 0 or best <= _DEPENDENT * size:
            continue
        advance(reduced[count], 1.0 / row[at], row)
        pivots[count], used[at], basis[count] = at, True, order[position]
        count += 1
    return count


@jit
def entering(slope, length, index, weight, count):
    """Find the break point at which the sum of weights, from the nearest on, reaches ``slope``: a weighted quickselect.

    ``length``, ``index`` and ``weight`` are permuted; nearer break points come first. Returns its position, or -1.
    """
    # Allow for rounding: if the objective ends flat, the sum at its last break point reaches the slope.
    low, high, need = 0, count, (1.0 - _ROUNDING) * slope
    while high > low:
        pivot = length[(low + high) // 2]
        # Three-way partition: nearer, equal, farther.
        less, i, more = low, low, high
        while i < more:
            if length[i] < pivot:
                length[i], length[less] = length[less], length[i]
                index[i], index[less] = index[less], index[i]
                weight[i], weight[less] = weight[less], weight[i]
                less += 1
                i += 1
            elif length[i] > pivot:
                more -= 1
                length[i], length[more] = length[more], length[i]
                index[i], index[more] = index[more], index[i]
                weight[i], weight[more] = weight[more], weight[i]
            else:
                i += 1
        nearer = 0.0
        for i in range(low, less):
            nearer += weight[i]
        if nearer >= need:
            high = less
            continue
        need -= nearer
        # Among equal lengths, the heaviest enters: it has the largest pivot.
        heaviest, total = less, 0.0
        for i in range(less, more):
            total += weight[i]
            if weight[i] > weight[heaviest]:
                heaviest = i
        if total >= need:
            length[less], length[heaviest] = length[heaviest], length[less]
            index[less], index[heaviest] = index[heaviest], index[less]
            weight[less], weight[heaviest] = weight[heaviest], weight[less]
            return less
        need -= total
        low = more
    return -1


@kernel
def exchange(routines, rows, shift, lo, hi, allowed, column, gradient, basis, edges, y, state, limit):
    """Minimise from the vertex of ``basis``.

    Args:
        rows: a_j, (m, K), contiguous.
        shift: s, (m + u,): residuals at v = 0 of the rows, then of the unit rows.
        lo, hi: (m + u,), finite.
        allowed: the largest distance of a multiplier from its interval, (m + u,).
        column: coordinates of the unit rows, (u,).
        gradient: g, (K,).
        basis: K numbers of rows (unit rows from m on); changed in place.
        edges: the transposed inverse of the basic rows, (K, K); changed in place.
        y: the multipliers, (m + u,); zeros for the first call, set in place.
        state: zeros (3,) for the first call. With ``basis``, ``edges``, ``y`` and ``state``, a call continues the last.
        limit: the most pivots.

    Returns:
        v (K,), pivots, and OPTIMAL, EXHAUSTED (by the limit; v belongs to moved break points if state[2] is set),
        UNBOUNDED or SINGULAR.
    """
    m, k = rows.shape
    total = m + len(column)
    r = np.empty(total)
    v, g = np.zeros(k), np.empty(k)
    basic = np.zeros(total, np.bool_)
    length, index, weight = np.empty(total), np.empty(total, np.int64), np.empty(total)
    move, norm, inner = np.empty(total), np.empty(k), np.empty(k)
    size = np.empty(total)
    mark(rows, basis, basic, size)
    pivots, fresh, exact = 0, True, False
    stalled, moves, original = state[0], state[1], shift
    if state[2] > 0:
        shift = moved(original, moves)
    while True:
        if fresh:
            # One step of refinement with the updated inverse is usually accurate enough.
            if not restart(
                routines, rows, shift, lo, hi, column, gradient, basis, basic, edges, v, r, y, g, norm, inner
            ):
                if not invert_basis(routines, rows, column, basis, edges):
                    return v, pivots, SINGULAR
                restart(routines, rows, shift, lo, hi, column, gradient, basis, basic, edges, v, r, y, g, norm, inner)
            fresh, exact = False, True
        leaving, sign, slope = steepest(basis, lo, hi, allowed, norm, inner)
        if leaving < 0:
            if exact and shift is original:
                scatter(inner, basis, y)
                return v, pivots, OPTIMAL
            if exact:
                shift = original
            # Optimal by updated numbers, or with moved break points: check with numbers from scratch.
            fresh = True
            continue
        if pivots >= limit:
            state[0], state[1], state[2] = stalled, moves, shift is not original
            return v, pivots, EXHAUSTED
        edge = np.zeros(k)
        advance(edge, sign, edges[leaving])
        count = break_points(
            routines, rows, lo, hi, column, basic, edge, norm[leaving], size, r, y, move, length, index, weight
        )
        at = entering(slope, length, index, weight, count)
        if at < 0:
            return v, pivots, UNBOUNDED
        stalled = stalled + 1 if length[at] <= _ZERO else 0
        if stalled > _STALLED and moves < _MOVES:
            stalled, moves, fresh = 0, moves + 1, True
            shift = moved(original, moves)
            continue
        for i in range(at):
            flip(rows, lo, hi, column, index[i], y, g)
        advance(v, length[at], edge)
        advance(r, length[at], move)
        swap(rows, lo, hi, column, basis, basic, leaving, sign, index[at], length[at], r, y, g)
        update(routines, edges, basis_row(rows, column, index[at]), leaving, g, norm, inner)
        pivots, exact = pivots + 1, False
        fresh = pivots % _REFACTOR == 0


@jit
def scatter(values, index, out):
    """out[index] = values."""
    for i in range(len(index)):
        out[index[i]] = values[i]


@jit
def mark(rows, basis, basic, size):
    """Mark the basic rows, and write the norms of the dense ones; a unit row has norm 1."""
    for j in range(len(size)):
        size[j] = np.sqrt(dot(rows[j], rows[j])) if j < len(rows) else 1.0
    for i in range(len(basis)):
        basic[basis[i]] = True


@jit
def swap(rows, lo, hi, column, basis, basic, leaving, sign, into, step, r, y, g):
    """Let row ``into`` take a place in the basis; the leaving row's multiplier goes to the end it moved towards."""
    out = basis[leaving]
    r[out] = sign * step
    add(rows, column, into, -y[into], g)
    y[into], r[into] = 0.0, 0.0
    y[out] = hi[out] if sign > 0.0 else lo[out]
    add(rows, column, out, y[out], g)
    basic[out], basic[into], basis[leaving] = False, True, into


@jit
def moved(shift, number):
    """The shift with each break point moved by a different small amount, so that at most K of them meet in a point."""
    result = np.empty(len(shift))
    for j in range(len(shift)):
        place = 0.6180339887498949 * (j + 1) + 0.7548776662466927 * number
        result[j] = shift[j] + _MOVED * (place - np.floor(place) - 0.5)
    return result


@jit
def residuals(routines, rows, shift, column, v, r):
    """Write A v + s into ``r``."""
    m = rows.shape[0]
    matvec(routines, rows, v, r)
    for j in range(m):
        r[j] += shift[j]
    for j in range(len(column)):
        r[m + j] = v[column[j]] + shift[m + j]


@jit
def restart(routines, rows, shift, lo, hi, column, gradient, basis, basic, edges, v, r, y, g, norm, inner):
    """Compute the vertex, its residuals, the multipliers and their gradient from the inverse of the basis.

    The vertex and the basic multipliers are refined once; returns whether they are then accurate.
    """
    m, k = rows.shape
    basic_r, change, rest, error, scale = np.empty(k), np.empty(k), np.empty(k), 0.0, 1.0
    clear(v)
    for turn in range(3):
        residuals(routines, rows, shift, column, v, r)
        error = 0.0
        for i in range(k):
            basic_r[i] = r[basis[i]]
            error = max(error, abs(basic_r[i]))
        if turn < 2:
            scale = max(scale, error)
            rmatvec(routines, edges, basic_r, change)
            advance(v, -1.0, change)
    for j in range(len(r)):
        if basic[j]:
            y[j], r[j] = 0.0, 0.0
        elif abs(r[j]) > _ZERO or (y[j] != hi[j] and y[j] != lo[j]):
            y[j] = hi[j] if r[j] > 0.0 else lo[j]
    rmatvec(routines, rows, y, g)
    advance(g, 1.0, gradient)
    size, left = 0.0, 0.0
    clear(inner)
    for j in range(len(column)):
        g[column[j]] += y[m + j]
    copy(g, rest)
    for _ in range(2):
        matvec(routines, edges, rest, change)
        advance(inner, -1.0, change)
        for i in range(k):
            add(rows, column, basis[i], -change[i], rest)
    for i in range(k):
        norm[i] = np.sqrt(dot(edges[i], edges[i]))
        size, left = max(size, abs(g[i])), max(left, abs(rest[i]))
    return error <= 1e-11 * scale and left <= 1e-11 * size


@jit
def steepest(basis, lo, hi, allowed, norm, inner):
    """The basic row whose multiplier is farthest outside its interval per unit length of its edge.

    Returns its place in the basis (-1: none), the sign of its residual along the edge, and the decrease per unit.
    """
    best, place, sign, slope = 0.0, -1, 1.0, 0.0
    for i in range(len(basis)):
        j = basis[i]
        over, under = inner[i] - hi[j], lo[j] - inner[i]
        if over > allowed[j] and over > best * norm[i]:
            best, place, sign, slope = over / norm[i], i, 1.0, over
        if under > allowed[j] and under > best * norm[i]:
            best, place, sign, slope = under / norm[i], i, -1.0, under
    return place, sign, slope


@jit
def break_points(routines, rows, lo, hi, column, basic, edge, norm, size, r, y, move, length, index, weight):
    """List the rows whose residuals reach zero along the edge, with the step lengths and changes of slope there."""
    m = rows.shape[0]
    matvec(routines, rows, edge, move)
    for j in range(len(column)):
        move[m + j] = edge[column[j]]
    count = 0
    for j in range(len(move)):
        if basic[j]:
            move[j] = 0.0
            continue
        toward = move[j] < 0.0 if y[j] == hi[j] else move[j] > 0.0
        if toward and abs(move[j]) > _PIVOT * norm * size[j] and hi[j] > lo[j]:
            length[count] = max(0.0, -r[j] / move[j])
            index[count], weight[count] = j, abs(move[j]) * (hi[j] - lo[j])
            count += 1
    return count


@jit
def add(rows, column, j, factor, out):
    """Add ``factor`` times row j to ``out``."""
    m, k = rows.shape
    if factor == 0.0:
        return
    if j < m:
        for i in range(k):
            out[i] += factor * rows[j, i]
    else:
        out[column[j - m]] += factor


@jit
def flip(rows, lo, hi, column, j, y, g):
    """Move the multiplier of a row, whose residual changes sign, to its other end."""
    new = lo[j] if y[j] == hi[j] else hi[j]
    add(rows, column, j, new - y[j], g)
    y[j] = new


@jit
def update(routines, edges, row, leaving, g, norm, inner):
    """Update the edges, their norms and the multipliers after ``row`` has taken the place ``leaving`` in the basis."""
    k = len(edges)
    factors, new = np.empty(k), np.zeros(k)
    matvec(routines, edges, row, factors)
    advance(new, 1.0 / factors[leaving], edges[leaving])
    for i in range(k):
        edge, factor = edges[i], factors[i]
        square, product = 0.0, 0.0
        if i == leaving:
            clear(edge)
            factor = -1.0
        for j in range(k):
            value = edge[j] - factor * new[j]
            edge[j] = value
            square += value * value
            product += value * g[j]
        norm[i], inner[i] = np.sqrt(square), -product
