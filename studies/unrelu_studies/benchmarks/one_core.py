"""Measuring without company: one thread for all libraries, or one core for the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


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
