"""What is set up around our own computation, whatever the process, the thread and the user's settings of PyTorch.

:func:`computing` is entered by every public function that computes, and is the only place that does this.

Inverting a network is a long row of small factorisations and convolutions. Splitting one of them over the cores gains
nothing, and the threads' waiting for each other makes it far slower when another process wants a core: linear algebra
has one thread. What can be worked on side by side is observations, not matrices: :func:`in_threads`.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter, abc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import Any, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401 -- its BLAS is to be loaded before the libraries are looked up
import torch
from threadpoolctl import ThreadpoolController

from unrelu.errors import HostError

# NumPy's own settings: where a user has floating-point errors raised, an overflow that is looked for is none.
_ERRORS: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
# How PyTorch begins to say that a forked process cannot go on with what its parent had begun.
_OF_THE_PARENT = ("Cannot re-initialize CUDA in forked subprocess", "Unable to handle autograd's threading")

_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        if (one_thread or os.getpid() != _first_process) and not is_on_one_thread():
            stack.enter_context(_limited())
        try:
            yield
        except RuntimeError as error:
            if not str(error).startswith(_OF_THE_PARENT):
                raise
            raise HostError(
                f"PyTorch cannot compute this in a forked process, as its parent has used the GPU ({error}); start "
                "processes with multiprocessing's 'spawn' or 'forkserver'"
            ) from error


def forkable_lock() -> threading.RLock:
    """A lock that whoever forks waits for: a child would inherit it locked, and half of what it guards."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def is_on_one_thread() -> bool:
    """Whether this thread is within :func:`computing` on one thread."""
    return _one_thread.holds_here()


# --- work side by side ------------------------------------------------------------------------------------------------


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
    stop, limited = threading.Event(), is_on_one_thread()

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


# --- settings of the process ------------------------------------------------------------------------------------------


class Shared:
    """A setting of the whole process for calls that overlap: the first makes it, the last takes it back.

    A forked process has one thread, whichever others were inside.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting, self._lock = setting, forkable_lock()
        self._made, self._value = ExitStack(), None
        self._calls: Counter[int] = Counter()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def holds_here(self) -> bool:
        """Whether this thread is inside."""
        return threading.get_ident() in self._calls

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        """The setting; what its context gave the first call."""
        me = threading.get_ident()
        try:
            with self._lock:
                first = not self._calls
                self._calls[me] += 1  # before the setting is made: whatever interrupts that, it is taken back
                if first:
                    self._value = self._made.enter_context(self._setting())
            yield self._value
        finally:
            with self._lock:
                self._calls[me] -= 1
                self._leave()

    def _leave(self) -> None:
        self._calls = +self._calls
        if not self._calls:
            self._made.close()

    def _after_fork(self) -> None:
        me = threading.get_ident()
        self._calls = Counter({me: self._calls[me]})
        self._leave()


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Every BLAS, and PyTorch's number for the process, on one thread; gives what PyTorch's was before."""
    before = _torch_threads()
    libraries = _libraries().select(user_api="blas").lib_controllers
    counts = [library.num_threads for library in libraries]
    try:
        for library in libraries:
            _set_threads(library, 1)
        torch.set_num_threads(1)
        yield before
    finally:
        for library, count in zip(libraries, counts, strict=True):
            _set_threads(library, count)
        torch.set_num_threads(before)


@contextmanager
def _limited() -> Iterator[None]:
    """One thread for this thread and those that it starts.

    OpenMP has a number of threads for each thread that calls it. PyTorch has one for the process, which MKL goes by and
    new threads begin with, and sets OpenMP's of the calling thread along with it.
    """
    own = process = torch.get_num_threads()
    # Those that follow PyTorch; another, as that of scikit-learn, has a number of its own.
    openmp = _libraries().select(user_api="openmp").lib_controllers
    followers = [library for library in openmp if library.num_threads == own]
    try:
        with _one_thread() as process:
            torch.set_num_threads(1)
            yield
    finally:
        # A thread that called PyTorch for the first time within another's limits was told 1.
        for library in followers:
            library.set_num_threads(own if own > 1 else process)


def _set_threads(library: Any, count: int) -> None:
    """Set a BLAS's number of threads, whichever thread did so before."""
    # threadpoolctl lets one thread alone change OpenBLAS, silently, until it is told that this one is done.
    free = getattr(library, "clear_controlling_thread", lambda force: None)
    free(force=True)
    library.set_num_threads(count)
    free(force=True)


def _creates_on_cpu() -> bool:
    try:
        return torch.empty(0).device.type == "cpu"  # in a third of the time of get_default_device
    except RuntimeError:  # a GPU that a forked process cannot use
        return False


def _began_as_fork() -> bool:
    """Whether this process is a fork of one that may not have imported this module."""
    process = multiprocessing.current_process()
    method = getattr(process, "_start_method", None) or multiprocessing.get_start_method(allow_none=True)
    return multiprocessing.parent_process() is not None and method == "fork"


def _torch_threads() -> int:
    """PyTorch's number of threads for the process: that of the main thread, and what new threads are told."""
    if threading.current_thread() is threading.main_thread():
        return torch.get_num_threads()
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


_one_thread = Shared(_one_thread_each)
# No process of that number is a fork of another.
_first_process = 0 if _began_as_fork() else os.getpid()
