"""``exact``: a layer's input from its active rows alone, and the dimension of the preimage, for data without noise."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from unrelu.errors import OptionError
from unrelu.layerwise.layer_constraints import LayerSystem, checked_target
from unrelu.layerwise.layer_method import LayerSolution, at_any_scale
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus
from unrelu.result import Status

Array = npt.NDArray[np.float64]

# Relative size below which a singular value counts as zero.
_RANK_TOLERANCE = 1e-10
# Slack, relative to the size of the right-hand side, below which an inequality counts as tight.
_SLACK_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Polytope:
    """{h: E h = e, F h <= f}, with E (m, k) dense."""

    equal: Array
    equal_side: Array
    below: Array
    below_side: Array

    @classmethod
    def of(cls, system: LayerSystem, target: Array, tolerance: float) -> Polytope:
        """The preimage of ``target``; outputs up to ``tolerance`` above a flat end of the activation lie on it.

        Rows where the activation is strictly monotone give an equation by (5); rows on a flat end an inequality.
        """
        activation = system.activation
        matrix = system.matrix if isinstance(system.matrix, np.ndarray) else system.matrix.toarray()
        x = activation.clip(target, margin=1e-15)
        low, high = activation.preimage(x - tolerance, x + tolerance)
        u = activation.inverse(x) - system.bias
        on, off = np.isfinite(low) & np.isfinite(high), ~np.isfinite(low) & np.isfinite(high)
        saturated = np.isfinite(low) & ~np.isfinite(high)
        sides_low, sides_high = np.isfinite(system.lower), np.isfinite(system.upper)
        unit = np.eye(system.n_in)
        return cls(
            equal=matrix[on],
            equal_side=u[on],
            below=np.concatenate([matrix[off], -matrix[saturated], -unit[sides_low], unit[sides_high]]),
            below_side=np.concatenate([u[off], -u[saturated], -system.lower[sides_low], system.upper[sides_high]]),
        )

    def violation(self, h: Array) -> float:
        """The largest amount by which h breaks a constraint."""
        equal = np.abs(self.equal @ h - self.equal_side).max(initial=0.0)
        below = (self.below @ h - self.below_side).max(initial=0.0)
        return float(max(equal, below))


@dataclass(frozen=True, eq=False)
class Preimage:
    """What :func:`interior_point` found.

    Attributes:
        point: a point of the polytope, as far inside as possible; None if there is none, or it was not reached.
        start: the least-squares solution of the equations.
        dimension: of the polytope; -1 without a point.
        status: OPTIMAL with a point, INFEASIBLE if there is none, LIMIT or FAILED.
    """

    point: Array | None
    start: Array
    dimension: int
    status: LpStatus


def interior_point(polytope: Polytope, tolerance: float = _SLACK_TOLERANCE, time_limit: float = math.inf) -> Preimage:
    """A point as far inside the inequalities as possible, and the dimension of the polytope.

    The equations are solved by their least-squares solution h0 and a basis N of their null space; in h = h0 + N v only
    inequalities are left and the largest slack t with F N v + t <= f - F h0 is a linear program. Where t = 0, some
    inequalities hold with equality all over the polytope and lower its dimension; they are found by a second program.

    Args:
        polytope: the constraints.
        tolerance: violations up to this, relative to the size of the sides, count as none.
        time_limit: in seconds, for the programs.

    Raises:
        SolverError: HiGHS refuses a program.
    """
    end = time.perf_counter() + time_limit
    start, basis = _solve_equations(polytope.equal, polytope.equal_side)
    size = max(
        float(np.abs(polytope.equal_side).max(initial=0.0)),
        float(np.abs(polytope.equal @ start).max(initial=0.0)),
        np.finfo(float).tiny,
    )
    if np.abs(polytope.equal @ start - polytope.equal_side).max(initial=0.0) > tolerance * size:
        return Preimage(None, start, -1, LpStatus.INFEASIBLE)
    size = max(size, float(np.abs(polytope.below_side).max(initial=0.0)))
    slack = (polytope.below_side - polytope.below @ start) / size
    if not basis.shape[1] or not len(slack):
        inside = slack.min(initial=0.0) >= -tolerance
        if not inside:
            return Preimage(None, start, -1, LpStatus.INFEASIBLE)
        return Preimage(start, start, basis.shape[1], LpStatus.OPTIMAL)
    normals = constraints_on(polytope.below, basis)
    solution = solve(_deepest(normals, slack), end - time.perf_counter())
    if solution.status is not LpStatus.OPTIMAL:
        return Preimage(None, start, -1, solution.status)
    if solution.x[-1] < -tolerance:
        return Preimage(None, start, -1, LpStatus.INFEASIBLE)
    dimension = basis.shape[1]
    if solution.x[-1] <= tolerance:
        # Seen from the deepest point, a slack is zero or it is not.
        left = slack - normals @ solution.x[:-1]
        tight = always_tight(normals, np.where(left <= tolerance, 0.0, left), end - time.perf_counter())
        if tight is None:
            return Preimage(None, start, -1, LpStatus.LIMIT)
        dimension -= rank(normals[tight])
    return Preimage(start + size * (basis @ solution.x[:-1]), start, dimension, LpStatus.OPTIMAL)


def _solve_equations(matrix: Array, side: Array) -> tuple[Array, Array]:
    """The least-squares solution of matrix h = side with the smallest norm, and a basis of the null space, (k, k-r)."""
    m, k = matrix.shape
    if m == 0:
        return np.zeros(k), np.eye(k)
    left, values, right = linalg.svd(matrix, full_matrices=m < k, check_finite=False)
    r = int((values > _RANK_TOLERANCE * values[0]).sum()) if values[0] > 0 else 0
    start = right[:r].T @ ((left[:, :r].T @ side) / values[:r])
    return start, right[r:].T


def constraints_on(normals: Array, basis: Array) -> Array:
    """The rows of ``normals`` seen along ``basis``; what rounding leaves of an unseen row is set to 0."""
    seen = normals @ basis
    size = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(np.abs(seen).max(axis=1, keepdims=True, initial=0.0) > _RANK_TOLERANCE * size, seen, 0.0)


def null_space(matrix: Array) -> Array:
    """An orthonormal basis of {d: matrix d = 0}, (k, k - rank)."""
    return _solve_equations(matrix, np.zeros(len(matrix)))[1]


def _deepest(normals: Array, slack: Array) -> LinearProgram:
    """max t <= 1 subject to normals v + t <= slack, as a minimisation over (v, t)."""
    m, d = normals.shape
    return LinearProgram(
        cost=np.append(np.zeros(d), -1.0),
        matrix=sparse.csc_array(np.hstack([normals, np.ones((m, 1))])),
        row_lower=np.full(m, -np.inf),
        row_upper=slack,
        col_lower=np.full(d + 1, -np.inf),
        col_upper=np.append(np.full(d, np.inf), 1.0),
    )


def always_tight(normals: Array, slack: Array, time_limit: float = math.inf) -> npt.NDArray[np.bool_] | None:
    """Which rows of normals v <= slack hold with equality at every feasible v; None if the program was not solved.

    max sum s_i subject to normals v + s <= tau slack, 0 <= s <= 1, tau >= 1: a feasible v with positive slack on row i
    can be scaled by a large tau until that slack is 1, so exactly the rows that are always tight end at s_i = 0.
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


