r"""Bounds on what the layers do at codes with F(z) < level, one layer at a time from the output: inversion as a proof.

A lemma is a bound with the multipliers that it follows from. They are applied in turn: each may use the intervals that
those before it have proved. The first ones say how large hidden outputs and codes can be, from one small linear program
a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.certification.safe_bounds import Multipliers, Region, lower_bound

Array = npt.NDArray[np.float64]

# A bound on: the sum of a hidden ReLU layer's outputs; u of a neuron from below and from above; a latent coordinate;
# the first layer from below, as its rows cannot all be negative.
SUM, LOW, HIGH, LATENT, BALANCE = range(5)
# Where nothing bounds the code, proofs are for codes with |z_i| up to this.
RADIUS = 1e4
_UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class Lemma:
    """One bound.

    Attributes:
        kind: SUM, LOW, HIGH, LATENT or BALANCE.
        index: a layer, a neuron counted through, or of LATENT the coordinate i for a bound on z_i from below and
            k + i for one on -z_i; 0 of BALANCE.
        multipliers: that it follows from; of BALANCE, positive mu with W_1^T mu = 0 as the slopes of the first layer.
    """

    kind: int
    index: int
    multipliers: Multipliers


@dataclass(frozen=True, eq=False)
class Regions:
    """What holds at F(z) < level, twice.

    Attributes:
        sharp: by level sets and lemmas, infinite where they say nothing; relaxations are built of it.
        full: met with interval arithmetic from the radius or the bounds of the codes, so that all is finite; rounding
            errors are measured by it. With bounds it is ``sharp`` too, as these are those that matter to the user.
        proven: whether the radius is proved, so that this holds for all z (within the bounds); otherwise it is about
            codes up to RADIUS.
    """

    sharp: Region
    full: Region
    proven: bool

    def at(self, chain: CertifiedChain, level: float) -> Regions:
        """The same met with the level set of a smaller level."""
        below = level_region(chain, level)
        sharp, full = (
            replace(region, low=np.maximum(below.low, region.low), high=np.minimum(below.high, region.high))
            for region in (self.sharp, self.full)
        )
        return Regions(sharp, full, self.proven)


def level_region(chain: CertifiedChain, level: float) -> Region:
    """The level set of the outputs, and nothing known of the others."""
    nothing = np.full(chain.ends[-2], np.inf)
    low, high = level_set(chain, level)
    return Region(np.concatenate([-nothing, low]), np.concatenate([nothing, high]), math.inf)


def level_set(chain: CertifiedChain, level: float) -> tuple[Array, Array]:
    """The interval of v in which err_j(v) < level, for every output, rounded outwards; (1, 0) where there is none."""
    y, c = chain.y, chain.slopes[-1]
    low, high = _outwards(y - level, level, -1), _outwards(y + level, level, 1)
    sloped = c > 0
    low = np.where(low >= 0, low, np.where(sloped, _over(low, c, -1), -np.inf))
    low = np.where((y >= level) & ~sloped, np.maximum(low, 0.0), low)
    empty = (high < 0) & ~sloped
    high = np.where(high >= 0, high, np.where(sloped, _over(high, c, 1), high))
    return np.where(empty, 1.0, low), np.where(empty, 0.0, high)


def _outwards(value: Array, level: float, side: int) -> Array:
    return value + side * 4 * _UNIT * (np.abs(value) + level)


def _over(value: Array, c: Array, side: int) -> Array:
    quotient = np.divide(value, c, out=np.zeros_like(value), where=c > 0)
    return quotient + side * 4 * _UNIT * np.abs(quotient)


def region_of(chain: CertifiedChain, level: float, lemmas: Sequence[Lemma]) -> Regions:
    """What holds at F(z) < level by the lemmas, each checked from its multipliers.

    First the SUM, BALANCE and LATENT lemmas, which hold for all z, then interval arithmetic from the radius that they
    prove (RADIUS if they prove none: all that follows is for codes up to there), then the others in turn.
    """
    sharp = everywhere(chain, level, lemmas)
    radius = min(sharp.radius, _radius(chain, sharp, [lemma for lemma in lemmas if lemma.kind == LATENT], level))
    for lemma in lemmas:
        if lemma.kind == BALANCE:
            radius = min(radius, _balanced(chain, sharp, lemma.multipliers.slopes[: len(chain.biases[0])]))
    sharp = replace(sharp, radius=radius if math.isfinite(radius) else RADIUS)
    full = propagated(chain, sharp)
    regions = Regions(sharp if chain.bounds is None else full, full, math.isfinite(radius))
    for lemma in lemmas:
        if lemma.kind in (LOW, HIGH):
            regions = _tightened(chain, regions, lemma, level)
    return regions


def everywhere(chain: CertifiedChain, level: float, lemmas: Sequence[Lemma]) -> Region:
    """What holds at F(z) < level for all z, by the level sets of the outputs, inverses of layers and the SUM lemmas.

    Where both ends of all u of a layer are known, W h + b = u bounds its inputs, and u of the layer before as far as
    its activation can be inverted: equation (5) of the paper with intervals. Of the first layer it bounds the code.
    """
    region = level_region(chain, level)
    low, high, radius = region.low, region.high, chain.radius
    for layer in range(chain.depth - 1, -1, -1):
        here = slice(int(chain.ends[layer]), int(chain.ends[layer + 1]))
        h_low, h_high = inverted(chain, layer, low[here], high[here])
        if not layer:
            radius = min(radius, float(np.maximum(np.abs(h_low), np.abs(h_high)).max()))
            break
        before = slice(int(chain.ends[layer - 1]), int(chain.ends[layer]))
        low[before], high[before] = _before(chain.slopes[layer - 1], h_low, h_high)
    region = Region(low, high, radius)
    for lemma in lemmas:
        if lemma.kind == SUM:
            region = _summed(chain, region, lemma, level)
    return region


def inverted(chain: CertifiedChain, layer: int, low: Array, high: Array) -> tuple[Array, Array]:
    r"""Intervals of the inputs h of a layer with low <= W h + b <= high; infinite where P, the pseudo-inverse, fails.

    h = P (u - b) + (I - P W) h, so that with R the largest |P (u - b)|_i, |h|_inf is at most R / (1 - |I - P W|_inf).
    """
    weight, bias = chain.weights[layer], chain.biases[layer]
    n, k = weight.shape
    nothing = np.full(k, -np.inf), np.full(k, np.inf)
    if n < k or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return nothing
    inverse = chain.inverse(layer)
    rounding = 4 * (n + 8) * _UNIT
    middle, half = (low + high) / 2 - bias, (high - low) / 2
    size = np.abs(inverse)
    center = inverse @ middle
    reach = size @ half * (1 + rounding) + rounding * (size @ (np.abs(low) + np.abs(high) + np.abs(bias)))
    left = np.abs(np.eye(k) - inverse @ weight).sum(axis=1) + rounding * (size @ np.abs(weight)).sum(axis=1)
    if not float(left.max()) < 0.5:
        return nothing
    largest = 1.001 * float((np.abs(center) + reach).max()) / (1 - float(left.max()))
    reach = reach + 1.001 * left * largest
    return center - reach, center + reach


def _before(slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Intervals of u with low <= phi(u) <= high, rounded outwards."""
    steep = np.where(slope > 0, slope, 1.0)
    below, above = np.where(low < 0, low / steep, low), np.where(high < 0, high / steep, high)
    below, above = below - 4 * _UNIT * np.abs(below), above + 4 * _UNIT * np.abs(above)
    flat = slope == 0
    return np.where(flat & (low <= 0), -np.inf, below), np.where(flat, np.maximum(above, 0.0), above)


