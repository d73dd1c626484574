"""The first lemmas: how large hidden outputs and codes can be, from one small linear program a layer."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unrelu.layer.dense import ROUTINES
from unrelu.proofs.chain import Chain
from unrelu.proofs.compiling import compile_simplex
from unrelu.proofs.lemmas import BALANCE, LATENT, SUM, Lemma, everywhere
from unrelu.proofs.safe_bounds import Multipliers, Region
from unrelu.proofs.simplex import OPTIMAL, dual_simplex

__all__ = ["first_lemmas", "latent_lemmas"]

Array = npt.NDArray[np.float64]

# The multipliers of sums are made larger by this share, so that rounding errors cannot turn a coefficient negative.
_MORE = 1e-9
_FAR = 1e9


def first_lemmas(chain: Chain, level: float, end: float = math.inf) -> list[Lemma]:
    """Lemmas that bound the hidden layers and the code at F(z) < level, from the output down as far as they go.

    None begins after ``end``, by ``time.perf_counter()``. Layer l is bounded by max sum h_l subject to h_l >= 0, low
    <= W_{l+1} h_l + b_{l+1} <= high, where layer l is ReLU.
    """
    compile_simplex()
    lemmas: list[Lemma] = []
    if math.isfinite(everywhere(chain, level, lemmas).radius):
        return lemmas
    for layer in range(chain.depth - 2, -1, -1):
        if (chain.slopes[layer] != 0).any() or time.perf_counter() > end:
            return lemmas
        found = _program(chain, everywhere(chain, level, lemmas), layer + 1, -np.ones(len(chain.biases[layer])), True)
        if found is None:
            return lemmas
        lemmas.append(Lemma(SUM, layer, replace(found, slopes=found.slopes * (1 + _MORE))))
    balance = _balance(chain)
    if balance is not None:
        return [*lemmas, balance]
    return lemmas + latent_lemmas(chain, level, lemmas, end)


def latent_lemmas(chain: Chain, level: float, lemmas: list[Lemma], end: float = math.inf) -> list[Lemma]:
    """Lemmas on every latent coordinate, which prove a smaller radius than BALANCE does; 2 k programs.

    Needed where rounding errors, which grow with the radius, keep bounds from meeting. Args as of ``first_lemmas``.
    """
    region, k = everywhere(chain, level, lemmas), chain.latent_dim
    latent: list[Lemma] = []
    for index in range(2 * k):
        cost = np.zeros(k)
        cost[index % k] = 1.0 if index < k else -1.0
        found = _program(chain, region, 0, cost, False)
        if found is None or time.perf_counter() > end:
            return []
        latent.append(Lemma(LATENT, index, found))
    return latent


def _balance(chain: Chain) -> Lemma | None:
    r"""Positive mu with W_1^T mu = 0, the smallest of them as large as possible; None if there are none.

    The dual of :math:`\max \tau` subject to mu >= tau, W^T mu = 0, 1^T mu = 1 is min nu subject to nu >= (W d)_i for
    all i, 1^T (nu - W d) = 1; its multipliers are mu - tau and tau.
    """
    weight = chain.weights[0]
    n, k = weight.shape
    rows = np.zeros((n + 2, k + 1))
    rows[:n, :k], rows[:n, k] = -weight, 1.0
    rows[n, :k], rows[n, k] = -weight.sum(axis=0), n
    rows[n + 1, k] = 1.0
    lo, hi = np.zeros(n + 2), np.full(n + 2, np.inf)
    lo[n] = hi[n] = 1.0
    cost = np.append(np.zeros(k), 1.0)
    basis = n + 2 + np.arange(k + 1)
    basis[-1] = n + 1
    y = _solved(rows, lo, hi, cost, basis, np.zeros(k + 1, dtype=bool))
    if y is None or not y[n] > 0 or (y[:n] + y[n] <= 0).any():
        return None
    slopes = np.zeros(chain.ends[-1])
    slopes[:n] = y[:n] + y[n]
    return Lemma(BALANCE, 0, Multipliers(np.zeros(len(chain.y)), slopes))


def _solved(
    rows: Array, lo: Array, hi: Array, cost: Array, basis: npt.NDArray[np.int64], upper: npt.NDArray[np.bool_]
) -> Array | None:
    """The multipliers of min cost.x subject to lo <= rows x <= hi, (M,), from a dual feasible basis; None if none."""
    m, n = rows.shape
    hard, y, state = np.full(m, np.inf), np.zeros(n), np.zeros(m, dtype=np.int8)
    status, _, _ = dual_simplex(
        ROUTINES, rows, np.linalg.norm(rows, axis=1), lo, hi, hard, hard, cost, basis, upper, state, np.zeros((n, n)),
        True, y, np.zeros(n), np.zeros(m), np.zeros(2), math.inf, 50 * n + 1000,
    )  # fmt: skip
    if status != OPTIMAL:
        return None
    every = np.zeros(m + n)
    every[basis] = y
    return every[:m]


def _program(chain: Chain, region: Region, layer: int, cost: Array, positive: bool) -> Multipliers | None:
    """The multipliers of min cost.h subject to low <= W h + b <= high of one layer, and h >= 0 if ``positive``."""
    here = slice(int(chain.ends[layer]), int(chain.ends[layer + 1]))
    weight, shift, n = chain.weights[layer], chain.biases[layer], len(cost)
    rows = np.ascontiguousarray(np.vstack([weight, np.eye(n)]))
    box = np.full(n, _FAR)
    lo = np.concatenate([region.low[here] - shift, np.zeros(n) if positive else -box])
    hi = np.concatenate([region.high[here] - shift, box])
    y = _solved(rows, lo, hi, cost, len(weight) + np.arange(n), cost < 0)
    # At the ends of the box there is no bound; an end at 0 is none of these.
    if y is None or (y[len(weight) :] < -1e-9).any() or (not positive and (np.abs(y[len(weight) :]) > 1e-9).any()):
        return None
    slopes = np.zeros(chain.ends[-1])
    row, price = np.arange(len(weight)), y[: len(weight)]
    # By rounding a multiplier may be on a side that is missing, where the bound would be infinite.
    price = np.where(np.isinf(lo[row]), np.minimum(price, 0.0), price)
    slopes[here] = -np.where(np.isinf(hi[row]), np.maximum(price, 0.0), price)
    return Multipliers(np.zeros(len(chain.y)), slopes)
