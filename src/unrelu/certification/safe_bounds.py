r"""A lower bound from arbitrary multipliers, with every rounding error taken into account.

Take any numbers kappa_j >= 0 (sum at most 1 for the largest error, all 1 for the sum of errors) and slopes s_l, one per
neuron. Let c_l = W_{l+1}^T s_{l+1}. Weak duality over the graphs of all activations gives

.. math::
    F(z) \ge \sum_j \min_{v \in I_j} \left( \kappa_j\, err_j(v) - s_{dj} v \right)
    + \sum_{l < d} \sum_i \min_{u \in I_{li}} \left( c_{li}\, \phi(u) - s_{li} u \right)
    + \sum_l s_l^T b_l + \min_{z \in Z} \left( W_1^T s_1 \right)^T z

for every z in Z whose pre-activations lie in the intervals I. Z is the set of codes within the bounds or, without
bounds, with :math:`|z_i|` up to a radius. Each minimum is that of a piecewise linear function of one variable. Nothing
here depends on a solver. A sum of n products has an error of at most n u / (1 - n u) times the sum of the absolute
values, u = 2^-53. All these errors are added up and subtracted.

Source: the bound is the dual network of E. Wong and J. Z. Kolter, "Provable defenses against adversarial examples via
the convex outer adversarial polytope", ICML 2018, theorem 1, with every slope free. Rounding errors as in A. Neumaier
and O. Shcherbina, "Safe bounds in linear and mixed-integer linear programming", Mathematical Programming 99 (2004), and
N. J. Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1 (2002).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain
from unrelu.runtime.array_types import Array, Flags

# Numbers, and a bound on the error of each.
Rounded = tuple[Array, Array]

_UNIT = 2.0**-53
# The relative error of a few operations, each rounded once.
_FEW = 16 * _UNIT
# More than the sum of all products that underflow.
_TINY = 1e-290


@dataclass(frozen=True, eq=False)
class Region:
    """Intervals of all pre-activations.

    Attributes:
        low, high: ends of the interval of every neuron, from the first layer to the outputs; infinite if unknown.
        radius: the largest |z_i|.
    """

    low: Array
    high: Array
    radius: float

    @property
    def empty(self) -> bool:
        """Whether an interval is empty."""
        return bool((self.low > self.high).any())

    def met(self, low: Array | float = -math.inf, high: Array | float = math.inf) -> Region:
        """Intersect with these intervals of u."""
        return Region(np.maximum(self.low, low), np.minimum(self.high, high), self.radius)

    def signed(self, signs: npt.NDArray[np.int8]) -> Region:
        """Return the part in which u >= 0 for neurons with sign 1 and u <= 0 for neurons with sign -1."""
        return self.met(np.where(signs > 0, 0.0, -np.inf), np.where(signs < 0, 0.0, np.inf))


@dataclass(frozen=True, eq=False)
class Multipliers:
    """The multipliers from which a bound follows.

    Attributes:
        kappa: weights of the errors, (n_d,), at least 0.
        slopes: s of every neuron, (N,), the outputs last.
    """

    kappa: Array
    slopes: Array

    def times(self, factor: float) -> Multipliers:
        """Scale the multipliers, for ``factor`` times the bound; exact for powers of two."""
        return Multipliers(factor * self.kappa, factor * self.slopes)


@dataclass(frozen=True)
class Value:
    """A bound in two parts: ``constant - tilt |z|_inf`` is a lower bound at every z of the region."""

    constant: float
    tilt: float

    def within(self, radius: float) -> float:
        """Return the bound for |z_i| <= radius, rounded downwards."""
        if not math.isfinite(self.constant) or not self.tilt:
            return self.constant
        # The product is rounded upwards, because its rounding error may be large relative to the difference.
        return _down(self.constant - self.tilt * radius * (1 + 4 * _UNIT))


# The value if no bound follows.
_NOTHING = Value(-math.inf, 0.0)


@np.errstate(over="ignore", invalid="ignore")
def lower_bound(
    chain: CertifiedChain, region: Region, multipliers: Multipliers, level: float = math.inf,
    total: Array | None = None, towards: Array | None = None,
) -> Value:  # fmt: skip
    """Compute a lower bound, rounded downwards; -inf where unbounded intervals leave none, inf for an empty region.

    Without ``total`` and ``towards``, it is a bound on F(z). With any of them, it is a bound on
    ``total . h + towards . z`` over all z with F(z) <= level, where h are the outputs of the hidden layers. In this
    case kappa may be any non-negative numbers.

    Args:
        chain: the layers and the observation.
        region: intervals of the pre-activations.
        multipliers: any multipliers.
        level: see above; needed if kappa is not 0.
        total: (N,), N the number of neurons.
        towards: (k,).
    """
    if region.empty:
        return Value(math.inf, 0.0)
    kappa, slopes = multipliers.kappa, multipliers.slopes
    linear = not (total is None and towards is None)
    if not (np.isfinite(kappa).all() and np.isfinite(slopes).all() and (kappa >= 0).all()):
        return _NOTHING
    if not (linear or _is_share(chain, kappa)):
        return _NOTHING
    at = chain.neurons(-1)
    sums = [_output_terms(chain, kappa, slopes[at], region.low[at], region.high[at])]
    for layer in range(chain.depth - 1, -1, -1):
        at = chain.neurons(layer)
        products = slopes[at] * chain.biases[layer]
        sums.append((products, _FEW * np.abs(products)))
        c = _product(chain.weights[layer], slopes[at])
        if layer:
            at = chain.neurons(layer - 1)
            c = c if total is None else _plus(c, total[at])
            slope = chain.slopes[layer - 1]
            sums.append(_hidden_terms(c, slopes[at], slope, region.low[at], region.high[at]))
    c = c if towards is None else _plus(c, towards)
    tilt = 0.0
    if chain.bounds is not None:
        sums.append(_code_terms(c, chain.bounds.lower, chain.bounds.upper))
    else:
        tilt = float((np.abs(c[0]) + c[1]).sum() * (1 + chain.latent_dim * 4 * _UNIT))
    terms, slack = (np.concatenate(arrays) for arrays in zip(*sums, strict=True))
    if linear and kappa.any():
        # The weighted errors are at most this price, because F(z) <= level.
        price = (_sum(kappa) if chain.norm == "linf" else float(kappa.max())) * level * (1 + _FEW)
        terms, slack = np.append(terms, -price), np.append(slack, _FEW * abs(price))
    if not np.isfinite(terms).all():
        return _NOTHING
    constant = _down(_sum(terms) - float(slack.sum() + _TINY) * (1 + len(slack) * 4 * _UNIT))
    return Value(constant, tilt) if math.isfinite(constant) and math.isfinite(tilt) else _NOTHING


def safe_multipliers(
    chain: CertifiedChain, region: Region, multipliers: Multipliers, of_error: bool = True
) -> Multipliers:
    """Move multipliers by rounding errors, so that no unbounded interval makes the bound infinite.

    A hidden u without an upper end needs s <= c, one without a lower end needs s >= slope c. An output needs s <= kappa
    and s >= -slope kappa. For a bound on F (``of_error``), kappa is scaled down to a sum of at most 1.
    """
    slopes, kappa = multipliers.slopes.copy(), np.maximum(multipliers.kappa, 0.0)
    if of_error and chain.norm == "linf" and not _is_share(chain, kappa):
        kappa = kappa * ((1 - 64 * _UNIT * len(kappa)) / kappa.sum())
    last = chain.slopes[-1]
    sloped = np.where(last < 1, (1 - 2 * _FEW) * last, last)
    most, least = kappa, -sloped * kappa
    for layer in range(chain.depth - 1, -1, -1):
        at = chain.neurons(layer)
        here = np.where(np.isinf(region.high[at]), np.minimum(slopes[at], most), slopes[at])
        slopes[at] = np.where(np.isinf(region.low[at]), np.maximum(here, least), here)
        if layer:
            c, radius = _product(chain.weights[layer], slopes[at])
            below = chain.slopes[layer - 1]
            most = _nudged(c, radius, -1)
            least = np.where(below > 0, _nudged(below * c, below * radius, 1), 0.0)
    return Multipliers(kappa, slopes)


def _nudged(value: Array, radius: Array, side: int) -> Array:
    """Raise (``side`` 1) or lower (-1) numbers by a little more than their rounding errors."""
    return value + side * (2 * radius + _FEW * np.abs(value))


def _is_share(chain: CertifiedChain, kappa: Array) -> bool:
    """Check whether F is at least the sum of errors with weights kappa >= 0."""
    return bool((kappa <= 1).all() if chain.norm == "l1" else _sum(kappa) * (1 + 4 * _UNIT) <= 1)


def _sum(values: Array) -> float:
    """Sum values with a single rounding; NaN where the sum overflows."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.nan


