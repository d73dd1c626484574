r"""Programs with many rows and few unknowns, the standard form of all layer programs.

.. math:: \min_v\; g^T v + \sum_j \max(hi_j r_j, lo_j r_j), \qquad r = A v + s, \quad lower \le v \le upper
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse
from scipy.linalg import blas

from unrelu.lp.highs import LinearProgram
from unrelu.runtime.array_types import Array, Index

Matrix: TypeAlias = Array | sparse.csr_array


class SignedRows(NamedTuple):
    """The rows A of a program: those of a matrix W, or multiples of them, each with a last entry of -1.

    Attributes:
        matrix: W, (n, k), dense; it may be sparse where no other rows are asked for than :meth:`some`.
        factor: the factor of each row of A, (N,); None if A = W.
        output: the row of W of each row of A, (N,).
    """

    matrix: Matrix
    factor: Array | None = None
    output: Index = np.zeros(0, dtype=np.int64)

    def times(self, v: Array) -> Array:
        """A v, (N,)."""
        if self.factor is None:
            return np.asarray(self.matrix @ v)
        return np.asarray(self.factor * np.asarray(self.matrix @ v[:-1])[self.output] - v[-1])

    def transposed(self, y: Array) -> Array:
        """A^T y, (K,)."""
        pull = np.asarray(self.matrix.T @ self.of_outputs(y))
        return pull if self.factor is None else np.append(pull, -y.sum())

    def of_outputs(self, y: Array) -> Array:
        """The multipliers of the rows of W, (n,), from those of A."""
        if self.factor is None:
            return y
        return np.bincount(self.output, self.factor * y, self.matrix.shape[0]).astype(np.float64, copy=False)

    def some(self, index: Index) -> Matrix:
        """Some of the rows as a matrix, (len(index), K)."""
        if self.factor is None:
            return self.matrix[index]
        factor = self.factor[index, None]
        rows, last = self.matrix[self.output[index]], np.full_like(factor, -1.0)
        return (
            sparse.hstack([rows * factor, last], "csr") if sparse.issparse(rows) else np.hstack([rows * factor, last])
        )

    def restricted(self, index: Index) -> SignedRows:
        """Some of the rows, with only those of W that they need."""
        if self.factor is None:
            return SignedRows(self.matrix[index])
        used = np.zeros(self.matrix.shape[0], dtype=bool)
        used[self.output[index]] = True
        place = np.cumsum(used) - 1
        return SignedRows(self.matrix[used], self.factor[index], place[self.output[index]])

    def normal(self, weight: Array, negligible: float) -> Array:
        """The lower triangle of A^T diag(weight) A, (K, K), without rows of a small share of the largest weight."""
        matrix, k, total = self.matrix, self.matrix.shape[1], weight
        if self.factor is not None:
            weight = self.of_outputs(self.factor * total)
        used = np.flatnonzero(weight > negligible * weight.max(initial=0.0))
        root = matrix[used]
        root *= np.sqrt(weight[used])[:, None]
        # The rows are in Fortran's order if transposed, so that nothing is copied.
        gram: Array = blas.dsyrk(1.0, root.T, lower=1)
        if self.factor is None:
            return gram
        normal = np.empty((k + 1, k + 1), order="F")
        normal[:k, :k], normal[k, :k], normal[k, k] = gram, -(self.of_outputs(total) @ matrix), total.sum()
        return normal


@dataclass(frozen=True, eq=False)
class PiecewiseLinearProgram:
    """The program, around v = 0, in units in which residuals and multipliers are about 1.

    Attributes:
        rows: A, with N rows; they may be sparse for :meth:`dual`.
        shift: s, (N,).
        lo, hi: slopes, (N,); both are 0 for a row that is missing.
        gradient: g, (K,).
        lower, upper: bounds of v, (K,).
        penalty: of the bounds, (K,): larger than any multiplier at an optimum.
        v, y: a point, (K,), and multipliers, (N,), for the interior-point steps to begin at.
        hard: whether the slopes hi are penalties that stand for constraints.
    """

    rows: SignedRows
    shift: Array
    lo: Array
    hi: Array
    gradient: Array
    lower: Array
    upper: Array
    penalty: Array
    v: Array
    y: Array
    hard: bool = False

    def residuals(self, v: Array) -> Array:
        """A v + s, (N,)."""
        return self.rows.times(v) + self.shift

    def restricted(self, index: Index) -> PiecewiseLinearProgram:
        """The program with some of its rows."""
        shift, lo, hi, y = (every[index] for every in (self.shift, self.lo, self.hi, self.y))
        return replace(self, rows=self.rows.restricted(index), shift=shift, lo=lo, hi=hi, y=y)

    def dual(self) -> tuple[LinearProgram, Index]:
        r"""The dual program for HiGHS, and the rows that its first columns stand for; v is its row dual.

        .. math:: \min_y\; -s^T y \qquad A^T y = -g, \quad lo \le y \le hi
        """
        index, units = np.flatnonzero(self.hi > self.lo), UnitRows.of(self, fill_ins=False)
        columns = sparse.eye_array(len(self.v), format="csc")[:, units.column]
        return LinearProgram(
            cost=-np.concatenate([self.shift[index], units.shift]),
            matrix=sparse.hstack([sparse.csr_array(self.rows.some(index)).T, columns], format="csc"),
            row_lower=-self.gradient,
            row_upper=-self.gradient,
            col_lower=np.concatenate([self.lo[index], np.where(units.lo < 0, -np.inf, 0.0)]),
            col_upper=np.concatenate(
                [np.where(self.hard, np.inf, self.hi[index]), np.where(units.hi > 0, np.inf, 0.0)]
            ),
        ), index


class UnitRows(NamedTuple):
    """Constraints with one entry: first a fill-in for each unknown, then the finite bounds.

    A fill-in has no weight and only completes a basis. A bound has a penalty.
    """

    column: Index
    shift: Array
    lo: Array
    hi: Array

    @classmethod
    def of(cls, program: PiecewiseLinearProgram, fill_ins: bool = True) -> UnitRows:
        """The constraints of a program."""
        below, above = np.flatnonzero(program.lower > -np.inf), np.flatnonzero(program.upper < np.inf)
        every = np.arange(len(program.v) if fill_ins else 0)
        none = np.zeros(len(every))
        return cls(
            np.concatenate([every, below, above]),
            np.concatenate([none, -program.lower[below], -program.upper[above]]),
            np.concatenate([none, -program.penalty[below], np.zeros(len(above))]),
            np.concatenate([none, np.zeros(len(below)), program.penalty[above]]),
        )
