r"""How far agreement can be trusted on the generator at hand: a prior of the confidence, learned by simulation.

Where residuals are larger than the stated noise, or the code is longer than those of N(0, I), the generator did not
make what was observed, and the simulated observations are such ones (:mod:`unrelu.search.simulation`); where no noise
is stated that cannot be told, and every second one is.

Whatever is learned is kept with the generator for as long as it lives, and in a file for other processes.
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
import numpy.typing as npt
from scipy.special import chdtrc

from unrelu._version import __version__
from unrelu.errors import UnreluError
from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.file_reading import read_npz
from unrelu.runtime.file_writing import write_npz
from unrelu.search.confidence import FLAT, Prior, confidence
from unrelu.search.joint_search import JointSearch
from unrelu.search.simulation import EXCESS_STEP, NOISE_STEP, Level, Simulation, distinct, simulated, spread_of
from unrelu.search.stopping_rule import ROUNDS

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_LOG = getLogger("unrelu")
# Simulated observations of one level of noise. Where none of n misleads, agreement has a confidence of about
# 1 - 1 / 6 n.
_OBSERVATIONS = 48
# Residuals of at most so many times the stated noise are those of outputs of the generator.
_EXPLAINED = 1.5
# A simulation may take this share of the time that is left.
_SHARE_OF_TIME = 0.5
# Raised whenever the search or what is simulated changes: files of priors that were learned otherwise are not read.
_RECIPE = 2
# Codes that N(0, I) draws so rarely are not of outputs of the generator.
_FAR = 1e-3
# Weights of a file sum to 1 to this, and it holds no more bytes: those of a hundred rounds.
_ROUNDING, _LARGEST_FILE = 1e-6, 2**20
# Seconds after which a word is said of it.
_PATIENCE = 1.5
_MESSAGE = "unrelu is learning how sure it can be on this generator, once for each measurement and level of noise"

_known: weakref.WeakKeyDictionary[Generator, dict[str, Prior]] = weakref.WeakKeyDictionary()


class LearnedConfidence:
    """The confidence of observations of one problem, by a prior for the level of their noise.

    A prior that is not known is learned when it is first asked for, where descents tell what they cost; elsewhere, and
    where a time limit leaves too little, the prior is flat.
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
            return found  # nor do the others of a batch of exact fits have noise that could be simulated
        levels = self.levels(search.f, observations, search.z[observations])
        groups = defaultdict[tuple[Level, int], list[int]](list)
        for place in np.flatnonzero(~self.problem.looks_noiseless[observations]).tolist():
            groups[levels[place], int(search.rounds[observations[place]])].append(place)
        for (level, rounds), places in groups.items():
            found[places] = self._prior(level, search).confidence(rounds, hits.take(np.array(places)))
        return found

    def levels(self, f: Array, observations: Index, z: Array | None = None) -> list[Level]:
        """The level of noise of some observations whose best objectives, (B,), and codes, (b, k), are known.

        An output of the generator has a residual that the noise explains, and a code as N(0, I) draws it.
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
            if key not in known and search.descents.schedule.learned and not search.rule.quick:
                path = _folder() / f"{sha256((key + fingerprint(self.problem.network)).encode()).hexdigest()}.npz"
                prior = _read(path)
                if prior is None:
                    prior = self._learned(level, search)
                    if prior is None:
                        return Prior({})
                    _write(path, prior)
                known[key] = prior
            self._priors[level] = known.get(key) or Prior({})
        return self._priors[level]

    def _learned(self, level: Level, search: JointSearch) -> Prior | None:
        """The prior from a simulation; None where too little time is left, or it was stopped."""
        seconds = _OBSERVATIONS * search.descents.schedule.microseconds / 1e6
        if seconds >= _SHARE_OF_TIME * self.problem.control.remaining():
            return None
        timer = threading.Timer(_PATIENCE, _say_once)
        timer.daemon = True
        timer.start()
        try:
            problem, truth = simulated(self.problem, level, _OBSERVATIONS)
            control = self.problem.control.part(lambda _: search.report())
            control = replace(control, time_limit=_SHARE_OF_TIME * control.time_limit)
            simulation = Simulation(replace(problem, control=control), truth)
            return None if simulation.search.watch.reason else simulation.prior()
        finally:
            timer.cancel()


@cache
def _say_once() -> None:
    _LOG.warning(_MESSAGE)


def keep(problem: Problem, level: Level, prior: Prior) -> None:
    """Use a prior for this network, measurement and level of noise from now on, as long as the network lives."""
    _known.setdefault(problem.network, {})[prior_key(problem, level)] = prior


def prior_key(problem: Problem, level: Level) -> str:
    """A digest of all that a prior of the network depends on."""
    seen = distinct(problem.operator)[0].tobytes()
    digest = sha256(seen + problem.bounds.lower.tobytes() + problem.bounds.upper.tobytes())
    counts = fingerprint(problem.noise) if problem.noise.likelihood is not None else ""
    digest.update(f"{__version__} {_RECIPE} {ROUNDS} {_OBSERVATIONS} {level} {problem.prior!r} {counts}".encode())
    return digest.hexdigest()


# --- files ------------------------------------------------------------------------------------------------------------


def _folder() -> Path:
    """Where priors are kept: ``UNRELU_CACHE``, or the user's folder of caches."""
    own = os.environ.get("UNRELU_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return (Path(own) if own else cache / "unrelu") / "priors"


def _read(path: Path) -> Prior | None:
    """A prior from its file; None where there is none, or none that can be one."""
    try:
        arrays = read_npz(path, _LARGEST_FILE)
        weights = {int(rounds): array for rounds, array in arrays.items()}
    except (UnreluError, OSError, ValueError, RuntimeError):
        return None
    proper = all(
        w.dtype == np.float64 and w.shape == FLAT.shape and (w > 0).all() and abs(w.sum() - 1) < _ROUNDING
        for w in weights.values()
    )
    return Prior(weights) if proper and weights and min(weights) > 0 else None


def _write(path: Path, prior: Prior) -> None:
    """Keep a prior; a folder that cannot be written is no reason to stop."""
    with suppress(UnreluError, OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {str(rounds): weights for rounds, weights in prior.weights.items()}
        write_npz(path, arrays, "it is a cache")
