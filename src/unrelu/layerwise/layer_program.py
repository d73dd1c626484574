"""The linear programs behind the layer methods: the smallest violation and the relaxation (8), each with its proof.

A dense layer goes to the exchange kernel. Where its answer does not pass the proof, it is asked once more from there,
and then HiGHS is, with the program in dual form; sparse and very wide layers go to HiGHS at once. An answer says who
gave it and is optimal only if its multipliers prove it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import lsmr

from unrelu.errors import OptionError, SolverError
from unrelu.layerwise import exchange_kernel
from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.layerwise.optimality import DUAL, OptimalityProof, prove, prove_response
from unrelu.lp.highs import LinearProgram, LpSolution, solve
from unrelu.lp.lp_status import LpStatus

Array = npt.NDArray[np.float64]

# A multiplier this share of its interval away from the ends is inside. W^T y up to this share of |W|^T |y| is meant to
# be zero, and settling leaves this much of it.
_INSIDE, _SMALL, _LEFT = 1e-9, 1e-6, 1e-8
# Shifted and rescaled solves of one program at most.
_ROUNDS = 4
# The scale on which a program is solved is at least this share of its largest side.
_SMALLEST_STEP = 1e-9
# An eps this share above the smallest feasible one has a feasible set that is rounding.
_FEASIBLE = 1e-6
# Wider layers go to HiGHS: the kernel keeps a k x k inverse and changes all of it in every pivot.
WIDEST = 2000
# From this width on, the interior point is the faster of HiGHS's solvers.
_WIDE_FOR_SIMPLEX = 1000
_NORMS = ("linf", "l1")


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


def row_multipliers(rows: Rows, norm: str, x: Array) -> Array:
    """One signed multiplier a row from the columns of :func:`dual_program`."""
    up, down = np.isfinite(rows.high), np.isfinite(rows.low)
    y = np.zeros(len(rows.high))
    if norm == "l1":
        some = up | down
        y[some] = x[: int(some.sum())]
    else:
        n_up = int(up.sum())
        y[up] = x[:n_up]
        y[down] -= x[n_up : n_up + int(down.sum())]
    return y


def settled(system: LayerSystem, rows: Rows, norm: str, y: Array) -> Array:
    """Multipliers with W^T y nearer zero in the coordinates of h where it is small.

    HiGHS leaves about 1e-11 of what no bound holds. The multipliers inside their box take that up, by the smallest
    change that does.
    """
    if norm == "l1":
        lower, upper = rows.box
        inside = np.minimum(y - lower, upper - y) > _INSIDE * (upper - lower)
    else:
        inside = np.abs(y) > _INSIDE * np.abs(y).max(initial=0.0)
    t = np.asarray(system.matrix.T @ y)
    small = np.abs(t) <= _SMALL * np.asarray(system.absolute.T @ np.abs(y))
    y = y.copy()
    if inside.any() and small.any():
        part = system.matrix[inside][:, small].T
        y[inside] -= lsmr(part, t[small], atol=_LEFT, btol=_LEFT, maxiter=2 * system.n_in)[0]
    return y


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
    if isinstance(system.matrix, np.ndarray):
        k, m = system.n_in, len(index)
        data = (system.matrix[index] * sign[:, None]).ravel()
        return sparse.csc_array((data, np.tile(np.arange(k), m), np.arange(m + 1) * k), shape=(k, m))
    whole = np.array_equal(index, np.arange(system.n_out))
    columns = system.transposed.copy() if whole else system.transposed[:, index]
    columns.data *= np.repeat(sign, np.diff(columns.indptr))
    return columns


@dataclass(frozen=True, eq=False)
class Answer:
    """A minimiser h with what proves it.

    Attributes:
        h: (k,).
        objective: at h, recomputed.
        bound: a lower bound on the minimum (an upper one on a maximum), from the multipliers.
        status: OPTIMAL only where the proof holds.
        pivots: simplex pivots of all attempts.
        multipliers: one a row, (n,): signed for a violation, of the sides for the relaxation.
        engine: "exchange", "highs" or "least squares" (nothing was left to do).
        fallback: whether an attempt before the one that gave h failed its proof.
        found: what to start similar rows from.
    """

    h: Array
    objective: float
    bound: float
    status: LpStatus
    pivots: int
    multipliers: Array = field(default_factory=lambda: np.zeros(0))
    engine: str = "highs"
    fallback: bool = False
    found: exchange_kernel.Found | None = field(default=None, repr=False)


def check_norm(norm: str) -> None:
    """Refuse a norm that is not "linf" or "l1".

    Raises:
        OptionError: there is no such norm.
    """
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
        warm_start: the answer for similar rows (the last threshold), to start from its basis.

    Raises:
        OptionError: there is no such norm.
        SolverError: HiGHS refuses the program, and there is no other point.
    """
    check_norm(norm)
    end = time.perf_counter() + time_limit
    start, best, pivots, attempts = warm_start.found if warm_start else None, None, 0, 0
    while takes_kernel(system) and attempts < 2:
        found = exchange_kernel.least_violation(system, rows, norm, end, start)
        pivots, attempts = pivots + found.pivots, attempts + 1
        proof = prove(system, rows, norm, found.h, found.multipliers)
        answer = _answer(found.h, found.multipliers, proof, "exchange", pivots, attempts > 1)
        # Written so that NaN is never the best.
        best = (
            answer if math.isfinite(answer.objective) and (best is None or answer.objective < best.objective) else best
        )
        if proof.holds or found.timed_out:
            status = LpStatus.OPTIMAL if proof.holds else LpStatus.LIMIT
            return replace(answer if proof.holds else best or answer, status=status, found=found)
        # Once more from scratch, around the best point so far.
        start = exchange_kernel.Found(best.h, found.multipliers, None, 0, False) if best else None
    try:
        answer = _by_highs(system, rows, norm, best.h if best else None, end)
    except SolverError:
        if best is None:
            raise
        answer = replace(best, status=LpStatus.FAILED, pivots=0)
    if best is not None and best.objective < answer.objective:
        answer = replace(answer, h=best.h, objective=best.objective)
    return replace(answer, pivots=answer.pivots + pivots, fallback=attempts > 0)


