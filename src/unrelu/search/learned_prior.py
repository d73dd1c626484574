r"""The prior of the confidence on one generator, learned by simulation: how far agreement of restarts can be trusted.

Observations are :math:`y = A G(z) + e` with :math:`z \sim N(0, I)` or uniform between bounds, at the user's level of
noise. They are searched like the user's observations, by the same rounds and the same rule. A descent from z is added,
so their best optimum is known. For each round, :func:`unrelu.search.confidence.learned` learns from the number of
restarts that ended there. If all missed it, the best restart is perturbed, to learn how often that finds a better code.

Real observations are seldom outputs of the generator. For an observation out of distribution, e contains the difference
of two other outputs, half of the time with its entries in a random order. In this case, without bounds, z is up to ten
times as long (the radius). Where outputs saturate, the best code is far out, and agreement on a nearer code misleads.
All simulated observations are out of distribution if residuals exceed the stated noise, or if the user's code is longer
than N(0, I) draws. If no noise is stated, half of them are.

The best code is the best one up to the radius, or up to the length of the restarts' best code if that is longer. Hardly
any simulated code is longer than the radius, so an answer beyond it has the confidence of the flat prior. Saturated
outputs leave valleys there, along which the objective falls slowly, and agreement misleads.

The measurements A are canonical for the kind of the user's measurements (:mod:`unrelu.search._measurement_kind`). The
prior therefore depends only on the generator, the kind, the level of noise and the options. It is kept with the
generator, and in a file for other processes.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from logging import getLogger
from pathlib import Path

import numpy as np
from scipy.special import chdtrc

from unrelu._version import __version__
from unrelu.errors import UnreluError
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.noise import UnknownNoise
from unrelu.problem import Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.archives import Table, read_archive, write_archive
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.file_writing import taking_turns
from unrelu.runtime.run_control import Control
from unrelu.runtime.streams import stream
from unrelu.search._measurement_kind import MeasurementKind, cycled
from unrelu.search._schedules import ROUNDS
from unrelu.search.confidence import FLAT, Prior, RestartCounts, confidence, learned
from unrelu.search.descents import schedule_for
from unrelu.search.joint_search import JointSearch, flat_confidence, searched_objective
from unrelu.search.sample_cache import SampleCache
from unrelu.thresholds import CONFIDENT, RADIUS, SAME_OPTIMUM

# Neighbouring levels differ by this factor in the noise, and in the ratio of residuals to noise.
NOISE_STEP = 3.0
# If no noise is stated, white noise is this share of the residuals of an observation out of distribution.
_WHITE_SHARE = 0.3
# The number of outputs from which the spread of measurements is estimated.
_OUTPUTS = 256
# The most rounds of a quick simulation. On a large generator: the number of observations simulated at once, and the
# share of them whose best code the first restarts must find, or else further rounds are not worth it.
_QUICK_ROUNDS, _GROUP, _HOPEFUL = 3, 8, 0.5
# An observation is in distribution if its residual is at most this multiple of the stated noise, and if a draw from
# N(0, I) is as long as its code with at least this probability.
_EXPLAINED, _FAR = 1.5, 1e-3
# A simulation may take this share of the remaining time.
_SHARE_OF_TIME = 0.5
# The version of the search and the simulation. Prior files of another version are not read.
_RECIPE = 13
# A simulation that takes longer than this, in seconds, is announced.
_PATIENCE = 1.5
_MESSAGE = (
    "unrelu is learning how sure it can be on this generator, once for each kind of measurement and level of noise"
)
_say_once = cache(partial(getLogger("unrelu").warning, _MESSAGE))


# --- simulated observations -------------------------------------------------------------------------------------------


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
        """Return the standard deviations of each observation's white noise and structured errors, (count,)."""
        size = np.full(count, NOISE_STEP**self.noise)
        if self.misfit is not None:
            return size, size * np.sqrt(NOISE_STEP ** (2 * self.misfit) - 1)
        odd = np.arange(count) % 2 == 1
        return np.where(odd, _WHITE_SHARE * size, size), np.where(odd, size, 0.0)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # outputs may overflow; no restart explains such outputs
