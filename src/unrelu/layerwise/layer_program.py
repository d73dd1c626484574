"""The linear programs behind the layer methods: the smallest violation and the relaxation (8), each with its proof.

A program is written around a point, in standard form, and solved by an engine: the exchange kernel for a dense layer,
and HiGHS where the kernel's answers do not pass the proof, and for sparse and very wide layers. Each attempt starts
from the best point of the one before. An answer says who gave it and is optimal only if its multipliers prove it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import lsmr

from unrelu.errors import OptionError, SolverError
from unrelu.layerwise import _exchange_kernel
from unrelu.layerwise._exchange_kernel import Basis, KernelProgram, Largest, Optimum, Sum, over, steps_within
from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.layerwise.optimality import ZERO, OptimalityProof, prove, prove_response
from unrelu.lp.compilation import compile_kernels
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.interior_point import least_squares_point
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array

# Attempts of the kernel, then of HiGHS, each around the best point so far. Penalties of a constraint of the relaxation,
# in units of the largest weight: one an attempt of the kernel.
_KERNEL, _HIGHS = 3, 4
_PENALTIES = (1e2, 1e4, 1e6)
# A multiplier is inside its interval where it is this far from the ends, relative to the largest; how exactly A^T y = g
# holds after a correction, relative to what it was.
_INSIDE, _LEFT = 1e-9, 1e-8
# The scale on which a program is solved, relative to its largest side, at least.
_SMALLEST_STEP = 1e-9
# An eps that is so little above the smallest feasible one, relative to it, has a feasible set that is rounding.
_FEASIBLE = 1e-6
# A start with errors so many times the level is left for the least-squares point of the constraints.
_DISTANT = 2.0
# Wider layers go to HiGHS: the kernel keeps a k x k inverse and changes all of it in every pivot.
WIDEST = 2000
# From this width on, the interior point is the faster of HiGHS's solvers.
_WIDE_FOR_SIMPLEX = 1000
_NORMS = ("linf", "l1")


@dataclass(frozen=True, eq=False)
class Answer:
    """A minimiser h with what proves it.

    Attributes:
        h: (k,).
        objective: at h, recomputed.
        bound: a lower bound on the minimum (an upper one on a maximum), from the multipliers.
        status: OPTIMAL only where the proof holds.
        pivots: simplex pivots of all attempts.
        multipliers: one an output, (n,): signed for a violation, of the sides for the relaxation.
        engine: "exchange", "highs" or "least squares" (nothing was left to do).
        fallback: whether an attempt of the kernel before the one that gave h failed its proof.
        basis: of the exchange kernel, to start similar programs from.
    """

    h: Array
    objective: float
    bound: float
    status: LpStatus
    pivots: int
    multipliers: Array = field(default_factory=lambda: np.zeros(0))
    engine: str = "highs"
    fallback: bool = False
    basis: Basis | None = field(default=None, repr=False)


class _Around(NamedTuple):
    """A program around a point h: it is solved by h + sigma w / column norms, and ``objective`` is that of h."""

    program: KernelProgram
    sigma: float
    objective: float


@dataclass(frozen=True, eq=False)
class _Problem(ABC):
    """What is asked of the input of a layer, in the norm whose kernel solves it."""

    system: LayerSystem
    rows: Rows
    norm: str

    @abstractmethod
    def around(self, h: Array, attempt: int = 0) -> _Around | None:
        """The program around a point; None where nothing is left to do."""

    @abstractmethod
    def multipliers(self, y: Array) -> Array:
        """Multipliers of the outputs, from those of the program."""

    @abstractmethod
    def proof(self, h: Array, multipliers: Array) -> OptimalityProof:
        """What h and its multipliers prove."""

    def contradiction(self, end: float) -> Answer | None:
        """The answer where no point satisfies the constraints; None where one may."""
        return None

    def solved(self, start: Array | None, basis: Basis | None, end: float) -> Answer:
        """The optimum with its proof, or the best point of all attempts."""
        kernel, pivots = _KERNEL if takes_kernel(self.system) else 0, 0
        if kernel:
            compile_kernels(self.norm)
        h = least_squares_start(self.system, self.rows, end) if start is None else self.system.inside(start)
        for attempt in range(kernel + _HIGHS):
            answer, ended = self._attempt(h, basis, attempt, kernel, end)
            pivots += answer.pivots
            if ended:
                break
            h, basis = answer.h, None
        return answer if pivots == answer.pivots else replace(answer, pivots=pivots)

    def _attempt(self, h: Array, basis: Basis | None, attempt: int, kernel: int, end: float) -> tuple[Answer, bool]:
        """The better one of h and what one engine finds around it, and whether that is the end."""
        system, engine, fallback = self.system, "exchange" if attempt < kernel else "highs", attempt > 0 and kernel > 0
        around, nothing = self.around(h, attempt), np.zeros(system.n_out)
        if around is None:
            return self.answer(h, Optimum(h, nothing, LpStatus.OPTIMAL, 0), "least squares", fallback), True
        if attempt == kernel > 0 and (none := self.contradiction(end)) is not None:
            return none, True
        try:
            if engine == "exchange":
                found = _exchange_kernel.optimise(around.program, system.balanced[1], basis, end)
            else:
                found = by_highs(around.program, end)
        except SolverError:
            if attempt == 0:
                raise
            return self.answer(h, Optimum(h, nothing, LpStatus.FAILED, 0), engine, fallback), True
        if found.status is LpStatus.UNBOUNDED and (none := self.contradiction(end)) is not None:
            return none, True
        found = found._replace(multipliers=self.multipliers(found.multipliers))
        answer = self.answer(system.inside(h + around.sigma * found.w / system.norms), found, engine, fallback)
        better = answer.objective < around.objective
        # Written so that NaN is never better.
        if not answer.objective <= around.objective:
            answer = self.answer(h, found, engine, fallback)
        return answer, answer.status is not LpStatus.FAILED or not (engine == "exchange" or better)

    def answer(self, h: Array, found: Optimum, engine: str, fallback: bool = False) -> Answer:
        """h with multipliers, and what they prove."""
        proof = self.proof(h, found.multipliers)
        failed = LpStatus.LIMIT if found.status is LpStatus.LIMIT else LpStatus.FAILED
        status = LpStatus.OPTIMAL if proof.holds else failed
        basis = found.basis if status is not LpStatus.FAILED else None
        return Answer(h, proof.objective, proof.bound, status, found.pivots, found.multipliers, engine, fallback, basis)


@dataclass(frozen=True, eq=False)
class _Violation(_Problem):
    """min max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1")."""

    def around(self, h: Array, attempt: int = 0) -> _Around | None:
        """In units in which the errors are about 1, and the largest multiplier is 1."""
        system, rows = self.system, self.rows
        (up, down), (lo, hi), unit = rows.slopes, rows.box, self.unit
        r = np.asarray(system.matrix @ h) - rows.center
        errors = np.maximum(hi * r, lo * r)
        size = largest = float(errors.max(initial=0.0))
        objective = largest if self.norm == "linf" else float(errors.sum())
        if objective <= 0.5 * ZERO * rows.scale + np.finfo(float).tiny:
            return None
        if self.norm == "l1":
            # The mean error of the constraints that pull both ways, or of all.
            size = float(errors[lo < 0].mean()) if (lo < 0).any() else 0.0
            size = size or float(errors.mean())
        sigma = size / unit
        shifted = r / sigma, *_bounds(system, h, sigma)
        matrix, _ = system.balanced
        if self.norm == "linf":
            return _Around(Largest(matrix, *shifted, up * unit, down * unit), sigma, objective)
        return _Around(Sum(matrix, *shifted, lo / unit, hi / unit), sigma, objective)

    @cached_property
    def unit(self) -> float:
        """The largest multiplier of an output."""
        lo, hi = self.rows.box
        return max(float(hi.max(initial=0.0)), -float(lo.min(initial=0.0))) or 1.0

    def multipliers(self, y: Array) -> Array:
        return self.unit * y

    def proof(self, h: Array, multipliers: Array) -> OptimalityProof:
        return prove(self.system, self.rows, self.norm, h, multipliers)


