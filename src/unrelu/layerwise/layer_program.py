"""The linear programs of the layer methods, the smallest violation and the relaxation (8), with proofs of optimality.

A program is written around a point, in units in which its residuals are about 1. Interior-point steps and the exchange
simplex solve it. HiGHS solves the programs of sparse and very wide layers, and those for which the exchange gives no
proof. An answer is optimal only if its multipliers prove it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from scipy import sparse
from scipy.linalg import blas, lapack
from scipy.sparse.linalg import lsmr

from unrelu.errors import SolverError
from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.layerwise.optimality import ZERO, OptimalityProof, prove, prove_response
from unrelu.lp.exchange_simplex import Vertex
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.interior_point import optimise
from unrelu.lp.lp_status import LpStatus
from unrelu.lp.piecewise_linear_program import Matrix, PiecewiseLinearProgram
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.run_control import now

# Each engine solves a program at most this many times: again around its last point, in units of the errors there.
_ROUNDS = 2
# With more rows than this for each unknown, a least-squares point is good; the ridges for more and for fewer rows.
_AMPLE, _RIDGE, _LARGER_RIDGE = 1.3, 1e-12, 1e-9
# The penalty of a side of the relaxation in units of the largest weight, and its growth when a program is solved again.
_PENALTY, _PENALTY_GROWTH = 1e2, 1e2
# Sides of the largest violation have a penalty of this multiple of their largest multiplier.
_ABOVE = 1.5
# In the first multipliers of a sum, errors up to this multiple of the typical one do not count as outliers.
_KNEE = 2.5
# A multiplier is inside its interval if it is this far from the ends, relative to the largest one. A correction reduces
# the error of A^T y = -g to the second fraction.
_INSIDE, _LEFT = 1e-9, 1e-8
# The least scale on which a program is solved, relative to its largest side.
_SMALLEST_STEP = 1e-9
# If eps exceeds the smallest feasible one by less than this fraction, feasible points may be rounding errors.
_FEASIBLE = 1e-6
# Wider layers go to HiGHS: the exchange updates a whole k x k inverse in every pivot.
WIDEST = 2000
# From this width on, the interior-point solver of HiGHS is faster than its simplex.
_WIDE_FOR_SIMPLEX = 1000


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
    """

    h: Array
    objective: float
    bound: float
    status: LpStatus
    pivots: int
    multipliers: Array = field(default_factory=lambda: np.zeros(0))
    engine: str = "highs"


class _Around(NamedTuple):
    """A program around a point h: its first unknowns w stand for the point h + sigma w / column norms.

    The multiplier of output j is the sum of factor (y - origin) over its rows. ``objective`` is that of h; infinite if
    nothing is known to be better than another point.
    """

    program: PiecewiseLinearProgram
    sigma: float
    objective: float
    output: Index
    factor: Array
    origin: Array | float = 0.0


def least_violation(
    system: LayerSystem, rows: Rows, norm: str, time_limit: float = math.inf, warm_start: Answer | None = None
) -> Answer:
    """Minimise max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1") over lower <= h <= upper.

    Args:
        system: the layer.
        rows: the constraints on its input.
        norm: "linf" or "l1".
        time_limit: in seconds.
        warm_start: the answer for similar rows (of the last threshold), whose point is the start.

    Raises:
        SolverError: HiGHS refuses the program, and there is no other point.
    """
    lo, hi = rows.box
    # Units in which the largest multiplier of an output is 1.
    unit = max(float(hi.max(initial=0.0)), -float(lo.min(initial=0.0))) or 1.0

    def around(h: Array, turn: int) -> _Around | None:
        """Write the program in units in which the errors are about 1; None if the errors count as zero."""
        r = np.asarray(system.matrix @ h) - rows.center
        errors = np.maximum(hi * r, lo * r)
        size = largest = float(errors.max(initial=0.0))
        objective = largest if norm == "linf" else float(errors.sum())
        if objective <= 0.5 * ZERO * rows.scale + np.finfo(float).tiny:
            return None
        if norm == "l1":
            # The mean error of the constraints with a lower side, or of all.
            size = float(errors[lo < 0].mean()) if (lo < 0).any() else 0.0
            size = size or float(errors.mean())
        sigma = size / unit
        make = largest_violation if norm == "linf" else sum_of_violations
        program, output, factor = make(system.balanced, r / sigma, *_bounds(system, h, sigma), lo / unit, hi / unit)
        return _Around(program, sigma, objective, output, unit * factor)

    return _solve(system, rows, around, partial(prove, system, rows, norm), warm_start, now() + time_limit)


