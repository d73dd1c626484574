r"""The exact optimum of a program with many rows and few unknowns: a few interior-point steps, then exchange simplex.

.. math:: \min_v\; g^T v + \sum_j \max(hi_j r_j, lo_j r_j), \qquad r = A v + s, \quad lower \le v \le upper

At the optimum, most rows are far from their break point. Only the others, the working set, take part in the exchange.
Afterwards every row is checked, and the working set grows by those whose break point was crossed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from unrelu.lp.exchange_simplex import Basis, Vertex, compile_exchange, minimise
from unrelu.lp.highs import LinearProgram
from unrelu.lp.interior_point import SignedRows, interior_point
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.work_clock import now

# The most interior-point steps.
_STEPS = 40
# One-sided rows this far below their break point do not take part in the interior-point steps.
_FAR = 4.0
# A vertex is completed by fill-ins rather than by rows of a smaller weight, which are far away.
_FILL_IN = 1e-7
# Rows in the first working set for each unknown.
_WORKING = 2
# The number of times that the working set grows before it takes in all rows. A row is missing if its residual has the
# wrong sign by more than _WRONG.
_ROUNDS, _WRONG = 6, 1e-9


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

    def dual(self) -> tuple[LinearProgram, Index]:
        r"""The dual program for HiGHS, and the rows that its first columns stand for; v is its row dual.

        .. math:: \min_y\; -s^T y \qquad A^T y = -g, \quad lo \le y \le hi
        """
        index, units = np.flatnonzero(self.hi > self.lo), _Units.of(self, fill_ins=False)
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


class _Units(NamedTuple):
    """Constraints with one entry: first a fill-in for each unknown, then the finite bounds.

    A fill-in has no weight and only completes a basis. A bound has a penalty.
    """

    column: Index
    shift: Array
    lo: Array
    hi: Array

    @classmethod
    def of(cls, program: PiecewiseLinearProgram, fill_ins: bool = True) -> _Units:
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


def optimise(
    program: PiecewiseLinearProgram,
    sizes: Array,
    basis: Basis | None = None,
    end: float = math.inf,
    ends: Callable[[Array, Array], bool] | None = None,
) -> Vertex:
    """Solve a program with a dense matrix.

    Args:
        program: the program.
        sizes: the squared norms of the rows of its matrix, (n,).
        basis: the basis of a similar program, to start from; otherwise interior-point steps suggest one.
        end: the end of the time allowed, by :func:`~unrelu.runtime.work_clock.now`.
        ends: whether a point and multipliers, (N,), from the interior-point steps are enough.
    """
    compile_exchange()
    total, size = len(program.shift), len(program.v)
    units = _Units.of(program)
    v, numbers, edges = program.v, None, None
    # A basis of another kind of program is ignored.
    if basis is not None and len(basis.numbers) == size and basis.numbers.max() < total + len(units.column):
        numbers, edges = basis
    else:
        v, scores, y = _suggested(program, sizes, units, end, ends)
        if y is not None:
            return Vertex(v, y, LpStatus.FAILED, 0)
        numbers = np.argpartition(-scores, size - 1)[:size]
    r = program.residuals(v)
    far, kept, pivots = np.where(r > 0, program.hi, program.lo), _working_set(program, r), 0
    for turn in range(_ROUNDS + 1):
        kept[numbers[numbers < total]] = True
        index = np.flatnonzero(kept)
        number = np.concatenate([index, np.arange(total, total + len(units.column))])
        rest = far.copy()
        rest[index] = 0.0
        shift, lo, hi = (
            np.concatenate([ours[index], theirs])
            for ours, theirs in zip((program.shift, program.lo, program.hi), units[1:], strict=True)
        )
        gradient = program.gradient + program.rows.transposed(rest)
        first, vectors = np.searchsorted(number, numbers), program.rows.some(index)
        found = minimise(vectors, shift, lo, hi, units.column, gradient, first, edges, end)
        pivots, numbers, edges = pivots + found.pivots, number[found.basis.numbers], found.basis.edges
        if found.status not in (LpStatus.OPTIMAL, LpStatus.UNBOUNDED):
            break
        r = program.residuals(found.v)
        missing = ~kept
        if found.status is LpStatus.OPTIMAL:
            missing &= (np.where(r > 0, program.hi, program.lo) != far) & (np.abs(r) > _WRONG)
        if not missing.any():
            break
        kept = kept | missing if turn + 1 < _ROUNDS else np.ones(total, dtype=bool)
    every = far.copy()
    every[index] = found.multipliers[: len(index)]
    return Vertex(found.v, every, found.status, pivots, Basis(numbers, edges))


def _working_set(program: PiecewiseLinearProgram, r: Array) -> Array:
    """The half of the two-sided rows with the smallest residuals, or twice as many rows as unknowns if that is more."""
    key = np.where(program.hi > program.lo, np.abs(r), np.inf)
    count = max(_WORKING * len(program.v), int((program.lo < 0).sum()) // 2)
    kept = np.ones(len(r), dtype=bool) if count >= len(r) else key <= np.partition(key, count)[count]
    return kept & (program.hi > program.lo)


def _suggested(
    program: PiecewiseLinearProgram, sizes: Array, units: _Units, end: float,
    ends: Callable[[Array, Array], bool] | None,
) -> tuple[Array, Array, Array | None]:  # fmt: skip
    """The point where interior-point steps end, and scores that say how likely constraints (N + u,) are basic.

    Multipliers come third if they are enough. If the steps break down, all scores are those of fill-ins.
    """
    lo, hi, size = program.lo, program.hi, len(program.v)
    index = np.flatnonzero((lo < 0) | ((program.residuals(program.v) > -_FAR) & (hi > 0)))
    rows = program.rows.restricted(index)
    squares = sizes[index] if rows.output is None else sizes[program.rows.output[index]] * rows.factor**2 + 1.0
    steps = max(1, int(min(_STEPS, 1e10 * max(0.0, end - now()) / (max(1, len(index)) * size**2))))
    scores, y = np.zeros(len(program.shift)), program.lo.copy()

    def enough(v: Array, some: Array) -> bool:
        y[index] = some
        return ends is not None and ends(v, y)

    with np.errstate(all="ignore"):  # steps that break down end with what is not finite
        found = interior_point(
            rows, program.shift[index], lo[index], hi[index], program.gradient, program.lower, program.upper, program.v,
            program.y[index], program.hard, squares, steps, ends and enough,
        )  # fmt: skip
    if not np.isfinite(found.v).all():
        found = found._replace(v=program.v, bounds=np.zeros(size))
    else:
        scores[index] = found.rows * squares
    scores = np.concatenate([scores, np.full(size, _FILL_IN), found.bounds[units.column[size:]]])
    return found.v, scores, None if found.y is None else y
