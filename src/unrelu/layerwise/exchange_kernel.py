r"""One dense layer program, exactly: a least-squares start, a few interior-point steps, then the exchange simplex.

The unknown is w in h = (h0 + sigma w) / column norms, with h0 a least-squares point and sigma the size of its errors:
all tolerances are relative to the noise. w = 0 is h0, r = W w + r0 are the residuals, and columns of W have norm 1.

Most rows are far from their break point at the optimum. Only the others, the working set, take part in the exchange;
every row is looked at afterwards, and those that turn out to matter join in.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.layerwise.optimality import ZERO
from unrelu.lp.compilation import compile_kernels
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.exchange_simplex import EXHAUSTED, OPTIMAL, SINGULAR, complete_basis, exchange, invert_basis
from unrelu.lp.interior_point import largest_violation_steps, least_squares_point, violation_sum_steps
from unrelu.runtime.host import abandoned

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

# Interior-point steps at most. They end when basic rows outweigh the others by this power of two: earlier where pivots
# are cheap.
_STEPS = 40
_DECIDED, _DECIDED_NARROW, _NARROW = 8.0, 6.0, 128
# One-sided rows this many units below their break point do not take part in the interior-point steps.
_FAR = 4.0
# A row with a smaller weight is so far away that the vertex is better completed by a fill-in.
_FILL_IN = 1e-7
# Rounds of adding rows that were left out, before all take part; one is missing if its residual has the wrong sign by
# more than this.
_ROUNDS, _WRONG = 6, 1e-9
# A start with errors so many times the level is left for the least-squares point of the rows.
_DISTANT = 2.0
# Interior-point steps that find the least violation instead of comparing it.
_NO_LEVEL = -1.0
# Pivots at most, for each unknown and besides; one look at the clock for every so many numbers touched.
_PIVOTS, _MORE_PIVOTS, _CHUNK = 30, 1000, 2e8
# A multiplier may leave its interval by this, relative to its length, or to 1 if that is less.
_MULTIPLIER = 1e-9
# Solved again around its solution, where that has errors so much smaller than the start: tolerances are relative.
_SHRUNK, _SHIFTS = 1e-3, 4
# Penalties of a constraint, in units of the largest weight, tried in turn.
_PENALTIES = (1e2, 1e4, 1e6)


class Basis(NamedTuple):
    """Numbers of the basic rows (unit rows from N on) and the transposed inverse of their matrix."""

    numbers: Index
    edges: Array


@dataclass(frozen=True, eq=False)
class Found:
    """A point h with one multiplier a row, the basis they belong to, pivots, and whether they claim to be optimal.

    ``timed_out`` says that the time ran out.
    """

    h: Array
    multipliers: Array
    basis: Basis | None
    pivots: int
    optimal: bool
    timed_out: bool


def least_squares_start(system: LayerSystem, rows: Rows) -> Array:
    """A least-squares point of the rows with two sides, (k,)."""
    lower, upper = system.lower * system.norms, system.upper * system.norms
    h = least_squares_point(ROUTINES, system.balanced[0], rows.center, *rows.slopes, lower, upper)
    return np.asarray(system.inside(h / system.norms))


def least_violation(
    system: LayerSystem,
    rows: Rows,
    norm: str,
    end: float = math.inf,
    start: Array | None = None,
    basis: Basis | None = None,
) -> Found:
    """min over lower <= h <= upper of max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1").

    Args:
        system: the layer; its matrix is dense.
        rows: of one observation.
        norm: "linf" or "l1".
        end: of the time allowed, by ``time.perf_counter()``.
        start: h to start from; a least-squares point if None.
        basis: of similar rows, to start with.
    """
    compile_kernels(norm)
    matrix, sizes = system.balanced
    lower, upper = system.lower * system.norms, system.upper * system.norms
    center, (up, down), (lo, hi) = rows.center, rows.slopes, rows.box
    h = system.norms * (least_squares_start(system, rows) if start is None else system.inside(start))
    # In these units the largest multiplier is 1.
    unit = max(float(hi.max(initial=0.0)), -float(lo.min(initial=0.0))) or 1.0
    nothing = 0.5 * ZERO * rows.scale + np.finfo(float).tiny
    multipliers, pivots, optimal = np.zeros(len(center)), 0, False
    r, errors, objective = _errors(matrix @ h - center, lo, hi, norm)
    for _ in range(_SHIFTS):
        if objective <= nothing:
            multipliers, optimal = np.zeros(len(center)), True
            break
        if _over(end):
            break
        size = float(errors.max(initial=0.0))
        sigma = (size if norm == "linf" else _typical(errors, lo)) / unit
        around = matrix, sizes, r / sigma, (lower - h) / sigma, (upper - h) / sigma
        program = Largest(*around, up * unit, down * unit) if norm == "linf" else Sum(*around, lo / unit, hi / unit)
        w, multipliers, basis, more, optimal = optimise(program, basis, end)
        multipliers, pivots = unit * multipliers, pivots + more
        trial = np.clip(h + sigma * w, lower, upper)
        measured = _errors(matrix @ trial - center, lo, hi, norm)
        if measured[2] < objective:
            h, (r, errors, objective) = trial, measured
        if not optimal or float(errors.max(initial=0.0)) >= _SHRUNK * size:
            break
    timed_out = not optimal and _over(end)
    return Found(system.inside(h / system.norms), multipliers, basis, pivots, optimal, timed_out)


def largest_beside(
    system: LayerSystem, rows: Rows, level: float, start: Array, end: float = math.inf
) -> tuple[Array, Array]:
    """Whether max_j e_j(h) can be at most ``level``: interior-point steps until one side is shown, and no vertex.

    Args:
        system, rows, start, end: as of :func:`least_violation`.
        level: at least 0.

    Returns:
        h, with errors of at most the level where there is such a point, and one multiplier a row, which prove that
        there is none; both as far as the steps came.
    """
    compile_kernels("linf")
    matrix, sizes = system.balanced
    lower, upper = system.lower * system.norms, system.upper * system.norms
    (up, down), (lo, hi) = rows.slopes, rows.box
    start, y = system.inside(start), np.zeros(len(lo))
    if float(rows.violation(system.matrix @ start).max(initial=0.0)) > _DISTANT * level:
        start = least_squares_start(system, rows)
    h = system.norms * start
    for _ in range(_SHIFTS):
        r, _, objective = _errors(matrix @ h - rows.center, lo, hi, "linf")
        if objective <= level or _over(end):
            break
        around = matrix, sizes, r / objective, (lower - h) / objective, (upper - h) / objective
        program = Largest(*around, up, down)
        w, y = program.beside(level / objective, _steps(program, end))
        h = np.clip(h + objective * w, lower, upper)
        if y.any() or not np.isfinite(h).all():
            break
    return system.inside(h / system.norms), y


def _errors(r: Array, lo: Array, hi: Array, norm: str) -> tuple[Array, Array, float]:
    """The residuals, the violations of the rows, and the objective."""
    errors = np.maximum(hi * r, lo * r)
    return r, errors, float(errors.max(initial=0.0) if norm == "linf" else errors.sum())


def _typical(errors: Array, lo: Array) -> float:
    """The mean error of the rows that pull both ways, or of all."""
    two = lo < 0
    mean = float(errors[two].mean()) if two.any() else 0.0
    return mean or float(errors.mean())


def largest_response(
    system: LayerSystem,
    rows: Rows,
    weight: Array,
    side: Array,
    scale: float,
    end: float = math.inf,
    start: Array | None = None,
    basis: Basis | None = None,
) -> Found:
    """max weight.(W h) subject to W h <= side, weight >= 0; the multipliers are those of the sides, lambda >= 0.

    Row j contributes -weight_j r_j below its side and a penalty above it, r = W h - side. The penalty grows until the
    sides hold; where none does, the result is not optimal.

    Args:
        system, rows, end, start, basis: as of :func:`least_violation`.
        weight: (n,).
        side: (n,), infinite where missing.
        scale: of the differences that matter, in units of the sides.
    """
    compile_kernels("l1")
    matrix, sizes = system.balanced
    lower, upper = system.lower * system.norms, system.upper * system.norms
    there = np.isfinite(side)
    bound = np.where(there, side, 0.0)
    unit = max(float(weight.max(initial=0.0)), np.finfo(float).tiny)
    lo = np.where(there, -weight / unit, 0.0)
    h = system.norms * (least_squares_start(system, rows) if start is None else system.inside(start))
    total, multipliers, timed_out, holds = 0, lo, False, False
    for penalty in _PENALTIES:
        hi = np.where(there, penalty, 0.0)
        for _ in range(_SHIFTS):
            r = matrix @ h - bound
            sigma = max(scale, float(r.max(initial=0.0, where=there)))
            with np.errstate(over="ignore"):  # beside a scale near 0; such a program is not called optimal
                around = r / sigma, (lower - h) / sigma, (upper - h) / sigma
            w, multipliers, basis, pivots, optimal = optimise(Sum(matrix, sizes, *around, lo, hi, 1.0), basis, end)
            total += pivots
            h = np.clip(h + sigma * w, lower, upper)
            excess = float((matrix @ h - bound).max(initial=0.0, where=there))
            timed_out, holds = not optimal and _over(end), optimal and excess <= 1e-7 * scale
            if not optimal or sigma <= scale or excess > _SHRUNK * sigma:
                break
        if holds or not optimal:
            break
    lam = np.where(there, np.maximum(0.0, multipliers - lo), 0.0) * unit
    return Found(system.inside(h / system.norms), lam, basis, total, holds, timed_out)


def optimise(
    program: KernelProgram, basis: Basis | None = None, end: float = math.inf
) -> tuple[Array, Array, Basis | None, int, bool]:
    """Solve a program, from the vertex that interior-point steps point at or from a given basis.

    Returns:
        w, the multipliers of the layer's rows, the basis, pivots, and whether the exchange ended at an optimum.
        Where the time is up before the first pivot, w = 0 and there is no basis.
    """
    total, size = program.shape
    units = program.units
    everything = total + len(units.column)
    # A basis of another kind of program is of no use here.
    if basis is None or len(basis.numbers) != size or basis.numbers.max(initial=0) >= everything:
        scores, barrier, kept = program.approach(_steps(program, end))
        if _over(end):
            return *program.answer(np.zeros(size), np.zeros(0), np.zeros(0, dtype=np.intp)), None, 0, False
        # The fill-ins come before any far row.
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
        rows, *row_ends, gradient = program.part(index)
        shift, lo, hi = (np.concatenate(pair) for pair in zip(row_ends, units[1:], strict=True))
        allowed = _MULTIPLIER * np.minimum(1.0, np.where(hi > lo, hi - lo, 1.0))
        chunk = max(20, int(_CHUNK / (size * (len(index) + 2 * size))))
        if not known:
            local = _independent(rows, units.column, local, -scores[number], edges)
        y, state = np.zeros(len(lo)), np.zeros(3, dtype=np.int64)
        fixed = (rows, shift, lo, hi, allowed, units.column, gradient)
        while True:
            v, more, status = exchange(ROUTINES, *fixed, local, edges, y, state, min(chunk, limit - pivots))
            pivots += more
            if status != EXHAUSTED or pivots >= limit or _over(end):
                break
        numbers, known = number[local], True
        missing = program.missing(v, kept) if status == OPTIMAL else ~kept
        if status in (EXHAUSTED, SINGULAR) or not missing.any():
            break
        kept = kept | missing if turn + 1 < _ROUNDS else np.ones(total, dtype=bool)
    w, multipliers = program.answer(v, y[: len(index)], index)
    return w, multipliers, Basis(numbers, edges), pivots, status == OPTIMAL


def _over(end: float) -> bool:
    """Whether the time is up, or nobody waits for the answer."""
    return time.perf_counter() > end or abandoned()


def _steps(program: KernelProgram, end: float) -> int:
    """So many interior-point steps as there is time for, at 10 billion multiplications a second."""
    total, size = program.shape
    return max(1, int(min(_STEPS, 1e10 * max(0.0, end - time.perf_counter()) / (total * size**2))))


def _independent(rows: Array, column: Index, local: Index, key: Array, edges: Array) -> Index:
    """A basis, the given one where its rows are independent, otherwise the first ones by a key; sets its edges."""
    if not invert_basis(ROUTINES, rows, column, local, edges):
        local = np.zeros(len(local), dtype=np.int64)
        complete_basis(rows, column, np.argsort(key, kind="stable"), local)
        invert_basis(ROUTINES, rows, column, local, edges)
    return local


class BoundRows(NamedTuple):
    """The bounds of the unknowns as rows with one entry, preceded by one fill-in row for each unknown.

    A fill-in has no weight and only completes a basis; a bound is held by a penalty that no multiplier reaches.
    """

    column: Index
    shift: Array
    lo: Array
    hi: Array


def bound_rows(lower: Array, upper: Array, penalty: Array) -> BoundRows:
    """For lower <= w <= upper; ``penalty`` is above any multiplier of the bounds at an optimum, (k,)."""
    below, above = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
    none = np.zeros(len(lower))
    return BoundRows(
        np.concatenate([np.arange(len(lower)), below, above]),
        np.concatenate([none, -lower[below], -upper[above]]),
        np.concatenate([none, -penalty[below], np.zeros(len(above))]),
        np.concatenate([none, np.zeros(len(below)), penalty[above]]),
    )


class KernelProgram(ABC):
    """A layer program in the form that the exchange simplex takes: N rows in K unknowns v.

    Args:
        matrix: W, (n, k).
        sizes: squared norms of its rows.
        r0: (n,).
        lower, upper: (k,), around 0.
    """

    shape: tuple[int, int]
    units: BoundRows

    def __init__(self, matrix: Array, sizes: Array, r0: Array, lower: Array, upper: Array) -> None:
        self._matrix, self._sizes, self._r0, self._bounds = matrix, sizes, r0, (lower, upper)
        self._decided = _DECIDED_NARROW if matrix.shape[1] <= _NARROW else _DECIDED

    @abstractmethod
    def approach(self, steps: int) -> tuple[Array, Array, Mask]:
        """At most so many interior-point steps: how likely rows (N,) and bounds (K,) are basic, and the working set.

        All scores are zero where the steps break down; the exchange then begins at w = 0.
        """

    @abstractmethod
    def working_set(self) -> Mask:
        """The rows to begin with around w = 0."""

    @abstractmethod
    def part(self, kept: Index) -> tuple[Array, Array, Array, Array, Array]:
        """The kept rows a v + shift with their slopes lo and hi, and the gradient of the others, taken as linear."""

    @abstractmethod
    def missing(self, v: Array, kept: Mask) -> Mask:
        """The rows not kept whose break point v has crossed."""

    @abstractmethod
    def answer(self, v: Array, y: Array, kept: Index) -> tuple[Array, Array]:
        """w, (k,), and one signed multiplier for each row of the layer, (n,)."""


class Sum(KernelProgram):
    r"""min sum_j hi_j max(0, r_j) + lo_j min(0, r_j), lower <= w <= upper, with lo_j <= 0 <= hi_j.

    Args:
        lo, hi: (n,).
        cap: values of hi above this one are penalties that stand for a constraint.
    """

    def __init__(
        self, matrix: Array, sizes: Array, r0: Array, lower: Array, upper: Array, lo: Array, hi: Array,
        cap: float = np.inf,
    ) -> None:  # fmt: skip
        super().__init__(matrix, sizes, r0, lower, upper)
        self._lo, self._hi, self._cap = lo, hi, cap
        self._far = np.where(r0 > 0, hi, lo)
        self.shape = matrix.shape[0], matrix.shape[1]
        # t = W^T y with columns of norm 1, so |t_i| <= |y|_2.
        largest = max(float(hi.max(initial=1.0)), -float(lo.min(initial=-1.0)))
        self.units = bound_rows(lower, upper, np.full(len(lower), 1.01 * np.sqrt(len(r0)) * largest))

    def approach(self, steps: int) -> tuple[Array, Array, Mask]:
        index = np.flatnonzero((self._lo < 0) | ((self._r0 > -_FAR) & (self._hi > 0)))
        matrix, sizes = self._matrix[index], self._sizes[index]
        lo, hi = self._lo[index], self._hi[index]
        cap, scores = min(self._cap, float(hi.max(initial=0.0))), np.zeros(len(self._r0))
        w, weight, barrier = violation_sum_steps(
            ROUTINES, matrix, self._r0[index], sizes, lo, hi, cap, *self._bounds, self._decided, steps
        )
        if not np.isfinite(w).all():
            return scores, np.zeros(len(w)), self.working_set()
        scores[index] = weight * sizes
        r = self._r0.copy()
        r[index] += matrix @ w
        self._far = np.where(r > 0, self._hi, self._lo)
        return scores, barrier, self._around(r, -scores)

    def working_set(self) -> Mask:
        return self._around(self._r0, np.abs(self._r0))

    def _around(self, r: Array, order: Array) -> Mask:
        """The two-sided rows with the smaller residuals, one half, and the first 3 k / 2 rows in the order of a key."""
        size, some = np.abs(r), min((3 * self.shape[1]) // 2, len(r) - 1)
        two = size[self._lo < 0]
        half = len(two) // 2
        kept = size <= np.partition(two, half)[half] if len(two) else np.zeros(len(r), dtype=bool)
        kept[np.argpartition(order, some)[:some]] = True
        return np.asarray(kept & (self._hi > self._lo))

    def part(self, kept: Index) -> tuple[Array, Array, Array, Array, Array]:
        rest = self._far.copy()
        rest[kept] = 0.0
        return self._matrix[kept], self._r0[kept], self._lo[kept], self._hi[kept], self._matrix.T @ rest

    def missing(self, v: Array, kept: Mask) -> Mask:
        r = self._r0 + self._matrix @ v
        side = np.where(r > 0, self._hi, self._lo)
        return np.asarray(~kept & (side != self._far) & (np.abs(r) > _WRONG))

    def answer(self, v: Array, y: Array, kept: Index) -> tuple[Array, Array]:
        multipliers = self._far.copy()
        multipliers[kept] = y
        return v, multipliers


class Largest(KernelProgram):
    r"""min d over d >= 0 and lower <= w <= upper with r_j <= p_j d and -r_j <= q_j d.

    The unknowns are (w, d). Row j is the upper side of the layer's row j and row n + j the lower one. A side is held by
    a penalty: as sum p y+ + q y- = 1 at an optimum, no multiplier exceeds 1 / p or 1 / q.

    Args:
        up, down: p and q, (n,), 0 where the side is missing.
    """

    def __init__(
        self, matrix: Array, sizes: Array, r0: Array, lower: Array, upper: Array, up: Array, down: Array
    ) -> None:
        super().__init__(matrix, sizes, r0, lower, upper)
        self._up, self._down, self._slope = up, down, np.concatenate([up, down])
        self.shape = 2 * matrix.shape[0], matrix.shape[1] + 1
        penalty = np.full(self.shape[1], 1.5 / float(self._slope.min(initial=1.0, where=self._slope > 0)))
        penalty[-1] = 1.5
        self.units = bound_rows(np.append(lower, 0.0), np.append(upper, np.inf), penalty)

    def _near(self) -> tuple[Index, tuple[Array, Array, Array, Array, Array]]:
        """The rows that take part in the interior-point steps: numbers, matrix, residuals, squared norms and slopes."""
        index = np.flatnonzero((self._down > 0) | ((self._r0 > -_FAR * self._up) & (self._up > 0)))
        return index, (self._matrix[index], self._r0[index], self._sizes[index], self._up[index], self._down[index])

    def beside(self, level: float, steps: int) -> tuple[Array, Array]:
        """A point w with violations of at most the level, or multipliers (n,) that prove that there is none."""
        index, near = self._near()
        w, _, _, _, found = largest_violation_steps(ROUTINES, *near, *self._bounds, self._decided, steps, level)
        multipliers = np.zeros(len(self._r0))
        multipliers[index] = found
        return w, multipliers

    def approach(self, steps: int) -> tuple[Array, Array, Mask]:
        index, near = self._near()
        matrix = near[0]
        w, d, found, barrier, _ = largest_violation_steps(
            ROUTINES, *near, *self._bounds, self._decided, steps, _NO_LEVEL
        )
        scores, n = np.zeros(self.shape[0]), len(self._r0)
        if not (np.isfinite(w).all() and 0 < d < np.inf):
            return scores, np.zeros(self.shape[1]), self.working_set()
        scores[index], scores[n + index] = found[: len(index)], found[len(index) :]
        r = self._r0.copy()
        r[index] += matrix @ w
        return scores, np.append(barrier, 0.0), self._around(r, d)

    def working_set(self) -> Mask:
        r = np.concatenate([self._r0, -self._r0])
        there = self._slope > 0
        return self._around(self._r0, float((r[there] / self._slope[there]).max(initial=0.0)))

    def _around(self, r: Array, d: float) -> Mask:
        """The sides that use up at least half of d."""
        return np.asarray((self._slope > 0) & (np.concatenate([r, -r]) > 0.5 * d * self._slope))

    def part(self, kept: Index) -> tuple[Array, Array, Array, Array, Array]:
        n, k = self._matrix.shape
        middle = np.searchsorted(kept, n)
        above, below = kept[:middle], kept[middle:] - n
        rows = np.empty((len(kept), k + 1))
        rows[:middle, :k] = self._matrix[above]
        np.negative(self._matrix[below], out=rows[middle:, :k])
        slope = self._slope[kept]
        rows[:, k] = -slope
        shift = np.concatenate([self._r0[above], -self._r0[below]])
        # A basic side that is missing in these rows has no weight, so it leaves.
        hi = np.divide(1.5, slope, out=np.zeros(len(kept)), where=slope > 0)
        return rows, shift, np.zeros(len(kept)), hi, np.append(np.zeros(k), 1.0)

    def missing(self, v: Array, kept: Mask) -> Mask:
        r = self._r0 + self._matrix @ v[:-1]
        over = np.concatenate([r, -r]) > (v[-1] + _WRONG) * self._slope
        return np.asarray(~kept & (self._slope > 0) & over)

    def answer(self, v: Array, y: Array, kept: Index) -> tuple[Array, Array]:
        n = len(self._r0)
        sides = np.zeros(2 * n)
        sides[kept] = y
        return v[:-1], sides[:n] - sides[n:]