def largest_response(
    system: LayerSystem, rows: Rows, time_limit: float = math.inf, warm_start: Answer | None = None
) -> Answer:
    r"""Solve the relaxation (8): max over h of c.(W h) subject to W h <= high + p eps, with weights c_j = |x_j| / p_j.

    If no h satisfies the sides, the status is INFEASIBLE and the objective is the smallest feasible eps.

    For a ReLU layer, c_j = max(0, x_j), and the side is x_j + eps, as in the paper. Division by p_j makes the weights
    count in units of the output, which moves by 1/p_j per unit of u_j. ``warm_start`` is as for
    :func:`least_violation`. With r = W h - side, output j contributes -c_j r_j below its side and a penalty above it.

    Raises:
        SolverError: HiGHS refuses the program.
    """
    end, there = now() + time_limit, np.isfinite(rows.high)
    weight = np.where(there, np.abs(rows.target) / rows.high_slope, 0.0)
    side = rows.high + rows.high_slope * rows.threshold
    # If x is 0 or far smaller than the biases, in units of eps the sides would be out of the solver's range.
    farthest = float(np.abs(side[there]).max(initial=0.0))
    scale = max(rows.threshold * float(np.median(rows.high_slope)), _SMALLEST_STEP * farthest)
    unit = max(float(weight.max(initial=0.0)), np.finfo(float).tiny)
    lo = -weight / unit

    def around(h: Array, turn: int) -> _Around | None:
        """Write the program on the scale of eps, or of the infeasibility of h if that is larger."""
        r = np.asarray(system.matrix @ h) - np.where(there, side, 0.0)
        sigma = max(scale, float(r.max(initial=0.0, where=there)))
        penalty = np.where(there, _PENALTY * _PENALTY_GROWTH**turn, 0.0)
        with np.errstate(over="ignore"):  # for a scale near 0, the program overflows, and no answer passes the proof
            r, bounds = r / sigma, _bounds(system, h, sigma)
        program, output, factor = sum_of_violations(system.balanced, r, *bounds, lo, penalty, hard=True)
        return _Around(program, sigma, math.inf, output, unit * factor, lo)

    def contradiction() -> Answer | None:
        """Return INFEASIBLE with the smallest feasible eps, if a bound proves that it exceeds this one."""
        upper_sides = replace(rows, low=np.full_like(rows.low, -np.inf))
        closest = least_violation(system, upper_sides, "linf", end - now())
        if closest.bound <= (1 - _FEASIBLE) * rows.threshold:
            return None
        return replace(closest, bound=math.inf, status=LpStatus.INFEASIBLE)

    warm = warm_start if warm_start and warm_start.status is LpStatus.OPTIMAL else None
    proof = partial(prove_response, system, weight, side, scale)
    return _solve(system, rows, around, proof, warm, end, contradiction)


