"""The stopping rule of a search: the budget of an observation, and when an observation is finished.

A search goes on in rounds (:data:`~unrelu.search._schedules.ROUNDS`), each with more restarts or more perturbations of
them. An observation is finished (:class:`StoppingRule`) when

1. its code fits exactly, or
2. its confidence is as high as requested, or
3. the user's number of rounds is reached, or
4. no number is stated, and the next round would exceed the budget of the :class:`~unrelu.search._schedules.Schedule` in
   time or rounds, or more restarts would hardly raise the confidence.

When all observations are finished, the search goes on for outliers, whose residuals stand out from the noise level of
the batch, until 3 or 4 holds. The rest of the budget goes to perturbations of the best restart. A time limit or the
callback ends the whole search (:class:`~unrelu.local_search.halting.Watch`). Simulated observations follow this rule.
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
    """Return the number of descents after each number of ``rounds``, which is at least one, (b,)."""
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
        unsure: whether the confidence is low although it was learned. A longer search may then find a better code.
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
    """The stopping rule of a search, which selects the observations to search further.

    Attributes:
        schedule: the schedule of the descents.
        confidence: the confidence that ends the search of an observation.
        rounds: the largest number of rounds, if the user states one.
    """

    schedule: Schedule
    confidence: float = 1.0
    rounds: int | None = None

    def begin(self, noiseless: Flags) -> Integers:
        """Return the number of rounds that observations (b,) skip at the beginning."""
        return np.where(noiseless | (self.rounds is not None), 0, self.schedule.first - 1)

    @property
    def short(self) -> bool:
        """Whether the user states fewer rounds than a search begins with."""
        return self.rounds is not None and self.rounds < self.schedule.first

    def finished(self, used: BudgetUsed) -> Flags:
        """Check which observations have an exact fit, or enough confidence, (b,)."""
        return np.asarray(used.exact | (used.confidence >= self.confidence))

    def affordable(self, used: BudgetUsed) -> Flags:
        """Check which observations may have a further round, (b,); every observation may have the first."""
        if self.rounds is not None:
            return np.asarray(used.rounds < self.rounds)
        plan = self.schedule
        growth = _descents(used.rounds + 1) / _descents(used.rounds)
        within = used.microseconds * growth <= self._budget(used)
        within &= (used.rounds < plan.hopeless) | self._longer(used) | (used.confidence >= _HOPEFUL)
        within &= used.rounds < plan.last + plan.unexplained * (used.noiseless | used.misfit)
        return np.asarray((used.rounds < plan.first) | within)

    def next(self, used: BudgetUsed, outlying: Callable[[], Flags]) -> Flags:
        """Select the observations to search further, (b,); once all are finished, the outliers of the batch."""
        affordable = self.affordable(used)
        going = affordable & ~self.finished(used)
        return going if going.any() else affordable & outlying()

    def perturbations(self, used: BudgetUsed) -> Integers:
        """Return how many perturbations of the best restart the budget allows, (b,): a power of two or 0."""
        if not np.isfinite(self.schedule.microseconds):
            return np.zeros(len(used.rounds), dtype=np.int64)
        each = np.maximum(used.microseconds / _descents(used.rounds), 1.0)
        left = (self._budget(used) - used.microseconds) / each
        return np.where(left >= 1, 2 ** np.floor(np.log2(np.maximum(left, 1))), 0).astype(np.int64)

    def _budget(self, used: BudgetUsed) -> Array:
        """Return the microseconds that each observation may use, (b,)."""
        return np.asarray(self.schedule.microseconds * np.where(self._longer(used), self.schedule.more, 1.0))

    @staticmethod
    def _longer(used: BudgetUsed) -> Flags:
        """Check which observations are worth a longer search, (b,)."""
        return np.asarray(used.noiseless | used.misfit | used.unsure)
