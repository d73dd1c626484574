"""Whether Markov chains have mixed: R-hat, effective sample sizes and Monte Carlo errors, as ArviZ computes them.

R-hat compares the halves of all chains, once by the ranks of their draws, once by the ranks of the distances from the
median. The indicators of the lowest 5% and 95% of the draws have effective sample sizes; the tail's is the smaller one.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner, "Rank-normalization, folding, and localization: an improved
R-hat for assessing convergence of MCMC", Bayesian Analysis 16 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unrelu.errors import InputError
from unrelu.runtime.array_types import Array, Flags

# The limits that Vehtari et al. recommend. Chains have mixed if R-hat is at most the first number, and both effective
# sample sizes are at least the second.
RHAT, ESS = 1.01, 400
# The probabilities of the quantiles that define the tail's effective sample size.
_TAILS = (0.05, 0.95)
# The fewest draws of a chain, and the fewest chains, that have statistics.
DRAWS, _CHAINS = 4, 2


@dataclass(frozen=True, eq=False)
class Convergence:
    """The convergence statistics of each coordinate, (k,); NaN where draws are NaN or too few.

    Attributes:
        rhat: rank-normalised split R-hat, the larger of bulk and folded; NaN for one chain, or if no draw differs.
        ess: effective sample size of the bulk.
        tail_ess: effective sample size of the tails.
    """

    rhat: Array
    ess: Array
    tail_ess: Array

    @property
    def mixed(self) -> Flags:
        """Whether R-hat is at most 1.01 and both sample sizes are at least 400, (k,)."""
        return (self.rhat <= RHAT) & (self.ess >= ESS) & (self.tail_ess >= ESS)


def convergence_of(draws: Array) -> Convergence:
    """Compute the convergence statistics of draws (chain, draw, k).

    Raises:
        InputError: the draws do not have three axes.
    """
    rhat = _statistic("rhat", draws) if len(draws) >= _CHAINS else np.full(np.shape(draws)[2:], np.nan)
    return Convergence(rhat, *sample_sizes(draws))


def sample_sizes(draws: Array) -> tuple[Array, Array]:
    """Compute the effective sample sizes of bulk and tails, (k,) each, of draws (chain, draw, k)."""
    return _statistic("ess", draws, method="bulk"), _statistic("ess", draws, method="tail", prob=_TAILS)


def ess_of_mean(draws: Array) -> Array:
    """Compute the effective sample size of the mean, (k,), of draws (chain, draw, k), without ranks."""
    return _statistic("ess", draws, method="mean")


def error_of_mean(draws: Array) -> Array:
    """Compute the Monte Carlo standard error of the mean, (k,), of draws (chain, draw, k)."""
    return _statistic("mcse", draws, method="mean")


def _statistic(name: str, draws: Array, **options: Any) -> Array:
    """Compute one of ArviZ's statistics for each coordinate, (k,), of draws (chain, draw, k)."""
    from arviz_stats.base.array import array_stats  # noqa: PLC0415 -- half a second or more, where it is used

    if np.ndim(draws) != 3:
        raise InputError(f"draws have shape {np.shape(draws)}; pass (chain, draw, coordinate)")
    chains, count, k = draws.shape
    found, known = np.full(k, np.nan), ~np.isnan(draws).any(axis=(0, 1))
    if chains and count >= DRAWS and known.any():
        with np.errstate(all="ignore"):  # chains that do not move, and infinite draws
            found[known] = getattr(array_stats, name)(draws[:, :, known], chain_axis=0, draw_axis=1, **options)
    return found
