"""A clock that stands still while kernels are compiled, since time limits are for the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# When the clock was stopped, if it stands still, and the seconds that it has stood still before.
_stopped_at: float | None = None
_stood = 0.0


def now() -> float:
    """Seconds from an arbitrary origin."""
    at = _stopped_at
    return (time.perf_counter() if at is None else at) - _stood


@contextmanager
def standing_still() -> Iterator[None]:
    """Stop the clock, for all threads. The caller sees to it that one thread does so at a time."""
    global _stopped_at, _stood  # noqa: PLW0603 -- the clock of the process
    _stopped_at = time.perf_counter()
    try:
        yield
    finally:
        _stood += time.perf_counter() - _stopped_at
        _stopped_at = None
