r"""Whitening: errors of different sizes, or correlated errors, become independent errors of one size.

With W = diag(1 / S_j) for errors of sizes S_j, or :math:`W = L^{-1}` for a covariance :math:`C = L L^T`,

.. math:: W y = W A \, G(z) + W e

has independent errors of size 1, which all methods expect. Their objective is then the weighted one. An entry whose
size S_j is infinite counts as not observed. If all sizes are the same, no whitening is needed.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import solve_triangular

from unrelu.errors import InputError
from unrelu.measurements.noise import Noise
from unrelu.measurements.operator_arguments import NonlinearOperator
from unrelu.measurements.operators import MatrixOperator, Operator, ProductOperator, WeightedOperator, hiding
from unrelu.runtime.array_types import Array, Flags

# The product L^-1 A is not formed if L^-1 and the nonzero entries of A are fewer numbers than it by this factor.
_FEWER = 4


def known_entries(noise: Noise, operator: Operator, size: int) -> Flags:
    """Return which entries of ``size`` observations are observed with an error of finite size, (size, m).

    Raises:
        InputError: the noise has another shape, or all errors of an observation are infinite.
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


def stated_sizes(noise: Noise, operator: Operator, size: int) -> Array | None:
    """Return the sizes of the stated errors, (B, m): standard deviations or bounds; None if none are stated."""
    sizes = noise.spread(operator.shape, size)
    return np.broadcast_to(sizes, (size, operator.m)) if sizes.any() else None


def whitened(noise: Noise, operator: Operator, y: Array) -> tuple[Noise, Operator, Array]:
    """Whiten observations (B, m) with entrywise noise: return the noise, A and y with independent errors of one size.

    Raises:
        InputError: the noise has another shape than the observations, or it is correlated and observations have
            different masks.
    """
    factor = noise.cholesky()
    if factor is not None:
        return noise.of_one_size(1.0), *_decorrelated(noise, factor, operator, y)
    sizes = noise.spread(operator.shape, len(y))
    levels = np.unique(np.broadcast_to(sizes, y.shape)[known_entries(noise, operator, len(y))])
    finite, alike = np.isfinite(sizes), len(levels) == 1
    if (alike or operator.output_shaped) and not finite.all():
        operator = hiding(operator, finite)
    if alike:
        return noise.of_one_size(float(levels[0])), operator, y
    weight = 1 / sizes
    return noise.of_one_size(1.0), WeightedOperator(operator, torch.from_numpy(weight)), y * weight


def _decorrelated(noise: Noise, factor: Array, operator: Operator, y: Array) -> tuple[Operator, Array]:
    """Compute L^-1 A and L^-1 y for the observed entries, whose covariance is L L^T.

    L is divided by the root mean variance D, and 1 / D becomes a weight. The matrix then has about the size of A.
    """
    seen = operator.seen(len(y))
    if (seen != seen[:1]).any():
        raise InputError(f"noise={noise} is for observations that show the same entries; pass one mask for all")
    shown = np.flatnonzero(seen.all(axis=0))
    largest = float(np.abs(factor[shown]).max())
    scale = largest * float(np.sqrt(((factor[shown] / largest) ** 2).sum(axis=1).mean()))
    if len(shown) < operator.m:
        factor = np.asarray(np.linalg.cholesky((factor @ factor.T)[np.ix_(shown, shown)]), dtype=np.float64)
    values = solve_triangular(factor, y[:, shown].T, lower=True).T
    inverse = np.zeros((len(shown), operator.m))
    inverse[:, shown] = solve_triangular(factor / scale, np.eye(len(shown)), lower=True)
    weight = torch.full((len(shown),), 1 / scale, dtype=torch.float64)
    if operator.linear:
        matrix = operator.take(np.array([0])).matrix()
        entries = sparse.csr_array(matrix)
        if entries.nnz + inverse.size < matrix.size / _FEWER:
            inner = MatrixOperator.of(entries, operator.shape)
            product: Operator = ProductOperator(torch.from_numpy(inverse), inner)
        else:
            product = MatrixOperator(torch.from_numpy(inverse @ matrix), (len(shown),))
        return WeightedOperator(product, weight), np.ascontiguousarray(values)
    if not isinstance(operator, NonlinearOperator):
        raise InputError(
            f"noise={noise} is correlated, and operator= is a {type(operator).__name__}, which is not linear: pass a "
            "function of PyTorch instead, or measure L^-1 h(x) for the covariance L L^T"
        )
    return WeightedOperator(operator.followed_by(inverse), weight), np.ascontiguousarray(values)
