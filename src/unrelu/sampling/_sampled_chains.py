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
        ended: why the sampling of an observation was cut short, (B,) statuses; None if it was not.
        seconds: wall time of each observation, (B,).
        acceptance: the mean probability with which trajectories were accepted, (B,).
        overlooked: the estimated share of the posterior at optima that further descents found, and near which there is
            no draw, (B,); NaN if they were not made, because the chains do not agree or the sampling was cut short.
        p_value: goodness of fit of the most probable code that was found, (B,); NaN without a code.
    """

    problem: Problem
    z: Array
    log_likelihood: Array
    mode: Integers
    best: Sequence[Array]
    from_prior: Flags
    log_evidence: Array
    log_evidence_error: Array
    ended: npt.NDArray[np.object_]
    seconds: Array
    acceptance: Array
    overlooked: Array
    p_value: Array
    _mixing: dict[int, Mixing] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        size, k = self.problem.size, self.problem.network.latent_dim
        if self.z.ndim != 4 or self.z.shape[::3] != (size, k):
            raise InputError(f"z has shape {self.z.shape}; draws are ({size}, chains, draws, {k})")
        batch, chains = self.z.shape[:3], self.z.shape[1]
        shapes = {"log_likelihood": batch, "mode": batch, "from_prior": (chains,)}
        shapes |= {name: (size,) for name in _PER_OBSERVATION if name not in ("z", *shapes)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"{name} has shape {getattr(self, name).shape}; that of these draws is {shape}")
        for name in ("z", *shapes):  # what follows from the draws is computed once
            frozen = getattr(self, name).view()
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)
        if len(self.best) != size:
            raise InputError(f"best has the modes of {len(self.best)} observations; there are {size}")
        for i, codes in enumerate(self.best):
            if codes.ndim != 2 or codes.shape[1] != k:
                raise InputError(
                    f"best of observation {i} has shape {codes.shape}; the codes of its modes are (M, {k})"
                )
            known = self.kept_modes(i)
            if known.size and not 0 <= known.min() <= known.max() < len(codes):
                raise InputError(f"mode of observation {i} goes up to {known.max()}, there are {len(codes)} modes")

    @property
    def size(self) -> int:
        """B, the number of observations."""
        return len(self.z)

    def take(self, rows: Index, single: bool = False) -> SampledChains:
        """The draws of some observations; ``single`` says that it is one without a batch axis."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _PER_OBSERVATION}
        starts = None if self.problem.z0 is None else self.problem.z0[rows]
        problem = replace(self.problem.part(rows, z0=starts), single=single)
        return replace(self, problem=problem, best=[self.best[i] for i in rows.tolist()], **columns)

    @cached_property
    def lengths(self) -> Integers:
        """The number of draws that all chains of an observation have, (B,); those after are NaN."""
        unknown: Flags = ~np.isfinite(self.z).all(axis=3) | np.isnan(self.log_likelihood)
        ended = np.logical_or.accumulate(unknown.any(axis=1), axis=1)
        return np.asarray((~ended).sum(axis=1))

    def kept(self, i: int) -> Array:
        """The draws of an observation, (C, d, k), up to the last one that all chains have."""
        return self.z[i, :, : self.lengths[i]]

    def kept_modes(self, i: int) -> Integers:
        """The modes of these draws, (C, d)."""
        return self.mode[i, :, : self.lengths[i]]

    def kept_likelihood(self, i: int) -> Array:
        """The log-likelihoods of these draws, (C, d)."""
        return self.log_likelihood[i, :, : self.lengths[i]]

    def mixing(self, i: int) -> Mixing:
        """Whether the chains of an observation have mixed."""
        if i not in self._mixing:
            self._mixing[i] = Mixing.of(
                self.kept(i), self.kept_likelihood(i), self.from_prior, self.ended[i], self.overlooked[i]
            )
        return self._mixing[i]


_PER_OBSERVATION = (
    "z", "log_likelihood", "mode", "log_evidence", "log_evidence_error", "ended", "seconds", "acceptance", "overlooked",
    "p_value",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Mixing:
    """Whether the chains of one observation have mixed.

    Attributes:
        draws: the number of draws of each chain.
        coordinates: the statistics of the coordinates, (k,).
        likelihood: those of the log-likelihood, (1,); empty if it is the same everywhere.
        rhat_from_prior, rhat_from_search: the largest R-hat among the chains ``from_prior``, and among the others, if
            they have not mixed; else NaN, as for fewer than two.
        ended: why the sampling was cut short, or None.
        overlooked: the share of the posterior near which there is no draw.
    """

    draws: int
    coordinates: Convergence
    likelihood: Convergence
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
        likelihood = log_likelihood[..., None] if varies else log_likelihood[..., None][..., :0]
        found = cls(z.shape[1], convergence_of(z), convergence_of(likelihood), np.nan, np.nan, ended, float(overlooked))
        if found.agree:
            return found
        both = np.concatenate([z, likelihood], axis=2)
        prior, search = (float(convergence_of(both[group]).rhat.max()) for group in (from_prior, ~from_prior))
        return replace(found, rhat_from_prior=prior, rhat_from_search=search)

    @property
    def agree(self) -> bool:
        """Whether all statistics are within their limits."""
        return bool(self.coordinates.mixed.all() and self.likelihood.mixed.all())

    @property
    def status(self) -> Status:
        """MIXED if the chains agree and next to nothing was overlooked; else why it ended early, or NOT_MIXED."""
        if self.agree and self.overlooked <= OVERLOOKED:
            return Status.MIXED
        return self.ended or Status.NOT_MIXED

    def worst(self, name: str) -> tuple[float, int]:
        """The worst R-hat or sample size and its coordinate, k for the log-likelihood; NaN is the worst of all."""
        values = np.concatenate([getattr(self.coordinates, name), getattr(self.likelihood, name)])
        badness = values if name == "rhat" else -values
        place = int(np.argmax(np.where(np.isnan(badness), np.inf, badness)))
        return float(values[place]), place
