r"""Counts y_j with means :math:`\mu_j = (A \, G(z))_j`, which are compared by the deviance.

The deviance is twice the log-likelihood that the fit loses against means equal to the data,

.. math:: D(y, \mu) = \sum_j d(y_j, \mu_j) = 2 \sum_j (\log p(y_j | y_j) - \log p(y_j | \mu_j)), \qquad
          \frac{\partial d}{\partial \mu} = \frac{2 (\mu - y)}{V(\mu)},

where V is the variance of a count with mean mu. It is minimised by Fisher scoring: each entry has the weight
1 / V(mu), and the step of a single entry would end at mu = y.

**Means that are not positive.** No count has such a mean, but a generator may return one. A mean below f = 1e-3 is
replaced by :math:`f \exp(\mu / f - 1)`, which joins smoothly and stays positive. A positive count then has a finite
deviance at mu = 0 (about 14 for a single count), which grows like :math:`2 y |\mu| / f` below.

Source: McCullagh and Nelder, Generalized Linear Models (1989), sections 2.3 (deviance) and 2.5 (Fisher scoring).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements.noise import Likelihood
from unrelu.runtime.array_types import Array

# f: smaller means are replaced by positive ones.
_FLOOR = 1e-3
# The largest count: double precision represents all whole numbers up to it.
_LARGEST = 2.0**53


@dataclass(frozen=True, eq=False)
class CountNoise(Likelihood):
    r"""Counts with means A G(z) and the variance :math:`V = \mu + \mu^2 / r`.

    Attributes:
        shape: r.
    """

    shape = math.inf

    def dispersion(self, mean: Any) -> Any:
        """V(mu) / mu for an array or a tensor."""
        return 1 + mean / self.shape

    def variance_of(self, mean: Any) -> Any:
        """V(mu)."""
        return mean * self.dispersion(mean)

    def draw(self, clean: Array, rng: np.random.Generator) -> Array:
        """Counts of these means; none where a mean is below 0."""
        means = np.maximum(clean, 0.0)
        means = rng.gamma(self.shape, means / self.shape) if self.shape < math.inf else means
        return np.asarray(rng.poisson(means), dtype=np.float64)

    # --- the objective ------------------------------------------------------------------------------------------------

    def deviance(self, y: Tensor, mean: Tensor) -> Tensor:
        """The terms d of D, of the shape of y; differentiable.

        With g = mu - y, or r log((mu + r) / (y + r)), half of it is g + y (log(y / mu) + g / r). It is computed from
        mu - y, so that large numbers do not cancel, or for small means from log(mu), as mu may underflow to 0.
        """
        r, within = self.shape, mean >= _FLOOR
        log_mean = math.log(_FLOOR) + (mean / _FLOOR - 1).clamp_max(0.0)
        known, usual = torch.where(y > 0, y, torch.ones_like(y)), torch.where(within, mean, torch.ones_like(mean))
        positive = torch.where(within, mean, log_mean.exp())
        g = r * torch.log1p((positive - y) / (y + r)) if r < math.inf else positive - y
        log_ratio = torch.log1p((known - usual) / usual / (1 + y / r))
        return 2 * (g + y * torch.where(within, log_ratio, known.log() - log_mean + g / r)).clamp_min(0.0)

    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Half the derivative of d by the mean, and the weight of its Gauss-Newton step, of the shape of y.

        The weight is 1 for y = 0 and mu < 1. There d = 2 mu is linear, and a weight of 1 / mu would make steps too
        short.
        """
        positive, within = _positive(mean), mean >= _FLOOR
        curvature = 1 / (self.dispersion(positive) * positive.clamp_min(_FLOOR))
        slope = (positive - y) * curvature
        weight = torch.where(within, curvature, slope / (mean - y))
        return slope, torch.where((y == 0) & (mean < 1), torch.ones_like(y), weight)

    def fisher_information(self, mean: Tensor) -> Tensor:
        """1 / V(mu); of a mean below f, that of the positive mean that replaces it."""
        positive = _positive(mean)
        slope = torch.where(mean >= _FLOOR, torch.ones_like(mean), positive / _FLOOR)
        information: Tensor = slope * slope / self.variance_of(positive)
        return information

    def energy(self, y: Array) -> Array:
        """The sum of the counts, (B,)."""
        return np.asarray(y.sum(axis=1))

    def check(self, y: Array, ends: tuple[Array, Array] | None = None) -> None:
        """Refuse observations that are not whole numbers from 0 to 2^53, and outputs below 0."""
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
        """The mean variance of the counts, with the data taken as their means."""
        return np.asarray(self.variance_of(np.maximum(y, 1.0)).mean(axis=1))


@dataclass(frozen=True, eq=False)
class Poisson(CountNoise):
    r"""Counts of independent events, with mean and variance :math:`\mu = A \, G(z)`.

    The objective is the deviance :math:`2 \sum_j y_j \log(y_j / \mu_j) - (y_j - \mu_j)`. See
    :mod:`unrelu.measurements.count_noise` for means that are not positive.

    Raises:
        InputError: y has entries that are not counts (raised by the functions that take y).

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])  # means (2 z, 0, z)
    >>> r = unrelu.invert(net, [13, 0, 5], "lm", noise=unrelu.Poisson(), z0=[1.0])
    >>> r.z.round(4), round(r.p_value, 2)
    (array([6.]), 0.54)
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
    :mod:`unrelu.measurements.count_noise` for means that are not positive.

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
    """Means, with f exp(mu / f - 1) in place of those below f."""
    return torch.where(mean >= _FLOOR, mean, _FLOOR * torch.exp((mean / _FLOOR - 1).clamp_max(0.0)))
