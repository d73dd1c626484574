"""Worker processes that end when they should: a pool on fresh interpreters, and interrupts."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def fresh_processes(
    workers: int, pinned: bool = False, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes of one thread each; where this one fails or is interrupted, they end at once.

    Args:
        workers: how many.
        pinned: each on a core of its own, for timings. Two pools would get the same cores.
        begin: run first in each, with ``arguments``.
        arguments: pickled for each of them. Small: where a process dies before it has read more than a pipe holds, 64
            KiB, this one would wait for it for ever.
    """
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, _begin, (context.Value("i", 0), pinned, begin, arguments))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the end, and for good in processes that are started here, where the system can.

    A process that starts up would die of a Ctrl-C that is meant for the one that starts it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first process starts it, and lets signals through again after that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(begun: Any, pinned: bool, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """In a fresh process: one thread, leave Ctrl-C to the parent, and end when it has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if pinned and hasattr(os, "sched_setaffinity"):
        with begun.get_lock():
            place, begun.value = begun.value, begun.value + 1
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[place % len(mine)]})
    torch.set_num_threads(1)
    threadpool_limits(1)
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """A process of a pool waits for work for ever, also when nobody is left to send any."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