def _product(weight: Array, slope: Array) -> Rounded:
    """Compute W^T s and its rounding error."""
    count = len(slope) + 2
    factor = count * _UNIT / (1 - count * _UNIT) * (1 + 1e-12)
    return slope @ weight, factor * (np.abs(slope) @ np.abs(weight)) * (1 + 2 * count * _UNIT)


def _plus(c: Rounded, more: Array) -> Rounded:
    total = c[0] + more
    return total, c[1] + _FEW * np.abs(total)


def _output_terms(chain: CertifiedChain, kappa: Array, s: Array, low: Array, high: Array) -> Rounded:
    """Minimise kappa err(v) - s v over low <= v <= high.

    err has kinks at v = 0 and phi(v) = y. It grows with slope c to the left and slope 1 to the right.
    """
    c, y = chain.slopes[-1], chain.y

    def value(v: Array) -> Rounded:
        # phi(v) and y - phi(v) are rounded once each.
        image = chain.outputs(-1, v)
        slack = _FEW * (kappa * (np.abs(y) + np.abs(image)) + np.abs(s * v))
        return kappa * np.abs(y - image) - s * v, slack

    least = np.where(y > 0, y, np.divide(y, c, out=np.zeros_like(y), where=c > 0))
    # c kappa is exact if c is 0 or 1.
    downwards = s < -np.where((c > 0) & (c < 1), (1 - _FEW) * c, c) * kappa
    return _smallest(value, (low, np.zeros_like(y), least, high), downwards, s > kappa)