def simulated(
    problem: Problem, level: NoiseLevel, count: int, seed: int = 0, radius: float = RADIUS
) -> tuple[Problem, Array]:
    """Simulate ``count`` observations at a level of noise; return their problem and their codes, (count, k)."""
    operator, spread, noise = cycled(problem.operator, count), spread_of(problem), problem.noise
    keys, network = (level.noise, str(level.misfit), seed), problem.network
    white, structured = (size[:, None] * spread for size in level.errors(count))
    in_order = (np.arange(count) // 2 % 2 == 1)[:, None]
    z = problem.bounds.draw(stream("simulated codes", *keys), (3 * count,))
    if problem.bounds.none:
        further = np.exp(stream("simulated lengths", *keys).uniform(0, np.log(max(radius, 1.0)), (count, 1)))
        z[:count] *= np.where((structured > 0) & ~in_order, further, 1.0)
    own, one, other = np.split(z, 3)
    y = operator.values(network.outputs(own).reshape(count, -1))
    rng, seen = stream("simulated noise", *keys), operator.seen(count)
    if noise.likelihood is not None:
        y = noise.draw(y, rng)
    else:
        if structured.any():
            entries = np.tile(np.arange(network.output_dim), (count, 1))
            order = np.where(in_order, entries, stream("simulated order", *keys).permuted(entries, axis=1))
            x = (np.take_along_axis(network.outputs(each).reshape(count, -1), order, axis=1) for each in (one, other))
            apart = np.where(seen, np.subtract(*map(operator.values, x)), 0.0)
            size = np.sqrt(np.square(apart).sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1))
            y = y + structured * apart / np.where(size > 0, size, 1.0)
        y = y + white * rng.standard_normal(y.shape)
        # The learned prior depends only on the level, not on the noise of the first user.
        noise = UnknownNoise() if level.misfit is None else Gaussian(spread * NOISE_STEP**level.noise)
    y = np.where(seen, y, 0.0)
    y.setflags(write=False)
    alike = replace(problem, y=y, operator=operator, noise=noise, norm="l2", single=False, seed=0)
    return replace(alike, z0=None, control=Control(), given=None), own


def spread_of(problem: Problem) -> float:
    """Compute the standard deviation of measurements over outputs of the generator."""
    x = SampleCache.of(problem).model.x[:_OUTPUTS].cpu().double().numpy()
    operator = cycled(problem.operator, len(x))
    values, seen = operator.values(x), operator.seen(len(x))
    centred = np.where(seen, values - values.mean(axis=0), 0.0)
    return float(np.sqrt(np.square(centred).sum() / max(1, seen.sum()))) or 1.0


# --- the search of simulated observations -----------------------------------------------------------------------------


