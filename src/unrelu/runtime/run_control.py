"""The limits of a run and its reports: clock, time limit, callback and progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from unrelu.errors import InputError, OptionError
from unrelu.runtime.argument_checks import real_number
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import flush_subnormals

# The time when the clock was stopped, if it stands still, and the seconds for which it stood still before. Other
# threads read both at once, so the clock never goes back.
_state: tuple[float | None, float] = (None, 0.0)


def now() -> float:
    """Return the seconds since an arbitrary origin, without those in which kernels were compiled."""
    stopped_at, stood = _state
    return (time.perf_counter() if stopped_at is None else stopped_at) - stood


@contextmanager
def standing_still() -> Iterator[None]:
    """Stop the clock for all threads, as time limits count only work. Only one thread may do so at a time."""
    global _state  # noqa: PLW0603 -- the clock of the process
    begin, stood = time.perf_counter(), _state[1]
    _state = (begin, stood)
    try:
        yield
    finally:
        _state = (None, stood + time.perf_counter() - begin)


@dataclass(frozen=True)
class Progress:
    """The argument of a callback, which returns True to stop the run.

    During the first search on a generator, while ``auto`` learns its confidence, reports repeat unchanged.

    Attributes:
        method: the name of the method.
        nit: iterations so far (layer-wise methods: iterations on the current observation).
        done, total: the number of finished observations, and the number of all observations.
        z: the codes so far, ``(B, *latent_shape)``; NaN where there is none yet. It is a copy.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> unrelu.invert(net, [1.0, 0.0, 0.5], "lm", callback=lambda progress: progress.nit >= 1).status.name
    'STOPPED'
    """

    method: str
    nit: int
    done: int
    total: int
    z: Array


@dataclass(frozen=True, eq=False)
class Control:
    """The limits of one run: a time limit, whose clock starts when the object is made, and a callback."""

    time_limit: float = math.inf
    callback: Callable[[Progress], Any] | None = None
    _start: float = field(default_factory=now)
    # How the callback ended the run: None for a stop, or the error that it raised. All parts of a run share this list.
    _ended: list[BaseException | None] = field(default_factory=list)

    @classmethod
    def of(
        cls, time_limit: float | None, callback: Callable[[Progress], Any] | None, latent_shape: tuple[int, ...]
    ) -> Control:
        """Make the control from a front door's arguments. The callback gets codes of this shape, not flat ones.

        Raises:
            InputError: the time limit is not above 0.
            OptionError: the time limit is not a number, or the callback cannot be called.
        """
        given = math.inf if time_limit is None else time_limit
        seconds = real_number("time_limit", given, "a number of seconds or None")
        if not seconds > 0:
            raise InputError(f"time_limit={seconds:g} must be above 0 seconds")
        if callback is None:
            return cls(seconds)
        if not callable(callback):
            raise OptionError(f"callback={callback!r} is not callable")
        return cls(seconds, lambda progress: callback(replace(progress, z=progress.z.reshape(-1, *latent_shape))))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the callback, since most callbacks cannot be pickled."""
        return {**self.__dict__, "callback": None, "_ended": [None] * self.halted}

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return now() - self._start

    def remaining(self) -> float:
        """Return the seconds left, at least 0."""
        return max(0.0, self.time_limit - self.elapsed())

    def expired(self) -> bool:
        """Check whether the time limit is reached."""
        return self.elapsed() >= self.time_limit

    @property
    def halted(self) -> bool:
        """Whether the callback has asked to stop."""
        return None in self._ended

    def stopped(self, progress: Callable[[], Progress]) -> bool:
        """Report to the callback, if any, and return whether to stop. Do not call the callback again after a stop."""
        if self.callback is None or self.halted:
            return self.halted
        try:
            with flush_subnormals(False):
                if self.callback(progress()):
                    self._ended.append(None)
        except BaseException as error:
            self._ended.append(error)
            raise
        return self.halted

    def raised(self, error: BaseException) -> bool:
        """Check whether the callback raised this error. Then it is the caller's error, not the method's."""
        return any(error is known for known in self._ended)

    def part(self, report: Callable[[Progress], Progress]) -> Control:
        """Make a control for a part of the run, with the remaining time. ``report`` converts its progress."""
        reporting = (lambda progress: self.stopped(lambda: report(progress))) if self.callback else None
        return Control(self.remaining(), reporting, _ended=self._ended)
