"""The interface to HiGHS; no other module imports highspy.

HiGHS reports ``Optimal`` for a NaN cost and clips numbers that it cannot represent. So this module checks shapes,
finiteness and every return code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from scipy import sparse

from unrelu.errors import SolverError
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Integers

Option = bool | int | float | str
Basis = highspy.HighsBasis

# By name, as not every release of HiGHS has every status. All others are breakdowns.
_STATUS: dict[str, LpStatus] = {
    "kOptimal": LpStatus.OPTIMAL,
    "kModelEmpty": LpStatus.OPTIMAL,
    "kInfeasible": LpStatus.INFEASIBLE,
    "kUnbounded": LpStatus.UNBOUNDED,
    "kTimeLimit": LpStatus.LIMIT,
    "kObjectiveBound": LpStatus.CUTOFF,
}
# The smallest tolerance that HiGHS takes. On layer programs it is as fast as the default of 1e-7, and its answers are
# easier to prove.
_TOLERANCE = 1e-10
# Options for programs that are solved again and again: Devex weights and no scaling, because steepest-edge weights are
# computed anew for each basis that is set, which takes longer than the few pivots after it. Node programs of `unrelu
# benchmark certify` take .6 of the time of the defaults. Their multipliers are rounded and recomputed, so tighter
# tolerances take more pivots and prove no more.
LIVE: dict[str, Option] = {
    "simplex_dual_edge_weight_strategy": 1,
    "simplex_scale_strategy": 0,
    **dict.fromkeys(("primal_feasibility_tolerance", "dual_feasibility_tolerance"), 1e-9),
}
# HiGHS gets this fraction of the time, since it reads the clock only now and then.
_EARLY = 0.9


@dataclass(frozen=True, eq=False)
class LinearProgram:
    """min cost.x subject to row_lower <= A x <= row_upper and col_lower <= x <= col_upper.

    ``matrix`` is A in CSC format; sides may be infinite.
    """

    cost: Array
    matrix: sparse.csc_array
    row_lower: Array
    row_upper: Array
    col_lower: Array
    col_upper: Array

    def check(self) -> None:
        """Raise SolverError if a shape is wrong, a cost or coefficient is not finite, or a side is NaN."""
        m, n = self.matrix.shape
        for name, size in (("cost", n), ("col_lower", n), ("col_upper", n), ("row_lower", m), ("row_upper", m)):
            value = getattr(self, name)
            if value.shape != (size,):
                raise SolverError(f"{name} has shape {value.shape}, a matrix of shape {(m, n)} needs ({size},)")
            if np.isnan(value).any():
                raise SolverError(f"{name} has {int(np.isnan(value).sum())} NaN entries")
        for name, value in (("cost", self.cost), ("matrix", self.matrix.data)):
            if not np.isfinite(value).all():
                raise SolverError(f"{name} has {int((~np.isfinite(value)).sum())} entries that are not finite")


@dataclass(frozen=True, eq=False)
class LpSolution:
    """What HiGHS reached on a linear program; nothing here is proved.

    Attributes:
        status: how it ended; INFEASIBLE only with a ray.
        x: the point, (N,).
        row_dual: multipliers of the rows, (M,): derivatives of the optimal objective with respect to the active sides.
            If the program is infeasible, a ray: y with y A = 0 on all free unknowns.
        iterations: number of simplex iterations.
        basis: for a warm start.
    """

    status: LpStatus
    x: Array
    row_dual: Array
    iterations: int
    basis: Basis


def solve(program: LinearProgram, time_limit: float = math.inf, method: str = "simplex") -> LpSolution:
    """Solve once, in at most ``time_limit`` seconds, by "simplex" (dual) or "ipm" (interior point, then crossover).

    On the duals of layer programs, which have few rows and many columns, the dual simplex is the fastest solver of
    HiGHS up to about a thousand rows, the interior point above (compared in studies/notes/layer_programs.md).

    Raises:
        SolverError: the program is malformed, or HiGHS rejects it.
    """
    return LiveProgram(program, {"solver": method}).solve(time_limit=time_limit)


def accepted(code: highspy.HighsStatus, what: str) -> None:
    """Raise SolverError if HiGHS returned an error."""
    if code == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS rejected {what}")


class _Silent(highspy.Highs):
    """HiGHS without the Python callbacks of its wrapper: registering them prints a banner that no option stops."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()


