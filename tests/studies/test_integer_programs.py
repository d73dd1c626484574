"""Programs with integers: their optimum, a valid bound, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from unrelu.errors import SolverError
from unrelu.lp.highs import LinearProgram
from unrelu.lp.lp_status import LpStatus
from unrelu_studies.benchmarks.proofs.integer_programs import solve_mip


def program(low: float, high: float = np.inf) -> LinearProgram:
    """min x_1 + x_2 subject to low <= x_1 + x_2 <= high, x >= 0."""
    sides = np.array([low]), np.array([high]), np.zeros(2), np.full(2, np.inf)
    return LinearProgram(np.ones(2), sparse.csc_array(np.ones((1, 2))), *sides)


BOTH = np.ones(2, dtype=bool)


def knapsack() -> LinearProgram:
    """min x_1 + x_2 subject to x_1 + x_2 >= 2.5: 2.5, and 3 in integers."""
    return program(2.5)


def test_an_integer_optimum():
    solution = solve_mip(knapsack(), BOTH)
    assert solution.status is LpStatus.OPTIMAL
    np.testing.assert_allclose(solution.x.sum(), 3)
    assert (solution.objective, solution.bound) == (pytest.approx(3), pytest.approx(3))
    assert solve_mip(knapsack(), ~BOTH).objective == pytest.approx(2.5)


def test_the_bound_is_valid_where_there_is_no_time():
    solution = solve_mip(knapsack(), BOTH, time_limit=0.0)
    assert solution.status is LpStatus.LIMIT
    assert solution.bound <= 3 <= solution.objective


def test_a_program_without_integers_in_reach_is_infeasible():
    solution = solve_mip(program(0.2, 0.8), BOTH)
    assert (solution.status, solution.objective) == (LpStatus.INFEASIBLE, np.inf)
    assert np.isnan(solution.x).all()


def test_malformed_integers_are_refused():
    with pytest.raises(SolverError, match=r"integral has shape \(3,\)"):
        solve_mip(knapsack(), np.ones(3, dtype=bool))
