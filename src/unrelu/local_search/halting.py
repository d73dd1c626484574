"""Asking between two steps whether to go on: the time limit and the callback."""

from __future__ import annotations

import time
from collections.abc import Callable

from unrelu.problem import Control, Progress
from unrelu.result import Status

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
