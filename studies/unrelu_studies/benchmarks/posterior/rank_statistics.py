"""Ranks of true values among posterior draws, and whether they are uniform.

For z* from the prior and y simulated from it, the rank of any function of z* among L independent posterior draws of it
is uniform on 0, ..., L (Talts et al., Validating Bayesian inference algorithms with simulation-based calibration,
arXiv:1804.06788, 2018). The log-likelihood is such a function too, and finds errors that codes alone hide (Modrák et
al., Simulation-based calibration checking for Bayesian computation, Bayesian Analysis, 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from unrelu.runtime.array_types import Array, Flags, Integers

# L, and the bins of a histogram of ranks: L + 1 is divisible by them.
THINNED, BINS = 99, 20


def thinned(draws: Array, count: int = THINNED) -> Array:
    """Evenly spaced draws of all chains, (count, ...) of (chain, draw, ...)."""
    flat = draws.reshape(-1, *draws.shape[2:])
    return np.asarray(flat[np.linspace(0, len(flat) - 1, count).astype(int)])


def ranks(draws: Array, truth: Array, rng: np.random.Generator) -> Integers:
    """How many draws (L, q) are below true values (q,), (q,); equal ones are put in a random order.

    A pixel that is 0 in many draws has ties.
    """
    below, equal = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    return np.asarray(below + rng.integers(0, equal + 1))


def uniformity(found: Integers, draws: int = THINNED, bins: int = BINS) -> Array:
    """p-values of Pearson's chi-square test that ranks (N, q) among so many draws are uniform, (q,); NaN of none."""
    if not len(found):
        return np.full(found.shape[1], np.nan)
    counts = np.stack([np.bincount(column * bins // (draws + 1), minlength=bins) for column in found.T])
    expected = len(found) / bins
    return np.asarray(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(axis=1), bins - 1))


def covered(found: Integers, level: float = 0.9, draws: int = THINNED) -> Flags:
    """Whether the central interval of the draws with this probability holds the true value, of ranks (N, q)."""
    outside = round((1 - level) / 2 * (draws + 1))
    return np.asarray((found >= outside) & (found <= draws - outside))


class RankSummary(NamedTuple):
    """What ranks of one cell say.

    Attributes:
        problems: how many.
        coverage: of 90% intervals, mean over problems and quantities.
        uniform: the share of quantities whose p-value is above .01.
        least: the smallest p-value.
    """

    problems: int
    coverage: float
    uniform: float
    least: float

    @classmethod
    def of(cls, found: Integers) -> RankSummary:
        """Of ranks (N, q)."""
        p = uniformity(found)
        if not len(found):
            return cls(0, np.nan, np.nan, np.nan)
        return cls(len(found), float(covered(found).mean()), float((p > 0.01).mean()), float(p.min()))
