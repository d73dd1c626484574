r"""Bounds of the hidden layers and the code before the search, from the output down, by one small program per layer.

They only keep the rounding errors of later bounds finite, so crude ones suffice.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.optimize import nnls

from unrelu.certification.bound_propagation import Lemmas, backward_propagation
from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.array_types import Array
from unrelu.runtime.run_control import now

# The program of a sum demands this share more than the coefficient of each h, so that rounding cannot leave less.
_MORE = 1e-9


def backward_bounds(chain: CertifiedChain, level: float, end: float = math.inf) -> Lemmas:
    """Find lemmas that bound the hidden layers and the code at F(z) < level, from the output down as far as possible.

    A ReLU layer l is bounded by max sum h_l subject to h_l >= 0, low <= W_{l+1} h_l + b_{l+1} <= high. No program
    begins after ``end``, by ``now()``. A code with bounds needs no lemmas.
    """
    lemmas = Lemmas()
    if chain.bounds is not None:
        return lemmas
    for layer in range(chain.depth - 2, -1, -1):
        region = backward_propagation(chain, level, lemmas)
        found: Multipliers | None = Multipliers(np.zeros(len(chain.y)), np.zeros(chain.ends[-1]))
        if not np.isfinite(region.high[chain.neurons(layer)]).all():
            found = None if chain.slopes[layer].any() or now() > end else _largest_sum(chain, region, layer)
        if found is None:
            return lemmas
        lemmas = Lemmas((*lemmas.sums, found))
    known = math.isfinite(backward_propagation(chain, level, lemmas).radius)
    return lemmas if known else Lemmas(lemmas.sums, _balance(chain.weights[0]))


def _largest_sum(chain: CertifiedChain, region: Region, layer: int) -> Multipliers | None:
    """Bound the sum of a ReLU layer's outputs h >= 0 by the intervals of the next layer; None if that is impossible.

    The multipliers solve the dual program, with a row for each h: min high . p - low . q subject to W^T (p - q) >= 1.
    """
    at, weight, shift = chain.neurons(layer + 1), chain.weights[layer + 1], chain.biases[layer + 1]
    above, below = np.flatnonzero(np.isfinite(region.high[at])), np.flatnonzero(np.isfinite(region.low[at]))
    matrix = sparse.csc_array(np.vstack([weight[above], -weight[below]]).T)
    cost = np.concatenate([(region.high[at] - shift)[above], (shift - region.low[at])[below]])
    n, size = matrix.shape
    least, far = np.full(n, 1 + _MORE), np.full(n, np.inf)
    solved = solve(LinearProgram(cost, matrix, least, far, np.zeros(size), np.full(size, np.inf)))
    if solved.status is not LpStatus.OPTIMAL:
        return None
    y, slopes = np.maximum(solved.x, 0.0), np.zeros(chain.ends[-1])
    slopes[at] += np.bincount(above, y[: len(above)], len(weight))
    slopes[at] -= np.bincount(below, y[len(above) :], len(weight))
    return Multipliers(np.zeros(len(chain.y)), slopes)


def _balance(weight: Array) -> Array:
    """Find mu >= 1 with W^T mu = 0 by non-negative least squares; empty if there is no such mu."""
    try:
        more, off = nnls(weight.T, -weight.sum(axis=0))
    except RuntimeError:
        return np.zeros(0)
    return 1 + more if off < 1e-9 * np.abs(weight).sum() else np.zeros(0)
