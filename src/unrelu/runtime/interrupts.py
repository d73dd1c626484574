"""Handling of Ctrl-C, from the signal to the last worker, and processes that end with their parent.

This happens on Ctrl-C in ``unrelu run``, and on SIGTERM, which batch systems send:

1. :func:`interruptible` prints that the run is stopping and sets an event. The callback of the run then returns True.
2. No further chunk is begun. Those under way are finished and recorded. Local workers ignore both signals, which
   terminals and batch systems send to all processes; they are started within :func:`without_interrupts`.
3. The run returns unfinished, and the command ends with status 130. The same command continues the run.
4. A second Ctrl-C raises KeyboardInterrupt instead. :func:`fresh_processes` kills the workers. Recorded chunks are
   kept, the others are computed again.

In Python, :func:`stoppable` lets ``unrelu.posterior`` return the draws so far, and ``unrelu.run`` finish its chunks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing import resource_tracker
from typing import Any

# The signals that stop a run in an orderly way: Ctrl-C, and the signal of batch systems.
STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _handled(signals: tuple[int, ...], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Install a handler for signals until the end of the context."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def interruptible(
    first: str, second: str = "", signals: tuple[int, ...] = (signal.SIGINT,)
) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, to stop the work in order; a second one is a KeyboardInterrupt.

    Args:
        first: the message on standard error after the first Ctrl-C; no message if empty.
        second: the message after the second one.
        signals: the signals to handle in this way.
    """
    interrupted, pressed = threading.Event(), 0

    def interrupt(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed += 1  # first of all, as the next signal may arrive within this handler
        again = pressed > 1
        if said := second if again else first:  # not through Python's buffers, which the interrupted code may be using
            with suppress(OSError):
                os.write(2, f"{said}\n".encode())
        if again:
            raise KeyboardInterrupt
        interrupted.set()

    with _handled(signals, interrupt):
        yield interrupted


def stoppable(first: str) -> AbstractContextManager[threading.Event]:
    """Enter :func:`interruptible`, unless Ctrl-C raises nothing here; then the event is never set.

    Ctrl-C raises nothing outside the main thread, and where another handler is installed.
    """
    handled = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    elsewhere = threading.current_thread() is not threading.main_thread()
    return nullcontext(threading.Event()) if handled or elsewhere else interruptible(first)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the end of the context. Only the main thread ever receives it.

    Ctrl-C during an import leaves parts of a package behind. NumPy, PyTorch and Numba are then broken for good.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    pressed = threading.Event()
    with _handled((signal.SIGINT,), lambda number, frame: pressed.set()):
        yield
    if pressed.is_set():
        signal.raise_signal(signal.SIGINT)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Block both signals until the end of the context, if the system can; processes started in it block them for good.

    Otherwise the signals would kill a process that is just starting.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first process starts it, which unblocks signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def fresh_processes(
    workers: int, begin: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of new processes with one thread each. They end at once if this process fails or is interrupted.

    Args:
        workers: number of processes.
        begin: function that every process runs first, if any.
        arguments: arguments of ``begin``, pickled for each process. They have to fit into a pipe (64 KiB): if a process
            dies before it has read more than that, this process waits forever.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (begin, *arguments))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()  # as they ignore SIGTERM
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(begin: Callable[..., None] | None, *arguments: Any) -> None:
    """Set up a new process: ignore Ctrl-C and SIGTERM, end when the parent has died, and compute on one thread."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch  # noqa: PLC0415 -- commands set up Ctrl-C before anything heavy is imported
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    torch.set_num_threads(1)
    threadpool_limits(1)
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent has died. Otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
