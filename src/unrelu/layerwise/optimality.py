r"""Checking a solution of a layer program from first principles: W, x, h and one multiplier a row, nothing else.

With u = W h, the violation of row j is

.. math:: e_j = \max(0, (u_j - c_j) / p_j, (c_j - u_j) / q_j)

where a missing side drops out; c_j is where the sides start. For any multipliers y with :math:`-1/q_j \le y_j \le
1/p_j`,

.. math:: \sum_j e_j(h) \;\ge\; y^T (W h - c) \;\ge\; \min_{l \le h' \le u} t^T h' - y^T c, \qquad t = W^T y,

which is a lower bound on the minimum over all h. For the largest violation the multipliers satisfy
:math:`\sum_j p_j y_j^+ + q_j y_j^- \le 1` instead. A free h needs t = 0. Computed t has rounding: up to 1e-13 of
:math:`|W|^T |y|` it counts as zero, for then y has t = 0 exactly with a matrix whose entries are those of W up to a
share of 1e-13 (Oettli and Prager, Numer. Math. 6, 1964). The proof is one up to such changes of W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layerwise.layer_constraints import LayerSystem, Rows

Array = npt.NDArray[np.float64]

# An objective below this share of max|x| is zero: it is below what double precision can tell on these layers.
ZERO = 1e-10
# Accepted duality gap, relative to the objective; what rounding adds to it, relative to max|x|, for each row summed.
GAP, ROUNDING = 1e-8, 3e-15
# |W^T y| that is rounding, as a share of |W|^T |y|; accepted violation of a bound, relative to |h|.
DUAL, PRIMAL = 1e-13, 1e-8


@dataclass(frozen=True)
class OptimalityProof:
    """What was computed from W, x, h and the multipliers.

    Attributes:
        objective: max_j e_j or sum_j e_j at h.
        bound: the lower bound on the minimum that the multipliers give.
        primal: the largest violation of a bound of h, relative to max|h|.
        dual: the largest part of W^T y that no bound of h can take, as a share of |W|^T |y|.
        slackness: the largest e_j - y_j r_j of a row ("l1") or t_i (h_i - bound_i): 0 at an optimum.
        scale: see :attr:`Rows.scale`.
        rounding: what rounding alone may make of the gap.
    """

    objective: float
    bound: float
    primal: float
    dual: float
    slackness: float
    scale: float
    rounding: float

    @property
    def gap(self) -> float:
        """Objective minus bound; a negative gap is rounding."""
        return self.objective - self.bound

    @property
    def tolerance(self) -> float:
        """The accepted gap: 1e-8 of the objective and the rounding of x."""
        return GAP * self.objective + self.rounding

    @property
    def holds(self) -> bool:
        """Whether h is optimal: feasible, with feasible multipliers and no gap, or an objective that counts as zero.

        NaN anywhere says no.
        """
        closed = self.dual_holds and abs(self.gap) <= self.tolerance
        return self.primal <= PRIMAL and (closed or self.objective <= ZERO * self.scale)

    @property
    def dual_holds(self) -> bool:
        """Whether the multipliers are feasible, so that ``bound`` is one."""
        return self.dual <= DUAL


def prove(system: LayerSystem, rows: Rows, norm: str, h: Array, y: Array) -> OptimalityProof:
    """Check h and its multipliers y, (n,), for the smallest largest ("linf") or summed ("l1") violation.

    Multipliers outside their box are moved into it first, so the bound never depends on their being right.
    """
    (lower, upper), scale = rows.box, rows.scale
    r = np.asarray(system.matrix @ h) - rows.center
    errors = np.maximum(upper * r, lower * r)
    if norm == "l1":
        y = np.minimum(np.maximum(y, lower), upper)
        objective, slack = float(errors.sum()), errors - y * r
    else:
        up, down = rows.slopes
        share = np.maximum(up * y, -down * y)
        size = max(float(share.sum()), 1.0)
        y = np.where(share > 0, y / size, 0.0)
        objective = float(errors.max(initial=0.0))
        slack = share * (objective / size) - y * r
    pull, residual = _pull(system, h, y, np.abs(y))
    return OptimalityProof(
        objective,
        float(y @ r - pull.sum()),
        _outside(system, h),
        residual,
        float(max(np.abs(slack).max(initial=0.0), np.abs(pull).max(initial=0.0))),
        scale,
        ROUNDING * scale * (len(r) if norm == "l1" else 1),
    )


def _pull(system: LayerSystem, h: Array, y: Array, size: Array) -> tuple[Array, float]:
    """t_i (h_i - bound_i), t = W^T y, with the bound that t pushes h_i against, and the largest t_i that has none.

    The latter relative to |W|^T size, where ``size`` is what the terms of y are made of.

    A t that is rounding counts as zero: its product with the distance of a bound can be larger than the objective.
    """
    t = np.asarray(system.matrix.T @ y)
    side = np.where(t > 0, system.lower, system.upper)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(t == 0, 0.0, np.abs(t) / np.asarray(system.absolute.T @ size))
    held = np.isfinite(side)
    pull = np.where(held & ~(relative <= DUAL), t * (h - np.where(held, side, 0.0)), 0.0)
    return pull, float(relative.max(initial=0.0, where=~held))


def _outside(system: LayerSystem, h: Array) -> float:
    """The largest violation of a bound of h, relative to max|h|."""
    outside = float(np.maximum(system.lower - h, h - system.upper).max(initial=0.0))
    return outside / max(float(np.abs(h).max(initial=0.0)), np.finfo(float).tiny)


@dataclass(frozen=True)
class ResponseProof:
    """What was computed from W, h and the multipliers of the relaxation (8).

    Attributes:
        objective: c.(W h).
        bound: the upper bound on the maximum that the multipliers give.
        excess: the largest violation of a side, relative to the scale of the sides.
        primal, dual: as in :class:`OptimalityProof`.
        unit: what the objective changes by when every row moves by that scale.
    """

    objective: float
    bound: float
    excess: float
    primal: float
    dual: float
    unit: float

    @property
    def holds(self) -> bool:
        """Whether h is optimal. NaN anywhere says no."""
        feasible = self.excess <= 1e-6 and self.primal <= PRIMAL and self.dual <= DUAL
        return feasible and abs(self.bound - self.objective) <= 1e-6 * self.unit


def prove_response(
    system: LayerSystem, weight: Array, side: Array, scale: float, h: Array, multipliers: Array
) -> ResponseProof:
    r"""Check h and lambda >= 0, (n,), for max c.(W h) subject to W h <= side: with t = W^T (c - lambda),

    .. math:: c^T W h \le \lambda^T side + \max_{l \le h' \le u} t^T h'
    """
    there = np.isfinite(side)
    lam = np.where(there, np.maximum(multipliers, 0.0), 0.0)
    wh = np.asarray(system.matrix @ h)
    # lambda - c are the multipliers of the minimum of -c.(W h).
    pull, residual = _pull(system, h, lam - weight, lam + weight)
    objective = float(weight @ wh)
    slack = np.where(there, side - wh, 0.0)
    return ResponseProof(
        objective,
        objective + float(lam @ slack + pull.sum()),
        -float(slack.min(initial=0.0)) / scale,
        _outside(system, h),
        residual,
        scale * float(weight.sum()) + 1e-9 * abs(objective) + np.finfo(float).tiny,
    )
