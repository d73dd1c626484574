"""The layer problems written down once more, in primal form, for an independent interior-point solver (Clarabel)."""

from __future__ import annotations

import clarabel
import numpy as np
from hypothesis import assume
from scipy import sparse

from unrelu.layerwise import LayerSystem, Rows


def _solve(quadratic, cost, matrix, side):
    """min 1/2 x'Px + c'x subject to A x <= b."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, 1e-10)
    cones = [clarabel.NonnegativeConeT(len(side))]
    problem = (sparse.csc_matrix(quadratic), cost, sparse.csc_matrix(matrix), side, cones, settings)
    solution = clarabel.DefaultSolver(*problem).solve()
    # An interior-point solver gives up near degenerate optima; such an example is drawn again.
    assume(str(solution.status) == "Solved")
    return solution.obj_val


def least_violation(system: LayerSystem, rows: Rows, norm: str, center: np.ndarray, size: float) -> float:
    """min max_j e_j, min sum_j e_j or min sum_j e_j^2 over the bounds of h, with one e_j >= 0 a row.

    Solved for w in h = center + size w, with the true input and the noise level: the solver's absolute tolerances are
    then relative to the noise.
    """
    n, k = system.matrix.shape
    up, down = np.isfinite(rows.high), np.isfinite(rows.low)
    errors = np.ones((n, 1)) if norm == "linf" else np.eye(n)
    m = errors.shape[1]
    unit = np.hstack([np.eye(k), np.zeros((k, m))])
    has_lower, has_upper = np.isfinite(system.lower), np.isfinite(system.upper)
    matrix = np.vstack(
        [
            np.hstack([system.matrix / rows.high_slope[:, None], -errors])[up],
            np.hstack([-system.matrix / rows.low_slope[:, None], -errors])[down],
            np.hstack([np.zeros((m, k)), -np.eye(m)]),
            -unit[has_lower],
            unit[has_upper],
        ]
    )
    wh = system.matrix @ center
    lower, upper = system.lower - center, system.upper - center
    over, under = (rows.high - wh) / rows.high_slope, (wh - rows.low) / rows.low_slope
    side = np.concatenate([over[up], under[down], np.zeros(m), -lower[has_lower], upper[has_upper]])
    quadratic = np.zeros((k + m, k + m))
    cost = np.concatenate([np.zeros(k), np.ones(m)])
    power = 1
    if norm == "l2":
        quadratic[k:, k:], cost, power = 2 * np.eye(m), np.zeros(k + m), 2
    objective = _solve(quadratic, cost, matrix, side / size)
    return objective * size**power


def largest_response(system: LayerSystem, rows: Rows, center: np.ndarray, size: float) -> float:
    """max sum_j c_j w_j h subject to w_j h <= high_j + p_j eps: the relaxation (8), shifted and scaled likewise."""
    k = system.n_in
    up = np.isfinite(rows.high)
    weight = np.where(up, np.abs(rows.target) / rows.high_slope, 0.0)
    total = max(weight.sum(), 1e-300)
    has_lower, has_upper = np.isfinite(system.lower), np.isfinite(system.upper)
    scaled = system.matrix / rows.high_slope[:, None]
    matrix = np.vstack([scaled[up], -np.eye(k)[has_lower], np.eye(k)[has_upper]])
    wh = system.matrix @ center
    lower, upper = system.lower - center, system.upper - center
    sides = ((rows.high - wh) / rows.high_slope + rows.threshold)[up]
    side = np.concatenate([sides, -lower[has_lower], upper[has_upper]])
    objective = _solve(np.zeros((k, k)), -(system.matrix.T @ weight) / total, matrix, side / size)
    return -objective * size * total + float(weight @ wh)
