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

import math
from typing import NamedTuple

import numpy as np
from scipy import linalg

from unrelu.lp.compilation import compile_by, jit, kernel
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.host import abandoned
from unrelu.runtime.work_clock import now

OPTIMAL, EXHAUSTED, UNBOUNDED, INACCURATE = 0, 1, 2, 3

# A row whose residual changes by less than this, relative to the step and the row, does not enter the basis.
_PIVOT = 1e-8
# A residual this small is zero, and its multiplier may stay at either end.
_ZERO = 1e-11
# The relative rounding error of a slope, and that of a vertex and its multipliers computed with an accurate inverse.
_ROUNDING, _ACCURATE = 1e-10, 1e-11
# Basis changes between two computations of the vertex from scratch.
_REFRESH = 100
# A multiplier may leave its interval by this, relative to the length of the interval, or to 1 if that is less.
_MULTIPLIER = 1e-9
# The most pivots for each unknown, and in addition; the clock is read after every so many numbers touched.
_PIVOTS, _MORE_PIVOTS, _CHUNK = 30, 1000, 2e8
# A basis counts as singular if the norm of a row times that of its edge is larger; a row depends on others if
# elimination leaves at most the second fraction of it.
_LARGEST_INVERSE, _DEPENDENT = 1e8, 1e-7


class Basis(NamedTuple):
    """The numbers of the basic rows, unit rows from m on, and the transposed inverse of their matrix, (K, K)."""

    numbers: Index
    edges: Array


class Vertex(NamedTuple):
    """Where a program was left: v (K,), the multipliers of its rows, how it ended, pivots, and the basis, if any."""

    v: Array
    multipliers: Array
    status: LpStatus
    pivots: int
    basis: Basis = Basis(np.zeros(0, dtype=np.int64), np.zeros((0, 0)))


def minimise(
    rows: Array,
    shift: Array,
    lo: Array,
    hi: Array,
    column: Index,
    gradient: Array,
    basis: Index,
    edges: Array | None = None,
    end: float = math.inf,
) -> Vertex:
    """Minimise from the vertex of a basis.

    Args:
        rows: a_j, (m, K), contiguous.
        shift: s, (m + u,): residuals at v = 0 of the rows, then of the unit rows.
        lo, hi: (m + u,), finite.
        column: coordinates of the unit rows, (u,); the first K are 0, ..., K - 1.
        gradient: g, (K,).
        basis: K numbers of rows, unit rows from m on. Dependent rows are replaced by unit rows.
        edges: the transposed inverse of the basic rows, if it is known, at least roughly.
        end: the end of the time allowed, by :func:`~unrelu.runtime.work_clock.now`.
    """
    (m, k), pivots = rows.shape, 0
    allowed = _MULTIPLIER * np.minimum(1.0, np.where(hi > lo, hi - lo, 1.0))
    chunk, limit = max(20, int(_CHUNK / (k * (m + 2 * k)))), _PIVOTS * k + _MORE_PIVOTS
    y = np.zeros(len(lo))
    basis, edges = basis.copy(), None if edges is None else edges.copy()
    while True:
        trusted = edges is None
        if edges is None:
            basis, edges = _independent(rows, column, basis)
        v, more, status = exchange(
            rows, shift, lo, hi, allowed, column, gradient, basis, edges, y, trusted, min(chunk, limit - pivots)
        )
        pivots += more
        if status != INACCURATE and (status != EXHAUSTED or pivots >= limit or over(end)):
            break
        edges = None if status == INACCURATE else edges
    ended = {OPTIMAL: LpStatus.OPTIMAL, UNBOUNDED: LpStatus.UNBOUNDED}.get(status, LpStatus.FAILED)
    if status == EXHAUSTED and over(end):
        ended = LpStatus.LIMIT
    return Vertex(v, y, ended, pivots, Basis(basis, edges))


def over(end: float) -> bool:
    """Whether the time is up, or the caller has given up."""
    return now() > end or abandoned()


def _independent(rows: Array, column: Index, basis: Index) -> tuple[Index, Array]:
    """The basis with dependent rows replaced by the first unit rows, and the transposed inverse of its rows."""
    m, k = rows.shape
    matrix = _basic_rows(rows, column, basis)
    inverse = _inverse(matrix)
    if inverse is None:
        # The unit rows are so short that pivoting prefers all independent basic rows.
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        stacked = np.vstack([matrix / np.where(lengths > 0, lengths, 1.0), _DEPENDENT * np.eye(k)])
        _, order = linalg.qr(stacked.T, mode="r", pivoting=True, check_finite=False)
        basis = np.append(basis, m + np.arange(k))[order[:k]]
        matrix = _basic_rows(rows, column, basis)
        inverse = _inverse(matrix, math.inf)
    return basis, np.full((k, k), np.nan) if inverse is None else inverse


def _basic_rows(rows: Array, column: Index, basis: Index) -> Array:
    """The basic rows as a matrix, (K, K)."""
    m, unit = len(rows), basis >= len(rows)
    matrix = rows[np.where(unit, 0, basis)] if m else np.zeros((len(basis), rows.shape[1]))
    matrix[unit] = 0.0
    matrix[unit, column[basis[unit] - m]] = 1.0
    return matrix


