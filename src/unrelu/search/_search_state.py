"""The state of a search: the best code found for each observation, and where its restarts ended."""

from __future__ import annotations

import numpy as np

from unrelu.problem import Problem
from unrelu.result import Ending
from unrelu.runtime.array_types import Array, Index, Integers
from unrelu.search.confidence import RestartCounts
from unrelu.thresholds import SAME_OPTIMUM

# Single precision resolves no difference between objectives below _ZERO |y|^2. Objectives count as equal if outputs
# are off by at most _UNITS units of the precision.
_ZERO, _UNITS = 1e-12, 20


class SearchState:
    """The state of a search of B observations.

    Attributes:
        z, f: the best codes, (B, k), in the precision of the last refinement, and their objectives, (B,).
        restarts, ends: the codes at which restarts ended, (B, C, k), and their objectives, (B, C), which are infinite
            for restarts that failed or were not made.
        made, perturbations: the number of restarts, and the number of perturbations of each restart, (B,).
        rounds, steps: the number of finished rounds, and the number of steps of all descents, (B,).
        exact, refuted: whether the code is an exact fit, and the objective of a code that proved not to be one, (B,).
        perturbed, improved: whether the rest of the budget went to perturbations of the best restart, and whether they
            found a better code, (B,).
        probability: the confidence that the best code is the best of all, (B,).
        enough, rounding: the objective at which a descent may end, and the one below which all count as equal, (B,).
        status: how the search ended, (B,).
        further: observations, (n,), and ends, (n, k), of descents from random starts that the confidence ignores.

    The search begins after ``skipped`` rounds, (B,). Objectives are computed in a precision with the unit ``eps``.
    """

    def __init__(self, problem: Problem, skipped: Integers, eps: float) -> None:
        n, k, energy = problem.size, problem.network.latent_dim, problem.energy
        self.z, self.f, self.refuted = np.full((n, k), np.nan), np.full(n, np.inf), np.full(n, np.inf)
        self.restarts, self.ends = np.empty((n, 0, k)), np.empty((n, 0))
        self.made, self.perturbations, self.steps = (np.zeros(n, dtype=np.int64) for _ in range(3))
        self.exact, self.perturbed, self.improved = (np.zeros(n, dtype=bool) for _ in range(3))
        self.rounds, self.probability = skipped.copy(), np.zeros(n)
        self.enough, self.rounding = _ZERO * energy, (_UNITS * eps) ** 2 * energy
        self.status = np.full(n, Ending.FOUND_ONCE, dtype=object)
        self.further: list[tuple[Index, Array]] = []

    def accept(self, observations: Index, z: Array, f: Array) -> None:
        """Accept codes (b, k) with lower objectives than the best codes. An exact fit stays: it is more precise."""
        lower = (f < self.f[observations]) & ~self.exact[observations]
        self._set_best(observations[lower], z[lower], f[lower])

    def replace_best(self, observations: Index, z: Array, f: Array) -> None:
        """Replace the best codes, and the ends of their restarts, by codes (b, k) reached from them."""
        # No restart ended there if the code came from z0 or a layer.
        i, restart = np.nonzero(self.ends[observations] == self.f[observations, None])
        self.ends[observations[i], restart], self.restarts[observations[i], restart] = f[i], z[i]
        self._set_best(observations, z, f)

    def _set_best(self, observations: Index, z: Array, f: Array) -> None:
        """Set the best codes. Reset the confidence where a code is better, as it was computed for the worse code."""
        self.probability[observations[f < (1 - SAME_OPTIMUM) * self.f[observations]]] = 0.0
        self.z[observations], self.f[observations] = z, f

    def record(self, observations: Index, some: slice, z: Array, f: Array) -> None:
        """Record the ends of some restarts, (b, c, k), and their objectives, (b, c); accept lower codes as the best."""
        each = np.repeat(observations, f.shape[1])
        old = self.restarts[observations, some].reshape(len(each), -1), self.ends[observations, some].ravel()
        self.leave(each, *old, f.ravel())
        self.restarts[observations, some], self.ends[observations, some] = z, f
        self.accept(observations, z[np.arange(len(observations)), f.argmin(axis=1)], f.min(axis=1))

    def leave(self, observations: Index, z: Array, old: Array, new: Array) -> None:
        """Keep the ends z (n, k) of restarts whose objectives fell from ``old`` to ``new``, (n,), by perturbations."""
        left = (self.ends[observations] == old[:, None]).any(axis=1) & (new < (1 - SAME_OPTIMUM) * old)
        left &= np.isfinite(old)
        self.further.append((observations[left], z[left]))

    def found(self) -> list[Array]:
        """Return the ends of each observation's descents from random starts, (c, k) each."""
        rows, restart = np.nonzero(np.isfinite(self.ends))
        pairs = [(rows, self.restarts[rows, restart]), *self.further]
        each, codes = map(np.concatenate, zip(*pairs, strict=True))
        order = np.argsort(each, kind="stable")
        return np.split(codes[order], np.searchsorted(each[order], np.arange(1, len(self.f))))[: len(self.f)]

    def count_restarts(self) -> RestartCounts:
        """Count the restarts of every observation that ended in the best and in the second best optimum."""
        return RestartCounts.of(self.ends, self.f, self.rounding, self.made)

    def other_optima(self, observations: Index, most: int) -> list[Array]:
        """Return the codes of at most ``most`` other optima, best first, (b, k) each; the best code fills gaps."""
        codes, count = np.repeat(self.z[None, observations], most, axis=0), 0
        for place, i in enumerate(observations):
            order = np.argsort(self.ends[i])
            ends = self.ends[i, order]
            new = order[1:][np.isfinite(ends[1:]) & (ends[1:] > (1 + SAME_OPTIMUM) * ends[:-1])][:most]
            codes[: len(new), place], count = self.restarts[i, new], max(count, len(new))
        return [*codes[:count]]
