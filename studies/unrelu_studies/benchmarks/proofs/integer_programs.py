"""Linear programs with integers by HiGHS, for comparisons with our proofs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import highspy
import numpy as np

from unrelu.errors import SolverError
from unrelu.lp.highs import LinearProgram, LiveProgram, Option, accepted
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Flags

# The smallest that leaves HiGHS room to branch.
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class MipSolution:
    """What the solver returned for a program with integers.

    Attributes:
        status: how it ended.
        x: the best point, NaN where there is none.
        objective: there, infinite where there is none.
        bound: a lower bound of the optimum, by the solver's arithmetic.
        nodes: of its tree.
    """

    status: LpStatus
    x: Array
    objective: float
    bound: float
    nodes: int


def solve_mip(program: LinearProgram, integral: Flags, time_limit: float = math.inf, gap: float = 1e-6) -> MipSolution:
    """Solve with some unknowns restricted to integers, on one thread, with presolve and all that HiGHS does by itself.

    Args:
        program: without the restriction; it is checked first.
        integral: which unknowns are integers, (n,).
        time_limit: in seconds.
        gap: between bound and objective, relative to the objective, at which to stop.

    Raises:
        SolverError: the program is malformed, or HiGHS rejects it.
    """
    n = len(program.cost)
    if integral.shape != (n,):
        raise SolverError(f"integral has shape {integral.shape}, a program of {n} unknowns needs ({n},)")
    options: dict[str, Option] = {
        "solver": "choose",
        "presolve": "choose",
        "mip_rel_gap": gap,
        "mip_abs_gap": 0.0,
        "mip_feasibility_tolerance": _TOLERANCE,
        "primal_feasibility_tolerance": _TOLERANCE,
        "dual_feasibility_tolerance": _TOLERANCE,
    }
    if math.isfinite(time_limit):
        options["time_limit"] = max(0.0, time_limit)
    live = LiveProgram(program, options)
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    columns, integrality = np.arange(n, dtype=np.int32), np.array([kinds[int(i)] for i in integral])
    accepted(live.solver.changeColsIntegrality(n, columns, integrality), "the integers")
    live.solver.run()
    status, solver, info = live.status, live.solver, live.solver.getInfo()
    x, objective = np.array(solver.getSolution().col_value), info.objective_function_value
    if x.shape != (n,) or not np.isfinite(x).all() or not abs(objective) < highspy.kHighsInf:
        x, objective = np.full(n, np.nan), math.inf
        status = LpStatus.FAILED if status is LpStatus.OPTIMAL else status
    return MipSolution(status, x, objective, info.mip_dual_bound, max(0, info.mip_node_count))
