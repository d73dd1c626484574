r"""Whitening: entries that differ in what is known of them, or depend on each other, become alike.

With W = diag(1 / S_j) for errors of sizes S_j, or :math:`W = L^{-1}` for a covariance :math:`C = L L^T`,

.. math:: W y = W A \, G(z) + W e

has independent errors of size 1, so every method that is made for those can be used: its objective is the weighted
one. An entry of infinite size is not observed, and sizes that are all the same need no whitening.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve_triangular

from unrelu.errors import InputError
from unrelu.measurements.linear_operators import Operator, WeightedOperator
from unrelu.measurements.noise import Noise
from unrelu.runtime.array_types import Array


def known_entries(noise: Noise, operator: Operator, size: int) -> npt.NDArray[np.bool_]:
    """Which entries of ``size`` observations say anything: those that A shows with a finite error, (size, m).

    Raises:
        InputError: the noise is of another shape, or leaves nothing of an observation.
    """
    if not noise.entrywise:
        return operator.seen(size)
    seen = operator.seen(size) & np.isfinite(noise.spread(operator.shape, size))
    empty = np.flatnonzero(~seen.any(axis=1))
    if len(empty):
        raise InputError(
            f"noise={noise} is infinite in every observed entry of observation {empty[0]}, so nothing is known of it; "
            "leave it out"
        )
    return seen


def whitened(noise: Noise, operator: Operator, y: Array) -> tuple[Noise, Operator, Array]:
    """The same observations (B, m) of entrywise noise with independent errors of one size, and what they measure.

    Raises:
        InputError: the noise is of another shape than the observations, or correlated where each has its own mask.
    """
    factor = noise.cholesky()
    if factor is not None:
        return noise.of_one_size(1.0), *_decorrelated(noise, factor, operator, y)
    sizes = noise.spread(operator.shape, len(y))
    levels = np.unique(np.broadcast_to(sizes, y.shape)[known_entries(noise, operator, len(y))])
    finite = torch.from_numpy(np.isfinite(sizes)).double()
    alike = len(levels) == 1
    if (alike or operator.output_shaped) and not finite.all():
        operator = operator.hiding(finite)
    if alike:
        return noise.of_one_size(float(levels[0])), operator, y
    weight = 1 / sizes
    return noise.of_one_size(1.0), WeightedOperator(operator, torch.from_numpy(weight)), y * weight


def _decorrelated(noise: Noise, factor: Array, operator: Operator, y: Array) -> tuple[Operator, Array]:
    """L^-1 A and L^-1 y of the entries that are seen, whose covariance is the part of C that belongs to them.

    C = D R D, with D the root mean variance, so that the matrix is of about the size of A's, and 1 / D is a weight.
    """
    seen = operator.seen(len(y))
    if (seen != seen[0]).any():
        raise InputError(f"noise={noise} is for observations that show the same entries; pass one mask for all")
    shown = np.flatnonzero(seen[0])
    largest = float(np.abs(factor[shown]).max())
    scale = largest * float(np.sqrt(((factor[shown] / largest) ** 2).sum(axis=1).mean()))
    if len(shown) < operator.m:
        factor = np.asarray(np.linalg.cholesky((factor @ factor.T)[np.ix_(shown, shown)]), dtype=np.float64)
    values = solve_triangular(factor, y[:, shown].T, lower=True).T
    inverse = np.zeros((len(shown), operator.m))
    inverse[:, shown] = solve_triangular(factor / scale, np.eye(len(shown)), lower=True)
    weight = torch.full((len(shown),), 1 / scale, dtype=torch.float64)
    return WeightedOperator(operator.followed_by(inverse), weight), np.ascontiguousarray(values)
