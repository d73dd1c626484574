"""The first lemmas: how large hidden outputs and codes can be, from one small linear program a layer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unrelu.layer.dense import ROUTINES
from unrelu.proofs.chain import Chain
from unrelu.proofs.lemmas import LATENT, SUM, Lemma, everywhere
from unrelu.proofs.safe_bounds import Multipliers, Region
from unrelu.proofs.simplex import OPTIMAL, dual_simplex

__all__ = ["first_lemmas"]

Array = npt.NDArray[np.float64]

# The multipliers of sums are made larger by this share, so that rounding errors cannot turn a coefficient negative.
_MORE = 1e-9
_FAR = 1e9


def first_lemmas(chain: Chain, level: float) -> list[Lemma]:
    """Lemmas that bound the hidden layers and the code at F(z) < level, from the output down as far as they go.

    Layer l is bounded by max sum h_l subject to h_l >= 0, low <= W_{l+1} h_l + b_{l+1} <= high, where layer l is ReLU.
    """
    lemmas: list[Lemma] = []
    for layer in range(chain.depth - 2, -1, -1):
        if (chain.slopes[layer] != 0).any():
            return lemmas
        found = _program(chain, everywhere(chain, level, lemmas), layer + 1, -np.ones(len(chain.biases[layer])), True)
        if found is None:
            return lemmas
        lemmas.append(Lemma(SUM, layer, replace(found, slopes=found.slopes * (1 + _MORE))))
    region, k = everywhere(chain, level, lemmas), chain.latent_dim
    latent = []
    for index in range(2 * k):
        cost = np.zeros(k)
        cost[index % k] = 1.0 if index < k else -1.0
        found = _program(chain, region, 0, cost, False)
        if found is None:
            return lemmas
        latent.append(Lemma(LATENT, index, found))
    return lemmas + latent


def _program(chain: Chain, region: Region, layer: int, cost: Array, positive: bool) -> Multipliers | None:
    """The multipliers of min cost.h subject to low <= W h + b <= high of one layer, and h >= 0 if ``positive``."""
    here = slice(int(chain.ends[layer]), int(chain.ends[layer + 1]))
    weight, shift, n = chain.weights[layer], chain.biases[layer], len(cost)
    rows = np.ascontiguousarray(np.vstack([weight, np.eye(n)]))
    box = np.full(n, _FAR)
    lo = np.concatenate([region.low[here] - shift, np.zeros(n) if positive else -box])
    hi = np.concatenate([region.high[here] - shift, box])
    m = len(rows)
    hard, y, ray = np.full(m, np.inf), np.zeros(n), np.zeros(2)
    basis, upper, state = len(weight) + np.arange(n), cost < 0, np.zeros(m, dtype=np.int8)
    status, _, _ = dual_simplex(
        ROUTINES, rows, np.linalg.norm(rows, axis=1), lo, hi, hard, hard, cost, basis, upper, state, np.zeros((n, n)),
        True, y, np.zeros(n), np.zeros(m), ray, math.inf, 50 * n + 1000,
    )  # fmt: skip
    # At the ends of the box there is no bound.
    far = (basis >= len(weight)) & (upper if positive else True) & (np.abs(y) > 1e-9)
    if status != OPTIMAL or far.any():
        return None
    slopes = np.zeros(chain.ends[-1])
    inner = basis < len(weight)
    row, price = basis[inner], y[inner]
    # By rounding a multiplier may be on a side that is missing, where the bound would be infinite.
    price = np.where(np.isinf(lo[row]), np.minimum(price, 0.0), price)
    slopes[here][row] = -np.where(np.isinf(hi[row]), np.maximum(price, 0.0), price)
    return Multipliers(np.zeros(len(chain.y)), slopes)
