"""Combine tests of the size and the shape of a residual into one p-value."""

from __future__ import annotations

import numpy as np
from scipy.special import betaincc, chdtri, ndtri

from unrelu.runtime.array_types import Array, Integers

# The tests of a residual, by the columns of their p-values, and the weights of the tests; the structure is the weakest.
TESTS = {"p_size": "size", "p_largest": "largest entry", "p_structure": "structure"}
_WEIGHTS = np.array([0.45, 0.45, 0.1])
# Gauss-Legendre points and weights on [0, 1] in the cube root of v, which resolve small v, where p-values are small.
_ROOTS, _OF_ROOTS = np.polynomial.legendre.leggauss(48)
_POINTS, _OF_POINTS = ((_ROOTS + 1) / 2) ** 3, 1.5 * _OF_ROOTS * ((_ROOTS + 1) / 2) ** 2


def deciding(tests: Array) -> Integers:
    """Which of the tests, (B, 3), decides: the one of the least weighted p-value; -1 if fewer than two were made."""
    made = np.isfinite(tests)
    weighted = np.where(made, tests, np.inf) / _WEIGHTS
    return np.where(made.sum(axis=1) > 1, weighted.argmin(axis=1), -1)


def together(tests: Array, m: Integers, used: Array) -> Array:
    r"""Return one p-value of the tests of a residual, (B, 3): that of the least of the three, weighted.

    It is the probability that noise leaves a smaller :math:`x = \min_i p_i / w_i`. The structure is assumed to be
    independent of the others. The ratio of the largest entry to the size is independent of the size, so that

    .. math::

        P(p_1 < w_1 x \text{ or } p_2 < w_2 x) = w_1 x + \int_{w_1 x}^1 P\Big(\max_j s_j > \frac{t^2}{q(v)}\Big) dv,

    where chi-square with m - u degrees of freedom exceeds q(v) with probability v, t is the entry whose p-value is
    :math:`w_2 x`, and each of the m shares :math:`s_j \sim \mathrm{Beta}(1/2, (m - u - 1) / 2)`.

    Tests that are NaN are left out.

    Args:
        tests: p-values of the size, the largest entry and the structure, (B, 3).
        m: number of observed entries, (B,).
        used: the degrees of freedom u, (B,).
    """
    weights = np.where(np.isnan(tests), 0.0, _WEIGHTS)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    x = np.min(np.where(weights > 0, tests / np.where(weights > 0, weights, 1.0), np.inf), axis=1)
    below = np.minimum(weights * np.minimum(x, 1e9)[:, None], 1 - 1e-16)
    either = below[:, 0] + (1 - below[:, 0]) * _largest_above(below[:, :2], m, np.maximum(m - used, 1.0))
    p = either + below[:, 2] - either * below[:, 2]
    return np.asarray(np.where(deciding(tests) < 0, tests[:, 0], p))


def _largest_above(below: Array, m: Integers, left: Array) -> Array:
    """The probability, given a p-value of the size above ``below[:, 0]``, that the largest entry's is below the other.

    Args:
        below: limits of the p-values of the size and of the largest entry, (B, 2).
        m: number of entries, (B,).
        left: m - u, (B,).
    """
    single = -np.expm1(np.log1p(-below[:, 1]) / m)
    square = np.square(ndtri(single / 2))[:, None]
    size = chdtri(left[:, None], below[:, :1] + (1 - below[:, :1]) * _POINTS)
    share = np.minimum(np.divide(square, size, out=np.ones_like(size), where=size > square), 1.0)
    one = betaincc(0.5, np.maximum(left - 1, 0.5)[:, None] / 2, share)
    return np.asarray(-np.expm1(m[:, None] * np.log1p(-np.minimum(one, 1 - 1e-16))) @ _OF_POINTS)
