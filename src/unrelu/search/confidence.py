r"""How sure it is that no code has an objective more than 1% lower, from where independent restarts of descents ended.

The local optima of an observation are ordered by their objectives, the best first. An independent restart ends in the
best one with probability :math:`q_1`; if not, in the second best with probability :math:`q_2`, and so on: a stick that
is broken again and again. :math:`q_i \sim \mathrm{Beta}(\theta_i)`, where :math:`\theta_{i+1}` depends on
:math:`\theta_i`: a Markov chain over a grid. So the best optimum may be hidden where the next is easy to find: that is
where agreement misleads, and what a single distribution of all q cannot say.

How often which :math:`(\theta_1, \theta_2)` occurs is the prior: a mixture that is learned by simulation on
the generator at hand, from observations whose best code is known, see :mod:`unrelu.search.learned_prior`. Before that
all points of the grid are alike, and no number of agreeing restarts makes sure.

Sources: C. G. E. Boender and A. H. G. Rinnooy Kan, Bayesian stopping rules for multistart global optimization methods,
Mathematical Programming 37 (1987), who take all divisions of the starts among optima to be as likely beforehand; the
stick-breaking form of such priors is that of Sethuraman, Statistica Sinica 4 (1994), with mixtures of the parameters as
in Antoniak, Annals of Statistics 2 (1974). That the mixture is estimated from many observations is empirical Bayes
(Robbins 1956; the EM algorithm for it is Laird's, J. American Statistical Association 73 (1978)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from unrelu.runtime.array_types import Array

Counts = npt.NDArray[np.int64]

# Objectives this close relative to each other are the same optimum.
SAME = 1e-2
# The grid of the mixture: means of q and "sample sizes" alpha + beta of its Beta distribution.
_MEANS = (0.003, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.85, 0.94, 0.98, 0.995)
_STRENGTHS = (1.0, 4.0, 16.0)
ALPHA = np.repeat(_MEANS, len(_STRENGTHS)) * np.tile(_STRENGTHS, len(_MEANS))
BETA = np.tile(_STRENGTHS, len(_MEANS)) - ALPHA
# The prior where nothing was learned, (T, T): theta_1 in rows, theta_2 in columns.
FLAT = np.full((len(ALPHA), len(ALPHA)), 1 / len(ALPHA) ** 2)
_EM_STEPS = 300
# As how many observations a flat prior counts beside simulated ones, some of whose best codes are not known either. Of
# 1, 1.5 and 2 on the families to tune on, 5 of 1,899, 3 of 1,675 and 2 of 1,502 sure answers were wrong.
_PSEUDO = 1.5


class Hits(NamedTuple):
    """Where the restarts of some observations ended: in the best optimum, in the second best that was seen, in all."""

    best: Counts
    second: Counts
    restarts: Counts

    @classmethod
    def of(cls, ends: Array, best: Array, zero: Array | float = 0.0, restarts: Counts | None = None) -> Hits:
        """Count the ends (B, n), infinite where a restart ended nowhere, at the best known objective (B,), to 1%.

        Objectives up to ``zero`` (B,), which are rounding, are the same. (B,) ``restarts`` were made, by default n.
        """
        at_best = np.isfinite(ends) & (ends <= np.maximum((1 + SAME) * best, zero)[:, None])
        others = np.where(at_best, np.inf, ends)
        lowest = others.min(axis=1, initial=np.inf)
        second = np.isfinite(others) & (others <= (1 + SAME) * lowest[:, None])
        made = np.full(len(ends), ends.shape[1]) if restarts is None else restarts
        return cls(at_best.sum(axis=1), second.sum(axis=1), made)

    def take(self, observations: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Hits:
        """The counts of some observations."""
        return Hits(*(count[observations] for count in self))


def _share(restarts: Counts, ended: Counts) -> Array:
    """E q^a (1 - q)^(n - a) for n restarts of which a ended in an optimum, on the grid, (B, T)."""
    n, a = restarts[:, None].astype(np.float64), ended[:, None].astype(np.float64)
    return np.asarray(np.exp(betaln(ALPHA + a, BETA + n - a) - betaln(ALPHA, BETA)))


def _likelihoods(hits: Hits) -> tuple[Array, Array]:
    r"""The probabilities of the counts of the best optimum and of the second seen, at the grid's points, (B, T) each.

    Between those two there may be optima that all the m restarts left over missed, any number of them. Each has the
    probability :math:`v = E (1 - q)^m`, so all numbers together bring the factor
    :math:`1 + v + v^2 + \ldots = 1/(1 - v)`.
    """
    left = hits.restarts - hits.best
    second = _share(left, hits.second) / (1 - _share(np.maximum(left, 1), np.zeros_like(left)))
    return _share(hits.restarts, hits.best), np.where(left[:, None] > 0, second, 1.0)


def confidence(prior: Array, hits: Hits) -> Array:
    r"""The probability that no optimum is better than the best that was seen, (B,).

    With :math:`L_1` and :math:`L_2` the probabilities of the counts of the best optimum seen and of the second, and
    :math:`u(\theta) = E (1 - q)^n = B(\alpha, \beta + n) / B(\alpha, \beta)` that of an optimum which all n restarts
    missed, the best seen is the best of all, or the best of all was missed, with any number like the one seen:

    .. math::

        c = \frac{s}{s + h}, \quad s = \sum w(\theta_1, \theta_2) L_1(\theta_1) L_2(\theta_2), \quad
        h = \sum w(\theta_1, \theta_2) \, u(\theta_1) \frac{L_1(\theta_2)}{1 - u(\theta_2)}
            \sum_{\theta_3} w(\theta_3 | \theta_2) L_2(\theta_3)

    Args:
        prior: the weights w of the grid's points, (T, T).
        hits: counts of B observations.
    """
    first, second = _likelihoods(hits)
    missed = _share(hits.restarts, np.zeros_like(hits.restarts))
    seen = ((first @ prior) * second).sum(axis=1)
    next_ = prior / prior.sum(axis=1, keepdims=True)
    hidden = ((missed @ prior) * first * (second @ next_.T) / (1 - missed)).sum(axis=1)
    return np.asarray(seen / (seen + hidden))


def learned(hits: Hits, pseudo: float = _PSEUDO) -> Array:
    """The mixture that makes the counts of simulated observations most probable, (T, T), by EM.

    Args:
        hits: counts of the optimum that is known to be the best.
        pseudo: as how many observations a flat prior counts. Where none of n observations misled, one in 1.5 n may.
    """
    first, second = _likelihoods(hits)
    weights = FLAT
    for _ in range(_EM_STEPS):
        of_each = ((first @ weights) * second).sum(axis=1)
        weights = weights * (first.T @ (second / of_each[:, None]))
        weights = (weights + pseudo * FLAT) / (len(first) + pseudo)
    return np.asarray(weights)


@dataclass(frozen=True, eq=False)
class Prior:
    """Weights of the grid of the mixture after each number of rounds, (T, T) each."""

    weights: Mapping[int, Array]

    def confidence(self, rounds: int, hits: Hits) -> Array:
        """The confidence that the counts of restarts of so many rounds give, (B,); flat where nothing was learned.

        Beyond the last round that a simulation came to, its prior holds: longer restarts miss no more.
        """
        learned_rounds = [each for each in self.weights if each <= rounds]
        return confidence(self.weights[max(learned_rounds)] if learned_rounds else FLAT, hits)
