"""What a search spends: the rounds of restarts and perturbations, and when no further round is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# So many restarts, and perturbations of each, after each round. Descents double or triple from round to round. With
# equally many descents, few long restarts find as much as many short ones; many say more of what was missed. Beyond the
# last, a round brings so many restarts more.
ROUNDS = (
    (1, 0), (2, 0), (4, 0), (6, 0), (6, 2), (6, 8), (6, 32), (12, 32), (12, 64), (12, 128), (12, 256),
)  # fmt: skip
_FURTHER = 6

# An observation with less confidence is not made sure by more restarts.
_HOPEFUL = 0.8
# A descent takes so many microseconds at least.
_LEAST_MICROSECONDS = 1.0


def effort(rounds: int) -> tuple[int, int]:
    """Restarts, and perturbations of each, after so many rounds, at least one."""
    restarts, perturbations = ROUNDS[min(rounds, len(ROUNDS)) - 1]
    return restarts + _FURTHER * max(0, rounds - len(ROUNDS)), perturbations


class Spent(NamedTuple):
    """What a search has spent on observations, and what it has come to, (b,) each.

    Attributes:
        rounds: that they have been through.
        microseconds: of the processor, by the number of steps; 0 where it is not told.
        exact: whether the code fits exactly.
        noiseless: whether there is an exact fit to be found.
        confidence: that the code is the best.
    """

    rounds: Counts
    microseconds: Array
    exact: Flags
    noiseless: Flags
    confidence: Array


@dataclass(frozen=True)
class Schedule:
    """When a search goes on.

    Attributes:
        first: the round that observations with visible noise begin with. One restart may fit exactly; with noise, the
            first few are made together.
        last: rounds at most, where their number is not stated.
        doubtful: an observation with less confidence after the first round is given one more, whatever it costs.
        noiseless: rounds more where there is an exact fit to be found, and was not.
        hopeless: once there are so many rounds, more restarts are made only where a confidence of 0.8 was reached.
        microseconds: that a search may spend on an observation. What the rounds leave of it goes to the best restart.
        noiseless_times: how many times as much where there is an exact fit to be found.
        learned: whether the confidence is learned by simulation, which takes 50 searches.
    """

    first: int = 1
    last: int = 2
    doubtful: float = 0.0
    noiseless: int = 2
    hopeless: int = len(ROUNDS)
    microseconds: float = np.inf
    noiseless_times: float = 3.0
    learned: bool = False

    def begin(self, noiseless: Flags, stated: int | None) -> Counts:
        """Rounds that observations (b,) are taken to have been through before the first."""
        return np.where(noiseless | (stated is not None), 0, self.first - 1)

    def next(self, spent: Spent, sure: float, stated: int | None) -> Flags:
        """Which observations go on, (b,): those that are not sure, as long as the next round is affordable.

        Args:
            spent: on each.
            sure: the confidence that ends a search.
            stated: rounds at most, if the user has stated them.
        """
        return ~(spent.exact | (spent.confidence >= sure)) & self.affordable(spent, stated)

    def affordable(self, spent: Spent, stated: int | None) -> Flags:
        """For which observations there may be a further round, (b,); at least the first is made."""
        if stated is not None:
            return np.asarray(spent.rounds < stated)
        most = self.last + self.noiseless * spent.noiseless
        within = spent.microseconds * self._growth(spent.rounds) <= self._budget(spent)
        within &= (spent.rounds < self.hopeless) | (spent.confidence >= _HOPEFUL)
        least = self.first + (spent.confidence < self.doubtful)
        return np.asarray((spent.rounds < least) | ((spent.rounds < most) & within))

    def perturbations(self, spent: Spent) -> Counts:
        """How many further perturbations of the best restart the budget leaves, (b,), a power of two; 0 without one."""
        if not np.isfinite(self.microseconds):
            return np.zeros(len(spent.rounds), dtype=np.int64)
        each = spent.microseconds / [np.prod(np.add(effort(max(r, 1)), (0, 1))) for r in spent.rounds.tolist()]
        left = (self._budget(spent) - spent.microseconds) / np.maximum(each, _LEAST_MICROSECONDS)
        return np.where(left >= 1, 2 ** np.floor(np.log2(np.maximum(left, 1))), 0).astype(np.int64)

    def _budget(self, spent: Spent) -> Array:
        return self.microseconds * np.where(spent.noiseless, self.noiseless_times, 1.0)

    @staticmethod
    def _growth(rounds: Counts) -> Array:
        """How many times as many descents there are after one more round, (b,)."""

        def descents(count: int) -> int:
            restarts, perturbations = effort(count)
            return restarts * (1 + perturbations)

        each = {r: descents(r + 1) / descents(max(r, 1)) for r in np.unique(rounds).tolist()}
        return np.array([each[r] for r in rounds.tolist()])


# Numbers that were tuned on the decoders of ``unrelu_studies.kit.trained_families.TUNE`` and the generators to tune on
# of ``unrelu benchmark hard``: the time in which the best codes are found, and no more than half of the observations of
# the hardest of them are left unsure.
COMPILED = Schedule(first=4, last=len(ROUNDS), hopeless=7, microseconds=4e4, learned=True)
# One descent of a large network costs as much as all restarts of a small one. Two that agree have a confidence of 0.62;
# where they do not, there are four. Small ones, convolutional for the most part, go on.
BATCH = Schedule(first=2, last=6, doubtful=0.6, microseconds=1.1e4, noiseless_times=10.0)
# Measurements that are not linear have optima of their own, as have counts: more restarts, and perturbations.
NONLINEAR, COUNTS = Schedule(first=3, last=5), Schedule(first=3, last=6)
# A restart takes half a second: the first few say the most.
LIMITED_MEMORY = Schedule(first=3, last=3, noiseless=1)
