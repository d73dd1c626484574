r"""Whether Markov chains have mixed: R-hat, effective sample sizes and Monte Carlo errors.

The draws of a coordinate are replaced by normal scores: with r the rank of a draw among all N, ties averaged,

.. math:: u = \Phi^{-1}\left(\frac{r - 3/8}{N + 1/4}\right).

Each chain is split into halves, which gives M chains of n draws, with W the mean of their variances and B / n the
variance of their means. Then

.. math:: \hat R = \sqrt{\frac{n - 1}{n} + \frac{B/n}{W}}, \qquad
          \text{ESS} = \frac{M n}{1 + 2 \sum_t \hat\rho_t},

where the autocorrelations :math:`\hat\rho_t` compare the autocovariances with the variance of all chains together, and
their sum ends where that of a pair is not positive. R-hat is the larger of those of the draws and of their distances
from the median, which sees chains of different widths. The tail ESS is the smaller of those of the indicators of the
lowest 5% and 95% of the draws.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner, "Rank-normalization, folding, and localization: an improved
R-hat for assessing convergence of MCMC", Bayesian Analysis 16 (2021); the sum of autocorrelations: Geyer, "Practical
Markov chain Monte Carlo", Statistical Science 7 (1992). The values agree with those of ArviZ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from scipy.special import ndtri

from unrelu.errors import InputError
from unrelu.runtime.array_types import Array, Flags, Integers

# Chains have mixed if R-hat is at most the first and both effective sample sizes are at least the second, the limits
# that Vehtari et al. recommend.
RHAT, ESS = 1.01, 400
# The probabilities of the quantiles whose effective sample sizes are the tail's.
_TAILS = (0.05, 0.95)
# Fewer draws of a chain, or chains, have no statistics.
DRAWS, _CHAINS = 4, 2
# Coordinates of so many draws are computed at a time, which stay in the cache of the processor: 256 KiB.
_BLOCK = 2**15


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
    x = _coordinates(draws)
    chains, count, k = draws.shape
    block = max(1, _BLOCK // max(1, chains * count))
    parts = [_statistics(x[j : j + block]) for j in range(0, k, block)]
    return Convergence(*np.concatenate([np.empty((3, 0)), *parts], axis=1))


def _statistics(x: Array) -> Array:
    """R-hat, bulk and tail sample sizes of (k, chain, draw), (3, k)."""
    k, chains, count = x.shape
    found = np.full((3, k), np.nan)
    known = ~np.isnan(x).any(axis=(1, 2))
    if count < DRAWS or not chains or not known.any():
        return found
    x = x[known]
    split = _halves(x)
    scores, ordered = _normal_scores(split)
    ends = np.quantile(ordered if split.size == x.size else x.reshape(len(x), -1), _TAILS, axis=1)
    found[1, known] = _effective(scores)
    found[2, known] = np.min([_effective(_halves((x <= end[:, None, None]).astype(np.float64))) for end in ends], 0)
    if chains >= _CHAINS:
        with np.errstate(invalid="ignore"):  # distances between infinite draws
            folded = np.abs(split - np.median(ordered, axis=1)[:, None, None])
        found[0, known] = np.maximum(_potential_scale_reduction(scores), _folded(folded))
    return found


def ess_of_mean(draws: Array) -> Array:
    """The effective sample size of the mean of draws (chain, draw, k), without ranks, (k,)."""
    x = _coordinates(draws)
    found = np.full(len(x), np.nan)
    known = np.isfinite(x).all(axis=(1, 2))
    if x.shape[2] >= DRAWS and x.shape[1] and known.any():
        found[known] = _effective(_halves(x[known]))
    return found


def error_of_mean(draws: Array) -> Array:
    """The Monte Carlo standard error of the mean of draws (chain, draw, k), (k,)."""
    chains, count, k = draws.shape
    if chains * count < DRAWS:
        return np.full(k, np.nan)
    with np.errstate(invalid="ignore"):  # infinite draws
        return np.asarray(np.std(draws, axis=(0, 1), ddof=1) / np.sqrt(ess_of_mean(draws)))


def _coordinates(draws: Array) -> Array:
    """Draws as (k, chain, draw), contiguous."""
    if np.ndim(draws) != 3:
        raise InputError(f"draws have shape {np.shape(draws)}; pass (chain, draw, coordinate)")
    return np.ascontiguousarray(np.moveaxis(np.asarray(draws, dtype=np.float64), 2, 0))


def _halves(x: Array) -> Array:
    """Chains (k, C, D) as first and last halves, (k, 2 C, D // 2); of an odd D the middle draw is left out."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, -half:]], axis=1)


def _normal_scores(x: Array) -> tuple[Array, Array]:
    """Normal scores of (k, M, n), in its shape, and the sorted draws, (k, M n)."""
    flat = x.reshape(len(x), -1)
    k, size = flat.shape
    rows = np.arange(k)[:, None] * size
    order = np.argsort(flat, axis=1) + rows
    ordered = flat.reshape(-1)[order]
    scores = np.empty(x.shape)
    scores.reshape(-1)[order] = _table(size)[_double_ranks(ordered) - 2 * rows]
    return scores, ordered


def _double_ranks(ordered: Array) -> Integers:
    """The first plus the last place of the tie of each of sorted values (k, N), in the flattened array."""
    begins = np.ones(ordered.shape, dtype=bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    counts = np.diff(first, append=ordered.size)
    return np.repeat(2 * first + counts - 1, counts).reshape(ordered.shape)


@lru_cache(maxsize=4)
def _table(size: int) -> Array:
    """The normal scores of ``size`` draws, by twice the rank from 0."""
    return np.asarray(ndtri((np.arange(2 * size - 1) / 2 + 1 - 3 / 8) / (size + 1 / 4)))


def _folded(distances: Array) -> Array:
    """R-hat of the normal scores of distances (k, M, n); NaN where a distance is."""
    found = np.full(len(distances), np.nan)
    known = ~np.isnan(distances).any(axis=(1, 2))
    if known.any():
        found[known] = _potential_scale_reduction(_normal_scores(distances[known])[0])
    return found


def _potential_scale_reduction(x: Array) -> Array:
    """R-hat of chains (k, M, n), (k,); infinite if no chain moves, NaN if all stand at the same place."""
    n = x.shape[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.var(np.mean(x, axis=2), axis=1, ddof=1) / np.mean(np.var(x, axis=2, ddof=1), axis=1)
    return np.asarray(np.sqrt(ratio + (n - 1) / n))


def _effective(x: Array) -> Array:
    """The effective sample size of chains (k, M, n), M >= 2, n >= 2, (k,); M n if no draw differs."""
    k, chains, n = x.shape
    size = chains * n
    found = np.full(k, float(size))
    moving = np.ptp(x.reshape(k, -1), axis=1) >= np.finfo(np.float64).resolution
    if not moving.any():
        return found
    x = x[moving]
    means = x.mean(axis=2)
    length = scipy.fft.next_fast_len(2 * n, real=True)
    spectrum = scipy.fft.rfft(x - means[:, :, None], length, axis=2)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=1)  # the mean over chains, so that one transform goes back
    covariance = scipy.fft.irfft(power, length, axis=1)[:, :n] / n
    within = covariance[:, :1] * n / (n - 1)
    together = covariance[:, :1] + np.var(means, axis=1, ddof=1)[:, None]
    correlation = 1 - (within - covariance) / together
    correlation[:, 0] = 1.0
    tau = np.maximum(_correlation_time(correlation), 1 / math.log10(size))
    found[moving] = size / tau
    return found


def _correlation_time(correlation: Array) -> Array:
    r"""1 + 2 sum of autocorrelations (k, n), (k,), by Geyer's initial monotone sequence.

    P_j is the sum of the autocorrelations 2 j and 2 j + 1. Pairs are added up to the first that is not positive, or
    the last one, each at most as large as the one before. Of that pair, the even autocorrelation is added once, if it
    is positive or belongs to the last pair: then the estimate is of antithetic chains as well.
    """
    k, n = correlation.shape
    last = max(0, (n - 3) // 2)
    even = correlation[:, : 2 * last + 1 : 2]
    pairs = even + correlation[:, 1 : 2 * last + 2 : 2]
    stopped = ~(pairs > 0)
    stopped[:, -1] = True
    end = np.argmax(stopped, axis=1)
    before = np.arange(last + 1) < end[:, None]
    added = 2 * np.where(before, np.minimum.accumulate(pairs, axis=1), 0.0).sum(axis=1)
    rows = np.arange(k)
    tail = even[rows, end]
    return np.asarray(added - 1 + np.where((tail > 0) | (pairs[rows, end] >= 0), tail, 0.0))
