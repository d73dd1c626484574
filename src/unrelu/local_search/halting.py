"""Steps of many codes at once, where each code stops on its own, and the checks of time and callback between steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from unrelu.local_search.squared_error import SquaredError
from unrelu.result import Status
from unrelu.runtime.run_control import Control, Progress, now

# Called between steps; returns whether to stop.
Stop = Callable[[], bool]
# The statuses of a run that was stopped from outside.
HALTS = (Status.TIME_LIMIT, Status.STOPPED)


class Watch:
    """A check of the time limit and the callback, called before every step; it returns whether to stop.

    A step is not begun if it would end beyond the time limit, assuming that it takes as long as the longest so far.

    Attributes:
        reason: why to stop, TIME_LIMIT or STOPPED; None while there is no reason.
    """

    def __init__(self, control: Control, progress: Callable[[], Progress]) -> None:
        self._control, self._progress = control, progress
        self._begin = self._last = now()
        self._longest = 0.0
        self.reason: Status | None = None

    def __call__(self) -> bool:
        """Check whether to stop."""
        at = now()
        self._longest, self._last = max(self._longest, at - self._last), at
        if self.reason is not None:
            return True
        if self._control.expired() or self._control.remaining() < self._longest:
            self.reason = Status.TIME_LIMIT
        elif self._control.stopped(self._progress):
            self.reason = Status.STOPPED
        return self.reason is not None

    @property
    def elapsed(self) -> float:
        """The seconds since the watch was made."""
        return now() - self._begin

    def rest(self) -> None:
        """Do not count the time since the last call as a step."""
        self._last = now()


class Steps(ABC):
    """A batch of codes that descend an objective, until each is finished.

    On a GPU, the host waits for results only once a step, to know which codes are active.

    Attributes:
        objective: f.
        z: codes, (b, k).
        observations: the observation of each code, (b,).
        f: values, (b,).
        enough: values of f below which a code is finished, (b,).
        done: whether each code is finished, (b,).
        steps: steps tried for each code, accepted or not, (b,).
    """

    def __init__(self, objective: SquaredError, z: Tensor, observations: Tensor, f: Tensor, enough: Tensor) -> None:
        self.objective, self.z, self.observations, self.f, self.enough = objective, z.clone(), observations, f, enough
        self.steps, self.done = torch.zeros(len(z), dtype=torch.int64, device=z.device), f <= enough

    def run(self, steps: int, stop: Stop | None = None) -> Self:
        """Make at most ``steps`` steps of every code; ``stop`` is asked before each."""
        for _ in range(steps):
            active = torch.nonzero(~self.done)[:, 0]
            if not len(active) or (stop is not None and stop()):
                break
            self.step(active)
        return self

    @abstractmethod
    def step(self, at: Tensor) -> None:
        """Make one trial step of the codes with the indices ``at``, which are not finished."""