def _inverse(matrix: Array, largest: float = _LARGEST_INVERSE) -> Array | None:
    """The transposed inverse, contiguous; None if the matrix is singular, or nearly."""
    factor, pivots, info = linalg.lapack.dgetrf(matrix)
    if info != 0:
        return None
    inverse, info = linalg.lapack.dgetri(factor, pivots, overwrite_lu=True)
    edges: Array = inverse.T
    sizes = np.einsum("ij,ij->i", edges, edges) * np.einsum("ij,ij->i", matrix, matrix)
    # Written so that NaN is singular.
    return edges if info == 0 and (sizes <= largest**2).all() else None


def compile_exchange() -> None:
    """Compile the kernel before its first use, see :func:`~unrelu.lp.compilation.compile_by`."""
    compile_by(_run_exchange, exchange.stats.cache_path, "exchange")


def _run_exchange() -> None:
    """Solve a program of three rows and one unknown."""
    one, zero = np.ones(3), np.zeros(1)
    shift, ends = np.array([-1.0, 0.5, 1.0, 0.0]), np.append(one, 0.0)
    first, y, edges = np.zeros(1, np.int64), np.zeros(4), np.ones((1, 1))
    exchange(one[:, None].copy(), shift, -ends, ends, ends, first, zero, first.copy(), edges, y, True, 9)


# --- compiled ---------------------------------------------------------------------------------------------------------


@kernel
def exchange(rows, shift, lo, hi, allowed, column, gradient, basis, edges, y, trusted, limit):
    """Minimise from the vertex of ``basis``; arguments as for :func:`minimise`.

    Args:
        allowed: the largest distance of a multiplier from its interval, (m + u,).
        basis, edges, y: changed in place; y is zero for the first call. With them, a call continues the last.
        trusted: whether ``edges`` has just been computed from scratch.
        limit: the most pivots.

    Returns:
        v (K,), pivots, and OPTIMAL, EXHAUSTED (by the limit), UNBOUNDED or INACCURATE: ``edges`` has to be computed
        from scratch.
    """
    k, total = len(basis), len(lo)
    v, g, norm, inner = np.zeros(k), np.empty(k), np.empty(k), np.empty(k)
    r, move, length, weight = np.empty(total), np.empty(total), np.empty(total), np.empty(total)
    index, basic, size = np.empty(total, np.int64), np.zeros(total, np.bool_), row_norms(rows, total)
    for i in range(k):
        basic[basis[i]] = True
    pivots, fresh, exact = 0, True, False
    while True:
        if fresh:
            accurate = restart(rows, shift, lo, hi, column, gradient, basis, basic, edges, v, r, y, g, norm, inner)
            if not (accurate or trusted):
                return v, pivots, INACCURATE
            trusted, fresh, exact = False, False, True
        leaving, sign, slope = steepest(basis, lo, hi, allowed, norm, inner)
        if leaving < 0 and exact:
            for i in range(k):
                y[basis[i]] = inner[i]
            return v, pivots, OPTIMAL
        if leaving < 0:
            # Optimal by updated numbers: check with numbers from scratch.
            fresh = True
            continue
        if pivots >= limit:
            return v, pivots, EXHAUSTED
        edge = np.zeros(k)
        add_multiple(edges[leaving], sign, edge)
        multiply(rows, column, edge, move)
        count = break_points(lo, hi, basic, norm[leaving], size, r, y, move, length, index, weight)
        at = entering(slope, length, index, weight, count)
        if at < 0:
            return v, pivots, UNBOUNDED
        for i in range(at):
            j = index[i]
            change_multiplier(rows, column, j, lo[j] if y[j] == hi[j] else hi[j], y, g)
        add_multiple(edge, length[at], v)
        add_multiple(move, length[at], r)
        # The leaving row's multiplier goes to the end that it moved towards.
        into, out = index[at], basis[leaving]
        change_multiplier(rows, column, into, 0.0, y, g)
        change_multiplier(rows, column, out, hi[out] if sign > 0.0 else lo[out], y, g)
        r[into], r[out] = 0.0, sign * length[at]
        basic[out], basic[into], basis[leaving] = False, True, into
        replace_row(rows, column, into, leaving, edges, g, norm, inner)
        pivots, exact = pivots + 1, False
        fresh = pivots % _REFRESH == 0


@jit
def row_norms(rows, total):
    """The norms of the dense rows; a unit row has norm 1."""
    size = np.ones(total)
    for j in range(len(rows)):
        square = 0.0
        for i in range(rows.shape[1]):
            square += rows[j, i] * rows[j, i]
        size[j] = np.sqrt(square)
    return size


@jit
def add_multiple(x, factor, out):
    """out += factor x, as a loop, which compiles ten times as fast as an array expression."""
    for i in range(len(x)):
        out[i] += factor * x[i]


@jit
def add_row(rows, column, j, factor, out):
    """Add ``factor`` times row j to ``out``."""
    m = len(rows)
    if j >= m:
        out[column[j - m]] += factor
    elif factor != 0.0:
        for i in range(len(out)):
            out[i] += factor * rows[j, i]


