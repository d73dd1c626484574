"""Steps of many codes at once, each of which stops on its own, and the question between two whether to go on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Control, Progress
from unrelu.result import Status

# Asked between two steps whether to stop.
Stop = Callable[[], bool]
# How a run ends that was asked to stop.
HALTS = (Status.TIME_LIMIT, Status.STOPPED)


class Watch:
    """Call it before every step; it answers whether to stop.

    A step that would end beyond the time limit, judged by the longest so far, is not begun.

    Attributes:
        reason: why it said stop, TIME_LIMIT or STOPPED; None as long as it did not.
    """

    def __init__(self, control: Control, progress: Callable[[], Progress]) -> None:
        self._control, self._progress = control, progress
        self._last = time.perf_counter()
        self._longest = 0.0
        self.reason: Status | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now
        if self.reason is not None:
            return True
        if self._control.expired() or self._control.remaining() < self._longest:
            self.reason = Status.TIME_LIMIT
        elif self._control.stopped(self._progress):
            self.reason = Status.STOPPED
        return self.reason is not None

    def rest(self) -> None:
        """What took place since the last call was no step."""
        self._last = time.perf_counter()


class Steps(ABC):
    """Codes on their way down an objective.

    Attributes:
        objective: f.
        z: codes, (b, k).
        observations: the observation that each code is for, (b,).
        f: values, (b,).
        enough: values of f below which a code is finished, (b,).
        active: the codes still at work.
        done: those that are not, (b,).
        steps: steps tried for each, accepted or not, (b,).
    """

    def __init__(self, objective: SquaredError, z: Tensor, observations: Tensor, f: Tensor, enough: Tensor) -> None:
        self.objective, self.z, self.observations, self.f, self.enough = objective, z.clone(), observations, f, enough
        self.steps = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self.done, self.active = f <= enough, torch.arange(0)
        self.retire(self.done)

    def run(self, steps: int, stop: Stop | None = None) -> Self:
        """Up to so many steps of every code; ``stop`` is asked before each."""
        for _ in range(steps):
            if not len(self.active) or (stop is not None and stop()):
                break
            self.step()
        return self

    @abstractmethod
    def step(self) -> None:
        """One trial step for every active code."""

    def retire(self, codes: Tensor) -> None:
        """Take no further step of some codes: their numbers, or a mask over all."""
        self.done[codes] = True
        self.active = torch.nonzero(~self.done)[:, 0]
