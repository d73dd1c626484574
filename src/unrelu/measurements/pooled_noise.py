r"""The noise level that a batch shares, from its residuals, and which of them are too large for it.

A code that explains an observation with Gaussian noise of standard deviation s leaves a residual with
:math:`|r|_2^2 / s^2 \sim \chi^2_\nu`, where nu = m - rank, as the fit has taken its rank from the m entries. By Wilson
and Hilferty, the cube root of a chi-square variable is almost normal,

.. math:: \Big(\frac{|r|_2^2}{\nu}\Big)^{1/3} \approx s^{2/3} \, N\Big(1 - \frac{2}{9 \nu}, \frac{2}{9 \nu}\Big),

which makes residuals of different nu comparable. The median over the batch is an estimate of s, and the interquartile
range shows whether there is one s at all; neither is moved far by a few codes that are wrong.

Source: E. B. Wilson and M. M. Hilferty, The distribution of chi-square, PNAS 17 (1931).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from unrelu.runtime.array_types import Array

# The fewest observations from which a level is estimated, and the fewest degrees of freedom that each must have.
FEWEST = 20
_FREEDOM = 5
# The probability that a batch of one noise level has any residual above the limit.
_FALSE_ALARM = 1e-3
# The quartiles of N(0, 1) are this far apart. Over n draws their distance has this relative standard deviation, times
# the square root of n, and the median this variance, times n.
_QUARTILES = 2 * ndtri(0.75)
_QUARTILES_ERROR = 1.17
_MEDIAN_VARIANCE = np.pi / 2
# There is one level if the residuals spread by no more than this multiple of what chi-square says.
_WIDEST = 1.5


def too_large(energy: Array, freedom: Array) -> Array:
    r"""How many times the level of the batch the residuals are that stand out, (B,); 0 where none does.

    All are 0 if there is no level to compare with: for fewer than 20 residuals, or where their middle half spreads
    more than 1.5 times as far as chi-square says, as it does where a quarter or more stand out. Where it spreads up to
    that, because noise is not Gaussian or levels differ a little, the limit is that much further away. The probability
    that any residual of a batch of one noise level is above the limit is about 0.1%.

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
    # A residual stands out from the spread that there may be.
    spread = max(1.0, spread * (1 + _QUARTILES_ERROR / len(rows) ** 0.5))
    # The level itself is off by its share of an observation's variance, the more the fewer there are.
    of_level = _MEDIAN_VARIANCE * variance.mean() / len(rows)
    limit = -ndtri(_FALSE_ALARM / len(rows)) * spread * np.sqrt(1 + of_level / variance)
    out = z > limit
    factor[rows[out]] = (root[out] / level) ** 1.5
    return factor
