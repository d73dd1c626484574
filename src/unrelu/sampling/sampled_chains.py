"""What the sampler returns for an observation: draws, log-likelihoods and modes, and whether the chains have mixed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Integers
from unrelu.sampling.convergence import Convergence, convergence_of, error_of_mean

# Chains have mixed if at most this share of the posterior was overlooked.
OVERLOOKED = 0.02


@dataclass(frozen=True, eq=False)
class Mode:
    """A mode of a posterior, and the draws that belong to it.

    Attributes:
        weight: the share of the draws that belong to it, an estimate of its probability.
        weight_error: the Monte Carlo standard error of the weight, from the effective sample size of the indicator.
        z: the most probable code found in it, ``latent_shape``.
        covariance: the covariance of its draws, (k, k); NaN for a single draw.
    """

    weight: float
    weight_error: float
    z: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class SampledChains:
    """The draws of one observation: C chains of D draws each, of flattened codes with k coordinates.

    Attributes:
        z: the draws, (C, D, k).
        log_likelihood: log p(y | z) of each draw, up to a constant of y, (C, D).
        mode: the number of the mode that each draw belongs to, (C, D).
        best: the best codes of the modes, (M, k).
        ended: why sampling was cut short; None if it was not.
        log_evidence, log_evidence_error, seconds, acceptance, overlooked, p_value: see :class:`~unrelu.Posterior`;
            NaN if not computed.
        fixed: which coordinates have a fixed value, (k,); they count as mixed.

    Raises:
        InputError: a draw belongs to no mode.
    """

    z: Array
    log_likelihood: Array
    mode: Integers
    best: Array
    log_evidence: float = np.nan
    log_evidence_error: float = np.nan
    ended: Status | None = None
    seconds: float = 0.0
    acceptance: float = np.nan
    overlooked: float = 0.0
    p_value: float = np.nan
    fixed: Flags | bool = False

    def __post_init__(self) -> None:
        for name, kind in (("z", np.float64), ("log_likelihood", np.float64), ("mode", np.int64), ("best", np.float64)):
            array: npt.NDArray[Any] = np.asarray(getattr(self, name), dtype=kind).view()
            array.setflags(write=False)  # what follows from the draws is computed once
            object.__setattr__(self, name, array)
        if self.mode.max(initial=-1) >= len(self.best):
            raise InputError(f"mode goes up to {self.mode.max()}, there are {len(self.best)} modes")

    @classmethod
    def without_draws(cls, chains: int, k: int, ended: Status | None = None) -> SampledChains:
        """Make the empty chains of an observation that was not sampled; ``ended`` says why."""
        z = np.empty((chains, 0, k))
        return cls(z, z.sum(axis=2), z.sum(axis=2, dtype=int), np.empty((0, k)), ended=ended, overlooked=np.nan)

    @property
    def flat(self) -> Array:
        """The draws of all chains, one after the other, (N, k)."""
        return self.z.reshape(-1, self.z.shape[2])

    # --- whether they have mixed --------------------------------------------------------------------------------------

    @cached_property
    def statistics(self) -> Convergence:
        """The statistics of the coordinates; the last entry is the log-likelihood's, unless that is constant."""
        return statistics_of(self.z, self.log_likelihood, self.fixed)

    @property
    def agree(self) -> bool:
        """Whether the statistics of all coordinates are within their limits."""
        return bool(self.statistics.mixed.all())

    @property
    def status(self) -> Status:
        """MIXED if the chains agree and at most 2% was overlooked; else why sampling was cut short, or NOT_MIXED."""
        if self.agree and self.overlooked <= OVERLOOKED:
            return Status.MIXED
        return self.ended or Status.NOT_MIXED

    def worst(self, name: str) -> tuple[float, int]:
        """Find the worst R-hat or sample size and its coordinate, k for the log-likelihood; NaN is worst of all."""
        values = getattr(self.statistics, name)
        badness = values if name == "rhat" else -values
        place = int(np.argmax(np.where(np.isnan(badness), np.inf, badness)))
        return float(values[place]), place

    # --- what they say, whether they have mixed or not ----------------------------------------------------------------

    @property
    def mean(self) -> Array:
        """The mean of the draws, (k,); NaN without draws."""
        return mean_of(self.flat)

    @cached_property
    def covariance(self) -> Array:
        """The covariance of the draws, (k, k); NaN for fewer than two draws."""
        known = ~np.broadcast_to(self.fixed, self.z.shape[2:])
        return np.where(known & known[:, None], covariance_of(self.flat), 0.0)

    @property
    def deviation(self) -> Array:
        """The standard deviations of the coordinates, (k,)."""
        return np.sqrt(np.diag(self.covariance))

    @cached_property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that draws belong to, the heaviest first, with flat codes."""
        present = np.unique(self.mode)
        belongs = (self.mode[..., None] == present).astype(np.float64)
        errors = error_of_mean(belongs)
        made = [
            Mode(float(share.mean()), float(e), self.best[m], covariance_of(self.z[self.mode == m]))
            for m, share, e in zip(present, np.moveaxis(belongs, 2, 0), errors, strict=True)
        ]
        return tuple(sorted(made, key=lambda mode: -mode.weight))


def statistics_of(z: Array, log_likelihood: Array, fixed: Flags | bool = False) -> Convergence:
    """Compute the statistics of draws (C, D, k) and, unless they are constant, of their log-likelihoods (C, D).

    The log-likelihood comes last. ``fixed`` coordinates, (k,), have an R-hat of 1, and all their draws are effective.
    """
    varies = log_likelihood.size and log_likelihood.min() < log_likelihood.max()
    drawn = np.concatenate([z, log_likelihood[..., None]], axis=2) if varies else z
    free = np.append(~np.broadcast_to(fixed, z.shape[2:]), np.ones(drawn.shape[2] - z.shape[2], dtype=bool))
    found = convergence_of(drawn[..., free])
    columns = np.tile([[1.0], [log_likelihood.size], [log_likelihood.size]], len(free))
    columns[:, free] = found.rhat, found.ess, found.tail_ess
    return Convergence(*columns)


def spaced(draws: Array, count: int) -> Array:
    """Select evenly spaced rows, (count, ...); rows repeat if there are fewer."""
    rows = ((np.arange(count) + 0.5) * len(draws) / count).astype(np.intp)
    return draws[rows] if len(draws) else draws


def mean_of(draws: Array) -> Array:
    """Compute the mean, (...), of draws (N, ...); NaN without draws."""
    return draws.mean(axis=0) if len(draws) else np.full(draws.shape[1:], np.nan)


def interval_of(draws: Array, level: float) -> Array:
    """Compute the ends, (2, ...), of equal-tailed intervals of draws (N, ...); NaN without draws."""
    ends = ((1 - level) / 2, (1 + level) / 2)
    return np.quantile(draws, ends, axis=0) if len(draws) else np.full((2, *draws.shape[1:]), np.nan)


def covariance_of(draws: Array) -> Array:
    """Compute the covariance, (k, k), of draws (N, k); NaN for fewer than two."""
    k = draws.shape[1]
    return np.cov(draws, rowvar=False).reshape(k, k) if len(draws) > 1 else np.full((k, k), np.nan)
