"""When a search stops: the budget of an observation, and when an observation is finished.

A search goes on in rounds (:data:`~unrelu.search._schedules.ROUNDS`), each with more restarts or more perturbations of
them. An observation is finished (:class:`StoppingRule`) when

1. its code fits exactly, or
2. its confidence is as high as was asked for, or
3. the user's number of rounds is reached, or
4. no number is stated, and the next round would exceed the budget of the :class:`~unrelu.search._schedules.Schedule` in
   time or rounds, or more restarts would hardly raise the confidence.

When all are finished, those whose residual stands out from the noise level of the batch are searched further, up to
3 and 4. The rest of the budget goes to perturbations of the best restart. A time limit or the callback ends
the whole search (:class:`~unrelu.local_search.halting.Watch`). Simulated observations are searched by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unrelu.runtime.array_types import Array, Flags, Integers
from unrelu.search._schedules import Schedule, effort

# Below this confidence, more restarts do not help.
_HOPEFUL = 0.8


def _descents(rounds: Integers) -> Integers:
    """The number of descents after ``rounds``, at least one, (b,)."""
    return np.array([restarts * (1 + each) for restarts, each in map(effort, rounds.tolist())], dtype=np.int64)


class BudgetUsed(NamedTuple):
    """What a search has used of its budget on observations, and what it has reached, (b,) each.

    Attributes:
        rounds: the number of finished rounds.
        microseconds: processor time, estimated from the number of steps.
        exact: whether the code fits exactly.
        noiseless: whether an exact fit exists if the generator made the observation.
        misfit: whether stated noise does not explain the code, and restarts end far apart. A far better code then
            exists if the generator made the observation.
        confidence: the probability that the code is the best.
        unsure: whether this is low although it was learned, so that a longer search may find a better code.
    """

    rounds: Integers
    microseconds: Array
    exact: Flags
    noiseless: Flags
    misfit: Flags
    confidence: Array
    unsure: Flags


@dataclass(frozen=True)
class StoppingRule:
    """Decides which observations are searched further.

    Attributes:
        schedule: the schedule of the descents.
        confidence: the confidence that ends the search of an observation.
        rounds: the largest number of rounds, if the user states one.
    """

    schedule: Schedule
    confidence: float = 1.0
    rounds: int | None = None

    def begin(self, noiseless: Flags) -> Integers:
        """The number of rounds that observations (b,) skip at the beginning."""
        return np.where(noiseless | (self.rounds is not None), 0, self.schedule.first - 1)

    @property
    def short(self) -> bool:
        """Whether the user states fewer rounds than a search begins with."""
        return self.rounds is not None and self.rounds < self.schedule.first

    def finished(self, used: BudgetUsed) -> Flags:
        """Which observations have an exact fit, or enough confidence, (b,)."""
        return np.asarray(used.exact | (used.confidence >= self.confidence))

    def affordable(self, used: BudgetUsed) -> Flags:
        """Which observations may have a further round, (b,); every observation has the first."""
        if self.rounds is not None:
            return np.asarray(used.rounds < self.rounds)
        plan = self.schedule
        growth = _descents(used.rounds + 1) / _descents(used.rounds)
        within = used.microseconds * growth <= self._budget(used)
        within &= (used.rounds < plan.hopeless) | self._longer(used) | (used.confidence >= _HOPEFUL)
        within &= used.rounds < plan.last + plan.unexplained * (used.noiseless | used.misfit)
        return np.asarray((used.rounds < plan.first) | within)

    def next(self, used: BudgetUsed, outlying: Callable[[], Flags]) -> Flags:
        """Which observations are searched further, (b,); when all are finished, those that stand out from the batch."""
        affordable = self.affordable(used)
        going = affordable & ~self.finished(used)
        return going if going.any() else affordable & outlying()

    def perturbations(self, used: BudgetUsed) -> Integers:
        """The number of perturbations of the best restart that the budget allows, (b,), a power of two or 0."""
        if not np.isfinite(self.schedule.microseconds):
            return np.zeros(len(used.rounds), dtype=np.int64)
        each = np.maximum(used.microseconds / _descents(used.rounds), 1.0)
        left = (self._budget(used) - used.microseconds) / each
        return np.where(left >= 1, 2 ** np.floor(np.log2(np.maximum(left, 1))), 0).astype(np.int64)

    def _budget(self, used: BudgetUsed) -> Array:
        """The microseconds that each observation may use, (b,)."""
        return np.asarray(self.schedule.microseconds * np.where(self._longer(used), self.schedule.more, 1.0))

    @staticmethod
    def _longer(used: BudgetUsed) -> Flags:
        """Which observations are worth a longer search, (b,)."""
        return np.asarray(used.noiseless | used.misfit | used.unsure)
