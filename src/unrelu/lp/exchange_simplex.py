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

from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.compilation import compile_by, jit, kernel
from unrelu.runtime.host import abandoned
from unrelu.runtime.run_control import now

OPTIMAL, EXHAUSTED, UNBOUNDED = 0, 1, 2
_ENDS = {OPTIMAL: LpStatus.OPTIMAL, UNBOUNDED: LpStatus.UNBOUNDED}

# A row whose residual changes by less than this, relative to the step and the row, does not enter the basis.
_PIVOT = 1e-8
# A residual this small is zero, and its multiplier may stay at either end.
_ZERO = 1e-11
# The relative rounding error of a slope, and that of a vertex and its multipliers computed with an accurate inverse.
_ROUNDING, _ACCURATE = 1e-10, 1e-11
# The most basis changes between two computations of the vertex from scratch, after which the clock is read.
_REFRESH = 100
# A multiplier may leave its interval by this, relative to the length of the interval, or to 1 if that is less.
_MULTIPLIER = 1e-9
# The most pivots for each unknown, and in addition.
_PIVOTS, _MORE_PIVOTS = 30, 1000
# A basis counts as singular if the norm of a row times that of its edge is larger; a row depends on others if
# elimination leaves at most the second fraction of it.
_LARGEST_INVERSE, _DEPENDENT = 1e8, 1e-7


class Vertex(NamedTuple):
    """The end of a solve: v (K,), the multipliers of the rows, the status, the pivots, and the basis if there is one.

    ``basis`` has the numbers of its rows, unit rows from m on, and ``edges`` the transposed inverse of these rows.
    """

    v: Array
    multipliers: Array
    status: LpStatus
    pivots: int
    basis: Index = np.zeros(0, dtype=np.int64)
    edges: Array | None = None


def minimise(
    rows: Array, shift: Array, lo: Array, hi: Array, column: Index, gradient: Array, basis: Index,
    edges: Array | None = None, end: float = math.inf,
) -> Vertex:  # fmt: skip
    """Minimise from the vertex of a basis.

    Args:
        rows: a_j, (m, K), contiguous.
        shift: s, (m + u,): residuals at v = 0 of the rows, then of the unit rows.
        lo, hi: (m + u,), finite.
        column: coordinates of the unit rows, (u,); the first K are 0, ..., K - 1.
        gradient: g, (K,).
        basis: K numbers of rows, unit rows from m on. Dependent rows are replaced by unit rows.
        edges: the transposed inverse of the basic rows, if it is known, at least roughly; then both are changed.
        end: the end of the time allowed, by :func:`~unrelu.runtime.run_control.now`.
    """
    pivots, limit, y = 0, _PIVOTS * rows.shape[1] + _MORE_PIVOTS, np.zeros(len(lo))
    allowed = _MULTIPLIER * np.minimum(1.0, np.where(hi > lo, hi - lo, 1.0))
    size = np.append(np.sqrt(np.einsum("ij,ij->i", rows, rows)), np.ones(len(column)))
    if edges is None:
        basis, edges = _independent(rows, column, basis)
    while True:
        with np.errstate(all="ignore"):  # edges that do not fit may overflow
            state, accurate = restart(rows, shift, lo, hi, column, gradient, basis, edges, y)
        if not accurate:
            basis, edges = _independent(rows, column, basis)
            state, _ = restart(rows, shift, lo, hi, column, gradient, basis, edges, y)
        more, status = exchange(rows, lo, hi, allowed, size, column, basis, edges, y, *state, _REFRESH)
        pivots += more
        ended = _ENDS.get(status, LpStatus.FAILED)
        if status == EXHAUSTED and (now() > end or abandoned()):
            ended = LpStatus.LIMIT
        # An optimum by updated numbers is checked with numbers from scratch.
        if more == 0 or status == UNBOUNDED or pivots >= limit or ended is LpStatus.LIMIT:
            break
    return Vertex(state[0], y, ended, pivots, basis, edges)


