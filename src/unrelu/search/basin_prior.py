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
from unrelu.search.sample_bank import Bank, is_large

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
            0.00023, 0.00024, 0.00689, 0.00025, 0.00026, 0.00897, 0.00032, 0.00032, 0.02116, 0.00066, 0.0007, 0.06557,
            0.01047, 0.01861, 0.00188, 0.00755, 0.1494, 8e-05, 0.00016, 0.08964, 9e-05, 7e-05, 0.00019, 0.0715, 7e-05,
            9e-05, 0.00137, 0.00012, 0.00012, 0.07073, 0.00027, 0.00028, 0.4167, 0.0028, 0.00305, 0.0492,
        ),
        (
            0.0002, 0.0015, 0.00112, 0.0002, 0.00147, 0.00119, 0.00021, 0.00144, 0.00211, 0.00023, 0.00164, 0.03214,
            0.00028, 0.00362, 0.04609, 0.00041, 0.04134, 0.00037, 0.00048, 0.2908, 0.00041, 0.00036, 0.00062, 0.0291,
            0.00034, 0.00027, 0.00132, 0.0005, 0.00036, 0.1983, 0.0013, 0.00096, 0.3073, 0.00396, 0.0036, 0.0245,
        ),
        (
            0.00023, 0.00016, 0.00032, 0.00024, 0.00017, 0.00033, 0.00027, 0.0002, 0.00035, 0.00034, 0.00029, 0.00055,
            0.00056, 0.00078, 0.06284, 0.00159, 0.05505, 0.01158, 0.012, 0.2093, 0.00496, 0.02458, 0.1547, 0.04364,
            0.00806, 0.00872, 0.07228, 0.003, 0.00267, 0.2883, 0.00212, 0.00205, 0.02126, 0.0019, 0.00189, 0.00272,
        ),
    ),
    (
        (
            7e-05, 4e-05, 4e-05, 8e-05, 4e-05, 5e-05, 8e-05, 4e-05, 5e-05, 0.00011, 5e-05, 6e-05, 0.00021, 6e-05, 5e-05,
            0.1618, 0.00013, 7e-05, 0.2823, 0.09826, 0.00028, 0.00022, 0.00065, 0.1936, 0.00015, 0.00021, 0.1051,
            0.00017, 0.00022, 0.1538, 0.00022, 0.00025, 0.00065, 0.00025, 0.00026, 0.00033,
        ),
        (
            6e-05, 5e-05, 0.00014, 6e-05, 6e-05, 0.00014, 6e-05, 6e-05, 0.00015, 8e-05, 9e-05, 0.00021, 0.00012,
            0.00018, 0.00401, 0.00037, 0.0012, 0.00113, 0.06151, 0.02089, 0.00018, 0.04966, 0.2125, 0.01036, 0.00249,
            0.00149, 0.09838, 0.00176, 0.00099, 0.3992, 0.00238, 0.00179, 0.1139, 0.00301, 0.00278, 0.00862,
        ),
        (
            0.0001, 0.00017, 0.00197, 0.00011, 0.00016, 0.00058, 0.00011, 0.00015, 0.00024, 0.00012, 0.00014, 0.00016,
            0.00016, 0.00018, 0.00021, 0.00033, 0.00052, 0.00208, 0.00407, 0.05013, 0.00164, 0.292, 0.08594, 0.00063,
            0.00051, 0.00108, 0.5545, 0.00023, 0.00029, 0.00048, 0.00017, 0.00018, 0.00021, 0.00015, 0.00016, 0.00016,
        ),
    ),
    (
        (
            0.03198, 0.00406, 0.01793, 0.03981, 0.00875, 0.06965, 0.04575, 0.07471, 0.00278, 0.00814, 0.4981, 0.00031,
            0.00057, 0.1956, 0.00012, 0.00011, 0.00103, 9e-05, 4e-05, 8e-05, 0.0001, 2e-05, 3e-05, 3e-05, 2e-05, 2e-05,
            2e-05, 2e-05, 2e-05, 2e-05, 2e-05, 2e-05, 2e-05, 2e-05, 2e-05, 2e-05,
        ),
        (
            0.00019, 0.00026, 0.0004, 0.0002, 0.0003, 0.00063, 0.00025, 0.00044, 0.08761, 0.00044, 0.00123, 0.02198,
            0.1441, 0.2453, 0.00023, 0.05441, 0.4382, 8e-05, 0.00012, 0.0029, 0.00012, 4e-05, 8e-05, 0.00015, 3e-05,
            3e-05, 3e-05, 3e-05, 3e-05, 3e-05, 4e-05, 4e-05, 3e-05, 4e-05, 4e-05, 4e-05,
        ),
        (
            5e-05, 6e-05, 8e-05, 5e-05, 6e-05, 0.0001, 5e-05, 8e-05, 0.00023, 7e-05, 0.00014, 0.08846, 0.00014, 0.00048,
            0.00029, 0.3871, 0.2782, 9e-05, 0.00142, 0.2414, 8e-05, 0.00011, 0.00025, 0.00012, 6e-05, 9e-05, 0.0001,
            6e-05, 7e-05, 9e-05, 6e-05, 6e-05, 7e-05, 6e-05, 6e-05, 6e-05,
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
    """How narrow the layers are: 0 where they are wide, 1 where narrow, 2 where very narrow.

    Which default prior judges, how far starts and hops go and what is spent at least depend on it.

    Where a layer has fewer neurons on than a code has coordinates, codes far apart look alike, and independent chains
    miss the best of them together much oftener. :data:`_SHARES` are the largest shares of codes at which that is so
    (:attr:`~unrelu.models.network.Network.noninjective_share`) of the classes.

    What the priors were not learned on (layers that are not known or leave valleys, measurements that are not linear,
    counts) has the middle one at least, with which no few chains are sure.
    """
    network = problem.network
    if not isinstance(network, Network) or not problem.operator.linear or problem.noise.counts:
        return 1
    if is_large(network):
        bank = Bank.of(network, problem.bounds)
        network = bank.single if bank.fits else network  # its draws are made in single precision, for the smoothing
    assert isinstance(network, Network)
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
