r"""A lower bound from multipliers, whatever they are and wherever they come from, with every rounding error counted.

For any numbers kappa_j >= 0 (sum at most 1 for the largest error, all 1 for the sum of errors) and slopes s_l, one a
neuron, weak duality over the graphs of all activations gives, with c_l = W_{l+1}^T s_{l+1},

.. math::
    F(z) \ge \sum_j \min_{v \in I_j} \left( \kappa_j\, err_j(v) - s_{dj} v \right)
    + \sum_{l < d} \sum_i \min_{u \in I_{li}} \left( c_{li}\, \phi(u) - s_{li} u \right)
    + \sum_l s_l^T b_l + \min_{z \in Z} \left( W_1^T s_1 \right)^T z

for every z in Z whose pre-activations lie in the intervals I. Z are the codes within the bounds, or where there are
none, those with :math:`|z_i|` up to a radius. Each minimum is one of a piecewise linear function of one
variable. Nothing here depends on a solver. Products of n terms are off by at most n u / (1 - n u) times the sum of the
absolute values, u = 2^-53; all such errors are added up and subtracted.

Source: the bound is the dual network of E. Wong and J. Z. Kolter, "Provable defenses against adversarial examples via
the convex outer adversarial polytope", ICML 2018, theorem 1, with every slope free. Rounding errors as in A. Neumaier
and O. Shcherbina, "Safe bounds in linear and mixed-integer linear programming", Mathematical Programming 99 (2004), and
N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1 (2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.measurements.latent_bounds import Bounds

Array = npt.NDArray[np.float64]

_UNIT = 2.0**-53
# A few operations on numbers of known size, each rounded once.
_FEW = 16 * _UNIT
# More than all products that are too small to be numbers.
_TINY = 1e-290


@dataclass(frozen=True, eq=False)
class Region:
    """Where pre-activations may lie.

    Attributes:
        low, high: ends of the intervals of every neuron, counted through from the first layer to the outputs; infinite
            where nothing is known.
        radius: |z_i| is at most that.
    """

    low: Array
    high: Array
    radius: float

    def signed(self, signs: npt.NDArray[np.int8]) -> Region:
        """The part where neurons with sign 1 have u >= 0, those with sign -1 u <= 0."""
        low = np.where(signs > 0, np.maximum(self.low, 0.0), self.low)
        high = np.where(signs < 0, np.minimum(self.high, 0.0), self.high)
        return Region(low, high, self.radius)


@dataclass(frozen=True, eq=False)
class Multipliers:
    """What a bound follows from.

    Attributes:
        kappa: shares of the errors, (n_d,), at least 0.
        slopes: s, of every neuron counted through, the outputs last.
    """

    kappa: Array
    slopes: Array

    @classmethod
    def none(cls, chain: CertifiedChain) -> Multipliers:
        """All zero."""
        return cls(np.zeros(len(chain.y)), np.zeros(chain.ends[-1]))

    def times(self, factor: float) -> Multipliers:
        """Those of so many times the bound; of powers of two exact."""
        return Multipliers(factor * self.kappa, factor * self.slopes)

    def packed(self) -> Packed:
        """Without the zeros."""
        row = np.concatenate([self.kappa, self.slopes])
        index = np.flatnonzero(row)
        return Packed(index.astype(np.int32), row[index])


@dataclass(frozen=True, eq=False)
class Packed:
    """Multipliers without their zeros: places and numbers in the row (kappa, s)."""

    index: npt.NDArray[np.integer[Any]]
    value: Array

    def unpacked(self, outputs: int, total: int) -> Multipliers:
        """With the zeros: ``outputs`` shares and ``total`` slopes."""
        row = np.zeros(outputs + total)
        row[self.index] = self.value
        return Multipliers(row[:outputs], row[outputs:])


@dataclass(frozen=True)
class Value:
    """A bound in two parts: ``constant - tilt |z|_inf`` is at most the true value at every z of the region."""

    constant: float
    tilt: float

    def within(self, radius: float) -> float:
        """The bound for |z_i| <= radius; rounded downwards."""
        if not math.isfinite(self.constant):
            return self.constant
        # The product is rounded upwards: where the difference is small, its rounding error is not small beside it.
        return _down(self.constant - self.tilt * radius * (1 + 4 * _UNIT)) if self.tilt else self.constant


def lower_bound(
    chain: CertifiedChain,
    region: Region,
    multipliers: Multipliers,
    level: float = math.inf,
    extra: Array | None = None,
    total: Array | None = None,
    towards: Array | None = None,
) -> Value:
    """A lower bound, rounded downwards; -inf where an unbounded interval leaves it none, inf where there is no z.

    Without ``extra``, ``total`` and ``towards`` it is one of F(z). With any of them, it is one of ``extra . u + total
    . h + towards . z`` over all z with F(z) <= level, u and h being all pre-activations and outputs of the hidden
    layers; kappa may be any non-negative numbers then.

    Args:
        chain: the layers and the observation.
        region: of the pre-activations.
        multipliers: any.
        level: see above; needed where kappa is not 0.
        extra, total: (N,), N the number of neurons.
        towards: (k,).
    """
    if (region.low > region.high).any():
        return Value(math.inf, 0.0)
    # Of numbers so large that they overflow nothing follows; math.fsum raises there.
    nothing = Value(-math.inf, 0.0)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            value = _bound(chain, region, multipliers, level, extra, total, towards)
    except OverflowError:
        return nothing
    return value if math.isfinite(value.constant) and math.isfinite(value.tilt) else nothing


def _bound(
    chain: CertifiedChain,
    region: Region,
    multipliers: Multipliers,
    level: float,
    extra: Array | None,
    total: Array | None,
    towards: Array | None,
) -> Value:
    kappa, linear = multipliers.kappa, not (extra is None and total is None and towards is None)
    if not (np.isfinite(kappa).all() and np.isfinite(multipliers.slopes).all() and (kappa >= 0).all()):
        return Value(-math.inf, 0.0)
    if not linear and not _is_share(chain, kappa):
        return Value(-math.inf, 0.0)
    cut = chain.ends[1:-1]
    parts, passed = np.split(multipliers.slopes, cut), np.split(multipliers.slopes, cut)
    if extra is not None:
        passed = np.split(multipliers.slopes + extra, cut)
    lows, highs = np.split(region.low, cut), np.split(region.high, cut)
    # s + extra was rounded, so that s is off by as much.
    offs = [np.where(sum_ != part, _UNIT * np.abs(sum_), 0.0) for sum_, part in zip(passed, parts, strict=True)]
    sums = [_output_terms(chain, kappa, (parts[-1], offs[-1]), lows[-1], highs[-1])]
    for layer in range(chain.depth - 1, -1, -1):
        products = passed[layer] * chain.biases[layer]
        sums.append((products, _FEW * np.abs(products)))
        c, radius = _product(chain.weights[layer], passed[layer])
        if layer:
            at = layer - 1
            if total is not None:
                c = c + np.split(total, cut)[at]
                radius = radius + _FEW * np.abs(c)
            sums.append(_hidden_terms((c, radius), (parts[at], offs[at]), chain.slopes[at], lows[at], highs[at]))
    if towards is not None:
        c = c + towards
        radius = radius + _FEW * np.abs(c)
    tilt = 0.0
    if chain.bounds is not None:
        sums.append(_code_terms(c, radius, chain.bounds))
    else:
        tilt = float((np.abs(c) + radius).sum() * (1 + len(radius) * 4 * _UNIT))
    terms, slack = (np.concatenate(arrays) for arrays in zip(*sums, strict=True))
    if linear and kappa.any():
        # F(z) <= level pays for the errors.
        price = (math.fsum(kappa) if chain.norm == "linf" else float(kappa.max())) * level * (1 + _FEW)
        terms, slack = np.append(terms, -price), np.append(slack, _FEW * abs(price))
    if not np.isfinite(terms).all():
        return Value(-math.inf, tilt)
    return Value(_down(math.fsum(terms) - float(slack.sum() + _TINY) * (1 + len(slack) * 4 * _UNIT)), tilt)


def settled(chain: CertifiedChain, region: Region, multipliers: Multipliers, extra: Array | None = None) -> Multipliers:
    """The multipliers moved by rounding errors so that no unbounded interval spoils the bound.

    Where u may be arbitrarily large, s <= c is needed, where it may be arbitrarily small, s >= slope c; of outputs,
    s <= kappa and s >= -slope kappa. Without ``extra``, for a bound of F, the kappa are made small enough for one.
    """
    slopes, kappa = multipliers.slopes.copy(), np.maximum(multipliers.kappa, 0.0)
    if extra is None and chain.norm == "linf" and not _is_share(chain, kappa):
        kappa = kappa * ((1 - 64 * _UNIT * len(kappa)) / kappa.sum())
    start = chain.ends[-2]
    last = chain.slopes[-1]
    low, high = region.low[start:], region.high[start:]
    slopes[start:] = np.where(np.isinf(high), np.minimum(slopes[start:], kappa), slopes[start:])
    sloped = np.where(last < 1, (1 - 2 * _FEW) * last, last)
    slopes[start:] = np.where(np.isinf(low), np.maximum(slopes[start:], -sloped * kappa), slopes[start:])
    for layer in range(chain.depth - 1, 0, -1):
        begin, middle, end = chain.ends[layer - 1], chain.ends[layer], chain.ends[layer + 1]
        passed = slopes[middle:end] if extra is None else slopes[middle:end] + extra[middle:end]
        c, radius = _product(chain.weights[layer], passed)
        here, below = slopes[begin:middle], chain.slopes[layer - 1]
        here = np.where(np.isinf(region.high[begin:middle]), np.minimum(here, _nudged(c, radius, -1)), here)
        least = np.where(below > 0, _nudged(below * c, below * radius, 1), 0.0)
        here = np.where(np.isinf(region.low[begin:middle]), np.maximum(here, least), here)
        slopes[begin:middle] = here
    return Multipliers(kappa, slopes)


def _nudged(value: Array, radius: Array, side: int) -> Array:
    return value + side * (2 * radius + _FEW * np.abs(value))


def _is_share(chain: CertifiedChain, kappa: Array) -> bool:
    """Whether F is at least the errors weighted with kappa."""
    if not (np.isfinite(kappa).all() and (kappa >= 0).all()):
        return False
    if chain.norm == "l1":
        return bool((kappa <= 1).all())
    return math.fsum(kappa) * (1 + 4 * _UNIT) <= 1


def _product(weight: Array, slope: Array) -> tuple[Array, Array]:
    """W^T s and what it may be off by."""
    count = len(slope) + 2
    factor = count * _UNIT / (1 - count * _UNIT) * (1 + 1e-12)
    return slope @ weight, factor * (np.abs(slope) @ np.abs(weight)) * (1 + 2 * count * _UNIT)


def _output_terms(
    chain: CertifiedChain, kappa: Array, slopes: tuple[Array, Array], low: Array, high: Array
) -> tuple[Array, Array]:
    """min of kappa err(v) - s v over low <= v <= high, and what it may be off by; s comes with its radius.

    err has its kinks at 0 and where phi(v) = y; it grows with slope c to the left and 1 to the right.
    """
    (slope, off), c, y = slopes, chain.slopes[-1], chain.y
    least = np.where(y > 0, y, np.divide(y, c, out=np.zeros_like(y), where=c > 0))
    points = np.clip(np.stack([low, np.zeros_like(y), least, high]), low, high)
    finite = np.isfinite(points)
    v = np.where(finite, points, 0.0)
    # phi(v) - y and y are rounded once each.
    image = np.where(v > 0, v, c * v)
    values = kappa * np.abs(y - image) - slope * v
    slack = off * np.abs(v) + _FEW * (kappa * (np.abs(y) + np.abs(image)) + np.abs(slope * v))
    # c kappa is exact where c is 0 or 1.
    downwards = slope - off < -np.where((c > 0) & (c < 1), (1 - _FEW) * c, c) * kappa
    nowhere = np.zeros_like(finite[0])
    unbounded = np.stack([downwards, nowhere, nowhere, slope + off > kappa])
    values = np.where(finite, values, np.where(unbounded, -np.inf, np.inf))
    return _least(values, slack)


def _hidden_terms(
    coefficient: tuple[Array, Array], slope: tuple[Array, Array], below: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """min of c phi(u) - s u over low <= u <= high, and what it may be off by; c and s come with their radii."""
    (c, radius), (s, off) = coefficient, slope
    points = np.clip(np.stack([low, np.zeros_like(low), high]), low, high)
    finite = np.isfinite(points)
    u = np.where(finite, points, 0.0)
    image = np.where(u > 0, u, below * u)
    values = c * image - s * u
    slack = radius * np.abs(image) + off * np.abs(u) + _FEW * (np.abs(c * image) + np.abs(s * u))
    # Towards -inf the function has slope below * c - s, towards inf c - s; with below = 0 the first is exact.
    downwards = s - off < below * c + below * (radius + _FEW * np.abs(c))
    upwards = s + off > c - radius - _FEW * np.abs(c)
    unbounded = np.stack([downwards, np.zeros_like(finite[0]), upwards])
    return _least(np.where(finite, values, np.where(unbounded, -np.inf, np.inf)), slack)


def _code_terms(c: Array, radius: Array, bounds: Bounds) -> tuple[Array, Array]:
    """min of c z over the bounds, and what it may be off by; c comes with its radius."""
    values = c * np.where(c > 0, bounds.lower, bounds.upper)
    size = np.maximum(np.abs(bounds.lower), np.abs(bounds.upper))
    return values, radius * size + _FEW * np.abs(values)


def _least(values: Array, slack: Array) -> tuple[Array, Array]:
    lowest = values.min(axis=0)
    # The smallest of the values less its own slack may be another one: take the largest slack.
    return lowest, np.where(np.isfinite(values), slack, 0.0).max(axis=0)


def _down(value: float) -> float:
    """A number a little below: the arithmetic that led to it was rounded a few times."""
    return value - 8 * _UNIT * abs(value) - 5e-324
