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
from unrelu.search.confidence import Hits, confidence, learned

Array = npt.NDArray[np.float64]

# A prior is learned for chains of so many hops each.
LEVELS = (0, 8, 24)
# The last hops are made for observations only for which this confidence was not reached before.
SURE = 0.99
# A default mixture counts as much as so many observations.
_PSEUDO = 5.0


@dataclass(frozen=True, eq=False)
class BasinPrior:
    """Weights of the grid of :mod:`~unrelu.search.confidence` at each of the :data:`LEVELS`, (3, T)."""

    weights: Array

    def confidence(self, hops: int, hits: Hits) -> Array:
        """The confidence that the counts of chains of so many hops give, (B,)."""
        return confidence(self.weights[sum(hops >= level for level in LEVELS[1:])], hits)


# Weights of the grid at each level.
_DEFAULT = (
    (
        0.00011, 0.00018, 0.00526, 0.00012, 0.0002, 0.00882, 0.00014, 0.00026, 0.03087, 0.00027, 0.00085, 0.07481,
        0.01735, 0.02579, 0.00063, 0.1492, 0.1117, 4e-05, 0.00011, 0.09535, 4e-05, 4e-05, 0.00012, 0.07699,
        4e-05, 6e-05, 0.00916, 7e-05, 8e-05, 0.1172, 0.00015, 0.00018, 0.2455, 0.00145, 0.00172, 0.02509,
    ),
    (
        3e-05, 5e-05, 7e-05, 4e-05, 5e-05, 8e-05, 4e-05, 7e-05, 0.00015, 5e-05, 0.00014, 0.03911,
        0.0001, 0.00905, 0.02181, 0.00553, 0.07785, 4e-05, 0.05136, 0.1647, 3e-05, 0.00019, 0.00497, 0.03224,
        0.00012, 0.0001, 0.05291, 0.0002, 0.00012, 0.05868, 0.00285, 0.00091, 0.3128, 0.02511, 0.01783, 0.1206,
    ),
    (
        2e-05, 2e-05, 3e-05, 2e-05, 2e-05, 3e-05, 2e-05, 2e-05, 4e-05, 2e-05, 4e-05, 9e-05,
        3e-05, 8e-05, 0.0782, 8e-05, 0.04234, 0.00015, 0.06161, 0.3306, 5e-05, 0.01739, 0.00957, 0.00011,
        0.00014, 0.00023, 0.2867, 7e-05, 0.0001, 0.1717, 6e-05, 6e-05, 0.00011, 5e-05, 6e-05, 6e-05,
    ),
)  # fmt: skip


@cache
def default_prior() -> BasinPrior:
    """The prior for generators of which nothing is known.

    It is learned on the generators to tune on of ``unrelu benchmark hard``, 120 observations of each of seven
    measurements with noise, by ``python -m unrelu_studies.benchmarks.searches.default_prior``.
    """
    weights = np.array(_DEFAULT)
    return BasinPrior(weights / weights.sum(axis=1, keepdims=True))


def learned_prior(hits: list[Hits], base: BasinPrior, pseudo: float = _PSEUDO) -> BasinPrior:
    """The prior that simulated observations suggest.

    Args:
        hits: of the optimum that is known to be the best, after each of the :data:`LEVELS`.
        base: the prior that few observations leave as it is.
        pseudo: as how many observations it counts.
    """
    *early, last = hits
    weights = [learned(each, row, pseudo) for each, row in zip(early, base.weights, strict=False)]
    unsure = confidence(weights[-1], early[-1]) < SURE
    rest = Hits(*(count[unsure] for count in last))
    return BasinPrior(np.array([*weights, learned(rest, base.weights[-1], pseudo)]))


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