@jit
def multiply(rows, column, v, out):
    """Write the products of all rows with v into ``out``."""
    m = len(rows)
    for j in range(m):
        total = 0.0
        for i in range(len(v)):
            total += rows[j, i] * v[i]
        out[j] = total
    for j in range(len(column)):
        out[m + j] = v[column[j]]


@jit
def change_multiplier(rows, column, j, new, y, g):
    """Set the multiplier of row j, and the gradient g + A^T y of the multipliers that are not basic."""
    add_row(rows, column, j, new - y[j], g)
    y[j] = new


@jit
def restart(rows, shift, lo, hi, column, gradient, basis, basic, edges, v, r, y, g, norm, inner):
    """Compute the vertex, its residuals, the multipliers and their gradient from the inverse of the basis.

    The vertex and the basic multipliers are refined once; returns whether they are then accurate.
    """
    accurate = set_vertex(rows, shift, column, basis, edges, v, r)
    for i in range(len(g)):
        g[i] = gradient[i]
    for j in range(len(r)):
        if basic[j]:
            y[j], r[j] = 0.0, 0.0
        elif abs(r[j]) > _ZERO or (y[j] != hi[j] and y[j] != lo[j]):
            y[j] = hi[j] if r[j] > 0.0 else lo[j]
        add_row(rows, column, j, y[j], g)
    return set_basic_multipliers(rows, column, basis, edges, g, norm, inner) and accurate


@jit
def set_vertex(rows, shift, column, basis, edges, v, r):
    """Compute the vertex and all residuals; return whether those of the basic rows vanish."""
    error, scale = 0.0, 1.0
    for i in range(len(v)):
        v[i] = 0.0
    for turn in range(3):
        multiply(rows, column, v, r)
        add_multiple(shift, 1.0, r)
        error = 0.0
        for i in range(len(v)):
            error = max(error, abs(r[basis[i]]))
        if turn < 2:
            scale = max(scale, error)
            for i in range(len(v)):
                add_multiple(edges[i], -r[basis[i]], v)
    return error <= _ACCURATE * scale


@jit
def set_basic_multipliers(rows, column, basis, edges, g, norm, inner):
    """Compute the multipliers of the basic rows and the norms of their edges; return whether they balance g."""
    k, size, left = len(basis), 0.0, 0.0
    rest, change = np.zeros(k), np.empty(k)
    add_multiple(g, 1.0, rest)
    for i in range(k):
        inner[i] = 0.0
    for _ in range(2):
        for i in range(k):
            total = 0.0
            for j in range(k):
                total += edges[i, j] * rest[j]
            change[i] = total
        for i in range(k):
            inner[i] -= change[i]
            add_row(rows, column, basis[i], -change[i], rest)
    for i in range(k):
        square = 0.0
        for j in range(k):
            square += edges[i, j] * edges[i, j]
        norm[i], size, left = np.sqrt(square), max(size, abs(g[i])), max(left, abs(rest[i]))
    return left <= _ACCURATE * size


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
def break_points(lo, hi, basic, norm, size, r, y, move, length, index, weight):
    """List the rows whose residuals reach zero along the edge, with the step lengths and changes of slope there."""
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
def swap(i, j, length, index, weight):
    """Exchange two break points."""
    length[i], length[j] = length[j], length[i]
    index[i], index[j] = index[j], index[i]
    weight[i], weight[j] = weight[j], weight[i]


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
        nearer, equal, heaviest = 0.0, 0.0, 0.0
        while i < more:
            if length[i] < pivot:
                nearer += weight[i]
                swap(i, less, length, index, weight)
                less += 1
                i += 1
            elif length[i] > pivot:
                more -= 1
                swap(i, more, length, index, weight)
            else:
                equal += weight[i]
                i += 1
        if nearer >= need:
            high = less
            continue
        need -= nearer
        if equal >= need:
            # Among equal lengths, the heaviest enters: it has the largest pivot.
            for i in range(less, more):
                if weight[i] > heaviest:
                    heaviest = weight[i]
                    swap(i, less, length, index, weight)
            return less
        need -= equal
        low = more
    return -1


@jit
def replace_row(rows, column, j, leaving, edges, g, norm, inner):
    """Update the edges, their norms and the multipliers after row j has taken the place ``leaving`` in the basis."""
    k, m = len(edges), len(rows)
    factors, new = np.empty(k), np.zeros(k)
    for i in range(k):
        if j >= m:
            factors[i] = edges[i, column[j - m]]
            continue
        total = 0.0
        for p in range(k):
            total += edges[i, p] * rows[j, p]
        factors[i] = total
    add_multiple(edges[leaving], 1.0 / factors[leaving], new)
    for i in range(k):
        factor = factors[i]
        square, product = 0.0, 0.0
        for p in range(k):
            value = new[p] if i == leaving else edges[i, p] - factor * new[p]
            edges[i, p] = value
            square += value * value
            product += value * g[p]
        norm[i], inner[i] = np.sqrt(square), -product
