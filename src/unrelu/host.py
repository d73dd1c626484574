"""What is set up around our own computation, whatever the process, the thread and the user's settings of PyTorch.

:func:`computing` is entered by every public function that computes, and is the only place that does this.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from unrelu.errors import HostError

__all__ = ["computing", "on_one_thread"]

# NumPy's own settings: where a user has floating-point errors raised, an overflow that is looked for is none.
_ERRORS: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# How PyTorch begins to say that a forked process cannot go on with what its parent had begun.
_OF_THE_PARENT = ("Cannot re-initialize CUDA in forked subprocess", "Unable to handle autograd's threading")


@contextmanager
def computing(one_thread: bool = False) -> Iterator[None]:
    """The settings under which we compute, as a context or a decorator; all are restored after.

    Of the calling thread: no autocast, no inference mode and derivatives allowed, the CPU as default device, NumPy's
    floating-point errors not raised. The default dtype is the process's, so our code states its own everywhere.

    In a forked process there is always one thread for linear algebra: the copy of OpenMP's pool has none of the
    parent's threads, and waits for them for ever.

    Args:
        one_thread: run BLAS and PyTorch on one thread.

    Raises:
        HostError: PyTorch cannot compute this in a forked process.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if not _creates_on_cpu():
            stack.enter_context(torch.device("cpu"))
        if "raise" in np.geterr().values():
            stack.enter_context(np.errstate(**_ERRORS))
        if (one_thread or _threads.forked) and not on_one_thread():
            stack.enter_context(_threads.limited())
        try:
            yield
        except RuntimeError as error:
            if not str(error).startswith(_OF_THE_PARENT):
                raise
            raise HostError(
                f"PyTorch cannot compute this in a forked process, as its parent has used the GPU ({error}); start "
                "processes with multiprocessing's 'spawn' or 'forkserver'"
            ) from error


def on_one_thread() -> bool:
    """Whether this thread is within :func:`computing` on one thread."""
    return threading.get_ident() in _threads.before


def _creates_on_cpu() -> bool:
    try:
        return torch.get_default_device().type == "cpu"
    except RuntimeError:  # a GPU that a forked process cannot use
        return False


class _OneThread:
    """BLAS and PyTorch on one thread, in calls that overlap: the first saves their numbers, the last restores them.

    OpenMP has a number of threads for each thread that calls it. PyTorch has one for the process, which MKL goes by and
    new threads begin with, and sets OpenMP's of the calling thread along with it. OpenBLAS has one for the process.

    Attributes:
        forked: whether this process was forked and may have a pool without threads.
        before: of each thread that is inside, OpenMP's number.
    """

    def __init__(self) -> None:
        self.forked = _began_as_fork()
        self.before: dict[int, int] = {}
        self._lock = threading.Lock()
        self._torch, self._blas = 1, ExitStack()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """One thread for this thread, and for those that it starts."""
        try:
            with self._lock:
                self._begin()
            yield
        finally:
            with self._lock:
                self._end()

    def _begin(self) -> None:
        first = not self.before
        if first:
            self._torch = _torch_threads()
        own = torch.get_num_threads()
        # A thread that calls PyTorch for the first time within another's limits is told 1.
        self.before[threading.get_ident()] = own if first or own > 1 else self._torch
        if first:
            self._blas.enter_context(_libraries().limit(limits=1, user_api="blas"))
        torch.set_num_threads(1)

    def _end(self) -> None:
        own = self.before.pop(threading.get_ident(), None)
        if own is None:  # interrupted before it began
            return
        if not self.before:
            self._restore()
        for library in _libraries().select(user_api="openmp").lib_controllers:
            library.set_num_threads(own)

    def _restore(self) -> None:
        self._blas.close()
        torch.set_num_threads(self._torch)

    def after_fork(self) -> None:
        """In a forked process there is one thread, whichever others were inside, or had the lock."""
        self.forked, self._lock = True, threading.Lock()
        inside = {thread: own for thread, own in self.before.items() if thread == threading.get_ident()}
        if self.before and not inside:
            self._restore()
        self.before = inside


def _began_as_fork() -> bool:
    """Whether this process is a fork of one that may not have imported this module."""
    process = multiprocessing.current_process()
    method = getattr(process, "_start_method", None) or multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.parent_process() is not None and method == "fork"


def _torch_threads() -> int:
    """PyTorch's number of threads for the process, which a new thread is told; others may have their own."""
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down
        return torch.get_num_threads()
    thread.join()
    return told[0]


@cache
def _libraries() -> ThreadpoolController:
    """The BLAS and OpenMP libraries loaded in this process, looked up once."""
    return ThreadpoolController()


_threads = _OneThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork)