def _summed(chain: CertifiedChain, region: Region, lemma: Lemma, level: float) -> Region:
    """All outputs of a ReLU layer are at least 0, so that each is at most their sum."""
    here = slice(int(chain.ends[lemma.index]), int(chain.ends[lemma.index + 1]))
    value = lower_bound(chain, region, lemma.multipliers, level, total=unit(chain, here, -1.0))
    if (chain.slopes[lemma.index] != 0).any() or value.tilt:
        return region
    high = region.high.copy()
    high[here] = np.minimum(high[here], -value.constant)
    return replace(region, high=high)


def _tightened(chain: CertifiedChain, regions: Regions, lemma: Lemma, level: float) -> Regions:
    here = slice(lemma.index, lemma.index + 1)
    extra = unit(chain, here, 1.0 if lemma.kind == LOW else -1.0)
    bound = lower_bound(chain, regions.full, lemma.multipliers, level, extra=extra).within(regions.full.radius)
    changed = []
    for region in (regions.sharp, regions.full):
        low, high = region.low.copy(), region.high.copy()
        if lemma.kind == LOW:
            low[here] = np.maximum(low[here], bound)
        else:
            high[here] = np.minimum(high[here], -bound)
        changed.append(replace(region, low=low, high=high))
    return Regions(changed[0], changed[1], regions.proven)


