r"""The start of the exchange simplex: interior-point steps that find out which constraints are active at the optimum.

.. math:: \min_v\; g^T v + \sum_j \max(hi_j r_j, lo_j r_j), \qquad r = A v + s, \quad lower \le v \le upper

With r = p - q and p, q >= 0, a row has a multiplier y between lo and hi and the pairs (p, hi - y) and (q, y - lo) of a
slack and its multiplier, whose products vanish at the optimum. If hi stands for a hard constraint, r <= 0, there is no
p. A bound has the pair of its distance and its multiplier.

The steps are Mehrotra's (SIAM J. Optim. 2, 1992). Each factorises one K x K matrix A^T D A + bounds with
1/D = p / (hi - y) + q / (y - lo). A predictor aims at products of zero, and a corrector of second order at a fraction
of their mean. The steps stop early, as soon as the weights D separate the rows that are active from the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from unrelu.lp.piecewise_linear_program import PiecewiseLinearProgram, SignedRows, UnitRows
from unrelu.runtime.array_types import Array

# The steps end when active rows outweigh others by this factor: earlier for at most _NARROW unknowns, where pivots are
# cheap.
_DECIDED, _DECIDED_NARROW, _NARROW = 64.0, 8.0, 80
# Fraction of the way to the boundary that a step goes.
_DAMPING = 0.995
# The first point keeps this distance from the bounds, and slacks of rows from 0: residuals are about 1. Between narrow
# bounds, it keeps a quarter of their distance, and counts as inside by at least _LEAST.
_MARGIN, _LEAST = 0.1, 1e-9
# Rows with less than this fraction of the largest weight are left out of the normal matrix; the fraction after a step
# shorter than _SHORT.
_NEGLIGIBLE, _TINY, _SHORT = 1e-4, 1e-8, 0.5
_RIDGE = 1e-13


class Central(NamedTuple):
    """Where the steps ended.

    Attributes:
        v: the point, (K,).
        rows: the weights D of the rows, (m,).
        bounds: the sum of multiplier / distance over the bounds of each unknown, (K,).
    """

    v: Array
    rows: Array
    bounds: Array


def interior_point(program: PiecewiseLinearProgram, sizes: Array, steps: int) -> Central:
    """Make at most ``steps`` interior-point steps.

    Args:
        program: the program, with its first point and multipliers; the point is moved inside the bounds.
        sizes: the squared norms of the rows, (m,).
        steps: the most steps.
    """
    rows, gradient, y, k = program.rows, program.gradient, program.y, len(program.v)
    # Sides of a row, as a column; the distance of v from a bound is sign (v - bound) >= 0.
    signs, bounds = np.array([[-1.0]] if program.hard else [[-1.0], [1.0]]), UnitRows.of(program, fill_ins=False)
    at, sign = bounds.column, np.where(bounds.lo < 0, 1.0, -1.0)
    v, slack, multiplier, distance, held = _first_point(program, signs, bounds, sign)
    r = program.residuals(v)
    enough, first, length = (_DECIDED_NARROW if k <= _NARROW else _DECIDED), 0.0, 1.0
    for step in range(steps + 1):
        weight = 1.0 / (slack / multiplier).sum(axis=0)
        barrier = np.bincount(at, held / distance, k).astype(np.float64, copy=False)
        total = float(np.vdot(slack, multiplier) + distance @ held)
        first = first or total
        # Written so that NaN ends the steps.
        if step == steps or not total > 1e-9 * first:
            break
        if step and _decided(weight * sizes, barrier, k) >= enough:
            break
        factor, failed = _factorised(rows, weight, barrier, _NEGLIGIBLE if length > _SHORT else _TINY)
        if failed:
            break
        # (A^T D A + barrier) dv = A^T (D rho - y) - g + sign aim / distance, and dy = D (A dv - rho).
        fixed = gradient + rows.transposed(y)
        aim, aim_held = np.zeros(1), np.zeros(1)
        for phase in range(2):
            rho = (signs * aim / multiplier).sum(axis=0) - r
            right = rows.transposed(weight * rho) - fixed + np.bincount(at, sign * aim_held / distance, k)
            dv = lapack.dpotrs(factor, right, lower=1)[0]
            move = rows.times(dv)
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
        y, held, length = y + dual * dy, held + dual * d_held, min(primal, dual)
        multiplier = multiplier + dual * d_multiplier
        r = r + primal * move
    return Central(v, weight, barrier)


def _first_point(
    program: PiecewiseLinearProgram, signs: Array, bounds: UnitRows, sign: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """v inside the bounds, slacks and multipliers of the rows, (1 or 2, m), distances and multipliers of the bounds.

    The multipliers of the bounds balance A^T y + g, and are a little larger.
    """
    lower, upper, y, at = program.lower, program.upper, program.y, bounds.column
    margin = np.minimum(_MARGIN, 0.25 * (upper - lower))
    v = np.minimum(np.maximum(program.v, lower + margin), upper - margin)
    # An unknown with equal bounds has no inside.
    distance = np.maximum(sign * (v[at] + bounds.shift), _LEAST)
    slack = np.maximum(signs * program.residuals(v), 0.0) + _MARGIN
    multiplier = np.stack([y - program.lo] if program.hard else [y - program.lo, program.hi - y])
    pull = program.rows.transposed(y) + program.gradient
    mean = float(np.vdot(slack, multiplier)) / max(1, slack.size)
    held = np.maximum(sign * pull[at], 0.0) + mean / (distance + 0.1 * _MARGIN)
    return v, slack, multiplier, distance, held


def _longest(x: Array, direction: Array) -> float:
    """The longest step up to 1 that keeps x >= 0."""
    fall = float((direction / x).min(initial=-1.0))
    return -1.0 / fall


def _factorised(rows: SignedRows, weight: Array, barrier: Array, negligible: float) -> tuple[Array, bool]:
    """The Cholesky factor of A^T D A + barrier without rows of negligible weight, and whether there is none."""
    normal = rows.normal(weight, negligible)
    diagonal = np.einsum("ii->i", normal)
    diagonal += barrier
    diagonal += _RIDGE * diagonal.mean() + 1e-300
    factor, info = lapack.dpotrf(normal, lower=1, clean=0, overwrite_a=1)
    return factor, info != 0 or not np.isfinite(diagonal).all()


def _decided(scores: Array, barrier: Array, k: int) -> float:
    """How far the k largest scores stand out: the score at rank k / 2 over that at 3 k / 2.

    With fewer than 2 k rows and bounds, the second rank is halfway between k and their number.
    """
    scores = np.concatenate([scores, barrier])
    count = int(np.count_nonzero(scores > 0.0))
    if count <= k:
        return np.inf
    high, low = len(scores) - 1 - k // 2, len(scores) - 1 - min((3 * k) // 2, (k + count) // 2)
    ordered = np.partition(scores, [low, high])
    return float(ordered[high] / ordered[low])
