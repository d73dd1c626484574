"""Learn, on a given generator, how far the agreement of independent starts can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.whitening import known_entries
from unrelu.measurements.working_units import searched
from unrelu.models.generator import Generator, placed
from unrelu.models.network import small
from unrelu.problem import Problem
from unrelu.runtime.argument_numbers import whole_number
from unrelu.runtime.array_types import Flags
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.search.confidence import Prior
from unrelu.search.learned_prior import LearnedConfidence, NoiseLevel, Simulation, keep, simulated
from unrelu.thresholds import CONFIDENT, SAME_OPTIMUM

_FEWEST, _FOLDS = 20, 10
# Levels of residuals above the stated noise for which the prior learned from data is used.
_MISFITS = tuple(range(1, 10))


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration, by cross-validation: each tenth of the observations is judged by the others.

    Attributes:
        observations: number of observations, simulated or given.
        reached: the fraction whose confidence reaches 0.99 in the rounds that :func:`unrelu.invert` makes.
        wrong: among these, the fraction whose best code was not the best known, to 1%; NaN if there are none.
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
    data: npt.ArrayLike | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Calibration:
    r"""Learn how often descents find the best code of this generator, so that ``confidence`` can be trusted on it.

    ``invert`` with method "auto" learns this by itself, from 48 simulated observations. Where descents are not
    compiled, it uses 32, and mostly one restart of each. This function uses more observations and restarts, also
    observations of your own.

    Codes z ~ N(0, I), or uniform within the bounds, are drawn, and y = A G(z) + e is inverted as by "auto", with one
    more round after the confidence is reached. The prior of :mod:`unrelu.search.confidence` is learned from the number
    of independent restarts that ended in the best known optimum. It is cached with the network. Every later
    ``invert(network, ..., operator=operator)`` in this process uses it, if its noise, stated or not, is within a factor
    of 1.7 of this one.

    Args:
        network: G.
        operator: A, as in :func:`unrelu.invert`; masks may be one for all or a batch of them (:class:`unrelu.Mask`).
        noise: noise of a typical size: "gaussian:S", "uniform:A" or a model of counts. Without noise, fits are exact
            and there is nothing to learn.
        bounds: bounds of the codes, as in :func:`unrelu.invert`. The prior is used for the same bounds only.
        observations: number of observations to simulate, at least 20; at least one for each mask.
        data: held-out observations, at least 20, like ``y`` of :func:`unrelu.invert`, of the kind that will be
            inverted. Field measurements are never exactly outputs of a generator, and have more optima. The prior
            learned from them is used if residuals exceed the stated noise, and if no noise is stated. The prior learned
            from simulations is used if the noise explains y.
        seed: seed of codes and noise.
        device: as in :func:`unrelu.invert`; the prior is used for searches on the same device.

    Returns:
        A :class:`Calibration`, for ``data`` if they are given.

    Raises:
        InputError: no noise is stated, the noise cannot be drawn, or the operator, bounds or data cannot be used.
        OptionError: there are too few observations, or the seed is not valid.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.calibrate(net, noise="gaussian:0.1").wrong
    0.0
    """
    network = placed(network, device)
    names, network = network.names, network.plain
    observations = whole_number("observations", observations, _FEWEST)
    stated = parse_noise(noise)
    if stated.likelihood is None and not stated.mean_square > 0:
        raise InputError(f"noise={noise!r} cannot be drawn; state 'gaussian:S' or 'uniform:A' with S, A > 0")
    box = Bounds.parse(bounds, network.latent_shape, names.latent_names)
    measurement = read_operator(operator, network.output_shape, (), searched(network, box))
    observations = max(observations, measurement.count)
    with computing(one_thread=small(network)):
        problem = _of_outputs(network, measurement, stated, observations, box, seed)
        level = LearnedConfidence(problem).levels(np.zeros(problem.size), np.arange(problem.size))[0]
        learned = Simulation(*simulated(problem, level, observations, 1 + seed))
        keep(problem, level, learned.prior())
        if problem.noise.likelihood is not None:
            return _judged(learned)
        unstated = NoiseLevel(level.noise, None)
        if data is None:
            keep(problem, unstated, Simulation(*simulated(problem, unstated, observations, 1 + seed)).prior())
            return _judged(learned)
        given = _problem(network, data, operator, stated, bounds)
        if given.size < _FEWEST:
            raise InputError(
                f"data= has {given.size} observations; at least {_FEWEST} say how often searches are wrong"
            )
        learned = Simulation(given, None)
        prior = learned.prior()
        for other in (unstated, *(NoiseLevel(level.noise, misfit) for misfit in _MISFITS)):
            keep(problem, other, prior)
        return _judged(learned)


def _of_outputs(network: Generator, operator: Operator, noise: Noise, count: int, box: Bounds, seed: int) -> Problem:
    """Return a problem with simulated observations: outputs of the generator with noise."""
    if operator.count:
        operator = operator.take(np.arange(count) % operator.count)
    z = box.draw(stream("calibration codes", seed), (count,))
    clean = operator.values(network.outputs(z).reshape(count, -1))
    known_entries(noise, operator, count)  # refuses noise levels of another shape
    y = noise.draw(clean, stream("calibration noise", seed)).reshape(count, *operator.shape)
    return _problem(network, y, operator, noise, box.ends, seed)


def _problem(network: Generator, y: npt.ArrayLike, operator: Any, noise: Noise, bounds: Any, seed: int = 0) -> Problem:
    """Return the problem that searches of these observations solve."""
    return Problem.build(
        network, y, operator=operator, bounds=bounds, noise=noise, norm="l2", scale="none", seed=seed
    ).equilibrated()


def _judged(simulation: Simulation) -> Calibration:
    """Judge each tenth of the observations by a prior learned from the others (cross-validation)."""
    size = simulation.search.problem.size
    folds = [np.arange(size) % _FOLDS == fold for fold in range(_FOLDS)]
    found = [_judged_by(simulation.prior(~fold), simulation, fold) for fold in folds]
    sure, wrong = (np.concatenate(flags) for flags in zip(*found, strict=True))
    return Calibration(size, float(sure.mean()), float(wrong[sure].mean()) if sure.any() else float("nan"))


def _judged_by(prior: Prior, simulation: Simulation, some: Flags) -> tuple[Flags, Flags]:
    """For which observations a search with this prior is sure, and for which it is sure and wrong, (b,) each."""
    state, count = simulation.search.state, int(some.sum())
    sure, wrong = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    for rounds, ends in simulation.ends.items():
        counts = simulation.counts(rounds, of_truth=False).subset(some)
        enough = ~sure & (prior.confidence(rounds, counts) >= CONFIDENT)
        lowest = ends[some].min(axis=1)
        wrong |= enough & (state.f[some] < (1 - SAME_OPTIMUM) * lowest) & (lowest > state.rounding[some])
        sure |= enough
    return sure, wrong
