"""One-sided least squares: the sum of squared violations of a layer's rows, with bounds."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import lsmr

from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.run_control import now

# The most steps, and the most times that one is halved.
_NEWTON_STEPS, _HALVINGS = 200, 45
# A rough point takes at most _ROUGH_STEPS; it ends when a step is predicted to gain at most the fraction _ROUGH of f.
_ROUGH_STEPS, _ROUGH = 3, 1e-4
# With columns of norm 1, a smaller pivot of the Cholesky factor means that products lose half the digits.
_WELL_CONDITIONED = 1e-3
# The ridge of matrices for rough points, relative to a diagonal of 1.
_ROUGH_RIDGE = 1e-8
# Singular values below this, relative to the largest, count as zero.
_RANK = 1e-14
# The relative error of a Newton step of a sparse layer.
_SPARSE = 1e-10
# A sum counts as the minimum up to the first fraction of it, or if its errors are at most the second fraction of x.
_SAME, _FLOOR = 1e-6, 1e-8


def one_sided_least_squares(
    system: LayerSystem, rows: Rows, end: float = math.inf, start: Array | None = None, rough: bool = False
) -> tuple[Array, float, int, bool]:
    """Minimise sum_j e_j(h)^2 over lower <= h <= upper, by a projected semismooth Newton method with an active set.

    The objective is convex, once differentiable and piecewise quadratic. At each point, the violated rows give a Newton
    step for the coordinates that are not held at a bound. It is projected onto the bounds, and shortened until it
    decreases the objective enough. Where that fails, -g_i / H_ii is tried: its projection descends unless h is the
    minimum.

    The first point is ``start``, or 0. When ``now()`` passes ``end``, the current point is returned. A rough point
    takes a few steps.

    Returns:
        h, the minimum, the number of Newton steps, and whether a further step is predicted to gain at most 1e-6 of the
        sum, or the sum is rounding. If rows have very different sizes and columns are nearly dependent, the search may
        end before the minimum, as rounding of W h hides the decrease.

    Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", SIAM J. Control
    Optim. 20 (1982).
    """
    scale = float(np.abs(rows.target).max())
    steps, promised = (_ROUGH_STEPS, _ROUGH) if rough else (_NEWTON_STEPS, 1e-24)
    h = system.inside(np.zeros(system.n_in) if start is None else start)
    signed, curvature, f = _errors(rows, np.asarray(system.matrix @ h))
    step, gain = 0, math.inf
    while step < steps and now() < end:
        gradient, piece = np.asarray(system.matrix.T @ signed), _Quadratic(system, curvature, signed, rough)
        direction = _feasible_direction(piece, gradient, h)
        gain = -float(gradient @ direction)
        if gain <= promised * f + 1e-30 * scale**2:
            break
        for towards in (direction, -gradient / piece.diagonal):
            for length in 0.5 ** np.arange(_HALVINGS):
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
    return h, f, step, gain <= _SAME * f or f <= len(signed) * (_FLOOR * rows.scale) ** 2


def _feasible_direction(piece: _Quadratic, gradient: Array, h: Array) -> Array:
    """Compute the Newton direction on the face of the box on which h may move.

    A coordinate at a bound is held if descent along its gradient or the Newton step of the others pushes it outwards.
    If moving on that face gains little, one held coordinate that descent pushes inwards is released.
    """
    at_lower, at_upper = h <= piece.system.lower, h >= piece.system.upper
    held = (at_lower & (gradient > 0)) | (at_upper & (gradient < 0))
    inwards = (at_lower != at_upper) & ((at_lower & (gradient < 0)) | (at_upper & (gradient > 0)))
    while True:
        direction = piece.newton_step(gradient, ~held)
        outwards = ~held & ((at_lower & (direction < 0)) | (at_upper & (direction > 0)))
        if not outwards.any():
            break
        held |= outwards
    if (held & inwards).any():
        # Compare the gain of releasing coordinate i alone, g_i^2 / H_ii, with the gain on the face.
        gain = np.where(held & inwards, gradient * gradient / piece.diagonal, 0.0)
        if -float(gradient @ direction) <= 0.1 * gain.max():
            held[np.argmax(gain)] = False
            direction = piece.newton_step(gradient, ~held)
    return direction


def _errors(rows: Rows, wh: Array) -> tuple[Array, Array, float]:
    """Compute half the derivative of sum e_j^2 by (W h)_j, half its second derivative, and the sum itself."""
    over, under = (wh - rows.high) / rows.high_slope, (rows.low - wh) / rows.low_slope
    over, under = np.maximum(over, 0.0), np.maximum(under, 0.0)
    # A two-sided row without error keeps its curvature: it has an error at any point nearby.
    on_high = (over > 0) | (rows.two_sided & (under == 0))
    curvature = np.where(on_high, rows.high_slope**-2.0, np.where(under > 0, rows.low_slope**-2.0, 0.0))
    signed = over / rows.high_slope - under / rows.low_slope
    return signed, curvature, float(over @ over + under @ under)


class _Quadratic:
    """The sum of squares on the piece around a point: H = W^T D W, half its second derivative, with diagonal D."""

    def __init__(self, system: LayerSystem, curvature: Array, signed: Array, rough: bool = False) -> None:
        self.system, self.ridge = system, _ROUGH_RIDGE if rough else 0.0
        self.used = np.flatnonzero(curvature)
        self.root, self.signed = np.sqrt(curvature[self.used]), signed[self.used]
        self.part = system.matrix[self.used]

    @cached_property
    def matrix(self) -> Array:
        """H of a dense layer, (k, k)."""
        root = self.part * self.root[:, None]
        return np.asarray(root.T @ root)

    @cached_property
    def diagonal(self) -> Array:
        """H_ii, (k,), above 0."""
        dense = not sparse.issparse(self.part)
        diagonal = self.matrix.diagonal() if dense else np.asarray((self.part * self.part).T @ self.root**2)
        return diagonal + np.finfo(float).tiny

    def newton_step(self, gradient: Array, free: Flags) -> Array:
        """Solve H d = -gradient on the free coordinates, zero on the others; the shortest d if H is singular.

        If H is badly conditioned, the equivalent least-squares problem min_d |D^(1/2) W d + D^(-1/2) s|_2, with
        gradient = W^T s, is solved instead: it keeps the digits that H loses.
        """
        direction = np.zeros_like(gradient)
        if not free.any():
            return direction
        sizes = np.sqrt(self.diagonal[free])
        if sparse.issparse(self.part):
            root = sparse.diags_array(self.root) @ self.part[:, free] @ sparse.diags_array(1 / sizes)
            best, *_ = lsmr(root, -self.signed / self.root, atol=_SPARSE, btol=_SPARSE, maxiter=1000)
            direction[free] = best / sizes
            return direction
        unit = (self.matrix if free.all() else self.matrix[np.ix_(free, free)]) / sizes
        unit /= sizes[:, None]
        unit.flat[:: len(unit) + 1] += self.ridge
        # The matrix is symmetric; its transpose has the layout of LAPACK.
        factor, info = linalg.lapack.dpotrf(unit.T, clean=False, overwrite_a=True)
        if info == 0 and (self.ridge or factor.diagonal().min() > _WELL_CONDITIONED):
            direction[free] = linalg.lapack.dpotrs(factor, -gradient[free] / sizes)[0] / sizes
            return direction
        best, *_ = linalg.lstsq(
            self.part[:, free] / sizes * self.root[:, None], -self.signed / self.root, cond=_RANK,
            lapack_driver="gelsy", check_finite=False,
        )  # fmt: skip
        direction[free] = best / sizes
        return direction
