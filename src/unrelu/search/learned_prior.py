"""The prior of the confidence on one generator, learned by simulation: how far agreement of restarts can be trusted.

Observations are simulated at the user's level of noise, and searched (:mod:`unrelu.search.simulation`). For each round,
:func:`unrelu.search.confidence.learned` learns from the number of restarts that ended in the best optimum known. Where
these miss it, perturbations of the best restart show how often they find something better.

The prior is kept with the generator as long as it lives, and in a file for other processes.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from logging import getLogger
from pathlib import Path

import numpy as np
from scipy.special import chdtrc

from unrelu._version import __version__
from unrelu.errors import UnreluError
from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.file_reading import read_npz
from unrelu.runtime.file_writing import write_npz
from unrelu.search.confidence import FLAT, Prior, confidence
from unrelu.search.joint_search import JointSearch
from unrelu.search.schedules import ROUNDS
from unrelu.search.simulation import NOISE_STEP, NoiseLevel, Simulation, distinct, simulated, spread_of

_LOG = getLogger("unrelu")
# An observation is in distribution if its residual is at most this multiple of the stated noise, and if N(0, I) draws a
# code as long as its code with at least this probability.
_EXPLAINED, _FAR = 1.5, 1e-3
# A simulation may take this share of the time that is left.
_SHARE_OF_TIME = 0.5
# The version of the search and the simulation: files of priors with another one are not read.
_RECIPE = 6
# The weights in a file sum to 1 up to _ROUNDING, and the file is no larger than that of a hundred rounds.
_ROUNDING, _LARGEST_FILE = 1e-6, 2**20
_PERTURBED = "perturbed"
# A simulation that takes more seconds is announced.
_PATIENCE = 1.5
_MESSAGE = "unrelu is learning how sure it can be on this generator, once for each measurement and level of noise"

_known: weakref.WeakKeyDictionary[Generator, dict[tuple[str, NoiseLevel], Prior]] = weakref.WeakKeyDictionary()


class LearnedConfidence:
    """The confidence of observations of one problem, by a prior for the level of their noise.

    A prior is learned at its first use. If a time limit leaves too little time, the prior is flat.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._spread, self._key = spread_of(problem), prior_key(problem)

    def __call__(self, search: JointSearch, observations: Index) -> Array:
        """The confidence of some observations of a search, (b,)."""
        state = search.state
        counts = state.count_restarts().subset(observations)
        found = confidence(FLAT, counts)
        if not self.problem.noise.stated and state.exact.any():
            return found  # a batch with exact fits has no noise to simulate
        levels = self.levels(state.f, observations, state.z[observations])
        groups = defaultdict[tuple[NoiseLevel, int], list[int]](list)
        for place in np.flatnonzero(~self.problem.looks_noiseless[observations]).tolist():
            groups[levels[place], int(state.rounds[observations[place]])].append(place)
        for (level, rounds), places in groups.items():
            prior, some = self._prior(level, search), observations[places]
            before = prior.confidence(rounds, counts.subset(np.array(places)))
            after = prior.after_perturbations(before, state.improved[some])
            found[places] = np.where(state.perturbed[some] & bool(prior.weights), after, before)
        return found

    def levels(self, f: Array, observations: Index, z: Array | None = None) -> list[NoiseLevel]:
        """The level of noise of some observations, given the best objectives, (B,), and their codes, (b, k).

        An observation in distribution has a residual that the noise explains, and a code no longer than N(0, I) draws.
        """
        problem, spread = self.problem, self._spread
        if problem.noise.likelihood is not None:
            return [NoiseLevel(0, 0)] * len(observations)
        left = np.maximum(problem.observed[observations] - problem.network.latent_dim, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = np.sqrt(f[observations] / left) / spread
            size = np.sqrt(problem.noise.variance(problem.y)[observations]) / spread
            known = np.broadcast_to(problem.noise.noisy & (size > 0), len(observations))
            misfit = np.log(residual / (_EXPLAINED * size)) / np.log(NOISE_STEP)
            noise = np.log(np.where(known, size, residual)) / np.log(NOISE_STEP)
        noise = np.nan_to_num(noise, nan=0.0, posinf=20.0, neginf=-40.0)
        misfit = np.nan_to_num(misfit, nan=0.0, posinf=9.0, neginf=0.0)
        if z is not None and problem.bounds.none:
            with np.errstate(over="ignore"):
                far = chdtrc(z.shape[1], np.square(z).sum(axis=1)) < _FAR
            misfit = np.where(far, np.maximum(misfit, 1.0), misfit)
        steps = zip(np.rint(noise).tolist(), np.ceil(misfit).tolist(), known.tolist(), strict=True)
        return [NoiseLevel(int(n), max(0, int(m)) if stated else None) for n, m, stated in steps]

    def _prior(self, level: NoiseLevel, search: JointSearch) -> Prior:
        """The prior for a level of noise: known in this process, or in a file, or learned now; else a flat one."""
        known, key = _known.setdefault(self.problem.network, {}), (self._key, level)
        if key in known or search.rule.short:
            return known.get(key, Prior({}))
        path = _path(self.problem, level)
        prior = _read(path)
        if prior is None and self._affordable(search):
            prior = self.learn(level, search)
            _write(path, prior)
        if prior is not None:
            known[key] = prior
        return prior or Prior({})

    def _affordable(self, search: JointSearch) -> bool:
        """Whether a simulation ends in time, if it takes as long as the search of as many observations."""
        plan = search.descents.schedule
        seconds = plan.microseconds / 1e6 if plan.microseconds < np.inf else search.watch.elapsed / self.problem.size
        return plan.simulated * seconds < _SHARE_OF_TIME * self.problem.control.remaining()

    def learn(self, level: NoiseLevel, search: JointSearch) -> Prior | None:
        """The prior from a simulation; None if the time limit or the callback stopped it."""
        timer = threading.Timer(_PATIENCE, _say_once)
        timer.daemon = True
        timer.start()
        plan, control = search.descents.schedule, self.problem.control.part(lambda _: search.report())
        control = replace(control, time_limit=_SHARE_OF_TIME * control.time_limit)
        try:
            problem, truth = simulated(self.problem, level, plan.simulated)
            simulation = Simulation(replace(problem, control=control), truth, plan.quick)
            return None if simulation.search.watch.reason else simulation.prior()
        finally:
            timer.cancel()


@cache
def _say_once() -> None:
    _LOG.warning(_MESSAGE)


def keep(problem: Problem, level: NoiseLevel, prior: Prior) -> None:
    """Use a prior for this network, measurement and level of noise as long as the network lives."""
    _known.setdefault(problem.network, {})[prior_key(problem), level] = prior


def prior_key(problem: Problem) -> str:
    """A digest of what a prior depends on beside the network and the level; the device decides how it is searched."""
    seen = distinct(problem.operator)[0].tobytes()
    digest = sha256(seen + problem.bounds.lower.tobytes() + problem.bounds.upper.tobytes())
    if problem.normal is not None and (problem.bounds.boxed.any() or not np.all(problem.normal.proper)):
        digest.update(np.asarray(problem.normal.proper).tobytes())
    counts = fingerprint(problem.noise) if problem.noise.likelihood is not None else ""
    device = problem.network.device.type
    digest.update(f"{__version__} {_RECIPE} {ROUNDS} {problem.prior!r} {counts} {device}".encode())
    return digest.hexdigest()


# --- files ------------------------------------------------------------------------------------------------------------


def _path(problem: Problem, level: NoiseLevel) -> Path:
    """The file of a prior, in the folder ``UNRELU_CACHE`` or in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = sha256(f"{prior_key(problem)} {level} {fingerprint(problem.network)}".encode()).hexdigest()
    return Path(os.environ.get("UNRELU_CACHE") or f"{user}/unrelu") / "priors" / f"{name}.npz"


def _read(path: Path) -> Prior | None:
    """The prior of a file; None if there is no file, or no valid one."""
    try:
        arrays = read_npz(path, _LARGEST_FILE)
        found = arrays.pop(_PERTURBED)
        weights = {int(rounds): array for rounds, array in arrays.items()}
    except (UnreluError, OSError, ValueError, KeyError, RuntimeError):
        return None
    proper = found.dtype == np.float64 and found.shape == (2,) and bool(((found >= 0) & (found < 1)).all())
    proper &= all(
        w.dtype == np.float64 and w.shape == FLAT.shape and (w > 0).all() and abs(w.sum() - 1) < _ROUNDING
        for w in weights.values()
    )
    return Prior(weights, *found.tolist()) if proper and weights and min(weights) > 0 else None


def _write(path: Path, prior: Prior | None) -> None:
    """Write a prior, if there is one, to a file; a folder that cannot be written is ignored."""
    if prior is None:
        return
    with suppress(UnreluError, OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {str(rounds): weights for rounds, weights in prior.weights.items()}
        write_npz(path, arrays | {_PERTURBED: np.array([prior.improves, prior.reaches])}, "it is a cache")
