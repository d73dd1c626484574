r"""Objectives: norms and the Huber loss, and reading ``norm=`` and ``prior=``.

.. math:: H_\delta(r) = \sum_j h(r_j), \qquad h(r) = r^2 \text{ for } |r| \le \delta, \quad
          h(r) = 2 \delta |r| - \delta^2 \text{ for } |r| > \delta

The Huber loss is |r|_2^2 for small residuals, and grows linearly beyond :math:`\delta`. It is twice the cost of
``scipy.optimize.least_squares(loss="huber", f_scale=delta)``, and twice the sum of ``torch.nn.HuberLoss(delta=delta)``.
With :math:`\delta = 1.345 \sigma` the estimate has 95% of the efficiency of least squares where errors are Gaussian.

Source: Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964); Holland and
Welsch, "Robust regression using iteratively reweighted least squares", Communications in Statistics A6 (1977), for
1.345.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unrelu.errors import InputError
from unrelu.measurements.noise import Loss, Noise
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import real_number
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import nearest, shown

# The default delta, in standard deviations of the noise.
_EFFICIENT = 1.345


@dataclass(frozen=True)
class Huber(Loss):
    """The Huber loss, in the units of y^2.

    Attributes:
        delta: the residual beyond which it grows linearly, in the units of y.
    """

    delta: float

    name: ClassVar[str] = "huber"  # the norm that results report

    @classmethod
    def parse(cls, norm: str, level: float) -> Huber:
        """Make the loss from its text, "huber:D", or "huber" if the noise has a known standard deviation ``level``.

        Raises:
            InputError: D is not above 0, or neither D nor the noise is known.
        """
        text, delta = norm.partition(":")[2], math.nan
        with suppress(ValueError):
            delta = float(text) if text else _EFFICIENT * level
        if not 0 < delta < math.inf:
            raise InputError(
                f"norm={norm!r}: D of 'huber:D', beyond which it is linear, must be a number above 0 in the units of "
                "y; without D it is 1.345 standard deviations of noise='gaussian:S', which must be stated then"
            )
        return cls(delta)

    def __str__(self) -> str:
        return f"{self.name}:{self.delta!r}"

    def total(self, y: Tensor, mean: Tensor, seen: Tensor) -> Tensor:
        r = (mean - y).abs()
        return (seen * torch.where(r <= self.delta, r * r, self.delta * (2 * r - self.delta))).sum(dim=1)

    def scoring(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the weights of iteratively reweighted least squares, see :meth:`Loss.scoring`."""
        r = mean - y
        weight = (self.delta / r.abs().clamp_min(torch.finfo(r.dtype).tiny)).clamp_max(1.0)
        return weight * r, weight

    def times_power_of_two(self, exponent: int) -> Huber:
        return Huber(math.ldexp(self.delta, exponent))


# In each objective, the unit of y occurs with this power.
DEGREES = {"l2": 2, "l1": 1, "linf": 1, Huber.name: 2}


def norms(r: Array, norm: str) -> Array:
    """Compute the norm, (B,), of residuals r (B, m): "l2", "l1" or "linf". Squares do not overflow or underflow."""
    largest = np.asarray(np.abs(r).max(axis=1))
    if norm == "linf":
        return largest
    with np.errstate(over="ignore", under="ignore"):  # a diverged code may be astronomically large
        if norm == "l1":
            return np.asarray(np.abs(r).sum(axis=1))
        scale = np.where((largest > 0) & (largest < np.inf), largest, 1.0)
        return np.asarray(scale * np.linalg.norm(r / scale[:, None], axis=1))


def read_norm(norm: str | None, noise: Noise) -> tuple[str, Huber | None]:
    """Read the norm, by default the one of the noise. Also return the Huber loss if it is asked for.

    Raises:
        InputError: the norm is unknown, or the noise has a deviance and the norm is not l2.
    """
    kind, huber = noise.norm if norm is None else str(norm).partition(":")[0], None
    if kind not in DEGREES:
        raise InputError(f"norm={norm!r} is unknown; use 'l2', 'l1', 'linf' or 'huber:D'{nearest(norm, DEGREES)}")
    if kind == Huber.name:  # whitened noise has the standard deviation 1
        huber = Huber.parse(str(norm), 1.0 if noise.entrywise else math.sqrt(noise.mean_square))
    if noise.likelihood is not None and kind != "l2":
        raise InputError(f"norm={kind!r}: noise={noise} compares observations by their deviance; leave norm= out")
    return kind, huber


def read_prior(prior: float | Normal, names: Names, noise: Noise, norm: str) -> tuple[float, Normal | None]:
    """Read the prior: return the weight of |z|^2, and the distribution of codes if one is stated instead.

    Raises:
        InputError: the weight is below 0 or infinite, or the objective has no prior term.
        OptionError: the prior is neither a number nor a distribution.
    """
    if isinstance(prior, Normal):
        normal = prior.of_names(names)
        refuse_prior(normal, noise, norm)
        return 0.0, normal
    weight = real_number("prior", prior, "a number, the weight of |z|^2, or unrelu.Normal(mean, std)")
    if not 0 <= weight < math.inf:
        raise InputError(f"prior={weight:g} must be finite and at least 0")
    if weight and norm in ("l1", "linf"):
        raise InputError(f"prior={weight:g} is a term of the l2 objective; the norm here is {norm!r}, pass norm='l2'")
    return weight, None


def refuse_prior(normal: Normal, noise: Noise, norm: str) -> None:
    """Check that the noise and the objective define a most probable code.

    Raises:
        InputError: the noise has no density, or the objective is not its likelihood.
    """
    flaw = ""
    if noise.without_density:
        flaw = f"noise={noise} {noise.without_density}; state 'gaussian:S' or counts"
    elif norm != "l2":
        flaw = f"norm={norm!r} is not the likelihood of noise={noise}; leave it out"
    if flaw:
        asks = f"prior={shown(str(normal))} asks for the most probable code"
        raise InputError(f"{asks}, and {flaw}, or pass a number, the weight of |z|^2")
