"""Polytopes given by equations and inequalities: deepest point, dimension, and inequalities that are always tight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.run_control import now

# Singular values below this fraction of the largest count as zero.
_RANK_TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class Polytope:
    """{h: E h = e, F h <= f}, with E (m, k) dense."""

    equal: Array
    equal_side: Array
    below: Array
    below_side: Array


@dataclass(frozen=True, eq=False)
class DeepestPoint:
    """The result of :func:`deepest_point`.

    Attributes:
        point: a point of the polytope, as far inside as possible; where none was found, the least-squares solution of
            the equations.
        dimension: the dimension of the polytope; -1 where no point was found.
        status: OPTIMAL with a point, INFEASIBLE if the polytope is empty, LIMIT or FAILED.
    """

    point: Array
    dimension: int
    status: LpStatus


def deepest_point(polytope: Polytope, tolerance: float, time_limit: float = math.inf) -> DeepestPoint:
    """Find a point as far inside the inequalities as possible, and the dimension of the polytope.

    h0 is the least-squares solution of the equations, and N a basis of their null space. In h = h0 + N v only
    inequalities are left, and a linear program finds the largest slack t with F N v + t <= f - F h0. If t = 0, some
    inequalities are equations on the whole polytope and lower its dimension; a second program finds them.

    Args:
        polytope: the constraints.
        tolerance: violations up to this, relative to the size of the sides, are ignored.
        time_limit: of the programs, in seconds.

    Raises:
        SolverError: HiGHS refuses a program.
    """
    end = now() + time_limit
    start, basis = _solve_equations(polytope.equal, polytope.equal_side)
    reached = polytope.equal @ start
    size = max(*(float(np.abs(side).max(initial=0.0)) for side in (polytope.equal_side, reached)), np.finfo(float).tiny)
    if np.abs(reached - polytope.equal_side).max(initial=0.0) > tolerance * size:
        return DeepestPoint(start, -1, LpStatus.INFEASIBLE)
    size = max(size, float(np.abs(polytope.below_side).max(initial=0.0)))
    slack = (polytope.below_side - polytope.below @ start) / size
    if not basis.shape[1] or not len(slack):
        if slack.min(initial=0.0) < -tolerance:
            return DeepestPoint(start, -1, LpStatus.INFEASIBLE)
        return DeepestPoint(start, basis.shape[1], LpStatus.OPTIMAL)
    normals = constraints_on(polytope.below, basis)
    solution = solve(_deepest(normals, slack), end - now())
    if solution.status is not LpStatus.OPTIMAL:
        return DeepestPoint(start, -1, solution.status)
    v, depth = solution.x[:-1], solution.x[-1]
    if depth < -tolerance:
        return DeepestPoint(start, -1, LpStatus.INFEASIBLE)
    dimension = basis.shape[1]
    if depth <= tolerance:
        # At the deepest point, slacks are either zero or clearly positive.
        left = slack - normals @ v
        tight = always_tight(normals, np.where(left <= tolerance, 0.0, left), end - now())
        if tight is None:
            return DeepestPoint(start, -1, LpStatus.LIMIT)
        dimension = null_space(normals[tight]).shape[1]
    return DeepestPoint(start + size * (basis @ v), dimension, LpStatus.OPTIMAL)


def _solve_equations(matrix: Array, side: Array) -> tuple[Array, Array]:
    """Find the shortest least-squares solution of matrix h = side, and an orthonormal basis of the null space."""
    m, k = matrix.shape
    if m == 0:
        return np.zeros(k), np.eye(k)
    left, values, right = linalg.svd(matrix, full_matrices=m < k, check_finite=False)
    r = int((values > _RANK_TOLERANCE * values[0]).sum()) if values[0] > 0 else 0
    start = right[:r].T @ ((left[:, :r].T @ side) / values[:r])
    return start, right[r:].T


def null_space(matrix: Array) -> Array:
    """Compute an orthonormal basis of {d: matrix d = 0}, (k, k - rank)."""
    return _solve_equations(matrix, np.zeros(len(matrix)))[1]


def constraints_on(normals: Array, basis: Array) -> Array:
    """Express normals in the coordinates of ``basis``; those that are orthogonal to it up to rounding become 0."""
    result = normals @ basis
    size = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(np.abs(result).max(axis=1, keepdims=True, initial=0.0) > _RANK_TOLERANCE * size, result, 0.0)


def _deepest(normals: Array, slack: Array) -> LinearProgram:
    """Write max t <= 1 subject to normals v + t <= slack as a minimisation over (v, t)."""
    m, d = normals.shape
    return LinearProgram(
        cost=np.append(np.zeros(d), -1.0),
        matrix=sparse.csc_array(np.hstack([normals, np.ones((m, 1))])),
        row_lower=np.full(m, -np.inf),
        row_upper=slack,
        col_lower=np.full(d + 1, -np.inf),
        col_upper=np.append(np.full(d, np.inf), 1.0),
    )


def always_tight(normals: Array, slack: Array, time_limit: float = math.inf) -> Flags | None:
    """Find the rows of normals v <= slack that are equations at every feasible v; None if the program was not solved.

    max sum s_i subject to normals v + s <= tau slack, 0 <= s <= 1, tau >= 1. If row i has a positive slack at some
    feasible v, scaling by a large tau makes that slack 1. So s_i = 0 exactly for the rows that are always tight.
    """
    m, d = normals.shape
    program = LinearProgram(
        cost=np.concatenate([np.zeros(d + 1), -np.ones(m)]),
        matrix=sparse.csc_array(np.hstack([normals, -slack[:, None], np.eye(m)])),
        row_lower=np.full(m, -np.inf),
        row_upper=np.zeros(m),
        col_lower=np.concatenate([np.full(d, -np.inf), [1.0], np.zeros(m)]),
        col_upper=np.concatenate([np.full(d + 1, np.inf), np.ones(m)]),
    )
    solution = solve(program, time_limit)
    return solution.x[d + 1 :] < 0.5 if solution.status is LpStatus.OPTIMAL else None