def _solve(
    system: LayerSystem,
    rows: Rows,
    write: Callable[[Array, int], _Around | None],
    proof: Callable[[Array, Array], OptimalityProof],
    warm_start: Answer | None,
    end: float,
    contradiction: Callable[[], Answer | None] = lambda: None,
) -> Answer:
    """Find the optimum and its proof, or the best point of both engines.

    ``write`` writes the program around a point, for the turn-th time; None if the objective there counts as zero. If
    the first engine fails, ``contradiction`` gives an answer where the constraints are proved infeasible.
    """
    h = system.inside(warm_start.h) if warm_start else least_squares_start(system, rows, end)
    answer, pivots = None, 0
    engines = ("exchange", "highs") if takes_exchange(system) else ("highs",)
    for attempt, engine in enumerate(np.repeat(engines, _ROUNDS).tolist()):
        around = write(h, attempt % _ROUNDS)
        if around is None:
            y: Array = np.zeros(system.n_out)
            proved = proof(h, y)
            status = LpStatus.OPTIMAL if proved.holds else LpStatus.FAILED
            return Answer(h, proved.objective, proved.bound, status, pivots, y, "least squares")
        try:
            found = (optimise if engine == "exchange" else by_highs)(around.program, end)
        except SolverError:
            if answer is None:
                raise
            return answer
        point = system.inside(h + around.sigma * found.v[: system.n_in] / system.norms)
        weighted = around.factor * (found.multipliers - around.origin)
        y = np.asarray(np.bincount(around.output, weighted, system.n_out), dtype=np.float64)
        proved, pivots = proof(point, y), pivots + found.pivots
        # Written so that NaN is never better.
        h, proved = (point, proved) if proved.objective <= around.objective else (h, proof(h, y))
        failed = LpStatus.LIMIT if found.status is LpStatus.LIMIT else LpStatus.FAILED
        status = LpStatus.OPTIMAL if proved.holds else failed
        answer = Answer(h, proved.objective, proved.bound, status, pivots, y, engine)
        if status is not LpStatus.FAILED:
            return answer
        if attempt == _ROUNDS - 1 and (none := contradiction()) is not None:
            return none
    return cast("Answer", answer)


def _bounds(system: LayerSystem, h: Array, sigma: float) -> tuple[Array, Array]:
    """Compute the bounds of w."""
    return system.norms * (system.lower - h) / sigma, system.norms * (system.upper - h) / sigma


def sum_of_violations(
    matrix: Matrix, r: Array, lower: Array, upper: Array, lo: Array, hi: Array, hard: bool = False
) -> tuple[PiecewiseLinearProgram, Index, Array]:
    r"""Write min sum_j max(hi_j r_j, lo_j r_j) with r = W w + ``r``, lower <= w <= upper, as a program.

    W has columns of norm 1, so :math:`|W^T y| \le |y|_2` limits the multipliers of the bounds.

    Returns:
        The program, and of each of its rows the output and the factor of its multiplier.
    """
    k, top = len(lower), np.minimum(hi, 1.0) if hard else hi
    largest = max(float(hi.max(initial=1.0)), -float(lo.min(initial=-1.0)))
    # The multipliers of a Huber function with its knee at 2.5 typical errors, kept away from their ends.
    y = np.clip(r / _KNEE, -0.9, 0.9)
    y = np.clip(np.where(y > 0, y * top, -y * lo), np.where(lo == 0, 0.03 * top, lo), np.where(hi == 0, 0.03 * lo, hi))
    penalty, none = np.full(k, 1.01 * math.sqrt(len(r)) * largest), np.zeros(k)
    program = PiecewiseLinearProgram(matrix, r, lo, hi, none, lower, upper, penalty, none, y, hard)
    return program, np.arange(len(r)), np.ones(len(r))


def largest_violation(
    matrix: Matrix, r: Array, lower: Array, upper: Array, lo: Array, hi: Array
) -> tuple[PiecewiseLinearProgram, Index, Array]:
    r"""Write min d >= 0 with hi_j r_j <= d and lo_j r_j <= d, r = W w + ``r``, lower <= w <= upper, as a program.

    The unknowns are (w, d). At an optimum, the multipliers of the sides have the sum 1, so a penalty of 1.5 enforces
    the sides. The first multipliers are nearly proportional to the violations, and the first d is above these. The
    result is as for :func:`sum_of_violations`.
    """
    slopes, k = np.concatenate([hi, lo]), len(lower)
    sides = np.flatnonzero(slopes)
    output, factor = sides % len(r), slopes[sides]
    if isinstance(matrix, np.ndarray):
        rows: Matrix = np.empty((len(sides), k + 1))
        np.multiply(matrix[output], factor[:, None], out=rows[:, :k])
        rows[:, k:] = -1.0
    else:
        rows = sparse.hstack([sparse.diags_array(factor) @ matrix[output], np.full((len(sides), 1), -1.0)], "csr")
    shift, gradient = factor * r[output], np.append(np.zeros(k), 1.0)
    y = np.maximum(shift, 0.0)
    y = y / (float(y.sum()) or 1.0) + 0.1 / len(y)
    return PiecewiseLinearProgram(
        rows, shift, np.zeros(len(y)), np.full(len(y), _ABOVE), gradient, np.append(lower, 0.0),
        np.append(upper, np.inf), np.full(k + 1, _ABOVE * max(1.0, float(np.abs(factor).max()))),
        1.1 * float(shift.max(initial=0.0)) * gradient, y / float(y.sum()), hard=True,
    ), output, factor  # fmt: skip


