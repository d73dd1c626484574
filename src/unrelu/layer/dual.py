"""The layer programs in dual form, for HiGHS: few rows and many columns. Built here, solved elsewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import lsmr

from unrelu.layer.highs import LinearProgram
from unrelu.layer.rows import LayerSystem, Rows

__all__ = ["dual_program", "response_program", "row_multipliers", "settled"]

Array = npt.NDArray[np.float64]

# A multiplier this share of its interval away from the ends is inside. W^T y up to this share of |W|^T |y| is meant to
# be zero, and settling leaves this much of it.
_INSIDE, _SMALL, _LEFT = 1e-9, 1e-6, 1e-8


def dual_program(system: LayerSystem, rows: Rows, norm: str, h0: Array, sigma: float) -> LinearProgram:
    r"""The dual of :func:`least_violation` after the change of variables h = h0 + sigma w.

    With multipliers lambda+ for the upper and lambda- for the lower sides, and nu for the bounds of h,

    .. math:: \min\; m'^T \lambda^+ - \ell'^T \lambda^- + (\text{bounds})^T \nu \quad
        W^T(\lambda^+ - \lambda^-) + \nu = 0,

    where ' means shifted by W h0 and divided by sigma. For "l1" the multipliers are boxed, lambda+ <= 1/p and
    lambda- <= 1/q; for "linf" p.lambda+ + q.lambda- <= 1. It has k (+1) rows only, and w is its row dual.
    """
    wh = np.asarray(system.matrix @ h0)
    up, down = np.isfinite(rows.high), np.isfinite(rows.low)
    high, low = (rows.high - wh) / sigma, (rows.low - wh) / sigma
    if norm == "l1":
        # Both sides of a row start at the same point, so one boxed multiplier serves both.
        some = up | down
        index, sign = np.flatnonzero(some), np.ones(int(some.sum()))
        cost = np.where(up, high, low)[some]
        col_lower = np.where(down, -1 / rows.low_slope, 0.0)[some]
        col_upper = np.where(up, 1 / rows.high_slope, 0.0)[some]
        weights = None
    else:
        index = np.concatenate([np.flatnonzero(up), np.flatnonzero(down)])
        sign = np.concatenate([np.ones(int(up.sum())), -np.ones(int(down.sum()))])
        cost = np.concatenate([high[up], -low[down]])
        col_lower, col_upper = np.zeros(len(index)), np.full(len(index), np.inf)
        weights = np.concatenate([rows.high_slope[up], rows.low_slope[down]])
    return _assemble(system, h0, sigma, index, sign, cost, col_lower, col_upper, weights, np.zeros(system.n_in))


def row_multipliers(rows: Rows, norm: str, x: Array) -> Array:
    """One signed multiplier a row from the columns of :func:`dual_program`."""
    up, down = np.isfinite(rows.high), np.isfinite(rows.low)
    y = np.zeros(len(rows.high))
    if norm == "l1":
        some = up | down
        y[some] = x[: int(some.sum())]
    else:
        n_up = int(up.sum())
        y[up] = x[:n_up]
        y[down] -= x[n_up : n_up + int(down.sum())]
    return y


def settled(system: LayerSystem, rows: Rows, norm: str, y: Array) -> Array:
    """Multipliers with W^T y nearer zero in the coordinates of h where it is small.

    HiGHS leaves about 1e-11 of what no bound holds. The multipliers inside their box take that up, by the smallest
    change that does.
    """
    if norm == "l1":
        lower, upper = rows.box
        inside = np.minimum(y - lower, upper - y) > _INSIDE * (upper - lower)
    else:
        inside = np.abs(y) > _INSIDE * np.abs(y).max(initial=0.0)
    t = np.asarray(system.matrix.T @ y)
    small = np.abs(t) <= _SMALL * np.asarray(system.absolute.T @ np.abs(y))
    y = y.copy()
    if inside.any() and small.any():
        part = system.matrix[inside][:, small].T
        y[inside] -= lsmr(part, t[small], atol=_LEFT, btol=_LEFT, maxiter=2 * system.n_in)[0]
    return y


def response_program(system: LayerSystem, side: Array, weight: Array, h0: Array, sigma: float) -> LinearProgram:
    r"""The dual of max weight.(W h) s.t. W h <= side after the change of variables h = h0 + sigma w:

    .. math:: \min\; side'^T \lambda + (\text{bounds})^T \nu \quad W^T \lambda + \nu = W^T weight, \; \lambda \ge 0
    """
    index = np.flatnonzero(np.isfinite(side))
    cost = ((side - np.asarray(system.matrix @ h0)) / sigma)[index]
    lower, upper = np.zeros(len(index)), np.full(len(index), np.inf)
    pull = np.asarray(system.matrix.T @ weight)
    return _assemble(system, h0, sigma, index, np.ones(len(index)), cost, lower, upper, None, pull)


def _assemble(
    system: LayerSystem,
    h0: Array,
    sigma: float,
    index: npt.NDArray[np.intp],
    sign: Array,
    cost: Array,
    col_lower: Array,
    col_upper: Array,
    weights: Array | None,
    equals: Array,
) -> LinearProgram:
    """min cost.lambda s.t. W[index]^T (sign lambda) + bound multipliers = equals (, weights.lambda <= 1)."""
    k = system.n_in
    lower, upper = (system.lower - h0) / sigma, (system.upper - h0) / sigma
    has_lower, has_upper = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
    n_bounds = len(has_lower) + len(has_upper)
    units = sparse.csc_array(
        (
            np.concatenate([-np.ones(len(has_lower)), np.ones(len(has_upper))]),
            (np.concatenate([has_lower, has_upper]), np.arange(n_bounds)),
        ),
        shape=(k, n_bounds),
    )
    columns = _columns(system, index, sign)
    matrix = sparse.hstack([columns, units], format="csc") if n_bounds else columns
    row_lower, row_upper = equals, equals
    if weights is not None:
        last = sparse.csc_array(np.concatenate([weights, np.zeros(n_bounds)])[None, :])
        matrix = sparse.vstack([matrix, last], format="csc")
        row_lower, row_upper = np.append(equals, -np.inf), np.append(equals, 1.0)
    return LinearProgram(
        cost=np.concatenate([cost, -lower[has_lower], upper[has_upper]]),
        matrix=matrix,
        row_lower=row_lower,
        row_upper=row_upper,
        col_lower=np.concatenate([col_lower, np.zeros(n_bounds)]),
        col_upper=np.concatenate([col_upper, np.full(n_bounds, np.inf)]),
    )


def _columns(system: LayerSystem, index: npt.NDArray[np.intp], sign: Array) -> sparse.csc_array:
    """W[index]^T with its columns times ``sign``, as CSC; a dense W is copied without a search for zeros."""
    if isinstance(system.matrix, np.ndarray):
        k, m = system.n_in, len(index)
        data = (system.matrix[index] * sign[:, None]).ravel()
        return sparse.csc_array((data, np.tile(np.arange(k), m), np.arange(m + 1) * k), shape=(k, m))
    whole = np.array_equal(index, np.arange(system.n_out))
    columns = system.transposed.copy() if whole else system.transposed[:, index]
    columns.data *= np.repeat(sign, np.diff(columns.indptr))
    return columns
