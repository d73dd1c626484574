r"""One dense layer program, exactly: a least-squares start, a few interior-point steps, then the exchange simplex.

The unknown is w in h = (h0 + sigma w) / column norms, with h0 a least-squares point and sigma the size of its errors:
all tolerances are relative to the noise. Most rows are far from their kink at the optimum. Only the others take part
in the exchange; every row is looked at afterwards, and what turns out to matter joins in.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layerwise.kernel_programs import KernelProgram, Largest, Sum
from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.layerwise.optimality import ZERO
from unrelu.lp.compilation import compile_kernels
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.exchange_simplex import EXHAUSTED, OPTIMAL, SINGULAR, complete_basis, exchange, invert_basis
from unrelu.lp.interior_point import least_squares_point
from unrelu.runtime.threads import abandoned

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# Interior-point steps at most.
_STEPS = 40
# Rounds of adding rows that were left out, before all take part.
_ROUNDS = 6
# Pivots at most, for each unknown and besides; one look at the clock for every so many numbers touched.
_PIVOTS, _MORE_PIVOTS, _CHUNK = 30, 1000, 2e8
# A multiplier may leave its interval by this share of its length, or of 1 if that is less.
_MULTIPLIER = 1e-9
# Solved again around its solution, where that has errors so much smaller than the start: tolerances are relative.
_SHRUNK, _SHIFTS = 1e-3, 4
# Penalties of a constraint, in units of the largest weight, tried in turn.
_PENALTIES = (1e2, 1e4, 1e6)


@dataclass(eq=False)
class Basis:
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
    timed_out: bool = False


def least_violation(
    system: LayerSystem, rows: Rows, norm: str, end: float = math.inf, warm_start: Found | None = None
) -> Found:
    """min over lower <= h <= upper of max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1").

    Args:
        system: the layer; its matrix is dense.
        rows: of one observation.
        norm: "linf" or "l1".
        end: of the time allowed, by ``time.perf_counter()``.
        warm_start: where to start, with its basis if it has one; a least-squares point if None.
    """
    compile_kernels(norm)
    matrix, sizes = system.balanced
    lower, upper = system.lower * system.norms, system.upper * system.norms
    center, (up, down), (lo, hi) = rows.center, rows.slopes, rows.box
    if warm_start is None:
        h = least_squares_start(matrix, rows, lower, upper)
    else:
        h = system.inside(warm_start.h) * system.norms
    # In these units the largest multiplier is 1.
    unit = max(float(hi.max(initial=0.0)), -float(lo.min(initial=0.0))) or 1.0
    nothing = 0.5 * ZERO * rows.scale + np.finfo(float).tiny
    basis, multipliers, pivots, optimal = warm_start.basis if warm_start else None, np.zeros(len(center)), 0, False
    r, errors, objective = _errors(matrix @ h - center, lo, hi, norm)
    for _ in range(_SHIFTS):
        if objective <= nothing:
            multipliers, optimal = np.zeros(len(center)), True
            break
        if _over(end):
            break
        size = float(errors.max(initial=0.0))
        sigma = (size if norm == "linf" else _typical(errors, lo)) / unit
        around = (lower - h) / sigma, (upper - h) / sigma
        program: KernelProgram
        if norm == "linf":
            program = Largest(matrix, sizes, r / sigma, up * unit, down * unit, *around)
        else:
            program = Sum(matrix, sizes, r / sigma, lo / unit, hi / unit, *around)
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
    warm_start: Found | None = None,
    end: float = math.inf,
) -> Found:
    """max weight.(W h) subject to W h <= side, weight >= 0.

    Row j contributes -weight_j r_j below its side and a penalty above it, r = W h - side. The penalty grows until the
    sides hold; where none does, the result is not optimal.

    Args:
        system: the layer; its matrix is dense.
        rows: of one observation.
        weight: (n,).
        side: (n,), infinite where missing.
        scale: of the differences that matter, in units of the sides.
        warm_start: where to start, with its basis if it has one; a least-squares point if None.
        end: of the time allowed, by ``time.perf_counter()``.

    The multipliers are those of the sides, lambda >= 0.
    """
    compile_kernels("l1")
    matrix, sizes = system.balanced
    there = np.isfinite(side)
    bound = np.where(there, side, 0.0)
    lower, upper = system.lower * system.norms, system.upper * system.norms
    unit = max(float(weight.max(initial=0.0)), np.finfo(float).tiny)
    lo = np.where(there, -weight / unit, 0.0)
    if warm_start is None:
        h = least_squares_start(matrix, rows, lower, upper)
    else:
        h = system.inside(warm_start.h) * system.norms
    basis, total, multipliers, timed_out, holds = warm_start.basis if warm_start else None, 0, lo, False, False
    for penalty in _PENALTIES:
        hi = np.where(there, penalty, 0.0)
        for _ in range(_SHIFTS):
            before = max(scale, float((matrix @ h - bound).max(initial=0.0, where=there)))
            with np.errstate(over="ignore"):  # beside a scale near 0; such a program is not called optimal
                program = Sum(matrix, sizes, (matrix @ h - bound) / before, lo, hi, (lower - h) / before,
                              (upper - h) / before, 1.0)  # fmt: skip
            w, multipliers, basis, pivots, optimal = optimise(program, basis, end)
            total += pivots
            h = np.clip(h + before * w, lower, upper)
            excess = float((matrix @ h - bound).max(initial=0.0, where=there))
            timed_out, holds = not optimal and _over(end), optimal and excess <= 1e-7 * scale
            if not optimal or before <= scale or excess > _SHRUNK * before:
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
    units = program.units()
    # A basis of another kind of program is of no use here.
    if basis is None or len(basis.numbers) != size or basis.numbers.max(initial=0) >= total + len(units.column):
        approach = program.approach(_steps(program, end))
        if _over(end):
            return *program.answer(np.zeros(size), np.zeros(0), np.zeros(0, dtype=np.intp)), None, 0, False
        kept = approach.kept
        scores = np.concatenate([approach.scores, units.scores(approach.barrier)])
        numbers, edges, known = np.argpartition(-scores, size - 1)[:size], np.zeros((size, size)), False
    else:
        kept = program.warm_start()
        numbers, edges, known = basis.numbers, basis.edges.copy(), True
        scores = np.zeros(total + len(units.column))
    pivots, limit = 0, _PIVOTS * size + _MORE_PIVOTS
    for turn in range(_ROUNDS + 1):
        kept[numbers[numbers < total]] = True
        index = np.flatnonzero(kept)
        number = np.concatenate([index, np.arange(total, total + len(units.column))])
        local = np.searchsorted(number, numbers)
        part = program.part(index)
        lo, hi = np.concatenate([part.lo, units.lo]), np.concatenate([part.hi, units.hi])
        allowed = _MULTIPLIER * np.minimum(1.0, np.where(hi > lo, hi - lo, 1.0))
        shift = np.concatenate([part.shift, units.shift])
        fixed = (part.rows, shift, lo, hi, allowed, units.column, part.gradient)
        chunk = max(20, int(_CHUNK / (size * (len(index) + 2 * size))))
        if not known:
            local = _independent(part.rows, units.column, local, -scores[number], edges)
        y, state = np.zeros(len(lo)), np.zeros(3, dtype=np.int64)
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


def least_squares_start(matrix: Array, rows: Rows, lower: Array, upper: Array) -> Array:
    """A least-squares point of the rows with two sides, (k,), for a W with columns of norm 1."""
    h: Array = least_squares_point(ROUTINES, matrix, rows.center, *rows.slopes, lower, upper)
    return h