class Simulation:
    """A search of simulated observations, which counts how often their restarts miss the best known code.

    Attributes:
        search: the search of all observations, with descents from their true codes.
        ends: the objectives at which restarts had ended after each number of rounds, (B, restarts).
        longest: the length of the longest codes that may count as the best after each number of rounds, (B,); infinite
            with bounds.
        sure: the observations that were sure after some round.
        hopeless: whether too few observations are sure for further rounds to be worth it. This only happens in a quick
            simulation on a large generator.
        missed: observations that are not sure, and whose restarts all missed a known code, (B,).
        improved, found: missed observations for which perturbations of the best restart found a better code, and
            improved observations for which this is the best known code, (B,).

    Args:
        problem: the simulated observations.
        truth: their codes, (B, k); None if they are not known.
        quick: whether a restart may end within 1% of the best known code, which finishes its observation. This suits
            expensive searches. Otherwise a sure observation has one more round, which may show that it was wrong.
        radius: the radius of :class:`~unrelu.search.auto.Search`.
    """

    def __init__(self, problem: Problem, truth: Array | None, quick: bool = False, radius: float = RADIUS) -> None:
        self.hopeless = False
        judge, rounds = (self._found, _QUICK_ROUNDS) if quick else (self._sure_before, None)
        self.search = JointSearch(problem, judge, rounds=rounds, simulated=True)
        self.ends: dict[int, Array] = {}
        self.longest: dict[int, Array] = {}
        self._radius = radius * np.sqrt(problem.network.latent_dim) if problem.bounds.none else np.inf
        self.sure, self.missed, self.improved, self.found = (np.zeros(problem.size, dtype=bool) for _ in range(4))
        if truth is not None:
            self.search.descend_from(np.arange(problem.size), truth)
        state = self.search.state
        if quick:
            state.enough = np.where(np.isfinite(state.f), (1 + SAME_OPTIMUM) * state.f, state.enough)
        self.search.make_rounds()
        self.search.judge = flat_confidence  # without a cycle of references
        if self.ends:
            made = state.made * (1 + state.perturbations)
            self._perturb(np.where(self.sure, 0 if quick else made, np.iinfo(made.dtype).max))

    def _found(self, search: JointSearch, observations: Index) -> Array:
        """Return 1 for observations with a restart that ended in the best known code, else 0."""
        self._record(1)
        self.sure = self.ends[1].min(axis=1) <= search.state.enough
        self.hopeless = search.large and self.sure.mean() < _HOPEFUL
        return np.maximum(self.sure[observations], float(self.hopeless))

    def _sure_before(self, search: JointSearch, observations: Index) -> Array:
        """Compute the confidence with a prior learned from all observations; 1 if it was high a round before."""
        rounds = int(search.state.rounds[observations[0]])
        self._record(rounds)
        now = confidence(learned(self.counts(rounds)), self.counts(rounds, of_truth=False))
        before, self.sure = self.sure, self.sure | (now >= CONFIDENT)
        return np.where(before, 1.0, now)[observations]

    def _record(self, rounds: int) -> None:
        """Record the ends of restarts after ``rounds``."""
        state = self.search.state
        best = np.arange(len(state.ends)), state.ends.argmin(axis=1)
        self.ends[rounds] = state.ends.copy()
        self.longest[rounds] = np.maximum(self._radius, np.linalg.norm(state.restarts[best], axis=1))

    def _perturb(self, most: Index) -> None:
        """Perturb the best known codes to improve them, then the best restarts that miss them.

        Each observation gets at most ``most`` perturbations, (B,), which are few where the answer is sure.
        """
        search, state = self.search, self.search.state
        everyone = np.arange(search.problem.size)
        best = state.ends.argmin(axis=1)
        ends, codes, steps = state.ends[everyone, best], state.restarts[everyone, best], state.steps.copy()
        search.perturb_best(everyone, most)
        z, f = state.z, state.f
        # Which observations are missed must not depend on the perturbations whose success is counted.
        self.missed = (ends > np.maximum((1 + SAME_OPTIMUM) * f, state.rounding)) & state.perturbed & ~self.sure
        self.missed &= np.linalg.norm(z, axis=1) <= np.maximum(self._radius, np.linalg.norm(codes, axis=1))
        missed = np.flatnonzero(self.missed)
        state.steps, state.z, state.f = steps, codes.copy(), ends.copy()
        search.perturb_best(missed, most[missed])
        reached = state.f.copy()
        state.accept(everyone, z, f)
        self.improved = self.missed & state.improved
        self.found = self.improved & (reached <= np.maximum((1 + SAME_OPTIMUM) * state.f, state.rounding))

    def counts(self, rounds: int, of_truth: bool = True) -> RestartCounts:
        """Count restarts after ``rounds`` in the best known optimum, or in the best one that the restarts found."""
        ends, state = self.ends[rounds], self.search.state
        made = np.maximum(np.isfinite(ends).sum(axis=1), 1)
        known = of_truth & (np.linalg.norm(state.z, axis=1) <= self.longest[rounds])
        return RestartCounts.of(ends, np.where(known, state.f, ends.min(axis=1)), state.rounding, made)

    def prior(self, some: Flags | slice = slice(None)) -> Prior:
        """Learn the prior from some observations, see :func:`joint_prior`."""
        return joint_prior([self], some)


def joint_prior(simulations: Sequence[Simulation], some: Flags | slice = slice(None)) -> Prior:
    """Learn the prior of each round from some observations of each simulation.

    A simulation that ended earlier counts with its last round. Pseudo-counts for perturbations are one that finds
    nothing, and two that find better codes, one of them the best.
    """

    def counts(rounds: int) -> RestartCounts:
        each = (one.counts(max(made for made in one.ends if made <= rounds)).subset(some) for one in simulations)
        return RestartCounts(*map(np.concatenate, zip(*each, strict=True)))

    missed, improved, found = (
        sum(int(getattr(one, name)[some].sum()) for one in simulations) for name in ("missed", "improved", "found")
    )
    weights = {rounds: learned(counts(rounds)) for rounds in sorted({made for one in simulations for made in one.ends})}
    return Prior(weights, improved / (missed + 1), (found + 1) / (improved + 2))


