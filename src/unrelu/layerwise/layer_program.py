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
from unrelu.layerwise.optimality import OptimalityProof, prove, prove_response
from unrelu.lp.highs import LinearProgram, LpSolution, solve
from unrelu.lp.lp_status import LpStatus

Array = npt.NDArray[np.float64]

# A multiplier is inside its interval where it is this far from the ends, relative to its length. W^T y up to so much of
# |W|^T |y| is meant to be zero, and so much of it is left.
_INSIDE, _SMALL, _LEFT = 1e-9, 1e-6, 1e-8
# Shifted and rescaled solves of one program at most.
_ROUNDS = 4
# The scale on which a program is solved, relative to its largest side, at least.
_SMALLEST_STEP = 1e-9
# An eps that is so little above the smallest feasible one, relative to it, has a feasible set that is rounding.
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
    return _assemble(system, h0, sigma, index, sign, cost, col_lower, col_upper, np.zeros(system.n_in), weights)


def _row_multipliers(rows: Rows, norm: str, x: Array) -> Array:
    """One signed multiplier a row from the columns of :func:`dual_program`."""
    up, down = np.isfinite(rows.high), np.isfinite(rows.low)
    y, n_up = np.zeros(len(up)), int(up.sum())
    if norm == "l1":
        y[up | down] = x[: int((up | down).sum())]
    else:
        y[up] = x[:n_up]
        y[down] -= x[n_up : n_up + int(down.sum())]
    return y


def _refined(system: LayerSystem, rows: Rows, norm: str, y: Array) -> Array:
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


def _response_program(system: LayerSystem, side: Array, weight: Array, h0: Array, sigma: float) -> LinearProgram:
    r"""The dual of max weight.(W h) s.t. W h <= side after the change of variables h = h0 + sigma w:

    .. math:: \min\; side'^T \lambda + (\text{bounds})^T \nu \quad W^T \lambda + \nu = W^T weight, \; \lambda \ge 0
    """
    index = np.flatnonzero(np.isfinite(side))
    cost = ((side - np.asarray(system.matrix @ h0)) / sigma)[index]
    box = np.zeros(len(index)), np.full(len(index), np.inf)
    pull = np.asarray(system.matrix.T @ weight)
    return _assemble(system, h0, sigma, index, np.ones(len(index)), cost, *box, pull)


def _assemble(
    system: LayerSystem,
    h0: Array,
    sigma: float,
    index: npt.NDArray[np.intp],
    sign: Array,
    cost: Array,
    col_lower: Array,
    col_upper: Array,
    equals: Array,
    weights: Array | None = None,
) -> LinearProgram:
    """min cost.lambda s.t. W[index]^T (sign lambda) + bound multipliers = equals (, weights.lambda <= 1)."""
    lower, upper = (system.lower - h0) / sigma, (system.upper - h0) / sigma
    below, above = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
    none, unit = np.zeros(len(below) + len(above)), sparse.eye_array(system.n_in, format="csc")
    columns = sparse.csr_array(system.matrix[index] * sign[:, None]).T
    matrix = sparse.hstack([columns, -unit[:, below], unit[:, above]], format="csc")
    row_lower, row_upper = equals, equals
    if weights is not None:
        last = sparse.csc_array(np.concatenate([weights, none])[None, :])
        matrix = sparse.vstack([matrix, last], format="csc")
        row_lower, row_upper = np.append(equals, -np.inf), np.append(equals, 1.0)
    return LinearProgram(
        cost=np.concatenate([cost, -lower[below], upper[above]]),
        matrix=matrix,
        row_lower=row_lower,
        row_upper=row_upper,
        col_lower=np.concatenate([col_lower, none]),
        col_upper=np.concatenate([col_upper, none + np.inf]),
    )


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
        basis: of the exchange kernel, to start similar rows from.
    """

    h: Array
    objective: float
    bound: float
    status: LpStatus
    pivots: int
    multipliers: Array = field(default_factory=lambda: np.zeros(0))
    engine: str = "highs"
    fallback: bool = False
    basis: exchange_kernel.Basis | None = field(default=None, repr=False)


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
        warm_start: the answer for similar rows (the last threshold), to start from its basis.

    Raises:
        OptionError: there is no such norm.
        SolverError: HiGHS refuses the program, and there is no other point.
    """
    check_norm(norm)
    end = time.perf_counter() + time_limit
    best, start, basis, pivots, attempts = None, None, None, 0, 0
    if warm_start is not None:
        start, basis = warm_start.h, warm_start.basis
    while takes_kernel(system) and attempts < 2:
        found = exchange_kernel.least_violation(system, rows, norm, end, start, basis)
        pivots, attempts = pivots + found.pivots, attempts + 1
        proof = prove(system, rows, norm, found.h, found.multipliers)
        answer = _answer(found.h, found.multipliers, proof, "exchange", pivots, attempts > 1)
        # Written so that NaN is never the best.
        if math.isfinite(answer.objective) and (best is None or answer.objective < best.objective):
            best = answer
        if proof.holds:
            return replace(answer, basis=found.basis)
        if found.timed_out:
            return replace(best or answer, status=LpStatus.LIMIT, basis=found.basis)
        # Once more without a basis, around the best point so far.
        start, basis = best.h if best else None, None
    try:
        answer = _by_highs(system, rows, norm, best.h if best else None, end)
    except SolverError:
        if best is None:
            raise
        answer = replace(best, status=LpStatus.FAILED, pivots=0)
    if best is not None and best.objective < answer.objective:
        answer = replace(answer, h=best.h, objective=best.objective)
    return replace(answer, pivots=answer.pivots + pivots, fallback=attempts > 0)


