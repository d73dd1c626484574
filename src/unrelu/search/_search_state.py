"""The state of a search: what it has found, and what it has made, for each observation of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.search.confidence import SAME, RestartCounts

# Objectives below the first fraction of |y|^2 are differences that single precision does not resolve. Objectives count
# as equal below the second one: outputs are off by twenty units of the precision.
_ZERO, _UNITS = 1e-12, 20


@dataclass(eq=False)
class SearchState:
    """The state of a search of B observations.

    Attributes:
        z, f: the best codes, (B, k), in the precision of the last refinement, and their objectives, (B,).
        restarts, ends: where the restarts ended, (B, C, k), and their objectives, (B, C), infinite for restarts that
            failed or were not made.
        made, perturbations: the number of restarts, and of perturbations of each restart, (B,).
        rounds, steps: the number of finished rounds, and of steps of all descents, (B,).
        exact: whether the code is an exact fit, (B,).
        refuted: objectives of codes that proved to be no exact fits, (B,).
        by_layer: whether a code of ``exact`` was tried, (B,).
        perturbed, improved: whether the rest of the budget went to perturbations of the best restart, and whether they
            found a better code, (B,).
        probability: the confidence that the best code is the best of all, (B,).
        enough: objectives at which a descent may end, (B,).
        rounding: objectives that are rounding in the search's precision, (B,).
        status: how the search ended, (B,).
    """

    z: Array
    f: Array
    restarts: Array
    ends: Array
    made: Integers
    perturbations: Integers
    rounds: Integers
    steps: Integers
    exact: Flags
    refuted: Array
    by_layer: Flags
    perturbed: Flags
    improved: Flags
    probability: Array
    enough: Array
    rounding: Array
    status: npt.NDArray[np.object_]

    @classmethod
    def begin(cls, energy: Array, k: int, rounds: Integers, precision: float) -> SearchState:
        """Nothing is found yet.

        Args:
            energy: |y|^2, (B,).
            k: the number of latent coordinates.
            rounds: the number of rounds that are skipped, (B,).
            precision: the unit of the precision in which objectives are computed.
        """
        n = len(energy)
        made, perturbations, steps = (np.zeros(n, dtype=np.int64) for _ in range(3))
        exact, by_layer, perturbed, improved = (np.zeros(n, dtype=bool) for _ in range(4))
        return cls(
            z=np.full((n, k), np.nan), f=np.full(n, np.inf), restarts=np.empty((n, 0, k)), ends=np.empty((n, 0)),
            made=made, perturbations=perturbations, rounds=rounds.copy(), steps=steps, exact=exact,
            refuted=np.full(n, np.inf), by_layer=by_layer, perturbed=perturbed, improved=improved,
            probability=np.zeros(n), enough=_ZERO * energy, rounding=(_UNITS * precision) ** 2 * energy,
            status=np.full(n, Status.FOUND_ONCE, dtype=object),
        )  # fmt: skip

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
        self.probability[observations[f < (1 - SAME) * self.f[observations]]] = 0.0

    def finish(self, observations: Index | Flags, status: Status) -> None:
        """Say how the search of some observations ended."""
        self.status[observations] = status

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

    def in_order(self, observations: Index) -> tuple[Array, Array]:
        """The ends of restarts from the best to the worst, (b, C, k), and their objectives, (b, C)."""
        order = np.argsort(self.ends[observations], axis=1)
        return self.restarts[observations[:, None], order], np.take_along_axis(self.ends[observations], order, axis=1)

    def other_optima(self, observations: Index, most: int) -> list[Array]:
        """The codes of at most so many further optima that restarts found, best first, (b, k) each.

        Observations with fewer optima repeat their best code.
        """
        codes, ends = self.in_order(observations)
        new = np.isfinite(ends[:, 1:]) & (ends[:, 1:] > (1 + SAME) * ends[:, :-1])
        which = 1 + np.argsort(~new, axis=1, kind="stable")[:, :most]
        which = np.where(np.take_along_axis(new, which - 1, axis=1), which, 0)
        found = max(1, int((which > 0).sum(axis=1).max(initial=1)))
        return [codes[np.arange(len(codes)), i] for i in which.T[:found]]
