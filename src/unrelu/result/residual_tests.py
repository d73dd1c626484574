r"""Tests of residuals: one p-value for size and shape, and whether a residual is too large for its batch.

**A batch.** If a code explains an observation with Gaussian noise of standard deviation s, its residual has
:math:`|r|_2^2 / s^2 \sim \chi^2_\nu`. Here nu = m - rank: the fit uses up as many of the m degrees of freedom as the
Jacobian has rank. By Wilson and Hilferty, the cube root of a chi-square variable is almost normal,

.. math:: \Big(\frac{|r|_2^2}{\nu}\Big)^{1/3} \approx s^{2/3} \, N\Big(1 - \frac{2}{9 \nu}, \frac{2}{9 \nu}\Big),

so residuals with different nu can be compared. The median over the batch estimates s, and the interquartile range
shows whether the batch has a single s. A few wrong codes hardly change either.

Source: E. B. Wilson and M. M. Hilferty, The distribution of chi-square, PNAS 17 (1931).
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincc, chdtri, ndtri

from unrelu.runtime.array_types import Array, Integers
from unrelu.thresholds import FALSE_ALARM

# The tests of a residual, by the columns of their p-values, and the tests' weights. The structure is the weakest test.
TESTS = {"p_size": "size", "p_largest": "largest entry", "p_structure": "structure"}
_WEIGHTS = np.array([0.45, 0.45, 0.1])
# Gauss-Legendre points and weights on [0, 1] in the cube root of v. They resolve small v, where p-values are small.
_ROOTS, _OF_ROOTS = np.polynomial.legendre.leggauss(48)
_POINTS, _OF_POINTS = ((_ROOTS + 1) / 2) ** 3, 1.5 * _OF_ROOTS * ((_ROOTS + 1) / 2) ** 2
# The fewest observations from which a level is estimated, and the fewest degrees of freedom that each must have.
FEWEST = 20
_FREEDOM = 5
# The interquartile range of N(0, 1). For n draws, the sample range has the relative standard deviation
# _QUARTILES_ERROR / sqrt(n), and the median the variance _MEDIAN_VARIANCE / n.
_QUARTILES = 2 * ndtri(0.75)
_QUARTILES_ERROR = 1.17
_MEDIAN_VARIANCE = np.pi / 2
# The batch has one level if the residuals spread by at most this multiple of the spread of chi-square.
_WIDEST = 1.5


def deciding(tests: Array) -> Integers:
    """Find which of the tests (B, 3) has the least weighted p-value, and so decides; -1 if fewer than two were made."""
    made = np.isfinite(tests)
    weighted = np.where(made, tests, np.inf) / _WEIGHTS
    return np.where(made.sum(axis=1) > 1, weighted.argmin(axis=1), -1)


def together(tests: Array, m: Integers, used: Array) -> Array:
    r"""Combine the p-values of three tests, (B, 3), into one: the p-value of the least of them, after weighting.

    It is the probability that noise leaves a smaller :math:`x = \min_i p_i / w_i`. The structure is assumed to be
    independent of the other tests. The ratio of the largest entry to the size is independent of the size, so

    .. math::

        P(p_1 < w_1 x \text{ or } p_2 < w_2 x) = w_1 x + \int_{w_1 x}^1 P\Big(\max_j s_j > \frac{t^2}{q(v)}\Big) dv,

    where chi-square with m - u degrees of freedom exceeds q(v) with probability v, t is the entry whose p-value is
    :math:`w_2 x`, and each of the m shares :math:`s_j \sim \mathrm{Beta}(1/2, (m - u - 1) / 2)`.

    Tests that are NaN are left out: the size is not tested where it was fitted. If only one test was made, its p-value
    is returned.

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
    either = np.where(np.isnan(tests[:, 0]), below[:, 1], either)
    p = either + below[:, 2] - either * below[:, 2]
    return np.asarray(np.where(deciding(tests) < 0, np.fmax.reduce(tests, axis=1), p))


def _largest_above(below: Array, m: Integers, left: Array) -> Array:
    """Compute the probability that the largest entry's p-value is below its limit, if the size's is above its own.

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


def too_large(energy: Array, freedom: Array) -> Array:
    r"""Return residuals that are too large as multiples of the batch's noise level, (B,); 0 for all others.

    All are 0 if no level can be estimated: for fewer than 20 residuals, or if their interquartile range is more than
    1.5 times that of chi-square, as when a quarter or more are too large. The range can be wider up to this factor if
    noise is not Gaussian or levels differ a little; the limit then rises by the same factor. In a batch with one noise
    level, the probability that any residual is above the limit is about 0.1%.

    Args:
        energy: :math:`|r|_2^2` of every observation, (B,); NaN for one that is left out.
        freedom: its degrees of freedom nu, (B,).
    """
    factor = np.zeros(len(energy))
    rows = np.flatnonzero(np.isfinite(energy) & (energy > 0) & (freedom >= _FREEDOM))
    if len(rows) < FEWEST:
        return factor
    variance = 2 / (9 * freedom[rows])
    root = np.cbrt(energy[rows] / freedom[rows])
    level = np.median(root / (1 - variance))
    z = (root / level - (1 - variance)) / np.sqrt(variance)
    spread = float(np.subtract(*np.quantile(z, [0.75, 0.25]))) / _QUARTILES
    if spread > _WIDEST:
        return factor
    # The limit uses an upper estimate of the spread.
    spread = max(1.0, spread * (1 + _QUARTILES_ERROR / len(rows) ** 0.5))
    # The estimated level has a variance of its own, which grows as the batch shrinks.
    of_level = _MEDIAN_VARIANCE * variance.mean() / len(rows)
    limit = -ndtri(FALSE_ALARM / len(rows)) * spread * np.sqrt(1 + of_level / variance)
    out = z > limit
    factor[rows[out]] = (root[out] / level) ** 1.5
    return factor
