r"""Bounds of the hidden layers and the code before the search, from the output down, by one small program per layer.

They keep the rounding errors of all further bounds finite, so crude ones suffice.
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
from unrelu.runtime.work_clock import now

# The multipliers of sums are enlarged by this share, so that rounding errors cannot make a coefficient negative.
_MORE = 1e-9


def backward_bounds(chain: CertifiedChain, level: float, end: float = math.inf) -> Lemmas:
    """Lemmas that bound the hidden layers and the code at F(z) < level, from the output down as far as possible.

    No program begins after ``end``, by ``now()``. A code with bounds needs no lemmas. A ReLU layer l is bounded by
    max sum h_l subject to h_l >= 0, low <= W_{l+1} h_l + b_{l+1} <= high.
    """
    lemmas = Lemmas()
    if chain.bounds is not None or math.isfinite(backward_propagation(chain, level, lemmas).radius):
        return lemmas
    for layer in range(chain.depth - 2, -1, -1):
        if chain.slopes[layer].any() or now() > end:
            return lemmas
        found = _largest_sum(chain, backward_propagation(chain, level, lemmas), layer)
        if found is None:
            return lemmas
        lemmas = Lemmas((*lemmas.sums, found))
    return Lemmas(lemmas.sums, _balance(chain.weights[0]))


def _largest_sum(chain: CertifiedChain, region: Region, layer: int) -> Multipliers | None:
    """The multipliers of the largest sum of a ReLU layer's outputs h >= 0, from the intervals of the next layer."""
    at, weight = chain.neurons(layer + 1), chain.weights[layer + 1]
    low, high = region.low[at], region.high[at]
    n, shift = weight.shape[1], chain.biases[layer + 1]
    far = np.full(n, np.inf)
    solved = solve(LinearProgram(-np.ones(n), sparse.csc_array(weight), low - shift, high - shift, np.zeros(n), far))
    if solved.status is not LpStatus.OPTIMAL:
        return None
    slopes = np.zeros(chain.ends[-1])
    # By rounding, a row without an upper or lower side may have a multiplier for it, and the bound would be infinite.
    ends = np.where(np.isinf(high), 0.0, -np.inf), np.where(np.isinf(low), 0.0, np.inf)
    slopes[at] = -np.clip(solved.row_dual, *ends)
    return Multipliers(np.zeros(len(chain.y)), slopes).times(1 + _MORE)


def _balance(weight: Array) -> Array:
    """mu >= 1 with W^T mu = 0, by non-negative least squares; empty if there is no such mu."""
    try:
        more, off = nnls(weight.T, -weight.sum(axis=0))
    except RuntimeError:
        return np.zeros(0)
    return 1 + more if off < 1e-9 * np.abs(weight).sum() else np.zeros(0)
