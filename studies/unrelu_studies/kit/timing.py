"""Measuring time without company: one thread for all libraries, or one core for the process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


def timed(call: Callable[[], Result], clock: Callable[[], float] = time.perf_counter) -> tuple[Result, float]:
    """What a call gives, and its seconds."""
    begin = clock()
    result = call()
    return result, clock() - begin


def processor_seconds() -> float:
    """Of this process and of its children that have ended: other work on the machine does not count."""
    return sum(os.times()[:4])


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and OpenMP libraries that are loaded by now on one thread; as they were before afterwards."""
    with threadpool_limits(limits=1):
        yield


@contextmanager
def one_core() -> Iterator[None]:
    """:func:`one_thread`, and this process on one core where the system can do that: nothing runs side by side."""
    if not hasattr(os, "sched_setaffinity"):
        with one_thread():
            yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        with one_thread():
            yield
    finally:
        os.sched_setaffinity(0, before)
