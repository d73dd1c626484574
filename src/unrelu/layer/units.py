r"""A layer method at any scale: the layer in ordinary units, and what is found in those of the caller.

x = phi(W h + b) has two units, that of the output and that of the input. With factors s and t

.. math:: W' = \frac{s}{t} W, \quad b' = s b, \quad x' = s x, \quad \varepsilon' = s \varepsilon, \quad h' = t h

is the same layer (s = 1 behind a sigmoid or tanh). The factors are powers of two, so that nothing is rounded, and 1
where no square of a number overflows or vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.layer.rows import LayerSystem, checked_target
from unrelu.layer.solution import LayerSolution

__all__ = ["at_any_scale"]

Array = npt.NDArray[np.float64]

# Numbers from 2^-40 to 2^40 have squares and squares of squares, and the solvers have units of their own for them.
_ORDINARY = 40


def at_any_scale(power: int) -> Callable[[Callable[..., LayerSolution]], Callable[..., LayerSolution]]:
    """Let a layer method's ``__call__`` see ordinary numbers; its objective is in units of the output to ``power``."""

    def decorate(method: Callable[..., LayerSolution]) -> Callable[..., LayerSolution]:
        @wraps(method)
        def call(
            self: Any, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
        ) -> LayerSolution:
            target = checked_target(system, target)
            out, into = _exponents(system, target)
            if not (out or into):
                return method(self, system, target, threshold, time_limit)
            with np.errstate(over="ignore", under="ignore"):
                given = None if threshold is None else float(np.ldexp(threshold, out))
                found = method(self, _in_units(system, out, into), np.ldexp(target, out), given, time_limit)
                return replace(
                    found, h=system.inside(np.ldexp(found.h, -into)),
                    objective=float(np.ldexp(found.objective, -power * out)),
                    threshold=float(np.ldexp(found.threshold, -out)),
                )  # fmt: skip

        return call

    return decorate


def _exponents(system: LayerSystem, target: Array) -> tuple[int, int]:
    """Exponents of s and t: what makes the output's largest entry ordinary, and then the largest weight."""
    out = 0
    if not system.activation.smooth:
        # The biases as :func:`first_threshold` looks at them: beside larger ones x has fewer digits.
        out = _exponent(max(float(np.abs(target).max()), 1e-3 * float(np.abs(system.bias).max(initial=0.0))))
    largest = float(abs(system.matrix).max()) if system.n_out else 0.0
    weights = math.frexp(largest)[1] + out
    return out, weights if abs(weights) > _ORDINARY and largest > 0 else 0


def _exponent(largest: float) -> int:
    exponent = math.frexp(largest)[1]
    return -exponent if largest > 0 and abs(exponent) > _ORDINARY else 0


def _in_units(system: LayerSystem, out: int, into: int) -> LayerSystem:
    given, change = system.matrix, out - into
    if isinstance(given, np.ndarray):
        matrix = np.ldexp(given, change)
    else:
        matrix = sparse.csr_array((np.ldexp(given.data, change), given.indices, given.indptr), given.shape)
    return replace(
        system, matrix=matrix, bias=np.ldexp(system.bias, out), lower=np.ldexp(system.lower, into),
        upper=np.ldexp(system.upper, into),
    )  # fmt: skip