# --- the confidence of a user's observations --------------------------------------------------------------------------


class LearnedConfidence:
    """The confidence of one problem's observations, computed with a prior that is learned for their level of noise.

    A prior is learned at its first use. If a time limit leaves too little time, the prior is flat.
    """

    def __init__(self, problem: Problem, radius: float = RADIUS) -> None:
        self.problem, self.radius = problem, radius
        self._spread, self._kind = spread_of(problem), MeasurementKind.of(problem)

    def __call__(self, search: JointSearch, observations: Index) -> Array:
        """Compute the confidence of some observations of a search, (b,), with the flat prior if codes are too long."""
        state = search.state
        counts = state.count_restarts().subset(observations)
        found = confidence(FLAT, counts)
        if not self.problem.noise.stated and state.exact.any():
            return found  # a batch with exact fits has no noise to simulate
        levels = self.levels(state.f, observations, state.z[observations])
        groups = defaultdict[tuple[NoiseLevel, int], list[int]](list)
        untaught = self.problem.looks_noiseless[observations] | self._beyond(state.z[observations])
        for place in np.flatnonzero(~untaught).tolist():
            groups[levels[place], int(state.rounds[observations[place]])].append(place)
        for (level, rounds), places in groups.items():
            prior, some = self._prior(level, search), observations[places]
            before = prior.confidence(rounds, counts.subset(np.array(places)))
            after = prior.after_perturbations(before, state.improved[some])
            found[places] = np.where(state.perturbed[some] & bool(prior.weights), after, before)
        return found

    def _beyond(self, z: Array) -> Flags:
        """Check whether codes (b, k) exceed the radius and N(0, I) draws in length, as few simulated codes do, (b,)."""
        return np.asarray(self._far(z) & (np.linalg.norm(z, axis=1) > self.radius * np.sqrt(z.shape[1])))

    def _far(self, z: Array) -> Flags:
        """Check whether codes (b, k) are longer than N(0, I) draws, (b,); with bounds, none counts as longer."""
        return np.asarray(self.problem.bounds.none & (chdtrc(z.shape[1], np.square(z).sum(axis=1)) < _FAR))

    def levels(self, f: Array, observations: Index, z: Array | None = None) -> list[NoiseLevel]:
        """Return the noise levels of some observations, given the best objectives, (B,), and their codes, (b, k).

        An observation in distribution has a residual that the noise explains, and a code no longer than N(0, I) draws.
        """
        problem = self.problem
        if problem.noise.likelihood is not None:
            return [NoiseLevel(0, 0)] * len(observations)
        left = np.maximum(problem.observed[observations] - problem.network.latent_dim, 1)
        variances = np.stack([f[observations] / left, problem.noise.variance(problem.y)[observations]])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            residual, size = np.log(np.sqrt(variances) / self._spread) / np.log(NOISE_STEP)
            known = problem.noise.noisy & np.isfinite(size)
            misfit = np.nan_to_num(residual - size - np.log(_EXPLAINED) / np.log(NOISE_STEP), posinf=9.0, neginf=0.0)
            noise = np.nan_to_num(np.where(known, size, residual), posinf=20.0, neginf=-40.0)
            if z is not None:
                misfit = np.where(self._far(z), np.maximum(misfit, 1.0), misfit)
        steps = zip(np.rint(noise).tolist(), np.ceil(misfit).tolist(), known.tolist(), strict=True)
        return [NoiseLevel(int(n), max(0, int(m)) if stated else None) for n, m, stated in steps]

    def _prior(self, level: NoiseLevel, search: JointSearch) -> Prior:
        """Return the prior for a noise level: kept with the generator, read from a file or learned now, else flat."""
        known: dict[str, Prior] = self.problem.learned
        name = self.name(level)
        if search.rule.short:
            return Prior({})
        if name not in known:
            path, plan = _path(name), search.descents.schedule
            # A simulation is assumed to take as long as a search of the same number of observations.
            spent = plan.microseconds / 1e6 if plan.microseconds < np.inf else search.watch.elapsed / self.problem.size
            prior = _read(path)
            if prior is None and plan.simulated * spent < _SHARE_OF_TIME * self.problem.control.remaining():
                with taking_turns(path, search.watch):  # what another process learns meanwhile need not be learned here
                    if (prior := _read(path)) is None and (prior := self.learn(level, search)):
                        _write(path, prior)
            if prior is not None:
                known[name] = prior
        return known.get(name, Prior({}))

    def name(self, level: NoiseLevel) -> str:
        """Return the digest of everything that a prior depends on."""
        problem = self.problem.alike or self.problem
        network = problem.network.once("fingerprint", lambda: fingerprint(problem.network))
        proper = problem.normal and problem.normal.proper.tolist()
        counts = fingerprint(problem.noise) if problem.noise.likelihood is not None else ""
        ends = [end.tobytes().hex() for end in (problem.bounds.lower, problem.bounds.upper)]
        options = f"{__version__} {_RECIPE} {ROUNDS} {self.radius} {problem.prior!r} {proper} {counts} {ends}"
        return sha256(f"{network} {problem.network.device.type} {self._kind} {level} {options}".encode()).hexdigest()

    def learn(self, level: NoiseLevel, search: JointSearch) -> Prior | None:
        """Learn the prior from simulations; return None if the time limit or the callback stopped one.

        On a large generator, there are as many restarts as simulated observations in the schedule, up to a group more.
        If many restarts miss the best code, fewer observations are simulated, but the confidence is low anyway.
        """
        timer = threading.Timer(_PATIENCE, _say_once)
        timer.daemon = True
        timer.start()
        control = self.problem.control.part(lambda _: search.report())
        control = replace(control, time_limit=_SHARE_OF_TIME * control.time_limit)
        try:
            problem = self.canonical()
            cache = SampleCache.of(problem)
            plan = schedule_for(problem, cache, searched_objective(problem, cache))
            problem, truth = simulated(problem, level, plan.simulated, radius=self.radius)
            quick = plan.quick and (plan.large or level.misfit == 0)  # a misfit's own code need not be its best
            simulations: list[Simulation] = []
            size, restarts = _GROUP if plan.large else plan.simulated, 0
            for group in np.split(np.arange(plan.simulated), range(size, plan.simulated, size)):
                if restarts + len(group) > plan.simulated or (simulations and simulations[-1].hopeless):
                    break
                part = problem.part(group, control)
                simulations.append(Simulation(part, truth[group], quick, self.radius))
                if simulations[-1].search.watch.reason:
                    return None
                restarts += int(simulations[-1].search.state.made.sum())
            return joint_prior(simulations)
        finally:
            timer.cancel()

    def canonical(self) -> Problem:
        """Return a problem without observations, with canonical measurements of the kind."""
        problem = self.problem.alike or self.problem
        operator = self._kind.canonical(problem)
        nothing = np.zeros((max(1, operator.count), operator.m))
        return replace(problem, y=nothing, operator=operator, z0=None, given=None, stated_loss=None)


# --- files ------------------------------------------------------------------------------------------------------------


def _path(name: str) -> Path:
    """Return the file of a prior, in the folder ``UNRELU_CACHE`` or in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("UNRELU_CACHE") or f"{user}/unrelu") / "priors" / f"{name}.npz"


def _read(path: Path) -> Prior | None:
    """Read the prior in a file; return None if the file is missing or invalid."""

    def restored(table: Table) -> Prior:
        weights = {int(rounds): array for rounds, array in table.items() if rounds.isdigit()}
        return Prior(weights, *table["perturbed"].tolist())

    with suppress(UnreluError):
        return read_archive(path, "prior", restored)
    return None


def _write(path: Path, prior: Prior) -> None:
    """Write a prior to a file; ignore a folder that cannot be written."""
    table = {str(rounds): weights for rounds, weights in prior.weights.items()}
    with suppress(UnreluError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_archive(path, "prior", table | {"perturbed": np.array([prior.improves, prior.reaches])})
