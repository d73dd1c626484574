"""Polytopes: the deepest point, the dimension, the inequalities that always hold with equality, and none at all."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu.lp.lp_status import LpStatus
from unrelu.lp.polytopes import Polytope, always_tight, deepest_point, null_space


def polytope(below, below_side, equal=((1, 1, 1),), equal_side=(1,)):
    arrays = (np.array(a, dtype=float) for a in (equal, equal_side, below, below_side))
    return Polytope(*arrays)


def test_inequalities_that_are_always_tight_lower_the_dimension():
    # x_3 <= 0 and x_3 >= 0.
    below, side = np.vstack([-np.eye(3), [0, 0, 1]]), np.zeros(4)
    found = deepest_point(polytope(below, side), 1e-9)
    assert (found.status, found.dimension) == (LpStatus.OPTIMAL, 1)
    assert found.point[2] == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(always_tight(below, np.array([1.0, 1.0, 0.0, 0.0])), [False, False, True, True])


@pytest.mark.parametrize("equal_side", [(1.0, 2.0), (-1.0, -1.0)])
def test_contradictions_leave_no_point(equal_side):
    found = deepest_point(polytope(-np.eye(3), np.zeros(3), np.ones((2, 3)), equal_side), 1e-9)
    assert (found.status, found.dimension) == (LpStatus.INFEASIBLE, -1)
    np.testing.assert_allclose(found.point, np.full(3, np.mean(equal_side) / 3))


def test_a_null_space_is_orthonormal_and_lost():
    matrix = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]])
    basis = null_space(matrix)
    assert basis.shape == (3, 2)
    np.testing.assert_allclose(matrix @ basis, 0, atol=1e-14)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-14)
