"""How often chains of descents end in the best optimum: the prior of the confidence, by default or learned."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.runtime.streams import stream
from unrelu.search.confidence import MEANS, STRENGTHS, Hits, confidence, learned

Array = npt.NDArray[np.float64]

# A prior is learned for chains of so many hops each; chains of fewer, or none, are judged by the first.
LEVELS = (8, 24)
# From a level on, only observations are seen that this confidence was not reached for before.
SURE = 0.99
# A default mixture counts as much as so many observations.
_PSEUDO = 5.0


@dataclass(frozen=True, eq=False)
class BasinPrior:
    """Weights of the grid of :mod:`~unrelu.search.confidence` at each of the :data:`LEVELS`, (2, T)."""

    weights: Array

    def confidence(self, hops: int, hits: Hits) -> Array:
        """The confidence that the counts of chains of so many hops give, (B,)."""
        return confidence(self.weights[sum(hops >= level for level in LEVELS[1:])], hits)


# Pairs of (mean of q, weight) for each strength of its distribution, at each level.
_DEFAULT: tuple[tuple[tuple[float, ...], ...], ...] = ()


@cache
def default_prior() -> BasinPrior:
    """The prior for generators of which nothing is known.

    It is learned on the ten generators to tune on of ``unrelu benchmark hard``, 32 observations of each of eight
    measurements with noise, by ``python -m unrelu_studies.benchmarks.searches.default_prior``.
    """
    if not _DEFAULT:
        return BasinPrior(np.full((len(LEVELS), len(MEANS) * len(STRENGTHS)), 1 / (len(MEANS) * len(STRENGTHS))))
    weights = np.array([np.ravel(level) for level in _DEFAULT])
    return BasinPrior(weights / weights.sum(axis=1, keepdims=True))


def learned_prior(hits: list[Hits], base: BasinPrior, pseudo: float = _PSEUDO) -> BasinPrior:
    """The prior that simulated observations suggest.

    Args:
        hits: of the optimum that is known to be the best, after each of the :data:`LEVELS`.
        base: the prior that few observations leave as it is.
        pseudo: as how many observations it counts.
    """
    first = learned(hits[0], base.weights[0], pseudo)
    unsure = confidence(first, hits[0]) < SURE
    rest = Hits(*(count[unsure] for count in hits[1]))
    return BasinPrior(np.array([first, learned(rest, base.weights[1], pseudo)]))


_known: weakref.WeakKeyDictionary[Generator, dict[bytes, BasinPrior]] = weakref.WeakKeyDictionary()


def _measurement(problem: Problem) -> bytes:
    """A name of the measurement: a digest of what is measured of one fixed output."""
    operator = problem.operator
    x = stream("a fixed output").standard_normal((1, operator.n))
    if operator.count:  # of masks that differ, none is known
        return b"masks"
    seen = operator.values(x)
    return hashlib.sha256(seen.astype(np.float32).tobytes()).digest()


def keep_prior(problem: Problem, prior: BasinPrior) -> None:
    """Use a prior for this network and measurement from now on, as long as the network lives."""
    _known.setdefault(problem.network, {})[_measurement(problem)] = prior


def prior_for(problem: Problem) -> BasinPrior:
    """The prior that was learned for the network and measurement of a problem, or the default."""
    kept = _known.get(problem.network)
    return default_prior() if not kept else kept.get(_measurement(problem), default_prior())
