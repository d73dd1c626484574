r"""Proving that a solution of a layer program is optimal, from W, x, h and one multiplier for each row alone.

With u = W h, the violation of row j is

.. math:: e_j = \max(0, (u_j - c_j) / p_j, (c_j - u_j) / q_j)

without the term of a missing side; c_j is where the sides start. For any multipliers y with :math:`-1/q_j \le y_j \le
1/p_j`,

.. math:: \sum_j e_j(h) \;\ge\; y^T (W h - c) \;\ge\; \min_{l \le h' \le u} t^T h' - y^T c, \qquad t = W^T y,

which is a lower bound on the minimum over all h. For the largest violation, the multipliers satisfy
:math:`\sum_j p_j y_j^+ + q_j y_j^- \le 1` instead. A coordinate of h without bounds needs t_i = 0. Computed t has
rounding errors, so it counts as zero up to 1e-13 of :math:`|W|^T |y|`: then t = 0 holds exactly for a matrix whose
entries differ from those of W by at most 1e-13 of each (Oettli and Prager, Numer. Math. 6, 1964). The proof holds up to
such changes of W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unrelu.layerwise.layer_constraints import LayerSystem, Rows
from unrelu.runtime.array_types import Array

# An objective below this fraction of max|x| counts as zero: double precision does not resolve it on these layers.
ZERO = 1e-10
# The accepted duality gap relative to the objective, and the addition for rounding of each summed row, relative to
# max|x|.
_GAP, _ROUNDING = 1e-8, 3e-15
# |W^T y| counts as zero up to the first fraction of |W|^T |y|; h may violate bounds by the second, relative to |h|.
_DUAL, _PRIMAL = 1e-13, 1e-8


@dataclass(frozen=True)
class OptimalityProof:
    """What W, h and the multipliers prove; NaN anywhere proves nothing.

    Attributes:
        objective: the objective at h.
        bound: a lower bound on the minimum or an upper one on the maximum; 0 or infinite if the multipliers prove none.
        holds: whether h is proved optimal.
    """

    objective: float
    bound: float
    holds: bool


def prove(system: LayerSystem, rows: Rows, norm: str, h: Array, y: Array) -> OptimalityProof:
    """Check h and its multipliers y, (n,), for the smallest largest ("linf") or summed ("l1") violation.

    Multipliers are first moved into their box ("l1") or scaled to a sum of 1 ("linf"), so any multipliers give a valid
    bound. h is optimal if it is feasible and there is no gap (up to 1e-8 of the objective and the rounding of x), or if
    the objective counts as zero.
    """
    lower, upper = rows.box
    r = np.asarray(system.matrix @ h) - rows.center
    errors = np.maximum(upper * r, lower * r)
    if norm == "l1":
        y = np.minimum(np.maximum(y, lower), upper)
        objective, rounding = float(errors.sum()), _ROUNDING * rows.scale * len(r)
    else:
        up, down = rows.slopes
        sizes = np.maximum(up * y, -down * y)
        y = np.where(sizes > 0, y / (float(sizes.sum()) or 1.0), 0.0)
        objective, rounding = float(errors.max(initial=0.0)), _ROUNDING * rows.scale
    pull, dual_holds = _pull(system, h, y, np.abs(y))
    bound = max(0.0, float(y @ r - pull.sum())) if dual_holds else 0.0
    closed = dual_holds and abs(objective - bound) <= _GAP * objective + rounding
    holds = _outside(system, h) <= _PRIMAL and (closed or objective <= ZERO * rows.scale)
    return OptimalityProof(objective, bound, holds)


def _pull(system: LayerSystem, h: Array, y: Array, size: Array) -> tuple[Array, bool]:
    """Compute t_i (h_i - bound_i), t = W^T y, with the bound that t pushes h_i against; say if all these bounds exist.

    t counts as zero up to 1e-13 of |W|^T size, where ``size`` is that of the terms of y. Otherwise rounding errors of
    t, times the distance of a bound, could exceed the objective.
    """
    t = np.asarray(system.matrix.T @ y)
    side = np.where(t > 0, system.lower, system.upper)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(t == 0, 0.0, np.abs(t) / np.asarray(system.absolute.T @ size))
    held = np.isfinite(side)
    pull = np.where(held & ~(relative <= _DUAL), t * (h - np.where(held, side, 0.0)), 0.0)
    return pull, float(relative.max(initial=0.0, where=~held)) <= _DUAL


def _outside(system: LayerSystem, h: Array) -> float:
    """Compute the largest violation of a bound by h, relative to max|h|."""
    outside = float(np.maximum(system.lower - h, h - system.upper).max(initial=0.0))
    return outside / max(float(np.abs(h).max(initial=0.0)), np.finfo(float).tiny)


def prove_response(
    system: LayerSystem, weight: Array, side: Array, scale: float, h: Array, y: Array
) -> OptimalityProof:
    r"""Check h and y = lambda >= 0, (n,), for max c.(W h) subject to W h <= side: with t = W^T (c - lambda),

    .. math:: c^T W h \le \lambda^T side + \max_{l \le h' \le u} t^T h'

    ``scale`` is the scale of the sides. h may exceed them by 1e-6 of it, and the gap may be as large as the change of
    the objective when every row moves by as much.
    """
    there = np.isfinite(side)
    lam = np.where(there, np.maximum(y, 0.0), 0.0)
    wh = np.asarray(system.matrix @ h)
    # lambda - c are the multipliers of the minimum of -c.(W h).
    pull, dual_holds = _pull(system, h, lam - weight, lam + weight)
    objective, slack = float(weight @ wh), np.where(there, side - wh, 0.0)
    bound = objective + float(lam @ slack + pull.sum()) if dual_holds else np.inf
    unit = scale * float(weight.sum()) + 1e-9 * abs(objective) + float(np.finfo(float).tiny)
    feasible = dual_holds and -float(slack.min(initial=0.0)) / scale <= 1e-6 and _outside(system, h) <= _PRIMAL
    return OptimalityProof(objective, bound, feasible and abs(bound - objective) <= 1e-6 * unit)