def least_squares_start(system: LayerSystem, rows: Rows, end: float = math.inf) -> Array:
    """Find a least-squares point of the rows with two sides, and move it inside the bounds.

    If there are hardly more such rows than unknowns, or if coordinates were moved, a second round includes the violated
    rows and fixes those coordinates. With few rows the point may be far away, so the ridge is larger. Layers that the
    exchange does not take get the point with the least sum of all squared violations.
    """
    if not takes_exchange(system):
        return one_sided_least_squares(system, rows, end)[0]
    matrix, used = system.balanced, rows.two_sided
    lower, upper = system.lower * system.norms, system.upper * system.norms
    h, free = np.zeros(system.n_in), np.ones(system.n_in, dtype=bool)
    added, gram = used, np.zeros((system.n_in, system.n_in), order="F")
    for _ in range(2):
        part, ample = matrix[used], int(used.sum()) > _AMPLE * system.n_in
        normal = gram = blas.dsyrk(1.0, matrix[added].T, beta=1.0, c=gram, lower=1, overwrite_c=1)
        ridge = (_RIDGE if ample else _LARGER_RIDGE) * float(normal.trace()) / system.n_in + 1e-300
        side = (part.T @ (rows.center[used] - part[:, ~free] @ h[~free]))[free]
        if not free.all():
            normal = normal[np.ix_(free, free)]
        np.einsum("ii->i", normal)[:] += ridge
        _, found, failed = lapack.dposv(normal, side, lower=1)
        if failed or not np.isfinite(found).all():
            break
        h[free] = found
        h, free = np.clip(h, lower, upper), free & (h >= lower) & (h <= upper)
        if (ample and free.all()) or not free.any():
            break
        added = (rows.violation(matrix @ h) > 0) & ~used
        used = used | added
    return system.inside(h / system.norms)


def by_highs(program: PiecewiseLinearProgram, end: float) -> Vertex:
    """Solve the dual by the simplex of HiGHS, and wide programs by its interior point."""
    dual, index = program.dual()
    solution = solve(dual, end - now(), "ipm" if len(program.v) > _WIDE_FOR_SIMPLEX else "simplex")
    y = np.zeros(len(program.shift))
    y[index] = _refined(dual, solution.x)[: len(index)]
    return Vertex(solution.row_dual, y, solution.status, solution.iterations)


def _refined(dual: LinearProgram, y: Array) -> Array:
    """Correct multipliers until A^T y = -g up to rounding.

    HiGHS leaves an error of about 1e-11. The smallest change of the multipliers inside their intervals removes it.
    """
    inside = np.minimum(y - dual.col_lower, dual.col_upper - y) > _INSIDE * np.abs(y).max(initial=0.0)
    if not inside.any():
        return y
    y = y.copy()
    left = dual.matrix @ y - dual.row_lower
    y[inside] -= lsmr(dual.matrix[:, inside], left, atol=_LEFT, btol=_LEFT, maxiter=2 * len(left))[0]
    return y


def takes_exchange(system: LayerSystem) -> bool:
    """Check whether a layer's programs go to the exchange simplex."""
    return isinstance(system.matrix, np.ndarray) and system.n_in <= WIDEST