def restart(
    rows: Array, shift: Array, lo: Array, hi: Array, column: Index, gradient: Array, basis: Index, edges: Array,
    y: Array,
) -> tuple[tuple[Array, ...], bool]:  # fmt: skip
    """Compute the vertex of a basis from scratch, by the inverse; arguments as for :func:`minimise`.

    Multipliers ``y`` of residuals that are not zero are set to their ends.

    Returns:
        The state: v (K,), the residuals of all rows, the gradient g + A^T y without basic rows (K,), the norms of the
        edges (K,), and the multipliers of the basic rows (K,). And whether v and these multipliers are accurate.
    """
    m, k = rows.shape
    v, scale, error = np.zeros(k), 1.0, 0.0
    for turn in range(3):
        r = np.concatenate([rows @ v, v[column]]) + shift
        error = float(np.abs(r[basis]).max())
        if turn < 2:
            scale, v = max(scale, error), v - r[basis] @ edges
    np.copyto(y, np.where(r > 0, hi, lo), where=(np.abs(r) > _ZERO) | ((y != hi) & (y != lo)))
    y[basis] = r[basis] = 0.0
    g = gradient + y[:m] @ rows + np.bincount(column, y[m:], k)
    matrix, inner, rest = _basic_rows(rows, column, basis), np.zeros(k), g
    for _ in range(2):
        change = edges @ rest
        inner, rest = inner - change, rest - change @ matrix
    accurate = error <= _ACCURATE * scale and float(np.abs(rest).max()) <= _ACCURATE * float(np.abs(g).max())
    return (v, r, g, np.linalg.norm(edges, axis=1), inner), accurate


def _independent(rows: Array, column: Index, basis: Index) -> tuple[Index, Array]:
    """Replace dependent rows of a basis by the first unit rows; return it with the transposed inverse of its rows."""
    m, k = rows.shape
    matrix = _basic_rows(rows, column, basis)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    edges = _inverse(matrix)
    # Written so that NaN is singular.
    if not (np.linalg.norm(edges, axis=1) * lengths[:, 0] <= _LARGEST_INVERSE).all():
        # The unit rows are so short that pivoting prefers all independent basic rows.
        stacked = np.vstack([matrix / np.where(lengths > 0, lengths, 1.0), _DEPENDENT * np.eye(k)])
        _, order = linalg.qr(stacked.T, mode="r", pivoting=True, check_finite=False)
        basis = np.append(basis, m + np.arange(k))[order[:k]]
        edges = _inverse(_basic_rows(rows, column, basis))
    return basis.copy(), edges


def _basic_rows(rows: Array, column: Index, basis: Index) -> Array:
    """Collect the basic rows in a matrix, (K, K)."""
    m, unit = len(rows), basis >= len(rows)
    matrix = rows[np.where(unit, 0, basis)] if m else np.zeros((len(basis), rows.shape[1]))
    matrix[unit] = 0.0
    matrix[unit, column[basis[unit] - m]] = 1.0
    return matrix


def _inverse(matrix: Array) -> Array:
    """Compute the transposed inverse, contiguous; NaN if the matrix is singular."""
    factor, pivots, failed = linalg.lapack.dgetrf(matrix)
    return np.full_like(matrix, np.nan) if failed else linalg.lapack.dgetri(factor, pivots, overwrite_lu=1)[0].T


def compile_exchange() -> None:
    """Compile the kernel before its first use, see :func:`~unrelu.runtime.compilation.compile_by`."""
    compile_by(_run_exchange, exchange.stats.cache_path, "exchange")


def _run_exchange() -> None:
    """Solve a program of three rows and one unknown."""
    rows, shift, ends = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    minimise(rows, shift, -ends, ends, np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64))


# --- compiled ---------------------------------------------------------------------------------------------------------


