"""The linear programs behind the layer methods: the smallest violation and the relaxation (8), each with its proof.

A dense layer goes to the exchange kernel. Where its answer does not pass the proof, it is asked once more from there,
and then HiGHS is; sparse and very wide layers go to HiGHS at once. An answer says who gave it and is optimal only if
its multipliers prove it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from unrelu.errors import OptionError, SolverError
from unrelu.layer import kernel
from unrelu.layer.dual import dual_program, response_program, row_multipliers, settled
from unrelu.layer.highs import LinearProgram, LpSolution, LpStatus, solve
from unrelu.layer.proof import DUAL, Proof, prove, prove_response
from unrelu.layer.rows import LayerSystem, Rows
from unrelu.layer.squares import one_sided_least_squares

__all__ = ["Answer", "check_norm", "largest_response", "least_violation"]

Array = npt.NDArray[np.float64]

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
    found: kernel.Found | None = field(default=None, repr=False)


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
    system: LayerSystem, rows: Rows, norm: str, time_limit: float = math.inf, near: Answer | None = None
) -> Answer:
    """min over lower <= h <= upper of max_j e_j(h) (norm "linf") or sum_j e_j(h) (norm "l1").

    Args:
        system: the layer.
        rows: what is asked of its input.
        norm: "linf" or "l1".
        time_limit: in seconds.
        near: the answer for similar rows (the last threshold), to start from its basis.

    Raises:
        OptionError: there is no such norm.
        SolverError: HiGHS refuses the program, and there is no other point.
    """
    check_norm(norm)
    end = time.perf_counter() + time_limit
    start, best, pivots, attempts = near.found if near else None, None, 0, 0
    while takes_kernel(system) and attempts < 2:
        found = kernel.least_violation(system, rows, norm, end, start)
        pivots, attempts = pivots + found.pivots, attempts + 1
        proof = prove(system, rows, norm, found.h, found.multipliers)
        answer = _answer(found.h, found.multipliers, proof, "exchange", pivots, attempts > 1)
        # Written so that NaN is never the best.
        best = (
            answer if math.isfinite(answer.objective) and (best is None or answer.objective < best.objective) else best
        )
        if proof.holds or found.late:
            status = LpStatus.OPTIMAL if proof.holds else LpStatus.LIMIT
            return replace(answer if proof.holds else best or answer, status=status, found=found)
        # Once more from scratch, around the best point so far.
        start = kernel.Found(best.h, found.multipliers, None, 0, False) if best else None
    try:
        answer = _by_highs(system, rows, norm, best.h if best else None, end)
    except SolverError:
        if best is None:
            raise
        answer = replace(best, status=LpStatus.FAILED, pivots=0)
    if best is not None and best.objective < answer.objective:
        answer = replace(answer, h=best.h, objective=best.objective)
    return replace(answer, pivots=answer.pivots + pivots, fallback=attempts > 0)


def _answer(h: Array, y: Array, proof: Proof, engine: str, pivots: int, fallback: bool = False) -> Answer:
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
    system: LayerSystem, rows: Rows, time_limit: float = math.inf, near: Answer | None = None
) -> Answer:
    r"""The relaxation (8): max over h of c.(W h) subject to W h <= high + p eps, with weights c_j = |x_j| / p_j.

    Where no h satisfies the sides, the status is INFEASIBLE and the objective the smallest eps for which one does.

    For a ReLU layer c_j = max(0, x_j) and the side is x_j + eps, as in the paper. The weight of a row whose output
    moves by 1/p_j per unit of u_j is divided by p_j, so that it counts in units of the output. ``near`` is as for
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
    usable = near.found if near and near.status is LpStatus.OPTIMAL else None
    found = kernel.largest_response(system, rows, weight, side, scale, usable, end)
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
    if found.late:
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