@dataclass(frozen=True, eq=False)
class _Response(_Problem):
    """max weight.(W h) subject to W h <= side.

    Output j contributes -weight_j r_j below its side and a penalty above it, r = W h - side. The penalty grows from one
    attempt to the next, until the sides hold.

    Args:
        weight: (n,), at least 0.
        side: (n,), infinite where missing.
        scale: of the differences that matter, in units of the sides.
    """

    weight: Array
    side: Array
    scale: float

    @cached_property
    def unit(self) -> float:
        """The largest weight."""
        return max(float(self.weight.max(initial=0.0)), np.finfo(float).tiny)

    @cached_property
    def slopes(self) -> Array:
        """The slopes of the outputs below their sides, in units of the largest weight."""
        return np.where(np.isfinite(self.side), -self.weight / self.unit, 0.0)

    def around(self, h: Array, attempt: int = 0) -> _Around | None:
        """On the scale of eps, or of the infeasibility of h."""
        there = np.isfinite(self.side)
        r = np.asarray(self.system.matrix @ h) - np.where(there, self.side, 0.0)
        sigma = max(self.scale, float(r.max(initial=0.0, where=there)))
        penalty = np.where(there, _PENALTIES[min(attempt, len(_PENALTIES) - 1)], 0.0)
        with np.errstate(over="ignore"):  # beside a scale near 0; such a program is not called optimal
            shifted = r / sigma, *_bounds(self.system, h, sigma)
        return _Around(Sum(self.system.balanced[0], *shifted, self.slopes, penalty, 1.0), sigma, math.inf)

    def multipliers(self, y: Array) -> Array:
        return np.where(np.isfinite(self.side), np.maximum(0.0, y - self.slopes), 0.0) * self.unit

    def proof(self, h: Array, multipliers: Array) -> OptimalityProof:
        return prove_response(self.system, self.weight, self.side, self.scale, h, multipliers)

    def contradiction(self, end: float) -> Answer | None:
        """INFEASIBLE with the smallest eps that has a feasible point, where a bound proves it to be above this one."""
        upper_sides = replace(self.rows, low=np.full_like(self.rows.low, -np.inf))
        closest = least_violation(self.system, upper_sides, "linf", end - time.perf_counter())
        if closest.bound <= (1 - _FEASIBLE) * self.rows.threshold:
            return None
        return replace(closest, bound=math.inf, status=LpStatus.INFEASIBLE, fallback=False, basis=None)


