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
        0.00016, 0.00081, 0.01909, 0.00017, 0.00101, 0.01603, 0.00021, 0.00217, 0.01503, 0.00044, 0.01195, 0.03051,
        0.01122, 0.1058, 0.00915, 0.1298, 0.07993, 9e-05, 0.00046, 0.03377, 9e-05, 0.0001, 0.00023, 0.0525,
        9e-05, 9e-05, 0.0002, 0.00015, 0.00013, 0.01281, 0.00091, 0.00075, 0.3375, 0.01318, 0.01265, 0.1008,
    ),
    (
        6e-05, 8e-05, 0.00012, 6e-05, 9e-05, 0.00014, 6e-05, 0.00012, 0.00033, 8e-05, 0.00022, 0.0506,
        0.00015, 0.00952, 0.0042, 0.01403, 0.108, 7e-05, 0.05009, 0.1133, 5e-05, 0.00034, 0.00992, 0.01203,
        0.00019, 0.0002, 0.03096, 0.00048, 0.00023, 0.02265, 0.01145, 0.00457, 0.2099, 0.07749, 0.05981, 0.2084,
    ),
    (
        3e-05, 4e-05, 9e-05, 3e-05, 5e-05, 0.00011, 3e-05, 6e-05, 0.00019, 4e-05, 8e-05, 0.00135,
        6e-05, 0.00019, 0.086, 0.00015, 0.08768, 0.00022, 0.07368, 0.3186, 9e-05, 0.06027, 0.02501, 0.00021,
        0.00034, 0.0006, 0.09179, 0.00018, 0.00023, 0.2515, 0.00015, 0.00016, 0.00029, 0.00014, 0.00014, 0.00016,
    ),
)  # fmt: skip


@cache
def default_prior() -> BasinPrior:
    """The prior for generators of which nothing is known.

    It is learned on the generators to tune on of ``unrelu benchmark hard``, 120 observations of each of eight
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
