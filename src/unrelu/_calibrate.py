"""Learn, on a given generator, how far the agreement of independent starts can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unrelu.errors import InputError
from unrelu.measurements import read_operator
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.unknown_level import refuse_unknown_level
from unrelu.measurements.working_units import searched
from unrelu.models.generator import Generator, placed
from unrelu.models.network import small
from unrelu.problem import Problem
from unrelu.runtime.argument_checks import known_arguments, whole_number
from unrelu.runtime.host import computing
from unrelu.search.learned_prior import LearnedConfidence, NoiseLevel, Simulation, simulated
from unrelu.thresholds import CONFIDENT, SAME_OPTIMUM

# The fewest observations, and the number of parts in the cross-validation.
_FEWEST, _FOLDS = 20, 10


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration, by cross-validation: each tenth of the observations is judged by the others.

    Attributes:
        observations: number of simulated observations.
        reached: the fraction whose confidence reaches 0.99 in the rounds that :func:`unrelu.invert` makes.
        wrong: among these, the fraction whose best code was not the best known, to 1%; NaN if there are none.
    """

    observations: int
    reached: float
    wrong: float


@known_arguments
def calibrate(
    network: Generator,
    operator: Any = None,
    noise: Noise | str | None = None,
    *,
    bounds: Any = None,
    observations: int = 200,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Calibration:
    r"""Learn how often descents find the best code of this generator, so that ``confidence`` can be trusted on it.

    ``invert`` with method "auto" learns this by itself, from 48 simulated observations, or on a large generator from 8
    to 32, the fewer the more restarts miss the best code. This function uses more observations and restarts.

    Codes z ~ N(0, I), or uniform within the bounds, are drawn, and y = A G(z) + e is inverted as by "auto", with one
    more round after the confidence is reached. The prior of :mod:`unrelu.search.confidence` is learned from the number
    of independent restarts that ended in the best known optimum. The network keeps it, also where it is pickled. Every
    later ``invert(network, ..., operator=operator)`` uses it, if its noise, stated or not, is within a factor of 1.7 of
    this one, and its bounds and device are the same.

    Args:
        network, device: as for :func:`unrelu.invert`.
        operator: A, as for :func:`unrelu.invert`; masks may be one for all or a batch of them (:class:`unrelu.Mask`).
        noise: noise of a typical size: "gaussian:S", "uniform:A" or a model of counts. Without noise, fits are exact
            and there is nothing to learn.
        bounds: bounds of the codes, as for :func:`unrelu.invert`.
        observations: number of observations to simulate, at least 20; at least one for each mask.
        seed: seed of codes and noise, as for :func:`unrelu.invert`.

    Returns:
        A :class:`Calibration`.

    Raises:
        InputError: no noise is stated, the noise cannot be drawn, or the operator or bounds cannot be used.
        OptionError: there are too few observations, or the seed is not valid.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.calibrate(net, noise="gaussian:0.1").wrong < 0.05
    True
    """
    network = placed(network, device)
    box, network = network.bounds(bounds), network.plain
    observations = whole_number("observations", observations, _FEWEST)
    stated = parse_noise(noise)
    refuse_unknown_level(stated, "calibrate")
    if stated.likelihood is None and not stated.mean_square > 0:
        raise InputError(f"noise={noise!r} cannot be drawn; state 'gaussian:S' or 'uniform:A' with S, A > 0")
    measured = read_operator(operator, network.output_shape, (), searched(network, box))
    observations = max(observations, measured.count)
    if measured.count:
        measured = measured.take(np.arange(observations) % measured.count)
    with computing(one_thread=small(network)):
        # Simulations only use the number of observations of this problem, and how they are measured.
        problem = Problem.build(
            network, np.zeros((observations, *measured.shape)), operator=measured, bounds=box.ends, noise=stated,
            norm="l2", scale="none", seed=seed,
        ).equilibrated()  # fmt: skip
        confidence = LearnedConfidence(problem)
        level = confidence.levels(np.zeros(problem.size), np.arange(problem.size))[0]
        learned = Simulation(*simulated(problem, level, observations, 1 + seed))
        problem.learned[confidence.name(level)] = learned.prior()
        if problem.noise.likelihood is None:  # without stated noise, too
            unstated = NoiseLevel(level.noise, None)
            simulation = Simulation(*simulated(problem, unstated, observations, 1 + seed))
            problem.learned[confidence.name(unstated)] = simulation.prior()
        return _judged(learned)


def _judged(simulation: Simulation) -> Calibration:
    """Judge each tenth of the observations by a prior learned from the others (cross-validation)."""
    state = simulation.search.state
    sure, wrong = np.zeros((2, simulation.search.problem.size), dtype=bool)
    for fold in range(_FOLDS):
        some = np.arange(len(sure)) % _FOLDS == fold
        prior = simulation.prior(~some)
        for rounds, ends in simulation.ends.items():
            confidence = prior.confidence(rounds, simulation.counts(rounds, of_truth=False).subset(some))
            now = np.flatnonzero(some)[confidence >= CONFIDENT]
            now = now[~sure[now]]
            lowest = ends[now].min(axis=1)
            wrong[now] = (state.f[now] < (1 - SAME_OPTIMUM) * lowest) & (lowest > state.rounding[now])
            sure[now] = True
    return Calibration(len(sure), float(sure.mean()), float(wrong[sure].mean()) if sure.any() else float("nan"))
