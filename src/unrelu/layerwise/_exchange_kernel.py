r"""The exact optimum of a layer program in standard form: a few interior-point steps, then the exchange simplex.

The unknown is w in h = (h0 + sigma w) / column norms, where h0 is a point nearby and sigma the size of its errors. So
tolerances are relative to the noise. r = W w + r0 are the residuals, and the columns of W have norm 1.

.. math:: \min_v\; g^T v + \sum_j \max(hi_j (a_j v + s_j), lo_j (a_j v + s_j)), \qquad lower \le w \le upper

with v = w (:class:`Sum`) or v = (w, d) (:class:`Largest`). At the optimum, most constraints are far from their break
point. Only the others, the working set, take part in the exchange. Afterwards every constraint is checked, and the
working set grows by those whose break point was crossed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from unrelu.lp.compilation import compile_by
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.exchange_simplex import EXHAUSTED, OPTIMAL, SINGULAR, complete_basis, exchange, invert_basis
from unrelu.lp.highs import LinearProgram
from unrelu.lp.interior_point import largest_violation_steps, least_squares_point, violation_sum_steps
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.host import abandoned
from unrelu.runtime.work_clock import now

Mask = Flags
Matrix: TypeAlias = Array | sparse.csr_array

# The most interior-point steps. They end when basic constraints outweigh the others by this power of two: earlier for
# at most _NARROW unknowns, where pivots are cheap.
_STEPS = 40
_DECIDED, _DECIDED_NARROW, _NARROW = 8.0, 6.0, 128
# One-sided constraints this many units below their break point do not take part in the interior-point steps.
_FAR = 4.0
# A vertex is completed by fill-ins rather than by constraints of a smaller weight, which are far away.
_FILL_IN = 1e-7
# The number of times that the working set grows before it takes in all constraints. A constraint is missing if its
# residual has the wrong sign by more than _WRONG.
_ROUNDS, _WRONG = 6, 1e-9
# The level for which interior-point steps find the least violation instead of comparing it.
_NO_LEVEL = -1.0
# The most pivots for each unknown, and in addition; the clock is read after every so many numbers touched.
_PIVOTS, _MORE_PIVOTS, _CHUNK = 30, 1000, 2e8
# A multiplier may leave its interval by this, relative to the length of the interval, or to 1 if that is less.
_MULTIPLIER = 1e-9


class Basis(NamedTuple):
    """The numbers of the basic constraints (unit constraints from N on), and the transposed inverse of their matrix."""

    numbers: Index
    edges: Array


class Optimum(NamedTuple):
    """w, signed multipliers of the layer's outputs, how the search ended, pivots, and the last basis.

    If the time is up before the first pivot, w = 0 and there is no basis.
    """

    w: Array
    multipliers: Array
    status: LpStatus
    pivots: int
    basis: Basis | None = None


class UnitConstraints(NamedTuple):
    """Constraints with one entry: first a fill-in for each unknown, then the bounds of the unknowns.

    A fill-in has no weight and only completes a basis. A bound has a penalty that is larger than any multiplier.
    """

    column: Index
    shift: Array
    lo: Array
    hi: Array

    @classmethod
    def of(cls, lower: Array, upper: Array, penalty: Array) -> UnitConstraints:
        """The constraints of lower <= v <= upper; ``penalty``, (K,), exceeds any multiplier at an optimum."""
        below, above = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
        none = np.zeros(len(lower))
        return cls(
            np.concatenate([np.arange(len(lower)), below, above]),
            np.concatenate([none, -lower[below], -upper[above]]),
            np.concatenate([none, -penalty[below], np.zeros(len(above))]),
            np.concatenate([none, np.zeros(len(below)), penalty[above]]),
        )


class KernelProgram(ABC):
    """A program with N constraints in K unknowns v, around v = 0; the first unknowns are w.

    Args:
        matrix: W, (n, k), dense; it may be sparse for :meth:`dual`.
        r0: residuals at w = 0, (n,).
        lower, upper: bounds of w, (k,), around 0.

    Attributes:
        shape: N and K.
        shift: residuals at v = 0, (N,).
        lo, hi: slopes, (N,).
        hard: whether the slopes hi are penalties that stand for constraints.
        far: slopes of the constraints outside the working set, (N,).
        units: the fill-ins and bounds.
    """

    shape: tuple[int, int]
    shift: Array
    lo: Array
    hi: Array
    hard: bool
    far: Array
    units: UnitConstraints

    def __init__(self, matrix: Matrix, r0: Array, lower: Array, upper: Array) -> None:
        self.matrix, self.r0, self.bounds = matrix, r0, (lower, upper)
        self.decided = _DECIDED_NARROW if matrix.shape[1] <= _NARROW else _DECIDED

    @abstractmethod
    def approach(self, sizes: Array, steps: int) -> tuple[Array, Array, Mask]:
        """Make at most ``steps`` interior-point steps; ``sizes`` are the squared norms of the rows of W, (n,).

        Returns:
            Scores that say how likely constraints (N,) and bounds (K,) are basic, and the working set. If the steps
            break down, all scores are zero, and the exchange begins at w = 0.
        """

    @abstractmethod
    def working_set(self) -> Mask:
        """The first working set around w = 0."""

    @abstractmethod
    def vectors(self, kept: Index) -> Matrix:
        """The a_j of some constraints, ascending."""

    @abstractmethod
    def gradient(self, kept: Index) -> Array:
        """The gradient of g and of the constraints that are not kept, which count as linear, (K,)."""

    @abstractmethod
    def residuals(self, v: Array) -> Array:
        """A v + s, (N,)."""

    @abstractmethod
    def of_outputs(self, y: Array) -> Array:
        """The signed multipliers of the layer's outputs, (n,), from those of the constraints."""

    def missing(self, v: Array, kept: Mask) -> Mask:
        """The constraints not kept whose break point v has crossed."""
        r = self.residuals(v)
        return np.asarray(~kept & (np.where(r > 0, self.hi, self.lo) != self.far) & (np.abs(r) > _WRONG))

    def dual(self) -> LinearProgram:
        r"""The dual program for HiGHS, with v as its row dual: few rows, and many columns with an interval each.

        .. math:: \min_y\; -s^T y \qquad A^T y = -g, \quad lo \le y \le hi
        """
        index, units, (_, k) = np.flatnonzero(self.hi > self.lo), self.units, self.shape
        bounds = slice(k, None)
        columns = sparse.eye_array(k, format="csc")[:, units.column[bounds]]
        matrix = sparse.hstack([sparse.csr_array(self.vectors(index)).T, columns], format="csc")
        upper = np.where(self.hard, np.inf, self.hi)
        equals = -self.gradient(index)
        return LinearProgram(
            cost=-np.concatenate([self.shift[index], units.shift[bounds]]),
            matrix=matrix,
            row_lower=equals,
            row_upper=equals,
            col_lower=np.concatenate([self.lo[index], np.where(units.lo < 0, -np.inf, 0.0)[bounds]]),
            col_upper=np.concatenate([upper[index], np.where(units.hi > 0, np.inf, 0.0)[bounds]]),
        )

    def from_dual(self, y: Array) -> Array:
        """The multipliers of the outputs, (n,), from a solution of :meth:`dual`."""
        every, index = np.zeros(self.shape[0]), self.hi > self.lo
        every[index] = y[: int(index.sum())]
        return self.of_outputs(every)


