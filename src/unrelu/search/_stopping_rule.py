"""When a search stops: what it spends on an observation, when an observation is finished, and why.

A search goes on in rounds (:data:`ROUNDS`), each with more restarts or more perturbations of them. An observation is
finished (:class:`StoppingRule`) when

1. its code fits exactly, or
2. its confidence is as high as was asked for, or
3. no further round is affordable: the rounds that the user stated are made; or, where none are stated, the next round
   would exceed the budget of the :class:`Schedule` in time or rounds, or more restarts would hardly make it sure.

When all are finished, those whose residual stands out from the noise level of the batch come back, as long as a round
is affordable. What the rounds leave of the budget goes to perturbations of the best restart. A time limit or the
callback ends the whole search (:class:`~unrelu.local_search.halting.Watch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.runtime.array_types import Array, Flags

Counts = npt.NDArray[np.int64]

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
    restarts, perturbations = ROUNDS[min(max(rounds, 1), len(ROUNDS)) - 1]
    return restarts + _FURTHER * max(0, rounds - len(ROUNDS)), perturbations


def _descents(rounds: Counts) -> Counts:
    """Descents of observations after so many rounds, at least one, (b,)."""
    return np.array([restarts * (1 + each) for restarts, each in map(effort, rounds.tolist())], dtype=np.int64)


@dataclass(frozen=True)
class Schedule:
    """What a search with descents of one kind may spend on an observation.

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
class StoppingRule:
    """Decides which observations of a search go on.

    Attributes:
        schedule: of its descents.
        confidence: that ends the search of an observation.
        rounds: at most, if the user has stated them.
    """

    schedule: Schedule
    confidence: float = 1.0
    rounds: int | None = None

    def begin(self, noiseless: Flags) -> Counts:
        """Rounds that observations (b,) are taken to have been through before the first."""
        return np.where(noiseless | (self.rounds is not None), 0, self.schedule.first - 1)

    @property
    def quick(self) -> bool:
        """Whether fewer rounds are stated than a search begins with."""
        return self.rounds is not None and self.rounds < self.schedule.first

    def finished(self, spent: Spent) -> Flags:
        """Which observations have what was asked for, (b,): an exact fit, or the confidence."""
        return np.asarray(spent.exact | (spent.confidence >= self.confidence))

    def affordable(self, spent: Spent) -> Flags:
        """For which observations there may be a further round, (b,); at least the first is made."""
        if self.rounds is not None:
            return np.asarray(spent.rounds < self.rounds)
        plan = self.schedule
        growth = _descents(spent.rounds + 1) / _descents(spent.rounds)
        within = spent.microseconds * growth <= self._budget(spent)
        within &= (spent.rounds < plan.hopeless) | (spent.confidence >= _HOPEFUL)
        within &= spent.rounds < plan.last + plan.noiseless * spent.noiseless
        return np.asarray((spent.rounds < plan.first + (spent.confidence < plan.doubtful)) | within)

    def next(self, spent: Spent, outlying: Callable[[], Flags]) -> Flags:
        """Which observations go on, (b,); when all are finished, those that stand out from the batch."""
        affordable = self.affordable(spent)
        going = affordable & ~self.finished(spent)
        return going if going.any() else affordable & outlying()

    def perturbations(self, spent: Spent) -> Counts:
        """How many further perturbations of the best restart the budget leaves, (b,), a power of two; 0 without one."""
        if not np.isfinite(self.schedule.microseconds):
            return np.zeros(len(spent.rounds), dtype=np.int64)
        each = np.maximum(spent.microseconds / _descents(spent.rounds), _LEAST_MICROSECONDS)
        left = (self._budget(spent) - spent.microseconds) / each
        return np.where(left >= 1, 2 ** np.floor(np.log2(np.maximum(left, 1))), 0).astype(np.int64)

    def _budget(self, spent: Spent) -> Array:
        return self.schedule.microseconds * np.where(spent.noiseless, self.schedule.noiseless_times, 1.0)
