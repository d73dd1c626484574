r"""How sure it is that no code has an objective more than 1% lower, from where independent chains of descents ended.

The local optima of an observation are ordered by their objectives, the best first. An independent chain ends in the
best one with probability :math:`q_1`; if not, in the second best with probability :math:`q_2`, and so on: a stick that
is broken again and again. The q are drawn from Beta(alpha, beta), the same for all optima of an observation: some
observations have a few optima that nearly all starts lead to, others thousands. A chain that ends a thousand times in
the same optimum and never elsewhere says that this is one of the first.

Which alpha and beta there are, and how often, is a prior over a grid: a mixture that is learned by simulation, on
observations whose best code is known, see :mod:`unrelu.search.basin_prior`.

Sources: C. G. E. Boender and A. H. G. Rinnooy Kan, Bayesian stopping rules for multistart global optimization methods,
Mathematical Programming 37 (1987), who take all divisions of the starts among optima to be as likely beforehand; the
stick-breaking form of such priors is that of Sethuraman, Statistica Sinica 4 (1994), with mixtures of the parameters as
in Antoniak, Annals of Statistics 2 (1974). That the mixture is estimated from many observations is empirical Bayes
(Robbins 1956; the EM algorithm for it is Laird's, J. American Statistical Association 73 (1978)).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# Objectives this close relative to each other are the same optimum.
SAME = 1e-2
# The grid of the mixture: means of q and "sample sizes" alpha + beta of its Beta distribution.
MEANS = (0.003, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.85, 0.94, 0.98, 0.995)
STRENGTHS = (1.0, 4.0, 16.0)
ALPHA = np.repeat(MEANS, len(STRENGTHS)) * np.tile(STRENGTHS, len(MEANS))
BETA = np.tile(STRENGTHS, len(MEANS)) - ALPHA
_EM_STEPS = 500


class Hits(NamedTuple):
    """Where the chains of some observations ended: in the best optimum, in the second best that was seen, in all."""

    best: Counts
    second: Counts
    chains: Counts

    @classmethod
    def of(cls, ends: Array, best: Array, zero: Array) -> Hits:
        """Count the ends (B, n), infinite where a chain ended nowhere, that are the best known objective (B,), to 1%.

        Objectives up to ``zero`` (B,), which are rounding, are the same.
        """
        at_best = np.isfinite(ends) & (ends <= np.maximum((1 + SAME) * best, zero)[:, None])
        others = np.where(at_best, np.inf, ends)
        lowest = others.min(axis=1, initial=np.inf)
        second = np.isfinite(others) & (others <= (1 + SAME) * lowest[:, None])
        return cls(at_best.sum(axis=1), second.sum(axis=1), np.full(len(ends), ends.shape[1]))


def _likelihood(hits: Hits) -> Array:
    r"""The logarithm of the probability of the counts of the best optimum and the second seen, on the grid, (B, T).

    Between those two there may be optima that all the m chains left over missed, any number of them. Each has the
    probability :math:`v = E (1 - q)^m`, so all numbers together bring the factor
    :math:`1 + v + v^2 + \ldots = 1/(1 - v)`.
    """
    n, first, second = (count[:, None].astype(np.float64) for count in (hits.chains, hits.best, hits.second))
    left, total = n - first, betaln(ALPHA, BETA)
    of_second = betaln(ALPHA + second, BETA + left - second) - total - np.log1p(-_missed(np.maximum(left, 1)))
    return np.asarray(betaln(ALPHA + first, BETA + left) - total + np.where(left > 0, of_second, 0.0))


def _missed(chains: Array | Counts) -> Array:
    """E (1 - q)^n, the probability that n chains all miss an optimum, on the grid: (B, T) for n of shape (B, 1)."""
    return np.asarray(np.exp(betaln(ALPHA, BETA + chains) - betaln(ALPHA, BETA)))


def confidence(prior: Array, hits: Hits) -> Array:
    r"""The probability that no optimum is better than the best that was seen, (B,).

    A better one was missed by all n chains, with the probability :math:`u = E (1 - q)^n = B(\alpha, \beta + n) /
    B(\alpha, \beta)`. If L is the probability of the counts when there is none better, it is :math:`u^j L` when there
    are j. So with weights w of the grid's points the probability of none is

    .. math:: \sum w L \Big/ \sum w L (1 + u + u^2 + \ldots) = \sum w L \Big/ \sum w L / (1 - u)

    Args:
        prior: the weights of the grid's points, (T,).
        hits: counts of B observations.
    """
    with np.errstate(divide="ignore"):
        logarithms = _likelihood(hits) + np.log(prior)
    none_better = np.exp(logarithms - logarithms.max(axis=1, keepdims=True))
    any_number = none_better / (1 - _missed(hits.chains[:, None]))
    return np.asarray(none_better.sum(axis=1) / any_number.sum(axis=1))


def learned(hits: Hits, base: Array, pseudo: float) -> Array:
    """The mixture that makes the counts of simulated observations most probable, (T,), by EM.

    Args:
        hits: counts of the optimum that is known to be the best.
        base: the prior of a Dirichlet distribution, (T,), that holds for ...
        pseudo: ... so many observations.
    """
    likelihood = _likelihood(hits)
    likelihood = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    weights = base
    for _ in range(_EM_STEPS):
        each = likelihood * weights
        each /= each.sum(axis=1, keepdims=True)
        weights = (each.sum(axis=0) + pseudo * base) / (len(each) + pseudo)
    return weights
