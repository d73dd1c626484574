"""Whether Markov chains have mixed: R-hat, effective sample sizes and Monte Carlo errors, as ArviZ computes them.

R-hat compares halves of chains by the ranks of their draws, and by those of the distances from the median. The tail's
effective sample size is the smaller of those of the indicators of the lowest 5% and 95% of the draws.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner, "Rank-normalization, folding, and localization: an improved
R-hat for assessing convergence of MCMC", Bayesian Analysis 16 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unrelu.errors import InputError
from unrelu.runtime.array_types import Array, Flags

# Chains have mixed if R-hat is at most the first and both effective sample sizes are at least the second, the limits
# that Vehtari et al. recommend.
RHAT, ESS = 1.01, 400
# The probabilities of the quantiles whose effective sample sizes are the tail's.
_TAILS = (0.05, 0.95)
# Fewer draws of a chain, or chains, have no statistics.
DRAWS, _CHAINS = 4, 2


@dataclass(frozen=True, eq=False)
class Convergence:
    """The statistics of each coordinate, (k,); NaN where draws are NaN, or if there are too few.

    Attributes:
        rhat: rank-normalised split R-hat, the larger of bulk and folded; NaN for one chain, or if no draw differs.
        ess: effective sample size of the bulk.
        tail_ess: that of the tails.
    """

    rhat: Array
    ess: Array
    tail_ess: Array

    @property
    def mixed(self) -> Flags:
        """Whether R-hat is at most 1.01 and both sample sizes are at least 400, (k,)."""
        return (self.rhat <= RHAT) & (self.ess >= ESS) & (self.tail_ess >= ESS)


def convergence_of(draws: Array) -> Convergence:
    """The statistics of draws (chain, draw, k).

    Raises:
        InputError: the draws have another number of axes.
    """
    rhat = _statistic("rhat", draws) if len(draws) >= _CHAINS else np.full(np.shape(draws)[2:], np.nan)
    return Convergence(rhat, *sample_sizes(draws))


def sample_sizes(draws: Array) -> tuple[Array, Array]:
    """The effective sample sizes of the bulk and of the tails of draws (chain, draw, k), (k,) each."""
    return _statistic("ess", draws, method="bulk"), _statistic("ess", draws, method="tail", prob=_TAILS)


def ess_of_mean(draws: Array) -> Array:
    """The effective sample size of the mean of draws (chain, draw, k), without ranks, (k,)."""
    return _statistic("ess", draws, method="mean")


def error_of_mean(draws: Array) -> Array:
    """The Monte Carlo standard error of the mean of draws (chain, draw, k), (k,)."""
    return _statistic("mcse", draws, method="mean")


def _statistic(name: str, draws: Array, **options: Any) -> Array:
    """A statistic of ArviZ of each coordinate of draws (chain, draw, k), (k,)."""
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 -- half a second or more, where it is used

    if np.ndim(draws) != 3:
        raise InputError(f"draws have shape {np.shape(draws)}; pass (chain, draw, coordinate)")
    chains, count, k = draws.shape
    found, known = np.full(k, np.nan), ~np.isnan(draws).any(axis=(0, 1))
    if chains and count >= DRAWS and known.any():
        with np.errstate(all="ignore"):  # chains that do not move, and infinite draws
            found[known] = getattr(array_stats, name)(draws[:, :, known], chain_axis=0, draw_axis=1, **options)
    return found
