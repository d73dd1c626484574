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
        0.00013, 0.00021, 0.00393, 0.00015, 0.00023, 0.008, 0.00019, 0.00033, 0.03615, 0.00061, 0.00145, 0.06473,
        0.0476, 0.02956, 0.0004, 0.1289, 0.09936, 4e-05, 0.0001, 0.1004, 4e-05, 4e-05, 0.00012, 0.0758,
        4e-05, 5e-05, 0.00807, 7e-05, 7e-05, 0.1185, 0.00015, 0.00017, 0.2474, 0.00134, 0.0016, 0.02414,
    ),
    (
        7e-05, 0.0001, 0.00014, 7e-05, 0.00011, 0.00017, 8e-05, 0.00015, 0.00046, 0.0001, 0.00037, 0.04205,
        0.00018, 0.02481, 0.01572, 0.01058, 0.09594, 8e-05, 0.02534, 0.1085, 6e-05, 0.00095, 0.01592, 0.0467,
        0.00041, 0.00024, 0.01706, 0.00134, 0.00032, 0.079, 0.01124, 0.00462, 0.3196, 0.03563, 0.02811, 0.1138,
    ),
    (
        3e-05, 5e-05, 0.00109, 3e-05, 6e-05, 0.00086, 4e-05, 6e-05, 0.00066, 4e-05, 8e-05, 0.00143,
        6e-05, 0.00017, 0.07306, 0.00016, 0.08357, 0.00031, 0.01554, 0.2797, 0.00012, 0.06713, 0.01081, 0.00036,
        0.00075, 0.00111, 0.05613, 0.00027, 0.00032, 0.4042, 0.00021, 0.00023, 0.00065, 0.00019, 0.0002, 0.00023,
    ),
)  # fmt: skip


@cache
def default_prior() -> BasinPrior:
    """The prior for generators of which nothing is known.

    It is learned on the generators to tune on of ``unrelu benchmark hard``, 120 observations of each of seven
    measurements with noise, by ``python -m unrelu_studies.benchmarks.tuning.default_prior``.
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
