"""How solving a linear program ended, for all solvers."""

from __future__ import annotations

import enum


class LpStatus(enum.Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    INFEASIBLE = "no point satisfies the constraints"
    UNBOUNDED = "the objective has no bound on the feasible set"
    CUTOFF = "the optimal objective is at least the cutoff"
    LIMIT = "stopped at a time or iteration limit"
    FAILED = "the solver broke down"