def unit(chain: CertifiedChain, here: slice, value: float) -> Array:
    """A number for some neurons and 0 for the others, (N,)."""
    vector = np.zeros(chain.ends[-1])
    vector[here] = value
    return vector


def _radius(chain: CertifiedChain, region: Region, group: list[Lemma], level: float) -> float:
    r"""The radius that bounds on all coordinates prove together; infinite if they do not.

    Each says :math:`\pm z_i \le \beta_i + \tau_i |z|_\infty` with a tiny tau, of any z, however large. Hence
    :math:`|z|_\infty \le \max_i \beta_i / (1 - \max_i \tau_i)`.
    """
    k, seen, beta, tilt = chain.latent_dim, set(), 0.0, 0.0
    for lemma in group:
        towards = np.zeros(k)
        towards[lemma.index % k] = 1.0 if lemma.index < k else -1.0
        value = lower_bound(chain, region, lemma.multipliers, level, towards=towards)
        seen.add(lemma.index)
        beta, tilt = max(beta, -value.constant), max(tilt, value.tilt)
    if seen != set(range(2 * k)) or not tilt < 0.5 or not math.isfinite(beta):
        return math.inf
    return beta / (1 - tilt) * (1 + 8 * _UNIT)


def _balanced(chain: CertifiedChain, region: Region, mu: Array) -> float:
    r"""The radius that upper bounds H of all u in the first layer prove, u = W z + b; infinite if they do not.

    With mu > 0 and W^T mu = 0 up to rounding, the mu-weighted sum of u - b is at least :math:`-\rho |z|_\infty`, rho
    the sum of what W^T mu is off by. So each u_i is at least :math:`-(C + \rho |z|_\infty) / \mu_i` with :math:`C =
    \sum_j \mu_j (|H_j| + |b_j|)`. For any P, z = P (u - b) + (I - P W) z, and all together

    .. math:: |z|_\infty \le \frac{|P|_\infty (\max_i |H_i| + |b|_\infty + C / \mu_{\min})}
        {1 - |P|_\infty \rho / \mu_{\min} - |I - P W|_\infty}.
    """
    weight, bias = chain.weights[0], chain.biases[0]
    high = np.abs(region.high[: len(bias)])
    if not ((mu > 0).all() and np.isfinite(mu).all() and np.isfinite(high).all()):
        return math.inf
    inverse = chain.inverse(0)
    size = float(np.abs(inverse).sum(axis=1).max())
    rounding = (len(bias) + 4) * _UNIT
    left = np.abs(np.eye(len(inverse)) - inverse @ weight).sum(axis=1)
    left = left + 2 * rounding * (np.abs(inverse) @ np.abs(weight)).sum(axis=1)
    rho = float((np.abs(mu @ weight) + 2 * rounding * (mu @ np.abs(weight))).sum())
    constant = float(mu @ (high + np.abs(bias))) / float(mu.min())
    denominator = 1 - 1.001 * (size * rho / float(mu.min()) + float(left.max()))
    if not denominator > 0.5:
        return math.inf
    return 1.001 * size * (float(high.max()) + float(np.abs(bias).max()) + constant) / denominator


def propagated(chain: CertifiedChain, region: Region) -> Region:
    """The region met with the intervals that follow from its radius and the bounds of the codes, rounded outwards.

    An empty one as it is.
    """
    if (region.low > region.high).any():
        return region
    radius = region.radius
    low, high = region.low.copy(), region.high.copy()
    h_low, h_high = np.full(chain.latent_dim, -radius), np.full(chain.latent_dim, radius)
    if chain.bounds is not None:
        h_low, h_high = np.maximum(h_low, chain.bounds.lower), np.minimum(h_high, chain.bounds.upper)
        if (h_low > h_high).any():
            return replace(region, low=np.ones_like(low), high=np.zeros_like(high))
    for layer, (weight, bias, slope) in enumerate(zip(chain.weights, chain.biases, chain.slopes, strict=True)):
        here = slice(int(chain.ends[layer]), int(chain.ends[layer + 1]))
        middle, half = (h_low + h_high) / 2, (h_high - h_low) / 2
        size = np.abs(weight) @ np.maximum(np.abs(h_low), np.abs(h_high)) + np.abs(bias)
        reach = np.abs(weight) @ half + size * 4 * (weight.shape[1] + 4) * _UNIT
        center = weight @ middle + bias
        low[here] = np.maximum(low[here], center - reach)
        high[here] = np.minimum(high[here], center + reach)
        h_low = np.where(low[here] > 0, low[here], slope * low[here])
        h_high = np.where(high[here] > 0, high[here], slope * high[here])
    return replace(region, low=low, high=high)