def rank(matrix: Array) -> int:
    """The number of singular values above 1e-10 of the largest."""
    values = linalg.svdvals(matrix) if matrix.size else np.zeros(0)
    return int((values > _RANK_TOLERANCE * values.max(initial=0.0)).sum())


@dataclass(frozen=True)
class Exact:
    """Solve w_j.h + b_j = phi^{-1}(x_j) on the rows where phi is invertible, w_j.h + b_j <= 0 on the others.

    Where at least k active rows have rank k, h is their unique solution (Theorem 2); LeakyReLU, sigmoid and tanh are
    inverted row by row (equation (5)). Otherwise the feasibility problem (4) is solved for a point inside the polytope
    of preimages, and its dimension is reported as ``freedom``. A target that no h produces gives the least-squares
    solution of the active rows and the status NOT_REALIZABLE.

    Args:
        tolerance: outputs up to ``tolerance * max|x|`` count as zero, and errors up to that as none. By default 1e-9,
            or 50 times the precision of a network evaluated in float32.

    Raises:
        OptionError: the tolerance is not between 0 and 1.
    """

    tolerance: float | None = None
    norm = "l2"
    # Its factorisations are dense and take no notice of a time limit.
    largest = 4_000_000

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise OptionError(f"tolerance={self.tolerance} must be between 0 and 1")

    @at_any_scale(power=1)
    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        """See :class:`LayerMethod`; ``threshold`` is not used."""
        target = checked_target(system, target)
        tolerance = self.tolerance or max(1e-9, 50 * system.precision)
        scale = max(float(np.abs(target).max()), np.finfo(float).tiny)
        unit, size = system.unit
        found = interior_point(Polytope.of(unit, target, tolerance * scale), tolerance, time_limit)
        h = system.inside((found.start if found.point is None else found.point) / size)
        error = float(np.abs(system.value(h) - system.activation.clip(target)).max())
        status, freedom = _ENDS[found.status], found.dimension
        # Rounding grows with the condition of W: the error is held against the looser square root of the tolerance.
        if status is Status.EXACT_FIT and error > math.sqrt(tolerance) * 1e-2 * scale:
            status, freedom = Status.NOT_REALIZABLE, -1
        if status is Status.EXACT_FIT and freedom:
            status = Status.NOT_UNIQUE
        return LayerSolution(h, error, status, 0, tolerance * scale, 1, freedom)


_ENDS = {
    LpStatus.OPTIMAL: Status.EXACT_FIT,
    LpStatus.INFEASIBLE: Status.NOT_REALIZABLE,
    LpStatus.LIMIT: Status.TIME_LIMIT,
    LpStatus.UNBOUNDED: Status.SOLVER_FAILED,
    LpStatus.FAILED: Status.SOLVER_FAILED,
}