def _bounds(system: LayerSystem, h: Array, sigma: float) -> tuple[Array, Array]:
    """The bounds of w."""
    return system.norms * (system.lower - h) / sigma, system.norms * (system.upper - h) / sigma


def least_squares_start(system: LayerSystem, rows: Rows, end: float = math.inf) -> Array:
    """A least-squares point: of the outputs with two sides, or of all violations where the layer is not dense."""
    if not takes_kernel(system):
        return one_sided_least_squares(system, rows, end)[0]
    lower, upper = system.lower * system.norms, system.upper * system.norms
    h = least_squares_point(ROUTINES, system.balanced[0], rows.center, *rows.slopes, lower, upper)
    return np.asarray(system.inside(h / system.norms))


def by_highs(program: KernelProgram, end: float) -> Optimum:
    """Solve by the faster of HiGHS's solvers for the dual program, and by the other where that breaks down."""
    wide = program.shape[1] > _WIDE_FOR_SIMPLEX
    dual = program.dual()
    solution = solve(dual, end - time.perf_counter(), "ipm" if wide else "simplex")
    if wide and solution.status is LpStatus.FAILED:
        solution = solve(dual, end - time.perf_counter())
    w = solution.row_dual[: program.matrix.shape[1]]
    return Optimum(w, program.from_dual(_refined(dual, solution.x)), solution.status, solution.iterations)


def _refined(dual: LinearProgram, y: Array) -> Array:
    """Multipliers that satisfy A^T y = -g to rounding.

    HiGHS leaves about 1e-11. The multipliers inside their intervals take that up, by the smallest change that does.
    """
    inside = np.minimum(y - dual.col_lower, dual.col_upper - y) > _INSIDE * np.abs(y).max(initial=0.0)
    if not inside.any():
        return y
    y = y.copy()
    left = dual.matrix @ y - dual.row_lower
    y[inside] -= lsmr(dual.matrix[:, inside], left, atol=_LEFT, btol=_LEFT, maxiter=2 * len(left))[0]
    return y


def check_norm(norm: str) -> None:
    """Raise OptionError for a norm that is not "linf" or "l1"."""
    if norm not in _NORMS:
        raise OptionError(f"norm {norm!r} is not one of {', '.join(_NORMS)}")


def takes_kernel(system: LayerSystem) -> bool:
    """Whether a layer's programs go to the exchange kernel."""
    return isinstance(system.matrix, np.ndarray) and system.n_in <= WIDEST


