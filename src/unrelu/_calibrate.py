"""Learning on one's own generator how far the agreement of independent starts can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, OptionError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.noise import Noise
from unrelu.measurements.whitening import known_entries
from unrelu.models.generator import Generator, as_generator
from unrelu.models.network import small
from unrelu.problem import Problem
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.search.basin_prior import LEVELS, SURE, BasinPrior, default_prior, keep_prior, learned_prior
from unrelu.search.confidence import SAME, Hits
from unrelu.search.joint_search import JointSearch, Search

Array = npt.NDArray[np.float64]

# The prior is learned from so many chains of each simulated observation. The best optimum is that of so many times as
# many: where the first miss it together, further hops of the same would not tell.
_CHAINS, _TIMES_AS_MANY = 12, 3
_FEWEST = 20


@dataclass(frozen=True)
class Calibration:
    """What a calibration found. The half of the observations that the prior was not learned from is judged by it.

    Attributes:
        observations: that were simulated.
        reached: the share of them whose confidence reached 0.99.
        wrong: the share of those whose best code was not the best known, to 1%; NaN where none reached it.
    """

    observations: int
    reached: float
    wrong: float


def calibrate(
    network: Generator,
    operator: Any = None,
    noise: Noise | str | None = None,
    *,
    bounds: Any = None,
    observations: int = 200,
    seed: int = 0,
) -> Calibration:
    r"""Learn how often descents find the best code of this generator, so that ``confidence`` can be trusted on it.

    Codes z ~ N(0, I), or uniform within the bounds, are drawn, observed as y = A G(z) + e, and searched with all that
    "auto" has and more. How many of 12 independent chains ended in the best optimum that is known is the data from
    which the prior of :mod:`unrelu.search.confidence` is learned. It is kept with the network, and used by each later
    ``invert(network, ..., operator=operator)`` in this process instead of the default. Without it, the default was
    learned on other generators.

    Args:
        network: G.
        operator: A, as in :func:`unrelu.invert`; of masks, one for all or a batch of them (:class:`unrelu.Mask`).
        noise: of a size that is usual for the observations: "gaussian:S", "uniform:A" or of counts. Without noise exact
            fits tell all there is to know.
        bounds: of the codes, as in :func:`unrelu.invert`. What is learned is used within the same bounds only, and lost
            when the network is searched within others.
        observations: how many to simulate, at least 20.
        seed: of codes and noise.

    Returns:
        A :class:`Calibration`.

    Raises:
        InputError: no noise is stated, or none that can be drawn; an operator or bounds that cannot be used.
        OptionError: too few observations, or a seed that is no seed.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.calibrate(net, noise="gaussian:0.1", observations=20).wrong
    0.0
    """
    as_generator(network)
    if isinstance(observations, bool) or not isinstance(observations, int) or observations < _FEWEST:
        raise OptionError(f"observations={observations!r} must be an integer of at least {_FEWEST}")
    stated = Noise.parse(noise)
    if not stated.drawable:
        raise InputError(f"noise={noise!r} cannot be drawn; state 'gaussian:S' or 'uniform:A' with S, A > 0")
    measurement = read_operator(operator, network.output_shape, (), network)
    with computing(one_thread=small(network)):
        box = Bounds.parse(bounds, network.latent_shape)
        z = box.draw(stream("calibration codes", seed), (observations,))
        problem = _observed(network, measurement, stated, z, seed, box)
        latent = problem.units.latent
        ends, further, best = chain_ends(problem, z if latent is None else latent.coordinates(z))
        checked = np.arange(observations) % 2 == 1
        base = default_prior(problem)
        prior = learned_prior(_hits(ends, best, ~checked), base)
        keep_prior(problem, learned_prior(_hits(ends, best, best > -1), base))
    # A search makes half as many chains before it hops, and more after the last level.
    stages = zip((*LEVELS, LEVELS[-1]), (ends[0][:, : _CHAINS // 2], *ends[1:], further[:, : 2 * _CHAINS]), strict=True)
    sure, wrong = _judged(prior, [(hops, end[checked]) for hops, end in stages], best[checked])
    return Calibration(observations, float(sure.mean()), float(wrong[sure].mean()) if sure.any() else float("nan"))


def _observed(network: Generator, operator: Operator, noise: Noise, z: Array, seed: int, bounds: Bounds) -> Problem:
    """The problem of observations of codes z (B, k), with noise."""
    if operator.count:
        operator = operator.take(np.arange(len(z)) % operator.count)
    clean = operator.values(network(z).reshape(len(z), -1))
    known_entries(noise, operator, len(z))  # refuses sizes of another shape
    y = noise.draw(clean, stream("calibration noise", seed)).reshape(len(z), *operator.shape)
    # What the noise says of the objective counts; its level is left to the search to find out.
    weighs = noise if noise.counts or noise.entrywise else None
    return Problem.build(
        network, y, operator=operator, bounds=bounds.ends, noise=weighs, norm="l2", scale="none", seed=seed
    ).equilibrated()


def chain_ends(problem: Problem, truth: Array, chains: int = _CHAINS) -> tuple[list[Array], Array, Array]:
    """Where chains ended after each level of hops, (B, chains) each, more of them, and the best known objectives, (B,).

    The best known are those of three times as many chains, or of a descent from the truth.
    """
    search = JointSearch(problem, Search(confidence=1.0))
    rows, ends = np.arange(problem.size), []
    search.descend_from(rows, truth)
    for made, hops in (*((chains, hops) for hops in LEVELS), (_TIMES_AS_MANY * chains, LEVELS[-1])):
        search.advance(rows, made, hops)
        ends.append(search.ends.copy())
        search.starts.learn(search.f)
    return ends[:-1], ends[-1], search.f


def _hits(ends: list[Array], best: Array, rows: npt.NDArray[np.bool_]) -> list[Hits]:
    return [Hits.of(end[rows], best[rows], np.zeros(int(rows.sum()))) for end in ends]


def _judged(
    prior: BasinPrior, stages: list[tuple[int, Array]], best: Array
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where a search would have been sure, and where the best of its ends would have been wrong, (B,).

    Args:
        stages: of a search: the hops of its chains, and where they ended, (B, chains).
        best: the best known objectives, (B,).
    """
    sure, wrong = np.zeros(len(best), dtype=bool), np.zeros(len(best), dtype=bool)
    for hops, end in stages:
        lowest = end.min(axis=1)
        enough = ~sure & (prior.confidence(hops, Hits.of(end, lowest, np.zeros(len(best)))) >= SURE)
        wrong[enough] = lowest[enough] > (1 + SAME) * best[enough]
        sure |= enough
    return sure, wrong
