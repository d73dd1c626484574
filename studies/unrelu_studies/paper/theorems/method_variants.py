"""Variants of methods that use knowledge which a user does not have, or programs exactly as the paper writes them.

They test other readings of the paper's claims, and are not methods of the library.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from unrelu.layerwise import LayerSystem, LInf, rows
from unrelu.layerwise.layer_by_layer import layer_systems
from unrelu.layerwise.layer_program import Answer, largest_response
from unrelu.lp.lp_status import LpStatus
from unrelu.models.activations import Activation
from unrelu.models.network import Network
from unrelu_studies.kit.timing import timed

Array = npt.NDArray[np.float64]

_ALPHA = 1.2
# The most thresholds that are tried.
_GROWTHS = 200


def relaxed_knowing(network: Network, y: Array, truth: Array, eps: float) -> Array:
    r"""Codes (B, k) by the relaxation (8) with the stopping rule of the paper's released code, which uses true layers.

    It solves this program layer by layer from the last, where x is the observation y_i or the h of the layer above:

    .. math:: \max_h \sum_j [x_j \ge 2\varepsilon] \, x_j \, w_j h \quad w_j h \le \max(0, x_j + \varepsilon)

    eps grows by a factor of 1.2 until :math:`|\phi(W h) - x^*|_1` stops falling, where :math:`x^*` is the layer's
    *true* output (for the last layer, the observation). The first threshold is the given level of the noise. The next
    layer starts with the threshold at which this one stopped.

    Args:
        network: ReLU layers.
        y: observations, (B, n).
        truth: their codes, (B, k).
        eps: level of the noise.
    """
    systems = layer_systems(network, "relaxed")
    known = network.trace(truth)
    return np.stack([_one(systems, [x[i].ravel() for x in known], y[i], eps) for i in range(len(y))])


def _one(systems: list[LayerSystem], known: list[Array], y: Array, eps: float) -> Array:
    """The code of one observation, NaN if a layer has no solution; ``known`` are the true outputs of all layers."""
    target = y
    for place in reversed(range(len(systems))):
        system, judge = systems[place], y if place == len(systems) - 1 else known[place]
        best: tuple[float, Array] | None = None
        warm_start: Answer | None = None
        for _ in range(_GROWTHS):
            warm_start = _relaxation(system, target, eps, warm_start)
            if warm_start.status is not LpStatus.INFEASIBLE:
                error = float(np.abs(system.value(warm_start.h) - judge).sum())
                if best is not None and error >= best[0]:
                    break
                best = (error, warm_start.h)
            eps *= _ALPHA
        if best is None:
            return np.full(systems[0].n_in, np.nan)
        target = best[1]
    return target


def _relaxation(system: LayerSystem, target: Array, eps: float, warm_start: Answer | None) -> Answer:
    sides = rows(system, target, eps)
    # Outputs below twice the threshold are left out of the objective.
    counted = np.where(sides.target < 2 * eps, 0.0, sides.target)
    return largest_response(system, replace(sides, target=counted), warm_start=warm_start)


def inactive(network: Network, y: Array) -> Array:
    """Codes (B, k) by Algorithm 1 on a LeakyReLU network, with negative outputs treated as inactive ReLU outputs.

    The first reading of Remark 1: "view all negative coordinates as inactive coordinates of ReLU, and each observation
    will produce a loose bound".
    """
    method, relu, codes = LInf(), Activation("relu"), []
    free = [np.full(layer.n_in, np.inf) for layer in network.layers]
    systems = [
        LayerSystem(np.asarray(layer.matrix()), layer.bias(), relu, -bound, bound)
        for layer, bound in zip(network.layers, free, strict=True)
    ]
    for observed in y:
        target, threshold = observed, None
        for system in reversed(systems):
            solution = method(system, target, threshold)
            target, threshold = solution.h, system.input_threshold(solution.h, solution.threshold)
        codes.append(target)
    return np.stack(codes)


def program_times(network: Network, y: Array, eps: float) -> dict[str, Array]:
    """Seconds of HiGHS for the program of the last layer as the paper writes it, for Algorithm 2 and relaxation (8).

    Algorithm 2 has k + n unknowns, h and e; relaxation (8) has k.

    Args:
        network: ReLU layers.
        y: observations, (B, n).
        eps: their threshold.
    """
    layer = network.layers[-1]
    w, b = np.asarray(layer.matrix()), layer.bias()
    times: dict[str, list[float]] = {"l1": [], "relaxed": []}
    low = 0.0 if len(network.layers) > 1 else -np.inf
    for x in y:
        on, n = x > eps, len(x)
        upper, lower = np.hstack([w, -np.eye(n)]), np.hstack([-w[on], -np.eye(n)[on]])
        written = {
            "l1": {"c": np.r_[np.zeros(w.shape[1]), np.ones(n)], "A_ub": np.vstack([upper, lower]),
                   "b_ub": np.r_[x - b, b[on] - x[on]], "bounds": [(low, None)] * w.shape[1] + [(0, None)] * n},
            "relaxed": {"c": -np.maximum(x, 0) @ w, "A_ub": w, "b_ub": np.maximum(x, 0) + eps - b,
                        "bounds": [(low, None)] * w.shape[1]},
        }  # fmt: skip
        for name, program in written.items():
            times[name].append(timed(partial(linprog, **program, method="highs"))[1])
    return {name: np.array(values) for name, values in times.items()}
