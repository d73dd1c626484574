"""The linear programs of the layer methods, the smallest violation and the relaxation (8), with proofs of optimality.

A program is written around a point, in standard form, and solved by an engine. The exchange kernel solves those of
dense layers. HiGHS solves those of sparse and very wide layers, and those for which the kernel gives no proof. Each
attempt starts from the best point of the one before. An answer is optimal only if its multipliers prove it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import lsmr

from unrelu.errors import OptionError, SolverError
from unrelu.layerwise import _exchange_kernel
from unrelu.layerwise._exchange_kernel import (
    Basis,
    KernelProgram,
    Largest,
    Optimum,
    Sum,
    compile_kernels,
    over,
    steps_within,
)
from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.layerwise.optimality import ZERO, OptimalityProof, prove, prove_response
from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.interior_point import least_squares_point
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array
from unrelu.runtime.work_clock import now

# Attempts of the kernel, then of HiGHS, each around the best point so far.
_KERNEL, _HIGHS = 3, 4
# Penalties of the constraints of the relaxation, in units of the largest weight, for the attempts of the kernel.
_PENALTIES = (1e2, 1e4, 1e6)
# A multiplier is inside its interval if it is this far from the ends, relative to the largest. A correction reduces the
# error of A^T y = g to the second fraction.
_INSIDE, _LEFT = 1e-9, 1e-8
# The least scale on which a program is solved, relative to its largest side.
_SMALLEST_STEP = 1e-9
# If eps exceeds the smallest feasible one by less than this fraction, the feasible set is rounding.
_FEASIBLE = 1e-6
# A start with errors above this multiple of the level is replaced by the least-squares point of the constraints.
_DISTANT = 2.0
# Wider layers go to HiGHS: the kernel updates a whole k x k inverse in every pivot.
WIDEST = 2000
# From this width on, the interior-point solver of HiGHS is faster than its simplex.
_WIDE_FOR_SIMPLEX = 1000
_NORMS = ("linf", "l1")


@dataclass(frozen=True, eq=False)
class Answer:
    """A minimiser h with its proof.

    Attributes:
        h: (k,).
        objective: the objective at h, recomputed.
        bound: a lower bound on the minimum (an upper one on a maximum), from the multipliers.
        status: OPTIMAL only if the proof holds.
        pivots: simplex pivots of all attempts.
        multipliers: one for each output, (n,): signed for a violation, those of the sides for the relaxation.
        engine: "exchange", "highs" or "least squares" (the first point was optimal).
        fallback: whether an earlier attempt of the kernel failed its proof.
        basis: the basis of the exchange kernel, to start similar programs from.
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
    """A program around a point h: w stands for the point h + sigma w / column norms; ``objective`` is that of h."""

    program: KernelProgram
    sigma: float
    objective: float


@dataclass(frozen=True, eq=False)
class _Problem(ABC):
    """A linear program for the input of a layer; ``norm`` says which kernel solves it."""

    system: LayerSystem
    rows: Rows
    norm: str

    @abstractmethod
    def around(self, h: Array, attempt: int = 0) -> _Around | None:
        """The program around a point; None if that is optimal."""

    @abstractmethod
    def multipliers(self, y: Array) -> Array:
        """The multipliers of the outputs, from those of the program."""

    @abstractmethod
    def proof(self, h: Array, multipliers: Array) -> OptimalityProof:
        """What h and its multipliers prove."""

    def contradiction(self, end: float) -> Answer | None:
        """The answer if the constraints are proved infeasible, else None."""
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
        """The better of h and the point that one engine finds around it, and whether to stop there."""
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
        """The answer of h with multipliers and what they prove."""
        proof = self.proof(h, found.multipliers)
        failed = LpStatus.LIMIT if found.status is LpStatus.LIMIT else LpStatus.FAILED
        status = LpStatus.OPTIMAL if proof.holds else failed
        basis = found.basis if status is not LpStatus.FAILED else None
        return Answer(h, proof.objective, proof.bound, status, found.pivots, found.multipliers, engine, fallback, basis)


@dataclass(frozen=True, eq=False)
class _Violation(_Problem):
    """min max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1")."""

    def around(self, h: Array, attempt: int = 0) -> _Around | None:
        """The program in units in which the errors are about 1 and the largest multiplier is 1."""
        system, rows = self.system, self.rows
        (up, down), (lo, hi), unit = rows.slopes, rows.box, self.unit
        r = np.asarray(system.matrix @ h) - rows.center
        errors = np.maximum(hi * r, lo * r)
        size = largest = float(errors.max(initial=0.0))
        objective = largest if self.norm == "linf" else float(errors.sum())
        if objective <= 0.5 * ZERO * rows.scale + np.finfo(float).tiny:
            return None
        if self.norm == "l1":
            # The mean error of the constraints with a lower side, or of all.
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

    With r = W h - side, output j contributes -weight_j r_j below its side and a penalty above it. The penalty grows
    from one attempt to the next, until the sides hold.

    Args:
        weight: (n,), at least 0.
        side: (n,), infinite where missing.
        scale: the size of differences that matter, in units of the sides.
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
        """The program on the scale of eps, or of the infeasibility of h if that is larger."""
        there = np.isfinite(self.side)
        r = np.asarray(self.system.matrix @ h) - np.where(there, self.side, 0.0)
        sigma = max(self.scale, float(r.max(initial=0.0, where=there)))
        penalty = np.where(there, _PENALTIES[min(attempt, len(_PENALTIES) - 1)], 0.0)
        with np.errstate(over="ignore"):  # for a scale near 0, the program overflows, and no answer passes the proof
            shifted = r / sigma, *_bounds(self.system, h, sigma)
        return _Around(Sum(self.system.balanced[0], *shifted, self.slopes, penalty, 1.0), sigma, math.inf)

    def multipliers(self, y: Array) -> Array:
        return np.where(np.isfinite(self.side), np.maximum(0.0, y - self.slopes), 0.0) * self.unit

    def proof(self, h: Array, multipliers: Array) -> OptimalityProof:
        return prove_response(self.system, self.weight, self.side, self.scale, h, multipliers)

    def contradiction(self, end: float) -> Answer | None:
        """INFEASIBLE with the smallest feasible eps, if a bound proves that to be above this one."""
        upper_sides = replace(self.rows, low=np.full_like(self.rows.low, -np.inf))
        closest = least_violation(self.system, upper_sides, "linf", end - now())
        if closest.bound <= (1 - _FEASIBLE) * self.rows.threshold:
            return None
        return replace(closest, bound=math.inf, status=LpStatus.INFEASIBLE, fallback=False, basis=None)