class Sum(KernelProgram):
    r"""min sum_j hi_j max(0, r_j) + lo_j min(0, r_j), lower <= w <= upper, with lo_j <= 0 <= hi_j.

    Args:
        lo, hi: slopes, (n,).
        cap: values of hi above this are penalties that stand for a constraint.
    """

    def __init__(
        self, matrix: Matrix, r0: Array, lower: Array, upper: Array, lo: Array, hi: Array, cap: float = np.inf
    ) -> None:
        super().__init__(matrix, r0, lower, upper)
        self.shift, self.lo, self.hi, self._cap, self.hard = r0, lo, hi, cap, cap < np.inf
        self.far = np.where(r0 > 0, hi, lo)
        self.shape = matrix.shape[0], matrix.shape[1]
        # t = W^T y with columns of norm 1, so |t_i| <= |y|_2.
        largest = max(float(hi.max(initial=1.0)), -float(lo.min(initial=-1.0)))
        self.units = UnitConstraints.of(lower, upper, np.full(len(lower), 1.01 * np.sqrt(len(r0)) * largest))

    def approach(self, sizes: Array, steps: int) -> tuple[Array, Array, Mask]:
        index = np.flatnonzero((self.lo < 0) | ((self.r0 > -_FAR) & (self.hi > 0)))
        matrix, sizes = self.matrix[index], sizes[index]
        lo, hi = self.lo[index], self.hi[index]
        cap, scores = min(self._cap, float(hi.max(initial=0.0))), np.zeros(len(self.r0))
        w, weight, barrier = violation_sum_steps(
            ROUTINES, matrix, self.r0[index], sizes, lo, hi, cap, *self.bounds, self.decided, steps
        )
        if not np.isfinite(w).all():
            return scores, np.zeros(len(w)), self.working_set()
        scores[index] = weight * sizes
        r = self.r0.copy()
        r[index] += matrix @ w
        self.far = np.where(r > 0, self.hi, self.lo)
        return scores, barrier, self._around(r, -scores)

    def working_set(self) -> Mask:
        return self._around(self.r0, np.abs(self.r0))

    def _around(self, r: Array, order: Array) -> Mask:
        """The half of the two-sided constraints with smaller residuals, and the 3 k / 2 constraints of least key."""
        size, some = np.abs(r), min((3 * self.shape[1]) // 2, len(r) - 1)
        two = size[self.lo < 0]
        half = len(two) // 2
        kept = size <= np.partition(two, half)[half] if len(two) else np.zeros(len(r), dtype=bool)
        kept[np.argpartition(order, some)[:some]] = True
        return np.asarray(kept & (self.hi > self.lo))

    def vectors(self, kept: Index) -> Matrix:
        return self.matrix[kept]

    def gradient(self, kept: Index) -> Array:
        rest = self.far.copy()
        rest[kept] = 0.0
        return np.asarray(self.matrix.T @ rest)

    def residuals(self, v: Array) -> Array:
        return np.asarray(self.r0 + self.matrix @ v)

    def of_outputs(self, y: Array) -> Array:
        return y


class Largest(KernelProgram):
    r"""min d over d >= 0 and lower <= w <= upper with r_j <= p_j d and -r_j <= q_j d.

    The unknowns are (w, d). Constraint j is the upper side of output j, and constraint n + j the lower one. Sides have
    a penalty of 1.5 / p or 1.5 / q: as sum p y+ + q y- = 1 at an optimum, no multiplier exceeds 1 / p or 1 / q.

    Args:
        up, down: p and q, (n,), 0 where the side is missing.
    """

    hard = True

    def __init__(self, matrix: Matrix, r0: Array, lower: Array, upper: Array, up: Array, down: Array) -> None:
        super().__init__(matrix, r0, lower, upper)
        self._up, self._down, self._slope = up, down, np.concatenate([up, down])
        self.shape = 2 * matrix.shape[0], matrix.shape[1] + 1
        self.shift, self.lo = np.concatenate([r0, -r0]), np.zeros(2 * len(r0))
        # A side that is missing has no weight, so it leaves a basis of a similar program.
        self.far, self.hi = self.lo, np.divide(1.5, self._slope, out=np.zeros(2 * len(r0)), where=self._slope > 0)
        penalty = np.full(self.shape[1], max(1.5, float(self.hi.max(initial=0.0))))
        penalty[-1] = 1.5
        self.units = UnitConstraints.of(np.append(lower, 0.0), np.append(upper, np.inf), penalty)

    def _near(self) -> tuple[Index, tuple[Array, Array, Array, Array]]:
        """The outputs in the interior-point steps: their numbers, and their matrix, residuals and slopes."""
        index = np.flatnonzero((self._down > 0) | ((self.r0 > -_FAR * self._up) & (self._up > 0)))
        return index, (self.matrix[index], self.r0[index], self._up[index], self._down[index])

    def beside(self, level: float, steps: int) -> tuple[Array, Array]:
        """A point w with violations of at most the level, or multipliers (n,) that prove that there is none."""
        index, (matrix, r0, up, down) = self._near()
        # ``up`` also takes the place of the squared norms, which only matter for scores.
        w, _, _, _, found = largest_violation_steps(
            ROUTINES, matrix, r0, up, up, down, *self.bounds, self.decided, steps, level
        )
        multipliers = np.zeros(len(self.r0))
        multipliers[index] = found
        return w, multipliers

    def approach(self, sizes: Array, steps: int) -> tuple[Array, Array, Mask]:
        index, (matrix, r0, up, down) = self._near()
        w, d, found, barrier, _ = largest_violation_steps(
            ROUTINES, matrix, r0, sizes[index], up, down, *self.bounds, self.decided, steps, _NO_LEVEL
        )
        scores, n = np.zeros(self.shape[0]), len(self.r0)
        if not (np.isfinite(w).all() and 0 < d < np.inf):
            return scores, np.zeros(self.shape[1]), self.working_set()
        scores[index], scores[n + index] = found[: len(index)], found[len(index) :]
        r = self.r0.copy()
        r[index] += matrix @ w
        return scores, np.append(barrier, 0.0), self._around(np.concatenate([r, -r]), d)

    def working_set(self) -> Mask:
        return self._around(self.shift, float((self.shift * self.hi).max(initial=0.0)) / 1.5)

    def _around(self, r: Array, d: float) -> Mask:
        """The sides whose violation is more than half of d."""
        return np.asarray((self._slope > 0) & (r > 0.5 * d * self._slope))

    def vectors(self, kept: Index) -> Matrix:
        n, k = self.matrix.shape
        middle, slope = np.searchsorted(kept, n), self._slope[kept]
        if sparse.issparse(self.matrix):
            signed = sparse.vstack([self.matrix[kept[:middle]], -self.matrix[kept[middle:] - n]])
            return sparse.hstack([signed, -slope[:, None]], format="csr")
        vectors = np.empty((len(kept), k + 1))
        vectors[:middle, :k] = self.matrix[kept[:middle]]
        np.negative(self.matrix[kept[middle:] - n], out=vectors[middle:, :k])
        vectors[:, k] = -slope
        return vectors

    def gradient(self, kept: Index) -> Array:
        return np.append(np.zeros(self.matrix.shape[1]), 1.0)

    def residuals(self, v: Array) -> Array:
        change = self.matrix @ v[:-1]
        return np.asarray(self.shift + np.concatenate([change, -change]) - v[-1] * self._slope)

    def of_outputs(self, y: Array) -> Array:
        n = len(self.r0)
        return y[:n] - y[n:]


def optimise(program: KernelProgram, sizes: Array, basis: Basis | None = None, end: float = math.inf) -> Optimum:
    """Solve a program, from the vertex that interior-point steps suggest or from a given basis.

    Args:
        program: a program with a dense matrix.
        sizes: the squared norms of the rows of its matrix, (n,).
        basis: the basis of a similar program.
        end: the end of the time allowed, by :func:`~unrelu.runtime.work_clock.now`.
    """
    total, size = program.shape
    units = program.units
    everything = total + len(units.column)
    # A basis of another kind of program is ignored.
    if basis is None or len(basis.numbers) != size or basis.numbers.max(initial=0) >= everything:
        scores, barrier, kept = program.approach(sizes, steps_within(program, end))
        if over(end):
            return Optimum(np.zeros(program.matrix.shape[1]), program.of_outputs(program.far), LpStatus.LIMIT, 0)
        # Fill-ins come before constraints far away.
        scores = np.concatenate([scores, np.full(size, _FILL_IN), barrier[units.column[size:]]])
        numbers, edges, known = np.argpartition(-scores, size - 1)[:size], np.zeros((size, size)), False
    else:
        kept = program.working_set()
        numbers, edges, known = basis.numbers, basis.edges.copy(), True
        scores = np.zeros(everything)
    pivots, limit = 0, _PIVOTS * size + _MORE_PIVOTS
    for turn in range(_ROUNDS + 1):
        kept[numbers[numbers < total]] = True
        index = np.flatnonzero(kept)
        number = np.concatenate([index, np.arange(total, everything)])
        local = np.searchsorted(number, numbers)
        vectors, gradient = program.vectors(index), program.gradient(index)
        shift, lo, hi = (
            np.concatenate([ours[index], theirs])
            for ours, theirs in zip((program.shift, program.lo, program.hi), units[1:], strict=True)
        )
        allowed = _MULTIPLIER * np.minimum(1.0, np.where(hi > lo, hi - lo, 1.0))
        chunk = max(20, int(_CHUNK / (size * (len(index) + 2 * size))))
        if not known:
            local = _independent(vectors, units.column, local, -scores[number], edges)
        y, state = np.zeros(len(lo)), np.zeros(3, dtype=np.int64)
        fixed = (vectors, shift, lo, hi, allowed, units.column, gradient)
        while True:
            v, more, status = exchange(ROUTINES, *fixed, local, edges, y, state, min(chunk, limit - pivots))
            pivots += more
            if status != EXHAUSTED or pivots >= limit or over(end):
                break
        numbers, known = number[local], True
        missing = program.missing(v, kept) if status == OPTIMAL else ~kept
        if status in (EXHAUSTED, SINGULAR) or not missing.any():
            break
        kept = kept | missing if turn + 1 < _ROUNDS else np.ones(total, dtype=bool)
    every = program.far.copy()
    every[index] = y[: len(index)]
    ended = LpStatus.OPTIMAL if status == OPTIMAL else LpStatus.LIMIT if over(end) else LpStatus.FAILED
    w = v[: program.matrix.shape[1]]
    return Optimum(w, program.of_outputs(every), ended, pivots, Basis(numbers, edges))


def over(end: float) -> bool:
    """Whether the time is up, or the caller has given up."""
    return now() > end or abandoned()


def steps_within(program: KernelProgram, end: float) -> int:
    """The number of interior-point steps that there is time for, at 10 billion multiplications a second."""
    total, size = program.shape
    return max(1, int(min(_STEPS, 1e10 * max(0.0, end - now()) / (total * size**2))))


def _independent(vectors: Array, column: Index, local: Index, key: Array, edges: Array) -> Index:
    """The given basis if its vectors are independent, else one of the first constraints by a key; sets its edges."""
    if not invert_basis(ROUTINES, vectors, column, local, edges):
        local = np.zeros(len(local), dtype=np.int64)
        complete_basis(vectors, column, np.argsort(key, kind="stable"), local)
        invert_basis(ROUTINES, vectors, column, local, edges)
    return local


def compile_kernels(norm: str) -> None:
    """Compile the kernels for the programs of a norm, or load them from the cache beside the installed files.

    If this takes more than a second, the logger "unrelu" says so at level WARNING, once for each installation. The
    clock of time limits stands still. Damaged files of the cache are replaced.
    """
    folder = exchange.stats.cache_path
    compile_by(partial(_run_interior_point, norm), folder, norm)
    compile_by(_run_exchange, folder, "exchange")


def _run_interior_point(norm: str) -> None:
    """Approach the optimum of a program of three rows and one unknown."""
    matrix, r, one = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0]), np.ones(3)
    lower, upper = np.zeros(1), np.ones(1)
    least_squares_point(ROUTINES, matrix, r, one, one, lower, upper)
    if norm == "linf":
        largest_violation_steps(ROUTINES, matrix, r, one, one, one, lower, upper, 1.0, 2, -1.0)
    else:
        violation_sum_steps(ROUTINES, matrix, r, one, -one, one, 1.0, lower, upper, 1.0, 2)


def _run_exchange() -> None:
    """Solve that program, from the basis of its first row."""
    matrix, r, one, zero = np.ones((3, 1)), np.array([-1.0, 0.5, 1.0]), np.ones(3), np.zeros(3)
    column, basis, edges = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 1))
    complete_basis(matrix, column, np.zeros(1, np.int64), basis)
    invert_basis(ROUTINES, matrix, column, basis, edges)
    shift, lo, hi, y = np.append(r, 0.0), np.append(-one, 0.0), np.append(one, 0.0), np.zeros(4)
    state = np.zeros(3, np.int64)
    exchange(ROUTINES, matrix, shift, lo, hi, y.copy(), column, zero[:1], basis, edges, y, state, 9)
