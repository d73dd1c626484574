"""When a search stops: the budget of an observation, and when an observation is finished.

A search goes on in rounds (:data:`ROUNDS`), each with more restarts or more perturbations of them. An observation is
finished (:class:`StoppingRule`) when

1. its code fits exactly, or
2. its confidence is as high as was asked for, or
3. the user's number of rounds is reached, or
4. no number is stated, and the next round would exceed the budget of the :class:`Schedule` in time or rounds, or more
   restarts would hardly raise the confidence.

When all are finished, those whose residual stands out from the noise level of the batch are searched further, up to
3 and 4. The rest of the budget goes to perturbations of the best restart. A time limit or the callback ends
the whole search (:class:`~unrelu.local_search.halting.Watch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from unrelu.runtime.array_types import Array, Flags, Integers

# The number of restarts, and of perturbations of each, after each round. For the same number of descents, few long
# restarts find as much as many short ones, but many say more about what was missed. Each round beyond the last adds
# _FURTHER restarts.
ROUNDS = (
    (1, 0), (2, 0), (4, 0), (6, 0), (6, 2), (6, 8), (6, 32), (12, 32), (12, 64), (12, 128), (12, 256),
)  # fmt: skip
_FURTHER = 6

# Below this confidence, more restarts do not help.
_HOPEFUL = 0.8
# The least time of a descent.
_LEAST_MICROSECONDS = 1.0


def effort(rounds: int) -> tuple[int, int]:
    """The number of restarts, and of perturbations of each, after ``rounds``, at least one."""
    restarts, perturbations = ROUNDS[min(max(rounds, 1), len(ROUNDS)) - 1]
    return restarts + _FURTHER * max(0, rounds - len(ROUNDS)), perturbations


def _descents(rounds: Integers) -> Integers:
    """The number of descents after ``rounds``, at least one, (b,)."""
    return np.array([restarts * (1 + each) for restarts, each in map(effort, rounds.tolist())], dtype=np.int64)


@dataclass(frozen=True)
class Schedule:
    """The budget of an observation in a search with descents of one kind.

    Attributes:
        first: the round that observations with visible noise begin with. Without noise, one restart may fit exactly.
        last: the largest number of rounds, if the user states none.
        unexplained: the number of further rounds while a far better code may exist.
        hopeless: after this number of rounds, further ones are made only at a confidence of at least 0.8.
        microseconds: the budget of an observation. The rest after all rounds is spent on the best restart.
        noiseless_times, misfit_times: the factors of that budget while an exact fit may exist, and while stated noise
            does not explain the code.
        simulated: the number of simulated observations from which the confidence is learned.
        once: whether each of them is restarted once, and not searched as a user's observation and one round further.
    """

    first: int = 1
    last: int = 2
    unexplained: int = 2
    hopeless: int = len(ROUNDS)
    microseconds: float = np.inf
    noiseless_times: float = 3.0
    misfit_times: float = 1.0
    simulated: int = 32
    once: bool = True


# Tuned on the decoders of ``unrelu_studies.kit.trained_families.TUNE`` and the generators to tune on of ``unrelu
# benchmark hard``: the best codes are found within the budget, and at most half of the observations of the hardest
# generators are left without confidence. On ill-conditioned emulators an exact fit takes up to 0.4 seconds.
COMPILED = Schedule(
    first=4, last=len(ROUNDS), hopeless=7, microseconds=4e4, noiseless_times=10.0, simulated=48, once=False
)
# A descent may cost as much as all restarts of a small dense network. There are four restarts, the fewest that can have
# a confidence of 0.99 if they agree, and more where steps take little time, as on small convolutional networks.
# What a longer search of misfits is worth: docs/notes/search.md, "Opaque generators in units of their own".
BATCH = Schedule(first=3, last=6, microseconds=1.1e4, noiseless_times=10.0, misfit_times=10.0)
# Nonlinear measurements and counts add optima of their own, so these get more restarts, and perturbations.
NONLINEAR, COUNTS = Schedule(first=3, last=5), Schedule(first=3, last=6)
# A restart takes a tenth of a second and more, and the first few say the most. If the first restarts of all 32
# simulated observations end in their best optima, four that agree have a confidence of 0.99; if two miss, six have.
LIMITED_MEMORY = Schedule(first=3, last=4, unexplained=0)


class Spent(NamedTuple):
    """What a search has spent on observations, and what it has reached, (b,) each.

    Attributes:
        rounds: the number of finished rounds.
        microseconds: processor time, estimated from the number of steps; 0 if there is no estimate.
        exact: whether the code fits exactly.
        noiseless: whether an exact fit exists if the generator made the observation.
        misfit: whether stated noise does not explain the code. A better one then exists if the generator made the
            observation.
        confidence: the probability that the code is the best.
    """

    rounds: Integers
    microseconds: Array
    exact: Flags
    noiseless: Flags
    misfit: Flags
    confidence: Array


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
    def quick(self) -> bool:
        """Whether the user states fewer rounds than a search begins with."""
        return self.rounds is not None and self.rounds < self.schedule.first

    def finished(self, spent: Spent) -> Flags:
        """Which observations have an exact fit, or enough confidence, (b,)."""
        return np.asarray(spent.exact | (spent.confidence >= self.confidence))

    def affordable(self, spent: Spent) -> Flags:
        """Which observations may have a further round, (b,); every observation has the first."""
        if self.rounds is not None:
            return np.asarray(spent.rounds < self.rounds)
        plan = self.schedule
        growth = _descents(spent.rounds + 1) / _descents(spent.rounds)
        within = spent.microseconds * growth <= self._budget(spent)
        within &= (spent.rounds < plan.hopeless) | (spent.confidence >= _HOPEFUL)
        within &= spent.rounds < plan.last + plan.unexplained * (spent.noiseless | spent.misfit)
        return np.asarray((spent.rounds < plan.first) | within)

    def next(self, spent: Spent, outlying: Callable[[], Flags]) -> Flags:
        """Which observations are searched further, (b,); when all are finished, those that stand out from the batch."""
        affordable = self.affordable(spent)
        going = affordable & ~self.finished(spent)
        return going if going.any() else affordable & outlying()

    def perturbations(self, spent: Spent) -> Integers:
        """The number of perturbations of the best restart that the budget allows, (b,), a power of two or 0."""
        if not np.isfinite(self.schedule.microseconds):
            return np.zeros(len(spent.rounds), dtype=np.int64)
        each = np.maximum(spent.microseconds / _descents(spent.rounds), _LEAST_MICROSECONDS)
        left = (self._budget(spent) - spent.microseconds) / each
        return np.where(left >= 1, 2 ** np.floor(np.log2(np.maximum(left, 1))), 0).astype(np.int64)

    def _budget(self, spent: Spent) -> Array:
        plan = self.schedule
        times = np.where(spent.noiseless, plan.noiseless_times, np.where(spent.misfit, plan.misfit_times, 1.0))
        return np.asarray(plan.microseconds * times)
