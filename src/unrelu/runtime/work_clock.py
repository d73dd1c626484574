"""A clock that stands still while kernels are compiled, since time limits count only the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

# The time when the clock was stopped, if it stands still, and the seconds for which it stood still before. Other
# threads read both at once, so the clock never goes back.
_state: tuple[float | None, float] = (None, 0.0)


def now() -> float:
    """Return the seconds since an arbitrary origin."""
    stopped_at, stood = _state
    return (time.perf_counter() if stopped_at is None else stopped_at) - stood


@contextmanager
def standing_still() -> Iterator[None]:
    """Stop the clock for all threads. The caller ensures that only one thread does so at a time."""
    global _state  # noqa: PLW0603 -- the clock of the process
    begin, stood = time.perf_counter(), _state[1]
    _state = (begin, stood)
    try:
        yield
    finally:
        _state = (None, stood + time.perf_counter() - begin)
