r"""Codes as functions of standard normal coordinates. In these coordinates every prior is N(0, I).

Let F be the prior's distribution function for a coordinate of the code, and :math:`\Phi` that of N(0, 1). Then

.. math:: z_j = F_j^{-1}(\Phi(t_j)), \qquad t \sim N(0, I)

has the prior distribution. For N(m, s^2), z is m + s t. For codes uniform between bounds l and u, z is
:math:`l + (u - l) \Phi(t)`. Bounds truncate a normal prior. A sampler in t thus needs no bounds.

Source: the probability integral transform; Rosenblatt, "Remarks on a multivariate transformation", Annals of
Mathematical Statistics 23 (1952).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri, ndtri_exp

from unrelu.errors import InputError
from unrelu.parameters.code_prior import Normal
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array, Flags

# Codes at a bound have coordinates t of at most this size; the probability beyond it is 3e-7.
_EDGE = 5.0
# Bounds must hold at least this share of the prior.
_LEAST_SHARE = 1e-9


@dataclass(frozen=True, eq=False)
class PriorTransform:
    """Codes as functions of t ~ N(0, I), with a normal prior truncated to bounds or a uniform prior between bounds.

    Attributes:
        mean, std: the mean and the standard deviation, (f,), of the f coordinates that are not fixed.
        bounds: the bounds of the f coordinates.
        uniform: which of the f coordinates are uniform between their bounds, (f,).
        of_codes: the bounds of all k coordinates of codes.
    """

    mean: Array
    std: Array
    bounds: Bounds
    uniform: Flags
    of_codes: Bounds

    @classmethod
    def of(cls, bounds: Bounds, normal: Normal | None) -> PriorTransform:
        """Build the prior from a normal distribution and bounds.

        Coordinates with an infinite standard deviation are uniform between their bounds. If ``normal`` is None,
        coordinates with two finite bounds are uniform, and others are N(0, 1) within their bounds.

        Raises:
            InputError: the bounds hold next to nothing of the prior, or a coordinate with an infinite standard
                deviation lacks a finite bound.
        """
        if bounds.fixed.all():
            raise InputError("fixed: all coordinates have a value, so that nothing is left to draw; leave one free")
        whole, stated = bounds, (normal or Normal()).subset(~bounds.fixed)
        bounds = bounds.free
        zero = np.zeros(len(bounds.lower))
        flat = ~np.broadcast_to(stated.proper, zero.shape)
        if (flat & ~bounds.boxed).any():
            j = int(np.argmax(flat & ~bounds.boxed))
            raise InputError(
                f"prior: {bounds.called(j)} has an infinite std and is between {bounds.lower[j]:g} and "
                f"{bounds.upper[j]:g}, which is no distribution; state a finite std, or two finite ends by bounds="
            )
        uniform = bounds.boxed & (flat | (bounds.uniform & (normal is None)))
        return cls(zero + stated.mean, np.where(flat, 1.0, stated.std), bounds, uniform, whole)

    def __post_init__(self) -> None:
        below, above = self._outside()
        share = np.where(self.uniform, 1.0, 1 - below - above)
        if not (share >= _LEAST_SHARE).all():
            j = int(np.argmin(share))
            raise InputError(
                f"bounds: {self.bounds.called(j)} is between {self.bounds.lower[j]:g} and {self.bounds.upper[j]:g}, "
                f"which holds next to nothing of its prior, N({self.mean[j]:g}, {self.std[j]:g}^2); state another "
                "prior= or bounds="
            )

    @property
    def affine(self) -> bool:
        """Whether no coordinate has a bound, so that codes are mean + std t."""
        return self.bounds.none

    def _outside(self) -> tuple[Array, Array]:
        """Compute the probabilities below and above the bounds under the normal distribution, (f,) each."""
        with np.errstate(over="ignore"):
            return (ndtr((self.bounds.lower - self.mean) / self.std), ndtr((self.mean - self.bounds.upper) / self.std))

    def codes(self, t: Array) -> Array:
        """Compute the codes z, (..., k), at coordinates t (..., f)."""
        return self.of_codes.with_free(self._free_codes(t))

    def _free_codes(self, t: Array) -> Array:
        if self.affine:
            return self.mean + self.std * t
        below, above = self._outside()
        inside = 1 - below - above
        # In the upper half, probabilities are counted from above: probabilities close to 1 would be rounded.
        lower, upper = below + inside * ndtr(t), above + inside * ndtr(-t)
        z = self.mean + self.std * np.where(t < 0, _quantile(lower, t, inside), -_quantile(upper, -t, inside))
        low, high = (np.where(self.uniform, end, 0.0) for end in (self.bounds.lower, self.bounds.upper))
        half: Array = (high - low) * ndtr(-np.abs(t))
        return np.asarray(self.bounds.clip(np.where(self.uniform, np.where(t < 0, low + half, high - half), z)))

    def energies(self, z: Array) -> Array:
        """Compute -log p(z), (...), up to a constant, for codes z (..., k) within the bounds."""
        standardised = (z[..., ~self.of_codes.fixed] - self.mean) / self.std
        return np.asarray(0.5 * np.where(self.uniform, 0.0, np.square(standardised)).sum(axis=-1))

    def slopes(self, t: Array, z: Array) -> Array:
        """Compute dz/dt of the free coordinates, (..., f), at t with codes z (..., k)."""
        z = z[..., ~self.of_codes.fixed]
        if self.affine:
            return np.broadcast_to(self.std, t.shape)
        below, above = self._outside()
        density = np.exp(-0.5 * t * t)
        low, high = (np.where(self.uniform, end, 0.0) for end in (self.bounds.lower, self.bounds.upper))
        of_uniform = (high - low) * density / np.sqrt(2 * np.pi)
        standardised = np.where(self.uniform, 0.0, (z - self.mean) / self.std)
        of_normal = self.std * (1 - below - above) * np.exp(0.5 * (standardised * standardised - t * t))
        return np.asarray(np.where(self.uniform, of_uniform, of_normal))

    def coordinates(self, z: Array) -> Array:
        """Compute t for codes z (..., k) within the bounds; at a bound, t is cut off at 5 standard deviations."""
        z = z[..., ~self.of_codes.fixed]
        if self.affine:
            return (z - self.mean) / self.std
        below, above = self._outside()
        inside = np.where(self.uniform, 1.0, 1 - below - above)  # of a uniform one not used, and 0 far from zero
        low, high = (np.where(self.uniform, end, 0.0) for end in (self.bounds.lower, self.bounds.upper))
        standardised = np.where(self.uniform, 0.0, (z - self.mean) / self.std)
        width = np.where(self.uniform, high - low, 1.0)
        under = np.where(self.uniform, (z - low) / width, (ndtr(standardised) - below) / inside)
        over = np.where(self.uniform, (high - z) / width, (ndtr(-standardised) - above) / inside)
        t = np.where(under < over, ndtri(np.clip(under, 0, 1)), -ndtri(np.clip(over, 0, 1)))
        free = ~self.uniform & (below == 0) & (above == 0)  # no bound, or none that matters
        return np.asarray(np.where(free, standardised, np.clip(t, -_EDGE, _EDGE)))


def _quantile(p: Array, t: Array, inside: Array) -> Array:
    """Compute the standard normal quantile of p, or by logarithms of inside * ndtr(t) where p is rounded to 0."""
    return np.asarray(np.where(p > 0, ndtri(p), ndtri_exp(np.log(np.maximum(inside, _LEAST_SHARE)) + log_ndtr(t))))
