"""The interface to HiGHS; no other module imports highspy.

HiGHS reports ``Optimal`` for a NaN cost and clips numbers that it cannot represent. So this module checks shapes,
finiteness and every return code, and maps every model status in one table.
"""

from __future__ import annotations

import math
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

# The keys are names, as not every release of HiGHS has every status.
STATUS: dict[str, LpStatus] = {
    "kOptimal": LpStatus.OPTIMAL,
    "kModelEmpty": LpStatus.OPTIMAL,
    "kInfeasible": LpStatus.INFEASIBLE,
    "kUnbounded": LpStatus.UNBOUNDED,
    # Linear programs are solved without presolve, so this ambiguous status means a breakdown. For programs with
    # integers, it is of no use.
    "kUnboundedOrInfeasible": LpStatus.FAILED,
    "kTimeLimit": LpStatus.LIMIT,
    "kIterationLimit": LpStatus.LIMIT,
    "kSolutionLimit": LpStatus.LIMIT,
    "kInterrupt": LpStatus.LIMIT,
    "kHighsInterrupt": LpStatus.LIMIT,
    "kObjectiveBound": LpStatus.LIMIT,
    "kObjectiveTarget": LpStatus.LIMIT,
    "kMemoryLimit": LpStatus.FAILED,
    "kUnknown": LpStatus.FAILED,
    "kNotset": LpStatus.FAILED,
    "kLoadError": LpStatus.FAILED,
    "kModelError": LpStatus.FAILED,
    "kPresolveError": LpStatus.FAILED,
    "kSolveError": LpStatus.FAILED,
    "kPostsolveError": LpStatus.FAILED,
}
# The smallest tolerance that HiGHS takes. On these programs it is as fast as the default of 1e-7, and its answers are
# easier to prove.
_TOLERANCE = 1e-10
# Devex weights, and no scaling: steepest-edge weights are computed anew for each basis that is set, which takes longer
# than the few pivots after it. Node programs of `unrelu benchmark certify` take .6 of the time of the defaults.
_LIVE_OPTIONS: dict[str, Option] = {"simplex_dual_edge_weight_strategy": 1, "simplex_scale_strategy": 0}
# That of programs whose multipliers are rounded and recomputed: tighter ones take more pivots and prove no more.
_LIVE_TOLERANCE = 1e-9
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
    """The solution of HiGHS; ``x`` and ``row_dual`` are valid only if ``status`` is OPTIMAL.

    ``row_dual[i]`` is the derivative of the optimal objective with respect to the active side of row i.
    """

    status: LpStatus
    x: Array
    row_dual: Array
    objective: float
    iterations: int


def solve(program: LinearProgram, time_limit: float = math.inf, method: str = "simplex") -> LpSolution:
    """Solve on one thread, without presolve.

    The layer programs are passed in dual form, with few rows and many columns. Of HiGHS's solvers, the dual simplex is
    the fastest up to about a thousand rows, the interior point above (compared in docs/notes/layer_programs.md).

    Args:
        program: the linear program; it is checked first.
        time_limit: in seconds.
        method: "simplex" (dual) or "ipm" (interior point, then crossover to a vertex).

    Raises:
        SolverError: the program is malformed, or HiGHS rejects it.
    """
    options: dict[str, Option] = {
        "solver": method,
        "presolve": "off",
        "simplex_strategy": 1,
        "primal_feasibility_tolerance": _TOLERANCE,
        "dual_feasibility_tolerance": _TOLERANCE,
    }
    if math.isfinite(time_limit):
        options["time_limit"] = max(0.0, _EARLY * time_limit)
    solver = solved(model_of(program), options)
    status = STATUS[solver.getModelStatus().name]
    solution, info = solver.getSolution(), solver.getInfo()
    x, row_dual = np.array(solution.col_value), np.array(solution.row_dual)
    if status is LpStatus.OPTIMAL and not (np.isfinite(x).all() and np.isfinite(row_dual).all()):
        status = LpStatus.FAILED
    return LpSolution(status, x, row_dual, info.objective_function_value, max(0, info.simplex_iteration_count))


def solved(model: highspy.HighsLp, options: dict[str, Option]) -> highspy.Highs:
    """Solve a model on one thread, and return HiGHS; raise SolverError if it rejects the model or an option."""
    solver = _Silent()
    for name, value in {"output_flag": False, "threads": 1, **options}.items():
        _expect_ok(solver.setOptionValue(name, value), f"option {name}={value!r}")
    _expect_ok(solver.passModel(model), "the model")
    solver.run()
    return solver


class _Silent(highspy.Highs):
    """HiGHS without the Python callbacks of its wrapper: registering them prints a banner that no option stops."""

    def __init__(self) -> None:
        super(highspy.Highs, self).__init__()