def least_violation(
    system: LayerSystem, rows: Rows, norm: str, time_limit: float = math.inf, warm_start: Answer | None = None
) -> Answer:
    """min over lower <= h <= upper of max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1").

    Args:
        system: the layer.
        rows: what is asked of its input.
        norm: "linf" or "l1".
        time_limit: in seconds.
        warm_start: the answer for similar rows (the last threshold), to start from its point and basis.

    Raises:
        OptionError: there is no such norm.
        SolverError: HiGHS refuses the program, and there is no other point.
    """
    check_norm(norm)
    end = time.perf_counter() + time_limit
    start, basis = (warm_start.h, warm_start.basis) if warm_start else (None, None)
    return _Violation(system, rows, norm).solved(start, basis, end)


def largest_beside(system: LayerSystem, rows: Rows, level: float, start: Array, time_limit: float = math.inf) -> Answer:
    """Whether the least max_j e_j(h) is at most ``level``: an answer with objective <= level or bound > level.

    Interior-point steps until one side is shown take a fraction of the time of the minimum, unless that is next to the
    level: then it is the minimum.

    Args:
        system, rows, time_limit: as of :func:`least_violation`.
        level: at least 0, in units of the output.
        start: h, near the minimum.
    """
    end, found = time.perf_counter() + time_limit, None
    if takes_kernel(system):
        found = _compared(_Violation(system, rows, "linf"), level, system.inside(start), end)
        if found.objective <= level or found.bound > level:
            return found
    return least_violation(system, rows, "linf", end - time.perf_counter(), found)


def _compared(problem: _Violation, level: float, h: Array, end: float) -> Answer:
    """What interior-point steps show of a level."""
    system, rows = problem.system, problem.rows
    compile_kernels("linf")
    if float(rows.violation(system.matrix @ h).max(initial=0.0)) > _DISTANT * level:
        h = least_squares_start(system, rows)
    y = np.zeros(system.n_out)
    for _ in range(_HIGHS):
        around = problem.around(h)
        if around is None or around.objective <= level or over(end) or not isinstance(around.program, Largest):
            break
        w, y = around.program.beside(level / around.objective, steps_within(around.program, end))
        h = system.inside(h + around.sigma * w / system.norms)
        if y.any() or not np.isfinite(h).all():
            break
    return problem.answer(h, Optimum(h, problem.multipliers(y), LpStatus.FAILED, 0), "exchange")


def largest_response(
    system: LayerSystem, rows: Rows, time_limit: float = math.inf, warm_start: Answer | None = None
) -> Answer:
    r"""The relaxation (8): max over h of c.(W h) subject to W h <= high + p eps, with weights c_j = |x_j| / p_j.

    Where no h satisfies the sides, the status is INFEASIBLE and the objective the smallest eps for which one does.

    For a ReLU layer c_j = max(0, x_j) and the side is x_j + eps, as in the paper. The weight of an output that moves by
    1/p_j per unit of u_j is divided by p_j, so that it counts in units of the output. ``warm_start`` is as for
    :func:`least_violation`.

    Raises:
        SolverError: HiGHS refuses the program.
    """
    end = time.perf_counter() + time_limit
    weight = np.where(np.isfinite(rows.high), np.abs(rows.target) / rows.high_slope, 0.0)
    side = rows.high + rows.high_slope * rows.threshold
    # Where x is far smaller than the biases, or 0, eps alone would lift the sides out of the solver's range.
    farthest = float(np.abs(side[np.isfinite(side)]).max(initial=0.0))
    scale = max(rows.threshold * float(np.median(rows.high_slope)), _SMALLEST_STEP * farthest)
    warm = warm_start if warm_start and warm_start.status is LpStatus.OPTIMAL else None
    start, basis = (warm.h, warm.basis) if warm else (None, None)
    return _Response(system, rows, "l1", weight, side, scale).solved(start, basis, end)


def dual_program(system: LayerSystem, rows: Rows, norm: str, h0: Array, sigma: float) -> LinearProgram:
    """The dual of :func:`least_violation` for w in h = h0 + sigma w, as HiGHS takes it; w is its row dual."""
    r0 = (np.asarray(system.matrix @ h0) - rows.center) / sigma
    bounds = (system.lower - h0) / sigma, (system.upper - h0) / sigma
    if norm == "l1":
        return Sum(system.matrix, r0, *bounds, *rows.box).dual()
    return Largest(system.matrix, r0, *bounds, *rows.slopes).dual()
