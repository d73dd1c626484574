r"""Simulated observations of one generator, and how often restarts of a search miss their best codes.

Observations are :math:`y = A G(z) + e` with :math:`z \sim N(0, I)` or uniform between bounds. They are searched as a
user's, by the same rounds and the same rule, and from z as well, so their best optimum is known.

Real observations are seldom outputs of the generator. For an observation out of distribution, e contains the difference
of two other outputs, with their entries in a random order. Without bounds, z is up to ten times as long: where outputs
saturate, the best code of real data is far from the codes of training, and agreement on a nearer one misleads. All
simulated observations are of this kind if the user's residuals exceed the stated noise, or if the user's code is longer
than those of N(0, I). If no noise is stated, every second one is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from unrelu.measurements import Operator
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.noise import UnknownNoise
from unrelu.problem import Control, Problem
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.streams import stream
from unrelu.search.confidence import Prior, RestartCounts, confidence, learned
from unrelu.search.joint_search import JointSearch, flat_confidence
from unrelu.search.sample_cache import SampleCache
from unrelu.search.schedules import effort
from unrelu.thresholds import CONFIDENT, SAME_OPTIMUM

# Levels differ by this factor in the noise, and in the residuals as multiples of the noise.
NOISE_STEP = 3.0
# If no noise is stated, white noise is this share of the residuals of an observation out of distribution.
_WHITE_SHARE = 0.3
# The longest codes of observations out of distribution, as multiples of those of N(0, I). For 1, 3, 10 and 30, the
# shares of wrong answers among the sure ones were 7, 3.6, 3 and 2.1%, on real digits and fourteen decoders, six of them
# with saturating outputs.
_FURTHEST = 10.0
# The number of outputs from which the spread of measurements is estimated.
_OUTPUTS = 256


@dataclass(frozen=True)
class NoiseLevel:
    """A level of noise, in units of the spread of the measurements.

    Attributes:
        noise: the standard deviation of the noise is 3^noise.
        misfit: the residuals are 3^misfit times the noise; 0 if the noise explains them. None if no noise is stated;
            ``noise`` is then the level of the residuals.
    """

    noise: int
    misfit: int | None

    def errors(self, count: int) -> tuple[Array, Array]:
        """The standard deviations of the white noise and of the structured errors of each observation, (count,)."""
        size = np.full(count, NOISE_STEP**self.noise)
        if self.misfit is not None:
            return size, size * np.sqrt(NOISE_STEP ** (2 * self.misfit) - 1)
        odd = np.arange(count) % 2 == 1
        return np.where(odd, _WHITE_SHARE * size, size), np.where(odd, size, 0.0)


def simulated(problem: Problem, level: NoiseLevel, count: int, seed: int = 0) -> tuple[Problem, Array]:
    """A problem of ``count`` simulated observations at a level of noise, and their codes, (count, k)."""
    operator, spread = _cycled(problem.operator, count), spread_of(problem)
    keys = (level.noise, str(level.misfit), seed)
    white, structured = (size[:, None] * spread for size in level.errors(count))
    z = problem.bounds.draw(stream("simulated codes", *keys), (3 * count,))
    if problem.bounds.none:
        further = np.exp(stream("simulated lengths", *keys).uniform(0, np.log(_FURTHEST), (count, 1)))
        z[:count] *= np.where(structured > 0, further, 1.0)
    cache = SampleCache.of(problem.network, problem.bounds)
    network = cache.single if cache.large and cache.fits else problem.network
    own, one, other = np.split(z, 3)
    clean = operator.values(network.outputs(own).reshape(count, -1))
    rng, seen, noise = stream("simulated noise", *keys), operator.seen(count), problem.noise
    if noise.likelihood is not None:
        y = noise.draw(clean, rng)
    else:
        y = clean
        if structured.any():
            order = stream("simulated order", *keys).permuted(
                np.tile(np.arange(network.output_dim), (count, 1)), axis=1
            )
            x = (np.take_along_axis(network.outputs(each).reshape(count, -1), order, axis=1) for each in (one, other))
            apart = np.where(seen, np.subtract(*map(operator.values, x)), 0.0)
            size = np.sqrt(np.square(apart).sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1))
            y = y + structured * apart / np.where(size > 0, size, 1.0)
        y = y + white * rng.standard_normal(clean.shape)
        # What is learned depends on the level alone, not on the noise of the first user.
        noise = UnknownNoise() if level.misfit is None else Gaussian(spread * NOISE_STEP**level.noise)
    y = np.where(seen, y, 0.0)
    y.setflags(write=False)
    alike = replace(problem, y=y, operator=operator, noise=noise, norm="l2", single=False, seed=0)
    return replace(alike, z0=None, control=Control(), given=None), own


def quick_effort(rounds: int) -> tuple[int, int]:
    """One restart, then three: where the first misses, it may have been unlucky, or the best code is hard to find."""
    return (1 if rounds == 1 else 3), 0


class Simulation:
    """The search of simulated observations: how often their restarts miss the best code that is known.

    Attributes:
        search: the search of all observations, with descents from their true codes.
        ends: the objectives at which restarts had ended after each number of rounds, (B, restarts).
        sure: the observations that were sure after some round.
        missed, improved, found: the observations whose restarts all missed a known code, and that are not sure; those
            of them for which perturbations of the best restart found a better code; and those of these for which it is
            the best known, (B,).

    Args:
        problem: the simulated observations.
        truth: their codes, (B, k); None if they are not known.
        quick: whether restarts end within 1% of the best code that is known, and an observation is finished when one
            does, where a search costs much. Otherwise it is finished one round after it was sure, which may show that
            its answer was wrong.
    """

    def __init__(self, problem: Problem, truth: Array | None, quick: bool = False) -> None:
        judge, rounds, efforts = (self._found, 2, quick_effort) if quick else (self._sure_before, None, effort)
        self.search = JointSearch(problem, judge, rounds=rounds, simulated=True, efforts=efforts)
        self.ends: dict[int, Array] = {}
        self.sure, self.missed, self.improved, self.found = (np.zeros(problem.size, dtype=bool) for _ in range(4))
        if truth is not None:
            self.search.descend_from(np.arange(problem.size), truth)
        state = self.search.state
        if quick:
            state.enough = np.where(np.isfinite(state.f), (1 + SAME_OPTIMUM) * state.f, state.enough)
        self.search.make_rounds()
        self.search.judge = flat_confidence  # without a cycle of references
        if quick:
            state.rounds[:] = self.search.descents.schedule.first  # of as many descents as were made
        if self.ends:
            made = state.made * (1 + state.perturbations)
            self._perturb(np.where(self.sure, 0 if quick else made, np.iinfo(made.dtype).max))

    def _found(self, search: JointSearch, observations: Index) -> Array:
        """1 for observations of which a restart ended in the best code known, else 0."""
        self.ends[1] = search.state.ends.copy()
        self.sure = self.ends[1].min(axis=1) <= search.state.enough
        return self.sure[observations].astype(float)

    def _sure_before(self, search: JointSearch, observations: Index) -> Array:
        """The confidence by what is learned from all these observations; 1 where they were sure a round before."""
        rounds = int(search.state.rounds[observations[0]])
        self.ends[rounds] = search.state.ends.copy()
        now = confidence(learned(self.counts(rounds)), self.counts(rounds, of_truth=False))
        before, self.sure = self.sure, self.sure | (now >= CONFIDENT)
        return np.where(before, 1.0, now)[observations]

    def _perturb(self, most: Index) -> None:
        """Perturb the best known codes, so that these are the best, and as often the best restarts, as a search does.

        Args:
            most: the largest number of perturbations, (B,); few where the answer is sure.
        """
        search, state = self.search, self.search.state
        observations = np.arange(search.problem.size)
        best = state.ends.argmin(axis=1)
        ends, codes, steps = state.ends[observations, best], state.restarts[observations, best], state.steps.copy()
        search.perturb_best(observations, most)
        z, f = state.z, state.f
        state.steps, state.z, state.f = steps, codes.copy(), ends.copy()
        search.perturb_best(observations, most)
        reached = state.f.copy()
        # What is known to be missed must not depend on the perturbations whose success is counted.
        self.missed = (ends > np.maximum((1 + SAME_OPTIMUM) * f, state.rounding)) & state.perturbed & ~self.sure
        state.accept(observations, z, f)
        self.improved = self.missed & state.improved
        self.found = self.improved & (reached <= np.maximum((1 + SAME_OPTIMUM) * state.f, state.rounding))

    def counts(self, rounds: int, of_truth: bool = True) -> RestartCounts:
        """The counts after ``rounds``, for the best known optimum or for the best one that the restarts found."""
        ends, state = self.ends[rounds], self.search.state
        made = np.maximum(np.isfinite(ends).sum(axis=1), 1)
        return RestartCounts.of(ends, state.f if of_truth else ends.min(axis=1), state.rounding, made)

    def prior(self, some: Flags | slice = slice(None)) -> Prior:
        """The prior of each round from some observations; those that ended earlier count as they ended.

        Of perturbations, one that finds nothing is added, and of the codes that they find, one best and one other.
        """
        missed, improved, found = (int(of_these[some].sum()) for of_these in (self.missed, self.improved, self.found))
        weights = {rounds: learned(self.counts(rounds).subset(some)) for rounds in self.ends}
        return Prior(weights, improved / (missed + 1), (found + 1) / (improved + 2))


def spread_of(problem: Problem) -> float:
    """The standard deviation of measurements over outputs of the generator."""
    x = SampleCache.of(problem.network, problem.bounds).model.x[:_OUTPUTS].cpu().double().numpy()
    operator = _cycled(problem.operator, len(x))
    values, seen = operator.values(x), operator.seen(len(x))
    centred = np.where(seen, values - values.mean(axis=0), 0.0)
    return float(np.sqrt(np.square(centred).sum() / max(1, seen.sum()))) or 1.0


def distinct(operator: Operator) -> tuple[npt.NDArray[np.float32], Index]:
    """The measurement of a fixed output by each distinct operator, (d, m), and the first observation with it, (d,)."""
    probe = stream("a fixed output").standard_normal(operator.n)
    measured = operator.values(np.tile(probe, (max(1, operator.count), 1))).astype(np.float32)
    if len(measured) == 1:  # np.unique is slow on long rows
        return measured, np.zeros(1, dtype=np.int64)
    return np.unique(measured, axis=0, return_index=True)


def _cycled(operator: Operator, count: int) -> Operator:
    """The operator for ``count`` outputs; distinct masks take turns, whatever their order in the problem."""
    if not operator.count:
        return operator
    first = distinct(operator)[1]
    return operator.take(first[np.arange(count) % len(first)])
