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
from unrelu.sampling.convergence import Convergence, convergence_of

# Chains have mixed if at most this share of the posterior was overlooked.
OVERLOOKED = 0.02
# The numbers of each observation.
_NUMBERS = ("log_evidence", "log_evidence_error", "seconds", "acceptance", "overlooked", "p_value")
_PER_OBSERVATION = ("z", "log_likelihood", "mode", "ended", *_NUMBERS)


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
