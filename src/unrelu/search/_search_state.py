"""The state of a search: what it has found, and what it has made, for each observation of a batch."""

from __future__ import annotations

import numpy as np

from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.search.confidence import RestartCounts
from unrelu.thresholds import SAME_OPTIMUM

# Of objectives below the first fraction of |y|^2, single precision resolves no difference. Objectives count as equal
# where outputs are off by at most the second, in units of the precision.
_ZERO, _UNITS = 1e-12, 20


class SearchState:
    """The state of a search of B observations.

    Attributes:
        z, f: the best codes, (B, k), in the precision of the last refinement, and their objectives, (B,).
        restarts, ends: where the restarts ended, (B, C, k), and their objectives, (B, C), infinite for restarts that
            failed or were not made.
        made, perturbations: the number of restarts, and of perturbations of each restart, (B,).
        rounds, steps: the number of finished rounds, and of steps of all descents, (B,).
        exact, refuted: whether the code is an exact fit, and the objectives of codes that proved to be none, (B,).
        perturbed, improved: whether the rest of the budget went to perturbations of the best restart, and whether they
            found a better code, (B,).
        probability: the confidence that the best code is the best of all, (B,).
        enough, rounding: objectives at which a descent may end, and below which objectives count as equal, (B,).
        status: how the search ended, (B,).

    Args:
        energy: |y|^2, (B,).
        k: the number of latent coordinates.
        rounds: the number of rounds that are skipped, (B,).
        precision: the unit of the precision in which objectives are computed.
    """

    def __init__(self, energy: Array, k: int, rounds: Integers, precision: float) -> None:
        n = len(energy)
        self.z, self.f, self.refuted = np.full((n, k), np.nan), np.full(n, np.inf), np.full(n, np.inf)
        self.restarts, self.ends = np.empty((n, 0, k)), np.empty((n, 0))
        self.made, self.perturbations, self.steps = (np.zeros(n, dtype=np.int64) for _ in range(3))
        self.exact, self.perturbed, self.improved = (np.zeros(n, dtype=bool) for _ in range(3))
        self.rounds, self.probability = rounds.copy(), np.zeros(n)
        self.enough, self.rounding = _ZERO * energy, (_UNITS * precision) ** 2 * energy
        self.status = np.full(n, Status.FOUND_ONCE, dtype=object)

    def accept(self, observations: Index, z: Array, f: Array) -> None:
        """Keep those codes (b, k) that are lower than the best ones."""
        lower = f < self.f[observations]
        self._forget_confidence(observations, f)
        self.z[observations[lower]], self.f[observations[lower]] = z[lower], f[lower]

    def replace_best(self, observations: Index, z: Array, f: Array) -> None:
        """Replace the best codes by codes (b, k) reached from them, also as the ends of the restarts of these."""
        ended_there = self.ends[observations] == self.f[observations, None]  # none if the code came from z0 or a layer
        for i, restart in zip(*np.nonzero(ended_there), strict=True):
            self.ends[observations[i], restart], self.restarts[observations[i], restart] = f[i], z[i]
        self._forget_confidence(observations, f)
        self.z[observations], self.f[observations] = z, f

    def _forget_confidence(self, observations: Index, f: Array) -> None:
        """Forget the confidence of worse codes: it does not hold for better ones should the search end now."""
        self.probability[observations[f < (1 - SAME_OPTIMUM) * self.f[observations]]] = 0.0

    def reserve(self, restarts: int) -> None:
        """Make room for the ends of so many restarts."""
        more = max(0, restarts - self.ends.shape[1])
        self.ends = np.pad(self.ends, ((0, 0), (0, more)), constant_values=np.inf)
        self.restarts = np.pad(self.restarts, ((0, 0), (0, more), (0, 0)), constant_values=np.nan)

    def record(self, observations: Index, some: slice, z: Array, f: Array) -> None:
        """Record where some restarts ended, (b, c, k), and their objectives, (b, c); keep what is lower."""
        self.restarts[observations, some], self.ends[observations, some] = z, f
        self.accept(observations, z[np.arange(len(observations)), f.argmin(axis=1)], f.min(axis=1))

    def count_restarts(self) -> RestartCounts:
        """How many restarts of every observation ended in the best and the second best optimum."""
        return RestartCounts.of(self.ends, self.f, self.rounding, self.made)

    def finish(self, observations: Index | Flags, status: Status) -> None:
        """Say how the search of some observations ended."""
        self.status[observations] = status

    def other_optima(self, observations: Index, most: int) -> list[Array]:
        """The codes of at most so many further optima that restarts found, best first, (b, k) each.

        Observations with fewer optima repeat their best code.
        """
        order = np.argsort(self.ends[observations], axis=1)
        ends = np.take_along_axis(self.ends[observations], order, axis=1)
        new = np.isfinite(ends[:, 1:]) & (ends[:, 1:] > (1 + SAME_OPTIMUM) * ends[:, :-1])
        which = 1 + np.argsort(~new, axis=1, kind="stable")[:, :most]
        which = np.where(np.take_along_axis(new, which - 1, axis=1), which, 0)
        found = max(1, int((which > 0).sum(axis=1).max(initial=1)))
        return [self.restarts[observations, order[np.arange(len(order)), i]] for i in which.T[:found]]