def _bounds(system: LayerSystem, h: Array, sigma: float) -> tuple[Array, Array]:
    """The bounds of w."""
    return system.norms * (system.lower - h) / sigma, system.norms * (system.upper - h) / sigma


def least_squares_start(system: LayerSystem, rows: Rows, end: float = math.inf) -> Array:
    """A least-squares point: of the rows with two sides, or of all violations if the kernel does not take the layer."""
    if not takes_kernel(system):
        return one_sided_least_squares(system, rows, end)[0]
    lower, upper = system.lower * system.norms, system.upper * system.norms
    h = least_squares_point(ROUTINES, system.balanced[0], rows.center, *rows.slopes, lower, upper)
    return np.asarray(system.inside(h / system.norms))


def by_highs(program: KernelProgram, end: float) -> Optimum:
    """Solve the dual by the simplex of HiGHS; wide programs by its interior point, by the simplex if that fails."""
    wide = program.shape[1] > _WIDE_FOR_SIMPLEX
    dual = program.dual()
    solution = solve(dual, end - now(), "ipm" if wide else "simplex")
    if wide and solution.status is LpStatus.FAILED:
        solution = solve(dual, end - now())
    w = solution.row_dual[: program.matrix.shape[1]]
    return Optimum(w, program.from_dual(_refined(dual, solution.x)), solution.status, solution.iterations)


def _refined(dual: LinearProgram, y: Array) -> Array:
    """Multipliers that satisfy A^T y = -g up to rounding.

    HiGHS leaves an error of about 1e-11. The smallest change of the multipliers inside their intervals removes it.
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
        rows: the constraints on its input.
        norm: "linf" or "l1".
        time_limit: in seconds.
        warm_start: the answer for similar rows (of the last threshold); its point and basis are the start.

    Raises:
        OptionError: the norm is another one.
        SolverError: HiGHS refuses the program, and there is no other point.
    """
    check_norm(norm)
    end = now() + time_limit
    start, basis = (warm_start.h, warm_start.basis) if warm_start else (None, None)
    return _Violation(system, rows, norm).solved(start, basis, end)


def largest_beside(system: LayerSystem, rows: Rows, level: float, start: Array, time_limit: float = math.inf) -> Answer:
    """Compare the least max_j e_j(h) with ``level``: an answer with objective <= level or bound > level.

    Interior-point steps prove either in a fraction of the time of finding the minimum, unless the minimum is close to
    the level; then it is found.

    Args:
        system, rows, time_limit: as for :func:`least_violation`.
        level: at least 0, in units of the output.
        start: an h near the minimum.
    """
    end, found = now() + time_limit, None
    if takes_kernel(system):
        found = _compared(_Violation(system, rows, "linf"), level, system.inside(start), end)
        if found.objective <= level or found.bound > level:
            return found
    return least_violation(system, rows, "linf", end - now(), found)


def _compared(problem: _Violation, level: float, h: Array, end: float) -> Answer:
    """The answer of interior-point steps to a comparison with a level; it may leave it open."""
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

    If no h satisfies the sides, the status is INFEASIBLE and the objective is the smallest feasible eps.

    For a ReLU layer, c_j = max(0, x_j), and the side is x_j + eps, as in the paper. Division by p_j makes the weights
    count in units of the output, which moves by 1/p_j per unit of u_j. ``warm_start`` is as for
    :func:`least_violation`.

    Raises:
        SolverError: HiGHS refuses the program.
    """
    end = now() + time_limit
    weight = np.where(np.isfinite(rows.high), np.abs(rows.target) / rows.high_slope, 0.0)
    side = rows.high + rows.high_slope * rows.threshold
    # If x is 0 or far smaller than the biases, in units of eps the sides would be out of the solver's range.
    farthest = float(np.abs(side[np.isfinite(side)]).max(initial=0.0))
    scale = max(rows.threshold * float(np.median(rows.high_slope)), _SMALLEST_STEP * farthest)
    warm = warm_start if warm_start and warm_start.status is LpStatus.OPTIMAL else None
    start, basis = (warm.h, warm.basis) if warm else (None, None)
    return _Response(system, rows, "l1", weight, side, scale).solved(start, basis, end)


def dual_program(system: LayerSystem, rows: Rows, norm: str, h0: Array, sigma: float) -> LinearProgram:
    """The dual of :func:`least_violation` around h0, for HiGHS; its row dual is the w of h = h0 + sigma w."""
    r0 = (np.asarray(system.matrix @ h0) - rows.center) / sigma
    bounds = (system.lower - h0) / sigma, (system.upper - h0) / sigma
    if norm == "l1":
        return Sum(system.matrix, r0, *bounds, *rows.box).dual()
    return Largest(system.matrix, r0, *bounds, *rows.slopes).dual()