def _hidden_terms(coefficient: Rounded, s: Array, below: Array, low: Array, high: Array) -> Rounded:
    """Minimise c phi(u) - s u over low <= u <= high."""
    c, radius = coefficient

    def value(u: Array) -> Rounded:
        image = np.where(u > 0, u, below * u)
        slack = radius * np.abs(image) + _FEW * (np.abs(c * image) + np.abs(s * u))
        return c * image - s * u, slack

    # The function has slope below * c - s towards -inf, and c - s towards inf; with below = 0 the first is exact.
    downwards = s < below * c + below * (radius + _FEW * np.abs(c))
    return _smallest(value, (low, np.zeros_like(low), high), downwards, s > c - radius - _FEW * np.abs(c))


def _smallest(
    value: Callable[[Array], Rounded], points: tuple[Array, ...], downwards: Flags, upwards: Flags
) -> Rounded:
    """Minimise piecewise linear functions over the intervals from the first to the last of the points.

    The other points are the kinks. The flags say whether a function tends to -inf if the interval is unbounded.
    """
    every = np.clip(np.stack(points), points[0], points[-1])
    finite = np.isfinite(every)
    values, slack = value(np.where(finite, every, 0.0))
    falls = np.zeros_like(finite)
    falls[0], falls[-1] = downwards, upwards
    values = np.where(finite, values, np.where(falls, -np.inf, np.inf))
    # The smallest value minus slack may belong to another point than the smallest value: take the largest slack.
    return values.min(axis=0), np.where(np.isfinite(values), slack, 0.0).max(axis=0)


def _code_terms(c: Rounded, lower: Array, upper: Array) -> Rounded:
    """Minimise c z over the bounds of the codes."""
    values = c[0] * np.where(c[0] > 0, lower, upper)
    return values, c[1] * np.maximum(np.abs(lower), np.abs(upper)) + _FEW * np.abs(values)


def _down(value: float) -> float:
    """Lower a number slightly, because the arithmetic before it was rounded a few times."""
    return value - 8 * _UNIT * abs(value) - 5e-324
