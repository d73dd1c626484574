"""Ctrl-C, from the signal to the last worker, and processes that end when they should.

What happens on Ctrl-C in ``unrelu run``; SIGTERM, which batch systems send, does the same:

1. :func:`interruptible` says that the run is stopping and sets an event. Whoever has started the work asks for it: the
   callback of a run returns True, and ``runs.running`` sets the event of the engine.
2. The engine (``runs.local_workers``, ``runs.cluster``) hands out no further chunk and waits for those that it has
   handed out, which are recorded as all others. Workers never see the signal: they are started within
   :func:`without_interrupts`, and ignore it from then on.
3. The run returns unfinished, and the command ends with status 130. The same command again goes on.
4. A second Ctrl-C raises KeyboardInterrupt instead. :func:`fresh_processes` terminates the workers; chunks that were
   recorded are kept, the others are computed again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any


@contextmanager
def interruptible(
    told: str, at_once: str = "", signals: tuple[int, ...] = (signal.SIGINT,)
) -> Iterator[threading.Event]:
    """Whether Ctrl-C was pressed: the first one is noted, so that work can stop in order; the second ends at once.

    Args:
        told: said on standard error after the first one; nothing if empty.
        at_once: said after the second one.
        signals: that are treated like Ctrl-C.
    """
    interrupted = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        if interrupted.is_set():
            _say(at_once)
            ending = before[number]
            if callable(ending):
                ending(number, frame)
            raise KeyboardInterrupt
        interrupted.set()
        _say(told)

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """A line from a signal's handler, past Python's buffers, which the code that was interrupted may be writing to."""
    if text:
        with suppress(OSError):
            os.write(2, f"{text}\n".encode())


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


@contextmanager
def fresh_processes(workers: int, begin: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes of one thread each; where this one fails or is interrupted, they end at once.

    Args:
        workers: how many.
        begin: run first in each.
        arguments: of ``begin``, pickled for each process. Small: where a process dies before it has read more than a
            pipe holds, 64 KiB, this one would wait for it for ever.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (begin, *arguments))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[..., None], *arguments: Any) -> None:
    """In a fresh process: leave Ctrl-C to the parent, end when it has died, and compute on one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch  # noqa: PLC0415 -- commands set up Ctrl-C before anything heavy is imported
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.set_num_threads(1)
    threadpool_limits(1)
    begin(*arguments)


def _end_with_parent() -> None:
    """A process of a pool waits for work for ever, also when nobody is left to send any."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