class LiveProgram:
    """A linear program that HiGHS keeps, solved under other sides and costs from the basis of an earlier solution.

    It is solved on one thread and without presolve, unless the options say otherwise.

    Args:
        program: the linear program; it is checked first.
        options: of HiGHS.

    Raises:
        SolverError: the program is malformed, or HiGHS rejects it or an option; all methods raise it, too.
    """

    def __init__(self, program: LinearProgram, options: Mapping[str, Option]) -> None:
        program.check()
        self.solver: Any = _Silent()
        tolerances = dict.fromkeys(("primal_feasibility_tolerance", "dual_feasibility_tolerance"), _TOLERANCE)
        fixed: dict[str, Option] = {"output_flag": False, "threads": 1, "presolve": "off", "solver": "simplex"}
        self.set_options(fixed | tolerances | dict(options))
        model = highspy.HighsLp()
        model.num_row_, model.num_col_ = program.matrix.shape
        model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.col_lower, program.col_upper
        model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
        model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        model.a_matrix_.start_ = program.matrix.indptr
        model.a_matrix_.index_ = program.matrix.indices
        model.a_matrix_.value_ = program.matrix.data
        accepted(self.solver.passModel(model), "the model")

    def set_options(self, options: Mapping[str, Option]) -> None:
        """Set options of HiGHS."""
        for name, value in options.items():
            accepted(self.solver.setOptionValue(name, value), f"option {name}={value!r}")

    def change_sides(self, rows: Integers, lower: Array, upper: Array) -> None:
        """Replace the sides of some rows."""
        accepted(self.solver.changeRowsBounds(len(rows), rows.astype(np.int32), lower, upper), "the sides")

    def change_bounds(self, column: int, lower: float, upper: float) -> None:
        """Replace the bounds of one unknown."""
        accepted(self.solver.changeColBounds(column, lower, upper), "the bounds")

    def change_costs(self, cost: Array) -> None:
        """Replace the objective, (N,)."""
        accepted(self.solver.changeColsCost(len(cost), np.arange(len(cost), dtype=np.int32), cost), "the costs")

    def add_rows(self, matrix: Array, lower: Array, upper: Array) -> None:
        """Append rows, (., N)."""
        rows = sparse.csr_array(matrix)
        starts, columns = rows.indptr[:-1].astype(np.int32), rows.indices.astype(np.int32)
        accepted(self.solver.addRows(len(lower), lower, upper, rows.nnz, starts, columns, rows.data), "the rows")

    def solve(
        self, start: Basis | None = None, cutoff: float = math.inf, time_limit: float = math.inf,
        primal: bool = False,
    ) -> LpSolution:  # fmt: skip
        """Minimise from a basis of this program, which may have fewer rows; without one, from the last basis.

        The dual simplex ends at a ``cutoff`` of the objective. After a change of costs, the ``primal`` one is quicker.
        """
        solver = self.solver
        end = solver.getRunTime() + _EARLY * max(0.0, time_limit)
        self.set_options({"objective_bound": cutoff, "simplex_strategy": 4 if primal else 1, "time_limit": end})
        if start is not None:
            missing = solver.getNumRow() - len(start.row_status)
            if missing:
                start.row_status = [*start.row_status, *[highspy.HighsBasisStatus.kBasic] * missing]
            accepted(solver.setBasis(start), "the basis")
        solver.run()
        status, solution = self.status, solver.getSolution()
        x, dual = np.array(solution.col_value), np.array(solution.row_dual)
        if status is LpStatus.INFEASIBLE:
            _, known, dual = solver.getDualRay()
            status = status if known else LpStatus.FAILED
        if status is LpStatus.OPTIMAL and not (np.isfinite(x).all() and np.isfinite(dual).all()):
            status = LpStatus.FAILED
        if status is LpStatus.OPTIMAL and solver.getObjectiveValue() >= cutoff:
            status = LpStatus.CUTOFF
        basis, iterations = solver.getBasis(), max(0, solver.getInfo().simplex_iteration_count)
        if status is LpStatus.FAILED:
            solver.clearSolver()
        return LpSolution(status, x, np.asarray(dual), iterations, basis)

    @property
    def status(self) -> LpStatus:
        """How HiGHS ended."""
        return _STATUS.get(self.solver.getModelStatus().name, LpStatus.FAILED)