def _answer(h: Array, y: Array, proof: OptimalityProof, engine: str, pivots: int, fallback: bool = False) -> Answer:
    status = LpStatus.OPTIMAL if proof.holds else LpStatus.FAILED
    bound = proof.bound if proof.dual_holds else 0.0
    return Answer(h, proof.objective, max(0.0, bound), status, pivots, y, engine, fallback)


def _by_highs(system: LayerSystem, rows: Rows, norm: str, start: Array | None, end: float) -> Answer:
    """Solve for w in h = h0 + sigma w, sigma the size of the errors at h0: HiGHS stops at absolute errors of 1e-7.

    The shift is repeated from the solution until the proof holds.
    """
    unit, size = system.unit
    pivots = 0
    if start is None:
        h, _, pivots = one_sided_least_squares(unit, rows, end)
    else:
        h = start * size
    y = np.zeros(system.n_out)
    best = _answer(h / size, y, prove(system, rows, norm, system.inside(h / size), y), "least squares", pivots)
    for _ in range(_ROUNDS):
        errors = rows.violation(unit.matrix @ h)
        sigma = float(errors.max() if norm == "linf" else errors.mean())
        # In these units the errors may be none, where in those of W they are rounding.
        if best.status is LpStatus.OPTIMAL or not sigma > np.finfo(float).tiny:
            break
        solution = _highs(dual_program(unit, rows, norm, h, sigma), end)
        pivots += solution.iterations
        if solution.status is not LpStatus.OPTIMAL:
            return replace(best, status=solution.status, pivots=pivots)
        h = unit.inside(h + sigma * solution.row_dual[: unit.n_in])
        y = row_multipliers(rows, norm, solution.x)
        found = system.inside(h / size)
        proof = prove(system, rows, norm, found, y)
        if not proof.dual_holds:
            y = settled(unit, rows, norm, y)
            proof = prove(system, rows, norm, found, y)
        answer = _answer(found, y, proof, "highs", pivots)
        if answer.status is not LpStatus.OPTIMAL and not answer.objective < best.objective:
            return replace(best, bound=max(best.bound, answer.bound), pivots=pivots)
        best = answer
    return best


def _highs(program: LinearProgram, end: float) -> LpSolution:
    """Solve by the faster of HiGHS's solvers, and by the other where that breaks down."""
    wide = program.matrix.shape[0] > _WIDE_FOR_SIMPLEX
    solution = solve(program, end - time.perf_counter(), "ipm" if wide else "simplex")
    if wide and solution.status is LpStatus.FAILED:
        solution = solve(program, end - time.perf_counter())
    return solution


