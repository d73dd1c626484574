"""What a sampler hands over for a batch: draws, their log-likelihoods and modes; and whether the chains have mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.memory_limits import RECONSTRUCTION_NUMBERS
from unrelu.sampling.convergence import Convergence, convergence_of, error_of_mean

# Chains have mixed if at most this share of the posterior was overlooked.
OVERLOOKED = 0.02
# Intervals and pictures of reconstructions are of so many draws, fewer if their outputs have too many numbers.
_OUTPUTS = 1000
# The numbers of each observation.
_NUMBERS = ("log_evidence", "log_evidence_error", "seconds", "acceptance", "overlooked", "p_value")
_PER_OBSERVATION = ("z", "log_likelihood", "mode", "ended", *_NUMBERS)


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
    """The draws of a batch of B observations: C chains of D draws of codes of k coordinates, flat.

    Attributes:
        problem: the problem as it was stated.
        z: the draws, (B, C, D, k); NaN from the draw on at which the sampling of an observation ended or failed.
        log_likelihood: log p(y | z) of each draw, up to a constant of y, (B, C, D).
        mode: the number of the mode that each draw belongs to, (B, C, D).
        best: the best codes of the modes, (M_i, k) for observation i.
        from_prior: the chains that began where descents from draws of the prior ended, (C,); the others began at optima
            that the search found.
        log_evidence, log_evidence_error: log p(y), up to the same constant, and its standard error, (B,); NaN if it
            was not computed.
        ended: why the sampling of an observation was cut short, one status or (B,); None if it was not.
        seconds: wall time of each observation, (B,).
        acceptance: the mean probability with which trajectories were accepted, (B,).
        overlooked: the estimated share of the posterior at optima that further descents found, and near which there is
            no draw, (B,); NaN if they were not made, because the chains do not agree or the sampling was cut short.
        p_value: goodness of fit of the most probable code that was found, (B,); NaN without a code.

    Raises:
        InputError: the shapes do not fit together, or a draw belongs to no mode.
    """

    problem: Problem
    z: Array
    log_likelihood: Array
    mode: Integers
    best: Sequence[Array]
    from_prior: Flags
    log_evidence: Any = np.nan
    log_evidence_error: Any = np.nan
    ended: Any = None
    seconds: Any = 0.0
    acceptance: Any = np.nan
    overlooked: Any = 0.0
    p_value: Any = np.nan
    _mixing: dict[int, Mixing] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        size, k = self.problem.size, self.problem.network.latent_dim
        if np.ndim(self.z) != 4 or self.z.shape[::3] != (size, k):
            raise InputError(f"z has shape {np.shape(self.z)}; draws are ({size}, chains, draws, {k})")
        batch, chains = self.z.shape[:3], self.z.shape[1]
        kinds: dict[str, Any] = {"mode": np.int64, "from_prior": np.bool_, "ended": object}
        shapes = {"z": self.z.shape, "log_likelihood": batch, "mode": batch, "from_prior": (chains,)}
        for name in ("from_prior", *_PER_OBSERVATION):  # what follows from the draws is computed once
            array: npt.NDArray[Any] = np.asarray(getattr(self, name), dtype=kinds.get(name, np.float64))
            array = array if array.ndim else np.full(size, array[()], dtype=array.dtype)
            if array.shape != shapes.get(name, (size,)):
                raise InputError(f"{name} has shape {array.shape}; that of these draws is {shapes.get(name, (size,))}")
            frozen = array.view()
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)
        if len(self.best) != size:
            raise InputError(f"best has the modes of {len(self.best)} observations; there are {size}")
        for i, codes in enumerate(self.best):
            if codes.ndim != 2 or codes.shape[1] != k:
                raise InputError(
                    f"best of observation {i} has shape {codes.shape}; the codes of its modes are (M, {k})"
                )
            known = self.kept(i)[2]
            if known.size and not 0 <= known.min() <= known.max() < len(codes):
                raise InputError(f"mode of observation {i} goes up to {known.max()}, there are {len(codes)} modes")

    @property
    def size(self) -> int:
        """B, the number of observations."""
        return len(self.z)

    @classmethod
    def without_draws(cls, problem: Problem, from_prior: Flags, ended: Status) -> SampledChains:
        """Those of one observation that was not sampled, and why."""
        none, k = np.empty((1, len(from_prior), 0)), problem.network.latent_dim
        z, mode, best = np.empty((*none.shape, k)), np.empty(none.shape, dtype=np.int64), [np.empty((0, k))]
        return cls(problem, z, none, mode, best, from_prior, ended=ended, overlooked=np.nan)

    @classmethod
    def joined(cls, parts: Sequence[SampledChains], problem: Problem, from_prior: Flags) -> SampledChains:
        """Join those of the observations of a batch; draws that others have but not an observation are NaN."""
        most = max((part.z.shape[2] for part in parts), default=0)
        shape = (len(parts), len(from_prior), most)
        z, likelihood = np.full((*shape, problem.network.latent_dim), np.nan), np.full(shape, np.nan)
        mode = np.zeros(shape, dtype=np.int64)
        for i, part in enumerate(parts):
            length = part.z.shape[2]
            z[i, :, :length], likelihood[i, :, :length], mode[i, :, :length] = part.z, part.log_likelihood, part.mode
        numbers: dict[str, Any] = {name: [getattr(part, name)[0] for part in parts] for name in ("ended", *_NUMBERS)}
        best = [codes for part in parts for codes in part.best]
        return cls(problem, z, likelihood, mode, best, from_prior, **numbers)

    def take(self, rows: Index, problem: Problem) -> SampledChains:
        """The draws of some observations, which have this problem."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _PER_OBSERVATION}
        return replace(self, problem=problem, best=[self.best[i] for i in rows.tolist()], **columns)

    @cached_property
    def lengths(self) -> Integers:
        """The number of draws that all chains of an observation have, (B,); those after are NaN."""
        unknown: Flags = ~np.isfinite(self.z).all(axis=3) | np.isnan(self.log_likelihood)
        ended = np.logical_or.accumulate(unknown.any(axis=1), axis=1)
        return np.asarray((~ended).sum(axis=1))

    def kept(self, i: int) -> tuple[Array, Array, Integers]:
        """Draws, log-likelihoods and modes of an observation up to the last draw that all chains have, (C, d, ...)."""
        length = self.lengths[i]
        return self.z[i, :, :length], self.log_likelihood[i, :, :length], self.mode[i, :, :length]

    def flat(self, i: int) -> Array:
        """The draws of all chains of an observation, one after the other, (N, k)."""
        draws = self.kept(i)[0]
        return draws.reshape(-1, draws.shape[2])

    # --- whether they have mixed --------------------------------------------------------------------------------------

    def mixing(self, i: int) -> Mixing:
        """Whether the chains of an observation have mixed."""
        if i not in self._mixing:
            z, likelihood, _ = self.kept(i)
            self._mixing[i] = Mixing.of(z, likelihood, self.from_prior, self.ended[i], self.overlooked[i])
        return self._mixing[i]

    @cached_property
    def statuses(self) -> npt.NDArray[np.object_]:
        """The statuses of the observations, (B,)."""
        found = np.full(self.size, None, dtype=object)
        found[:] = [self.mixing(i).status for i in range(self.size)]
        return found

    # --- what they say, whether they have mixed or not ----------------------------------------------------------------

    @cached_property
    def means(self) -> Array:
        """The means of the flat codes, (B, k)."""
        return np.array([mean_of(self.flat(i)) for i in range(self.size)]).reshape(self.size, self.z.shape[3])

    @cached_property
    def covariances(self) -> Array:
        """The covariances of the flat codes, (B, k, k)."""
        k = self.z.shape[3]
        return np.array([covariance_of(self.flat(i)) for i in range(self.size)]).reshape(self.size, k, k)

    @property
    def deviations(self) -> Array:
        """The standard deviations of the flat codes, (B, k)."""
        return np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))

    def outputs(self, i: int) -> Array:
        """G(z) of up to 1,000 evenly spaced draws of an observation, (count, *output_shape)."""
        draws, network = self.flat(i), self.problem.network
        most = min(_OUTPUTS, max(2, RECONSTRUCTION_NUMBERS // network.output_dim), len(draws))
        return network.outputs(spaced(draws, most))

    @property
    def output_deviations(self) -> Array:
        """The standard deviations of these outputs, (B, *output_shape)."""
        shape = self.problem.network.output_shape
        outputs = (self.outputs(i) for i in range(self.size))
        return np.array([draws.std(axis=0) if len(draws) else np.full(shape, np.nan) for draws in outputs])

    def intervals(self, level: float, of: str = "z") -> tuple[Array, Array]:
        """The ends of equal-tailed intervals of codes, or of these outputs if ``of`` is not "z", (B, ...) each."""
        network = self.problem.network
        shape = network.latent_shape if of == "z" else network.output_shape
        ends = np.full((2, self.size, *shape), np.nan)
        for i in range(self.size):
            draws = network.shaped(self.flat(i)) if of == "z" else self.outputs(i)
            if len(draws):
                ends[:, i] = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2), axis=0)
        return ends[0], ends[1]

    def modes(self, i: int) -> tuple[Mode, ...]:
        """The modes that draws of an observation belong to, the heaviest first."""
        draws, _, label = self.kept(i)
        present = np.unique(label)
        if not len(present):
            return ()
        belongs = (label[..., None] == present).astype(np.float64)
        weights, errors = belongs.mean(axis=(0, 1)), error_of_mean(belongs)
        best = self.problem.network.shaped(self.best[i])
        made = [
            Mode(float(w), float(e), best[m], covariance_of(draws[label == m]))
            for m, w, e in zip(present, weights, errors, strict=True)
        ]
        return tuple(sorted(made, key=lambda mode: -mode.weight))


