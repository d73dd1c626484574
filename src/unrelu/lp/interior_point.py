"""Interior-point steps that find out which constraints are active at the optimum, and the crossover to a vertex.

With r = A v + s = p - q and p, q >= 0, a row has a multiplier y between lo and hi and the pairs (p, hi - y) and
(q, y - lo) of a slack and its multiplier, whose products vanish at the optimum. If hi stands for a hard constraint,
r <= 0, there is no p. A bound has the pair of its distance and its multiplier.

The steps are Mehrotra's (SIAM J. Optim. 2, 1992). Each factorises one K x K matrix A^T D A + bounds, in single
precision, with 1/D = p / (hi - y) + q / (y - lo). A predictor aims at products of zero, and a corrector of second order
at a fraction of their mean. The steps stop early, as soon as the K rows and bounds with the largest weights D hardly
change: near the optimum, they are the active ones. The exchange simplex goes on from there to the exact optimum.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack

from unrelu.lp.exchange_simplex import Vertex, compile_exchange, minimise
from unrelu.lp.lp_status import LpStatus
from unrelu.lp.piecewise_linear_program import PiecewiseLinearProgram
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.run_control import now

# The most steps. The steps end when one changes at most so many of the K heaviest rows, per unit of its length. The
# pivots that a further step saves then take less time than its factorisation.
_STEPS, _CHANGES = 40, 16
# Rows in the first working set for each unknown. A break point counts as crossed if the residual is beyond it by the
# second number.
_WORKING, _CROSSED = 2, 1e-9
# Fraction of the way to the boundary that a step goes.
_DAMPING = 0.995
# The first point keeps this distance from the bounds, and slacks of rows keep it from 0: residuals are about 1. Between
# narrow bounds, the point keeps a quarter of their distance, and its distances count as at least _LEAST.
_MARGIN, _LEAST = 0.1, 1e-9
# Rows with only an upper side take no part in the steps if the first point is this far below it.
_FAR = 4.0
# Rows with less than the first fraction of the largest weight are left out of the normal matrix. The second fraction is
# the ridge of that matrix in units of its mean diagonal, for single precision.
_NEGLIGIBLE, _RIDGE = 1e-5, 1e-7
# A basis is completed by fill-ins rather than by rows of a smaller weight than this, which are far away.
_FILL_IN = 1e-7


def optimise(program: PiecewiseLinearProgram, end: float = math.inf) -> Vertex:
    """Solve a program with a dense matrix, until ``now()`` passes ``end``.

    Only the working set, rows near their break points, takes part in the exchange. Other rows keep their multipliers.
    The working set grows by the rows whose break points were crossed.
    """
    compile_exchange()
    rows, (column, *units), (n, k) = program.rows, program.units(), program.rows.shape
    sides = program.shift, program.lo, program.hi
    shift, lo, hi = (np.concatenate(pair) for pair in zip(sides, units, strict=True))
    r = rows @ program.v + program.shift
    near = np.flatnonzero((program.lo < 0) | ((program.hi > 0) & (r > -_FAR)))
    scores = np.concatenate([np.zeros(n), np.full(k, _FILL_IN), np.zeros(len(column) - k)])
    with np.errstate(all="ignore"):  # steps that break down end with what is not finite
        v, weights, barrier = interior_point(program.restricted(near), end)
    if np.isfinite(v).all():
        scores[near], scores[n + k :], r = weights, barrier[column[k:]], rows @ v + program.shift
    basis, edges, pivots = np.argpartition(-scores, k - 1)[:k], None, 0
    far, count = np.where(r > 0, program.hi, program.lo), max(_WORKING * k, int((program.lo < 0).sum()) // 2)
    kept = np.ones(len(shift), dtype=bool)
    kept[:n] = np.abs(r) <= (np.partition(np.abs(r), count)[count] if count < n else np.inf)
    kept[basis] = True
    while True:
        index, y = np.flatnonzero(kept), np.where(kept[:n], 0.0, far)
        some, gradient = index[index < n], program.gradient + y @ rows
        first = np.searchsorted(index, basis)
        found = minimise(rows[some], shift[index], lo[index], hi[index], column, gradient, first, edges, end)
        y[some], basis, edges = found.multipliers[: len(some)], index[found.basis], found.edges
        pivots, r = pivots + found.pivots, rows @ found.v + program.shift
        crossed = ~kept[:n] & (np.where(r > 0, program.hi, program.lo) != far) & (np.abs(r) > _CROSSED)
        # Without all rows, there may be no minimum.
        crossed |= ~kept[:n] & (found.status is LpStatus.UNBOUNDED)
        if found.status not in (LpStatus.OPTIMAL, LpStatus.UNBOUNDED) or not crossed.any():
            return found._replace(multipliers=y, pivots=pivots)
        kept[:n] |= crossed


def interior_point(program: PiecewiseLinearProgram, end: float = math.inf) -> tuple[Array, Array, Array]:
    """Make interior-point steps from the first point, moved inside the bounds, and multipliers of a program.

    Returns:
        The last point; the weights D of the rows times their squared norms, (N,); and the sum of multiplier / distance
        over the bounds of each unknown, (K,).
    """
    rows, gradient, y, k = program.rows.astype(np.float32), program.gradient, program.y, len(program.v)
    sizes = np.einsum("ij,ij->i", rows, rows)
    # Sides of a row, as a column; the distance of v from a bound is sign (v - bound) >= 0.
    signs = np.array([[-1.0]] if program.hard else [[-1.0], [1.0]])
    units = program.units()
    at, offset, sign = units.column[k:], units.shift[k:], np.where(units.lo[k:] < 0, 1.0, -1.0)
    v, r, slack, multiplier, distance, held = _first_point(program, signs, at, offset, sign)
    first, primal, dual, heaviest = 0.0, 0.0, 0.0, np.zeros(len(rows) + k, dtype=bool)
    for step in range(_STEPS + 1):
        weight = 1.0 / (slack / multiplier).sum(axis=0)
        barrier = np.bincount(at, held / distance, k).astype(np.float64, copy=False)
        total = float(np.vdot(slack, multiplier) + distance @ held)
        first = first or total
        # Written so that NaN ends the steps.
        if step == _STEPS or now() > end or not total > 1e-9 * first:
            break
        before, heaviest = heaviest, np.zeros_like(heaviest)
        heaviest[np.argpartition(-np.append(weight * sizes, barrier), k - 1)[:k]] = True
        if np.count_nonzero(heaviest & ~before) <= _CHANGES * min(primal, dual):
            break
        factor, failed = _factorised(rows, weight, barrier)
        if failed:
            break
        # (A^T D A + barrier) dv = A^T (D rho - y) - g + sign aim / distance, and dy = D (A dv - rho).
        fixed = gradient + y.astype(np.float32) @ rows
        aim, aim_held = np.zeros(1), np.zeros(1)
        for phase in range(2):
            rho = (signs * aim / multiplier).sum(axis=0) - r
            right = (weight * rho).astype(np.float32) @ rows - fixed + np.bincount(at, sign * aim_held / distance, k)
            dv = lapack.spotrs(factor, right, lower=1)[0]
            move = rows @ dv
            dy = weight * (move - rho)
            d_multiplier = -signs * dy
            d_slack = (aim - slack * d_multiplier) / multiplier - slack
            d_distance = sign * dv[at]
            d_held = (aim_held - held * d_distance) / distance - held
            primal = min(_longest(slack, d_slack), _longest(distance, d_distance))
            dual = min(_longest(multiplier, d_multiplier), _longest(held, d_held))
            if phase == 0:
                left = np.vdot(slack + primal * d_slack, multiplier + dual * d_multiplier)
                left += (distance + primal * d_distance) @ (held + dual * d_held)
                target = (float(left) / total) ** 3 * total / (slack.size + len(at))
                aim, aim_held = target - d_slack * d_multiplier, target - d_distance * d_held
        primal, dual = min(1.0, _DAMPING * primal), min(1.0, _DAMPING * dual)
        v, slack, distance = v + primal * dv, slack + primal * d_slack, distance + primal * d_distance
        y, held = y + dual * dy, held + dual * d_held
        multiplier = multiplier + dual * d_multiplier
        r = r + primal * move
    return v, weight * sizes, barrier


def _first_point(
    program: PiecewiseLinearProgram, signs: Array, at: Index, offset: Array, sign: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Choose v inside the bounds; compute residuals (m,), slacks and multipliers of rows (1 or 2, m), those of bounds.

    The multipliers of the bounds balance A^T y + g, and are a little larger.
    """
    lower, upper, y = program.lower, program.upper, program.y
    margin = np.minimum(_MARGIN, 0.25 * (upper - lower))
    v = np.minimum(np.maximum(program.v, lower + margin), upper - margin)
    # An unknown with equal bounds has no inside.
    distance = np.maximum(sign * (v[at] + offset), _LEAST)
    r = np.asarray(program.rows @ v + program.shift)
    slack = np.maximum(signs * r, 0.0) + _MARGIN
    multiplier = np.stack([y - program.lo] if program.hard else [y - program.lo, program.hi - y])
    pull = y @ program.rows + program.gradient
    mean = float(np.vdot(slack, multiplier)) / max(1, slack.size)
    held = np.maximum(sign * pull[at], 0.0) + mean / (distance + 0.1 * _MARGIN)
    return v, r, slack, multiplier, distance, held


def _longest(x: Array, direction: Array) -> float:
    """Compute the longest step up to 1 that keeps x >= 0."""
    fall = float((direction / x).min(initial=-1.0))
    return -1.0 / fall


def _factorised(rows: npt.NDArray[np.float32], weight: Array, barrier: Array) -> tuple[Array, bool]:
    """Factorise A^T D A + barrier without rows of negligible weight; return the factor, and whether that failed."""
    used = np.flatnonzero(weight > _NEGLIGIBLE * weight.max(initial=0.0))
    root = rows[used]
    root *= np.sqrt(weight[used] / weight.max())[:, None]
    # The rows are in Fortran's order if transposed, so that nothing is copied.
    normal = blas.ssyrk(weight.max(), root.T, lower=1)
    diagonal = np.einsum("ii->i", normal)
    diagonal += barrier
    diagonal += _RIDGE * diagonal.mean() + 1e-30
    factor, info = lapack.spotrf(normal, lower=1, clean=0, overwrite_a=1)
    return factor, info != 0 or not np.isfinite(diagonal).all()