def largest_beside(system: LayerSystem, rows: Rows, level: float, start: Array, time_limit: float = math.inf) -> Answer:
    """Whether the least max_j e_j(h) is at most ``level``: an answer with objective <= level or bound > level.

    It takes a fraction of the time of the minimum, unless that is next to the level: then it is the minimum.

    Args:
        system, rows, time_limit: as of :func:`least_violation`.
        level: at least 0, in units of the output.
        start: h, near the minimum.
    """
    end = time.perf_counter() + time_limit
    found = None
    if takes_kernel(system):
        h, y = exchange_kernel.largest_beside(system, rows, level, start, end)
        proof = prove(system, rows, "linf", h, _of_sum_one(rows, y))
        found = _answer(h, y, proof, "exchange", 0)
        if found.objective <= level or found.bound > level:
            return found
    return least_violation(system, rows, "linf", end - time.perf_counter(), found)


def _of_sum_one(rows: Rows, y: Array) -> Array:
    """Multipliers times what makes sum p y+ + q y- one: the bound that they prove grows with them."""
    up, down = rows.slopes
    total = float(np.maximum(up * y, -down * y).sum())
    return y / total if total > 0 else y


def _answer(h: Array, y: Array, proof: OptimalityProof, engine: str, pivots: int, fallback: bool = False) -> Answer:
    status = LpStatus.OPTIMAL if proof.holds else LpStatus.FAILED
    bound = max(0.0, proof.bound) if proof.dual_holds else 0.0
    return Answer(h, proof.objective, bound, status, pivots, y, engine, fallback)


def _by_highs(system: LayerSystem, rows: Rows, norm: str, start: Array | None, end: float) -> Answer:
    """Solve for w in h = h0 + sigma w, sigma the size of the errors at h0: HiGHS stops at absolute errors of 1e-7.

    The shift is repeated from the solution until the proof holds.
    """
    unit, size = system.unit
    h, pivots = _start_by_highs(unit, size, rows, start, end)
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
        y = _row_multipliers(rows, norm, solution.x)
        found = system.inside(h / size)
        proof = prove(system, rows, norm, found, y)
        if not proof.dual_holds:
            y = _refined(unit, rows, norm, y)
            proof = prove(system, rows, norm, found, y)
        answer = _answer(found, y, proof, "highs", pivots)
        if answer.status is not LpStatus.OPTIMAL and not answer.objective < best.objective:
            return replace(best, bound=max(best.bound, answer.bound), pivots=pivots)
        best = answer
    return best


def _start_by_highs(unit: LayerSystem, size: Array, rows: Rows, start: Array | None, end: float) -> tuple[Array, int]:
    """The point that HiGHS solves around, in the units of ``unit``, and the Newton steps that it took."""
    if start is not None:
        return start * size, 0
    h, _, steps = one_sided_least_squares(unit, rows, end)
    return h, steps


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
    warm = (warm_start.h, warm_start.basis) if warm_start and warm_start.status is LpStatus.OPTIMAL else (None, None)
    found = exchange_kernel.largest_response(system, rows, weight, side, scale, end, *warm)
    proof, y = prove_response(system, weight, side, scale, found.h, found.multipliers), found.multipliers
    answer = Answer(found.h, proof.objective, proof.bound, LpStatus.OPTIMAL, found.pivots, y, "exchange")
    if found.timed_out:
        return replace(answer, bound=math.inf, status=LpStatus.LIMIT)
    if found.optimal and proof.holds:
        return replace(answer, basis=found.basis)
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
    return replace(closest, bound=math.inf, status=status, basis=None)


def _response_by_highs(
    system: LayerSystem, rows: Rows, weight: Array, side: Array, scale: float, start: Array | None, end: float
) -> Answer:
    unit, size = system.unit
    # Dividing the weights by their size leaves the maximiser alone and keeps the program in the solver's range.
    largest = max(float(weight.max(initial=0.0)), np.finfo(float).tiny)
    h, pivots = _start_by_highs(unit, size, rows, start, end)
    status, multipliers = LpStatus.FAILED, np.zeros(system.n_out)
    for _ in range(_ROUNDS):
        # Solved around h on the scale of eps, or of the infeasibility of h.
        sigma = max(scale, float((unit.matrix @ h - side).max()))
        solution = _highs(_response_program(unit, side, weight / largest, h, sigma), end)
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
    h = system.inside(h / size)
    proof = prove_response(system, weight, side, scale, h, multipliers)
    if status is LpStatus.OPTIMAL and not proof.holds:
        status = LpStatus.FAILED
    return Answer(h, proof.objective, proof.bound if proof.dual_holds else math.inf, status, pivots, multipliers)
