"""The settings of process and thread for the library's computations, whatever the user's own settings are.

Every public function that computes enters :func:`computing`, the only place that makes these settings.

Inverting a network is a long sequence of small factorisations and convolutions. Splitting one of them over the cores
gains nothing. It is far slower when another process needs a core, because the threads wait for each other. So linear
algebra runs on one thread, and :func:`in_threads` processes observations in parallel instead of matrices.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import Counter, abc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import Any, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401 -- its BLAS must be loaded before the libraries are looked up
import torch
from threadpoolctl import ThreadpoolController

from unrelu.errors import HostError

_FORKED = (
    "PyTorch cannot compute this in a forked process, as its parent has used the GPU ({}); start processes with "
    "multiprocessing's 'spawn' or 'forkserver'"
)
# Parts of PyTorch's messages, with their meaning and advice.
_REFUSALS = {
    "Cannot re-initialize CUDA in forked subprocess": _FORKED,
    "Unable to handle autograd's threading": _FORKED,
    "can't allocate memory": "the memory of this machine is too small ({}); invert fewer observations at once",
    "out of memory": "the memory of the device is full ({}); invert fewer observations at once, or on the CPU",
}
# OpenMP's omp_pause_hard: free all resources.
_HARD = 2

_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def computing(one_thread: bool = False) -> Iterator[None]:
    """Make the settings for the library's computations, as a context or a decorator, and restore them afterwards.

    For the calling thread: no autocast, no inference mode, gradients allowed, the CPU as default device, NumPy's
    floating-point errors not raised, subnormal numbers flushed to zero. The whole process shares the default dtype, so
    the library's code always states a dtype. For the process: products in single precision keep all their digits.

    A forked process always uses one thread for linear algebra. Its copy of OpenMP's pool has none of the parent's
    threads and would wait for them forever.

    Args:
        one_thread: run BLAS and PyTorch on one thread.

    Raises:
        HostError: PyTorch cannot compute this in a forked process, or the memory is full.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            stack.enter_context(torch.inference_mode(False))  # with gradients
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if not _creates_on_cpu():
            stack.enter_context(torch.device("cpu"))
        if (one_thread or _forked.is_set()) and not is_on_one_thread():
            stack.enter_context(_limited())
        if torch.cuda.is_initialized() or torch.get_float32_matmul_precision() != "highest":  # type: ignore[no-untyped-call]
            stack.enter_context(_full_precision())
        stack.enter_context(flush_subnormals())
        try:
            yield
        except RuntimeError as error:
            for said, meaning in _REFUSALS.items():
                if said in str(error):
                    raise HostError(meaning.format(str(error).splitlines()[0])) from error
            raise


def _creates_on_cpu() -> bool:
    try:
        return torch.empty(0).device.type == "cpu"  # three times as fast as get_default_device
    except RuntimeError:  # a GPU that a forked process cannot use
        return False


@contextmanager
def flush_subnormals(flush: bool = True) -> Iterator[None]:
    """Set whether this thread flushes subnormal numbers to zero: below 2^-126 in single, 2^-1022 in double precision.

    PyTorch's convolutions take up to twenty times as long if numbers are subnormal. ``flush=False`` keeps subnormal
    numbers, for bounds with outward rounding and for exact changes of units. Some processors cannot flush them. The
    mode holds for this thread and the pool of threads that PyTorch's operations use here.
    """
    if (sys.float_info.min * 0.5 == 0.0) == flush:  # PyTorch cannot be asked
        yield
        return
    # Threads of GCC's OpenMP keep the mode of their start, so they are ended. LLVM's and Intel's get the new mode.
    pools = _libraries().select(prefix="libgomp").lib_controllers if torch.get_num_threads() > 1 else []

    def switch(to: bool) -> None:
        torch.set_flush_denormal(to)
        for pool in pools:
            pool.dynlib.omp_pause_resource_all(_HARD)

    try:
        switch(flush)
        yield
    finally:
        switch(not flush)


def is_on_one_thread() -> bool:
    """Check whether this thread is within :func:`computing` on one thread."""
    return _one_thread.holds_here()


