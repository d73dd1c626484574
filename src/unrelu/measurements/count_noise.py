r"""Counts y_j with means :math:`\mu_j = (A \, G(z))_j`. Counts and means are compared by the deviance.

The deviance is twice the difference between the log-likelihoods of means equal to the data and of the fitted means,

.. math:: D(y, \mu) = \sum_j d(y_j, \mu_j) = 2 \sum_j (\log p(y_j | y_j) - \log p(y_j | \mu_j)), \qquad
          \frac{\partial d}{\partial \mu} = \frac{2 (\mu - y)}{V(\mu)},

where V is the variance of a count with mean mu. The deviance is minimised by Fisher scoring: each entry has the weight
1 / V(mu), and for a single entry the step would end at mu = y.

**Means that are not positive.** No count has such a mean, but a generator may return one. A mean below f = 1e-3 is
replaced by :math:`f \exp(\mu / f - 1)`, which joins smoothly and stays positive. A positive count then has a finite
deviance at mu = 0 (about 14 for a single count). For mu < 0, the deviance grows like :math:`2 y |\mu| / f`.

**Goodness of fit.** The deviance of small counts is not chi-square: its mean is 0.5 for an entry of mean 0.1, and 1.15
for an entry of mean 1. Its mean, variance and third cumulant are therefore computed from the probabilities of all
counts at the fitted means. They are summed over the entries, and the part that the fit uses up is subtracted. With
:math:`x_j = (y_j - \mu_j) / \sqrt{V_j}` and the hat matrix H of the weighted fit, a fit with means mu-hat leaves, to
second order,

.. math:: D(y, \hat\mu) - \kappa(\hat\mu) \approx \sum_j (d_j - \kappa_j) - c^T H x - x^T H x, \qquad
          \kappa_j = E d_j, \quad c_j = \operatorname{cov}(d_j, x_j) = \sqrt{V_j} \, \kappa_j'(\mu_j),

The moments of this sum follow from the moments of single entries. The p-value assumes a gamma distribution with these
three cumulants. For large means, it is chi-square with m - u degrees of freedom.

Source: McCullagh and Nelder, Generalized Linear Models (1989), sections 2.3 (deviance), 2.5 (Fisher scoring) and 15.2
(bias); McCullagh, "The conditional distribution of goodness-of-fit statistics for discrete data", J. American
Statistical Association 81 (1986).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy  # loads its submodules stats and interpolate, which take half a second, at their first use
import torch
from scipy import special
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements.noise import Fit, Likelihood
from unrelu.runtime.array_types import Array, Flags

# f: means below f are replaced by positive numbers.
_FLOOR = 1e-3
# Means at which moments are tabulated. Larger means have the moments of the largest.
_GRID = np.geomspace(1e-4, 1e4, 241)
# Up to this standard deviation, moments are sums over all counts. Above it, they are integrals with this many nodes.
_SUMMED, _NODES = 100.0, 801
# The largest count: double precision represents all whole numbers up to it.
_LARGEST = 2.0**53
# The range of the integrals, in standard deviations of N(0, 1).
_DEVIATIONS = 9.0


@dataclass(frozen=True, eq=False)
class CountNoise(Likelihood):
    r"""Counts with means A G(z) and the variance :math:`V = \mu + \mu^2 / r`.

    Attributes:
        shape: r.
    """

    shape = math.inf

    def distribution(self, mean: float) -> Any:
        """Return the distribution of a count with this mean, as a SciPy object."""
        r = self.shape
        return scipy.stats.nbinom(r, r / (r + mean)) if r < math.inf else scipy.stats.poisson(mean)

    def dispersion(self, mean: Any) -> Any:
        """Compute V(mu) / mu for an array or a tensor."""
        return 1 + mean / self.shape

    def variance_of(self, mean: Any) -> Any:
        """Compute V(mu)."""
        return mean * self.dispersion(mean)

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Draw counts with these means; 0 where a mean is below 0."""
        means = np.maximum(clean, 0.0)
        means = rng.gamma(self.shape, means / self.shape) if self.shape < math.inf else means
        return np.asarray(rng.poisson(means), dtype=np.float64)

    # --- the objective ------------------------------------------------------------------------------------------------

    def deviance(self, y: Tensor, mean: Tensor) -> Tensor:
        """Compute the terms d of D, in the shape of y; differentiable.

        With g = mu - y for Poisson counts, or g = r log((mu + r) / (y + r)), d / 2 = g + y (log(y / mu) + g / r). It is
        computed from mu - y to avoid cancellation of large numbers. For small means, log(mu) is used, as mu may
        underflow to 0.
        """
        r, within = self.shape, mean >= _FLOOR
        log_mean = math.log(_FLOOR) + (mean / _FLOOR - 1).clamp_max(0.0)
        known, usual = torch.where(y > 0, y, torch.ones_like(y)), torch.where(within, mean, torch.ones_like(mean))
        positive = torch.where(within, mean, log_mean.exp())
        g = r * torch.log1p((positive - y) / (y + r)) if r < math.inf else positive - y
        log_ratio = torch.log1p((known - usual) / usual / (1 + y / r))
        return 2 * (g + y * torch.where(within, log_ratio, known.log() - log_mean + g / r)).clamp_min(0.0)

    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Compute half the derivative of d by the mean, and the weight for Gauss-Newton steps, in the shape of y.

        The weight is 1 for y = 0 and mu < 1. There d = 2 mu is linear, and a weight of 1 / mu would make steps too
        short.
        """
        positive, within = _positive(mean), mean >= _FLOOR
        curvature = 1 / (self.dispersion(positive) * positive.clamp_min(_FLOOR))
        slope = (positive - y) * curvature
        weight = torch.where(within, curvature, slope / (mean - y))
        return slope, torch.where((y == 0) & (mean < 1), torch.ones_like(y), weight)

    def fisher_information(self, mean: Tensor) -> Tensor:
        """Compute 1 / V(mu). Below f, compute it for the positive mean that replaces mu."""
        positive = _positive(mean)
        slope = torch.where(mean >= _FLOOR, torch.ones_like(mean), positive / _FLOOR)
        information: Tensor = slope * slope / self.variance_of(positive)
        return information

    def energy(self, y: Array) -> Array:
        """Return the sum of the counts, (B,)."""
        return np.asarray(y.sum(axis=1))

    def check(self, y: Array, ends: tuple[Array, Array] | None = None) -> None:
        """Check that observations are whole numbers from 0 to 2^53, and that bounded outputs are not below 0."""
        bad = np.argwhere((y < 0) | (y > _LARGEST) | (y != np.rint(y)))
        if len(bad):
            row, entry = map(int, bad[0])
            raise InputError(
                f"noise={self}: y has {len(bad)} entries that are no whole numbers from 0 to 2^53, the largest that "
                f"double precision counts to, first in observation {row}, entry {entry} ({y[row, entry]:g}); pass the "
                "counts themselves, before any scaling or subtraction, or state 'gaussian:S'"
            )
        if ends is not None and (ends[0] < 0).any() and np.isfinite(ends[1]).all():
            raise InputError(
                f"noise={self}: counts have means of at least 0, and outputs of the generator go from "
                f"{ends[0].min():g} to {ends[1].max():g}; give them a scale and an offset, "
                "unrelu.extend(network, scale=(0, 100), offset=(0, 100)), or state 'gaussian:S'"
            )

    def variance(self, y: Array) -> Array:
        """Estimate the mean variance of the counts, with the data in place of their means."""
        return np.asarray(self.variance_of(np.maximum(y, 1.0)).mean(axis=1))

    # --- goodness of fit ----------------------------------------------------------------------------------------------

    def cumulants(self, fit: Fit) -> Array:
        """Compute mean, variance and third cumulant of the deviance after a fit, (B, 3), at the fitted means."""
        positive = _positive(torch.from_numpy(fit.mean)).numpy()
        moments = entries_of(self, np.where(np.isfinite(positive), positive, 1.0))
        # If mu <= 0, the count is 0. Its deviance is then twice the positive mean that replaces mu.
        seen = fit.seen & ~(fit.mean <= 0)
        whole = np.stack([np.where(seen, e, 0.0).sum(axis=1) for e in moments[:3]], axis=1)
        whole[:, 0] += 2 * np.where(fit.mean <= 0, positive, 0.0).sum(axis=1)
        left = whole.copy()
        for rows, tangents in fit.jacobians() if fit.jacobians else ():
            for i, own in zip(rows, tangents, strict=True):
                entries = Entries(*(e[i] for e in moments))
                left[i] = self._left(whole[i], positive[i], seen[i], own, fit.prior, entries)
        # If a fit uses up nearly all degrees of freedom, it cannot be tested. The test is then whether the true code
        # could leave as large a deviance.
        testable = (left[:, :2] > 1e-3 * whole[:, :2]).all(axis=1, keepdims=True)
        return np.where(testable, left, whole)

    def _left(
        self, whole: Array, mean: Array, seen: Flags, tangents: Array, prior: Array | float, entries: Entries
    ) -> Array:
        """Compute the cumulants for one observation after its fit, (3,)."""
        slope = np.where(mean < _FLOOR, mean / _FLOOR, 1.0) * seen
        directions = (tangents * (slope / np.sqrt(self.variance_of(np.where(mean > 0, mean, 1.0))))).T
        values, vectors = np.linalg.eigh(directions.T @ directions + prior * np.eye(directions.shape[1]))
        kept = values > 1e-12 * max(float(values.max(initial=0.0)), math.ulp(0.0))
        half = directions @ (vectors[:, kept] / np.sqrt(values[kept]))
        leverage = (half * half).sum(axis=1)
        fitted = half @ (half.T @ entries.with_score)
        used = float(leverage.sum())
        # E (x'Hx) = u. The error of kappa at the fitted means is half its second derivative times their variance.
        mean_left = whole[0] - used - 0.5 * float(entries.bend @ leverage)
        # var(sum d - c'Hx) + var(x'Hx) - 2 cov(sum d - c'Hx, x'Hx), with var(x'Hx) = 2 u as for normal scores.
        explained = float(entries.with_score @ fitted)
        shared = float(entries.with_square @ leverage) - float((fitted * entries.skew) @ leverage)
        variance = whole[1] - explained + 2 * used - 2 * shared
        return np.array([mean_left, variance, whole[2] * variance / whole[1]])

    def p_value(self, fit: Fit) -> Array:
        """Compute the p-value from a gamma distribution with the :meth:`cumulants` of the deviance."""
        mean, variance, third = self.cumulants(fit).T
        deviation = np.sqrt(variance)
        return np.asarray(scipy.stats.pearson3.sf(fit.deviance, third / deviation**3, mean, deviation))


@dataclass(frozen=True, eq=False)
class Poisson(CountNoise):
    r"""Counts of independent events, with mean and variance :math:`\mu = A \, G(z)`.

    The objective is the deviance :math:`2 \sum_j y_j \log(y_j / \mu_j) - (y_j - \mu_j)`. See
    :mod:`unrelu.measurements.count_noise` for means that are not positive, and for the p-value.

    Raises:
        InputError: y has entries that are not counts (raised by the functions that take y).

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])  # means (2 z, 0, z)
    >>> r = unrelu.invert(net, [13, 0, 5], "lm", noise=unrelu.Poisson(), z0=[1.0])
    >>> r.z.round(4), round(r.p_value, 2)
    (array([6.]), 0.61)
    """

    level: None = field(default=None, init=False, repr=False)
    name: ClassVar[str] = "poisson"

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class NegativeBinomial(CountNoise):
    r"""Counts with more variance than Poisson's: :math:`V = \mu + \mu^2 / r`, :math:`\mu = A \, G(z)`.

    Such a count is Poisson with a mean that is drawn from a gamma distribution of shape r. The objective is the
    deviance :math:`2 \sum_j y_j \log(y_j / \mu_j) - (y_j + r) \log((y_j + r) / (\mu_j + r))`. See
    :mod:`unrelu.measurements.count_noise` for means that are not positive, and for the p-value.

    Args:
        level: r, above 0; for large r the counts are nearly Poisson.

    Raises:
        InputError: r is not a finite number above 0, or y has entries that are not counts.

    >>> import unrelu
    >>> print(unrelu.NegativeBinomial(5))
    negative-binomial:5.0
    """

    name: ClassVar[str] = "negative-binomial"
    instead_of_zero: ClassVar[str | None] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(shape=self.level)


def _positive(mean: Tensor) -> Tensor:
    """Replace means below f by f exp(mu / f - 1)."""
    return torch.where(mean >= _FLOOR, mean, _FLOOR * torch.exp((mean / _FLOOR - 1).clamp_max(0.0)))


# --- moments of a single entry ----------------------------------------------------------------------------------------


class Entries(NamedTuple):
    """Moments of entries with given means. Here d is the deviance of an entry, and x = (y - mu) / sqrt V.

    Attributes:
        mean, variance, third: cumulants of d.
        with_score, with_square: covariances of d with x and with x^2.
        skew: E x^3.
        bend: V times the second derivative of E d by mu.
    """

    mean: Array
    variance: Array
    third: Array
    with_score: Array
    with_square: Array
    skew: Array
    bend: Array


@lru_cache(maxsize=16)
def _spline(noise: CountNoise) -> Any:
    """Interpolate the moments as functions of the logarithm of the mean."""
    rows = np.array([moments_of(noise, float(mean)) for mean in _GRID])
    return scipy.interpolate.CubicSpline(np.log(_GRID), rows)


def entries_of(noise: CountNoise, mean: Array) -> Entries:
    """Compute the moments of entries with these means."""
    log, spline = np.log(np.clip(mean, _GRID[0], _GRID[-1])), _spline(noise)
    first, second = (spline(log, order)[..., 0] for order in (1, 2))
    # By the chain rule, the second derivative of f(log mu) by mu is (f'' - f') / mu^2.
    clipped = np.exp(log)
    bend = (second - first) / clipped**2 * noise.variance_of(clipped)
    return Entries._make([*np.moveaxis(spline(log), -1, 0), bend])


def moments_of(noise: CountNoise, mean: float) -> Array:
    """Compute cumulants 1 to 3 of d, cov(d, x), cov(d, x^2) and E x^3, as sums over all counts that are not too rare.

    For widely spread counts, they are integrals over normal deviates t with y = Q(Phi(t)), by the trapezoidal rule.
    """
    counts, spread = noise.distribution(mean), math.sqrt(noise.variance_of(mean))
    if spread <= _SUMMED:
        y = np.arange(0.0, float(counts.isf(1e-15)) + 2)
        weight = counts.pmf(y)
    else:
        t = np.linspace(-_DEVIATIONS, _DEVIATIONS, _NODES)
        y = np.where(t < 0, counts.ppf(special.ndtr(t)), counts.isf(special.ndtr(-t)))
        weight = np.exp(-0.5 * t * t)
    weight = weight / weight.sum()
    d = noise.deviance(torch.from_numpy(y), torch.full((len(y),), mean, dtype=torch.float64)).numpy()
    x, first = (y - mean) / spread, weight @ d
    e = d - first
    return np.array([first, *(weight @ term for term in (e**2, e**3, e * x, e * x**2, x**3))])
