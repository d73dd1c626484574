r"""Programs with many rows and few unknowns, the standard form of all layer programs.

.. math:: \min_v\; g^T v + \sum_j \max(hi_j r_j, lo_j r_j), \qquad r = A v + s, \quad lower \le v \le upper
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from unrelu.lp.highs import LinearProgram
from unrelu.runtime.array_types import Array, Index

Matrix: TypeAlias = Array | sparse.csr_array


class UnitRows(NamedTuple):
    """Constraints with one entry: first a fill-in for each unknown, then the finite bounds.

    A fill-in has no weight and only completes a basis. A bound has a penalty.
    """

    column: Index
    shift: Array
    lo: Array
    hi: Array


@dataclass(frozen=True, eq=False)
class PiecewiseLinearProgram:
    """The program, around v = 0, in units in which residuals and multipliers are about 1.

    Attributes:
        rows: A, (N, K), contiguous; it may be sparse for :meth:`dual`.
        shift: s, (N,).
        lo, hi: slopes, (N,); both are 0 for a row that is missing.
        gradient: g, (K,).
        lower, upper: bounds of v, (K,).
        penalty: of the bounds, (K,): larger than any multiplier at an optimum.
        v, y: a point, (K,), and multipliers, (N,), for the interior-point steps to begin at.
        hard: whether the slopes hi are penalties that stand for constraints.
    """

    rows: Matrix
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

    def units(self) -> UnitRows:
        """Write the fill-ins and bounds as rows."""
        below, above = np.flatnonzero(self.lower > -np.inf), np.flatnonzero(self.upper < np.inf)
        fill_ins, none, penalty = np.arange(len(self.v)), np.zeros(len(self.v)), self.penalty
        return UnitRows(
            np.concatenate([fill_ins, below, above]),
            np.concatenate([none, -self.lower[below], -self.upper[above]]),
            np.concatenate([none, -penalty[below], np.zeros(len(above))]),
            np.concatenate([none, np.zeros(len(below)), penalty[above]]),
        )

    def restricted(self, index: Index) -> PiecewiseLinearProgram:
        """Keep only some rows of the program."""
        names = ("rows", "shift", "lo", "hi", "y")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def dual(self) -> tuple[LinearProgram, Index]:
        r"""Write the dual program for HiGHS, and the rows that its first columns stand for; v is its row dual.

        .. math:: \min_y\; -s^T y \qquad A^T y = -g, \quad lo \le y \le hi
        """
        k, index = len(self.v), np.flatnonzero(self.hi > self.lo)
        column, shift, lo, hi = (every[k:] for every in self.units())
        columns = sparse.eye_array(k, format="csc")[:, column]
        top = np.where(self.hard, np.inf, self.hi[index])
        return LinearProgram(
            cost=-np.concatenate([self.shift[index], shift]),
            matrix=sparse.hstack([sparse.csr_array(self.rows[index]).T, columns], format="csc"),
            row_lower=-self.gradient,
            row_upper=-self.gradient,
            col_lower=np.concatenate([self.lo[index], np.where(lo < 0, -np.inf, 0.0)]),
            col_upper=np.concatenate([top, np.where(hi > 0, np.inf, 0.0)]),
        ), index