# --- work in parallel -------------------------------------------------------------------------------------------------


def cores() -> int:
    """Return the number of cores that this process may use; 1 within :func:`on_one_core`."""
    if _alone.get():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def on_one_core() -> Iterator[None]:
    """Process observations one after the other, because the other cores have workers of their own."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> abc.Generator[Result, None, None]:
    """Yield ``work(item)`` for all items in order, computed in ``threads`` threads.

    The threads have the caller's context variables and thread limits. If the caller stops iterating, no further item
    is started, and :func:`abandoned` becomes true in the running threads.
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
    """Check whether the caller was interrupted or stopped iterating, and needs no result of this thread."""
    stop = _stop.get()
    return stop is not None and stop.is_set()


# --- settings of the process ------------------------------------------------------------------------------------------


def forkable_lock() -> threading.RLock:
    """Make a lock that is held during a fork. Otherwise a child could inherit it locked, with a half-made change."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


class Shared:
    """A process-wide setting that overlapping calls share. The first call makes it, the last one restores it.

    A forked process keeps only the calls of its one thread.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting, self._lock = setting, forkable_lock()
        self._made, self._value = ExitStack(), None
        self._calls: Counter[int] = Counter()  # by thread
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: self._leave({threading.get_ident()}))

    def holds_here(self) -> bool:
        """Check whether this thread is inside the setting."""
        return threading.get_ident() in self._calls

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        """Enter the setting; yield the value of its context."""
        me = threading.get_ident()
        try:
            with self._lock:
                first = not self._calls
                self._calls[me] += 1  # counted before the setting is made, so that it is restored after an interrupt
                if first:
                    self._value = self._made.enter_context(self._setting())
            yield self._value
        finally:
            with self._lock:
                self._calls[me] -= 1
                self._leave(self._calls.keys())

    def _leave(self, threads: abc.Set[int]) -> None:
        """Keep only the calls of these threads, and restore the setting if no call is left."""
        self._calls = +Counter({thread: self._calls[thread] for thread in threads})
        if not self._calls:
            self._made.close()


@contextmanager
def _limited() -> Iterator[None]:
    """Run the linear algebra of this thread on one thread.

    PyTorch keeps a thread count for each calling thread, and one for the process, which new threads inherit.
    """
    own = torch.get_num_threads()
    with _one_thread() as process:
        try:
            torch.set_num_threads(1)
            yield
        finally:
            # A thread that first calls PyTorch while another thread is limited starts with a count of 1.
            torch.set_num_threads(own if own > 1 else process)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Run every BLAS of this process on one thread; yield PyTorch's previous number of threads."""
    before = torch.get_num_threads()
    libraries = _libraries().select(user_api="blas").lib_controllers
    counts = [library.num_threads for library in libraries]
    try:
        for library in libraries:
            _set_threads(library, 1)
        yield before
    finally:
        for library, count in zip(libraries, counts, strict=True):
            _set_threads(library, count)
        torch.set_num_threads(before)


def _set_threads(library: Any, count: int) -> None:
    """Set the number of threads of a BLAS. threadpoolctl alone refuses this while another thread controls the BLAS."""
    free = getattr(library, "clear_controlling_thread", lambda force: None)
    free(force=True)
    library.set_num_threads(count)
    free(force=True)


@contextmanager
def _single_precision() -> Iterator[None]:
    """Switch TensorFloat-32 and bfloat16 off: they keep 10 or 7 binary digits, and searches need all 23."""
    libraries: Any = torch.backends
    kinds = (libraries.cuda.matmul, libraries.cudnn.conv, libraries.cudnn.rnn, libraries.mkldnn.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@cache
def _libraries() -> ThreadpoolController:
    """Look up the BLAS and OpenMP libraries of this process, once."""
    return ThreadpoolController()


_one_thread, _full_precision = Shared(_one_thread_each), Shared(_single_precision)
# Whether this process was forked, possibly before this module was imported.
_forked = threading.Event()
if multiprocessing.parent_process() is not None and multiprocessing.get_start_method() == "fork":
    _forked.set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked.set)
