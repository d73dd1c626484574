r"""Assumptions 2 and 3: how much the rows of a layer extend every vector, :math:`|W v| \ge c |v|`.

**A bound from multipliers.** The unit ball of the dual norm has extreme points :math:`g_1, g_2, \dots`, and :math:`|v|
= \max_s g_s^T v`: unit vectors and their negatives for :math:`|v|_\infty`, sign vectors for :math:`|v|_1`. By linear
programming duality

.. math:: \min_v \frac{|W v|}{|v|} = \min_s \min_{g_s^T v = 1} |W v|
    = \min_s \frac{1}{\min \{ |\lambda|_* : W^T \lambda = g_s \}}

with :math:`|\lambda|_*` the 1-norm beside :math:`|W v|_\infty`, the largest entry beside :math:`|W v|_1`. The minimiser
of one of the programs is a v that attains the constant.

**Whatever the solver says.** Multipliers that were computed satisfy :math:`W^T \lambda_s = g_s + r_s` with a small r.
With :math:`\rho_s` the dual norm of :math:`r_s` and s the one for which :math:`|v| = g_s^T v`,

.. math:: |v| = \lambda_s^T W v - r_s^T v \le |\lambda_s|_* |W v| + \rho_s |v|
    \quad\Longrightarrow\quad |W v| \ge \min_s \frac{1 - \rho_s}{|\lambda_s|_*}\, |v|

r is computed with a bound on its own rounding: a sum of n products is off by at most :math:`n u / (1 - n u)` times the
sum of their absolute values, :math:`u = 2^{-53}` (N. J. Higham, "Accuracy and Stability of Numerical Algorithms",
section 3.1, 2002). So the lower bounds hold for W as it is stored, with every rounding error counted.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.errors import InputError
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array

_UNIT = 2.0**-53
# More than all products that are too small to be numbers.
_TINY = 1e-290
# 2^(k - 1) sign vectors up to here: less than a second.
_ENUMERABLE = 10
# k^2 m up to which the best left inverse is computed, which takes long. Beyond, the pseudo-inverse is taken.
_SOLVABLE = 200_000


@dataclass(frozen=True, eq=False)
class Bracket:
    r"""The largest c with :math:`|W v| \ge c |v|` for all v, enclosed.

    Attributes:
        lower: certified: no rounding error can make the constant smaller.
        upper: :math:`|W v| / |v|` at ``v``, rounded upwards.
        v: (k,), the vector with the smallest ratio that was met.
    """

    lower: float
    upper: float
    v: Array


def c_inf(matrix: npt.ArrayLike) -> Bracket:
    r"""The constant of Assumption 2 for one set of rows.

    .. math:: c_\infty = \min_v \frac{|W v|_\infty}{|v|_\infty}
        = \min_j \frac{1}{\min \{ |\lambda|_1 : W^T \lambda = e_j \}}

    by at most k linear programs; lower and upper agree to about 1e-10. It takes 0.03 s for 100 x 20 Gaussian rows and
    some 5 s for 500 x 100.

    Args:
        matrix: W, (m, k): the rows I of a layer.

    Returns:
        The constant, enclosed; 0 where rows are fewer than columns or do not have rank k.

    Raises:
        InputError: W is not a matrix with columns, or not finite.
        SolverError: HiGHS refuses a program.

    Source: Assumption 2 of the paper, for a given I.
    """
    return _bracket(*_scaled(matrix), "linf")


def c_1(matrix: npt.ArrayLike) -> Bracket:
    r"""The constant of Assumption 3 for one set of rows, or bounds on it.

    .. math:: c_1 = \min_v \frac{|W v|_1}{|v|_1} \ge \frac{1}{\max_i \sum_a |L_{ai}|} \quad \text{for every } L
        \text{ with } L W = I

    Up to k = 10, lower and upper agree to about 1e-10, by :math:`2^{k-1}` linear programs, one for each pattern of
    signs of v. For more columns the lower bound is that of the best left inverse L, a linear program, or where
    :math:`k^2 m` is beyond 200,000 that of the pseudo-inverse; the upper bound is the ratio of the singular vector with
    the least singular value.

    Args:
        matrix: W, (m, k): the rows I of a layer.

    Returns:
        The constant, enclosed; 0 where rows are fewer than columns or do not have rank k.

    Raises:
        InputError: W is not a matrix with columns, or not finite.
        SolverError: HiGHS refuses a program.

    Source: Assumption 3 of the paper, for a given I.
    """
    return _bracket(*_scaled(matrix), "l1")


def _scaled(matrix: npt.ArrayLike) -> tuple[Array, float]:
    """W / s and s, a power of two near the largest entry: nothing is rounded, and HiGHS drops small coefficients."""
    try:
        w = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"W is not an array of numbers ({error}); pass (rows, columns)") from None
    if w.ndim != 2 or w.shape[1] == 0:
        raise InputError(f"W has shape {w.shape}; pass a matrix (rows, columns) with at least one column")
    if not np.isfinite(w).all():
        raise InputError(f"W has {int((~np.isfinite(w)).sum())} entries that are not finite; replace them")
    largest = float(np.abs(w).max(initial=0.0))
    # Beyond, the scale itself or entries beside the largest would leave the range of numbers.
    if largest and not 1e-140 < largest < 1e140:
        raise InputError(f"the largest entry of W is {largest:g}; scale W to entries around 1, the constant scales too")
    scale = 2.0 ** math.floor(math.log2(largest)) if largest else 1.0
    return w / scale, scale


def _bracket(w: Array, scale: float, norm: str) -> Bracket:
    m, k = w.shape
    if m < k:
        return Bracket(0.0, 0.0, _flattest(w))
    if norm == "linf":
        lower, witnesses = _by_coordinates(w)
    elif k <= _ENUMERABLE:
        lower, witnesses = _by_signs(w)
    else:
        lower, witnesses = _by_left_inverse(w), []
    value, v = min(((_ratio(w, v, norm), v) for v in [_flattest(w), *witnesses]), key=lambda pair: pair[0])
    return Bracket(lower * scale, value * scale, v)


def _flattest(w: Array) -> Array:
    """The unit vector that W extends least in the 2-norm."""
    return np.array(np.linalg.svd(w, full_matrices=True)[2][-1])


def _by_coordinates(w: Array) -> tuple[float, list[Array]]:
    """The lower bound and witnesses of c_inf, the rows of the pseudo-inverse being multipliers to begin with.

    Once one of the programs has a minimum that no other row exceeds, the others cannot matter.
    """
    rows, unit = np.array(np.linalg.pinv(w)), np.eye(w.shape[1])
    witnesses, largest = [], 0.0
    sizes = np.abs(rows).sum(axis=1)
    for j in np.argsort(-sizes):
        if sizes[j] <= largest:
            break
        found = _extreme(w, unit[j], "linf")
        if found is not None:
            rows[j], v = found
            largest = max(largest, float(np.abs(rows[j]).sum()))
            witnesses.append(v)
    return _certified(w, rows, unit, "linf"), witnesses


def _by_signs(w: Array) -> tuple[float, list[Array]]:
    """The lower bound and witnesses of c_1 from all sign vectors with a leading 1."""
    signs = np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=w.shape[1] - 1)])
    found = [_extreme(w, s, "l1") for s in signs]
    there = [pair for pair in found if pair is not None]
    witnesses = [v for _, v in there]
    if len(there) < len(signs):
        return 0.0, witnesses
    return _certified(w, np.array([y for y, _ in there]), signs, "l1"), witnesses


def _by_left_inverse(w: Array) -> float:
    """The lower bound of c_1 by the best left inverse, or by the pseudo-inverse where that is too much work."""
    m, k = w.shape
    bound = _of_left_inverse(w, np.array(np.linalg.pinv(w)))
    if k * k * m > _SOLVABLE:
        return bound
    # L+ - L- = L and t: rows (L W)_a = e_a, sum_a |L_ai| <= t.
    size = k * m
    equal = sparse.kron(sparse.eye_array(k), sparse.csc_array(w.T))
    sums = sparse.kron(np.ones((1, k)), sparse.eye_array(m))
    above = sparse.hstack([equal, -equal, sparse.csc_array((k * k, 1))])
    below = sparse.hstack([sums, sums, sparse.csc_array(-np.ones((m, 1)))])
    unit = np.eye(k).ravel()
    program = LinearProgram(
        cost=np.append(np.zeros(2 * size), 1.0),
        matrix=sparse.csc_array(sparse.vstack([above, below])),
        row_lower=np.append(unit, np.full(m, -np.inf)),
        row_upper=np.append(unit, np.zeros(m)),
        col_lower=np.zeros(2 * size + 1),
        col_upper=np.full(2 * size + 1, np.inf),
    )
    solution = solve(program)
    if solution.status is not LpStatus.OPTIMAL:
        return bound
    left = (solution.x[:size] - solution.x[size:-1]).reshape(k, m)
    return max(bound, _of_left_inverse(w, left))


def _extreme(w: Array, goal: Array, norm: str) -> tuple[Array, Array] | None:
    """Multipliers and the minimiser of |W v| subject to goal . v = 1, but for its scale; None if |W v| can be 0 there.

    For the largest entry: min 1.(p + q) over p, q >= 0 with W^T (p - q) = goal. For the sum: max s over |y_j| <= 1 with
    W^T y = s goal. v are the multipliers of the equations.
    """
    m, k = w.shape
    infinite = np.full(m, np.inf)
    if norm == "linf":
        program = LinearProgram(
            cost=np.ones(2 * m),
            matrix=sparse.csc_array(np.hstack([w.T, -w.T])),
            row_lower=goal,
            row_upper=goal,
            col_lower=np.zeros(2 * m),
            col_upper=np.append(infinite, infinite),
        )
    else:
        program = LinearProgram(
            cost=np.append(np.zeros(m), -1.0),
            matrix=sparse.csc_array(np.hstack([w.T, -goal[:, None]])),
            row_lower=np.zeros(k),
            row_upper=np.zeros(k),
            col_lower=np.append(-np.ones(m), 0.0),
            col_upper=np.append(np.ones(m), np.inf),
        )
    solution = solve(program)
    x, v = solution.x, solution.row_dual
    if solution.status is not LpStatus.OPTIMAL or not v.any():
        return None
    if norm == "linf":
        return x[:m] - x[m:], v
    return (x[:m] / x[-1], v) if x[-1] > 0 else None


def _residual(w: Array, rows: Array, goals: Array) -> Array:
    """At least |rows W - goals|, entry by entry."""
    m = len(w)
    size = np.abs(rows)
    rounding = 4 * (m + 4) * _UNIT * (size @ np.abs(w) + np.abs(goals))
    return np.asarray(np.abs(rows @ w - goals) + rounding + _TINY * (1 + size.sum(axis=1, keepdims=True)))


def _certified(w: Array, rows: Array, goals: Array, norm: str) -> float:
    """min_s (1 - rho_s) / |lambda_s|, rounded downwards; rows are lambda_s, (S, m), goals g_s, (S, k)."""
    with np.errstate(over="ignore", invalid="ignore"):
        size, rest = np.abs(rows), _residual(w, rows, goals)
        if norm == "linf":
            sizes, rho = size.sum(axis=1), rest.sum(axis=1)
        else:
            sizes, rho = size.max(axis=1), rest.max(axis=1)
    return min(_quotient(*pair, sum(w.shape)) for pair in zip(rho.tolist(), sizes.tolist(), strict=True))


def _of_left_inverse(w: Array, left: Array) -> float:
    """(1 - |L W - I|) / |L| in the norm that is the largest column sum, rounded downwards."""
    with np.errstate(over="ignore", invalid="ignore"):
        rho = float(_residual(w, left, np.eye(w.shape[1])).sum(axis=0).max())
        return _quotient(rho, float(np.abs(left).sum(axis=0).max()), sum(w.shape))


def _quotient(rho: float, size: float, terms: int) -> float:
    """(1 - rho) / size, rounded downwards, of sums of at most so many terms; 0 where nothing follows."""
    rho *= 1 + 2 * terms * _UNIT
    if not (rho < 1 and 0 < size < math.inf):
        return 0.0
    return (1 - rho) / size * (1 - (2 * terms + 8) * _UNIT)


def _ratio(w: Array, v: Array, norm: str) -> float:
    """|W v| / |v|, rounded upwards."""
    m, k = w.shape
    v = v / np.abs(v).max()
    entries = np.abs(w @ v) + 4 * (k + 4) * _UNIT * (np.abs(w) @ np.abs(v)) + _TINY
    size, length = (entries.max(), 1.0) if norm == "linf" else (entries.sum(), np.abs(v).sum())
    return float(size / length * (1 + 2 * (m + k + 8) * _UNIT))
