r"""Estimate the noise level that a batch shares, and find residuals that are too large for it.

If a code explains an observation with Gaussian noise of standard deviation s, its residual has
:math:`|r|_2^2 / s^2 \sim \chi^2_\nu`. Here nu = m - rank: the fit uses up as many of the m degrees of freedom as the
Jacobian has rank. By Wilson and Hilferty, the cube root of a chi-square variable is almost normal,

.. math:: \Big(\frac{|r|_2^2}{\nu}\Big)^{1/3} \approx s^{2/3} \, N\Big(1 - \frac{2}{9 \nu}, \frac{2}{9 \nu}\Big),

so residuals with different nu can be compared. The median over the batch estimates s, and the interquartile range
shows whether the batch has a single s. A few wrong codes hardly change either.

Source: E. B. Wilson and M. M. Hilferty, The distribution of chi-square, PNAS 17 (1931).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from unrelu.runtime.array_types import Array
from unrelu.thresholds import FALSE_ALARM

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


def cut_off(y: Array, mean: Array) -> tuple[int, float]:
    """How many entries of y, (n,), black and white seem to have cut off, and the noise between them, S.

    They are the entries at the least and at the largest value, if both repeat. S is the root mean square of the
    residuals where the mean, (n,), is farther from both than that of all residuals: noise elsewhere is cut off.
    """
    low, high, square = y.min(), y.max(), np.square(y - mean)
    at, away = [(y == low).sum(), (y == high).sum()], np.minimum(mean - low, high - mean) > np.sqrt(square.mean())
    level = float(np.sqrt(square[away if away.any() else ...].mean()))
    return (int(sum(at)) if low < high and min(at) > 1 else 0), level


def too_large(energy: Array, freedom: Array) -> Array:
    r"""Return residuals that are too large as multiples of the batch's noise level, (B,); 0 for all others.

    All are 0 if no level can be estimated: for fewer than 20 residuals, or if their interquartile range is more than
    1.5 times that of chi-square, as when a quarter or more are too large. A range up to that factor, from noise that is
    not Gaussian or levels that differ a little, raises the limit by the same factor. In a batch of one noise level, the
    probability that any residual is above the limit is about 0.1%.

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
    # The estimated level has a variance of its own, which is larger for a smaller batch.
    of_level = _MEDIAN_VARIANCE * variance.mean() / len(rows)
    limit = -ndtri(FALSE_ALARM / len(rows)) * spread * np.sqrt(1 + of_level / variance)
    out = z > limit
    factor[rows[out]] = (root[out] / level) ** 1.5
    return factor
