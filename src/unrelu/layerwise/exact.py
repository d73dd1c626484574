"""``exact``: the input of a layer from its active rows, and the dimension of the preimage, for data without noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from unrelu.errors import OptionError
from unrelu.layerwise._layer_method import LayerSolution, status_of
from unrelu.layerwise.layer_constraints import LayerSystem, checked_target
from unrelu.lp.lp_status import LpStatus
from unrelu.lp.polytopes import Polytope, deepest_point
from unrelu.measurements.noise import Noise
from unrelu.result import Ending, Status
from unrelu.runtime.array_types import Array
from unrelu.runtime.memory_limits import DENSE_NUMBERS

_ENDS: dict[LpStatus, Status | Ending] = {
    LpStatus.OPTIMAL: Status.EXACT_FIT,
    LpStatus.INFEASIBLE: Ending.NOT_REALIZABLE,
}


@dataclass(frozen=True)
class Exact:
    """Solve w_j.h + b_j = phi^{-1}(x_j) for the outputs where phi is invertible, w_j.h + b_j <= 0 for the others.

    If the active rows have rank k, h is their unique solution (Theorem 2). LeakyReLU, sigmoid and tanh are inverted
    output by output (equation (5)). If the rank is lower, the feasibility problem (4) gives a point inside the polytope
    of preimages, whose dimension is reported as ``freedom``. If no h gives the target, h is the least-squares solution
    of the active rows, and the status NOT_REALIZABLE.

    Args:
        tolerance: outputs and errors up to ``tolerance * max|x|`` count as zero. The default is 1e-9, or 50 times the
            precision of a network evaluated in float32.

    Raises:
        OptionError: the tolerance is not between 0 and 1.
    """

    tolerance: float | None = None
    norm = "l2"
    # The factorisations are dense and cannot be stopped at a time limit.
    largest = DENSE_NUMBERS

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise OptionError(f"tolerance={self.tolerance} must be between 0 and 1")

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        """See :class:`LayerMethod`; ``threshold`` is not used."""
        target = checked_target(system, target)
        tolerance = self.tolerance or max(1e-9, 50 * system.precision)
        scale = max(float(np.abs(target).max()), np.finfo(float).tiny)
        # With columns of norm 1, as LP solvers have absolute tolerances and drop coefficients below 1e-9.
        size = system.norms
        unit = replace(system, matrix=system.balanced, lower=system.lower * size, upper=system.upper * size)
        found = deepest_point(preimage(unit, target, tolerance * scale), tolerance, time_limit)
        h = system.inside(found.point / size)
        error = float(np.abs(system.value(h) - system.activation.clip(target)).max())
        status, freedom = _ENDS.get(found.status) or status_of(found.status), found.dimension
        # Rounding grows with the condition of W, so the error is compared with the square root of the tolerance.
        if status is Status.EXACT_FIT and error > math.sqrt(tolerance) * 1e-2 * scale:
            status, freedom = Ending.NOT_REALIZABLE, -1
        if status is Status.EXACT_FIT and freedom:
            status = Status.NOT_UNIQUE
        return LayerSolution(h, error, status, 0, tolerance * scale, 1, freedom)


def preimage(system: LayerSystem, target: Array, tolerance: float) -> Polytope:
    """Write the preimage of ``target`` as a polytope.

    An output gives an equation by (5) where the activation is strictly monotone, and an inequality where it is within
    ``tolerance`` of a flat end.
    """
    activation, matrix = system.activation, system.dense
    x = activation.clip(target, margin=1e-15)
    low, high = activation.preimage(x - tolerance, x + tolerance)
    u = activation.inverse(x) - system.bias
    on, off = np.isfinite(low) & np.isfinite(high), ~np.isfinite(low) & np.isfinite(high)
    saturated = np.isfinite(low) & ~np.isfinite(high)
    sides_low, sides_high = np.isfinite(system.lower), np.isfinite(system.upper)
    unit = np.eye(system.n_in)
    return Polytope(
        equal=matrix[on],
        equal_side=u[on],
        below=np.concatenate([matrix[off], -matrix[saturated], -unit[sides_low], unit[sides_high]]),
        below_side=np.concatenate([u[off], -u[saturated], -system.lower[sides_low], system.upper[sides_high]]),
    )
