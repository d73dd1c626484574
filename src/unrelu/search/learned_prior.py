r"""The prior of the confidence on one generator, learned by simulation: how far agreement of restarts can be trusted.

Observations are simulated, :math:`y = A G(z) + e` with :math:`z \sim N(0, I)` or uniform between bounds. They are
searched as those of a user, and one round further. A descent from z belongs to the search, so the best optimum is
known. For each round, :func:`unrelu.search.confidence.learned` learns from the number of restarts that ended in it.
Where these miss it, perturbations of the best restart show how often they find something better. Where a search
costs more, there are fewer observations, with one restart each.

Real observations are seldom outputs of the generator. For an observation out of distribution, e contains the difference
of two other outputs, with their entries in a random order. Without bounds, z is up to ten times as long: where outputs
saturate, the best code of real data is far from the codes of training, and agreement on a nearer one misleads. All
simulated observations are of this kind if the user's residuals exceed the stated noise, or if the user's code is longer
than those of N(0, I). If no noise is stated, every second one is.

The prior is kept with the generator as long as it lives, and in a file for other processes.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from logging import getLogger
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from unrelu._version import __version__
from unrelu.errors import UnreluError
from unrelu.measurements import Operator
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.noise import UnknownNoise
from unrelu.models.generator import Generator
from unrelu.problem import Control, Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.file_reading import read_npz
from unrelu.runtime.file_writing import write_npz
from unrelu.runtime.streams import stream
from unrelu.runtime.words import CONFIDENT
from unrelu.search._stopping_rule import ROUNDS, effort
from unrelu.search.confidence import FLAT, SAME, Hits, Prior, confidence, learned
from unrelu.search.joint_search import JointSearch
from unrelu.search.sample_cache import SampleCache

_LOG = getLogger("unrelu")
# An observation is in distribution if its residual is at most this multiple of the stated noise.
_EXPLAINED = 1.5
# A simulation may take this share of the time that is left.
_SHARE_OF_TIME = 0.5
# The version of the search and the simulation: files of priors with another one are not read.
_RECIPE = 5
# An observation is out of distribution if N(0, I) draws a code as long as its code with less than this probability.
_FAR = 1e-3
# The weights in a file sum to 1 up to _ROUNDING, and the file is no larger than that of a hundred rounds.
_ROUNDING, _LARGEST_FILE = 1e-6, 2**20
_PERTURBED = "perturbed"
# Where observations are restarted once: the restarts, without perturbations, of those of which the first one missed.
_AGAIN = (3, 0)
# A simulation that takes more seconds is announced.
_PATIENCE = 1.5
_MESSAGE = "unrelu is learning how sure it can be on this generator, once for each measurement and level of noise"

_known: weakref.WeakKeyDictionary[Generator, dict[str, Prior]] = weakref.WeakKeyDictionary()
# Levels differ by these factors in the noise, and in the residuals as multiples of the noise.
NOISE_STEP, EXCESS_STEP = 3.0, 3.0
# If no noise is stated, white noise is this share of the residuals of an observation out of distribution.
_WHITE_SHARE = 0.3
# The longest codes of observations out of distribution, as multiples of those of N(0, I). For 1, 3, 10 and 30, the
# shares of wrong answers among the sure ones were 7, 3.6, 3 and 2.1%, on real digits and fourteen decoders, six of them
# with saturating outputs.
_FURTHEST = 10.0
# The number of outputs from which the spread of measurements is estimated.
_OUTPUTS = 256


# --- simulated observations -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """A level of noise, in units of the spread of the measurements.

    Attributes:
        noise: the standard deviation of the noise is 3^noise.
        excess: the residuals are 3^excess times the noise; 0 if the noise explains them. None if no noise is stated;
            ``noise`` is then the level of the residuals.
    """

    noise: int
    excess: int | None

    def errors(self, count: int) -> tuple[Array, Array]:
        """The standard deviations of the white noise and of the structured errors of each observation, (count,)."""
        size = np.full(count, NOISE_STEP**self.noise)
        if self.excess is not None:
            return size, size * np.sqrt(EXCESS_STEP ** (2 * self.excess) - 1)
        odd = np.arange(count) % 2 == 1
        return np.where(odd, _WHITE_SHARE * size, size), np.where(odd, size, 0.0)


def simulated(problem: Problem, level: Level, count: int, seed: int = 0) -> tuple[Problem, Array]:
    """A problem of ``count`` simulated observations at a level of noise, and their codes, (count, k)."""
    operator, spread = _cycled(problem.operator, count), spread_of(problem)
    keys = (level.noise, str(level.excess), seed)
    white, structured = (size[:, None] * spread for size in level.errors(count))
    z = problem.bounds.draw(stream("simulated codes", *keys), (3 * count,))
    if problem.bounds.none:
        further = np.exp(stream("simulated lengths", *keys).uniform(0, np.log(_FURTHEST), (count, 1)))
        z[:count] *= np.where(structured > 0, further, 1.0)
    cache = SampleCache.of(problem.network, problem.bounds)
    network = cache.single if cache.large and cache.fits else problem.network
    own, *others = np.split(z, 3)
    clean = operator.values(network.outputs(own).reshape(count, -1))
    rng, seen = stream("simulated noise", *keys), operator.seen(count)
    if problem.noise.likelihood is not None:
        y = problem.noise.draw(clean, rng)
    else:
        y = clean
        if structured.any():
            entries = np.tile(np.arange(network.output_dim), (count, 1))
            order = stream("simulated order", *keys).permuted(entries, axis=1)
            x = (network.outputs(each).reshape(count, -1) for each in others)
            one, other = (operator.values(np.take_along_axis(each, order, axis=1)) for each in x)
            apart = np.where(seen, one - other, 0.0)
            size = np.sqrt(np.square(apart).sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1))
            y = y + structured * apart / np.where(size > 0, size, 1.0)
        y = y + white * rng.standard_normal(clean.shape)
    y = np.where(seen, y, 0.0)
    y.setflags(write=False)
    noise = problem.noise
    if noise.likelihood is None:  # what is learned depends on the level alone, not on the noise of the first user
        noise = UnknownNoise() if level.excess is None else Gaussian(spread * NOISE_STEP**level.noise)
    alike = replace(problem, y=y, operator=operator, noise=noise, norm="l2", single=False, seed=0)
    return replace(alike, z0=None, control=Control(), given=None), z[:count]


class Simulation:
    """The search of simulated observations: how often their restarts miss the best code that is known.

    Attributes:
        search: the search of all observations, with descents from their true codes.
        ends: the objectives at which restarts had ended after each number of rounds, (B, restarts).
        missed, improved, found: the observations whose restarts all missed a known code, and that are not sure; those
            of them for which perturbations of the best restart found a better code; and those of these for which it is
            the best known, (B,).

    Args:
        problem: the simulated observations.
        truth: their codes, (B, k); None if they are not known.
        once: whether each observation is restarted once, or three times if the first restart misses the best code.
            Restarts then end within 1% of it. Otherwise, observations are searched as those of a user, and one round
            further.
    """

    def __init__(self, problem: Problem, truth: Array | None, once: bool = False) -> None:
        self.search = JointSearch(problem, simulated=True)
        self.ends: dict[int, Array] = {}
        self.missed, self.improved, self.found = (np.zeros(problem.size, dtype=bool) for _ in range(3))
        observations = np.arange(problem.size)
        if truth is not None:
            self.search.descend_from(observations, truth)
        if once:
            self.search.enough = np.where(np.isfinite(self.search.f), (1 + SAME) * self.search.f, self.search.enough)
            self.search.advance(observations, *effort(1))
            missed = np.flatnonzero(self.search.ends[:, 0] > self.search.enough)
            if len(missed):
                self.search.advance(missed, *_AGAIN)
            self.ends[1] = self.search.ends.copy()
            self.search.rounds[:] = self.search.descents.schedule.first  # of as many descents as were made
            self._perturb(np.flatnonzero(self.search.ends.min(axis=1) > self.search.enough))
        else:
            self._search()

    def _search(self) -> None:
        """Search all observations until they are sure, and one round further."""
        search, problem = self.search, self.search.problem
        going, sure = np.ones(problem.size, dtype=bool), np.zeros(problem.size, dtype=bool)
        search.rounds[:] = search.descents.schedule.first - 1
        while going.any() and not search.watch():
            observations = np.flatnonzero(going)
            rounds = int(search.rounds[observations[0]]) + 1
            search.advance(observations, *effort(rounds))
            search.rounds[observations] = rounds
            search.starts.learn(search.f)
            self.ends[rounds] = search.ends.copy()
            going &= ~sure  # after one round more than a search makes, which may show that its answer is wrong
            search.probability = confidence(learned(self.hits(rounds)), self.hits(rounds, of_truth=False))
            sure |= search.probability >= CONFIDENT
            going &= search.rule.affordable(search.spent())
        if self.ends:
            self._perturb(np.arange(problem.size), sure)

    def _perturb(self, observations: Index, sure: Flags | bool = False) -> None:
        """Perturb the best known codes, so that these are the best, and as often the best restarts, as a search does.

        Those of ``sure`` observations are perturbed only as often as restarts were made.
        """
        search, best = self.search, self.search.ends[observations].argmin(axis=1)
        ends, codes = search.ends[observations, best], search.restarts[observations, best]
        made = (search.made * (1 + search.perturbations))[observations]
        most, steps = np.where(sure, made, np.iinfo(made.dtype).max), search.steps.copy()
        search.perturb_best(observations, most)
        z, f = search.z[observations], search.f[observations]
        search.steps, search.z[observations], search.f[observations] = steps, codes, ends
        search.perturb_best(observations, most)
        reached, rounding = search.f[observations], search.rounding[observations]
        # What is known to be missed must not depend on the perturbations whose success is counted.
        missed = (ends > np.maximum((1 + SAME) * f, rounding)) & search.perturbed[observations] & ~np.asarray(sure)
        lower = f < reached
        search.z[observations[lower]], search.f[observations[lower]] = z[lower], f[lower]
        self.missed[observations], self.improved[observations] = missed, missed & search.improved[observations]
        same = np.maximum((1 + SAME) * search.f[observations], rounding)
        self.found[observations] = self.improved[observations] & (reached <= same)

    def hits(self, rounds: int, observations: Flags | None = None, of_truth: bool = True) -> Hits:
        """The counts after ``rounds``, for the best known optimum or for the best one that the restarts found."""
        ends = self.ends[rounds]
        known = np.isfinite(ends).sum(axis=1)
        best = self.search.f if of_truth else ends.min(axis=1)
        found = Hits.of(ends, best, self.search.rounding, np.maximum(known, 1))
        return found if observations is None else found.take(observations)

    def prior(self, observations: Flags | None = None) -> Prior:
        """The prior of each round from observations, by default all; those that ended earlier count as they ended.

        Of perturbations, one that finds nothing is added, and of the codes that they find, one best and one other.
        """
        some = slice(None) if observations is None else observations
        missed, improved, found = (int(of_these[some].sum()) for of_these in (self.missed, self.improved, self.found))
        weights = {rounds: learned(self.hits(rounds, observations)) for rounds in self.ends}
        return Prior(weights, improved / (missed + 1), (found + 1) / (improved + 2))

    def judged(self, prior: Prior, observations: Flags) -> tuple[Flags, Flags]:
        """For which observations a search with this prior is sure, and for which it is sure and wrong, (b,) each."""
        sure, wrong = np.zeros(int(observations.sum()), dtype=bool), np.zeros(int(observations.sum()), dtype=bool)
        for rounds, ends in self.ends.items():
            enough = ~sure & (prior.confidence(rounds, self.hits(rounds, observations, of_truth=False)) >= CONFIDENT)
            lowest = ends[observations].min(axis=1)
            missed = (self.search.f[observations] < (1 - SAME) * lowest) & (lowest > self.search.rounding[observations])
            wrong |= enough & missed
            sure |= enough
        return sure, wrong


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


# --- the prior --------------------------------------------------------------------------------------------------------


class LearnedConfidence:
    """The confidence of observations of one problem, by a prior for the level of their noise.

    A prior is learned at its first use. If a time limit leaves too little time, the prior is flat.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._spread = spread_of(problem)
        self._priors: dict[Level, Prior] = {}

    def __call__(self, search: JointSearch, observations: Index) -> Array:
        """The confidence of some observations of a search, (b,)."""
        hits = search.hits().take(observations)
        found = confidence(FLAT, hits)
        if not self.problem.noise.stated and search.exact.any():
            return found  # a batch with exact fits has no noise to simulate
        levels = self.levels(search.f, observations, search.z[observations])
        groups = defaultdict[tuple[Level, int], list[int]](list)
        for place in np.flatnonzero(~self.problem.looks_noiseless[observations]).tolist():
            groups[levels[place], int(search.rounds[observations[place]])].append(place)
        for (level, rounds), places in groups.items():
            prior, some = self._prior(level, search), observations[places]
            found[places] = prior.confidence(rounds, hits.take(np.array(places)))
            if prior.weights:
                after = prior.after_perturbations(found[places], search.improved[some])
                found[places] = np.where(search.perturbed[some], after, found[places])
        return found

    def levels(self, f: Array, observations: Index, z: Array | None = None) -> list[Level]:
        """The level of noise of some observations, given the best objectives, (B,), and their codes, (b, k).

        An observation in distribution has a residual that the noise explains, and a code no longer than N(0, I) draws.
        """
        problem, spread = self.problem, self._spread
        if problem.noise.likelihood is not None:
            return [Level(0, 0)] * len(observations)
        left = np.maximum(problem.observed[observations] - problem.network.latent_dim, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = np.sqrt(f[observations] / left) / spread
            stated = np.sqrt(problem.noise.variance(problem.y)[observations]) / spread
            known = np.broadcast_to(problem.noise.noisy & (stated > 0), len(observations))
            excess = np.log(residual / (_EXPLAINED * stated)) / np.log(EXCESS_STEP)
            noise = np.log(np.where(known, stated, residual)) / np.log(NOISE_STEP)
        noise = np.nan_to_num(noise, nan=0.0, posinf=20.0, neginf=-40.0)
        excess = np.nan_to_num(excess, nan=0.0, posinf=9.0, neginf=0.0)
        if z is not None and problem.bounds.none:
            with np.errstate(over="ignore"):
                far = chdtrc(z.shape[1], np.square(z).sum(axis=1)) < _FAR
            excess = np.where(far, np.maximum(excess, 1.0), excess)
        return [
            Level(int(np.rint(n)), int(max(0, np.ceil(e))) if k else None)
            for n, e, k in zip(noise, excess, known, strict=True)
        ]

    def _prior(self, level: Level, search: JointSearch) -> Prior:
        if level not in self._priors:
            known, key = _known.setdefault(self.problem.network, {}), prior_key(self.problem, level)
            if key not in known and not search.rule.quick:
                path = _folder() / f"{sha256((key + fingerprint(self.problem.network)).encode()).hexdigest()}.npz"
                prior = _read(path)
                if prior is None and self._affordable(search):
                    prior = self.learn(level, search)
                    _write(path, prior)
                if prior is None:
                    return Prior({})
                known[key] = prior
            self._priors[level] = known.get(key) or Prior({})
        return self._priors[level]

    def _affordable(self, search: JointSearch) -> bool:
        """Whether a simulation ends in time, if it takes as long as the search of as many observations."""
        plan, left = search.descents.schedule, self.problem.control.remaining()
        seconds = (
            plan.microseconds / 1e6 if np.isfinite(plan.microseconds) else search.watch.elapsed / search.problem.size
        )
        return left == np.inf or plan.simulated * seconds < _SHARE_OF_TIME * left

    def learn(self, level: Level, search: JointSearch) -> Prior | None:
        """The prior from a simulation; None if the time limit or the callback stopped it."""
        timer = threading.Timer(_PATIENCE, _say_once)
        timer.daemon = True
        timer.start()
        plan = search.descents.schedule
        control = self.problem.control.part(lambda _: search.report())
        control = replace(control, time_limit=_SHARE_OF_TIME * control.time_limit)
        try:
            problem, truth = simulated(self.problem, level, plan.simulated)
            simulation = Simulation(replace(problem, control=control), truth, plan.once)
            return None if simulation.search.watch.reason else simulation.prior()
        finally:
            timer.cancel()


@cache
def _say_once() -> None:
    _LOG.warning(_MESSAGE)


def keep(problem: Problem, level: Level, prior: Prior) -> None:
    """Use a prior for this network, measurement and level of noise as long as the network lives."""
    _known.setdefault(problem.network, {})[prior_key(problem, level)] = prior


def prior_key(problem: Problem, level: Level) -> str:
    """A digest of everything that a prior depends on beside the network; its device decides how it is searched."""
    seen = distinct(problem.operator)[0].tobytes()
    digest = sha256(seen + problem.bounds.lower.tobytes() + problem.bounds.upper.tobytes())
    if problem.normal is not None and (problem.bounds.boxed.any() or not np.all(problem.normal.proper)):
        digest.update(np.asarray(problem.normal.proper).tobytes())
    counts = fingerprint(problem.noise) if problem.noise.likelihood is not None else ""
    device = problem.network.device.type
    digest.update(f"{__version__} {_RECIPE} {ROUNDS} {level} {problem.prior!r} {counts} {device}".encode())
    return digest.hexdigest()


# --- files ------------------------------------------------------------------------------------------------------------


def _folder() -> Path:
    """The folder of priors: in ``UNRELU_CACHE``, or in the user's cache folder."""
    own = os.environ.get("UNRELU_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return (Path(own) if own else cache / "unrelu") / "priors"


def _read(path: Path) -> Prior | None:
    """The prior of a file; None if there is no file, or no valid one."""
    try:
        arrays = read_npz(path, _LARGEST_FILE)
        perturbed = arrays.pop(_PERTURBED)
        weights = {int(rounds): array for rounds, array in arrays.items()}
    except (UnreluError, OSError, ValueError, KeyError, RuntimeError):
        return None
    proper = all(
        w.dtype == np.float64 and w.shape == FLAT.shape and (w > 0).all() and abs(w.sum() - 1) < _ROUNDING
        for w in weights.values()
    )
    proper &= (
        perturbed.dtype == np.float64 and perturbed.shape == (2,) and bool(((perturbed >= 0) & (perturbed < 1)).all())
    )
    return Prior(weights, *perturbed.tolist()) if proper and weights and min(weights) > 0 else None


def _write(path: Path, prior: Prior | None) -> None:
    """Write a prior, if there is one, to a file; a folder that cannot be written is ignored."""
    if prior is None:
        return
    with suppress(UnreluError, OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {str(rounds): weights for rounds, weights in prior.weights.items()}
        write_npz(path, arrays | {_PERTURBED: np.array([prior.improves, prior.reaches])}, "it is a cache")
