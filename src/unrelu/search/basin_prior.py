"""How often chains of descents end in the best optimum: the prior of the confidence, by default or learned."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.runtime.streams import stream
from unrelu.search.confidence import Hits, confidence, learned

Array = npt.NDArray[np.float64]

# A prior is learned for chains of so many hops each.
LEVELS = (0, 8, 24)
# Hops are made for observations only for which this confidence was not reached before.
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


# Weights of the grid at each level, of each class of problems.
_DEFAULT = (
    (
        (
            0.00018, 0.00022, 0.00717, 0.00019, 0.00023, 0.00988, 0.00024, 0.00029, 0.02465, 0.0004, 0.00055, 0.06178,
            0.00484, 0.01386, 0.00124, 0.01298, 0.1619, 8e-05, 0.00018, 0.07936, 8e-05, 8e-05, 0.00019, 0.0744, 8e-05,
            9e-05, 0.00184, 0.00012, 0.00012, 0.07027, 0.00029, 0.00028, 0.4147, 0.00305, 0.00319, 0.05098,
        ),
        (
            0.00012, 0.00039, 0.0003, 0.00012, 0.00041, 0.00037, 0.00013, 0.00047, 0.00076, 0.00014, 0.00062, 0.04721,
            0.00018, 0.00135, 0.03753, 0.00026, 0.04944, 0.0006, 0.00031, 0.2725, 0.00107, 0.00027, 0.00048, 0.04484,
            0.00029, 0.00026, 0.00119, 0.00044, 0.00036, 0.1877, 0.00115, 0.00097, 0.3151, 0.00382, 0.00367, 0.0252,
        ),
        (
            0.0001, 9e-05, 0.00014, 0.00011, 0.0001, 0.00016, 0.00012, 0.00012, 0.00021, 0.00014, 0.00017, 0.00047,
            0.00021, 0.00036, 0.08388, 0.00053, 0.00281, 0.00185, 0.00351, 0.303, 0.00289, 0.01385, 0.08132, 0.04508,
            0.00535, 0.00535, 0.1074, 0.00302, 0.00276, 0.2924, 0.00249, 0.00244, 0.02921, 0.00234, 0.00234, 0.00362,
        ),
    ),
    (
        (
            7e-05, 4e-05, 5e-05, 8e-05, 4e-05, 5e-05, 9e-05, 4e-05, 6e-05, 0.00011, 5e-05, 6e-05, 0.00021, 6e-05,
            5e-05, 0.1516, 0.00013, 7e-05, 0.29, 0.1032, 0.00027, 0.00022, 0.00067, 0.1912, 0.00015, 0.00021, 0.1064,
            0.00017, 0.00022, 0.1522, 0.00022, 0.00025, 0.00068, 0.00026, 0.00027, 0.00034,
        ),
        (
            5e-05, 5e-05, 0.00013, 5e-05, 6e-05, 0.00013, 6e-05, 6e-05, 0.00014, 7e-05, 9e-05, 0.00021, 0.00011,
            0.00018, 0.006, 0.00032, 0.00149, 0.00095, 0.02789, 0.02967, 0.00017, 0.07673, 0.2157, 0.00679, 0.00319,
            0.00151, 0.1006, 0.00189, 0.001, 0.3984, 0.00242, 0.00178, 0.1081, 0.00298, 0.00274, 0.00827,
        ),
        (
            7e-05, 0.00013, 0.00225, 7e-05, 0.00013, 0.00056, 8e-05, 0.00012, 0.00023, 9e-05, 0.00013, 0.00017,
            0.00011, 0.00017, 0.00025, 0.00022, 0.00053, 0.01196, 0.00129, 0.01205, 0.00091, 0.2259, 0.2629, 0.00064,
            0.00049, 0.001, 0.4756, 0.00022, 0.00027, 0.00042, 0.00016, 0.00017, 0.00019, 0.00015, 0.00015, 0.00015,
        ),
    ),
    (
        (
            0.00985, 0.0028, 0.00171, 0.0131, 0.0046, 0.00331, 0.02686, 0.02679, 0.04674, 0.05752, 0.2923, 0.01151,
            0.01255, 0.4627, 0.00036, 0.00052, 0.0248, 0.00017, 0.00013, 0.00051, 0.00021, 7e-05, 0.0001, 0.00011,
            5e-05, 6e-05, 6e-05, 5e-05, 5e-05, 6e-05, 5e-05, 5e-05, 6e-05, 5e-05, 5e-05, 6e-05,
        ),
        (
            0.00066, 0.00046, 0.00121, 0.00071, 0.0005, 0.00131, 0.00087, 0.00066, 0.00261, 0.00147, 0.0014, 0.1494,
            0.02069, 0.1573, 0.01558, 0.07984, 0.5241, 0.00032, 0.00068, 0.02396, 0.0004, 0.00026, 0.00072, 0.00138,
            0.00019, 0.00035, 0.00787, 0.00017, 0.00025, 0.00336, 0.00018, 0.00021, 0.00035, 0.00018, 0.00019,
            0.00021,
        ),
        (
            8e-05, 0.00012, 0.00112, 9e-05, 0.00013, 0.0013, 9e-05, 0.00015, 0.00224, 0.00012, 0.0002, 0.02282,
            0.00018, 0.00041, 0.09229, 0.0006, 0.3824, 0.00071, 0.07537, 0.3869, 0.00033, 0.00091, 0.00083, 0.00064,
            0.00038, 0.00049, 0.00348, 0.00029, 0.00038, 0.02285, 0.00027, 0.00031, 0.00059, 0.00027, 0.00028,
            0.00032,
        ),
    ),
)  # fmt: skip
# The largest share of codes at which a layer has too few neurons on, of all classes but the last.
_SHARES = (0.05, 0.4)
# Layers of at most so many times as many neurons as a code has coordinates may leave valleys.
_NARROW = 2


def has_valleys(network: Network) -> bool:
    """Whether the objective may fall slowly along valleys, which a descent has to follow for hundreds of steps.

    The Jacobian of two or more hidden layers of sigmoid, whose slopes are at most 1/4, or of LeakyReLU or tanh and
    hardly wider than a code, has small singular values: it takes a long way to change the output a little. Where a
    neuron of ReLU is off, a direction changes nothing.
    """
    narrow = _NARROW * network.latent_dim
    valleys = [
        layer.activation.name == "sigmoid"
        or (layer.activation.name in ("leaky_relu", "prelu", "tanh") and layer.n_out <= narrow)
        for layer in network.layers[:-1]
    ]
    return sum(valleys) >= 2


def width_class(problem: Problem) -> int:
    """Which default prior judges: the first is of generators with wide layers, then narrow, then very narrow ones.

    Where a layer has fewer neurons on than a code has coordinates, codes far apart look alike, and independent chains
    miss the best of them together much oftener. :data:`_SHARES` are the largest shares of codes at which that is so
    (:attr:`~unrelu.models.network.Network.noninjective_share`) of the classes.

    What the priors were not learned on (layers that are not known or leave valleys, measurements that are not linear,
    counts) has the middle one at least, with which no few chains are sure.
    """
    network = problem.network
    if not isinstance(network, Network) or not problem.operator.linear or problem.noise.counts:
        return 1
    return max(int(has_valleys(network)), sum(network.noninjective_share > most for most in _SHARES))


def default_prior(problem: Problem) -> BasinPrior:
    """The prior where nothing was learned on the network itself, by its :func:`width_class`.

    It is learned on the generators to tune on of ``unrelu benchmark hard``, 120 observations of each of seven
    measurements with noise, by ``python -m unrelu_studies.benchmarks.tuning.default_prior``.
    """
    return _defaults()[width_class(problem)]


@cache
def _defaults() -> tuple[BasinPrior, ...]:
    weights = np.array(_DEFAULT)
    return tuple(BasinPrior(each / each.sum(axis=1, keepdims=True)) for each in weights)


def learned_prior(hits: list[Hits], base: BasinPrior, pseudo: float = _PSEUDO) -> BasinPrior:
    """The prior that simulated observations suggest.

    Args:
        hits: of the optimum that is known to be the best, after each of the :data:`LEVELS`.
        base: the prior that few observations leave as it is.
        pseudo: as how many observations it counts.
    """
    weights, unsure = [], np.ones(len(hits[0].chains), dtype=bool)
    for each, row in zip(hits, base.weights, strict=True):
        weights.append(learned(Hits(*(count[unsure] for count in each)), row, pseudo))
        unsure &= confidence(weights[-1], each) < SURE
    return BasinPrior(np.array(weights))


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
    learned_here = kept.get(_measurement(problem)) if kept else None
    return learned_here or default_prior(problem)
