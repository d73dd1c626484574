"""One-sided least squares: the sum of squared violations of a layer's rows, with bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, cg

from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.work_clock import now

_NEWTON_STEPS = 200
# A rough point takes at most _ROUGH_STEPS; it ends when a step is predicted to gain at most the fraction _ROUGH of f.
_ROUGH_STEPS, _ROUGH = 6, 1e-4
# With columns of norm 1, a smaller pivot of the Cholesky factor means that products lose half the digits.
_WELL_CONDITIONED = 1e-3
# A matrix is formed anew if updates have left less than this share of its largest trace, as rounding errors remain.
_LEFT = 1e-3
# The ridge of matrices for rough points, relative to a diagonal of 1.
ROUGH_RIDGE = 1e-8
# Singular values below this, relative to the largest, count as zero.
_RANK = 1e-14
# A sum counts as the minimum up to the first fraction of it, or if its errors are at most the second fraction of x.
_SAME, _FLOOR = 1e-6, 1e-8


def one_sided_least_squares(
    system: LayerSystem,
    rows: Rows,
    end: float = math.inf,
    start: Array | None = None,
    shared: NewtonMatrices | None = None,
) -> tuple[Array, float, int]:
    """min over lower <= h <= upper of sum_j e_j(h)^2, by a projected semismooth Newton method with an active set.

    The objective is convex, once differentiable and piecewise quadratic. At each point, the violated rows give a Newton
    step for the coordinates that are not held at a bound. It is projected onto the bounds, and shortened until it
    decreases the objective enough.

    The first point is ``start``, or 0. When ``now()`` passes ``end``, the current point is returned.
    ``shared`` are matrices that problems with similar rows share; if they have a ridge, the point is a rough one.

    Returns:
        h, the minimum, and the number of Newton steps.

    Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J. Control
    Optim. 20 (1982).
    """
    scale = float(np.abs(rows.target).max())
    matrices = shared or NewtonMatrices(system)
    steps, promised = (_ROUGH_STEPS, _ROUGH) if matrices.ridge else (_NEWTON_STEPS, 1e-24)
    h = system.inside(np.zeros(system.n_in) if start is None else start)
    signed, curvature, f = _errors(rows, np.asarray(system.matrix @ h))
    step = 0
    while step < steps and now() < end:
        gradient = np.asarray(system.matrix.T @ signed)
        direction = _feasible_direction(matrices, curvature, signed, gradient, h)
        if -float(gradient @ direction) <= promised * f + 1e-30 * scale**2:
            break
        for towards in _directions(matrices, direction, gradient, curvature):
            for length in _lengths(system, h, towards):
                trial = system.inside(h + length * towards)
                signed, curvature, f_trial = _errors(rows, np.asarray(system.matrix @ trial))
                if f_trial <= f - 2e-4 * float(gradient @ (h - trial)):
                    break
            # When a coordinate is released, the Newton step may push another one outwards, and nothing moves.
            if f_trial < f:
                break
        if f_trial >= f:
            break
        h, f, step = trial, f_trial, step + 1
    return h, f, step


def _directions(matrices: NewtonMatrices, direction: Array, gradient: Array, curvature: Array) -> Iterator[Array]:
    """The Newton direction, then -g_i / H_ii, whose projection onto the bounds descends unless h is the minimum."""
    yield direction
    yield -gradient / matrices.diagonal(curvature)


def is_minimum(system: LayerSystem, rows: Rows, h: Array) -> bool:
    r"""Whether a Newton step d from h is predicted to gain at most 1e-6 of the sum, or the sum is rounding.

    On the quadratic piece around h, d gains :math:`-g^T d`, where g is half the gradient. Coordinates at a bound that
    descent would push outwards do not move. If rows have very different sizes and columns are nearly dependent, a
    search may end before the minimum, as rounding of W h hides the decrease.
    """
    signed, curvature, f = _errors(rows, np.asarray(system.matrix @ h))
    if f <= len(signed) * (_FLOOR * rows.scale) ** 2:
        return True
    gradient = np.asarray(system.matrix.T @ signed)
    free = ~(((h <= system.lower) & (gradient >= 0)) | ((h >= system.upper) & (gradient <= 0)))
    return -float(gradient @ NewtonMatrices(system).direction(curvature, signed, gradient, free)) <= _SAME * f


def _feasible_direction(matrices: NewtonMatrices, curvature: Array, signed: Array, gradient: Array, h: Array) -> Array:
    """The Newton direction on the face of the box on which h may move.

    A coordinate at a bound is held if descent along its gradient or the Newton step of the others pushes it outwards.
    If moving on that face gains little, one held coordinate that descent pushes inwards is released.
    """
    at_lower, at_upper = h <= matrices.system.lower, h >= matrices.system.upper
    held = (at_lower & (gradient > 0)) | (at_upper & (gradient < 0))
    inwards = (at_lower & (gradient < 0)) | (at_upper & (gradient > 0))
    while True:
        direction = matrices.direction(curvature, signed, gradient, ~held)
        outwards = ~held & ((at_lower & (direction < 0)) | (at_upper & (direction > 0)))
        if not outwards.any():
            break
        held |= outwards
    if (held & inwards).any():
        # Compare the gain of releasing coordinate i alone, g_i^2 / H_ii, with the gain on the face.
        diagonal = matrices.diagonal(curvature)
        gain = np.where(held & inwards, gradient * gradient / diagonal, 0.0)
        if -float(gradient @ direction) <= 0.1 * gain.max():
            held[np.argmax(gain)] = False
            direction = matrices.direction(curvature, signed, gradient, ~held)
    return direction


def _lengths(system: LayerSystem, h: Array, direction: Array) -> Iterator[float]:
    """Step lengths to try: a few projected ones, then the length to the first bound, halved again and again."""
    yield from (1.0, 0.5, 0.25)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(direction < 0, (system.lower - h) / direction, (system.upper - h) / direction)
    first = float(np.min(room, initial=0.125, where=(direction != 0) & (room > 0)))
    yield from (first * 0.5**i for i in range(40))


def _errors(rows: Rows, wh: Array) -> tuple[Array, Array, float]:
    """Half the derivative of sum e_j^2 by (W h)_j, half its second derivative, and the sum itself."""
    over, under = (wh - rows.high) / rows.high_slope, (rows.low - wh) / rows.low_slope
    over, under = np.maximum(over, 0.0), np.maximum(under, 0.0)
    # A two-sided row without error keeps its curvature: it has an error at any point nearby.
    on_high = (over > 0) | (rows.two_sided & (under == 0))
    curvature = np.where(on_high, rows.high_slope**-2.0, np.where(under > 0, rows.low_slope**-2.0, 0.0))
    signed = over / rows.high_slope - under / rows.low_slope
    return signed, curvature, float(over @ over + under @ under)


class NewtonMatrices:
    """The matrices H = W^T D W of Newton steps on one layer, D diagonal; each is an update of the last one.

    From one step or threshold to the next, few rows change their curvature, so H changes by a matrix of small rank. If
    D and the free coordinates have not changed, the Cholesky factor is reused.
    """

    def __init__(self, system: LayerSystem, ridge: float = 0.0) -> None:
        self.system, self.ridge = system, ridge
        size = 0 if sparse.issparse(system.matrix) else system.n_in
        self._curvature, self._matrix, self._largest = np.zeros(system.n_out), np.zeros((size, size)), 0.0
        self._factor: tuple[Flags, Array, Array] | None = None

    def diagonal(self, curvature: Array) -> Array:
        """H_ii, half the second derivatives, (k,), above 0."""
        matrix = self.system.matrix
        return np.asarray((matrix * matrix).T @ curvature) + np.finfo(float).tiny

    def direction(self, curvature: Array, signed: Array, gradient: Array, free: Flags) -> Array:
        """Solve H d = -gradient on the free coordinates, zero on the others; the shortest d if H is singular.

        If H is badly conditioned, the equivalent least-squares problem min_d |D^(1/2) W d + D^(-1/2) s|_2, with
        gradient = W^T s, is solved instead: it keeps the digits that H loses.
        """
        direction = np.zeros_like(gradient)
        if not free.any():
            return direction
        matrix, active = self.system.matrix, curvature > 0
        if sparse.issparse(matrix):
            direction[free] = _conjugate_gradients(matrix[active][:, free], curvature[active], -gradient[free])
            return direction
        found = self._factorised(curvature, free)
        if found is not None:
            factor, sizes = found
            direction[free] = linalg.lapack.dpotrs(factor, -gradient[free] / sizes)[0] / sizes
            return direction
        part = matrix[np.ix_(active, free)]
        root = np.sqrt(curvature[active])
        sizes = np.sqrt(curvature[active] @ (part * part))
        sizes[sizes == 0] = 1.0
        best, *_ = linalg.lstsq(
            part / sizes * root[:, None], -signed[active] / root, cond=_RANK, lapack_driver="gelsy", check_finite=False
        )
        direction[free] = best / sizes
        return direction

    def _factorised(self, curvature: Array, free: Flags) -> tuple[Array, Array] | None:
        """The Cholesky factor of H on the free coordinates, scaled to a diagonal of 1, and that diagonal's square root.

        None if H is too badly conditioned.
        """
        same = np.array_equal(curvature, self._curvature)
        if same and self._factor is not None and np.array_equal(free, self._factor[0]):
            return self._factor[1:]
        if not same:
            self._change(curvature)
        matrix = self._matrix if free.all() else self._matrix[np.ix_(free, free)]
        sizes = np.sqrt(matrix.diagonal())
        sizes[~(sizes > 0)] = 1.0
        unit = matrix / sizes
        unit /= sizes[:, None]
        unit.flat[:: len(unit) + 1] += self.ridge
        # The matrix is symmetric; its transpose has the layout of LAPACK.
        factor, info = linalg.lapack.dpotrf(unit.T, clean=False, overwrite_a=True)
        self._factor = None
        if info == 0 and (self.ridge or factor.diagonal().min() > _WELL_CONDITIONED):
            self._factor = free.copy(), factor, sizes
            return factor, sizes
        return None

    def _change(self, curvature: Array) -> None:
        """Update H for another curvature, or form it anew if most rows changed or too much was subtracted."""
        matrix, change = self.system.matrix, curvature - self._curvature
        rows = np.flatnonzero(change)
        self._curvature = curvature.copy()
        if 2 * len(rows) < int((curvature > 0).sum()):
            self._matrix = self._matrix + matrix[rows].T @ (matrix[rows] * change[rows, None])
            trace = float(self._matrix.trace())
            self._largest = max(trace, self._largest)
            if trace > _LEFT * self._largest:
                return
        rows = np.flatnonzero(curvature)
        root = matrix[rows] * np.sqrt(curvature[rows])[:, None]
        self._matrix = linalg.blas.dsyrk(1.0, root.T)
        self._matrix += np.triu(self._matrix, 1).T
        self._largest = float(self._matrix.trace())


def _conjugate_gradients(part: sparse.csr_array, weight: Array, rhs: Array) -> Array:
    n = part.shape[1]
    diagonal = np.asarray(part.multiply(part).T @ weight)
    ridge = 1e-12 * float(diagonal.mean()) + np.finfo(float).tiny
    gram = LinearOperator((n, n), matvec=lambda v: part.T @ (weight * (part @ v)) + ridge * v, dtype=np.float64)
    jacobi = LinearOperator((n, n), matvec=lambda v: v / (diagonal + ridge), dtype=np.float64)
    solution, _ = cg(gram, rhs, rtol=1e-10, maxiter=1000, M=jacobi)
    return np.asarray(solution)