def largest_response(
    system: LayerSystem, rows: Rows, time_limit: float = math.inf, warm_start: Answer | None = None
) -> Answer:
    r"""The relaxation (8): max over h of c.(W h) subject to W h <= high + p eps, with weights c_j = |x_j| / p_j.

    Where no h satisfies the sides, the status is INFEASIBLE and the objective the smallest eps for which one does.

    For a ReLU layer c_j = max(0, x_j) and the side is x_j + eps, as in the paper. The weight of a row whose output
    moves by 1/p_j per unit of u_j is divided by p_j, so that it counts in units of the output. ``warm_start`` is as for
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
    if not takes_kernel(system):
        return _response_by_highs(system, rows, weight, side, scale, None, end)
    usable = warm_start.found if warm_start and warm_start.status is LpStatus.OPTIMAL else None
    found = exchange_kernel.largest_response(system, rows, weight, side, scale, usable, end)
    proof = prove_response(system, weight, side, scale, found.h, found.multipliers)
    answer = Answer(
        found.h,
        proof.objective,
        proof.bound,
        LpStatus.OPTIMAL,
        found.pivots,
        found.multipliers,
        "exchange",
        found=found,
    )
    if found.timed_out:
        return replace(answer, bound=math.inf, status=LpStatus.LIMIT)
    if found.optimal and proof.holds:
        return answer
    closest = _closest(system, rows, end)
    if closest.status is LpStatus.INFEASIBLE:
        return replace(closest, pivots=closest.pivots + found.pivots)
    h = found.h if np.isfinite(found.h).all() else None
    answer = _response_by_highs(system, rows, weight, side, scale, h, end)
    return replace(answer, pivots=answer.pivots + found.pivots, fallback=True)


def _closest(system: LayerSystem, rows: Rows, end: float) -> Answer:
    """The smallest eps with a feasible point: INFEASIBLE if its lower bound proves that this is above the rows' eps."""
    upper_sides = replace(rows, low=np.full_like(rows.low, -np.inf))
    closest = least_violation(system, upper_sides, "linf", end - time.perf_counter())
    status = LpStatus.LIMIT if closest.status is LpStatus.LIMIT else LpStatus.FAILED
    if closest.bound > (1 - _FEASIBLE) * rows.threshold:
        status = LpStatus.INFEASIBLE
    return replace(closest, bound=math.inf, status=status, found=None)


def _response_by_highs(
    system: LayerSystem, rows: Rows, weight: Array, side: Array, scale: float, start: Array | None, end: float
) -> Answer:
    unit, size = system.unit
    # Dividing the weights by their size leaves the maximiser alone and keeps the program in the solver's range.
    largest = max(float(weight.max(initial=0.0)), np.finfo(float).tiny)
    pivots, status, multipliers = 0, LpStatus.FAILED, np.zeros(system.n_out)
    if start is None:
        h, _, pivots = one_sided_least_squares(unit, rows, end)
    else:
        h = start * size
    for _ in range(_ROUNDS):
        # Solved around h on the scale of eps, or of the infeasibility of h.
        sigma = max(scale, float((unit.matrix @ h - side).max()))
        solution = _highs(response_program(unit, side, weight / largest, h, sigma), end)
        pivots += solution.iterations
        if solution.status is LpStatus.UNBOUNDED:
            # The program is the dual: it is unbounded exactly where the relaxation has no feasible point.
            closest = _closest(system, rows, end)
            return replace(closest, pivots=pivots + closest.pivots)
        status = solution.status
        if status is not LpStatus.OPTIMAL:
            break
        h = unit.inside(h + sigma * solution.row_dual[: unit.n_in])
        multipliers[np.isfinite(side)] = largest * solution.x[: int(np.isfinite(side).sum())]
        if prove_response(system, weight, side, scale, system.inside(h / size), multipliers).holds:
            break
    proof = prove_response(system, weight, side, scale, system.inside(h / size), multipliers)
    if status is LpStatus.OPTIMAL and not proof.holds:
        status = LpStatus.FAILED
    bound = proof.bound if proof.dual <= DUAL else math.inf
    return Answer(system.inside(h / size), proof.objective, bound, status, pivots, multipliers)