@kernel
def exchange(rows, lo, hi, allowed, size, column, basis, edges, y, v, r, g, norm, inner, limit):
    """Minimise from the vertex of ``basis``; arguments as for :func:`minimise`, and v to inner as of :func:`restart`.

    Args:
        allowed: the largest distance of a multiplier from its interval, (m + u,).
        size: the norms of the rows, (m + u,).
        basis, edges, y, v, r, g, norm, inner: changed in place.
        limit: the most pivots.

    Returns:
        Pivots, and OPTIMAL, EXHAUSTED (by the limit) or UNBOUNDED.
    """
    k, total = len(basis), len(lo)
    move, length, weight = np.empty(total), np.empty(total), np.empty(total)
    index, basic = np.empty(total, np.int64), np.zeros(total, np.bool_)
    for i in range(k):
        basic[basis[i]] = True
    pivots = 0
    while True:
        leaving, sign, slope = steepest(basis, lo, hi, allowed, norm, inner)
        if leaving < 0:
            for i in range(k):
                y[basis[i]] = inner[i]
            return pivots, OPTIMAL
        if pivots >= limit:
            return pivots, EXHAUSTED
        edge = np.zeros(k)
        add_multiple(edges[leaving], sign, edge)
        multiply(rows, column, edge, move)
        count = break_points(lo, hi, basic, norm[leaving], size, r, y, move, length, index, weight)
        at = entering(slope, length, index, weight, count)
        if at < 0:
            return pivots, UNBOUNDED
        for i in range(at):
            j = index[i]
            change_multiplier(rows, column, j, lo[j] if y[j] == hi[j] else hi[j], y, g)
        into, out = index[at], basis[leaving]
        add_multiple(edge, length[into], v)
        add_multiple(move, length[into], r)
        # The leaving row's multiplier goes to the end that it moved towards.
        change_multiplier(rows, column, into, 0.0, y, g)
        change_multiplier(rows, column, out, hi[out] if sign > 0.0 else lo[out], y, g)
        r[into], r[out] = 0.0, sign * length[into]
        basic[out], basic[into], basis[leaving] = False, True, into
        replace_row(rows, column, into, leaving, edges, g, norm, inner)
        pivots += 1


@jit
def add_multiple(x, factor, out):
    """Add factor x to ``out``, by a loop, which compiles ten times as fast as an array expression."""
    for i in range(len(x)):
        out[i] += factor * x[i]


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
    change, m = new - y[j], len(rows)
    y[j] = new
    if j >= m:
        g[column[j - m]] += change
    elif change != 0.0:
        add_multiple(rows[j], change, g)


@jit
def steepest(basis, lo, hi, allowed, norm, inner):
    """Find the basic row whose multiplier is farthest outside its interval per unit length of its edge.

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
            length[j], weight[j], index[count] = max(0.0, -r[j] / move[j]), abs(move[j]) * (hi[j] - lo[j]), j
            count += 1
    return count


@jit
def entering(slope, length, index, weight, count):
    """Find the break point at which the sum of weights, from the nearest on, reaches ``slope``: a weighted quickselect.

    The first ``count`` rows of ``index`` are permuted; nearer break points come first. Returns its position, or -1.
    """
    # Allow for rounding: if the objective ends flat, the sum at its last break point reaches the slope.
    low, high, need = 0, count, (1.0 - _ROUNDING) * slope
    while high > low:
        pivot = length[index[(low + high) // 2]]
        # Three-way partition: nearer, equal, farther.
        less, i, more = low, low, high
        nearer, equal = 0.0, 0.0
        while i < more:
            j = index[i]
            if length[j] < pivot:
                nearer += weight[j]
                index[i], index[less] = index[less], j
                less += 1
                i += 1
            elif length[j] > pivot:
                more -= 1
                index[i], index[more] = index[more], j
            else:
                equal += weight[j]
                i += 1
        if nearer >= need:
            high = less
            continue
        need -= nearer
        if equal >= need:
            # Among equal lengths, the heaviest enters: it has the largest pivot.
            for i in range(less + 1, more):
                if weight[index[i]] > weight[index[less]]:
                    index[i], index[less] = index[less], index[i]
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
