"""The exact optimum of a piecewise linear program: interior-point steps, then the exchange simplex on a working set.

At the optimum, most rows are far from their break point. Only the others, the working set, take part in the exchange.
Afterwards every row is checked, and the working set grows by those whose break point was crossed.
"""

from __future__ import annotations

import math

import numpy as np

from unrelu.lp._interior_point import interior_point
from unrelu.lp.exchange_simplex import Basis, Vertex, compile_exchange, minimise
from unrelu.lp.lp_status import LpStatus
from unrelu.lp.piecewise_linear_program import PiecewiseLinearProgram, UnitRows
from unrelu.runtime.array_types import Array, Flags, Index
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


def optimise(
    program: PiecewiseLinearProgram, sizes: Array, basis: Basis | None = None, end: float = math.inf
) -> Vertex:
    """Solve a program with a dense matrix.

    Args:
        program: the program.
        sizes: the squared norms of the rows of its matrix, (n,).
        basis: the basis of a similar program, to start from; otherwise interior-point steps suggest one.
        end: the end of the time allowed, by :func:`~unrelu.runtime.work_clock.now`.
    """
    compile_exchange()
    total, size = len(program.shift), len(program.v)
    units = UnitRows.of(program)
    v = program.v
    # A basis of another kind of program is ignored.
    numbers: Index
    edges: Array | None
    if basis is not None and len(basis.numbers) == size and basis.numbers.max() < total + len(units.column):
        numbers, edges = basis
    else:
        v, scores = _suggested(program, sizes, units, end)
        numbers, edges = np.argpartition(-scores, size - 1)[:size], None
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
    return Vertex(found.v, every, found.status, pivots, Basis(numbers, found.basis.edges))


def _working_set(program: PiecewiseLinearProgram, r: Array) -> Flags:
    """The half of the two-sided rows with the smallest residuals, or twice as many rows as unknowns if that is more."""
    key = np.where(program.hi > program.lo, np.abs(r), np.inf)
    count = max(_WORKING * len(program.v), int((program.lo < 0).sum()) // 2)
    farthest = np.partition(key, count)[count] if count < len(r) else np.inf
    return np.asarray((key <= farthest) & (key < np.inf))


def _suggested(program: PiecewiseLinearProgram, sizes: Array, units: UnitRows, end: float) -> tuple[Array, Array]:
    """The point where interior-point steps end, and scores that say how likely constraints (N + u,) are basic.

    If the steps break down, all scores are those of fill-ins.
    """
    size, r = len(program.v), program.residuals(program.v)
    index = np.flatnonzero((program.lo < 0) | ((r > -_FAR) & (program.hi > 0)))
    near = program.restricted(index)
    factor = program.rows.factor
    squares = sizes if factor is None else sizes[program.rows.output] * factor**2 + 1.0
    steps = max(1, int(min(_STEPS, 1e10 * max(0.0, end - now()) / (max(1, len(index)) * size**2))))
    scores = np.zeros(len(r))
    with np.errstate(all="ignore"):  # steps that break down end with what is not finite
        found = interior_point(near, squares[index], steps)
    if not np.isfinite(found.v).all():
        found = found._replace(v=program.v, bounds=np.zeros(size))
    else:
        scores[index] = found.rows * squares[index]
    return found.v, np.concatenate([scores, np.full(size, _FILL_IN), found.bounds[units.column[size:]]])