def model_of(program: LinearProgram) -> highspy.HighsLp:
    """The program as a model of HiGHS; raises SolverError if it is malformed."""
    program.check()
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.matrix.shape
    model.col_cost_, model.col_lower_, model.col_upper_ = (program.cost, program.col_lower, program.col_upper)
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = program.matrix.indptr
    model.a_matrix_.index_ = program.matrix.indices
    model.a_matrix_.value_ = program.matrix.data
    return model


def _expect_ok(code: highspy.HighsStatus, what: str) -> None:
    if code == highspy.HighsStatus.kError:
        raise SolverError(f"HiGHS rejected {what}")


# --- programs that are solved again and again -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LiveSolution:
    """What HiGHS reached on a :class:`LiveProgram`; nothing here is proved.

    Attributes:
        status: OPTIMAL; INFEASIBLE; LIMIT at the cutoff or the time limit; FAILED.
        beyond: whether the objective has passed the cutoff.
        objective: of the point, or of the multipliers at the cutoff.
        x: the point, (N,).
        row_dual: multipliers of the rows, (M,); of infeasible rows a ray, y with y A = 0 on all free unknowns.
        basis: for a warm start.
    """

    status: LpStatus
    beyond: bool
    objective: float
    x: Array
    row_dual: Array
    basis: Basis


class LiveProgram:
    """A linear program that HiGHS keeps, solved under other sides and costs from the basis of an earlier solution."""

    def __init__(self, program: LinearProgram) -> None:
        self._solver: Any = _Silent()
        options: dict[str, Option] = {"output_flag": False, "threads": 1, "presolve": "off", "solver": "simplex"}
        tolerances = dict.fromkeys(("primal_feasibility_tolerance", "dual_feasibility_tolerance"), _LIVE_TOLERANCE)
        for name, value in {**options, **tolerances, **_LIVE_OPTIONS}.items():
            _expect_ok(self._solver.setOptionValue(name, value), f"option {name}={value!r}")
        _expect_ok(self._solver.passModel(model_of(program)), "the model")

    def change_sides(self, rows: Integers, lower: Array, upper: Array) -> None:
        """Replace the sides of some rows."""
        _expect_ok(self._solver.changeRowsBounds(len(rows), rows.astype(np.int32), lower, upper), "the sides")

    def change_bounds(self, column: int, lower: float, upper: float) -> None:
        """Replace the bounds of one unknown."""
        _expect_ok(self._solver.changeColBounds(column, lower, upper), "the bounds")

    def change_costs(self, cost: Array) -> None:
        """Replace the objective, (N,)."""
        _expect_ok(self._solver.changeColsCost(len(cost), np.arange(len(cost), dtype=np.int32), cost), "the costs")

    def add_rows(self, matrix: Array, lower: Array, upper: Array) -> None:
        """Append rows, (., N)."""
        rows = sparse.csr_array(matrix)
        starts, columns = rows.indptr[:-1].astype(np.int32), rows.indices.astype(np.int32)
        added = self._solver.addRows(len(lower), lower, upper, rows.nnz, starts, columns, rows.data)
        _expect_ok(added, "the rows")

    def solve(
        self, start: Basis | None = None, cutoff: float = math.inf, time_limit: float = math.inf,
        primal: bool = False,
    ) -> LiveSolution:  # fmt: skip
        """Minimise from a basis of this program, which may have fewer rows; without one, from the last basis.

        The dual simplex ends at a ``cutoff`` of the objective. After a change of costs, the ``primal`` one is quicker.
        """
        solver = self._solver
        options = {"objective_bound": cutoff, "simplex_strategy": 4 if primal else 1}
        for name, value in {**options, "time_limit": solver.getRunTime() + time_limit}.items():
            _expect_ok(solver.setOptionValue(name, value), f"option {name}={value!r}")
        if start is not None:
            missing = solver.getNumRow() - len(start.row_status)
            if missing:
                start.row_status = [*start.row_status, *[highspy.HighsBasisStatus.kBasic] * missing]
            _expect_ok(solver.setBasis(start), "the basis")
        solver.run()
        name, solution, objective = solver.getModelStatus().name, solver.getSolution(), solver.getObjectiveValue()
        status, dual = STATUS[name], np.array(solution.row_dual)
        if status is LpStatus.INFEASIBLE:
            _, known, dual = solver.getDualRay()
            status = status if known else LpStatus.FAILED
        if status is LpStatus.FAILED:
            solver.clearSolver()
        beyond = name == "kObjectiveBound" or (status is LpStatus.OPTIMAL and objective >= cutoff)
        return LiveSolution(
            status, beyond, objective, np.array(solution.col_value), np.asarray(dual), solver.getBasis()
        )
