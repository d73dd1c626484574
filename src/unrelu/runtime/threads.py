"""One thread for small linear algebra.

Inverting a network is a long row of small factorisations and convolutions. Splitting one of them over the cores gains
nothing, and the threads' waiting for each other makes it far slower when another process wants a core. What can be
worked on side by side is observations, not matrices: :func:`in_threads`. :mod:`unrelu.runtime.host` sets the limits.
"""

from __future__ import annotations

import os
import threading
from collections import abc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TypeVar

from unrelu.runtime.host import computing, on_one_thread

_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use; 1 within :func:`on_one_core`."""
    if _alone.get():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def on_one_core() -> Iterator[None]:
    """Work on observations one after the other: the other cores have workers of their own."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> abc.Generator[Result, None, None]:
    """``work`` of every item, in order, on so many threads, each with the caller's context variables and thread limits.

    Items are begun as threads become free. Where the caller stops iterating, the rest is not begun, and
    :func:`abandoned` tells work that has begun.
    """
    if threads <= 1 or len(items) <= 1:
        yield from map(work, items)
        return
    stop, limited = threading.Event(), on_one_thread()

    def run(item: Item) -> Result:
        _stop.set(stop)
        with computing(limited):
            return work(item)

    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        futures = [pool.submit(copy_context().run, run, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def abandoned() -> bool:
    """Whether nobody waits any more for what this thread computes: the caller was interrupted or has stopped."""
    stop = _stop.get()
    return stop is not None and stop.is_set()
