"""The two convex engines behind the layer methods: linear programs and one-sided least squares on :class:`Rows`.

Writing e_j(h) for the violation of row j, :func:`least_violation` minimises max_j e_j or sum_j e_j (linear programs,
solved in dual form by HiGHS), :func:`largest_response` solves the relaxation (8), and :func:`one_sided_least_squares`
minimises sum_j e_j^2. Building a program is apart from solving it, so a program can be looked at without a solver.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, cg

from unrelu.layer.highs import LinearProgram, LpStatus, solve
from unrelu.layer.rows import LayerSystem, Rows

__all__ = [
    "Answer",
    "dual_program",
    "largest_response",
    "least_violation",
    "one_sided_least_squares",
    "response_program",
]

Array = npt.NDArray[np.float64]

# An objective below this share of max|x| is zero: it is below what double precision can tell on these layers.
ZERO = 1e-10
# Accepted duality gap, relative to the objective or to ZERO * max|x|.
_GAP = 1e-8
# A gap that stays above this share of the objective is reported as a failure.
_LARGEST_GAP = 1e-5
# Shifted and rescaled solves of one program at most.
_ROUNDS = 4
_NEWTON_STEPS = 200
# The scale on which a program is solved is at least this share of its largest side.
_SMALLEST_STEP = 1e-9


@dataclass(frozen=True, eq=False)
class Answer:
    """A minimiser h, its objective, a lower bound on the minimum (from dual multipliers) and the work done."""

    h: Array
    objective: float
    bound: float
    status: LpStatus
    pivots: int


def least_violation(system: LayerSystem, rows: Rows, norm: str, time_limit: float = math.inf) -> Answer:
    """min over lower <= h <= upper of max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1").

    The program is solved for w in h = h0 + sigma w, with h0 a least-squares point and sigma the size of its errors:
    the absolute tolerances of a general LP solver (1e-7) then are relative to the noise and not to the observation. The
    shift is repeated from the solution until the duality gap closes.

    Raises:
        SolverError: HiGHS refuses the program.
    """
    unit, size = system.unit
    answer = _least_violation(unit, rows, norm, time.perf_counter() + time_limit)
    return replace(answer, h=answer.h / size)


def _least_violation(system: LayerSystem, rows: Rows, norm: str, end: float) -> Answer:
    measure = np.max if norm == "linf" else np.sum
    scale = max(float(np.abs(rows.target).max()), np.finfo(float).tiny)
    h, _, pivots = one_sided_least_squares(system, rows, end)
    best = float(measure(rows.violation(system.matrix @ h)))
    bound, status = 0.0, LpStatus.OPTIMAL
    for _ in range(_ROUNDS):
        errors = rows.violation(system.matrix @ h)
        sigma = float(errors.max() if norm == "linf" else errors.mean())
        if best - bound <= _GAP * max(best, ZERO * scale) or best <= ZERO * scale:
            break
        solution = solve(dual_program(system, rows, norm, h, sigma), end - time.perf_counter())
        pivots += solution.iterations
        status = solution.status
        if status is not LpStatus.OPTIMAL:
            break
        candidate = system.inside(h + sigma * solution.row_dual[: system.n_in])
        value = float(measure(rows.violation(system.matrix @ candidate)))
        bound = max(bound, -sigma * solution.objective)
        if value >= best:
            break
        h, best = candidate, value
    if status is LpStatus.OPTIMAL and best - bound > _LARGEST_GAP * best + ZERO * scale:
        status = LpStatus.FAILED
    return Answer(h, best, bound, status, pivots)


def dual_program(system: LayerSystem, rows: Rows, norm: str, h0: Array, sigma: float) -> LinearProgram:
    r"""The dual of :func:`least_violation` after the change of variables h = h0 + sigma w.

    With multipliers lambda+ for the upper and lambda- for the lower sides, and nu for the bounds of h,

    .. math:: \min\; m'^T \lambda^+ - \ell'^T \lambda^- + (\text{bounds})^T \nu \quad
        W^T(\lambda^+ - \lambda^-) + \nu = 0,

    where ' means shifted by W h0 and divided by sigma. For "l1" the multipliers are boxed, lambda+ <= 1/p and
    lambda- <= 1/q; for "linf" p.lambda+ + q.lambda- <= 1. It has k (+1) rows only, and w is its row dual.
    """
    wh = np.asarray(system.matrix @ h0)
    up, down = np.isfinite(rows.high), np.isfinite(rows.low)
    high, low = (rows.high - wh) / sigma, (rows.low - wh) / sigma
    if norm == "l1":
        # Both sides of a row start at the same point, so one boxed multiplier serves both.
        some = up | down
        index, sign = np.flatnonzero(some), np.ones(int(some.sum()))
        cost = np.where(up, high, low)[some]
        col_lower = np.where(down, -1 / rows.low_slope, 0.0)[some]
        col_upper = np.where(up, 1 / rows.high_slope, 0.0)[some]
        weights = None
    else:
        index = np.concatenate([np.flatnonzero(up), np.flatnonzero(down)])
        sign = np.concatenate([np.ones(int(up.sum())), -np.ones(int(down.sum()))])
        cost = np.concatenate([high[up], -low[down]])
        col_lower, col_upper = np.zeros(len(index)), np.full(len(index), np.inf)
        weights = np.concatenate([rows.high_slope[up], rows.low_slope[down]])
    return _assemble(system, h0, sigma, index, sign, cost, col_lower, col_upper, weights, np.zeros(system.n_in))


def largest_response(system: LayerSystem, rows: Rows, time_limit: float = math.inf) -> Answer:
    r"""The relaxation (8): max over h of c.(W h) subject to W h <= high + p eps, with weights c_j = |x_j| / p_j.

    Where no h satisfies the sides, the status is INFEASIBLE and the objective the smallest eps for which one does.

    For a ReLU layer c_j = max(0, x_j) and the side is x_j + eps, as in the paper. The weight of a row whose output
    moves by 1/p_j per unit of u_j is divided by p_j, so that it counts in units of the output.

    Raises:
        SolverError: HiGHS refuses the program.
    """
    unit, size = system.unit
    answer = _largest_response(unit, rows, time.perf_counter() + time_limit)
    return replace(answer, h=answer.h / size)


def _largest_response(system: LayerSystem, rows: Rows, end: float) -> Answer:
    weight = np.where(np.isfinite(rows.high), np.abs(rows.target) / rows.high_slope, 0.0)
    # Dividing the weights by their size leaves the maximiser alone and keeps the program in the solver's range.
    size = max(float(weight.max(initial=0.0)), np.finfo(float).tiny)
    side = rows.high + rows.high_slope * rows.threshold
    # Where x is far smaller than the biases, or 0, eps alone would lift the sides out of the solver's range.
    farthest = float(np.abs(side[np.isfinite(side)]).max(initial=0.0))
    smallest = max(rows.threshold * float(np.median(rows.high_slope)), _SMALLEST_STEP * farthest)
    h, _, pivots = one_sided_least_squares(system, rows, end)
    status, bound = LpStatus.FAILED, math.inf
    for _ in range(_ROUNDS):
        # Solved around h on the scale of eps, or of the infeasibility of h; once that is small, h is final.
        excess = float((system.matrix @ h - side).max())
        sigma = max(smallest, excess)
        solution = solve(response_program(system, side, weight / size, h, sigma), end - time.perf_counter())
        pivots += solution.iterations
        if solution.status is LpStatus.UNBOUNDED:
            # The program is the dual: it is unbounded exactly where the relaxation has no feasible point.
            upper_sides = replace(rows, low=np.full_like(rows.low, -np.inf))
            closest = least_violation(system, upper_sides, "linf", end - time.perf_counter())
            return Answer(closest.h, closest.objective, math.inf, LpStatus.INFEASIBLE, pivots + closest.pivots)
        status = solution.status
        if status is not LpStatus.OPTIMAL:
            break
        bound = float(weight @ (system.matrix @ h)) + sigma * size * solution.objective
        h = system.inside(h + sigma * solution.row_dual[: system.n_in])
        if sigma <= smallest * (1 + 1e-9):
            break
    return Answer(h, float(weight @ (system.matrix @ h)), bound, status, pivots)


def response_program(system: LayerSystem, side: Array, weight: Array, h0: Array, sigma: float) -> LinearProgram:
    r"""The dual of max weight.(W h) s.t. W h <= side after the change of variables h = h0 + sigma w:

    .. math:: \min\; side'^T \lambda + (\text{bounds})^T \nu \quad W^T \lambda + \nu = W^T weight, \; \lambda \ge 0
    """
    index = np.flatnonzero(np.isfinite(side))
    cost = ((side - np.asarray(system.matrix @ h0)) / sigma)[index]
    lower, upper = np.zeros(len(index)), np.full(len(index), np.inf)
    pull = np.asarray(system.matrix.T @ weight)
    return _assemble(system, h0, sigma, index, np.ones(len(index)), cost, lower, upper, None, pull)


def _assemble(
    system: LayerSystem,
    h0: Array,
    sigma: float,
    index: npt.NDArray[np.intp],
    sign: Array,
    cost: Array,
    col_lower: Array,
    col_upper: Array,
    weights: Array | None,
    equals: Array,
) -> LinearProgram:
    """min cost.lambda s.t. W[index]^T (sign lambda) + bound multipliers = equals (, weights.lambda <= 1)."""
    k = system.n_in
    lower, upper = (system.lower - h0) / sigma, (system.upper - h0) / sigma
    has_lower, has_upper = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
    n_bounds = len(has_lower) + len(has_upper)
    units = sparse.csc_array(
        (
            np.concatenate([-np.ones(len(has_lower)), np.ones(len(has_upper))]),
            (np.concatenate([has_lower, has_upper]), np.arange(n_bounds)),
        ),
        shape=(k, n_bounds),
    )
    columns = _columns(system, index, sign)
    matrix = sparse.hstack([columns, units], format="csc") if n_bounds else columns
    row_lower, row_upper = equals, equals
    if weights is not None:
        last = sparse.csc_array(np.concatenate([weights, np.zeros(n_bounds)])[None, :])
        matrix = sparse.vstack([matrix, last], format="csc")
        row_lower, row_upper = np.append(equals, -np.inf), np.append(equals, 1.0)
    return LinearProgram(
        cost=np.concatenate([cost, -lower[has_lower], upper[has_upper]]),
        matrix=matrix,
        row_lower=row_lower,
        row_upper=row_upper,
        col_lower=np.concatenate([col_lower, np.zeros(n_bounds)]),
        col_upper=np.concatenate([col_upper, np.full(n_bounds, np.inf)]),
    )


def _columns(system: LayerSystem, index: npt.NDArray[np.intp], sign: Array) -> sparse.csc_array:
    """W[index]^T with its columns times ``sign``, as CSC; a dense W is copied without a search for zeros."""
    if sparse.issparse(system.matrix):
        return sparse.csc_array((sparse.diags_array(sign) @ system.matrix[index]).T)
    k, m = system.n_in, len(index)
    data = (system.matrix[index] * sign[:, None]).ravel()
    return sparse.csc_array((data, np.tile(np.arange(k), m), np.arange(m + 1) * k), shape=(k, m))


def one_sided_least_squares(system: LayerSystem, rows: Rows, end: float = math.inf) -> tuple[Array, float, int]:
    """min over lower <= h <= upper of sum_j e_j(h)^2, by a projected semismooth Newton method with an active set.

    The objective is convex, once differentiable and piecewise quadratic. At each point the violated rows give a Newton
    step for the coordinates that are not held at a bound; it is projected on the bounds and shortened until it
    decreases the objective enough.

    Where ``time.perf_counter()`` passes ``end``, the point reached so far is returned.

    Returns:
        h, the minimum, and the number of Newton steps.

    Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J. Control
    Optim. 20 (1982).
    """
    scale = float(np.abs(rows.target).max())
    h = system.inside(np.zeros(system.n_in))
    signed, curvature, f = _errors(rows, np.asarray(system.matrix @ h))
    step = 0
    while step < _NEWTON_STEPS and time.perf_counter() < end:
        gradient = np.asarray(system.matrix.T @ signed)
        direction = _feasible_direction(system, curvature, gradient, h)
        if -float(gradient @ direction) <= 1e-24 * f + 1e-30 * scale**2:
            break
        for length in _lengths(system, h, direction):
            trial = system.inside(h + length * direction)
            signed, curvature, f_trial = _errors(rows, np.asarray(system.matrix @ trial))
            if f_trial <= f - 2e-4 * float(gradient @ (h - trial)):
                break
        if f_trial >= f:
            break
        h, f, step = trial, f_trial, step + 1
    return h, f, step


def _feasible_direction(system: LayerSystem, curvature: Array, gradient: Array, h: Array) -> Array:
    """The Newton direction on the face of the box that h may move on.

    A coordinate at a bound is held if its gradient pushes outwards, or if the Newton step of the others would push it
    outwards. Where nothing moves on that face, one held coordinate whose gradient points inwards is let go.
    """
    at_lower, at_upper = h <= system.lower, h >= system.upper
    held = (at_lower & (gradient > 0)) | (at_upper & (gradient < 0))
    inwards = (at_lower & (gradient < 0)) | (at_upper & (gradient > 0))
    while True:
        direction = _newton_direction(system.matrix, curvature, gradient, ~held)
        outwards = ~held & ((at_lower & (direction < 0)) | (at_upper & (direction > 0)))
        if not outwards.any():
            break
        held |= outwards
    if (held & inwards).any():
        # What letting coordinate i alone go would gain, g_i^2 / H_ii, against the gain on the face.
        diagonal = np.asarray((system.matrix * system.matrix).T @ curvature) + np.finfo(float).tiny
        gain = np.where(held & inwards, gradient * gradient / diagonal, 0.0)
        if -float(gradient @ direction) <= 0.1 * gain.max():
            held[np.argmax(gain)] = False
            direction = _newton_direction(system.matrix, curvature, gradient, ~held)
    return direction


def _lengths(system: LayerSystem, h: Array, direction: Array) -> Iterator[float]:
    """Step lengths to try: a few projected ones, then the one to the first bound on the way, then ever shorter ones."""
    yield from (1.0, 0.5, 0.25)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(direction < 0, (system.lower - h) / direction, (system.upper - h) / direction)
    first = float(np.min(room, initial=0.125, where=(direction != 0) & (room > 0)))
    yield from (first * 0.5**i for i in range(40))


def _errors(rows: Rows, wh: Array) -> tuple[Array, Array, float]:
    """Half the derivative of sum e_j^2 by (W h)_j, half its second derivative, and the sum itself."""
    over, under = (wh - rows.high) / rows.high_slope, (rows.low - wh) / rows.low_slope
    over, under = np.maximum(over, 0.0), np.maximum(under, 0.0)
    # A two-sided row met exactly keeps its curvature: it is active at any point nearby.
    on_high = (over > 0) | (rows.two_sided & (under == 0))
    curvature = np.where(on_high, rows.high_slope**-2.0, np.where(under > 0, rows.low_slope**-2.0, 0.0))
    signed = over / rows.high_slope - under / rows.low_slope
    return signed, curvature, float(over @ over + under @ under)


def _newton_direction(
    matrix: Array | sparse.csr_array, curvature: Array, gradient: Array, free: npt.NDArray[np.bool_]
) -> Array:
    """Solve (W_A^T D W_A + tiny ridge) d = -gradient on the free coordinates, zero on the others."""
    direction = np.zeros_like(gradient)
    if not free.any():
        return direction
    active = curvature > 0
    weight = curvature[active]
    part = matrix[active][:, free]
    if sparse.issparse(part):
        direction[free] = _conjugate_gradients(part, weight, -gradient[free])
        return direction
    gram = part.T @ (part * weight[:, None])
    ridge = 1e-12 * float(np.trace(gram)) + np.finfo(float).tiny
    # The ridge only has to make a singular Gram matrix factorisable; the outer iteration removes its effect.
    for _ in range(6):
        try:
            factor = linalg.cho_factor(gram + ridge * np.eye(len(gram)), check_finite=False)
        except linalg.LinAlgError:
            ridge *= 100
            continue
        direction[free] = linalg.cho_solve(factor, -gradient[free], check_finite=False)
        return direction
    direction[free] = -gradient[free] / max(float(np.trace(gram)), np.finfo(float).tiny)
    return direction


def _conjugate_gradients(part: sparse.csr_array, weight: Array, rhs: Array) -> Array:
    n = part.shape[1]
    diagonal = np.asarray(part.multiply(part).T @ weight)
    ridge = 1e-12 * float(diagonal.mean()) + np.finfo(float).tiny
    gram = LinearOperator((n, n), matvec=lambda v: part.T @ (weight * (part @ v)) + ridge * v, dtype=np.float64)
    jacobi = LinearOperator((n, n), matvec=lambda v: v / (diagonal + ridge), dtype=np.float64)
    solution, _ = cg(gram, rhs, rtol=1e-10, maxiter=1000, M=jacobi)
    return np.asarray(solution)