def spaced(draws: Array, count: int) -> Array:
    """Evenly spaced rows, (count, ...); the same row repeatedly if there are fewer."""
    rows = ((np.arange(count) + 0.5) * len(draws) / count).astype(np.intp)
    return draws[rows] if len(draws) else draws


def mean_of(draws: Array) -> Array:
    """The mean of draws (N, ...), (...); NaN without draws."""
    return draws.mean(axis=0) if len(draws) else np.full(draws.shape[1:], np.nan)


def covariance_of(draws: Array) -> Array:
    """The covariance of draws (N, k), (k, k); NaN for fewer than two."""
    k = draws.shape[1]
    return np.cov(draws, rowvar=False).reshape(k, k) if len(draws) > 1 else np.full((k, k), np.nan)


@dataclass(frozen=True, eq=False)
class Mixing:
    """Whether the chains of one observation have mixed.

    Attributes:
        draws: the number of draws of each chain.
        statistics: those of the coordinates, and at last of the log-likelihood unless it is the same everywhere.
        k: the number of coordinates.
        rhat_from_prior, rhat_from_search: the largest R-hat among the chains ``from_prior``, and among the others, if
            they have not mixed; else NaN, as for fewer than two.
        ended: why the sampling was cut short, or None.
        overlooked: the share of the posterior near which there is no draw.
    """

    draws: int
    statistics: Convergence
    k: int
    rhat_from_prior: float
    rhat_from_search: float
    ended: Status | None
    overlooked: float

    @classmethod
    def of(
        cls, z: Array, log_likelihood: Array, from_prior: Flags, ended: Status | None, overlooked: float = 0.0
    ) -> Mixing:
        """Judge draws (C, D, k) with their log-likelihoods, (C, D)."""
        varies = bool(log_likelihood.size) and float(log_likelihood.min()) < float(log_likelihood.max())
        both = np.concatenate([z, log_likelihood[..., None]], axis=2) if varies else z
        found = cls(z.shape[1], convergence_of(both), z.shape[2], np.nan, np.nan, ended, float(overlooked))
        if found.agree:
            return found
        prior, search = (float(convergence_of(both[group]).rhat.max()) for group in (from_prior, ~from_prior))
        return replace(found, rhat_from_prior=prior, rhat_from_search=search)

    @property
    def agree(self) -> bool:
        """Whether all statistics are within their limits."""
        return bool(self.statistics.mixed.all())

    @property
    def status(self) -> Status:
        """MIXED if the chains agree and next to nothing was overlooked; else why it ended early, or NOT_MIXED."""
        if self.agree and self.overlooked <= OVERLOOKED:
            return Status.MIXED
        return self.ended or Status.NOT_MIXED

    def worst(self, name: str) -> tuple[float, int]:
        """The worst R-hat or sample size and its coordinate, k for the log-likelihood; NaN is the worst of all."""
        values = getattr(self.statistics, name)
        badness = values if name == "rhat" else -values
        place = int(np.argmax(np.where(np.isnan(badness), np.inf, badness)))
        return float(values[place]), place
