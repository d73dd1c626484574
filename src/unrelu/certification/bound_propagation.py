r"""Bound propagation: intervals of all layers at codes with F(z) < level, backwards to the code and forwards again.

Backwards, the intervals of a layer's outputs bound its inputs by the pseudo-inverse of its weights. Forwards, interval
arithmetic bounds each layer by the one before. Lemmas are further bounds, stored with the multipliers that prove them
(:mod:`~unrelu.certification.bound_tightening`). They are applied in order: each may use intervals that earlier ones
have proved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region, lower_bound
from unrelu.runtime.array_types import Array

# If nothing bounds the code, proofs hold for codes with |z_i| up to this.
RADIUS = 1e4
_UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class Lemmas:
    """Further bounds of the hidden layers and the code.

    Attributes:
        sums: the multipliers of bounds on the sum of a hidden ReLU layer's outputs, from the last such layer backwards.
        balance: mu > 0 with W_1^T mu = 0, (n_1,), by which upper bounds of the first layer bound the code; or empty.
    """

    sums: tuple[Multipliers, ...] = ()
    balance: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Regions:
    """Two regions that contain all codes with F(z) < level.

    Attributes:
        sharp: from level sets and lemmas, infinite where these give no bound. Relaxations are built from it.
        full: ``sharp`` intersected with interval arithmetic from the radius or the bounds of the codes, so that all
            intervals are finite. It measures rounding errors. With bounds of the codes, ``sharp`` equals ``full``.
        proven: whether the radius is proved, so that both hold for all z (within the bounds). Otherwise they hold for
            codes up to RADIUS.
    """

    sharp: Region
    full: Region
    proven: bool


def level_set(chain: CertifiedChain, level: float) -> tuple[Array, Array]:
    """Compute the interval of v with err_j(v) < level for every output, rounded outwards; (1, 0) if it is empty."""
    y, flat = chain.y, chain.slopes[-1] == 0
    low, high = (side - sign * 4 * _UNIT * (np.abs(side) + level) for side, sign in ((y - level, 1), (y + level, -1)))
    below, above = _before(chain.slopes[-1], low, high)
    # An inactive output has the error y.
    below = np.where(flat & (y >= level), np.maximum(low, 0.0), below)
    empty = flat & (high < 0)
    return np.where(empty, 1.0, below), np.where(empty, 0.0, above)


def region_of(chain: CertifiedChain, level: float, lemmas: Lemmas) -> Regions:
    """Compute the regions of codes with F(z) < level. Every lemma is recomputed from its multipliers.

    The lemmas hold for all z. Interval arithmetic follows, from the radius that they prove. If they prove none, the
    radius is RADIUS, and what follows holds for codes up to it.
    """
    sharp = backward_propagation(chain, level, lemmas)
    proven = math.isfinite(sharp.radius)
    sharp = sharp if proven else replace(sharp, radius=RADIUS)
    full = forward_propagation(chain, sharp)
    return Regions(sharp if chain.bounds is None else full, full, proven)


def backward_propagation(chain: CertifiedChain, level: float, lemmas: Lemmas) -> Region:
    """Compute the region of all z with F(z) < level, from level sets of the outputs, inverses of layers and lemmas.

    In W h + b = u, the rows with two finite ends of u bound the inputs h of a layer. These are the outputs of the layer
    before, so they bound its u. This is equation (5) of the paper with intervals. The first layer bounds the code.
    """
    unknown = np.full(chain.ends[-2], np.inf)
    low, high = level_set(chain, level)
    region = Region(np.concatenate([-unknown, low]), np.concatenate([unknown, high]), math.inf)
    for layer in range(chain.depth - 1, 0, -1):
        here, before = chain.neurons(layer), chain.neurons(layer - 1)
        low, high = inverted(chain, layer, region.low[here], region.high[here])
        index = chain.depth - 1 - layer
        if index < len(lemmas.sums):
            high = np.minimum(high, _largest(chain, region, level, layer - 1, lemmas.sums[index]))
        region.low[before], region.high[before] = _before(chain.slopes[layer - 1], low, high)
    first = chain.neurons(0)
    low, slack = _balanced(chain, region.low[first], region.high[first], lemmas.balance)
    ends = [inverted(chain, 0, low, region.high[first], slack)]
    ends += [] if chain.bounds is None else [(chain.bounds.lower, chain.bounds.upper)]
    return replace(region, radius=min(float(np.abs(end).max()) for end in ends))


def _largest(chain: CertifiedChain, region: Region, level: float, layer: int, multipliers: Multipliers) -> float:
    """Bound the outputs of a ReLU layer from above by their sum, as none of them is negative."""
    if chain.slopes[layer].any() or not multipliers.slopes.any():
        return math.inf
    total = np.zeros(chain.ends[-1])
    total[chain.neurons(layer)] = -1.0
    value = lower_bound(chain, region, multipliers, level, total=total)
    return -value.constant if not value.tilt and math.isfinite(value.constant) else math.inf


def inverted(
    chain: CertifiedChain, layer: int, low: Array, high: Array, slack: Array | float = 0.0
) -> tuple[Array, Array]:
    r"""Bound the inputs h of a layer with low - slack |h|_inf <= W h + b <= high, by infinity if nothing is proved.

    From the rows with two finite ends, with P the pseudo-inverse of their W: h = P (u - b) + (I - P W) h. So h is
    within R_i + D_i |h|_inf of P ((low + high) / 2 - b), with R = |P| (high - low) / 2 and D the sums of the rows of
    |I - P W| and |P| slack. The largest |h|_i follows if all D_i < 1. All are rounded upwards.
    """
    rows = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    weight, bias, low, high = chain.weights[layer][rows], chain.biases[layer][rows], low[rows], high[rows]
    nothing = np.full(weight.shape[1], np.inf)
    if len(rows) < weight.shape[1]:
        return -nothing, nothing
    inverse, rounding = np.asarray(np.linalg.pinv(weight)), 4 * (len(rows) + 8) * _UNIT
    size = np.abs(inverse)
    error = np.abs(np.eye(len(inverse)) - inverse @ weight) + rounding * (size @ np.abs(weight))
    error = 1.001 * (error.sum(axis=1) + size @ np.broadcast_to(slack, chain.biases[layer].shape)[rows])
    if not float(error.max()) < 0.5:
        return -nothing, nothing
    center = inverse @ ((low + high) / 2 - bias)
    reach = size @ ((high - low) / 2) * (1 + rounding)
    reach = reach + rounding * (size @ (np.abs(low) + np.abs(high) + np.abs(bias)))
    reach = reach + error * 1.001 * float((np.abs(center) + reach).max()) / (1 - float(error.max()))
    return center - reach, center + reach


def _balanced(chain: CertifiedChain, low: Array, high: Array, mu: Array) -> tuple[Array, Array | float]:
    r"""Bound all u = W z + b of the first layer from below, by their upper ends H and a balance mu.

    Let mu > 0 with W^T mu = 0 up to rounding, and rho the sum of the rounding errors of W^T mu. The mu-weighted sum of
    u - b is at least :math:`-\rho |z|_\infty`. So each u_i is at least :math:`b_i - (C + \rho |z|_\infty) / \mu_i`
    with :math:`C = \sum_j \mu_j (|H_j| + |b_j|)`. Return the lower ends, and the factors of :math:`|z|_\infty`.
    """
    weight, bias = chain.weights[0], chain.biases[0]
    if not (len(mu) and (mu > 0).all() and np.isfinite(mu).all() and np.isfinite(high).all()):
        return low, 0.0
    rho = float((np.abs(mu @ weight) + 2 * (len(bias) + 4) * _UNIT * (mu @ np.abs(weight))).sum())
    below = bias - 1.001 * float(mu @ (np.abs(high) + np.abs(bias))) / mu
    return np.maximum(low, below - 4 * _UNIT * np.abs(below)), 1.001 * rho / mu


def _before(slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Compute the intervals of u with low <= phi(u) <= high, rounded outwards."""
    steep = np.where(slope > 0, slope, 1.0)
    below, above = np.where(low < 0, low / steep, low), np.where(high < 0, high / steep, high)
    below, above = below - 4 * _UNIT * np.abs(below), above + 4 * _UNIT * np.abs(above)
    flat = slope == 0
    return np.where(flat & (low <= 0), -np.inf, below), np.where(flat, np.maximum(above, 0.0), above)


def forward_propagation(chain: CertifiedChain, region: Region) -> Region:
    """Intersect a region with intervals that follow from its radius and the bounds of the codes, rounded outwards."""
    h_low, h_high = np.full(chain.latent_dim, -region.radius), np.full(chain.latent_dim, region.radius)
    if chain.bounds is not None:
        h_low, h_high = np.maximum(h_low, chain.bounds.lower), np.minimum(h_high, chain.bounds.upper)
    low, high = region.low.copy(), region.high.copy()
    for layer, (weight, bias) in enumerate(zip(chain.weights, chain.biases, strict=True)):
        here = chain.neurons(layer)
        size = np.abs(weight) @ np.maximum(np.abs(h_low), np.abs(h_high)) + np.abs(bias)
        reach = np.abs(weight) @ ((h_high - h_low) / 2) + size * 4 * (weight.shape[1] + 4) * _UNIT
        center = weight @ ((h_low + h_high) / 2) + bias
        low[here], high[here] = np.maximum(low[here], center - reach), np.minimum(high[here], center + reach)
        h_low, h_high = chain.outputs(layer, low[here]), chain.outputs(layer, high[here])
    return Region(low, high, region.radius)
