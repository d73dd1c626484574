r"""The probability that no code has an objective more than 1% lower, given where independent restarts ended.

Order the local optima of an observation by their objectives, the best first. A restart ends in the best one with
probability :math:`q_1`, otherwise in the second best with probability :math:`q_2`, and so on (stick breaking). Here
:math:`q_i \sim \mathrm{Beta}(\theta_i)`, and :math:`\theta_{i+1}` depends on :math:`\theta_i`: a Markov chain over a
grid. This covers the case in which agreement misleads: the best optimum is hard to find and the second best easy. A
single distribution of all q does not cover it.

The prior is the distribution of :math:`(\theta_1, \theta_2)`. It is learned on the generator, from simulated
observations whose best code is known (:mod:`unrelu.search.learned_prior`). Before that it is uniform on the grid, and
no number of agreeing restarts gives a high confidence.

Sources: C. G. E. Boender and A. H. G. Rinnooy Kan, Bayesian stopping rules for multistart global optimization methods,
Mathematical Programming 37 (1987), with equally likely divisions of the starts among optima. The stick-breaking prior
is Sethuraman's, Statistica Sinica 4 (1994), and the mixture of its parameters Antoniak's, Annals of Statistics 2
(1974). Estimating the mixture from many observations is empirical Bayes (Robbins 1956), by the EM algorithm of Laird,
J. American Statistical Association 73 (1978).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from unrelu.errors import InputError
from unrelu.runtime.argument_checks import numbers, real_number
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.thresholds import SAME_OPTIMUM

# The grid of theta: means of q, and "sample sizes" alpha + beta of its Beta distribution.
_MEANS = (0.003, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.85, 0.94, 0.98, 0.995)
_STRENGTHS = (1.0, 4.0, 16.0)
ALPHA = np.repeat(_MEANS, len(_STRENGTHS)) * np.tile(_STRENGTHS, len(_MEANS))
BETA = np.tile(_STRENGTHS, len(_MEANS)) - ALPHA
# The prior before learning, (T, T): theta_1 along the first axis, theta_2 along the second.
FLAT = np.full((len(ALPHA), len(ALPHA)), 1 / len(ALPHA) ** 2)
_EM_STEPS = 300
# A flat prior counts as this many simulated observations, because even for some of these the best code is not known.
# With 1, 1.5 and 2, on the tuning families, 5 of 1,899, 3 of 1,675 and 2 of 1,502 sure answers were wrong.
_PSEUDO = 1.5
# The fewest restarts whose agreement is judged.
_FEWEST = 3


class RestartCounts(NamedTuple):
    """The numbers of restarts in the best optimum, in the second best one seen, and in total."""

    best: Integers
    second: Integers
    restarts: Integers

    @classmethod
    def of(
        cls, ends: Array, best: Array, zero: Array | float = 0.0, restarts: Integers | None = None,
        within: float = SAME_OPTIMUM,
    ) -> RestartCounts:  # fmt: skip
        """Count the ends (B, n) within 1% of the best known objective (B,); a failed restart has an infinite end.

        Objectives up to ``zero`` (B,) are rounding and count as equal. ``restarts`` (B,) were made, n by default.
        ``within`` is another share than 1%.
        """
        at_best = np.isfinite(ends) & (ends <= np.maximum((1 + within) * best, zero)[:, None])
        others = np.where(at_best, np.inf, ends)
        lowest = others.min(axis=1, initial=np.inf)
        second = np.isfinite(others) & (others <= (1 + within) * lowest[:, None])
        made = np.full(len(ends), ends.shape[1]) if restarts is None else restarts
        return cls(at_best.sum(axis=1), second.sum(axis=1), made)

    def subset(self, observations: Index | Flags | slice) -> RestartCounts:
        """Return the counts of some observations."""
        return RestartCounts(*(count[observations] for count in self))


def _share(restarts: Integers, ended: Integers) -> Array:
    """Compute E q^a (1 - q)^(n - a) at the points of the grid, (B, T), where a of n restarts ended in an optimum."""
    n, a = restarts[:, None].astype(np.float64), ended[:, None].astype(np.float64)
    return np.asarray(np.exp(betaln(ALPHA + a, BETA + n - a) - betaln(ALPHA, BETA)))


def _likelihoods(counts: RestartCounts) -> tuple[Array, Array]:
    r"""Compute the probabilities of the counts of the best and the second optimum, at the grid's points, (B, T) each.

    The m restarts that did not end in the best optimum may have missed any number of optima between these two. They
    miss each with probability :math:`v = E (1 - q)^m`, which gives the factor :math:`1 + v + v^2 + \ldots = 1/(1 - v)`.
    """
    left = counts.restarts - counts.best
    second = _share(left, counts.second) / (1 - _share(np.maximum(left, 1), np.zeros_like(left)))
    return _share(counts.restarts, counts.best), np.where(left[:, None] > 0, second, 1.0)


def confidence(prior: Array, counts: RestartCounts) -> Array:
    r"""Compute the probability that no optimum is better than the best one seen, (B,).

    :math:`L_1` and :math:`L_2` are the probabilities of the counts of the best and the second best optimum seen, and
    :math:`u(\theta) = E (1 - q)^n = B(\alpha, \beta + n) / B(\alpha, \beta)` is the probability that all n restarts
    miss an optimum. Either the best optimum seen is the best of all (s), or better ones were missed (h):

    .. math::

        c = \frac{s}{s + h}, \quad s = \sum w(\theta_1, \theta_2) L_1(\theta_1) L_2(\theta_2), \quad
        h = \sum w(\theta_1, \theta_2) \, u(\theta_1) \frac{L_1(\theta_2)}{1 - u(\theta_2)}
            \sum_{\theta_3} w(\theta_3 | \theta_2) L_2(\theta_3)

    Args:
        prior: the weights w of the grid's points, (T, T).
        counts: counts of B observations.
    """
    first, second = _likelihoods(counts)
    missed = _share(counts.restarts, np.zeros_like(counts.restarts))
    seen = ((first @ prior) * second).sum(axis=1)
    next_ = prior / prior.sum(axis=1, keepdims=True)
    hidden = ((missed @ prior) * first * (second @ next_.T) / (1 - missed)).sum(axis=1)
    return np.asarray(seen / (seen + hidden))


def agreement(objectives: npt.ArrayLike, within: float = SAME_OPTIMUM) -> Any:
    r"""Compute the probability that no optimum is better than the best one that independent restarts found.

    Restarts agree if their objectives are within a share of the lowest one. The more of them agree, the less probable
    is a better optimum that all of them missed. The probability is :func:`confidence` with the prior that
    :func:`unrelu.invert` has before it learns on a generator.

    It assumes that

    - restarts are independent and have the same distribution: a best value that is reached by restarts near earlier
      ends, or by one chain, says nothing;
    - each has converged, to the share ``within`` of its objective;
    - the objective is at least 0, and its 0 means a perfect fit: chi-square, a deviance, a sum of squares. Of a log
      density, pass the difference to its greatest possible value.

    The prior is flat over the probabilities with which a restart finds an optimum, so that a few restarts that agree
    say little.

    Args:
        objectives: where the restarts ended, (n,), or (B, n) for B searches, at least three of each; infinite or NaN
            for restarts that failed.
        within: the share of the objective by which the ends of one optimum differ.

    Returns:
        The probability, a float, or (B,). It is 0 if all restarts failed.

    Raises:
        InputError: there are fewer than three objectives, one is negative, or ``within`` is not between 0 and 1.

    >>> import unrelu
    >>> ends = [31.2, 31.2, 58.0, 31.2, 31.3, 31.2, 44.7, 31.2, 31.2, 31.2]
    >>> round(unrelu.agreement(ends), 2), round(unrelu.agreement(ends[:3]), 2)
    (0.7, 0.55)
    """
    ends = numbers(objectives, "objectives")
    if ends.ndim not in (1, 2) or ends.shape[-1] < _FEWEST:
        raise InputError(
            f"objectives= has shape {ends.shape}; pass the objectives of at least {_FEWEST} restarts, (n,), or (B, n)"
        )
    if (ends < 0).any():
        raise InputError(
            f"objectives= has {ends[ends < 0][0]:g}; objectives are at least 0, as chi-square is: subtract the least "
            "possible value"
        )
    if not 0 < real_number("within", within, "a share of the objective, such as 0.01") < 1:
        raise InputError(f"within={within!r} must be a share of the objective, above 0 and below 1")
    each = np.where(np.isfinite(ends), ends, np.inf).reshape(-1, ends.shape[-1])
    counts = RestartCounts.of(each, each.min(axis=1), within=within)
    found = np.where(np.isfinite(each).any(axis=1), confidence(FLAT, counts), 0.0)
    return float(found[0]) if ends.ndim == 1 else found


def learned(counts: RestartCounts, pseudo: float = _PSEUDO) -> Array:
    """Compute the maximum-likelihood mixture for the counts of simulated observations, (T, T), by EM.

    Args:
        counts: counts of restarts that ended in the known best optimum.
        pseudo: the number of observations that a flat prior counts as.
    """
    first, second = _likelihoods(counts)
    weights = FLAT
    for _ in range(_EM_STEPS):
        of_each = ((first @ weights) * second).sum(axis=1)
        weights = weights * (first.T @ (second / of_each[:, None]))
        weights = (weights + pseudo * FLAT) / (len(first) + pseudo)
    return np.asarray(weights)


@dataclass(frozen=True, eq=False)
class Prior:
    """The prior that is learned for the search on one generator, and the confidence that follows from it.

    Attributes:
        weights: the weights of the grid, (T, T), after each number of rounds.
        improves: the probability that perturbations of the best restart find a better code if a better one exists.
        reaches: the probability that a better code found by them is the best.
    """

    weights: Mapping[int, Array]
    improves: float = 0.0
    reaches: float = 0.0

    def confidence(self, rounds: int, counts: RestartCounts) -> Array:
        """Compute the confidence from the counts after ``rounds``, (B,), with the flat prior if none is learned.

        Beyond the last simulated round, the prior of that round is used: longer restarts do not miss more.
        """
        learned_rounds = [each for each in self.weights if each <= rounds]
        return confidence(self.weights[max(learned_rounds)] if learned_rounds else FLAT, counts)

    def after_perturbations(self, found: Array, improved: Flags) -> Array:
        r"""Update the confidence c that follows from the restarts, (B,), after perturbations of the best restart.

        If they found a better code, the confidence is the share of such codes that are the best. Otherwise Bayes's rule
        gives :math:`c / (c + (1 - c) (1 - a))`. If a better code exists, perturbations find one with probability a.
        """
        unnoticed = (1 - found) * (1 - self.improves)
        return np.where(improved, self.reaches, found / (found + unnoticed))
