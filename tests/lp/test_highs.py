"""The boundary to HiGHS: how programs end, every bad input refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from unrelu.errors import SolverError
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus


def program(cost=(1.0, 1.0), row_upper=(np.inf,), row_lower=(1.0,), col_lower=(0.0, 0.0), col_upper=(np.inf, np.inf)):
    """min cost.x subject to row_lower <= x_1 + x_2 <= row_upper."""
    arrays = (np.array(a, dtype=float) for a in (row_lower, row_upper, col_lower, col_upper))
    return LinearProgram(np.array(cost, dtype=float), sparse.csc_array(np.ones((1, 2))), *arrays)


def test_optimal_with_duals():
    solution = solve(program(cost=(1, 2)))
    assert solution.status is LpStatus.OPTIMAL
    np.testing.assert_allclose(solution.x, [1, 0])
    np.testing.assert_allclose(solution.row_dual, [1])


def test_infeasible_and_unbounded():
    assert solve(program(col_upper=(0.5, 0.4))).status is LpStatus.INFEASIBLE
    assert solve(program(cost=(-1, 0))).status is LpStatus.UNBOUNDED


def test_time_limit_is_reported():
    rng = np.random.default_rng(0)
    big = LinearProgram(
        rng.normal(size=4000),
        sparse.csc_array(rng.normal(size=(300, 4000))),
        np.zeros(300),
        np.zeros(300),
        -np.ones(4000),
        np.ones(4000),
    )
    assert solve(big, time_limit=1e-3).status is LpStatus.LIMIT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": np.array([np.nan, 1.0])}, "cost has 1 NaN"),
        ({"cost": np.array([np.inf, 1.0])}, "cost has 1 entries that are not finite"),
        ({"cost": np.ones(3)}, r"cost has shape \(3,\)"),
        ({"row_lower": np.array([np.nan])}, "row_lower has 1 NaN"),
        ({"col_upper": np.ones(1)}, r"col_upper has shape \(1,\)"),
        ({"matrix": sparse.csc_array(np.array([[np.inf, 1.0]]))}, "matrix has 1 entries that are not finite"),
    ],
)
def test_malformed_programs_are_refused_before_the_solver_sees_them(change, message):
    with pytest.raises(SolverError, match=message):
        solve(dataclasses.replace(program(), **change))
